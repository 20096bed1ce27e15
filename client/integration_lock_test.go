package client_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// Sharers on three nodes hold a lock together, each with a fence of its own. Who
// wants it alone waits for all of them, and nobody overtakes.
func TestLock_shared_on_a_real_cluster(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	rooms := []*client.Room{s.join("room", 0), s.join("room", 1), s.join("room", 2)}
	var sharers []*client.Lock
	fences := map[uint64]bool{}
	for _, r := range rooms {
		l, err := r.TryLock(ctx, "doc", client.Shared(), client.TTL(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		sharers, fences[l.Fence()] = append(sharers, l), true
	}
	if len(fences) != len(rooms) {
		t.Errorf("three sharers have the fences %v", fences)
	}
	for i, r := range rooms {
		if _, err := sharers[i].Put(ctx, i); err != nil {
			t.Errorf("a sharer's write: %v", err)
		}
		if _, err := r.Put(ctx, "doc", i, client.Fence(sharers[(i+1)%3].Fence())); !client.IsStaleFence(err) {
			t.Errorf("a write with another sharer's fence: %v", err)
		}
	}

	alone, late := s.join("room", 0), s.join("room", 1)
	if _, err := alone.TryLock(ctx, "doc"); !client.IsLocked(err) {
		t.Errorf("alone, though three share it: %v", err)
	}
	if _, err := late.Put(ctx, "doc", "late"); !client.IsLocked(err) {
		t.Errorf("a write past the sharers: %v", err)
	}
	first, second := make(chan *client.Lock, 1), make(chan *client.Lock, 1)
	take := func(r *client.Room, taken chan<- *client.Lock, opts ...client.LockOption) {
		l, err := r.Lock(ctx, "doc", append(opts, client.TTL(time.Hour))...)
		if err != nil {
			t.Errorf("lock: %v", err)
		}
		taken <- l
	}
	var waiting sync.WaitGroup
	defer waiting.Wait()
	waiting.Go(func() { take(alone, first) })
	s.queued(rooms[0], "doc", 1)
	if _, err := late.TryLock(ctx, "doc", client.Shared()); !client.IsLocked(err) {
		t.Errorf("another sharer overtook who waits: %v", err)
	}
	waiting.Go(func() { take(late, second, client.Shared()) })
	s.queued(rooms[0], "doc", 2)
	for i, l := range sharers {
		select {
		case <-first:
			t.Fatalf("alone with %d sharers", len(sharers)-i)
		default:
		}
		if err := l.Unlock(ctx); err != nil {
			t.Error(err)
		}
	}
	l := <-first
	select {
	case <-second:
		t.Error("a sharer came in to who has the lock alone")
	default:
	}
	if l == nil || fences[l.Fence()] || l.Unlock(ctx) != nil {
		t.Errorf("alone with %+v", l)
	}
	if l := <-second; l == nil || l.Err() != nil {
		t.Errorf("the last in line got %+v", l)
	}
}

// queued waits until so many are in line for a lock.
func (s *servers) queued(r *client.Room, key string, n int) {
	s.t.Helper()
	eventually(s.t, "they are in line", func() bool {
		locks, err := r.Locks(s.t.Context())
		i := slices.IndexFunc(locks, func(l wire.Lock) bool { return l.Key == key })
		return err == nil && i >= 0 && len(locks[i].Queue) == n
	})
}

// Readers share a lock and writers have it alone while connections break and the
// leader is taken away: never does a writer believe to hold it beside anybody else.
func TestG4_readers_and_a_writer_exclude_each_other(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	const each = 8
	var mu sync.Mutex
	reading, writing := map[*client.Lock]bool{}, map[*client.Lock]bool{}
	together, written := 0, uint64(0)
	var work sync.WaitGroup
	for i := range 5 {
		r, holding, opts := s.join("room"), reading, []client.LockOption{client.TTL(5 * time.Second), client.Shared()}
		if i < 2 {
			holding, opts = writing, opts[:1]
		}
		work.Go(func() {
			for n := 0; n < each; {
				l, err := r.Lock(ctx, "doc", opts...)
				if err != nil {
					t.Errorf("lock: %v", err)
					return
				}
				mu.Lock()
				holding[l] = true
				readers, writers := believers(reading), believers(writing)
				if writers > 1 || writers == 1 && readers > 0 {
					t.Errorf("%d write and %d read", writers, readers)
				}
				together = max(together, readers)
				mu.Unlock()
				if i >= 2 {
					if _, err := r.Get(ctx, "doc"); err != nil && !client.IsNotFound(err) {
						t.Errorf("read under the lock: %v", err)
					}
					n++
				} else if _, err = l.Put(ctx, n); err == nil {
					n++
					mu.Lock()
					written++
					mu.Unlock()
				} else if !client.IsStaleFence(err) {
					t.Errorf("put under the lock: %v", err)
				}
				if rand.IntN(4) == 0 {
					s.nodes[rand.IntN(3)].proxy.cut()
				}
				mu.Lock()
				delete(holding, l)
				mu.Unlock()
				if err := l.Unlock(ctx); err != nil && !client.IsStaleFence(err) {
					t.Errorf("unlock: %v", err)
				}
			}
		})
	}
	leader := s.leader()
	s.stop(leader)
	s.leader()
	s.start(leader)
	work.Wait()
	e, err := s.join("room").Get(ctx, "doc")
	if err != nil || e.Version != written || written != 2*each {
		t.Errorf("%+v, %v: want version %d, one for each turn of a writer", e, err, written)
	}
	t.Logf("up to %d read at once", together)
}

// A semaphore has as many holders as permits, never more, and lets in the next in
// line for each that goes.
func TestLock_permits_on_a_real_cluster(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	const permits, peers, each = 2, 5, 4
	var rooms []*client.Room
	for i := range peers {
		rooms = append(rooms, s.join("room", i%3))
	}
	seat := []client.LockOption{client.Permits(permits), client.TTL(30 * time.Second)}
	var held []*client.Lock
	for _, r := range rooms[:permits] {
		l, err := r.TryLock(ctx, "seats", seat...)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
	}
	if _, err := rooms[2].TryLock(ctx, "seats", seat...); !client.IsLocked(err) {
		t.Errorf("a third seat: %v", err)
	}
	if _, err := rooms[2].Lock(ctx, "seats", append(seat, client.Wait(50*time.Millisecond))...); !client.HasCode(err, wire.LockTimeout) {
		t.Errorf("a wait for a third seat: %v", err)
	}
	if _, err := rooms[2].TryLock(ctx, "seats", client.Permits(permits+1)); !client.IsLocked(err) {
		t.Errorf("a seat by another number of permits: %v", err)
	}
	for _, l := range held {
		if _, err := l.Put(ctx, "taken"); err != nil {
			t.Errorf("a holder's write: %v", err)
		}
		if err := l.Unlock(ctx); err != nil {
			t.Error(err)
		}
	}

	var mu sync.Mutex
	holding, fences := map[*client.Lock]bool{}, map[uint64]bool{}
	var work sync.WaitGroup
	for _, r := range rooms {
		work.Go(func() {
			for range each {
				err := r.WithLock(ctx, "seats", func(ctx context.Context, l *client.Lock) error {
					mu.Lock()
					holding[l], fences[l.Fence()] = true, true
					if n := believers(holding); n > permits {
						t.Errorf("%d have a seat of %d", n, permits)
					}
					mu.Unlock()
					_, err := l.Put(ctx, "taken")
					mu.Lock()
					delete(holding, l)
					mu.Unlock()
					return err
				}, seat...)
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	if len(fences) != peers*each {
		t.Errorf("%d turns had %d fences", peers*each, len(fences))
	}
}

// A lease that lapses keeps everybody out for the delay that its holder asked for,
// unless somebody with the right ends that too.
func TestLock_delay_on_a_real_cluster(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	h, b := s.http(), s.join("room", 1)
	var pause sync.WaitGroup
	defer pause.Wait()
	// lapse lets a lease run out, no earlier than at over, while b waits for the lock.
	lapse := func(delay time.Duration) (l *client.Lock, over time.Time, next chan *client.Lock) {
		a := s.join("room", 0)
		l, err := a.Lock(ctx, "stage", client.TTL(time.Second), client.LockDelay(delay))
		if err != nil {
			t.Fatal(err)
		}
		next = make(chan *client.Lock, 1)
		pause.Go(func() {
			l, err := b.Lock(ctx, "stage", client.TTL(time.Hour))
			if err != nil {
				t.Errorf("lock: %v", err)
			}
			next <- l
		})
		s.queued(b, "stage", 1)
		over = time.Now()
		over = over.Add(l.Status().Left)
		target := s.nodes[0].proxy.target
		s.nodes[0].proxy.to("") // nobody reaches a's node: it cannot renew
		<-l.Done()
		if !errors.Is(l.Err(), client.ErrExpired) {
			t.Errorf("lost with %v", l.Err())
		}
		s.nodes[0].proxy.to(target)
		return l, over, next
	}

	first, _, waited := lapse(time.Hour)
	eventually(t, "the delay has begun", func() bool {
		state, err := h.LockState(ctx, "room", "default", "stage")
		return err == nil && len(state.Holders) == 0 && state.DelayEndsInMs > 0
	})
	_, err := s.join("room", 2).TryLock(ctx, "stage")
	var refused *wire.Error
	if !errors.As(err, &refused) || refused.Code != wire.Locked || refused.Details["reason"] != "delay" {
		t.Errorf("a lock in its delay: %v", err)
	}
	select {
	case <-waited:
		t.Error("who waits was let in during the delay")
	default:
	}
	if err := h.Break(ctx, "room", "default", "stage"); err != nil {
		t.Fatal(err)
	}
	l := <-waited
	if l == nil || l.Fence() <= first.Fence() || l.Unlock(ctx) != nil {
		t.Fatalf("after the delay was ended: %+v", l)
	}

	const delay = time.Second
	_, over, waited := lapse(delay)
	l = <-waited
	if got := time.Since(over); l == nil || got < delay {
		t.Errorf("the lock was granted after %v of a delay of %v", got, delay)
	}
}

// A holder hears of a break at once, long before its next renewal: while it is
// connected, and as soon as it is again.
func TestG5_a_break_is_told_to_the_holder(t *testing.T) {
	s := startServers(t)
	ctx := patience(t)
	h, a := s.http(), s.join("room", 0)
	begun := time.Now()
	for _, away := range []bool{false, true} {
		for name, opt := range map[string]client.LockOption{"lease": client.TTL(time.Hour), "bound to the peer": client.InStore("default")} {
			broken := make(chan struct{})
			var breaking sync.WaitGroup
			err := a.WithLock(ctx, "stage", func(ctx context.Context, l *client.Lock) error {
				target := s.nodes[0].proxy.target
				if away {
					s.nodes[0].proxy.to("")
				}
				breaking.Go(func() {
					if err := h.Break(ctx, "room", "default", "stage"); err != nil {
						t.Errorf("break: %v", err)
					}
					close(broken)
				})
				<-broken
				if away {
					if l.Err() != nil {
						t.Errorf("%s: lost while nobody could tell: %v", name, l.Err())
					}
					s.nodes[0].proxy.to(target)
				}
				<-ctx.Done()
				if st := l.Status(); st.State != client.LockLost || st.Reason != client.LostBroken {
					t.Errorf("%s: %+v", name, st)
				}
				return nil
			}, opt)
			breaking.Wait()
			if !client.IsStaleFence(err) {
				t.Errorf("%s: the work ended with %v", name, err)
			}
		}
	}
	t.Logf("told of four breaks within %v", time.Since(begun))
}
