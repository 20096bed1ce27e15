package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"conclave/client"
	"conclave/client/wire"
)

func TestRoom_does_its_work_on_a_real_cluster(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	a, b := s.join("room", 0), s.join("room", 1)

	first, err := a.Put(ctx, "pinned", "hello", client.IfAbsent())
	if err != nil || first.Version != 1 {
		t.Fatal(first, err)
	}
	if _, err := b.Put(ctx, "pinned", "mine", client.IfAbsent()); !client.IsConflict(err) {
		t.Errorf("a second creation: %v", err)
	}
	e, err := b.Get(ctx, "pinned")
	if err != nil || string(e.Value) != `"hello"` || e.Rev != first.Rev || e.By.Peer != a.Peer() {
		t.Errorf("read %+v, %v", e, err)
	}
	if _, err := b.Get(ctx, "absent"); !client.IsNotFound(err) {
		t.Errorf("an absent key: %v", err)
	}
	if e, err = b.Get(ctx, "pinned", client.Stale(), client.MinRev(first.Rev)); err != nil || e.Rev != first.Rev {
		t.Errorf("a stale read that has waited: %+v, %v", e, err)
	}
	if _, err := a.Put(ctx, "pinned", "x", client.IfRev(first.Rev), client.IfValue("hello")); err != nil {
		t.Errorf("compare-and-set by rev and value: %v", err)
	}
	if _, err := a.Put(ctx, "n", 1, client.InStore("notes"), client.TTL(time.Hour), client.Bound()); err != nil {
		t.Error(err)
	}
	page, err := b.List(ctx, client.ListParams{ReadParams: client.ReadParams{Store: "notes"}, Prefix: "n"})
	if err != nil || len(page.Entries) != 1 || page.Entries[0].BoundTo != a.Peer() || page.Entries[0].ExpiresAt == "" {
		t.Errorf("listed %+v, %v", page, err)
	}
	if now, err := a.Time(ctx); err != nil || now.Format("2006-01-02T15:04:05.000Z") < e.At {
		t.Errorf("the servers' time is %v, %v; an entry is of %s", now, err, e.At)
	}
	peers, err := a.Peers(ctx)
	if err != nil || len(peers) != 2 {
		t.Errorf("peers %+v, %v", peers, err)
	}

	result, err := b.Txn(ctx, wire.Txn{
		If:   []wire.Cond{client.Exists("pinned"), client.Absent("poll"), client.SessionIs(b.Session())},
		Then: []wire.Op{client.PutOp("poll", 1), client.AcquireOp("stage", 5*time.Second), client.GetOp("pinned"), client.DeleteOp("pinned")},
	})
	if err != nil || !result.Applied || len(result.Results) != 4 || result.Results[1].Fence == 0 {
		t.Fatalf("transaction: %+v, %v", result, err)
	}
	if _, err := a.TryLock(ctx, "stage"); !client.IsLocked(err) {
		t.Errorf("the stage is locked by the transaction: %v", err)
	}
	if valid, err := a.Validate(ctx, "stage", result.Results[1].Fence); err != nil || !valid {
		t.Errorf("validate: %t, %v", valid, err)
	}
	locks, err := a.Locks(ctx)
	if err != nil || len(locks) != 1 || locks[0].Holders[0].Owner != b.Peer() {
		t.Errorf("locks %+v, %v", locks, err)
	}
	if d, err := b.Delete(ctx, "poll"); err != nil || !d.Existed {
		t.Errorf("delete: %+v, %v", d, err)
	}
	if err := a.Leave(ctx); err != nil {
		t.Errorf("leave: %v", err)
	}
	if _, err := b.Get(ctx, "n"); !client.IsNotFound(err) {
		t.Errorf("the entry bound to the peer that left: %v", err)
	}
	eventually(t, "the peer has left", func() bool {
		peers, err := b.Peers(ctx)
		return err == nil && len(peers) == 1
	})
}

// follow applies a watch to a copy of the state until the copy satisfies done,
// and checks each change on the way against what the key was before.
func follow(ctx context.Context, w *client.Watch, key string, last uint64) (resets int, err error) {
	var version, rev uint64
	for u, err := range w.All(ctx) {
		if err != nil {
			return resets, fmt.Errorf("at version %d: %w", version, err)
		}
		if u.Rev < rev {
			return resets, fmt.Errorf("rev %d came after %d", u.Rev, rev)
		}
		rev = u.Rev
		if u.Snapshot != nil {
			if u.Reset != "" {
				resets++
			}
			was := version
			version = 0
			for _, e := range u.Snapshot.Stores["default"] {
				if e.Key == key {
					version = e.Version
				}
			}
			if version < was {
				return resets, fmt.Errorf("snapshot has version %d after %d", version, was)
			}
		}
		for _, e := range u.Events {
			if e.Type != "put" || e.Key != key {
				continue
			}
			if e.Version != version+1 {
				return resets, fmt.Errorf("version %d came after %d", e.Version, version)
			}
			version = e.Version
		}
		if version == last {
			return resets, nil
		}
	}
	return resets, ctx.Err()
}

// Clients on three nodes increment one counter by compare-and-set while their
// connections break all the time and the leader is taken away. Every increment
// counts once, and every watcher sees every version once and in order.
func TestG3_G7_G9_increments_survive_broken_connections(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	const writers, each = 3, 60

	var watchers sync.WaitGroup
	for i := range 3 {
		r := s.join("room", i, (i+1)%3)
		w, err := r.Watch(ctx, client.Keys("counter"))
		if err != nil {
			t.Fatal(err)
		}
		watchers.Go(func() {
			resets, err := follow(ctx, w, "counter", writers*each)
			if err != nil {
				t.Errorf("watcher %d: %v", i, err)
			}
			t.Logf("watcher %d: %d resets", i, resets)
		})
	}
	stop := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(rand.N(300 * time.Millisecond)):
				s.nodes[rand.IntN(3)].proxy.cut()
			}
		}
	})
	var work sync.WaitGroup
	for range writers {
		r := s.join("room")
		work.Go(func() {
			for range each {
				if _, err := client.Modify(ctx, r, "counter", func(n int) (int, error) { return n + 1, nil }); err != nil {
					t.Errorf("increment: %v", err)
					return
				}
			}
		})
	}
	leader := s.leader()
	s.stop(leader)
	s.leader()
	s.start(leader)
	work.Wait()
	close(stop)
	chaos.Wait()

	n, _, err := client.GetAs[int](ctx, s.join("room"), "counter")
	if err != nil || n != writers*each {
		t.Errorf("the counter is %d, %v; want %d", n, err, writers*each)
	}
	watchers.Wait()
}

// One lock, many holders one after the other, connections that break: fences grow,
// and never do two believe at the same time that they hold it.
func TestG4_a_lock_has_one_holder_at_a_time(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	const holders, each = 4, 8
	var mu sync.Mutex
	holding := map[*client.Lock]bool{}
	var fence, turns uint64
	var work sync.WaitGroup
	for range holders {
		r := s.join("room")
		work.Go(func() {
			for n := 0; n < each; {
				l, err := r.Lock(ctx, "stage", client.TTL(5*time.Second))
				if err != nil {
					t.Errorf("lock: %v", err)
					return
				}
				mu.Lock()
				holding[l] = true
				if n := believers(holding); n > 1 {
					t.Errorf("%d hold the lock", n)
				}
				if l.Fence() <= fence {
					t.Errorf("fence %d was granted after %d", l.Fence(), fence)
				}
				fence = l.Fence()
				mu.Unlock()
				if _, err := l.Put(ctx, n); err == nil {
					n++
					mu.Lock()
					turns++
					mu.Unlock()
				} else if !client.IsStaleFence(err) {
					t.Errorf("put under the lock: %v", err)
				}
				mu.Lock()
				delete(holding, l)
				mu.Unlock()
				if err := l.Unlock(ctx); err != nil && !client.IsStaleFence(err) {
					t.Errorf("unlock: %v", err)
				}
				if rand.IntN(4) == 0 {
					s.nodes[rand.IntN(3)].proxy.cut()
				}
			}
		})
	}
	work.Wait()
	e, err := s.join("room").Get(ctx, "stage")
	if err != nil || e.Version != turns || turns != holders*each {
		t.Errorf("%+v, %v: want version %d, one for each turn under the lock", e, err, turns)
	}
}

// believers counts the holders that believe to hold their lock.
func believers(holding map[*client.Lock]bool) (n int) {
	for l := range holding {
		if l.Err() == nil {
			n++
		}
	}
	return n
}

// A holder that nobody can reach learns of its loss by itself, the next one gets
// the lock, and a late write of the first is refused.
func TestG4_G5_a_holder_cut_off_loses_its_lock(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	a, b := s.join("room", 0), s.join("room", 1)
	l, err := a.Lock(ctx, "stage", client.TTL(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() {
		next, err := b.Lock(ctx, "stage", client.TTL(time.Second))
		if err == nil && next.Fence() <= l.Fence() {
			err = fmt.Errorf("fence %d after %d", next.Fence(), l.Fence())
		}
		waiting <- err
	}()
	target := s.nodes[0].proxy.target
	s.nodes[0].proxy.to("")
	<-l.Done()
	if !errors.Is(l.Err(), client.ErrExpired) {
		t.Errorf("lost with %v", l.Err())
	}
	if err := <-waiting; err != nil {
		t.Errorf("the next holder: %v", err)
	}
	s.nodes[0].proxy.to(target)
	if _, err := l.Put(ctx, "late"); !client.IsStaleFence(err) {
		t.Errorf("a late write: %v", err)
	}
	if _, err := a.Put(ctx, "stage", "late", client.Fence(l.Fence())); !client.IsStaleFence(err) {
		t.Errorf("a late write that asks the servers: %v", err)
	}
}

// Nothing that a client starts outlives its Close.
func TestClient_Close_leaves_no_goroutine(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	c, err := client.Dial(ctx, s.config())
	if err != nil {
		t.Fatal(err)
	}
	h := s.http()
	for i := range 3 {
		r, err := c.Join(ctx, fmt.Sprint("room", i), client.JoinOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Watch(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Lock(ctx, "stage", client.TTL(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Lock(ctx, fmt.Sprint("room", i), "pen", client.LockParams{}); err != nil {
			t.Fatal(err)
		}
		go r.Lock(ctx, "stage") // waits for its turn, until Close
	}
	if len(ours()) == 0 {
		t.Fatal("the client runs no goroutine, so this test looks for the wrong ones")
	}
	c.Close()
	h.Close()
	eventually(t, "the last goroutine of the client has ended", func() bool { return len(ours()) == 0 })
	if diff := cmp.Diff([]string(nil), ours()); diff != "" {
		t.Error(diff)
	}
}

// ours are the stacks of the goroutines that run, or were started by, the client.
func ours() (stacks []string) {
	buf := make([]byte, 1<<20)
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "conclave/client.(*") {
			stacks = append(stacks, g)
		}
	}
	return stacks
}
