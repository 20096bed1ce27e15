package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// errUnsupported is what a system answers that has no such operation.
var errUnsupported = errors.New("the system has no such operation")

// nodes is the size of the clusters that are compared.
const nodes = 3

// sharedConns is how many connections the writers and readers share, a few to each
// node: all three clients multiplex, and all three write faster with 12 than with 48
// or with one per client.
const sharedConns = 12

// system is a way to run a cluster of one product.
type system struct {
	name    string
	version string
	nodes   int
	// plan says how to run the nodes with their data under dir, which serve clients at
	// the first ports and each other at the second.
	plan func(dir string, clients, peers []int) (*running, error)
}

// start starts the nodes with their data under dir, and returns once the cluster
// takes writes.
func (s *system) start(ctx context.Context, dir string) (*running, error) {
	ports, err := freePorts(2 * s.nodes)
	if err != nil {
		return nil, err
	}
	r, err := s.plan(dir, ports[:s.nodes], ports[s.nodes:])
	if err != nil {
		return nil, err
	}
	r.share = sharedConns
	if err := startAll(r.procs); err != nil {
		r.close()
		return nil, err
	}
	if err := eventually(ctx, "wait for "+s.name, r.ready); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

// running is a cluster that serves, or is about to.
type running struct {
	procs []*process
	// ready reports whether the cluster takes writes, and prepares it for them.
	ready func(ctx context.Context) error
	// share is how many connections writers and readers share.
	share int
	// dial makes client number i. Subscribers have a connection of their own.
	dial func(ctx context.Context, i int) (session, error)
	// leader is the index of the node that leads.
	leader  func(ctx context.Context) (int, error)
	close   func()   // what the clients share
	servers []string // of this product: where its clients reach the nodes
}

// session is one client. A method that the system does not have answers
// errUnsupported.
type session interface {
	put(ctx context.Context, key string, value []byte) error
	// get is a linearizable read.
	get(ctx context.Context, key string) error
	// cas writes on the condition that the key is as this session last saw it, and
	// learns how it is now. It reports whether it has won.
	cas(ctx context.Context, key string, value []byte) (bool, error)
	// lock takes a lock, waiting for it, and unlocks it.
	lock(ctx context.Context, key string) (unlock func() error, err error)
	// watch calls f for each change of the key until ctx ends. It returns once the
	// watch is in place. gap is called when changes are missing.
	watch(ctx context.Context, key string, f func(value []byte), gap func()) error
	close()
}

// stop ends the nodes and what the clients share.
func (r *running) stop() {
	r.close()
	for _, p := range r.procs {
		p.stop()
	}
}

// process is a node. It can be killed and started again with the same data.
type process struct {
	path string
	args []string
	log  string
	data string // of this product: its folder
	cmd  *exec.Cmd
	done chan struct{}
}

func (p *process) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.path, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	p.done = done
	go func(cmd *exec.Cmd) {
		defer close(done)
		_ = cmd.Wait() // however it ended, it has
	}(p.cmd)
	return nil
}

// kill ends the process without a chance to say goodbye.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop asks the process to end, and kills it if it does not.
func (p *process) stop() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.kill()
	}
}

// startAll starts processes, none of them or all.
func startAll(procs []*process) error {
	for i, p := range procs {
		if err := p.start(); err != nil {
			for _, q := range procs[:i] {
				q.kill()
			}
			return fmt.Errorf("start %s: %w", filepath.Base(p.path), err)
		}
	}
	return nil
}

// freePorts finds n ports that nobody listens on.
func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

// eventually repeats try until it succeeds.
func eventually(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		attempt, done := context.WithTimeout(ctx, 5*time.Second)
		err := try(attempt)
		done()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
