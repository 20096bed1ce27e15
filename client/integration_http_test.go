package client_test

import (
	"slices"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

func TestHTTP_does_its_work_on_a_real_cluster(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	h := s.http()

	info, err := h.Info(ctx)
	if err != nil || info.V != 1 || info.Node == "" {
		t.Fatal(info, err)
	}
	if _, err := h.Room(ctx, "a/b"); !client.HasCode(err, wire.BadRequest) {
		t.Errorf("a room of a name that none can have: %v", err)
	}
	if _, err := h.Room(ctx, "room"); !client.HasCode(err, wire.NoSession) {
		t.Errorf("a room without a session: %v", err)
	}
	opened, err := h.OpenRoom(ctx, "room", client.OpenParams{Idle: time.Minute, Stores: map[string]map[string]any{"default": {"seed": 1}}})
	if err != nil || opened.Session == "" {
		t.Fatal(opened, err)
	}
	w, err := h.Put(ctx, "room", "a/b c", "x", client.WriteParams{IfAbsent: true})
	if err != nil || w.Version != 1 {
		t.Fatal(w, err)
	}
	e, err := h.Get(ctx, "room", "a/b c", client.ReadParams{})
	if err != nil || string(e.Value) != `"x"` || e.Rev != w.Rev {
		t.Errorf("read %+v, %v", e, err)
	}
	for name, p := range map[string]client.WriteParams{
		"rev": {IfRev: new(w.Rev - 1)}, "version": {IfVersion: new(uint64(7))}, "absent": {IfAbsent: true}, "rev 0": {IfRev: new(uint64(0))},
	} {
		if _, err := h.Put(ctx, "room", "a/b c", 2, p); !client.IsConflict(err) {
			t.Errorf("a put that expects another %s: %v", name, err)
		}
	}
	if _, err := h.Put(ctx, "room", "a/b c", 2, client.WriteParams{IfExists: true, RequestParams: client.RequestParams{Session: opened.Session}}); err != nil {
		t.Error(err)
	}
	once := client.WriteParams{RequestParams: client.RequestParams{IdempotencyKey: "the-only-one"}}
	one, err1 := h.Put(ctx, "room", "once", 1, once)
	two, err2 := h.Put(ctx, "room", "once", 1, once)
	if err1 != nil || err2 != nil || *one != *two {
		t.Errorf("twice under one key: %+v, %v; %+v, %v", one, err1, two, err2)
	}
	page, err := h.List(ctx, "room", client.ListParams{Limit: 2})
	if err != nil || len(page.Entries) != 2 || page.Next != "once" {
		t.Errorf("listed %+v, %v", page, err)
	}
	d, err := h.Delete(ctx, "room", "once", client.WriteParams{})
	if err != nil || !d.Existed {
		t.Errorf("deleted %+v, %v", d, err)
	}
	txn, err := h.Txn(ctx, "room", wire.Txn{Then: []wire.Op{client.PutOp("t", 1)}}, "", client.RequestParams{})
	if err != nil || !txn.Applied {
		t.Errorf("transaction %+v, %v", txn, err)
	}
	rooms, err := h.Rooms(ctx, "ro", "", 10)
	if err != nil || len(rooms.Rooms) != 1 || rooms.Rooms[0].Session != opened.Session {
		t.Errorf("rooms %+v, %v", rooms, err)
	}
	stores, err := h.Stores(ctx, "room")
	if err != nil || len(stores) != 1 || stores[0].Keys != 3 {
		t.Errorf("stores %+v, %v", stores, err)
	}
	s.join("room")
	peers, err := h.Peers(ctx, "room")
	if err != nil || len(peers) != 1 {
		t.Fatalf("peers %+v, %v", peers, err)
	}
	for _, key := range []string{"a", "b/1", "b/2"} {
		if _, err := h.Acquire(ctx, "room", key, client.LockParams{}); err != nil {
			t.Fatal(err)
		}
	}
	some, err := h.LocksPage(ctx, "room", "default/b/", client.PageParams{Limit: 1})
	if err != nil || len(some.Locks) != 1 || some.Locks[0].Key != "b/1" || some.Next == "" {
		t.Errorf("a page of the locks: %+v, %v", some, err)
	}
	some, err = h.LocksPage(ctx, "room", "default/b/", client.PageParams{Limit: 1, After: some.Next})
	if err != nil || len(some.Locks) != 1 || some.Locks[0].Key != "b/2" || some.Next != "" {
		t.Errorf("the last page of the locks: %+v, %v", some, err)
	}
	if locks, err := h.Locks(ctx, "room"); err != nil || len(locks) != 3 {
		t.Errorf("locks %+v, %v", locks, err)
	}
	if found, err := h.PeersPage(ctx, "room", client.PageParams{After: peers[0].Peer}); err != nil || len(found.Peers) != 0 {
		t.Errorf("peers after the last: %+v, %v", found, err)
	}
	var entries []string
	for e, err := range h.AllEntries(ctx, "room", client.ListParams{Limit: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e.Key)
	}
	if want := []string{"a/b c", "seed", "t"}; !slices.Equal(entries, want) {
		t.Errorf("entries %q, want %q", entries, want)
	}
	if err := h.RemovePeer(ctx, "room", peers[0].Peer); err != nil {
		t.Error(err)
	}
	if _, err := h.Room(ctx, "room"); !client.HasCode(err, wire.NoSession) {
		t.Errorf("the session that its last peer has left: %v", err)
	}
	if opened, err = h.OpenRoom(ctx, "room", client.OpenParams{}); err != nil {
		t.Fatal(err)
	}
	state, err := h.Cluster(ctx)
	if err != nil || len(state.Members) != 3 || state.Leader == nil {
		t.Errorf("cluster %+v, %v", state, err)
	}
	if err := h.Promote(ctx, "nobody", 0); !client.IsNotFound(err) {
		t.Errorf("promoting nobody: %v", err)
	}
	if err := h.EndRoom(ctx, "room", "s-other"); !client.IsSessionEnded(err) {
		t.Errorf("ending another session: %v", err)
	}
	if err := h.EndRoom(ctx, "room", opened.Session); err != nil {
		t.Error(err)
	}
}

func TestHTTP_locks_on_a_real_cluster(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	h := s.http()
	l, err := h.Lock(ctx, "room", "stage", client.LockParams{TTL: time.Minute, Open: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Lock(ctx, "room", "stage", client.LockParams{}); !client.IsLocked(err) {
		t.Errorf("a second holder: %v", err)
	}
	if _, err := h.Lock(ctx, "room", "stage", client.LockParams{Wait: time.Millisecond}); !client.HasCode(err, wire.LockTimeout) {
		t.Errorf("a wait that ran out: %v", err)
	}
	type granted struct {
		lock *client.Lock
		err  error
	}
	waiting := make(chan granted, 1)
	go func() {
		next, err := h.Lock(ctx, "room", "stage", client.LockParams{TTL: 3 * time.Second, Wait: time.Minute})
		waiting <- granted{next, err}
	}()
	eventually(t, "somebody waits", func() bool {
		state, err := h.LockState(ctx, "room", "", "stage")
		return err == nil && len(state.Queue) == 1
	})
	// The leader goes away, perhaps with the connection of the one who waits.
	leader := s.leader()
	s.stop(leader)
	s.leader()
	if _, err := l.Put(ctx, "mine"); err != nil {
		t.Fatalf("a write under the lock: %v", err)
	}
	if valid, err := h.Validate(ctx, "room", "", "stage", l.Fence()); err != nil || !valid {
		t.Errorf("valid %t, %v", valid, err)
	}
	if err := l.Unlock(ctx); err != nil {
		t.Errorf("unlock: %v", err)
	}
	next := <-waiting
	if next.err != nil || next.lock.Fence() <= l.Fence() {
		t.Fatalf("the next holder: %v", next.err)
	}
	if _, err := h.Put(ctx, "room", "stage", 1, client.WriteParams{Fence: l.Fence(), Owner: l.Owner()}); !client.IsStaleFence(err) {
		t.Errorf("a write with the old fence: %v", err)
	}
	if err := h.Break(ctx, "room", "", "stage"); err != nil {
		t.Errorf("break: %v", err)
	}
	<-next.lock.Done()
	if err := next.lock.Unlock(ctx); err == nil {
		t.Error("the broken lock could be unlocked")
	}
	s.start(leader)
}

// A stream over HTTP goes on behind its position on another server, without a gap
// or a double.
func TestG7_an_event_stream_moves_between_servers(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	h := s.http()
	if _, err := h.Put(ctx, "room", "n", 0, client.WriteParams{Open: time.Minute}); err != nil {
		t.Fatal(err)
	}
	events := h.Events("room", client.EventsParams{Keys: []string{"n"}})
	defer events.Close()
	u, err := events.Next(ctx)
	if err != nil || u.Snapshot == nil || u.Reset != "" || len(u.Snapshot.Stores["default"]) != 1 {
		t.Fatalf("began with %+v, %v", u, err)
	}
	for n := uint64(2); n <= 40; n++ {
		if _, err := h.Put(ctx, "room", "n", n, client.WriteParams{}); err != nil {
			t.Fatal(err)
		}
		if n%5 == 0 {
			for _, node := range s.nodes {
				node.proxy.cut()
			}
		}
		u, err := events.Next(ctx)
		if err != nil || u.Reset != "" || len(u.Events) != 1 || u.Events[0].Version != n {
			t.Fatalf("after version %d came %+v, %v", n-1, u, err)
		}
	}
	position := events.Position()
	events.Close()
	if _, err := h.Put(ctx, "room", "n", 41, client.WriteParams{}); err != nil {
		t.Fatal(err)
	}
	late := h.Events("room", client.EventsParams{Keys: []string{"n"}, After: position})
	defer late.Close()
	if u, err := late.Next(ctx); err != nil || u.Snapshot != nil || len(u.Events) != 1 || u.Events[0].Version != 41 {
		t.Errorf("resumed with %+v, %v", u, err)
	}
}

func TestHTTP_computes_on_a_real_cluster(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	h := s.http()
	type object = map[string]any
	p := client.WriteParams{Store: "s", Open: time.Minute}
	for _, step := range []struct {
		name string
		call func() (*client.Computed, error)
		want string
	}{
		{"update", func() (*client.Computed, error) { return h.Update(ctx, "room", "a", []int{1}, p) }, `[1]`},
		{"append", func() (*client.Computed, error) { return h.Append(ctx, "room", "a", []int{1, 2}, false, p) }, `[1,1,2]`},
		{"append unique", func() (*client.Computed, error) { return h.Append(ctx, "room", "a", []int{2, 3}, true, p) }, `[1,1,2,3]`},
		{"remove", func() (*client.Computed, error) { return h.Remove(ctx, "room", "a", []int{1}, p) }, `[2,3]`},
		{"add", func() (*client.Computed, error) { return h.Add(ctx, "room", "n", 0.5, p) }, `0.5`},
		{"merge patch", func() (*client.Computed, error) { return h.MergePatch(ctx, "room", "o", object{"x": 1, "y": nil}, p) }, `{"x":1}`},
		{"json patch", func() (*client.Computed, error) {
			return h.JSONPatch(ctx, "room", "o", []object{{"op": "move", "from": "/x", "path": "/z"}}, p)
		}, `{"z":1}`},
	} {
		got, err := step.call()
		if err != nil || string(got.Value) != step.want || got.Rev == 0 {
			t.Fatalf("%s: %+v, %v; want %s", step.name, got, err, step.want)
		}
	}
	conditional := p
	conditional.IfVersion = new(uint64(1))
	if _, err := h.Update(ctx, "room", "a", []int{9}, conditional); !client.IsConflict(err) {
		t.Errorf("a version that is not: %v", err)
	}
	once := p
	once.IdempotencyKey = "counted"
	for range 2 {
		if got, err := h.Add(ctx, "room", "n", 1, once); err != nil || string(got.Value) != "1.5" {
			t.Errorf("added under one key: %+v, %v", got, err)
		}
	}

	whole := client.StoreParams{Store: "s"}
	if rev, err := h.Merge(ctx, "room", object{"p/1": 1, "p/2": 2}, []string{"a", "n"}, whole); err != nil || rev == 0 {
		t.Error(rev, err)
	}
	if d, err := h.DeletePrefix(ctx, "room", "p/", whole); err != nil || !d.Existed || d.Rev == 0 {
		t.Errorf("deleted %+v, %v", d, err)
	}
	if page, err := h.List(ctx, "room", client.ListParams{ReadParams: client.ReadParams{Store: "s"}}); err != nil || len(page.Entries) != 1 {
		t.Errorf("the store holds %+v, %v", page, err)
	}
	if _, err := h.Replace(ctx, "room", object{"o": object{"z": 1}, "b": nil}, whole); err != nil {
		t.Error(err)
	}
	page, err := h.List(ctx, "room", client.ListParams{ReadParams: client.ReadParams{Store: "s"}})
	if err != nil || len(page.Entries) != 2 || string(page.Entries[0].Value) != "null" || page.Entries[1].Version != 2 {
		t.Errorf("the store holds %+v, %v", page, err)
	}

	// Locked keys take their fences, which a transaction can name.
	l, err := h.Lock(ctx, "room", "b", client.LockParams{Store: "s", Owner: "me", TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Replace(ctx, "room", nil, whole); !client.IsLocked(err) {
		t.Errorf("a replacement that touches a locked key: %v", err)
	}
	op := client.ReplaceOp(nil)
	op.Store, op.Fences = "s", map[string]uint64{"b": l.Fence()}
	if _, err := h.Txn(ctx, "room", wire.Txn{Then: []wire.Op{op}}, "me", client.RequestParams{}); err != nil {
		t.Errorf("the holder's replacement: %v", err)
	}
}
