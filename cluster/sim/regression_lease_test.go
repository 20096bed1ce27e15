package sim

import (
	"context"
	"errors"
	"testing"
	"time"

	"conclave/fsm"
)

// leaseOf names a client's lease on the stage.
func (k *Client) leaseOf(fence uint64) fsm.LeaseRef {
	return fsm.LeaseRef{Room: hall, Store: store, Key: stage, Fence: fence, Owner: k.caller.LockOwner()}
}

// TestRegression_ARenewalThatRacesItsExpiry: from proposing a lease's end until its
// result the leader answers no renewal of it: one that was acknowledged meanwhile
// would be broken by the end that is on its way.
func TestRegression_ARenewalThatRacesItsExpiry(t *testing.T) {
	inBubble(t, ordinary(406), func(t *testing.T, c *Cluster, h *History) {
		const ttl = time.Second
		leader := c.settled()
		ada := c.NewClient(h, "ada").On(leader)
		ada.caller.Owner = "ada"
		fence := ada.hold(t, ttl)
		time.Sleep(ttl - 100*time.Millisecond)
		// The end will be proposed and cannot be committed, while the leader goes on
		// being confirmed by a majority: what a renewal needs.
		for _, i := range c.Followers() {
			c.Server(i).Disk.Hang()
		}
		time.Sleep(200 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		sent, answered := h.Now(), make(chan error, 1)
		go func() {
			_, err := c.Node(leader).Renew(ctx, ada.leaseOf(fence))
			if err == nil {
				ada.granted(hall, stage, fence, sent, ttl)
			}
			answered <- err
		}()
		time.Sleep(200 * time.Millisecond)
		select {
		case err := <-answered:
			t.Errorf("the renewal was answered before the end that is proposed: %v", err)
			answered <- err
		default:
		}
		if got := ada.fenceOf(hall, stage); got != fence {
			t.Errorf("fence %d is held while the end waits for a majority, want %d", got, fence)
		}
		for _, i := range c.Followers() {
			c.Server(i).Disk.Work()
		}
		var refused *fsm.Refusal
		if err := <-answered; !errors.As(err, &refused) || refused.Code != fsm.CodeNotHolder {
			t.Errorf("after the end: %v", err)
		}
		h.ends(c, fence)
	})
}

// TestRegression_etcd15247_AStuckLeaderEndsNoLease: a leader that is stuck, and does
// not know that another leads, finds leases over that their holders have renewed with
// its successor. It ended them (etcd-io/etcd#15247). Ours ends nothing when it
// wakes, nor when it leads again: they last for their TTL after their last renewal.
func TestRegression_etcd15247_AStuckLeaderEndsNoLease(t *testing.T) {
	const ttl = 3 * time.Second
	for name, stick := range map[string]func(c *Cluster, i int) (wake func()){
		"the process": func(c *Cluster, i int) func() {
			c.Pause(i)
			return func() { c.Resume(i) }
		},
		"its network only": func(c *Cluster, i int) func() { // so it logs the end, and sends it late
			c.Net.Pause(c.Server(i).Name)
			return func() { c.Net.Resume(c.Server(i).Name) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, ordinary(407), func(t *testing.T, c *Cluster, h *History) {
				stuck := c.settled()
				others := c.Followers()
				ada := c.NewClient(h, "ada").On(others[0])
				ada.caller.Owner = "ada"
				fence := ada.hold(t, ttl)
				time.Sleep(ttl - 100*time.Millisecond)
				wake := stick(c, stuck)
				time.Sleep(300 * time.Millisecond) // it finds the lease over, in its own term
				if l := c.Node(stuck).Status(t.Context()).Leader; l != c.Server(stuck).Name {
					t.Fatalf("the stuck leader believes in %q: it had no time to be wrong", l)
				}
				c.Await("another leader", func() bool {
					leader := c.Node(others[0]).Status(t.Context()).Leader
					return leader != "" && leader != c.Server(stuck).Name
				})
				renew := func() (sent time.Duration) {
					t.Helper()
					c.Await("a renewal", func() bool {
						sent = h.Now()
						_, err := c.Node(others[0]).Renew(t.Context(), ada.leaseOf(fence))
						var refused *fsm.Refusal
						if errors.As(err, &refused) {
							t.Fatalf("a lease was lost that was renewed in time: %v", err)
						}
						return err == nil
					})
					ada.granted(hall, stage, fence, sent, ttl)
					return sent
				}
				renew()
				bob := c.NewClient(h, "bob").On(others[1])
				bob.caller.Owner = "bob"
				granted := bob.acquire(hall, "floor", ttl) // by the successor
				if granted == 0 {
					t.Fatal("the successor granted nothing")
				}
				time.Sleep(ttl / 2)
				renew()
				wake()
				c.AwaitReady()
				for range 4 {
					time.Sleep(ttl / 2)
					renew()
				}
				// It leads again, with whatever it remembers of then.
				c.Await("it leads again", func() bool {
					_ = c.Node(others[0]).Transfer(t.Context(), c.Server(stuck).Name)
					return c.Leader() == stuck
				})
				renewed := renew()
				if ended := h.ends(c, fence); ended < renewed+ttl || ended > renewed+ttl+time.Second {
					t.Errorf("the lease ended %v after its last renewal, the TTL is %v", ended-renewed, ttl)
				}
				h.ends(c, granted)
			})
		})
	}
}
