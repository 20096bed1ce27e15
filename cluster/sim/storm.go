package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Storm is a workload under a random schedule of faults.
type Storm struct {
	Seed     uint64
	Duration time.Duration // of the faults
	Calm     bool          // no faults: the workload alone
	Wipes    bool          // disks are wiped too, one at a time
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
		view, err := c.Node(0).Read(context.Background())
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
			s.wipe(c, rng.IntN(len(c.Servers())))
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

// trouble begins one fault.
func (s Storm) trouble(c *Cluster, rng *rand.Rand) {
	servers := c.Servers()
	victim := rng.IntN(len(servers))
	if rng.IntN(2) == 0 {
		victim = c.Leader()
	}
	other := (victim + 1 + rng.IntN(len(servers)-1)) % len(servers)
	switch rng.IntN(9) {
	case 0, 1:
		c.Kill(victim)
	case 2:
		c.Isolate(victim)
	case 3:
		c.Net.Cut(servers[victim].Name, servers[other].Name)
	case 4:
		c.Pause(victim)
	case 5:
		c.Skew(victim, time.Duration(rng.IntN(7200)-3600)*time.Second)
		c.Kill(other)
	case 6: // a power cut for all
		for i := range servers {
			c.Kill(i)
		}
	case 7:
		c.Stop(victim)
	case 8:
		if node := c.Node(victim); node != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			node.Transfer(ctx, servers[other].Name)
			cancel()
		}
	}
}
