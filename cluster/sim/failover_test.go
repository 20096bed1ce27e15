package sim

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"conclave/cluster"
)

// A leader that dies is replaced at once (docs/decisions.md, "a dead leader is
// replaced at once"); these tests also show what does not count as a death. Times
// are virtual: a bound on them is part of the promise.

// term is the term that a node knows.
func (c *Cluster) term(i int) uint64 {
	c.t.Helper()
	return c.Node(i).Status(c.t.Context()).Term
}

// settled waits until the leader has led for long enough to be replaced at once.
func (c *Cluster) settled() (leader int) {
	c.t.Helper()
	leader = c.Leader()
	time.Sleep(3 * time.Second)
	if now := c.Leader(); now != leader {
		c.t.Fatalf("n%d leads after n%d, though nothing happened", now+1, leader+1)
	}
	return leader
}

func TestG14_DeadLeaderIsReplacedAtOnce(t *testing.T) {
	for _, nodes := range []int{3, 5} {
		t.Run(fmt.Sprint(nodes, " nodes"), func(t *testing.T) {
			opts := ordinary(160)
			opts.Nodes = nodes
			inBubble(t, opts, func(t *testing.T, c *Cluster, h *History) {
				var gaps []time.Duration
				for round := range 6 {
					leader := c.settled()
					k := c.NewClient(h, fmt.Sprint("ada", round)).On(c.Followers()[round%(nodes-1)])
					k.put("k")
					start := h.Now()
					c.Kill(leader)
					k.put("k")
					gaps = append(gaps, h.Now()-start)
					c.Restart(leader)
					c.AwaitReady()
				}
				slices.Sort(gaps)
				t.Logf("writes went on after %v", gaps)
				if worst := gaps[len(gaps)-1]; worst > 200*time.Millisecond {
					t.Errorf("writes went on after %v only", worst)
				}
			})
		})
	}
}

// TestFailover_TheFirstLeader: a leader that was elected because there was none is
// replaced at once from the start; the one after it, lost as soon, is not.
func TestFailover_TheFirstLeader(t *testing.T) {
	opts := ordinary(165)
	opts.Nodes = 5
	inBubble(t, opts, func(t *testing.T, c *Cluster, h *History) {
		for round, atOnce := range []bool{true, false} {
			k := c.NewClient(h, fmt.Sprint("ada", round)).On(c.Followers()[0])
			k.put("k")
			start := h.Now()
			c.Kill(c.Leader())
			k.put("k")
			took := h.Now() - start
			t.Logf("writes went on after %v", took)
			if (took < 200*time.Millisecond) != atOnce {
				t.Errorf("round %d: writes went on after %v", round, took)
			}
		}
	})
}

// TestFailover_UnderLoad: the entries that a dying leader leaves half replicated do not
// have two voters stand at once.
func TestFailover_UnderLoad(t *testing.T) {
	for seed := range uint64(3) {
		inBubble(t, ordinary(170+seed), func(t *testing.T, c *Cluster, h *History) {
			stop := make(chan struct{})
			done := make(chan struct{})
			k := c.NewClient(h, "load").On(c.Followers()[0])
			k.think = 20 * time.Millisecond
			go func() { k.Pipeline(hall, "lane", stop); close(done) }()
			leader := c.settled()
			ada := c.NewClient(h, "ada").On(c.Followers()[1])
			start := h.Now()
			c.Kill(leader)
			ada.put("k")
			took := h.Now() - start
			close(stop)
			<-done
			t.Logf("writes went on after %v", took)
			if took > 500*time.Millisecond {
				t.Errorf("seed %d: writes went on after %v only", 170+seed, took)
			}
		})
	}
}

// TestFailover_BackAtOnce: the leader is back before anybody else stands: its
// process did die, so another leads, and nothing is lost.
func TestFailover_BackAtOnce(t *testing.T) {
	inBubble(t, ordinary(161), func(t *testing.T, c *Cluster, h *History) {
		leader := c.settled()
		term := c.term(leader)
		k := c.NewClient(h, "ada").On(c.Followers()[0])
		k.put("k")
		start := h.Now()
		c.Kill(leader)
		time.Sleep(2 * time.Millisecond)
		c.Restart(leader)
		k.put("k")
		t.Logf("writes went on after %v", h.Now()-start)
		if now := c.term(c.Leader()); now <= term {
			t.Errorf("term %d after the leader of term %d had died", now, term)
		}
	})
}

// TestFailover_FalseAlarm: connections break in every way while the leader lives.
// As long as it reaches a majority it goes on leading, in its term, and whatever
// happens no acknowledged write is lost (the history says).
func TestFailover_FalseAlarm(t *testing.T) {
	names := func(c *Cluster, leader int) (l string, f []string) {
		for _, i := range c.Followers() {
			f = append(f, c.Server(i).Name)
		}
		return c.Server(leader).Name, f
	}
	for name, cut := range map[string]func(n *Network, l string, f []string){
		"connections reset, both ways": func(n *Network, l string, f []string) {
			for _, f := range f {
				n.Reset(f, l)
				n.Reset(l, f)
			}
		},
		"connections reset, one way": func(n *Network, l string, f []string) {
			for _, f := range f {
				n.Reset(f, l)
			}
		},
		"the leader refuses connections, its own live": func(n *Network, l string, f []string) {
			for _, f := range f {
				n.Sever(f, l)
			}
		},
		"one follower cut off from the leader": func(n *Network, l string, f []string) {
			n.Sever(f[0], l)
			n.Sever(l, f[0])
		},
		"one follower cut off from all": func(n *Network, l string, f []string) {
			for _, other := range []string{l, f[1]} {
				n.Sever(f[0], other)
				n.Sever(other, f[0])
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, ordinary(162), func(t *testing.T, c *Cluster, h *History) {
				leader := c.settled()
				term := c.term(leader)
				k := c.NewClient(h, "ada").On(leader)
				for range 20 {
					l, f := names(c, leader)
					cut(c.Net, l, f)
					k.put("k")
					time.Sleep(50 * time.Millisecond)
					c.Net.Heal()
					k.put("k")
					time.Sleep(50 * time.Millisecond)
				}
				if now := c.Leader(); now != leader || c.term(now) != term {
					t.Errorf("n%d leads in term %d, n%d did in term %d: a false alarm had another elected", now+1, c.term(now), leader+1, term)
				}
			})
		})
	}
}

// TestFailover_NoFlapping: a network that rejects everything the leader says or
// hears, again and again for a moment, looks as if it had died. That costs an
// election, not one each time.
func TestFailover_NoFlapping(t *testing.T) {
	inBubble(t, ordinary(163), func(t *testing.T, c *Cluster, h *History) {
		leader := c.settled()
		before := c.term(leader)
		k := c.NewClient(h, "ada")
		const times = 30
		start := h.Now()
		for range times {
			leads := c.Server(c.Leader()).Name
			for _, s := range c.Servers() {
				if s.Name != leads {
					c.Net.Sever(s.Name, leads)
					c.Net.Sever(leads, s.Name)
				}
			}
			time.Sleep(20 * time.Millisecond)
			c.Net.Heal()
			k.put("k")
			time.Sleep(80 * time.Millisecond)
		}
		took, elections := h.Now()-start, c.term(c.Leader())-before
		t.Logf("%d elections in %v", elections, took)
		if limit := uint64(took/time.Second) + 1; elections > limit || elections == 0 {
			t.Errorf("%d elections in %v, want 1 to %d: a leader is let lead for a second", elections, took, limit)
		}
	})
}

// TestFailover_OthersDie: the death of a follower or of a non-voter moves nothing.
func TestFailover_OthersDie(t *testing.T) {
	inBubble(t, ordinary(164), func(t *testing.T, c *Cluster, h *History) {
		leader := c.settled()
		term := c.term(leader)
		c.Kill(c.Followers()[0])
		time.Sleep(5 * time.Second)
		if now := c.term(leader); now != term || c.Leader() != leader {
			t.Errorf("n%d in term %d leads after n%d in term %d: a follower died", c.Leader()+1, now, leader+1, term)
		}
	})
}

// TestRegression_TimeoutNowAtANonVoter: a non-voter that sees the leader die does not
// stand: raft would obey, raise the term and depose whoever leads. It votes for
// nobody's loss either: of two voters, one dead, nobody may lead.
func TestRegression_TimeoutNowAtANonVoter(t *testing.T) {
	opts := ordinary(165)
	opts.Nodes = 2
	opts.Configure = func(cfg *cluster.Config) { cfg.Replica = cfg.ID == "n3" }
	inBubble(t, opts, func(t *testing.T, c *Cluster, h *History) {
		leader := c.settled()
		replica := c.Add()
		if err := c.Node(leader).AddMember(t.Context(), c.Server(replica).Name, c.Net.Addr(c.Server(replica).Name), true, 0); err != nil {
			t.Fatal(err)
		}
		c.Await("the replica to serve", func() bool { return len(c.Node(replica).Ready()) == 0 })
		time.Sleep(3 * time.Second)
		term := c.term(leader)
		c.Kill(leader)
		time.Sleep(time.Second / 2) // raft itself has not timed out yet
		for _, s := range c.Servers() {
			if node := s.Node(); node != nil && node.Status(t.Context()).Term != term {
				t.Errorf("%s raised the term from %d to %d", s.Name, term, node.Status(t.Context()).Term)
			}
		}
		time.Sleep(10 * time.Second)
		if now := c.term(replica); now != term {
			t.Errorf("the replica is in term %d after %d", now, term)
		}
		c.Restart(leader)
	})
}
