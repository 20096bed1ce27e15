package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
)

// hello is the first request of a connection.
type hello struct {
	ID      uint64          `json:"id"`
	Do      string          `json:"do"`
	V       int             `json:"v"`
	Agent   string          `json:"agent"`
	Client  string          `json:"client"`
	Token   string          `json:"token,omitempty"`
	Name    string          `json:"name,omitempty"`
	Ref     string          `json:"ref,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
	Observe bool            `json:"observe,omitempty"`
	Resume  *resume         `json:"resume,omitempty"`
	Watch   []wire.Filter   `json:"watch,omitempty"`
}

type resume struct {
	Session string `json:"session"`
	Peer    string `json:"peer,omitempty"`
	Key     string `json:"key,omitempty"`
	Rev     uint64 `json:"rev"`
}

// welcome is the answer to hello.
type welcome struct {
	Session       string `json:"session"`
	Peer          string `json:"peer"`
	ResumeKey     string `json:"resume_key"`
	Rev           uint64 `json:"rev"`
	Node          string `json:"node"`
	PeerResumed   bool   `json:"peer_resumed"`
	StreamResumed bool   `json:"stream_resumed"`
	GraceMs       int64  `json:"grace_ms"`
	PingMs        int64  `json:"ping_ms"`
	Window        int    `json:"window"`
}

// connect is the state machine of a room's connection, on the room's own
// goroutine: connecting, then attached until the connection breaks, then backoff
// and from the start with the next server; until the room is to end.
func (r *Room) connect() {
	server := r.c.start()
	var err error
	for n := 0; r.ctx.Err() == nil; server++ {
		r.enter(Status{State: Connecting, Err: err})
		begun := time.Now()
		err = r.serve(r.c.bases[server%len(r.c.bases)])
		if time.Since(begun) > backoffCap {
			n = 0 // it was good for a while
		}
		if over(err) {
			r.cancel(err)
		}
		if r.ctx.Err() != nil {
			break
		}
		r.log.Info("connection lost", "server", r.c.bases[server%len(r.c.bases)], "err", err)
		r.enter(Status{State: Backoff, Err: err})
		_ = sleep(r.ctx, max(backoff(n), retryAfter(err)))
		n++
	}
	r.end(context.Cause(r.ctx))
}

// over reports whether a connection's end is the room's.
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

// retryAfter is how long a server asked to stay away.
func retryAfter(err error) time.Duration {
	var e *wire.Error
	if !errors.As(err, &e) || e.Code != wire.RateLimited {
		return 0
	}
	return time.Duration(number(e.Details["retry_after_ms"])) * time.Millisecond
}

// serve is the life of one connection: dial, hello, attached, end.
func (r *Room) serve(base string) error {
	ws, err := r.dial(base)
	if err != nil {
		return err
	}
	c := newConn(r.ctx, ws)
	defer c.close()
	w, err := r.greet(c)
	if err != nil {
		return err
	}
	r.attach(c, w)
	for {
		f, err := c.read()
		if err != nil {
			r.detach(err)
			return err
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

// greet says hello and reads its answer.
func (r *Room) greet(c *conn) (*welcome, error) {
	ctx, cancel := context.WithTimeout(r.ctx, helloLimit)
	defer cancel()
	token, err := r.c.cfg.token(ctx)
	if err != nil {
		return nil, err
	}
	h := r.newHello(token)
	data, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode hello: %w", err)
	}
	c.setSilence(helloLimit)
	c.send(data)
	for {
		f, err := c.read()
		if err != nil {
			return nil, err
		}
		if f.ID != h.ID {
			continue
		}
		if f.Error != nil {
			return nil, r.refused(f.Error)
		}
		w := new(welcome)
		if err := json.Unmarshal(f.OK, w); err != nil {
			return nil, fmt.Errorf("answer to hello: %w", err)
		}
		if w.PingMs <= 0 || w.Window <= 0 {
			return nil, fmt.Errorf("answer to hello: ping_ms %d, window %d", w.PingMs, w.Window)
		}
		return w, nil
	}
}

// newHello makes the hello of a connection. Until one is answered its id stays
// the same, so that a hello whose answer was lost gets the same peer.
func (r *Room) newHello(token string) *hello {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hello == 0 || r.helloTaken {
		r.lastID++
		r.hello, r.helloTaken = r.lastID, false
	}
	h := &hello{
		ID: r.hello, Do: "hello", V: wire.Version, Agent: r.c.cfg.agent(), Client: r.client, Token: token,
		Name: r.opts.Name, Ref: r.opts.Ref, Data: r.data, Observe: r.observe, Watch: r.stream.filters(),
	}
	if r.session != "" {
		h.Resume = &resume{Session: r.session, Peer: r.peer, Key: r.key, Rev: r.stream.rev}
	}
	return h
}

// refused takes a refusal of hello. The end of the session ends a peer's room; an
// observer goes on with the room's next session.
func (r *Room) refused(e *wire.Error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.helloTaken = e.Retry != wire.RetryUnknown // else the next one must be the same request
	if r.observe && e.Code == wire.SessionEnded && r.session != "" {
		r.session = ""
		return fmt.Errorf("resume: %s", e.Message)
	}
	return fmt.Errorf("hello: %w", e)
}

// attach takes a connection into use: what the hello said, then everything that
// is still unanswered, in the order of ids.
func (r *Room) attach(c *conn, w *welcome) {
	rejoined := r.adopt(w)
	c.setSilence(2 * time.Duration(w.PingMs) * time.Millisecond)
	r.window.resize(w.Window)
	r.enter(Status{State: Attached, Node: w.Node, Rejoined: rejoined})

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
func (r *Room) adopt(w *welcome) (rejoined bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = nil
	r.helloTaken = true
	rejoined = r.peer != "" && !w.PeerResumed
	if rejoined {
		r.epoch++
		r.loseLocks(wire.Errorf(wire.NotHolder, "the peer that held the lock is no more"))
	}
	r.node, r.session, r.peer, r.key = w.Node, w.Session, w.Peer, w.ResumeKey
	r.grace = time.Duration(w.GraceMs) * time.Millisecond
	r.stream.attached(r.hello, w)
	return rejoined
}

// detach takes a broken connection out of use.
func (r *Room) detach(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn, r.away = nil, err
	r.stream.detached()
	for l, onDetach := range r.locks {
		if onDetach {
			delete(r.locks, l)
			l.over(fmt.Errorf("connection lost: %w", err))
		}
	}
}

// take takes in one frame.
func (r *Room) take(f *frame) {
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

// end ends everything that depends on the room.
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
	r.enter(Status{State: Ended, Err: cause})
	select {
	case <-r.first:
	default:
		close(r.first)
	}
}
