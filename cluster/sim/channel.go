package sim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"conclave/cluster"
)

// channel is the node channel's half of a process's network: one connection per
// member it sends to, made when first used. See connection for what holds on it.
type channel struct {
	host    *host
	self    cluster.Identity
	resolve func(raft.ServerID) (string, bool)

	once  sync.Once
	down  chan struct{} // closed by Close, or when the process is killed
	wg    sync.WaitGroup
	ready chan struct{} // closed by Handle
	serve handler       // set before ready closes
	lost  func(raft.ServerID)

	mu    sync.Mutex // held while a request is queued, so that queues keep the order of Send
	conns map[raft.ServerID]*connection
}

type handler = func(from cluster.Identity, m cluster.Method, req []byte, reply func([]byte, error))

var _ cluster.Channel = (*channel)(nil)

func newChannel(h *host, self cluster.Identity, resolve func(raft.ServerID) (string, bool)) *channel {
	return &channel{
		host: h, self: self, resolve: resolve,
		down: make(chan struct{}), ready: make(chan struct{}), conns: map[raft.ServerID]*connection{},
	}
}

// Handle implements cluster.Channel.
func (c *channel) Handle(serve func(cluster.Identity, cluster.Method, []byte, func([]byte, error))) {
	c.serve = serve
	close(c.ready)
}

// Lost implements cluster.Channel.
func (c *channel) Lost(f func(raft.ServerID)) { c.lost = f }

// verify looks whether a member whose connection was reset is gone: dialling it is
// refused, and of its own connections to this host none is left, nor anything that
// came by them.
func (c *channel) verify(to raft.ServerID) {
	addr, ok := c.resolve(to)
	if !ok || c.lost == nil {
		return
	}
	if _, err := c.connect(addr, c.down); !errors.Is(err, errRefused) {
		return
	}
	for c.host.net.calls(hostOf(to), c.host) {
		if !c.host.net.sleep(time.Millisecond, c.down) {
			return
		}
	}
	select {
	case <-c.down:
	default:
		c.lost(to)
	}
}

// hostOf is the host of a server: nodes have their hosts' names.
func hostOf(id raft.ServerID) string {
	name, _, _ := strings.Cut(string(id), ".")
	return name
}

// Send implements cluster.Channel.
func (c *channel) Send(ctx context.Context, to raft.ServerID, m cluster.Method, req []byte, done func([]byte, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.down:
		c.host.net.wg.Go(func() { done(nil, fmt.Errorf("channel closed: %w", cluster.ErrNotSent)) })
		return
	default:
	}
	// A connection that broke is replaced by the next request; what the old one
	// still has under way may arrive after it, as over TCP.
	conn := c.conns[to]
	if conn == nil || !conn.usable() {
		conn = newConnection(c, to)
		c.conns[to] = conn
		c.wg.Go(conn.run)
	}
	conn.send(ctx, m, req, done)
}

// reset breaks the connections to a host.
func (c *channel) reset(host string) {
	c.mu.Lock()
	var conns []*connection
	for id, k := range c.conns {
		if hostOf(id) == host {
			conns = append(conns, k)
		}
	}
	c.mu.Unlock()
	for _, k := range conns {
		k.fail(errReset)
	}
}

// Dial implements cluster.Channel. It uses a connection of its own.
func (c *channel) Dial(ctx context.Context, addr string, m cluster.Method, req []byte) (cluster.Identity, []byte, error) {
	type reply struct {
		from   cluster.Identity
		answer []byte
		err    error
	}
	got := make(chan reply, 1)
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	net := c.host.net
	net.wg.Go(func() {
		callee, err := c.connect(addr, ctx.Done())
		if err != nil {
			got <- reply{err: err}
			return
		}
		answered := func(answer []byte, err error) {
			net.wg.Go(func() {
				if err != nil {
					err = cluster.RemoteError(err.Error())
				}
				if c.back(callee, ctx.Done()) {
					got <- reply{callee.self, answer, err}
				}
			})
		}
		if !callee.handle(c.self, m, req, once(answered), ctx.Done()) {
			got <- reply{err: errReset}
		}
	})
	select {
	case r := <-got:
		return r.from, r.answer, r.err
	case <-ctx.Done():
		return cluster.Identity{}, nil, ctx.Err()
	case <-c.down:
		return cluster.Identity{}, nil, errClosed
	}
}

// connect reaches whoever listens at an address; it costs a round trip, and
// needs both directions.
func (c *channel) connect(addr string, stop <-chan struct{}) (*channel, error) {
	net, from := c.host.net, c.host
	to := net.at(addr)
	if to == nil {
		return nil, fmt.Errorf("dial %s: %w", addr, errRefused)
	}
	if !net.depart(from, stop) || !net.travel(from, to, net.fate().delay, false, stop) {
		return nil, fmt.Errorf("dial %s: %w", addr, errTimeout)
	}
	net.mu.Lock()
	callee := to.channel // nil: the kernel there refuses, and that has to get home too
	if net.severed[link{from.name, to.name}] {
		callee = nil
	}
	net.mu.Unlock()
	if !net.travel(to, from, net.fate().delay, false, stop) {
		return nil, fmt.Errorf("dial %s: %w", addr, errTimeout)
	}
	if callee == nil {
		return nil, fmt.Errorf("dial %s: %w", addr, errRefused)
	}
	return callee, nil
}

// back carries an answer from the process that gave it to this one.
func (c *channel) back(from *channel, stop <-chan struct{}) bool {
	net := c.host.net
	return net.depart(from.host, stop) && net.travel(from.host, c.host, net.fate().delay, false, stop)
}

// handle has this process serve a request; false if it died instead.
func (c *channel) handle(from cluster.Identity, m cluster.Method, req []byte, reply func([]byte, error), stop <-chan struct{}) bool {
	select {
	case <-c.ready: // before Handle was called, what arrives waits
	case <-c.down:
		return false
	case <-stop:
		return false
	case <-c.host.net.done:
		return false
	}
	select {
	case <-c.down:
		return false
	default:
	}
	c.serve(from, m, req, reply)
	return true
}

// Close implements cluster.Channel: all unanswered requests fail.
func (c *channel) Close() error {
	c.once.Do(func() {
		c.host.net.mu.Lock()
		if c.host.channel == c {
			c.host.channel = nil
		}
		c.host.net.mu.Unlock()
		c.mu.Lock()
		close(c.down)
		conns := c.conns
		c.conns = nil
		c.mu.Unlock()
		for _, k := range conns {
			k.fail(errClosed)
		}
	})
	c.wg.Wait()
	return nil
}

// once makes a reply that may be given twice count once, as the network would.
func once(reply func([]byte, error)) func([]byte, error) {
	var o sync.Once
	return func(answer []byte, err error) { o.Do(func() { reply(answer, err) }) }
}
