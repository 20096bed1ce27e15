package client

import (
	"context"

	"conclave/client/wire"
)

// SendOption says who gets a message, ToPeers, ToRefs, ToRoles, Echo, and how:
// Ephemeral. Without the first three it is for everybody; several of them add up.
type SendOption func(*wire.Op)

// ToPeers sends to those peers.
func ToPeers(peers ...string) SendOption {
	return func(op *wire.Op) { r := recipients(op); r.Peers = append(r.Peers, peers...) }
}

// ToRefs sends to the peers that have one of those refs, the app's own ids.
func ToRefs(refs ...string) SendOption {
	return func(op *wire.Op) { r := recipients(op); r.Refs = append(r.Refs, refs...) }
}

// ToRoles sends to the peers in one of those roles.
func ToRoles(roles ...string) SendOption {
	return func(op *wire.Op) { r := recipients(op); r.Roles = append(r.Roles, roles...) }
}

// Echo sends to the sender, too, whoever else it is for.
func Echo() SendOption { return func(op *wire.Op) { op.Echo = true } }

func recipients(op *wire.Op) *wire.Recipients {
	if op.To == nil {
		op.To = &wire.Recipients{}
	}
	return op.To
}

// newMessage makes the operation that sends a message. Recipients that turn out to
// be an empty list are refused: what was meant for a few must not go to all.
func newMessage(topic string, data any, opts []SendOption) (*wire.Op, error) {
	encoded, err := encode("message on", topic, data)
	if err != nil {
		return nil, err
	}
	op := &wire.Op{Do: "send", Topic: topic, Data: encoded}
	for _, o := range opts {
		o(op)
	}
	if to := op.To; to != nil && len(to.Peers)+len(to.Refs)+len(to.Roles) == 0 {
		return nil, wire.Errorf(wire.BadRequest, "a message on %q for nobody", topic)
	}
	return op, nil
}

// Send sends a message, ordered with the changes of the room's state: who watches
// both gets them in one order, and a peer that was away gets it on its return. It
// is stored nowhere, so that peers that join later do not get it. Nor does the
// sender, without Echo. An Ephemeral message is none of this.
func (r *Room) Send(ctx context.Context, topic string, data any, opts ...SendOption) (rev uint64, err error) {
	op, err := newMessage(topic, data, opts)
	if err != nil {
		return 0, err
	}
	if op.Ephemeral {
		return r.sendEphemeral(ctx, op)
	}
	return r.rewrite(ctx, op, nil)
}
