package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"conclave/cluster"
)

// Options of a simulated cluster. The zero value is three nodes on a network
// without delay.
type Options struct {
	Seed    uint64
	Nodes   int           // that found the cluster; 0 means 3
	Net     Conditions    // of the network
	Sync    time.Duration // about how long a write to a disk takes
	Hiccups float64       // probability of a write that takes fifty times as long
	History *History      // records what the nodes publish, if set
	// Configure may change a node's configuration at every start of it.
	Configure func(*cluster.Config)
	// Fatal is told when a node stops itself; nil fails the test.
	Fatal func(node string, err error)
}

// Cluster is a simulated cluster.
type Cluster struct {
	t    testing.TB
	opts Options
	Net  *Network
	rng  *rand.Rand // of the disks' seeds; the test's goroutine alone

	closing *tasks        // nodes that were killed and are being closed; one may also stop itself while the test ends
	over    chan struct{} // closed when the test ends
	closed  atomic.Bool

	mu      sync.Mutex
	servers []*Server
}

// NewCluster starts n nodes and waits until all serve. It works in real time,
// and in a bubble's. The cluster ends with the test. Timeouts are short: who waits
// for an election in real time waits for long enough.
func NewCluster(t testing.TB, n int) *Cluster {
	t.Helper()
	return Start(t, Options{Seed: 1, Nodes: n, Configure: func(cfg *cluster.Config) { cfg.Timeout = 200 * time.Millisecond }})
}

// Start starts a cluster and waits until all nodes serve.
func Start(t testing.TB, opts Options) *Cluster {
	t.Helper()
	if opts.Nodes == 0 {
		opts.Nodes = 3
	}
	rng := rand.New(rand.NewPCG(opts.Seed, 1))
	c := &Cluster{
		t: t, opts: opts, rng: rng, closing: newTasks(), over: make(chan struct{}),
		Net: NewNetwork(rand.New(rand.NewPCG(opts.Seed, 2)), opts.Net),
	}
	t.Cleanup(c.close)
	for range opts.Nodes {
		c.add()
	}
	for i := range opts.Nodes {
		c.Restart(i)
	}
	c.AwaitReady()
	return c
}

// Add starts an empty node that is no member, and returns its number. It is not
// told of the others: cluster.Node.AddMember takes it in.
func (c *Cluster) Add() int {
	c.t.Helper()
	i := c.add()
	c.Restart(i)
	return i
}

func (c *Cluster) add() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := len(c.servers)
	s := &Server{
		Name: fmt.Sprint("n", i+1), c: c,
		Disk: NewDisk(rand.New(rand.NewPCG(c.opts.Seed, c.rng.Uint64())), c.opts.Sync, c.opts.Hiccups),
	}
	c.Net.Host(s.Name, s.Name+":7500")
	c.servers = append(c.servers, s)
	return i
}

// Server is the server with a number.
func (c *Cluster) Server(i int) *Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers[i]
}

// Servers are all that have not been retired, up or down.
func (c *Cluster) Servers() (servers []*Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.servers {
		if !s.retired {
			servers = append(servers, s)
		}
	}
	return servers
}

// Retire ends a node for good; it should not be a member any more.
func (c *Cluster) Retire(i int) {
	c.Kill(i)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[i].retired = true
}

// Node is the running node with a number, nil while it is down.
func (c *Cluster) Node(i int) *cluster.Node { return c.Server(i).Node() }

// Isolate cuts a node off from all others.
func (c *Cluster) Isolate(i int) {
	var others []string
	for _, s := range c.Servers() {
		if s.number() != i {
			others = append(others, s.Name)
		}
	}
	c.Net.Partition([]string{c.Server(i).Name}, others)
}

// Mend ends every fault: all links, pauses, disks, clocks, and dead nodes.
func (c *Cluster) Mend() {
	c.t.Helper()
	c.Net.Heal()
	c.Net.SetConditions(c.opts.Net)
	for _, s := range c.Servers() {
		i := s.number()
		c.Resume(i)
		c.Skew(i, 0)
		if s.process() == nil {
			c.Restart(i)
		}
	}
}

// Await polls until a condition holds and fails the test if it never does.
func (c *Cluster) Await(what string, holds func() bool) {
	c.t.Helper()
	await(c.t, what, holds)
}

// AwaitReady waits until every running node serves.
func (c *Cluster) AwaitReady() {
	c.t.Helper()
	for _, s := range c.Servers() {
		c.Await(s.Name+" to serve", func() bool {
			node := s.Node()
			return node == nil || len(node.Ready()) == 0
		})
	}
}

// Leader waits for a node that leads and is known to, and returns its number.
func (c *Cluster) Leader() (leader int) {
	c.t.Helper()
	c.Await("a leader", func() bool {
		for _, s := range c.Servers() {
			node := s.Node()
			if node == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			status := node.Status(ctx)
			cancel()
			if status.Leader == s.Name {
				leader = s.number()
				return true
			}
		}
		return false
	})
	return leader
}

// AwaitVoter waits until a node is a voter, by the word of the leader, and knows
// it: the leader alone may still speak of what the node was before its disk was
// wiped.
func (c *Cluster) AwaitVoter(i int) {
	c.t.Helper()
	name := c.Server(i).Name
	c.Await(name+" to be a voter", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		leader := c.Node(c.Leader())
		if leader == nil {
			return false
		}
		said := leader.Status(ctx)
		node := c.Node(i)
		if node == nil || node.Status(ctx).ConfigIndex != said.ConfigIndex {
			return false
		}
		for _, m := range said.Members {
			if m.ID == name && m.Voter && m.Healthy {
				return true
			}
		}
		return false
	})
}

// Followers are the numbers of the running nodes that do not lead.
func (c *Cluster) Followers() (followers []int) {
	c.t.Helper()
	leader := c.Leader()
	for _, s := range c.Servers() {
		if i := s.number(); i != leader && s.process() != nil {
			followers = append(followers, i)
		}
	}
	return followers
}

// close ends everything.
func (c *Cluster) close() {
	if c.closed.Swap(true) {
		return
	}
	close(c.over)
	c.Net.Heal()
	for _, s := range c.Servers() {
		s.Disk.Work()
		c.Net.Resume(s.Name)
		c.Kill(s.number())
	}
	c.closing.Wait()
	c.Net.Close()
}
