package client

import (
	"context"
	"encoding/json"
	"fmt"

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

// resume names what an earlier connection had: the peer, and how far its stream
// had come. An observer has a stream only.
type resume struct {
	Session string `json:"session"`
	Peer    string `json:"peer,omitempty"`
	Key     string `json:"key,omitempty"`
	Rev     uint64 `json:"rev"`
}

// welcome is the answer to hello. The peer and the stream are resumed, or not,
// apart: a peer within its grace may have missed more events than the server
// still has, and an observer has no peer.
type welcome struct {
	Session       string   `json:"session"`
	Peer          string   `json:"peer"`
	ResumeKey     string   `json:"resume_key"`
	Rev           uint64   `json:"rev"`
	Node          string   `json:"node"`
	Features      []string `json:"features"`
	PeerResumed   bool     `json:"peer_resumed"`
	StreamResumed bool     `json:"stream_resumed"`
	GraceMs       int64    `json:"grace_ms"`
	PingMs        int64    `json:"ping_ms"`
	Window        int      `json:"window"`
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
		w := new(welcome)
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
	// Answered for good; else the next one is the same request, since an earlier
	// copy of this one may still be on its way to the log.
	r.helloTaken = e.Retry == wire.RetryNever
	if r.observe && e.Code == wire.SessionEnded && r.session != "" {
		r.session = ""
		return fmt.Errorf("resume: %s", e.Message)
	}
	return fmt.Errorf("hello: %w", e)
}
