package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"conclave/client/wire"
)

// Peers lists all peers of a room, page by page; see AllPeers for long lists.
func (h *HTTP) Peers(ctx context.Context, room string) ([]wire.Peer, error) {
	return collect(h.AllPeers(ctx, room))
}

// RemovePeer removes a peer from a room.
func (h *HTTP) RemovePeer(ctx context.Context, room, peer string) error {
	c, err := newCall(http.MethodDelete, roomPath(room, "peers", peer), nil)
	if err != nil {
		return err
	}
	return h.do(ctx, c.write(""), nil)
}

// PeerParams change what others see of a peer. What is nil stays as it is.
type PeerParams struct {
	RequestParams
	Self
	Role *string
}

// SetPeer changes what others see of a peer.
func (h *HTTP) SetPeer(ctx context.Context, room, peer string, p PeerParams) error {
	body := struct {
		Name *string         `json:"name,omitempty"`
		Ref  *string         `json:"ref,omitempty"`
		Role *string         `json:"role,omitempty"`
		Data json.RawMessage `json:"data,omitempty"`
	}{Name: p.Name, Ref: p.Ref, Role: p.Role}
	if p.Data != nil {
		var err error
		if body.Data, err = marshal(p.Data); err != nil {
			return fmt.Errorf("encode data of peer %q: %w", peer, err)
		}
	}
	c, err := newCall(http.MethodPatch, roomPath(room, "peers", peer), body)
	if err != nil {
		return err
	}
	p.set(c)
	return h.do(ctx, c, nil)
}

// Send sends a message to a room's peers, as Room.Send does. The caller is none of
// them, so Echo says nothing here. rev is the message's revision; of an Ephemeral
// message, which is sent once, it is the one that the server's state has.
func (h *HTTP) Send(ctx context.Context, room, topic string, data any, p RequestParams, opts ...SendOption) (rev uint64, err error) {
	op, err := newMessage(topic, data, opts)
	if err != nil {
		return 0, err
	}
	c, err := newCall(http.MethodPost, roomPath(room, "messages"), struct {
		Topic     string           `json:"topic"`
		Data      json.RawMessage  `json:"data"`
		To        *wire.Recipients `json:"to,omitempty"`
		Ephemeral bool             `json:"ephemeral,omitempty"`
	}{op.Topic, op.Data, op.To, op.Ephemeral})
	if err != nil {
		return 0, err
	}
	p.set(c)
	if op.Ephemeral { // no server would know it again
		c.repeat, c.drawn = false, false
		c.header.Del("Idempotency-Key")
	}
	return revision(ctx, h, c)
}
