package main

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy stands before a node's peer port: the others dial it. It passes bytes on
// late, or holds them.
type proxy struct {
	listener net.Listener
	to       string
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	delay  time.Duration
	held   chan struct{} // closed when nothing is held
	closed bool
}

// interpose puts a proxy before a node that has not started.
func interpose(t *testing.T, n *testNode) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, to: n.peer, conns: map[net.Conn]bool{}, held: make(chan struct{})}
	close(p.held)
	n.args = append(n.args, "--peer-advertise", l.Addr().String())
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.to)
		if err != nil {
			near.(*net.TCPConn).SetLinger(0) // a reset, as from a port that is closed
			near.Close()
			continue
		}
		if !p.keep(near, far) {
			return
		}
		p.wg.Go(func() { p.pass(near, far) })
		p.wg.Go(func() { p.pass(far, near) })
	}
}

func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.closed {
			c.Close()
		} else {
			p.conns[c] = true
		}
	}
	return !p.closed
}

// pass copies one direction. What was read waits for its time in a queue, so that
// delay costs no bandwidth.
func (p *proxy) pass(from, to net.Conn) {
	type chunk struct {
		data []byte
		due  time.Time
	}
	queue := make(chan chunk, 1024)
	p.wg.Go(func() {
		defer to.Close()
		for c := range queue {
			time.Sleep(time.Until(c.due))
			p.mu.Lock()
			held := p.held
			p.mu.Unlock()
			<-held
			if _, err := to.Write(c.data); err != nil {
				break
			}
		}
		for range queue {
		}
	})
	defer close(queue)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			p.mu.Lock()
			due := time.Now().Add(p.delay)
			p.mu.Unlock()
			queue <- chunk{append([]byte(nil), buf[:n]...), due}
		}
		if err != nil {
			if err != io.EOF {
				from.Close()
			}
			return
		}
	}
}

// slow delays every byte in both directions from now on.
func (p *proxy) slow(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// hold keeps everything back, in order, until release is called.
func (p *proxy) hold() (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := make(chan struct{})
	p.held = held
	return func() { close(held) }
}

// cut resets all connections that there are; new ones are accepted.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
		delete(p.conns, c)
	}
}

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.listener.Close()
	p.cut()
	p.wg.Wait()
}

// Everything between the nodes comes late, is held for long and comes then all the
// same, or is reset in the middle.
func TestG2_faults_of_delay(t *testing.T) {
	c := prepareCluster(t, 3)
	proxies := map[string]*proxy{}
	for _, n := range c.nodes {
		proxies[n.id] = interpose(t, n)
	}
	c.found(comparing...)
	tr := startTrial(c)
	all := func(f func(p *proxy)) {
		for _, p := range proxies {
			f(p)
		}
	}
	mishaps := []mishap{
		{"all connections are reset", func() func() {
			for range 3 {
				all((*proxy).cut)
				tr.more(5)
			}
			return func() {}
		}},
		{"all that nodes send is held until nobody leads, and comes then", func() func() {
			var release []func()
			all(func(p *proxy) { release = append(release, p.hold()) })
			eventually(t, "nobody leads", func() bool {
				for _, n := range tr.nodes {
					if s := n.status(); s == nil || s.Leader != nil {
						return false
					}
				}
				return true
			})
			return func() {
				for _, f := range release {
					f()
				}
			}
		}},
	}
	for _, d := range []time.Duration{20 * time.Millisecond, 150 * time.Millisecond} {
		mishaps = append(mishaps, mishap{fmt.Sprintf("all is %v late", d), func() func() {
			all(func(p *proxy) { p.slow(d) })
			tr.more(10)
			return func() { all(func(p *proxy) { p.slow(0) }) }
		}})
	}
	tr.run(2, mishaps...)
}
