package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"conclave/cluster"
)

// connection carries one process's requests to one member. While it lasts they
// arrive in the order of send; a cut link stalls it; when it breaks, everything
// that was sent and not answered fails, and what never left fails as not sent.
type connection struct {
	c      *channel
	to     raft.ServerID
	fate   fate
	wake   chan struct{} // cap 1: something was queued
	broken chan struct{} // closed when it breaks, or could not be made

	// A request is in pending from send until its done is called, which takes it
	// out: whoever takes it out calls done, so it is called once.
	mu      sync.Mutex
	open    bool // established: what is queued has left
	err     error
	queue   []*request
	pending map[*request]struct{} // queued or under way
}

type request struct {
	m    cluster.Method
	body []byte
	due  time.Time // arrival, once it has left
	done func([]byte, error)
	stop func() bool // of the watch on its ctx
}

func newConnection(c *channel, to raft.ServerID) *connection {
	return &connection{
		c: c, to: to, fate: c.host.net.fate(),
		wake: make(chan struct{}, 1), broken: make(chan struct{}), pending: map[*request]struct{}{},
	}
}

func (k *connection) usable() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err == nil
}

// send queues a request. The caller holds c.mu, so that the order of requests is
// that of the calls.
func (k *connection) send(ctx context.Context, m cluster.Method, body []byte, done func([]byte, error)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil || len(k.queue) >= queueLimit {
		err := fmt.Errorf("send to %s: queue full or connection lost: %w", k.to, cluster.ErrNotSent)
		k.c.host.net.wg.Go(func() { done(nil, err) })
		return
	}
	r := &request{m: m, body: append([]byte(nil), body...), done: done}
	if k.open {
		r.due = time.Now().Add(k.c.host.net.fate().delay)
	}
	k.queue = append(k.queue, r)
	k.pending[r] = struct{}{}
	r.stop = context.AfterFunc(ctx, func() { k.giveUp(r, ctx.Err()) })
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// giveUp fails a request whose ctx has ended. If it has not left, it never will.
func (k *connection) giveUp(r *request, err error) {
	k.mu.Lock()
	if !k.open {
		for i, q := range k.queue {
			if q == r {
				k.queue = append(k.queue[:i:i], k.queue[i+1:]...)
				err = fmt.Errorf("%w: %w", err, cluster.ErrNotSent)
				break
			}
		}
	}
	k.mu.Unlock()
	k.finish(r, nil, err)
}

// finish calls done, the first time.
func (k *connection) finish(r *request, answer []byte, err error) {
	k.mu.Lock()
	_, waiting := k.pending[r]
	delete(k.pending, r)
	k.mu.Unlock()
	if waiting {
		r.stop()
		r.done(answer, err)
	}
}

// run makes the connection and moves its requests until it breaks.
func (k *connection) run() {
	callee, err := k.establish()
	if err != nil {
		k.fail(err)
		return
	}
	var watch sync.WaitGroup
	watch.Go(func() { k.watch(callee) })
	k.deliver(callee)
	watch.Wait()
	if errors.Is(k.err, errReset) { // it broke: nobody writes it any more
		k.c.host.net.wg.Go(func() { k.c.verify(k.to) })
	}
	if k.fate.lingers {
		k.linger(callee)
	}
}

// establish dials the member and verifies who answers.
func (k *connection) establish() (*channel, error) {
	limit := time.AfterFunc(dialTimeout, func() { k.fail(errTimeout) })
	defer limit.Stop()
	addr, ok := k.c.resolve(k.to)
	if !ok {
		return nil, fmt.Errorf("dial %s: no address", k.to)
	}
	callee, err := k.c.connect(addr, k.broken)
	if err != nil {
		return nil, err
	}
	if callee.self.ServerID() != k.to {
		return nil, fmt.Errorf("dial %s: %s answers", k.to, callee.self.ServerID())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return nil, k.err
	}
	// From here on everything queued counts as sent: it may be in the kernel.
	k.open = true
	for _, r := range k.queue {
		r.due = time.Now().Add(k.c.host.net.fate().delay)
	}
	return callee, nil
}

// watch breaks the connection when the other process dies, once its reset gets
// through.
func (k *connection) watch(callee *channel) {
	select {
	case <-k.broken:
	case <-callee.down:
		net := k.c.host.net
		net.travel(callee.host, k.c.host, net.fate().delay, false, k.broken)
		k.fail(errReset)
	}
}

// deliver hands requests over, in order, until the connection breaks.
func (k *connection) deliver(callee *channel) {
	for {
		r := k.next()
		if r == nil {
			select {
			case <-k.wake:
				continue
			case <-k.broken:
				return
			}
		}
		if k.c.host.net.chance(func(c Conditions) float64 { return c.Reset }) {
			k.fail(errReset)
			return
		}
		if !k.carry(r, callee) {
			return
		}
	}
}

// carry takes one request across. A link that stays cut too long breaks the
// connection.
func (k *connection) carry(r *request, callee *channel) bool {
	net := k.c.host.net
	limit := time.AfterFunc(k.fate.stall, func() { k.fail(errTimeout) })
	defer limit.Stop()
	if !net.depart(k.c.host, k.broken) || !net.travel(k.c.host, callee.host, time.Until(r.due), false, k.broken) {
		return false
	}
	select {
	case <-k.broken: // meanwhile: only what lingers arrives then
		return false
	default:
	}
	return callee.handle(k.c.self, r.m, r.body, k.replier(r, callee), k.broken)
}

// replier brings an answer home; answers overtake each other.
func (k *connection) replier(r *request, callee *channel) func([]byte, error) {
	return once(func(answer []byte, err error) {
		k.c.host.net.wg.Go(func() {
			if !k.c.back(callee, k.broken) {
				return
			}
			if err != nil {
				err = cluster.RemoteError(err.Error())
			}
			k.finish(r, answer, err)
		})
	})
}

// linger delivers what was on its way when the connection broke, as a receiver
// does that still reads from a connection whose sender has given it up: late,
// and perhaps after requests of the next connection.
func (k *connection) linger(callee *channel) {
	net := k.c.host.net
	net.wg.Go(func() {
		stop := make(chan struct{})
		limit := time.AfterFunc(stallLimit, func() { close(stop) })
		defer limit.Stop()
		for r := k.next(); r != nil; r = k.next() {
			if !net.depart(k.c.host, k.c.down) || !net.travel(k.c.host, callee.host, time.Until(r.due), false, stop) {
				return
			}
			if !callee.handle(k.c.self, r.m, r.body, func([]byte, error) {}, stop) {
				return
			}
		}
	})
}

func (k *connection) next() *request {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.queue) == 0 {
		return nil
	}
	r := k.queue[0]
	k.queue = k.queue[1:]
	return r
}

// fail breaks the connection, or says that it could not be made: everything
// unanswered ends with err.
func (k *connection) fail(err error) {
	k.mu.Lock()
	if k.err != nil {
		k.mu.Unlock()
		return
	}
	k.err = fmt.Errorf("send to %s: %w", k.to, err)
	if !k.open {
		k.err = fmt.Errorf("%w: %w", k.err, cluster.ErrNotSent)
	}
	close(k.broken)
	failed := make([]*request, 0, len(k.pending))
	for r := range k.pending {
		failed = append(failed, r)
	}
	if !k.open {
		k.queue = nil // certainly not sent, so nothing of it may linger
	}
	k.mu.Unlock()
	for _, r := range failed {
		k.finish(r, nil, k.err)
	}
}
