package client

import (
	"context"
	"encoding/json"
	"fmt"

	"conclave/client/wire"
)

// Peers lists all peers of the room, page by page; see AllPeers for long lists.
func (r *Room) Peers(ctx context.Context) ([]wire.Peer, error) {
	return collect(r.AllPeers(ctx))
}

// Self is what a peer tells the others of itself. What is nil stays as it is.
type Self struct {
	Name *string // at most 256 bytes
	Ref  *string // the app's own id for this peer
	Data any     // encoded as JSON; json.RawMessage("null") is the value null
}

// SetSelf changes what the others see of this peer. A peer that has to join anew
// (Status.Rejoined) joins with it.
func (r *Room) SetSelf(ctx context.Context, self Self) error {
	body := struct {
		Do   string          `json:"do"`
		Name *string         `json:"name,omitempty"`
		Ref  *string         `json:"ref,omitempty"`
		Data json.RawMessage `json:"data,omitempty"`
	}{Do: "set_self", Name: self.Name, Ref: self.Ref}
	if self.Data != nil {
		var err error
		if body.Data, err = marshal(self.Data); err != nil {
			return fmt.Errorf("encode data of this peer: %w", err)
		}
	}
	for {
		req, err := newRequest(body.Do, body)
		if err != nil {
			return err
		}
		var sentAs int // the peer's epoch
		req.queued = func(uint64) { sentAs = r.epoch }
		req.accepted = func() {
			if body.Name != nil {
				r.opts.Name = *body.Name
			}
			if body.Ref != nil {
				r.opts.Ref = *body.Ref
			}
			if body.Data != nil {
				r.data = body.Data
			}
		}
		// An answer that a new peer gets may be about the one before it, which the
		// request had reached already. Then it is asked for again, which harms nothing.
		if err := r.ask(ctx, req, nil); err != nil || req.epoch == sentAs {
			return err
		}
	}
}

// RemovePeer removes a peer from the room: its connection is closed with the code
// 4102, and its locks and bound entries go. The error is not_found when there is
// no such peer.
func (r *Room) RemovePeer(ctx context.Context, peer string) error {
	return r.simple(ctx, "remove_peer", struct {
		Do   string `json:"do"`
		Peer string `json:"peer"`
	}{"remove_peer", peer}, nil)
}
