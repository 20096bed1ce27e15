package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// The requests of the node channel. Numbers are for ever.
const (
	methodProbe     Method = 1 // by address: who are you, do you hold a log
	methodPromise   Method = 2 // by address: found the cluster with exactly these nodes
	methodJoin      Method = 3 // by address: take me in
	methodForward   Method = 4 // to the leader: propose this batch
	methodReadIndex Method = 5 // to the leader: an index that holds all that was acknowledged
	methodRound     Method = 6 // to a voter: your term, in answer to a numbered round
	methodRenew     Method = 7 // to the leader: keep leases
	methodTimeLeft  Method = 8 // to the leader: time left of leases
	methodHeartbeat Method = 9 // to the leader: this incarnation lives
	methodStatus    Method = 10
	methodMember    Method = 11 // to the leader: change the membership
	methodLost      Method = 12 // to a voter: have you lost that leader of that term, too
	methodRelay     Method = 13 // to every member: messages that are not logged
	methodHash      Method = 14 // to every member: the hash of the sender's state as of a log entry
)

type probeAnswer struct {
	Cluster string     `cbor:"1,keyasint,omitempty"`
	Members []founding `cbor:"4,keyasint,omitempty"`
}

// founding is a member of the first configuration.
type founding struct {
	ServerID string `cbor:"1,keyasint"`
	Addr     string `cbor:"2,keyasint"`
}

type promiseRequest struct {
	By      string     `cbor:"1,keyasint"` // server id of the founder
	Members []founding `cbor:"2,keyasint"`
}

type joinRequest struct {
	PeerAddr string `cbor:"1,keyasint"`
	Replica  bool   `cbor:"2,keyasint,omitempty"`
}

// forwardAnswer says whether the batch was handed to raft. When it was not, it
// certainly never will be by this node in that term.
type forwardAnswer struct {
	Proposed bool `cbor:"1,keyasint,omitempty"`
}

type readIndexAnswer struct {
	Index uint64 `cbor:"1,keyasint"`
	Term  uint64 `cbor:"2,keyasint"`
}

type roundMessage struct {
	Term   uint64 `cbor:"1,keyasint"`
	Number uint64 `cbor:"2,keyasint"`
}

type renewRequest struct {
	Lease fsm.LeaseRef `cbor:"1,keyasint"`
}

type renewAnswer struct {
	LeftMs  int64        `cbor:"1,keyasint,omitempty"`
	Refusal *fsm.Refusal `cbor:"2,keyasint,omitempty"`
}

type timeLeftRequest struct {
	Leases []fsm.LeaseRef `cbor:"1,keyasint"`
}

type timeLeftAnswer struct {
	LeftMs []int64 `cbor:"1,keyasint"` // -1: not known
}

type heartbeat struct {
	Incarnation uint64 `cbor:"1,keyasint"`
	Applied     uint64 `cbor:"2,keyasint"`
	DiskMicros  int64  `cbor:"3,keyasint,omitempty"`
	PeerAddr    string `cbor:"4,keyasint"`
}

type heartbeatAnswer struct {
	Term    uint64 `cbor:"1,keyasint"`
	Removed bool   `cbor:"2,keyasint,omitempty"` // this member is not in the configuration
}

type memberRequest struct {
	Op       memberOp `cbor:"1,keyasint"`
	ID       string   `cbor:"2,keyasint,omitempty"`
	PeerAddr string   `cbor:"3,keyasint,omitempty"`
	Replica  bool     `cbor:"4,keyasint,omitempty"`
	Force    bool     `cbor:"5,keyasint,omitempty"`
	IfConfig uint64   `cbor:"6,keyasint,omitempty"`
}

type memberAnswer struct {
	Refusal *fsm.Refusal `cbor:"1,keyasint,omitempty"`
	Unknown string       `cbor:"2,keyasint,omitempty"` // the change may or may not take place
}

// errNotLeader is answered by a node that cannot serve a leader's request (now).
const errNotLeader = RemoteError("not the leader")

// isNotLeader says whether the other side refused because it does not lead.
func isNotLeader(err error) bool {
	var remote RemoteError
	return errors.As(err, &remote) && remote == errNotLeader
}

func decode(data []byte, into any) error { return cbor.Unmarshal(data, into) }

func encode(v any) []byte {
	data, err := cbor.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("cluster: encode %T: %v", v, err)) // our own types: a bug
	}
	return data
}

// ask sends a request and waits for the answer.
func (n *Node) ask(ctx context.Context, to raft.ServerID, m Method, req, answer any) error {
	type outcome struct {
		data []byte
		err  error
	}
	ch := make(chan outcome, 1)
	n.channel.Send(ctx, to, m, encode(req), func(data []byte, err error) { ch <- outcome{data, err} })
	out := <-ch
	if out.err != nil {
		return out.err
	}
	return cbor.Unmarshal(out.data, answer)
}

// askLeader asks whoever leads, until it answers or ctx ends. serve answers when
// this node itself leads. Both return errNotLeader (or a transport's error) to
// have the question asked again.
func (n *Node) askLeader(ctx context.Context, m Method, req, answer any, serve func(*leadership) error) error {
	pause := n.timeout / 200
	for {
		changed := n.leaderChanged()
		err := error(errNotLeader)
		if l := n.leads(); l != nil {
			err = serve(l)
		} else if id := n.leaderID(); id != "" && id != n.self.ServerID() {
			attempt, cancel := context.WithTimeout(ctx, 2*n.timeout)
			err = n.ask(attempt, id, m, req, answer)
			cancel()
		}
		if err == nil || terminal(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-n.done:
			return err
		case <-changed:
		case <-time.After(pause):
			pause = min(2*pause, n.timeout/4)
		}
	}
}

// terminal says whether an error is an answer rather than a reason to ask again.
func terminal(err error) bool {
	switch err.(type) {
	case *fsm.Refusal, *UnknownError:
		return true
	}
	return false
}

// serve answers the other nodes. It is called in the order of arrival per node
// and does not block.
func (n *Node) serve(from Identity, m Method, req []byte, reply func([]byte, error)) {
	switch m {
	case methodProbe:
		reply(encode(n.probed()), nil)
	case methodPromise:
		serveAsync(n, req, reply, func(_ context.Context, r promiseRequest) (any, error) { return struct{}{}, n.promise(r) })
	case methodJoin:
		serveAsync(n, req, reply, func(ctx context.Context, r joinRequest) (any, error) { return n.joinOf(ctx, from, r) })
	case methodForward:
		n.serveForward(from, req, reply)
	case methodReadIndex:
		n.serveReadIndex(reply)
	case methodRound:
		var r roundMessage
		if err := cbor.Unmarshal(req, &r); err != nil {
			reply(nil, err)
			return
		}
		reply(encode(roundMessage{Term: n.raft.CurrentTerm(), Number: r.Number}), nil)
	case methodRenew:
		serveAsync(n, req, reply, func(ctx context.Context, r renewRequest) (any, error) {
			l := n.leads()
			if l == nil {
				return nil, errNotLeader
			}
			left, err := l.renew(ctx, r.Lease)
			if refusal, ok := err.(*fsm.Refusal); ok {
				return renewAnswer{Refusal: refusal}, nil
			}
			return renewAnswer{LeftMs: left.Milliseconds()}, err
		})
	case methodTimeLeft:
		serveAsync(n, req, reply, func(_ context.Context, r timeLeftRequest) (any, error) {
			l := n.leads()
			if l == nil {
				return nil, errNotLeader
			}
			return l.timeLeft(r), nil
		})
	case methodHeartbeat:
		n.serveHeartbeat(from, req, reply)
	case methodStatus:
		serveAsync(n, req, reply, func(context.Context, struct{}) (any, error) {
			l := n.leads()
			if l == nil {
				return nil, errNotLeader
			}
			return l.status(), nil
		})
	case methodMember:
		serveAsync(n, req, reply, func(ctx context.Context, r memberRequest) (any, error) {
			l := n.leads()
			if l == nil {
				return nil, errNotLeader
			}
			switch err := l.change(ctx, r).(type) {
			case nil:
				return memberAnswer{}, nil
			case *fsm.Refusal:
				return memberAnswer{Refusal: err}, nil
			case *UnknownError:
				return memberAnswer{Unknown: err.Reason}, nil
			default:
				return nil, err
			}
		})
	case methodHash:
		n.serveHash(from, req, reply)
	case methodLost:
		serveAsync(n, req, reply, n.serveLost)
	case methodRelay:
		n.relay.serve(from, req, reply)
	default:
		reply(nil, RemoteError(fmt.Sprintf("method %d is not known to this node", m)))
	}
}

// serveAsync decodes a request and answers it from a goroutine of its own.
func serveAsync[R any](n *Node, req []byte, reply func([]byte, error), f func(context.Context, R) (any, error)) {
	var r R
	if err := cbor.Unmarshal(req, &r); err != nil {
		reply(nil, fmt.Errorf("decode %T: %w", r, err))
		return
	}
	if !n.spawn(func() {
		ctx, cancel := context.WithTimeout(n.ctx, n.deadline)
		defer cancel()
		answer, err := f(ctx, r)
		if err != nil {
			reply(nil, err)
			return
		}
		reply(encode(answer), nil)
	}) {
		reply(nil, errNotLeader)
	}
}
