package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"conclave/client/wire"
)

// request is one request of a room, from its first sending to its answer. It
// outlives connections: until it is answered it is sent again on each new one,
// under the same id.
type request struct {
	do      string
	body    []byte // the encoded object without its id
	read    bool   // changes nothing: giving up on it leaves nothing behind
	acquire bool   // dies with its peer
	once    bool   // never sent again
	leave   func() // gives its place in the window back; nil without one

	// The rest is guarded by mu of the Room; what an answer sets may be read once
	// done is closed.
	id        uint64
	frame     []byte // body with the id
	sent      bool   // handed to a connection at least once
	unsure    bool   // and an answer to it was lost: it may have been applied
	abandoned bool   // its caller has gone: not sent again
	waited    bool   // an acquire that had to queue
	epoch     int    // of the peer, when it was answered

	// queued is called with mu held whenever the request gets an id, accepted
	// when its answer is ok. Either may be nil.
	queued   func(id uint64)
	accepted func()

	done chan struct{} // closed when ok or err is set
	ok   json.RawMessage
	err  error
}

// newRequest makes a request of an object that encodes the verb and its members.
func newRequest(do string, object any) (*request, error) {
	body, err := marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", do, err)
	}
	return &request{do: do, body: body}, nil
}

// encode is the request's frame: the body with the id.
func (req *request) encode() []byte {
	frame := strconv.AppendUint([]byte(`{"id":`), req.id, 10)
	return append(append(frame, ','), req.body[1:]...)
}

// ask runs a request and decodes its answer into out, unless that is nil.
func (r *Room) ask(ctx context.Context, req *request, out any) error {
	if err := r.window.enter(ctx); err != nil {
		return &InterruptedError{Do: req.do, Err: err}
	}
	req.leave = sync.OnceFunc(r.window.leave)
	defer req.leave()
	return r.run(ctx, req, out)
}

// run is ask for a request that has its place in the window, or needs none.
func (r *Room) run(ctx context.Context, req *request, out any) error {
	if err := r.submit(req); err != nil {
		return err
	}
	ok, err := r.await(ctx, req)
	if err == nil && out != nil {
		if err = json.Unmarshal(ok, out); err != nil {
			err = fmt.Errorf("answer to %s: %w", req.do, err)
		}
	}
	return err
}

// submit gives a request the next id and sends it, at once or when a connection
// is there. A request that was answered may be submitted again, as another.
func (r *Room) submit(req *request) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.ready(req); err != nil {
		return err
	}
	r.lastID++
	req.id = r.lastID
	req.frame, req.sent, req.unsure = req.encode(), false, false
	if req.queued != nil {
		req.queued(req.id)
	}
	req.done, req.ok, req.err = make(chan struct{}), nil, nil
	r.pending[req.id] = req
	if r.conn != nil {
		r.conn.send(req.frame)
		req.sent = true
	}
	return nil
}

// await waits for the answer to a submitted request. Answers that promise that
// nothing was applied are not the caller's business: the request goes out anew
// after a while.
func (r *Room) await(ctx context.Context, req *request) (json.RawMessage, error) {
	for n := 0; ; n++ {
		select {
		case <-req.done:
		case <-ctx.Done():
			if err := r.abandon(req, ctx.Err()); err != nil {
				return nil, err
			}
		}
		var e *wire.Error
		if !errors.As(req.err, &e) {
			return req.ok, req.err
		}
		if req.once || e.Retry != wire.RetrySafe && !(req.read && unknown(e)) {
			return nil, req.err
		}
		if sleep(ctx, retryAfter(e)+backoff(n)) != nil {
			return nil, &InterruptedError{Do: req.do, Err: ctx.Err(), Last: e}
		}
		if err := r.submit(req); err != nil {
			return nil, err
		}
	}
}

// abandon is what happens when a caller's context ends: unless the answer came in
// the same moment, the caller is told what is known, and the request is not sent
// again; but an acquire is, since somebody must undo it.
func (r *Room) abandon(req *request, cause error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[req.id] != req {
		return nil
	}
	if !req.sent {
		delete(r.pending, req.id)
	} else if !req.acquire {
		req.abandoned = true
	}
	return &InterruptedError{Do: req.do, MayHaveApplied: req.sent && !req.read, Err: cause, Last: r.away}
}

// answered takes in an answer. The caller holds mu.
func (r *Room) answered(f *wire.Frame) {
	req := r.pending[f.ID]
	if req == nil {
		return // given up on
	}
	switch {
	case f.Waiting != nil:
		// It does not count for the server's window while it waits.
		if req.waited = true; req.leave != nil {
			req.leave()
		}
	case f.Error == nil:
		r.finish(req, f.OK, nil)
	case !req.read && !req.once && (unknown(f.Error) || req.unsure && f.Error.Retry == wire.RetrySafe):
		// As good as unanswered, whether this copy of the request may have been
		// applied or an earlier one: the same id will tell. Ids grow on a
		// connection, so it takes a new one to ask again.
		req.unsure = true
		r.conn.hangUp()
	default:
		r.finish(req, nil, f.Error)
	}
}

// unknown reports that asking again, as the same request, will tell. A bug in the
// server (internal) is not worth asking twice, and what it has forgotten neither.
func unknown(e *wire.Error) bool {
	return e.Code == wire.UnknownOutcome && e.Retry == wire.RetryUnknown
}

// post sends a request whose answer nobody needs, if there is a connection. It
// matters to this connection alone and is never sent again. The caller holds mu.
func (r *Room) post(do string, object any) {
	req, err := newRequest(do, object)
	if err != nil || r.conn == nil {
		return
	}
	r.lastID++
	req.id = r.lastID
	r.conn.send(req.encode())
}

// finish ends a request. The caller holds mu.
func (r *Room) finish(req *request, ok json.RawMessage, err error) {
	delete(r.pending, req.id)
	req.ok, req.err, req.epoch = ok, err, r.epoch
	if err == nil && req.accepted != nil {
		req.accepted()
	}
	close(req.done)
}

// resend puts the unanswered requests on a new connection, in the order of their
// ids. Those whose callers have gone are dropped; acquires of a peer that is no
// more have ended with it. The caller holds mu.
func (r *Room) resend(peerResumed bool) {
	for _, id := range slices.Sorted(maps.Keys(r.pending)) {
		req := r.pending[id]
		switch {
		case req.abandoned:
			delete(r.pending, id)
		case req.acquire && req.sent && !peerResumed:
			r.finish(req, nil, wire.Errorf(wire.NotHolder, "the lock has ended with the peer that asked for it"))
		default:
			req.unsure = req.sent
			req.sent = true
			r.conn.send(req.frame)
		}
	}
}
