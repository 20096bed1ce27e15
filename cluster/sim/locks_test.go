package sim

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"conclave/fsm"
)

// TestG4_LateHolder: a holder that slept through its lease cannot write any more,
// and knowing the present fence helps nobody but its owner.
func TestG4_LateHolder(t *testing.T) {
	inBubble(t, ordinary(40), func(t *testing.T, c *Cluster, h *History) {
		ada, bob := c.NewClient(h, "ada"), c.NewClient(h, "bob")
		ada.caller.Owner, bob.caller.Owner = "ada", "bob"
		last := uint64(0)
		for round := range 4 {
			late := ada.hold(t, time.Second)
			time.Sleep(2500 * time.Millisecond)
			fence := bob.hold(t, 30*time.Second)
			if late <= last || fence <= late {
				t.Errorf("fences %d, %d, %d do not grow", last, late, fence)
			}
			last = fence
			if round%2 == 1 {
				c.Kill(c.Leader())
				c.Mend()
			}
			for _, try := range []struct {
				k     *Client
				fence uint64
				want  fsm.Code
			}{{ada, late, fsm.CodeStaleFence}, {ada, fence, fsm.CodeStaleFence}, {ada, 0, fsm.CodeLocked}, {bob, 0, fsm.CodeLocked}, {bob, late, fsm.CodeStaleFence}, {bob, fence, ""}} {
				try.k.patient = true
				op := try.k.Do(single(hall, fsm.Operation{Kind: fsm.OpPut, Key: stage, Value: try.k.value(), Fence: try.fence}))
				if op.code() != try.want {
					t.Errorf("%s with fence %d: got %q, want %q", try.k.Name, try.fence, op.code(), try.want)
				}
			}
			bob.Do(single(hall, fsm.Operation{Kind: fsm.OpRelease, Key: stage, Fence: fence}))
		}
	})
}

// hold acquires the stage at once, from whoever lets it.
func (k *Client) hold(t *testing.T, ttl time.Duration) uint64 {
	t.Helper()
	for range 200 {
		if fence := k.acquire(hall, stage, ttl); fence != 0 {
			return fence
		}
	}
	t.Fatalf("%s never got the lock", k.Name)
	return 0
}

// ends is the virtual time at which a fence ended, as the first node published
// it; it waits for that.
func (h *History) ends(c *Cluster, fence uint64) (at time.Duration) {
	c.t.Helper()
	c.Await(fmt.Sprintf("the end of fence %d", fence), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, s := range h.Segments {
			for _, f := range s.Frames {
				for _, e := range f.Events {
					if e.Type == fsm.EventLock && e.State != "acquired" && e.Fence == fence {
						at = f.At
						return true
					}
				}
			}
		}
		return false
	})
	return at
}

// TestG5_LeaseLength: under one leader a lease ends no earlier than its TTL and
// no later than a second after it, whatever the wall clocks say; renewals move
// that on.
func TestG5_LeaseLength(t *testing.T) {
	for _, jump := range []time.Duration{0, time.Hour, -time.Hour} {
		t.Run(fmt.Sprintf("wall clocks jump by %v", jump), func(t *testing.T) {
			inBubble(t, ordinary(50), func(t *testing.T, c *Cluster, h *History) {
				const ttl = 3 * time.Second
				ada := c.NewClient(h, "ada")
				ada.caller.Owner = "ada"
				fence := ada.hold(t, ttl)
				for i := range 3 {
					c.Skew(i, jump)
				}
				var renewed time.Duration
				for range 4 {
					time.Sleep(2 * time.Second)
					if !ada.renew(hall, stage, fence, ttl) {
						t.Fatal("a lease was lost that was renewed in time")
					}
					renewed = h.Now()
				}
				if got := h.ends(c, fence) - renewed; got > ttl+time.Second {
					t.Errorf("the lease ended %v after its last renewal, the TTL is %v", got, ttl)
				}
				// That it did not end early is checked with the history.
			})
		})
	}
}

// TestG5_NewLeader: a new leader, which knows nothing of renewals, gives a lease
// its full TTL from when it took over.
func TestG5_NewLeader(t *testing.T) {
	inBubble(t, ordinary(51), func(t *testing.T, c *Cluster, h *History) {
		const ttl = 5 * time.Second
		ada := c.NewClient(h, "ada")
		ada.caller.Owner = "ada"
		fence := ada.hold(t, ttl)
		time.Sleep(4 * time.Second)
		ada.renew(hall, stage, fence, ttl)
		time.Sleep(4 * time.Second)
		killed := h.Now()
		c.Kill(c.Leader())
		elected := c.Leader()
		took := h.Now()
		ended := h.ends(c, fence)
		if ended < killed+ttl {
			t.Errorf("the lease ended %v after its leader died, the TTL is %v", ended-killed, ttl)
		}
		if c.Leader() == elected && ended > took+ttl+2*time.Second {
			t.Errorf("the lease ended %v after n%d took over, the TTL is %v", ended-took, elected+1, ttl)
		}
	})
}

// TestG5_RenewalAtTheEdge: renewals sent around the very end of a lease are
// either acknowledged, and then hold, or refused, and then it is over. The
// history's checker judges those acknowledged.
func TestG5_RenewalAtTheEdge(t *testing.T) {
	inBubble(t, ordinary(52), func(t *testing.T, c *Cluster, h *History) {
		const ttl = time.Second
		ada := c.NewClient(h, "ada")
		ada.caller.Owner = "ada"
		kept, lost := 0, 0
		for i := range 120 {
			fence := ada.hold(t, ttl)
			time.Sleep(ttl + time.Duration(i%24-8)*time.Millisecond)
			if ada.renew(hall, stage, fence, ttl) {
				kept++
			} else {
				lost++
				if ada.fenceOfAnywhere(fence) {
					t.Errorf("fence %d was refused a renewal and is held", fence)
				}
			}
		}
		if kept < 10 || lost < 10 {
			t.Errorf("%d kept and %d lost: the edge was missed", kept, lost)
		}
	})
}

// fenceOfAnywhere tells whether the present state has a fence.
func (k *Client) fenceOfAnywhere(fence uint64) bool {
	_, p := k.any()
	view, err := p.node.Read(context.Background())
	if err != nil {
		return false
	}
	l := view.Session(hall).Lock(store, stage)
	return l != nil && len(l.Holders) > 0 && l.Holders[0].Fence == fence
}

// TestG6_Queue: waiters on all nodes get a lock in the order in which they asked,
// though the leader dies between; every release wakes one.
func TestG6_Queue(t *testing.T) {
	inBubble(t, ordinary(60), func(t *testing.T, c *Cluster, h *History) {
		first := c.NewClient(h, "first")
		first.caller.Owner = "first"
		fence := first.hold(t, time.Minute)
		var order []string
		var mu sync.Mutex
		var waiters sync.WaitGroup
		victim := c.Leader()
		for i := range 9 {
			k := c.NewClient(h, fmt.Sprint("waiter", i))
			k.caller.Owner = k.Name
			// Waiters of a node that dies are skipped: these ask the others.
			k.On((victim + 1 + i%2) % 3)
			waiting := c.waiting()
			waiters.Go(func() {
				fence := k.queue(time.Minute)
				mu.Lock()
				order = append(order, k.Name)
				mu.Unlock()
				k.patient = true
				k.Do(single(hall, fsm.Operation{Kind: fsm.OpRelease, Key: stage, Fence: fence}))
			})
			c.Await("one more in line", func() bool { return c.waiting() == waiting+1 })
		}
		c.Kill(victim)
		first.patient = true
		first.Do(single(hall, fsm.Operation{Kind: fsm.OpRelease, Key: stage, Fence: fence}))
		waiters.Wait()
		if !slices.IsSorted(order) {
			t.Errorf("got the lock in the order %v", order)
		}
	})
}

// waiting is how many are in line for the stage, by the node furthest ahead.
func (c *Cluster) waiting() (most int) {
	for _, s := range c.Servers() {
		if node := s.Node(); node != nil {
			if session := node.View().Session(hall); session != nil {
				most = max(most, session.Lock(store, stage).Waiting())
			}
		}
	}
	return most
}

// queue asks for the stage and waits until it is granted.
func (k *Client) queue(ttl time.Duration) (fence uint64) {
	k.patient = true
	_, p := k.any()
	op := k.Do(&fsm.Command{Kind: fsm.CommandAcquire, Room: hall, Open: opened(), Acquire: &fsm.Acquire{
		Store: store, Key: stage, Wait: time.Hour.Milliseconds(), Lock: fsm.LockRequest{TTL: ttl.Milliseconds()},
		Node: p.node.ID(), Incarnation: p.node.Incarnation(), Waiter: k.Name,
	}})
	if op.Result.Fence != 0 {
		return op.Result.Fence
	}
	for {
		k.h.mu.Lock()
		g, ok := k.h.Grants[op.Result.Waiter]
		k.h.mu.Unlock()
		if ok {
			return g.Fence
		}
		time.Sleep(5 * time.Millisecond)
	}
}
