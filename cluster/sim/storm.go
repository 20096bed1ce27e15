package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"conclave/cluster"
	"conclave/fsm"
)

// Storm is a workload under a schedule of faults.
type Storm struct {
	Seed     uint64
	Duration time.Duration // of the faults
	Calm     bool          // no faults: the workload alone
	Wipes    bool          // disks are wiped too, one at a time
	Moves    bool          // nodes join and others leave for good, one at a time
	Compact  bool          // short faults in quick succession, and part of the workload: for many seeds
	Schedule Schedule      // instead of the one drawn from the seed, if not nil
	Roles    []string      // who takes part, if not nil
}

// Rooms and keys of the workload.
const (
	hall  = "hall"  // one session for the whole run
	lobby = "lobby" // sessions begin and end
	stage = "stage" // the locked key, in the hall
)

// pace is that of the storm's faults.
func (s Storm) pace() pace {
	if s.Compact {
		return pace{calm: 600 * time.Millisecond, fault: 1200 * time.Millisecond}
	}
	return pace{calm: 4 * time.Second, fault: 6 * time.Second}
}

// configure sets a node's timeouts to fit the storm, and, with short, has it keep so
// little of its log that snapshots are taken, and installed in who was away.
func (s Storm) configure(timeout time.Duration, short bool) func(*cluster.Config) {
	return func(cfg *cluster.Config) {
		cfg.Timeout, cfg.DiskLimit = timeout, s.pace().diskLimit()
		if s.Compact {
			cfg.Deadline = time.Second
		}
		if short {
			cfg.SnapshotThreshold, cfg.TrailingLogs = 100, 20
			if s.Compact {
				cfg.SnapshotThreshold, cfg.TrailingLogs = 30, 10
			}
		}
	}
}

// role is a part of the workload: so many clients who do one thing.
type role struct {
	name  string
	many  int
	plays func(k *Client, i int, stop <-chan struct{})
}

// cast is who takes part in the storm: everybody, or in a compact one some, by the
// seed.
func (s Storm) cast() []role {
	ttl := 2 * time.Second
	if s.Compact {
		ttl = 500 * time.Millisecond
	}
	all := []role{
		{"register", 3, func(k *Client, _ int, stop <-chan struct{}) { k.Registers(hall, []string{"a", "b", "c"}, stop) }},
		{"hallwatch", 2, func(k *Client, _ int, stop <-chan struct{}) { k.Watches(hall, stop) }},
		{"locker", 3, func(k *Client, _ int, stop <-chan struct{}) { k.Locks(hall, stage, ttl, stop) }},
		{"intruder", 1, func(k *Client, _ int, stop <-chan struct{}) { k.Intrudes(hall, stage, stop) }},
		{"visitor", 3, func(k *Client, _ int, stop <-chan struct{}) { k.Visits(lobby, stop) }},
		{"lobbywatch", 2, func(k *Client, _ int, stop <-chan struct{}) { k.Watches(lobby, stop) }},
		{"lane", 2, func(k *Client, i int, stop <-chan struct{}) {
			k.think = 150 * time.Millisecond
			k.Pipeline(hall, fmt.Sprint("lane", i), stop)
		}},
		{"teller", 2, func(k *Client, _ int, stop <-chan struct{}) { k.Tallies(hall, stop) }},
		{"sharer", 3, func(k *Client, _ int, stop <-chan struct{}) { k.Shares(hall, ttl, stop) }},
		{"notary", 3, func(k *Client, _ int, stop <-chan struct{}) { k.Transacts(hall, stop) }},
	}
	switch {
	case s.Roles != nil:
		return slices.DeleteFunc(all, func(r role) bool { return !slices.Contains(s.Roles, r.name) })
	case !s.Compact:
		return all
	}
	// Registers and a watcher always, and two more parts with who belongs to them.
	rng := rand.New(rand.NewPCG(s.Seed, 5))
	parts := [][]role{all[2:4], all[4:6], all[6:7], all[7:8], all[8:9], all[9:10]}
	cast := slices.Clone(all[:2])
	for _, i := range rng.Perm(len(parts))[:2] {
		cast = append(cast, parts[i]...)
	}
	for i := range cast {
		if cast[i].name != "sharer" { // a keeper and two more
			cast[i].many = min(cast[i].many, 2)
		}
	}
	cast[1].many = 1
	return cast
}

// Run runs the workload on a cluster until the faults have ended and everything
// is mended, and waits until all nodes have all of it, and the same.
func (s Storm) Run(c *Cluster, h *History) {
	c.t.Helper()
	stop := make(chan struct{})
	think := 100 * time.Millisecond
	if s.Compact {
		think = 150 * time.Millisecond
	}
	var clients sync.WaitGroup
	whole := false
	defer func() { // nobody is left behind when a failure ends the storm
		if !whole {
			close(stop)
			c.close()
			clients.Wait()
		}
	}()
	for _, role := range s.cast() {
		for i := range role.many {
			clients.Go(func() {
				k := c.NewClient(h, fmt.Sprint(role.name, i))
				k.think = think
				role.plays(k, i, stop)
			})
		}
	}
	schedule := s.Schedule
	if schedule == nil {
		schedule = s.draw()
	}
	if s.Calm {
		time.Sleep(s.Duration)
	}
	s.faults(c, schedule)
	c.Mend()
	c.AwaitReady()
	time.Sleep(s.pace().fault / 3) // some work after the storm
	close(stop)
	clients.Wait()
	whole = true
	c.Settle()
	c.compare(h)
}

// compare notes the states of all nodes, once all have the same entries: they have
// to be equal.
func (c *Cluster) compare(h *History) {
	c.t.Helper()
	var views map[string]*fsm.View
	c.Await("all nodes to be at one index", func() bool {
		views = map[string]*fsm.View{}
		var index uint64
		for _, s := range c.Servers() {
			node := s.Node()
			if node == nil {
				return false
			}
			view := node.View()
			if index != 0 && view.Index() != index {
				return false
			}
			index, views[s.Name] = view.Index(), view
		}
		return true
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, view := range views {
		if h.Hashes[view.Index()] == nil {
			h.Hashes[view.Index()] = map[string][32]byte{}
		}
		h.Hashes[view.Index()][name] = view.Hash()
	}
	h.Virtual = h.Now()
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

func member(st cluster.Status, name string) bool {
	return slices.ContainsFunc(st.Members, func(m cluster.Member) bool { return m.ID == name })
}
