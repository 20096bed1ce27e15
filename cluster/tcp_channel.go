package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

const (
	// maxCalls bounds the requests that a peer has not answered: those that wait
	// to be sent and those that were. The serving side reads no further request
	// while it owes so many answers on a connection.
	maxCalls = 4096
	// maxQueued bounds the bytes that wait to be sent to a peer, besides one frame.
	maxQueued = 64 << 20
)

var errChannelClosed = errors.New("channel closed")

// tcpChannel is the Channel over TCP. It keeps one connection to each peer that
// it sends to, for its requests and their answers; the peer's own requests come
// on another one.
//
// It owns two goroutines per connection and waits for them in Close, also for
// the calls of done under way.
type tcpChannel struct {
	network *TCPNetwork
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	conns   *connSet

	handled chan struct{} // closed when serve is set
	serve   func(from Identity, m Method, req []byte, reply func([]byte, error))
	once    sync.Once
	lost    atomic.Pointer[func(raft.ServerID)] // set by Lost

	mu      sync.Mutex
	closed  bool
	peers   map[raft.ServerID]*tcpPeer
	running sync.WaitGroup // Go only under mu or a peer's mu while not closed, or from a running goroutine
}

var _ Channel = (*tcpChannel)(nil)

func newTCPChannel(n *TCPNetwork) *tcpChannel {
	c := &tcpChannel{
		network: n,
		conns:   newConnSet(maxConns),
		handled: make(chan struct{}),
		peers:   make(map[raft.ServerID]*tcpPeer),
	}
	c.ctx, c.cancel = context.WithCancel(n.ctx)
	return c
}

// Send queues a request; see Channel. req must not be changed afterwards.
func (c *tcpChannel) Send(ctx context.Context, to raft.ServerID, m Method, req []byte, done func([]byte, error)) {
	err := c.send(ctx, to, &tcpCall{method: m, payload: req, done: done})
	if err == nil {
		return
	}
	err = fmt.Errorf("%w to %s: %w", ErrNotSent, to, err)
	tracked := c.begin()
	go func() { // done may want what the caller holds
		done(nil, err)
		if tracked { // else Close has come first, and waits for what was before it
			c.running.Done()
		}
	}()
}

func (c *tcpChannel) send(ctx context.Context, to raft.ServerID, call *tcpCall) error {
	if len(call.payload) > maxPayload {
		return fmt.Errorf("%w: %d bytes", errFrameLength, len(call.payload))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := c.peer(to)
	if err != nil {
		return err
	}
	return p.enqueue(ctx, call)
}

// peer returns what is kept for a peer. Of those that have no address nothing is kept.
func (c *tcpChannel) peer(id raft.ServerID) (*tcpPeer, error) {
	c.mu.Lock()
	p, closed := c.peers[id], c.closed
	c.mu.Unlock()
	if closed {
		return nil, errChannelClosed
	}
	if p != nil {
		return p, nil
	}
	if _, ok := c.network.resolve(id); !ok {
		return nil, errNoAddress
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errChannelClosed
	}
	if p = c.peers[id]; p == nil {
		p = newTCPPeer(c, id)
		c.peers[id] = p
	}
	return p, nil
}

// Dial sends one request on a connection of its own.
func (c *tcpChannel) Dial(ctx context.Context, addr string, m Method, req []byte) (Identity, []byte, error) {
	if len(req) > maxPayload {
		return Identity{}, nil, fmt.Errorf("%w to %s: %w: %d bytes", ErrNotSent, addr, errFrameLength, len(req))
	}
	conn, from, err := c.network.dial(ctx, addr, kindDial, "")
	if err == nil {
		conn, err = c.conns.add(conn)
	}
	if err != nil {
		return from, nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	answer, err := exchange(conn, frame{id: 1, tag: byte(m), payload: req})
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	var remote RemoteError
	if err != nil && !errors.As(err, &remote) {
		err = fmt.Errorf("request to %s: %w", addr, err)
	}
	return from, answer, err
}

// exchange sends one request and reads its answer.
func exchange(conn net.Conn, request frame) ([]byte, error) {
	w := bufio.NewWriter(conn)
	if err := writeFrame(w, request); err != nil {
		return nil, err
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	f, err := readFrame(bufio.NewReader(conn))
	if err != nil {
		return nil, noEOF(err)
	}
	return f.answer()
}

// answer is what an answering frame says.
func (f frame) answer() ([]byte, error) {
	switch f.tag {
	case tagAnswer:
		return f.payload, nil
	case tagError:
		return nil, RemoteError(f.payload)
	}
	return nil, fmt.Errorf("answer with tag %d", f.tag)
}

// Handle sets what serves requests. Until then those that come wait.
func (c *tcpChannel) Handle(serve func(Identity, Method, []byte, func([]byte, error))) {
	c.once.Do(func() {
		c.serve = serve
		close(c.handled)
	})
}

// Lost sets what is told of members whose process is gone.
func (c *tcpChannel) Lost(f func(raft.ServerID)) { c.lost.Store(&f) }

// Close fails what is unanswered, closes the connections and waits. It may be
// called twice, but not from done or serve.
func (c *tcpChannel) Close() error {
	c.mu.Lock()
	c.closed = true
	peers := c.peers
	c.peers = nil
	c.mu.Unlock()
	c.cancel()
	c.conns.close()
	for _, p := range peers {
		p.close()
	}
	c.running.Wait()
	return nil
}

// begin makes Close wait for the calling goroutine until running.Done, unless closed.
func (c *tcpChannel) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.running.Add(1)
	return true
}
