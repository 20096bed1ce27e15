package cluster

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// transport is what raft gets: any other transport (TCP's, the simulation's) with
// seven things changed.
//
//   - Heartbeats take no fast path. In hashicorp/raft a heartbeat that is handled
//     beside the main loop may move the term while the leader's log is being
//     appended (hashicorp/raft#695); the Transport contract lets us ignore the handler.
//   - A peer is encoded as its server id, never as its address. Votes are recorded
//     under what EncodePeer returns, and addresses may change hands. LocalAddr and
//     DecodePeer agree with it, so whatever raft calls a leader's address is its id.
//   - Entries are not pipelined: a follower can wedge for ever (hashicorp/raft#612).
//   - Followers hear of a commit at once (see nudger).
//   - A late snapshot does not reach raft (see receive).
//   - Who asks for a vote is taken for a voter (see unquestioned).
//   - Followers are told of no commit that this leader's disk lacks (see earlyLog).
//
// raft closes it on Shutdown.
type transport struct {
	raft.Transport
	preVote raft.WithPreVote // the inner transport again: embedding an interface hides it
	self    raft.ServerID
	nudges  *nudger

	consumer chan raft.RPC
	reached  atomic.Uint64 // the newest index that was published here
	raft     atomic.Pointer[raft.Raft]
	log      *earlyLog     // set before raft starts; nil: everything is on the disk
	done     chan struct{} // closed by Close
	closing  sync.Once
	received chan struct{} // closed when receive has ended
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil) // without it raft silently turns pre-vote off
	_ raft.WithClose   = (*transport)(nil)
)

// newTransport wraps the transport of the server with that id. It owns one
// goroutine, until Close.
func newTransport(inner raft.Transport, self raft.ServerID) (*transport, error) {
	preVote, ok := inner.(raft.WithPreVote)
	if !ok {
		return nil, fmt.Errorf("transport %T cannot pre-vote", inner)
	}
	t := &transport{
		Transport: inner, preVote: preVote, self: self, nudges: newNudger(inner.AppendEntries),
		consumer: make(chan raft.RPC), done: make(chan struct{}), received: make(chan struct{}),
	}
	go t.receive()
	return t, nil
}

// Consumer is where raft takes requests from.
func (t *transport) Consumer() <-chan raft.RPC { return t.consumer }

// receive hands requests on to raft, but for snapshots of what was published here
// before: those the network kept for long, while entries brought this server
// further. Raft would install them, and with them the membership of that time,
// which nothing would set right again: the entries that changed it are in the log
// already. Their sender is told that we have what it sent.
func (t *transport) receive() {
	defer close(t.received)
	for {
		var rpc raft.RPC
		select {
		case rpc = <-t.Transport.Consumer():
		case <-t.done:
			return
		}
		if req, ok := rpc.Command.(*raft.InstallSnapshotRequest); ok && req.LastLogIndex <= t.reached.Load() {
			_, err := io.Copy(io.Discard, rpc.Reader) // the connection has more after it
			rpc.Respond(&raft.InstallSnapshotResponse{Term: req.Term, Success: true}, err)
			continue
		}
		rpc.Command = t.unquestioned(rpc.Command)
		select {
		case t.consumer <- rpc:
		case <-t.done:
			rpc.Respond(nil, raft.ErrTransportShutdown)
			return
		}
	}
}

// serves tells the transport which raft it serves.
func (t *transport) serves(r *raft.Raft) { t.raft.Store(r) }

// leads reports whether the raft that it serves leads.
func (t *transport) leads() bool {
	r := t.raft.Load()
	return r != nil && r.State() == raft.Leader
}

// unquestioned has raft answer a request for a vote whether or not its newest
// configuration has the candidate as a voter; it refuses to otherwise. A candidate
// is one by its own log, and if the entry that made it one is not in ours, its log
// may be the only one to elect: with the old leader gone for good, nobody could win.
// A candidate whose log is the shorter is refused for that, also one that was
// removed and does not know.
func (t *transport) unquestioned(command any) any {
	switch req := command.(type) {
	case *raft.RequestVoteRequest:
		asked := *req
		asked.ID = nil // raft does not look it up then, and votes for Addr
		return &asked
	case *raft.RequestPreVoteRequest:
		r := t.raft.Load()
		if r == nil {
			break
		}
		for _, s := range r.GetConfiguration().Configuration().Servers {
			if s.Suffrage == raft.Voter {
				asked := *req
				asked.ID = []byte(s.ID) // raft looks up nothing else by it
				return &asked
			}
		}
	}
	return command
}

// campaignPatience is how long raft may take to accept a campaign before it is
// asked again whether it should.
const campaignPatience = 5 * time.Millisecond

// Campaign has raft stand for election now, as if its leader had handed over to it,
// unless may says first that it should not. Raft obeys in every state, so may must
// be false on a leader and on a non-voter.
func (t *transport) Campaign(may func() bool) bool {
	rpc := raft.RPC{Command: t.timeoutNow(), RespChan: make(chan raft.RPCResponse, 1)}
	for may() {
		select {
		case t.consumer <- rpc:
			return true
		case <-t.done:
			return false
		case <-time.After(campaignPatience):
		}
	}
	return false
}

// timeoutNow is what a leader asks its successor.
func (t *transport) timeoutNow() *raft.TimeoutNowRequest {
	return &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(t.self), Addr: []byte(t.self),
	}}
}

// Has reports whether a server has this leader's log up to an index, as far as it
// has said so in this term.
func (t *transport) Has(id raft.ServerID, term, index uint64) bool {
	return t.nudges.has(id, term, index)
}

// Succeed asks a server to stand for election, as this leader's successor, and waits
// for its answer while ctx lasts.
func (t *transport) Succeed(ctx context.Context, to raft.Server) error {
	answer := make(chan error, 1)
	if !t.nudges.start(func() { answer <- t.TimeoutNow(to.ID, to.Address, t.timeoutNow(), &raft.TimeoutNowResponse{}) }) {
		return raft.ErrTransportShutdown
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Committed says that the entry with that index, of that raft term, is committed and
// on this node's disk. If it leads in that term, its followers are told, so that they
// apply it while it does. Any node may call it for every entry; it never blocks.
func (t *transport) Committed(index, term uint64) { t.nudges.committed(index, term) }

// Applied says that this node has published the entry with that index.
func (t *transport) Applied(index uint64) {
	t.reached.Store(max(index, t.reached.Load())) // raft's FSM goroutine alone calls this
}

// AppendEntries sends entries and learns from the answer what the follower has.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if t.log != nil && !hasty {
		req.LeaderCommitIndex = min(req.LeaderCommitIndex, t.log.Durable())
	}
	f := t.nudges.sending(id, target, req)
	err := t.Transport.AppendEntries(id, target, req, resp)
	t.nudges.answered(f, req, resp, err)
	return err
}

// AppendEntriesPipeline tells raft to send one request at a time.
func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// RequestPreVote passes a pre-vote on.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.preVote.RequestPreVote(id, target, req, resp)
}

// SetHeartbeatHandler does nothing: heartbeats go through Consumer like the rest.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {}

// LocalAddr is this server's id.
func (t *transport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.self) }

// EncodePeer is the server's id, whatever its address.
func (t *transport) EncodePeer(id raft.ServerID, _ raft.ServerAddress) []byte { return []byte(id) }

// DecodePeer is the inverse of EncodePeer.
func (t *transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// Close ends the nudges and closes the inner transport if it can be closed.
func (t *transport) Close() error {
	t.nudges.stop()
	var err error
	if c, ok := t.Transport.(raft.WithClose); ok {
		err = c.Close()
	}
	t.closing.Do(func() { close(t.done) })
	<-t.received
	t.nudges.wait() // after the close, which ends the requests under way
	return err
}
