package cluster

import (
	"context"
	"time"

	"conclave/fsm"
)

// UnavailableError says that a request was certainly never handed to the log:
// safe to repeat.
type UnavailableError struct{ Reason string }

func (e *UnavailableError) Error() string { return "unavailable: " + e.Reason }

// UnknownError says that a request may or may not have been applied: repeat only
// with the same request id.
type UnknownError struct{ Reason string }

func (e *UnknownError) Error() string { return "unknown outcome: " + e.Reason }

// Node is one member of the cluster.
type Node struct{}

// Open starts a node. It returns once raft runs; Ready tells when the node
// serves. The stores stay the caller's to close, after Close.
func Open(cfg Config) (*Node, error) { panic("not built") }

// Close hands leadership to a caught-up node if this one leads, stops raft, then
// closes the channel. It may be called twice.
func (n *Node) Close(ctx context.Context) error { panic("not built") }

// ID is the node's name; Incarnation the number of this start.
func (n *Node) ID() string          { panic("not built") }
func (n *Node) Incarnation() uint64 { panic("not built") }

// View is this node's published state, possibly behind the cluster's.
func (n *Node) View() *fsm.View { panic("not built") }

// Ring is the ring of recent frames of a room's live session, nil if none.
func (n *Node) Ring(room string) *fsm.Ring { panic("not built") }

// Observe adds a function called after each publication, in order; it must not
// block. remove stops it.
func (n *Node) Observe(f func(*fsm.Published)) (remove func()) { panic("not built") }

// Do hands one command to the log and waits for its result as applied on this
// node. The error is nil, *UnavailableError or *UnknownError (also when ctx ends);
// a refusal is in the result.
func (n *Node) Do(ctx context.Context, c *fsm.Command) (*fsm.Result, error) { panic("not built") }

// Lane is a client connection's queue of commands: they are applied in the order
// of Submit, whatever happens to leaders. Lanes take turns, so that none owns the
// node's batches. One goroutine at a time may use a lane.
type Lane struct{}

// NewLane makes a lane. It needs no closing.
func (n *Node) NewLane() *Lane { panic("not built") }

// Submit queues a command. done is called exactly once, within Config.Deadline,
// in the order of Submit per lane, after this node has published the change; it
// must not block. c must not be changed afterwards.
func (l *Lane) Submit(c *fsm.Command, done func(*fsm.Result, error)) { panic("not built") }

// Read returns a view that holds everything acknowledged anywhere before the
// call: a linearizable read. The error is an *UnavailableError.
func (n *Node) Read(ctx context.Context) (*fsm.View, error) { panic("not built") }

// Stale returns this node's view for a read that may lag, or an
// *UnavailableError while the node has not yet caught up with a leader once.
func (n *Node) Stale() (*fsm.View, error) { panic("not built") }

// WaitRev returns a view whose revision is at least rev; the error is an
// *UnavailableError when ctx or the deadline ends first.
func (n *Node) WaitRev(ctx context.Context, rev uint64) (*fsm.View, error) { panic("not built") }

// Renew keeps a lease alive: a lock's holder, or a peer without a socket. It
// returns the time left, counted from when the leader recorded it. A refusal
// (*fsm.Refusal: not_holder, not_found, session_ended, no_session),
// *UnavailableError or *UnknownError is the error.
func (n *Node) Renew(ctx context.Context, r fsm.LeaseRef) (time.Duration, error) { panic("not built") }

// TimeLeft asks the leader for the time left of leases; those it does not know
// are absent. On any failure it returns nil: the time left is a courtesy.
func (n *Node) TimeLeft(ctx context.Context, refs []fsm.LeaseRef) map[fsm.LeaseRef]time.Duration {
	panic("not built")
}

// Ready returns why the node does not serve, nothing when it does: it has once
// reached a leader's read index, a leader is known, it is not closing.
func (n *Node) Ready() []string { panic("not built") }

// NoLeaderSince is when the node lost sight of a leader; zero while it has one.
func (n *Node) NoLeaderSince() time.Time { panic("not built") }

// Status is the cluster as this node sees it.
func (n *Node) Status(ctx context.Context) Status { panic("not built") }

// Status is the answer of GET /v1/cluster.
type Status struct {
	Cluster     string
	ID          string
	Leader      string // "" when none is known
	Term        uint64
	ConfigIndex uint64
	Applied     uint64
	Commit      uint64
	Rev         uint64
	Members     []Member
}

// Member is one node of the configuration.
type Member struct {
	ID          string // the node's name
	PeerAddr    string
	HTTPAddr    string
	Voter       bool
	Leader      bool
	Applied     uint64
	Lag         uint64 // entries behind the leader
	LastContact time.Duration
	Disk        time.Duration // a recent write, smoothed
	Version     string
	Healthy     bool
}

// Membership changes run on the leader wherever they are asked for. ifConfig is
// the configuration index that the caller saw, 0 for any: another one is refused
// with conflict. Refusals are *fsm.Refusal (bad_request, conflict, not_found,
// forbidden for what would lose quorum without force); else *UnavailableError or
// *UnknownError.

// AddMember adds the node that answers at peerAddr, under that id, as non-voter;
// it is promoted once caught up unless replica.
func (n *Node) AddMember(ctx context.Context, id, peerAddr string, replica bool, ifConfig uint64) error {
	panic("not built")
}

// RemoveMember removes a member.
func (n *Node) RemoveMember(ctx context.Context, id string, force bool, ifConfig uint64) error {
	panic("not built")
}

// Promote makes a caught-up non-voter a voter, Demote a voter a non-voter.
func (n *Node) Promote(ctx context.Context, id string, ifConfig uint64) error { panic("not built") }
func (n *Node) Demote(ctx context.Context, id string, ifConfig uint64) error  { panic("not built") }

// Transfer hands leadership to a member, or with "" to the best one.
func (n *Node) Transfer(ctx context.Context, to string) error { panic("not built") }
