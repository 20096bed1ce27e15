package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"conclave/cluster"
)

// Storm is a workload under a random schedule of faults.
type Storm struct {
	Seed     uint64
	Duration time.Duration // of the faults
	Calm     bool          // no faults: the workload alone
	Wipes    bool          // disks are wiped too, one at a time
	Moves    bool          // nodes join and others leave for good, one at a time
}

// Rooms and keys of the workload.
const (
	hall  = "hall"  // one session for the whole run
	lobby = "lobby" // sessions begin and end
	stage = "stage" // the locked key, in the hall
)

// Run runs the workload on a cluster until the faults have ended and everything
// is mended, and waits until all nodes have all of it.
func (s Storm) Run(c *Cluster, h *History) {
	c.t.Helper()
	stop := make(chan struct{})
	var clients sync.WaitGroup
	start := func(name string, run func(k *Client)) { clients.Go(func() { run(c.NewClient(h, name)) }) }
	for i := range 3 {
		start(fmt.Sprint("register", i), func(k *Client) { k.Registers(hall, []string{"a", "b", "c"}, stop) })
		start(fmt.Sprint("locker", i), func(k *Client) { k.Locks(hall, stage, 2*time.Second, stop) })
		start(fmt.Sprint("visitor", i), func(k *Client) { k.Visits(lobby, stop) })
	}
	for i := range 2 {
		start(fmt.Sprint("lane", i), func(k *Client) {
			k.think = 150 * time.Millisecond
			k.Pipeline(hall, fmt.Sprint("lane", i), stop)
		})
		start(fmt.Sprint("hallwatch", i), func(k *Client) { k.Watches(hall, stop) })
		start(fmt.Sprint("lobbywatch", i), func(k *Client) { k.Watches(lobby, stop) })
	}
	start("intruder", func(k *Client) { k.Intrudes(hall, stage, stop) })

	s.faults(c)
	c.Mend()
	c.AwaitReady()
	time.Sleep(2 * time.Second) // some work after the storm
	close(stop)
	clients.Wait()
	c.Settle()
}

// Settle waits until all nodes have applied the same.
func (c *Cluster) Settle() {
	c.t.Helper()
	c.Await("all nodes to have applied everything", func() bool {
		view, err := c.Servers()[0].Node().Read(context.Background())
		if err != nil {
			return false
		}
		for _, s := range c.Servers() {
			if node := s.Node(); node != nil && node.View().Rev() < view.Rev() {
				return false
			}
		}
		return true
	})
}

// faults makes one trouble after the other, with some calm between.
func (s Storm) faults(c *Cluster) {
	rng := rand.New(rand.NewPCG(s.Seed, 3))
	for begin := time.Now(); time.Since(begin) < s.Duration; {
		time.Sleep(time.Duration(rng.Int64N(int64(4 * time.Second))))
		if s.Calm {
			continue
		}
		if s.Wipes && rng.IntN(3) == 0 {
			s.wipe(c, c.Servers()[rng.IntN(len(c.Servers()))].number())
			continue
		}
		if s.Moves && rng.IntN(3) == 0 {
			s.move(c, rng)
			continue
		}
		s.trouble(c, rng)
		time.Sleep(time.Duration(rng.Int64N(int64(6 * time.Second))))
		c.Mend()
	}
}

// wipe has a node lose its disk, and waits until it is a voter again: another
// fault before could cost the majority.
func (s Storm) wipe(c *Cluster, i int) {
	c.AwaitReady()
	c.Kill(i)
	c.Wipe(i)
	time.Sleep(time.Second)
	c.Restart(i)
	c.AwaitVoter(i)
}

// move has a new node take the place of another, the leader as often as not, by
// the word of any node; it asks again until it is done.
func (s Storm) move(c *Cluster, rng *rand.Rand) {
	c.AwaitReady()
	servers := c.Servers()
	leaves := servers[rng.IntN(len(servers))].number()
	if rng.IntN(2) == 0 {
		leaves = c.Leader()
	}
	comes := c.Add()
	name, addr := c.Server(comes).Name, c.Net.Addr(c.Server(comes).Name)
	ask := func(what string, f func(ctx context.Context, n *cluster.Node) error, done func(cluster.Status) bool) {
		c.Await(what, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			node := servers[rng.IntN(len(servers))].Node()
			if node == nil {
				return false
			}
			f(ctx, node)
			leader := c.Node(c.Leader())
			return leader != nil && done(leader.Status(ctx))
		})
	}
	ask(name+" to be added", func(ctx context.Context, n *cluster.Node) error { return n.AddMember(ctx, name, addr, false, 0) },
		func(st cluster.Status) bool { return member(st, name) })
	c.AwaitVoter(comes)
	gone := c.Server(leaves).Name
	ask(gone+" to be removed", func(ctx context.Context, n *cluster.Node) error { return n.RemoveMember(ctx, gone, false, 0) },
		func(st cluster.Status) bool { return !member(st, gone) })
	c.Retire(leaves)
}

func member(st cluster.Status, name string) bool {
	return slices.ContainsFunc(st.Members, func(m cluster.Member) bool { return m.ID == name })
}

// trouble begins one fault.
func (s Storm) trouble(c *Cluster, rng *rand.Rand) {
	servers := c.Servers()
	victim := servers[rng.IntN(len(servers))].number()
	if rng.IntN(2) == 0 {
		victim = c.Leader()
	}
	other := victim
	for other == victim {
		other = servers[rng.IntN(len(servers))].number()
	}
	switch rng.IntN(11) {
	case 0, 1:
		c.Kill(victim)
	case 2:
		c.Isolate(victim)
	case 3:
		c.Net.Cut(c.Server(victim).Name, c.Server(other).Name)
	case 4:
		c.Pause(victim)
	case 5:
		c.Skew(victim, time.Duration(rng.IntN(7200)-3600)*time.Second)
		c.Kill(other)
	case 6: // a power cut for all
		for _, server := range servers {
			c.Kill(server.number())
		}
	case 7:
		c.Stop(victim)
	case 8:
		if node := c.Node(victim); node != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			node.Transfer(ctx, c.Server(other).Name)
			cancel()
		}
	case 9: // a firewall that rejects
		c.Net.Sever(c.Server(victim).Name, c.Server(other).Name)
		if rng.IntN(2) == 0 {
			c.Net.Sever(c.Server(other).Name, c.Server(victim).Name)
		}
	case 10: // connections break that can be made again
		for range 20 {
			for _, server := range servers {
				c.Net.Reset(server.Name, c.Server(victim).Name)
				c.Net.Reset(c.Server(victim).Name, server.Name)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}
