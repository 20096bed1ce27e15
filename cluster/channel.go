package cluster

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"
)

// Method names a request of the node channel.
type Method uint8

// Channel carries the nodes' own requests: forwarded batches, read-index rounds,
// renewals, heartbeats, membership, messages that are not logged. Requests from one node to another arrive in
// the order in which Send was called, as long as one connection lasts; answers
// come in any order.
type Channel interface {
	// Send sends a request to the member with that server id and calls done once,
	// with the answer or an error, from a goroutine of the channel's; done must
	// not block. ErrNotSent (wrapped) means that the request certainly did not
	// leave this node. Requests without an answer fail when ctx ends or the
	// connection breaks. Send itself never blocks.
	Send(ctx context.Context, to raft.ServerID, m Method, req []byte, done func(answer []byte, err error))
	// Dial sends one request to whoever answers at an address, and returns who
	// that is besides the answer. It serves first contact: probing and joining.
	Dial(ctx context.Context, addr string, m Method, req []byte) (from Identity, answer []byte, err error)
	// Handle sets what serves requests, before the first arrives. It is called in
	// the order of arrival per sender and must not block; it calls reply once,
	// from any goroutine.
	Handle(serve func(from Identity, m Method, req []byte, reply func(answer []byte, err error)))
	// Lost sets what is told that a member's process is gone, before Handle is
	// called: a connection to it has ended by no doing of this side, none of its
	// own to this side is left, and dialling it is refused. What is only slow,
	// silent or closed by this side is not lost, nor what answers a dial. f may be
	// told the same again, and must not block.
	Lost(f func(id raft.ServerID))
	Close() error
}

// ErrNotSent marks a request that certainly did not leave this node.
var ErrNotSent = errors.New("request not sent")

// RemoteError is an error that the other side answered with.
type RemoteError string

func (e RemoteError) Error() string { return string(e) }
