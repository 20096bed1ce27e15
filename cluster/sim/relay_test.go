package sim

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"conclave/cluster"
	"conclave/fsm"
)

// gossip sends messages that are not logged from all nodes and keeps what each
// process got. Messages of a (sender, topic) are numbered from 1.
type gossip struct {
	c *Cluster

	mu   sync.Mutex
	sent map[string]int
	got  map[*process]map[string][]int
}

func newGossip(c *Cluster) *gossip {
	g := &gossip{c: c, sent: map[string]int{}, got: map[*process]map[string][]int{}}
	for _, s := range c.Servers() {
		g.listen(s.number())
	}
	return g
}

// listen listens at the process that a server runs now.
func (g *gossip) listen(i int) {
	p := g.c.Server(i).process()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.got[p] = map[string][]int{}
	p.node.ObserveEphemeral(func(es []*cluster.Ephemeral) {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, e := range es {
			var n int
			fmt.Sscan(string(e.Message.Data), &n)
			key := e.By.Peer + "/" + e.Message.Topic
			if e.Room != "hall" || e.Session != "s1" {
				g.c.t.Errorf("a message to session %s of %s", e.Session, e.Room)
			}
			g.got[p][key] = append(g.got[p][key], n)
		}
	})
}

// say sends the next message of a node on a topic, if it is up.
func (g *gossip) say(i int, topic string) {
	node := g.c.Node(i)
	if node == nil {
		return
	}
	sender := node.ID()
	g.mu.Lock()
	g.sent[sender+"/"+topic]++
	n := g.sent[sender+"/"+topic]
	g.mu.Unlock()
	node.Relay(cluster.NewEphemeral("hall", "s1", 1, fsm.By{Kind: fsm.CallerPeer, Peer: sender},
		&fsm.Message{Topic: topic, Data: fmt.Append(nil, n)}))
}

// heard is what the process that a server runs now got of a node on a topic.
func (g *gossip) heard(i int, sender, topic string) []int {
	p := g.c.Server(i).process()
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]int(nil), g.got[p][sender+"/"+topic]...)
}

// last is the number of the last of heard, 0 for none.
func last(heard []int) int {
	if len(heard) == 0 {
		return 0
	}
	return heard[len(heard)-1]
}

// everywhere waits until all other nodes have the last message of a node on a topic.
func (g *gossip) everywhere(from int, topic string) {
	g.c.t.Helper()
	sender := g.c.Server(from).Name
	g.mu.Lock()
	want := g.sent[sender+"/"+topic]
	g.mu.Unlock()
	for _, s := range g.c.Servers() {
		if i := s.number(); i != from {
			g.c.Await(fmt.Sprintf("%s to get %s/%s %d", s.Name, sender, topic, want), func() bool {
				return last(g.heard(i, sender, topic)) == want
			})
		}
	}
}

// check complains about what came twice or out of order, to one process.
func (g *gossip) check() {
	g.c.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	total := 0
	for _, topics := range g.got {
		for key, heard := range topics {
			total += len(heard)
			for i := 1; i < len(heard); i++ {
				if heard[i] <= heard[i-1] {
					g.c.t.Errorf("%s: %d came after %d", key, heard[i], heard[i-1])
				}
			}
		}
	}
	g.c.t.Logf("%d deliveries", total)
}

// In a storm a message comes once at most, and never behind a newer one of its
// sender. When the storm is over, it comes.
func TestRelay_AtMostOnceAndInOrder(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cond := Rough
				cond.Reset = 0.05
				c := Start(t, Options{Seed: seed, Net: cond, Sync: time.Millisecond})
				g := newGossip(c)
				random := rand.New(rand.NewPCG(seed, 7))
				mend := func() {
					var down []int
					for i := range 3 {
						if c.Node(i) == nil {
							down = append(down, i)
						}
					}
					c.Mend()
					for _, i := range down {
						g.listen(i)
					}
				}
				for step := range 2_000 {
					for i := range 3 {
						g.say(i, fmt.Sprint("t", random.IntN(3)))
					}
					time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
					if step%100 != 99 {
						continue
					}
					switch i := random.IntN(3); random.IntN(5) {
					case 0:
						c.Isolate(i)
					case 1:
						c.Pause(i)
					case 2:
						c.Kill(i)
					default:
						mend()
					}
				}
				mend()
				c.Net.SetConditions(LAN)
				c.AwaitReady()
				time.Sleep(30 * time.Second) // what lingers on old connections has come
				for range 5 {                // the first may be lost with a connection that is found broken
					for i := range 3 {
						g.say(i, "t0")
					}
					time.Sleep(2 * time.Second)
				}
				for i := range 3 {
					g.everywhere(i, "t0")
				}
				g.check()
			})
		})
	}
}

// A member that is away gets, when it is back, the latest of each sender and topic,
// and nothing of what that superseded.
func TestRelay_LatestForWhoWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, ordinary(81))
		g := newGossip(c)
		g.say(0, "cursor")
		g.everywhere(0, "cursor")
		c.Isolate(2)
		g.say(0, "cursor") // finds out that n3 is away, and may be lost
		time.Sleep(10 * time.Second)
		for range 200 {
			g.say(0, "cursor")
			g.say(1, "level")
			time.Sleep(20 * time.Millisecond)
		}
		if got := last(g.heard(1, "n1", "cursor")); got < 200 {
			t.Errorf("a member that is not away has got no further than %d", got)
		}
		c.Net.Heal()
		g.everywhere(0, "cursor")
		g.everywhere(1, "level")
		if got := g.heard(2, "n1", "cursor"); len(got) > 3 {
			t.Errorf("who was away got %v", got)
		}
		if superseded, _ := c.Node(0).Relayed(); superseded < 150 {
			t.Errorf("%d messages gave way to newer ones", superseded)
		}
		g.check()
	})
}

// Replicas get what voters get. Who was removed is not listened to, although it
// may not know yet.
func TestRelay_FollowsTheMembership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, ordinary(82))
		leader := c.Leader()
		replica := c.Add()
		if err := c.Node(leader).AddMember(t.Context(), "n4", c.Net.Addr("n4"), true, 0); err != nil {
			t.Fatal(err)
		}
		c.AwaitReady()
		g := newGossip(c)
		for i := range 4 {
			g.say(i, "t")
		}
		for i := range 4 {
			g.everywhere(i, "t")
		}
		// It cannot be told of its removal.
		c.Net.Cut(c.Server(leader).Name, "n4")
		if err := c.Node(leader).RemoveMember(t.Context(), "n4", false, 0); err != nil {
			t.Fatal(err)
		}
		c.Await("all to know", func() bool {
			for i := range 3 {
				if len(c.Node(i).Status(t.Context()).Members) != 3 {
					return false
				}
			}
			return true
		})
		for range 20 {
			g.say(replica, "t")
			g.say(leader, "t")
			time.Sleep(500 * time.Millisecond)
		}
		for i := range 3 {
			if got := g.heard(i, "n4", "t"); len(got) != 1 {
				t.Errorf("n%d listens to a node that was removed: %v", i+1, got)
			}
		}
		if got := g.heard(replica, c.Server(leader).Name, "t"); len(got) != 1 {
			t.Errorf("a node that was removed is still sent to: %v", got)
		}
	})
}

// olderNetwork makes a node one of before messages were relayed.
type olderNetwork struct {
	cluster.Network
	asked *atomic.Int64
}

type olderChannel struct {
	cluster.Channel
	asked *atomic.Int64
}

func (n olderNetwork) Open(self cluster.Identity, resolve func(raft.ServerID) (string, bool)) (raft.Transport, cluster.Channel, error) {
	transport, channel, err := n.Network.Open(self, resolve)
	return transport, olderChannel{channel, n.asked}, err
}

func (c olderChannel) Handle(serve func(cluster.Identity, cluster.Method, []byte, func([]byte, error))) {
	c.Channel.Handle(func(from cluster.Identity, m cluster.Method, req []byte, reply func([]byte, error)) {
		if m == 13 {
			c.asked.Add(1)
			reply(nil, cluster.RemoteError("method 13 is not known to this node"))
			return
		}
		serve(from, m, req, reply)
	})
}

// A node that does not know the method costs the others a question now and then.
func TestRelay_ToleratesOlderNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		opts := ordinary(83)
		opts.Configure = func(cfg *cluster.Config) {
			if cfg.ID == "n3" {
				cfg.Network = olderNetwork{cfg.Network, &asked}
			}
		}
		c := Start(t, opts)
		g := newGossip(c)
		const seconds = 30
		for range seconds * 20 {
			g.say(0, "cursor")
			time.Sleep(50 * time.Millisecond)
		}
		g.mu.Lock()
		want := g.sent["n1/cursor"]
		g.mu.Unlock()
		c.Await("n2 to get all", func() bool { return len(g.heard(1, "n1", "cursor")) == want })
		time.Sleep(5 * time.Second)
		if n := asked.Load(); n == 0 || n > 3*seconds+20 {
			t.Errorf("asked %d times in %d s", n, seconds)
		}
	})
}
