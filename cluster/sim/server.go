package sim

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"conclave/cluster"
)

// Server is a machine of the cluster: a disk, an address, and a process that may
// be down. Its number in the cluster starts at 0, its name at n1.
type Server struct {
	Name string
	Disk *Disk
	c    *Cluster

	retired bool // guarded by c.mu; has left the cluster for good
	wasUp   bool // has been started before

	mu   sync.Mutex
	proc *process      // nil while down
	doom *process      // may stop itself: its disk is broken
	skew time.Duration // of the wall clock
}

// process is one life of a node.
type process struct {
	node   *cluster.Node
	killed chan struct{} // closed when it has died: what it still says is not heard
}

// Node is the running node, nil while it is down.
func (s *Server) Node() *cluster.Node {
	if p := s.process(); p != nil {
		return p.node
	}
	return nil
}

func (s *Server) process() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// Restart starts the node from what is on its disk. It must be down.
func (c *Cluster) Restart(i int) {
	c.t.Helper()
	s := c.Server(i)
	p := &process{killed: make(chan struct{})}
	node, err := cluster.Open(c.config(s, p))
	if err != nil {
		c.t.Fatalf("start %s: %v", s.Name, err)
	}
	p.node = node
	if c.opts.History != nil {
		c.opts.History.record(s.Name, p)
	}
	s.mu.Lock()
	s.proc = p
	s.mu.Unlock()
}

func (c *Cluster) config(s *Server, p *process) cluster.Config {
	vol := s.Disk.Open()
	cfg := cluster.Config{
		ID: s.Name, PeerAddr: c.Net.Addr(s.Name), HTTPAddr: s.Name + ":7400", Version: "sim",
		Log: vol, Stable: vol, Snapshots: vol.Snapshots(), Network: c.Net.Host(s.Name, ""),
		DiskLimit:       time.Hour,       // unless a test is about it, slow disks are only slow
		CompareInterval: 5 * time.Second, // every run is a test of the replicas being equal
		Wall: func() time.Time {
			s.mu.Lock()
			defer s.mu.Unlock()
			return time.Now().Add(s.skew)
		},
		Fatal:  func(err error) { c.fatal(s, p, err) },
		Logger: logger(s.Name),
	}
	if s.number() < c.opts.Nodes {
		cfg.BootstrapExpect = c.opts.Nodes
	}
	// A node that is added is told of the others only once it has been up: it comes
	// by AddMember, and finds its way back, also without its disk.
	if s.number() < c.opts.Nodes || s.wasUp {
		for _, other := range c.Servers() {
			cfg.Join = append(cfg.Join, c.Net.Addr(other.Name))
		}
	}
	s.wasUp = true
	if c.opts.Configure != nil {
		c.opts.Configure(&cfg)
	}
	return cfg
}

func (s *Server) number() (i int) {
	fmt.Sscanf(s.Name, "n%d", &i)
	return i - 1
}

// logger shows what nodes log when SIM_LOG is set.
func logger(name string) *slog.Logger {
	if os.Getenv("SIM_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", name)
}

// fatal is the end of a process that stops itself.
func (c *Cluster) fatal(s *Server, p *process, err error) {
	select {
	case <-p.killed:
		return // it was dead already
	default:
	}
	s.mu.Lock()
	doomed := s.doom == p
	s.mu.Unlock()
	switch {
	case c.opts.Fatal != nil:
		c.opts.Fatal(s.Name, err)
	case !doomed:
		c.t.Errorf("%s stopped itself: %v", s.Name, err)
	}
	s.kill(p)
}

// Doom says that a node's process is to stop itself, because its disk will break.
func (c *Cluster) Doom(i int) {
	s := c.Server(i)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doom = s.proc
}

// Kill ends a node's process as SIGKILL does: nothing it had not synced or sent
// survives, and nothing it still does has an effect. Killing a dead node does
// nothing.
func (c *Cluster) Kill(i int) {
	s := c.Server(i)
	if p := s.process(); p != nil {
		s.kill(p)
	}
}

func (s *Server) kill(p *process) {
	s.mu.Lock()
	if s.proc != p {
		s.mu.Unlock()
		return
	}
	s.proc = nil
	s.mu.Unlock()
	c := s.c
	close(p.killed)
	c.Net.Kill(s.Name)
	s.Disk.Crash()
	c.Net.Resume(s.Name)
	// The goroutines of the dead process end in their own time.
	c.closing.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		p.node.Close(ctx)
	})
}

// Stop ends a node cleanly.
func (c *Cluster) Stop(i int) {
	c.t.Helper()
	s := c.Server(i)
	p := s.process()
	if p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.node.Close(ctx); err != nil {
		c.t.Errorf("close %s: %v", s.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proc = nil
	close(p.killed)
}

// Pause stops a node as far as anybody else can see: its messages, in both
// directions, and its writes to disk wait until Resume. Its timers still run,
// which a process that is really stopped would find expired when it wakes.
func (c *Cluster) Pause(i int) {
	s := c.Server(i)
	c.Net.Pause(s.Name)
	s.Disk.Hang()
}

// Resume ends a Pause.
func (c *Cluster) Resume(i int) {
	s := c.Server(i)
	s.Disk.Work()
	c.Net.Resume(s.Name)
}

// Wipe replaces the disk of a node that is down by an empty one.
func (c *Cluster) Wipe(i int) { c.Server(i).Disk.Wipe() }

// Skew sets a node's wall clock off by d.
func (c *Cluster) Skew(i int, d time.Duration) {
	s := c.Server(i)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew = d
}
