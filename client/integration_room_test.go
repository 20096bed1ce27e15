package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"conclave/client"
	"conclave/client/wire"
)

func TestRoom_computes_on_a_real_cluster(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	r := s.join("room", 0)
	type object = map[string]any
	for _, step := range []struct {
		name string
		call func() (*client.Computed, error)
		want string
	}{
		{"update creates", func() (*client.Computed, error) { return r.Update(ctx, "a", []int{1}) }, `[1]`},
		{"update concatenates", func() (*client.Computed, error) { return r.Update(ctx, "a", []int{2}) }, `[1,2]`},
		{"append", func() (*client.Computed, error) { return r.Append(ctx, "a", []int{2, 3}) }, `[1,2,2,3]`},
		{"append unique", func() (*client.Computed, error) { return r.Append(ctx, "a", []int{3, 4}, client.Unique()) }, `[1,2,2,3,4]`},
		{"append nothing", func() (*client.Computed, error) { return r.Append(ctx, "a", []int(nil)) }, `[1,2,2,3,4]`},
		{"remove", func() (*client.Computed, error) { return r.Remove(ctx, "a", []float64{2}) }, `[1,3,4]`},
		{"add creates", func() (*client.Computed, error) { return r.Add(ctx, "n", 2) }, `2`},
		{"add is exact", func() (*client.Computed, error) { return r.Add(ctx, "n", json.Number("0.1")) }, `2.1`},
		{"update merges", func() (*client.Computed, error) { return r.Update(ctx, "o", object{"x": object{"y": 1}}) }, `{"x":{"y":1}}`},
		{"merge patch", func() (*client.Computed, error) { return r.MergePatch(ctx, "o", object{"x": object{"y": nil, "z": 2}}) }, `{"x":{"z":2}}`},
		{"json patch", func() (*client.Computed, error) {
			return r.JSONPatch(ctx, "o", []object{{"op": "test", "path": "/x/z", "value": 2}, {"op": "add", "path": "/w", "value": nil}})
		}, `{"x":{"z":2},"w":null}`},
	} {
		got, err := step.call()
		if err != nil || string(got.Value) != step.want {
			t.Fatalf("%s: %+v, %v; want %s", step.name, got, err, step.want)
		}
	}
	if _, err := r.Add(ctx, "a", 1); !client.HasCode(err, wire.WrongType) {
		t.Errorf("adding to an array: %v", err)
	}
	if _, err := r.Add(ctx, "n", "one"); !client.HasCode(err, wire.BadRequest) {
		t.Errorf("adding a text: %v", err)
	}
	if _, err := r.Put(ctx, "n", 1, client.Unique()); !client.HasCode(err, wire.BadRequest) {
		t.Errorf("an option that says nothing to put: %v", err)
	}
	if _, err := r.JSONPatch(ctx, "o", []object{{"op": "test", "path": "/w", "value": 1}}); !client.IsConflict(err) {
		t.Errorf("a test that fails: %v", err)
	}
	if _, err := r.Update(ctx, "o", object{}, client.IfVersion(1)); !client.IsConflict(err) {
		t.Errorf("a version that is not: %v", err)
	}
}

func TestRoom_writes_whole_stores_on_a_real_cluster(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	a, b := s.join("room", 0), s.join("room", 1)
	holds := func(want map[string]string) {
		t.Helper()
		page, err := b.List(ctx, client.ListParams{})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, e := range page.Entries {
			got[e.Key] = fmt.Sprintf("%s v%d", e.Value, e.Version)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the store (-want +got):\n%s", diff)
		}
	}
	if _, err := a.Merge(ctx, map[string]any{"p/1": 1, "p/2": 2, "q": 3}, []string{"absent"}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Merge(ctx, map[string]any{"q": 4}, []string{"p/2"}); err != nil {
		t.Fatal(err)
	}
	holds(map[string]string{"p/1": "1 v1", "q": "4 v2"})
	if _, err := a.Replace(ctx, map[string]any{"q": 4, "r": nil, "p/3": 1}); err != nil {
		t.Fatal(err)
	}
	holds(map[string]string{"q": "4 v2", "r": "null v1", "p/3": "1 v1"})

	lock, err := b.Lock(ctx, "p/3")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.DeletePrefix(ctx, "p/"); !client.IsLocked(err) {
		t.Errorf("a delete that touches a locked key: %v", err)
	}
	if d, err := b.DeletePrefix(ctx, "p/", client.Under(lock)); err != nil || !d.Existed {
		t.Errorf("the holder's delete: %+v, %v", d, err)
	}
	if d, err := b.DeletePrefix(ctx, "p/", client.Under(lock)); err != nil || d.Existed {
		t.Errorf("a delete of nothing: %+v, %v", d, err)
	}
	if _, err := a.Replace(ctx, nil); err != nil {
		t.Errorf("an empty store, though a key that is not there is locked: %v", err)
	}
	holds(map[string]string{})
}

// Every operation of a transaction has its result.
func TestRoom_Txn_takes_every_operation(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	r := s.join("room", 0)
	result, err := r.Txn(ctx, wire.Txn{Then: []wire.Op{
		client.MergeOp(map[string]any{"list": []int{1}, "gone": 1, "old/1": 1}),
		client.UpdateOp("list", []int{2}),
		client.AppendOp("list", []int{3}),
		client.RemoveOp("list", []int{1}),
		client.AddOp("n", 5),
		client.MergePatchOp("o", map[string]any{"x": 1}),
		client.JSONPatchOp("o", []map[string]any{{"op": "remove", "path": "/x"}}),
		client.DeletePrefixOp("old/"),
		client.DeleteOp("gone"),
	}})
	if err != nil || !result.Applied || len(result.Results) != 9 {
		t.Fatalf("%+v, %v", result, err)
	}
	for i, want := range map[int]string{1: `[1,2]`, 2: `[1,2,3]`, 3: `[2,3]`, 4: `5`, 5: `{"x":1}`, 6: `{}`} {
		if got := string(result.Results[i].Value); got != want {
			t.Errorf("operation %d made %s, want %s", i, got, want)
		}
	}
	page, err := r.List(ctx, client.ListParams{})
	if err != nil || len(page.Entries) != 3 {
		t.Errorf("the store holds %+v, %v", page, err)
	}
	replaced := client.ReplaceOp(map[string]any{"only": 1})
	if _, err := r.Txn(ctx, wire.Txn{Then: []wire.Op{replaced}}); err != nil {
		t.Fatal(err)
	}
	if page, err = r.List(ctx, client.ListParams{}); err != nil || len(page.Entries) != 1 {
		t.Errorf("the store holds %+v, %v", page, err)
	}
}

// Counters, lists and polls lose nothing though their connections break again and
// again: a request that is repeated is applied once.
func TestG9_writes_that_compute_are_applied_once_across_broken_connections(t *testing.T) {
	const peers, each = 3, 40
	s := startServers(t)
	ctx := patience(t)
	stop := make(chan struct{})
	var cutting, work sync.WaitGroup
	cutting.Go(func() {
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for i := 0; ; i++ {
			select {
			case <-ticker.C:
				s.nodes[i%3].proxy.cut()
			case <-stop:
				return
			}
		}
	})
	first := s.join("room")
	for p := range peers {
		r := s.join("room")
		work.Go(func() {
			for i := range each {
				if _, err := r.Add(ctx, "counter", 1); err != nil {
					t.Error(err)
				}
				if _, err := r.Append(ctx, "list", []int{p*each + i}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	close(stop)
	cutting.Wait()
	if n, _, err := client.GetAs[int](ctx, first, "counter"); err != nil || n != peers*each {
		t.Errorf("counted %d, %v; want %d", n, err, peers*each)
	}
	list, _, err := client.GetAs[[]int](ctx, first, "list")
	if err != nil || len(list) != peers*each {
		t.Errorf("%d items, %v; want %d", len(list), err, peers*each)
	}
	last := map[int]int{} // of each peer: they were appended in the order asked
	for _, item := range list {
		if p := item / each; item%each != last[p] {
			t.Fatalf("item %d of peer %d came in place of %d", item%each, p, last[p])
		}
		last[item/each]++
	}
}

func TestRoom_SetSelf_is_seen_by_others(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	a, b := s.join("room", 0), s.join("room", 1)
	name, ref := "Ada", "u1"
	if err := a.SetSelf(ctx, client.Self{Name: &name, Ref: &ref, Data: map[string]int{"hand": 1}}); err != nil {
		t.Fatal(err)
	}
	name = ""
	if err := a.SetSelf(ctx, client.Self{Name: &name}); err != nil {
		t.Fatal(err)
	}
	if p := peerOf(ctx, t, b, a.Peer()); p == nil || p.Name != "" || p.Ref != "u1" || string(p.Data) != `{"hand":1}` {
		t.Errorf("others see %+v", p)
	}
	h := s.http()
	name = "Eve"
	if err := h.SetPeer(ctx, "room", a.Peer(), client.PeerParams{Self: client.Self{Name: &name}, Role: &ref}); err != nil {
		t.Fatal(err)
	}
	if p := peerOf(ctx, t, b, a.Peer()); p == nil || p.Name != "Eve" || p.Role != "u1" || p.Ref != "u1" {
		t.Errorf("others see %+v", p)
	}
	if err := h.SetPeer(ctx, "room", "nobody", client.PeerParams{Self: client.Self{Name: &name}}); !client.IsNotFound(err) {
		t.Errorf("naming nobody: %v", err)
	}
}

// peerOf finds a peer in the list of a room, nil if it is not there.
func peerOf(ctx context.Context, t *testing.T, r *client.Room, peer string) *wire.Peer {
	t.Helper()
	peers, err := r.Peers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range peers {
		if peers[i].Peer == peer {
			return &peers[i]
		}
	}
	return nil
}
