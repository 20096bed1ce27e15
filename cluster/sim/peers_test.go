package sim

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"conclave/fsm"
)

// guest is a peer that somebody else speaks of.
type guest struct {
	session, peer string
	gen           uint64
}

// join has the client join the lobby as a peer with a socket on one server, or,
// with a TTL, without one.
func (k *Client) join(t *testing.T, i int, ttl time.Duration, open fsm.Open) guest {
	t.Helper()
	node := k.c.Node(i)
	join := &fsm.Join{Key: "secret", Node: node.ID(), Incarnation: node.Incarnation()}
	if ttl > 0 {
		join = &fsm.Join{Key: "secret", TTL: ttl.Milliseconds()}
	}
	open.Limits = Limits
	k.patient = true
	op := k.Do(&fsm.Command{Kind: fsm.CommandJoin, Room: lobby, Open: &open, Join: join})
	if op.Outcome != Applied {
		t.Fatalf("%v: %v", op, op.Result)
	}
	return guest{op.Result.Session, op.Result.Peer, op.Result.Gen}
}

// state is what the node furthest ahead says of a peer: attached, detached, left.
func (c *Cluster) state(g guest) string {
	var view *fsm.View
	for _, s := range c.Servers() {
		if node := s.Node(); node != nil && (view == nil || node.View().Rev() > view.Rev()) {
			view = node.View()
		}
	}
	s := view.Session(lobby)
	if s == nil || s.ID != g.session || s.Peer(g.peer) == nil {
		return "left"
	}
	if s.Peer(g.peer).Attached {
		return "attached"
	}
	return "detached"
}

// TestG5_PeersOfANode: peers with sockets live as long as their node does, also
// across a change of leader, and go after their grace when it is dead, or has
// started anew.
func TestG5_PeersOfANode(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarted %v", again), func(t *testing.T) {
			inBubble(t, ordinary(55), func(t *testing.T, c *Cluster, h *History) {
				leader := c.Leader()
				home, other := c.Followers()[0], c.Followers()[1]
				open := fsm.Open{Grace: 2000}
				stays := c.NewClient(h, "stays").On(other).join(t, other, 0, open)
				goes := c.NewClient(h, "goes").On(home).join(t, home, 0, open)
				time.Sleep(time.Minute)
				c.Kill(leader)
				c.Leader()
				time.Sleep(20 * time.Second)
				c.Mend()
				for name, g := range map[string]guest{"stays": stays, "goes": goes} {
					if got := c.state(g); got != "attached" {
						t.Fatalf("%s is %s while its node lives", name, got)
					}
				}
				c.Kill(home)
				if again {
					c.Restart(home)
				}
				died := h.Now()
				c.Await("the peer to be detached", func() bool { return c.state(goes) != "attached" })
				c.Await("the peer to leave", func() bool { return c.state(goes) == "left" })
				if took := h.Now() - died; took < 2*time.Second || took > 15*time.Second {
					t.Errorf("the peer left %v after its node died", took)
				}
				if got := c.state(stays); got != "attached" {
					t.Errorf("a peer of another node is %s", got)
				}
			})
		})
	}
}

// TestG5_PeerWithoutSocket: such a peer is there for as long as it is kept alive,
// and no longer than a second beyond its TTL.
func TestG5_PeerWithoutSocket(t *testing.T) {
	inBubble(t, ordinary(56), func(t *testing.T, c *Cluster, h *History) {
		const ttl = 3 * time.Second
		g := c.NewClient(h, "ada").join(t, 0, ttl, fsm.Open{})
		ref := fsm.LeaseRef{Room: lobby, Session: g.session, Peer: g.peer}
		for range 10 {
			time.Sleep(2 * time.Second)
			if _, err := c.Node(1).Renew(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
		}
		renewed := h.Now()
		c.Await("the peer to leave", func() bool { return c.state(g) == "left" })
		if took := h.Now() - renewed; took < ttl-100*time.Millisecond || took > ttl+time.Second {
			t.Errorf("the peer left %v after it was last kept alive, its TTL is %v", took, ttl)
		}
		if _, err := c.Node(1).Renew(t.Context(), ref); err == nil {
			t.Error("a peer that has left was kept alive")
		}
	})
}

// TestG10_JoinAgainstLinger: a peer that joins around the end of a session's
// linger is in the old session, which then goes on, or in a new one.
func TestG10_JoinAgainstLinger(t *testing.T) {
	inBubble(t, ordinary(101), func(t *testing.T, c *Cluster, h *History) {
		open := fsm.Open{Linger: 1000, Grace: 1000}
		k := c.NewClient(h, "ada")
		stayed, anew := 0, 0
		g := k.join(t, 0, time.Hour, open)
		for i := range 60 {
			k.Do(&fsm.Command{Kind: fsm.CommandLeave, Room: lobby, Session: g.session, Target: g.peer, Reason: "left"})
			time.Sleep(time.Second + time.Duration(i%20-10)*time.Millisecond)
			if i == 30 {
				c.Kill(c.Leader())
				c.Mend()
			}
			next := k.join(t, i%3, time.Hour, open)
			if next.session == g.session {
				stayed++
			} else {
				anew++
			}
			if got := c.state(next); got == "left" {
				t.Errorf("round %d: who had joined is not there", i)
			}
			g = next
		}
		if stayed < 5 || anew < 5 {
			t.Errorf("%d joins were in time and %d late: the edge was missed", stayed, anew)
		}
	})
}

// TestG7_G8_WatchersMove: watchers go from node to node, resume there, and take
// snapshots amid the changes, while nodes die and come back.
func TestG7_G8_WatchersMove(t *testing.T) {
	inBubble(t, ordinary(70), func(t *testing.T, c *Cluster, h *History) {
		stop := make(chan struct{})
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				k := c.NewClient(h, fmt.Sprint("writer", i))
				k.think = 10 * time.Millisecond
				k.Registers(hall, []string{"a", "b"}, stop)
			})
		}
		for i := range 6 {
			all.Go(func() { c.NewClient(h, fmt.Sprint("watcher", i)).Watches(hall, stop) })
		}
		for i := range 4 {
			time.Sleep(3 * time.Second)
			c.Kill(i % 3)
			time.Sleep(time.Second)
			c.Mend()
		}
		close(stop)
		all.Wait()
		snapshots, frames := 0, 0
		for _, w := range h.Watches {
			for _, item := range w.Items {
				if item.Frame != nil {
					frames++
				} else if len(item.Entries) > 0 {
					snapshots++
				}
			}
		}
		if snapshots < 10 || frames < 1000 {
			t.Errorf("%d snapshots and %d frames: too few to say anything", snapshots, frames)
		}
	})
}
