package cluster

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// The pause before a peer is dialled again, after the first failure and at most.
const (
	firstRedial = 10 * time.Millisecond
	maxRedial   = 500 * time.Millisecond
)

var (
	errQueueFull  = errors.New("queue full")
	errNoAddress  = errors.New("no address known")
	errConnBroken = errors.New("connection broken")
)

// tcpPeer is the sending side of the channel to one peer. A goroutine dials when
// there is something to send, writes, and goes when the connection has broken
// and nothing waits.
//
// A call is in queue, then in pending, then answered: whoever takes it out of
// queue or pending, under mu, is the one who calls done. What is in queue has
// certainly not left; what is in pending may have.
type tcpPeer struct {
	channel *tcpChannel
	id      raft.ServerID
	wake    chan struct{} // holds one: queue may have something

	mu      sync.Mutex
	closed  bool
	running bool // the goroutine
	queue   []*tcpCall
	queued  int // bytes in queue
	pending map[uint64]*tcpCall
	lastID  uint64

	failures int       // in a row, of dials or of connections without an answer; the goroutine's own
	notAgain time.Time // before which it does not dial; the goroutine's own
}

// tcpCall is one request of ours.
type tcpCall struct {
	id      uint64 // once pending
	method  Method
	payload []byte
	done    func([]byte, error)
	unwatch func() bool // stops watching the caller's ctx
}

func newTCPPeer(c *tcpChannel, id raft.ServerID) *tcpPeer {
	return &tcpPeer{channel: c, id: id, wake: make(chan struct{}, 1), pending: make(map[uint64]*tcpCall)}
}

// enqueue takes a call over, or says why not.
func (p *tcpPeer) enqueue(ctx context.Context, call *tcpCall) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return errChannelClosed
	case len(p.queue)+len(p.pending) >= maxCalls, p.queued >= maxQueued:
		return errQueueFull
	}
	p.queue = append(p.queue, call)
	p.queued += len(call.payload)
	call.unwatch = context.AfterFunc(ctx, func() { p.abandon(ctx, call) })
	if !p.running {
		p.running = true
		p.channel.running.Go(p.run)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

// abandon fails a call whose ctx has ended.
func (p *tcpPeer) abandon(ctx context.Context, call *tcpCall) {
	p.mu.Lock()
	err := fmt.Errorf("request to %s: %w", p.id, context.Cause(ctx))
	if i := slices.Index(p.queue, call); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
		p.queued -= len(call.payload)
		err = fmt.Errorf("%w to %s: %w", ErrNotSent, p.id, context.Cause(ctx))
	} else if p.pending[call.id] == call {
		delete(p.pending, call.id)
	} else {
		p.mu.Unlock()
		return // somebody else had it
	}
	p.channel.running.Add(1) // not closed: close would have taken the call
	p.mu.Unlock()
	defer p.channel.running.Done()
	call.done(nil, err)
}

// run serves the queue until there is no connection and nothing that needs one.
func (p *tcpPeer) run() {
	var conn net.Conn
	for conn != nil || p.wanted() {
		var err error
		if conn == nil {
			if conn, err = p.dial(); err != nil {
				p.pace(false)
				p.failQueue(err)
				continue
			}
		}
		var answered bool
		answered, err = p.converse(conn)
		conn = nil
		p.pace(answered)
		p.failPending(err)
		if endedByPeer(err) {
			conn = p.redial()
		}
	}
}

// pace makes the next dial wait after a failure, a little longer each time.
func (p *tcpPeer) pace(ok bool) {
	if ok {
		p.failures = 0
		return
	}
	p.notAgain = time.Now().Add(min(firstRedial<<min(p.failures, 10), maxRedial))
	p.failures++
}

// wanted says whether the goroutine should go on, else it is over.
func (p *tcpPeer) wanted() bool {
	p.sleep(time.Until(p.notAgain))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = !p.closed && len(p.queue) > 0
	return p.running
}

// dial connects to the peer where it is now.
func (p *tcpPeer) dial() (net.Conn, error) {
	c := p.channel
	addr, ok := c.network.resolve(p.id)
	if !ok {
		return nil, errNoAddress
	}
	conn, _, err := c.network.dial(c.ctx, addr, kindChannel, p.id)
	if err != nil {
		return nil, err
	}
	return c.conns.add(conn)
}

// converse uses a connection until it breaks, and closes it. It says whether
// anything was answered.
func (p *tcpPeer) converse(conn net.Conn) (answered bool, err error) {
	broken := make(chan struct{})
	var readErr error
	p.channel.running.Go(func() {
		defer close(broken)
		answered, readErr = p.readAnswers(conn)
		conn.Close() // a write that blocks ends too
	})
	writeErr := writeFrames(conn, p.channel.network.opts.Timeout, p.take, p.wake, broken)
	conn.Close()
	<-broken
	if writeErr != nil && !errors.Is(writeErr, net.ErrClosed) {
		readErr = writeErr // it came first: reading fails because of it
	}
	return answered, fmt.Errorf("%w: %w", errConnBroken, readErr)
}

// take moves the queue to pending and returns it as frames.
func (p *tcpPeer) take() []frame {
	p.mu.Lock()
	defer p.mu.Unlock()
	frames := make([]frame, 0, len(p.queue))
	for _, call := range p.queue {
		p.lastID++
		call.id = p.lastID
		p.pending[call.id] = call
		frames = append(frames, frame{id: call.id, tag: byte(call.method), payload: call.payload})
	}
	clear(p.queue)
	p.queue, p.queued = p.queue[:0], 0
	return frames
}

// readAnswers hands answers to their calls until the connection breaks. Answers
// to calls that were given up are dropped.
func (p *tcpPeer) readAnswers(conn net.Conn) (answered bool, err error) {
	r := bufio.NewReaderSize(conn, 64<<10)
	for {
		f, err := readFrame(r)
		if err != nil {
			return answered, err
		}
		answered = true
		answer, err := f.answer()
		p.mu.Lock()
		call := p.pending[f.id]
		delete(p.pending, f.id)
		p.mu.Unlock()
		if call != nil {
			call.unwatch()
			call.done(answer, err)
		}
	}
}

// failQueue fails what has certainly not left.
func (p *tcpPeer) failQueue(err error) {
	p.mu.Lock()
	calls := p.queue
	p.queue, p.queued = nil, 0
	p.mu.Unlock()
	finish(calls, fmt.Errorf("%w to %s: %w", ErrNotSent, p.id, err))
}

// failPending fails what may have left, in the order of sending.
func (p *tcpPeer) failPending(err error) {
	p.mu.Lock()
	calls := make([]*tcpCall, 0, len(p.pending))
	for _, call := range p.pending {
		calls = append(calls, call)
	}
	clear(p.pending)
	p.mu.Unlock()
	slices.SortFunc(calls, func(a, b *tcpCall) int { return cmp.Compare(a.id, b.id) })
	finish(calls, fmt.Errorf("request to %s: %w", p.id, err))
}

func finish(calls []*tcpCall, err error) {
	for _, call := range calls {
		call.unwatch()
		call.done(nil, err)
	}
}

// close fails all calls. The goroutine ends with the channel's ctx and connections.
func (p *tcpPeer) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.failQueue(errChannelClosed)
	p.failPending(errChannelClosed)
}
