package client

import (
	"context"
	"encoding/json"
	"fmt"

	"conclave/client/wire"
)

// greet says hello and reads its answer.
func (r *Room) greet(c *conn) (*wire.Welcome, error) {
	ctx, cancel := context.WithTimeout(r.ctx, helloLimit)
	defer cancel()
	token, err := r.c.cfg.token(ctx)
	if err != nil {
		return nil, err
	}
	h := r.newHello(token)
	data, err := marshal(h)
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
			continue // nothing else can be meant for us yet
		}
		if f.Error != nil {
			return nil, r.refused(f.Error)
		}
		w := new(wire.Welcome)
		if err := json.Unmarshal(f.OK, w); err != nil {
			return nil, fmt.Errorf("answer to hello: %w", err)
		}
		// Both bound something of ours: silence, and requests in flight.
		if w.PingMs <= 0 || w.Window <= 0 {
			return nil, fmt.Errorf("answer to hello: ping_ms %d, window %d", w.PingMs, w.Window)
		}
		return w, nil
	}
}

// newHello makes the hello of a connection. Until one is answered its id stays
// the same, so that a hello whose answer was lost gets the same peer.
func (r *Room) newHello(token string) *wire.Hello {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hello == 0 || r.helloTaken {
		r.lastID++
		r.hello, r.helloTaken = r.lastID, false
	}
	h := &wire.Hello{
		ID: r.hello, Do: "hello", V: wire.Version, Agent: r.c.cfg.agent(), Client: r.client, Token: token,
		Name: r.opts.Name, Ref: r.opts.Ref, Data: r.data, Observe: r.observe, Watch: r.stream.filters(),
	}
	if r.session != "" {
		h.Resume = &wire.Resume{Session: r.session, Peer: r.peer, Key: r.key, Rev: new(r.stream.rev)}
	}
	return h
}

// refused takes a refusal of hello. The end of the session ends a peer's room; an
// observer goes on with the room's next session.
func (r *Room) refused(e *wire.Error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Answered for good; else the next one is the same request, since an earlier
	// copy of this one may still be on its way to the log.
	r.helloTaken = e.Retry == wire.RetryNever
	if r.observe && e.Code == wire.SessionEnded && r.session != "" {
		r.session = ""
		return fmt.Errorf("resume: %s", e.Message)
	}
	return fmt.Errorf("hello: %w", e)
}
