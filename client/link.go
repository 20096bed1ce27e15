package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
)

// connect is the state machine of a room's connection, on the room's own
// goroutine: connecting, then attached until the connection breaks, then backoff
// and from the start with the next server; until the room is to end.
func (r *Room) connect() {
	server := r.c.start()
	var err error
	for n := 0; r.ctx.Err() == nil; server++ {
		r.enter(Status{State: Connecting, Err: err})
		var lasted time.Duration
		// One that breaks at once, again and again, must not be hammered.
		if lasted, err = r.serve(r.c.bases[server%len(r.c.bases)]); lasted > backoffCap {
			n = 0
		}
		if over(err) {
			r.cancel(err)
		}
		if r.ctx.Err() != nil {
			break
		}
		r.log.Info("connection lost", "server", r.c.bases[server%len(r.c.bases)], "err", err)
		r.enter(Status{State: Backoff, Err: err})
		_ = sleep(r.ctx, retryAfter(err)+backoff(n))
		n++
	}
	r.end(context.Cause(r.ctx))
}

// over reports whether a connection's end is the room's: a close code or a refusal
// that will not change by coming back.
func over(err error) bool {
	var closed *CloseError
	if errors.As(err, &closed) {
		return closed.final()
	}
	var token *TokenError
	if errors.As(err, &token) {
		return false // the source may come round; the token may be fetched elsewhere
	}
	var e *wire.Error
	return errors.As(err, &e) && e.Retry == wire.RetryNever
}

// retryAfter is how long a server asked to stay away. The backoff comes on top: of
// many that were told the same, only one would get in after that time.
func retryAfter(err error) time.Duration {
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.RateLimited {
		return 0
	}
	return time.Duration(number(e.Details["retry_after_ms"])) * time.Millisecond
}

// serve is the life of one connection: dial, hello, attached, end. It returns for
// how long it was attached, and why it ended.
func (r *Room) serve(base string) (lasted time.Duration, err error) {
	ws, err := r.dial(base)
	if err != nil {
		return 0, err
	}
	c := newConn(r.ctx, ws)
	defer c.close()
	w, err := r.greet(c)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	r.attach(c, w)
	for {
		f, err := c.read()
		if err != nil {
			r.detach(err)
			return time.Since(begun), err
		}
		r.take(f)
	}
}

// dial opens a WebSocket to the room.
func (r *Room) dial(base string) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(r.ctx, dialLimit)
	defer cancel()
	header := http.Header{"User-Agent": {r.c.cfg.agent()}}
	target := "ws" + strings.TrimPrefix(base, "http") + roomPath(r.name, "socket")
	ws, resp, err := r.c.dialer.DialContext(ctx, target, header)
	if err == nil {
		return ws, nil
	}
	if resp != nil {
		defer resp.Body.Close()
		var e *wire.Error
		if refused := refusal(resp); errors.As(refused, &e) && e.Code != wire.BadRequest {
			return nil, refused // a server of ours, or one that is not well
		}
		return nil, fmt.Errorf("dial %s: %s", target, resp.Status)
	}
	return nil, fmt.Errorf("dial %s: %w", target, err)
}

// attach takes a connection into use: what the hello said, then everything that
// is still unanswered, in the order of ids.
func (r *Room) attach(c *conn, w *wire.Welcome) {
	rejoined := r.adopt(w)
	c.setSilence(2 * time.Duration(w.PingMs) * time.Millisecond)
	r.window.resize(w.Window)
	r.enter(Status{State: Attached, Node: w.Node, Rejoined: rejoined})

	// From here on requests go out as they come; what has come before goes first, in
	// one step with it, so that their order is that of their ids.
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn = c
	r.resend(w.PeerResumed)
	select {
	case <-r.first:
	default:
		close(r.first)
	}
}

// adopt takes over what the answer to hello says. rejoined tells that the peer
// that this room was before is no more; then its locks have ended.
func (r *Room) adopt(w *wire.Welcome) (rejoined bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = nil
	r.helloTaken = true
	rejoined = r.peer != "" && !w.PeerResumed
	if rejoined {
		r.epoch++
		r.loseLocks(wire.Errorf(wire.NotHolder, "the peer that held the lock is no more").With("reason", "expired"))
	}
	r.node, r.features = w.Node, w.Features
	r.session, r.peer, r.key, r.grace = "", w.Peer, w.ResumeKey, 0
	if w.Session != nil {
		r.session = *w.Session
	}
	if w.GraceMs != nil {
		r.grace = time.Duration(*w.GraceMs) * time.Millisecond
	}
	r.stream.attached(r.hello, r.session, w)
	return rejoined
}

// detach takes a broken connection out of use. The peer is in its grace now, so
// what depends on it goes on, but for locks that were to end with the connection.
func (r *Room) detach(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn, r.away = nil, err
	r.dropOnce(err)
	r.stream.detached()
	for l, onDetach := range r.locks {
		if onDetach {
			delete(r.locks, l)
			l.over(fmt.Errorf("%w: %w", errDetached, err))
		}
	}
}

// take takes in one frame.
func (r *Room) take(f *wire.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.ID != 0 {
		r.answered(f)
		return
	}
	r.stream.take(f)
	if r.observe {
		r.session = r.stream.session
	}
}

// end ends everything that depends on the room. Nothing that is asked for later
// waits for an answer: err is set first.
func (r *Room) end(cause error) {
	r.mu.Lock()
	r.err = cause
	for id, req := range r.pending {
		delete(r.pending, id)
		req.err = &InterruptedError{Do: req.do, MayHaveApplied: req.sent && !req.read, Err: cause}
		close(req.done)
	}
	r.loseLocks(cause)
	r.stream.end(cause)
	r.mu.Unlock()
	r.c.remove(r)
	r.enter(Status{State: Ended, Err: cause})
	select {
	case <-r.first:
	default:
		close(r.first)
	}
}
