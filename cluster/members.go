package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// memberOp names a change of the membership.
type memberOp uint8

const (
	memberAdd      memberOp = 1
	memberRemove   memberOp = 2
	memberPromote  memberOp = 3
	memberDemote   memberOp = 4
	memberTransfer memberOp = 5
)

// caughtUpLag is how many entries a non-voter may lack to count as caught up.
const caughtUpLag = 64

// configuration is the latest configuration in this node's log, committed or not:
// the one that raft itself counts votes by.
func (n *Node) configuration() raft.Configuration {
	return n.raft.GetConfiguration().Configuration()
}

func (n *Node) configIndex() uint64 { return n.configs.latest() }

// member finds a server id in the configuration.
func (n *Node) member(id raft.ServerID) (raft.Server, bool) {
	for _, server := range n.configuration().Servers {
		if server.ID == id {
			return server, true
		}
	}
	return raft.Server{}, false
}

// memberNamed finds a node by its name.
func (n *Node) memberNamed(node string) (raft.Server, bool) {
	for _, server := range n.configuration().Servers {
		if nodeOf(server.ID) == node {
			return server, true
		}
	}
	return raft.Server{}, false
}

// nodeOf is the node's name in a server id.
func nodeOf(id raft.ServerID) string {
	name, _, _ := strings.Cut(string(id), ".")
	return name
}

// resolve is how the transports find a member: at its address in the
// configuration, or, while this node has not found a leader since it started,
// where it has answered just now.
func (n *Node) resolve(id raft.ServerID) (string, bool) {
	n.mu.Lock()
	addr, ok := n.hints[id]
	n.mu.Unlock()
	if ok {
		return addr, true
	}
	server, ok := n.member(id)
	return string(server.Address), ok
}

// Membership changes run on the leader wherever they are asked for. ifConfig is
// the configuration index that the caller saw, 0 for any: another one is refused
// with conflict. Refusals are *fsm.Refusal (bad_request, conflict, not_found);
// else the error is *UnavailableError or *UnknownError.

// AddMember adds the node that answers at peerAddr, under that id, as non-voter;
// it is promoted once caught up unless replica.
func (n *Node) AddMember(ctx context.Context, id, peerAddr string, replica bool, ifConfig uint64) error {
	return n.changeMembers(ctx, memberRequest{Op: memberAdd, ID: id, PeerAddr: peerAddr, Replica: replica, IfConfig: ifConfig})
}

// RemoveMember removes a member. What would leave fewer live voters than a
// majority is refused unless force is set.
func (n *Node) RemoveMember(ctx context.Context, id string, force bool, ifConfig uint64) error {
	return n.changeMembers(ctx, memberRequest{Op: memberRemove, ID: id, Force: force, IfConfig: ifConfig})
}

// Promote makes a caught-up non-voter a voter, also one meant to stay a replica.
func (n *Node) Promote(ctx context.Context, id string, ifConfig uint64) error {
	return n.changeMembers(ctx, memberRequest{Op: memberPromote, ID: id, IfConfig: ifConfig})
}

// Demote makes a voter a replica.
func (n *Node) Demote(ctx context.Context, id string, ifConfig uint64) error {
	return n.changeMembers(ctx, memberRequest{Op: memberDemote, ID: id, IfConfig: ifConfig})
}

// Transfer hands leadership to a voter, or with "" to the best one.
func (n *Node) Transfer(ctx context.Context, to string) error {
	return n.changeMembers(ctx, memberRequest{Op: memberTransfer, ID: to})
}

func (n *Node) changeMembers(ctx context.Context, r memberRequest) error {
	ctx, cancel := context.WithTimeout(ctx, n.deadline)
	defer cancel()
	var answer memberAnswer
	err := n.askLeader(ctx, methodMember, r, &answer, func(l *leadership) error { return l.change(ctx, r) })
	switch {
	case err == nil && answer.Refusal != nil:
		return answer.Refusal
	case err == nil && answer.Unknown != "":
		return &UnknownError{answer.Unknown}
	case err == nil:
		return nil
	case terminal(err):
		return err
	case isNotLeader(err) || errors.Is(err, ErrNotSent):
		return &UnavailableError{"no leader in time"}
	}
	return &UnknownError{err.Error()}
}

// change carries out a change on the leader: refused, nil once committed, or
// errNotLeader to have it asked again of the next leader.
func (l *leadership) change(ctx context.Context, r memberRequest) error {
	if r.IfConfig != 0 && r.IfConfig != l.n.configIndex() {
		return &fsm.Refusal{Code: fsm.CodeConflict, Message: "the configuration has changed", Details: fsm.Details{Rev: l.n.configIndex()}}
	}
	server, known := l.n.memberNamed(r.ID)
	switch r.Op {
	case memberAdd:
		return l.add(ctx, r)
	case memberTransfer:
		if r.ID != "" && !known {
			return unknownMember(r.ID)
		}
		return l.transfer(ctx, server)
	}
	if !known {
		return unknownMember(r.ID)
	}
	switch r.Op {
	case memberRemove:
		return l.remove(ctx, server, r)
	case memberPromote:
		if !l.current(server.ID) {
			return refuse(fsm.CodeConflict, "%s has not caught up with the leader", r.ID)
		}
		l.control(fsm.Control{Kind: fsm.ControlReplica, Node: r.ID, Off: true})
		return l.configure(l.n.raft.AddVoter(server.ID, server.Address, r.IfConfig, l.n.deadline))
	case memberDemote:
		if err := l.keepsQuorum(server, false); err != nil {
			return err
		}
		if server.ID == l.n.self.ServerID() {
			return l.stepAside(ctx)
		}
		l.control(fsm.Control{Kind: fsm.ControlReplica, Node: r.ID})
		return l.configure(l.n.raft.DemoteVoter(server.ID, r.IfConfig, l.n.deadline))
	}
	return refuse(fsm.CodeBadRequest, "operation %d is not known to this node", r.Op)
}

func refuse(code fsm.Code, format string, args ...any) *fsm.Refusal {
	return &fsm.Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

func unknownMember(id string) error {
	return refuse(fsm.CodeNotFound, "no member is called %q", id)
}

// configure waits for a change of the configuration.
func (l *leadership) configure(future raft.IndexFuture) error {
	switch err := future.Error(); {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrEnqueueTimeout):
		return errNotLeader
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown):
		return &UnknownError{"leadership was lost meanwhile"}
	default: // raft refused it against the configuration as it is
		return refuse(fsm.CodeConflict, "%v", err)
	}
}

// add takes a node in as non-voter, after it has answered at its address under
// its name. An earlier membership of the same name is dropped first, but only if
// that member (its data directory) answers nobody any more.
func (l *leadership) add(ctx context.Context, r memberRequest) error {
	if r.ID == "" || strings.Contains(r.ID, ".") {
		return refuseField("id", "a node id is 1 to 64 characters without a dot")
	}
	if r.PeerAddr == "" {
		return refuseField("peer_addr", "the address where the node's peer port answers is missing")
	}
	probe, cancel := context.WithTimeout(ctx, 2*l.n.timeout)
	defer cancel()
	who, data, err := l.n.channel.Dial(probe, r.PeerAddr, methodProbe, encode(struct{}{}))
	if err != nil {
		return refuseField("peer_addr", "nobody answers there: "+err.Error())
	}
	var found probeAnswer
	if err := decode(data, &found); err != nil {
		return refuseField("peer_addr", "what answers there is no node of this version")
	}
	switch {
	case who.Node != r.ID:
		return refuseField("peer_addr", fmt.Sprintf("%s answers there, not %s", who.Node, r.ID))
	case found.Cluster != "" && found.Cluster != l.n.machine.View().Cluster():
		return refuseField("peer_addr", fmt.Sprintf("%s belongs to another cluster (%s)", who.Node, found.Cluster))
	}
	if old, ok := l.n.memberNamed(r.ID); ok {
		if old.ID == who.ServerID() && string(old.Address) == r.PeerAddr {
			return refuse(fsm.CodeConflict, "%s is a member already", r.ID)
		}
		if old.ID == who.ServerID() { // it has moved: in place, never out and in
			return l.move(old, r)
		}
		if err := l.replace(ctx, old); err != nil {
			return err
		}
	}
	if err := l.configure(l.n.raft.AddNonvoter(who.ServerID(), raft.ServerAddress(r.PeerAddr), 0, l.n.deadline)); err != nil {
		return err
	}
	l.control(fsm.Control{Kind: fsm.ControlReplica, Node: r.ID, Off: !r.Replica})
	return nil
}

// move changes a member's address and nothing else. Raft refuses one address
// twice: if another had it, and the member answers there now, that other is left
// without until it says where it went. So two that swapped find their places.
func (l *leadership) move(s raft.Server, r memberRequest) error {
	if o, taken := holder(l.n.configuration().Servers, r.PeerAddr); taken && o.ID != s.ID {
		if !l.answersAt(s.ID, r.PeerAddr) {
			return refuse(fsm.CodeConflict, "%s is the address of %s", r.PeerAddr, nodeOf(o.ID))
		}
		if err := l.place(o, string(o.ID), r.IfConfig); err != nil {
			return err
		}
		r.IfConfig = 0
	}
	return l.place(s, r.PeerAddr, r.IfConfig)
}

// answersAt reports whether a member, and so nobody else, is at an address.
func (l *leadership) answersAt(id raft.ServerID, addr string) bool {
	if id == l.n.self.ServerID() {
		return addr == l.n.cfg.PeerAddr
	}
	who, _, err := l.n.probe(l.ctx, addr)
	return err == nil && who.ServerID() == id
}

// place sets a member's address, if the configuration is still that of ifConfig.
func (l *leadership) place(s raft.Server, addr string, ifConfig uint64) error {
	if s.Suffrage == raft.Voter {
		return l.configure(l.n.raft.AddVoter(s.ID, raft.ServerAddress(addr), ifConfig, l.n.deadline))
	}
	return l.configure(l.n.raft.AddNonvoter(s.ID, raft.ServerAddress(addr), ifConfig, l.n.deadline))
}

func refuseField(field, message string) error {
	return &fsm.Refusal{Code: fsm.CodeBadRequest, Message: field + ": " + message, Details: fsm.Details{Field: field}}
}

// replace drops a member whose data directory is gone, so that the node may join
// anew: it would vote without its log under its old id.
func (l *leadership) replace(ctx context.Context, old raft.Server) error {
	probe, cancel := context.WithTimeout(ctx, l.n.timeout)
	defer cancel()
	var a roundMessage
	if l.heardOf(old.ID) || l.n.ask(probe, old.ID, methodRound, roundMessage{Term: l.term}, &a) == nil {
		return refuse(fsm.CodeConflict, "%s is a member already and answers from another data directory", nodeOf(old.ID))
	}
	if err := l.keepsQuorum(old, false); err != nil {
		return err
	}
	return l.configure(l.n.raft.RemoveServer(old.ID, 0, l.n.deadline))
}

// remove removes a member.
func (l *leadership) remove(ctx context.Context, server raft.Server, r memberRequest) error {
	if err := l.keepsQuorum(server, r.Force); err != nil {
		return err
	}
	if server.ID == l.n.self.ServerID() {
		return l.stepAside(ctx)
	}
	if err := l.configure(l.n.raft.RemoveServer(server.ID, r.IfConfig, l.n.deadline)); err != nil {
		return err
	}
	l.control(fsm.Control{Kind: fsm.ControlForget, Node: nodeOf(server.ID)})
	return nil
}

// stepAside hands leadership over, so that the next leader can change this one.
func (l *leadership) stepAside(ctx context.Context) error {
	if err := l.transfer(ctx, raft.Server{}); err != nil {
		return err
	}
	return errNotLeader
}

// keepsQuorum refuses to take a voter away when those left that are alive would
// be no majority; force overrides that, but never removes the last voter.
func (l *leadership) keepsQuorum(server raft.Server, force bool) error {
	if server.Suffrage != raft.Voter {
		return nil
	}
	left, live := 0, 0
	for _, s := range l.n.configuration().Servers {
		if s.Suffrage != raft.Voter || s.ID == server.ID {
			continue
		}
		left++
		if l.heardOf(s.ID) {
			live++
		}
	}
	if left > 0 && live <= left/2 && time.Since(l.start) < l.n.timeout {
		return errNotLeader // too new a leader to tell: asked again
	}
	if left == 0 {
		return &fsm.Refusal{
			Code: fsm.CodeConflict, Message: fmt.Sprintf("%s is the last voter", nodeOf(server.ID)),
			Details: fsm.Details{Reason: "quorum"},
		}
	}
	if live <= left/2 && !force {
		return &fsm.Refusal{
			Code:    fsm.CodeConflict,
			Message: fmt.Sprintf("only %d of the %d voters left would be alive: quorum would be lost", live, left),
			Details: fsm.Details{Reason: "quorum"},
		}
	}
	return nil
}

// current reports whether a member has, as of its last heartbeat, nearly all.
func (l *leadership) current(id raft.ServerID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.nodes[id]
	return seen != nil && time.Since(seen.at) < goneAfter*l.n.timeout &&
		seen.lag <= caughtUpLag
}

// reconcile compares the members with what they are meant to be, and changes one
// thing at a time: a non-voter that has caught up, at two looks in a row, becomes
// a voter; a member that says it has another address gets it, in place.
func (l *leadership) reconcile() {
	view := l.n.machine.View()
	prev := l.n.configIndex()
	for _, s := range l.n.configuration().Servers {
		addr := l.addressOf(s)
		promote := s.Suffrage == raft.Nonvoter && l.caughtUp(s.ID) && !view.Replica(nodeOf(s.ID))
		if addr == "" || !promote && addr == string(s.Address) {
			continue
		}
		if promote {
			s.Suffrage = raft.Voter
		}
		if err := l.move(s, memberRequest{PeerAddr: addr, IfConfig: prev}); err != nil {
			l.n.log.Warn("change a member", "member", s.ID, "error", err)
		}
		return
	}
}

// addressOf is where a member says it is, "" if it has not been heard of.
func (l *leadership) addressOf(s raft.Server) string {
	if s.ID == l.n.self.ServerID() {
		return l.n.cfg.PeerAddr
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if seen := l.nodes[s.ID]; seen != nil {
		return seen.beat.PeerAddr
	}
	return ""
}

// caughtUp reports whether a member had nearly all at this look and the last.
func (l *leadership) caughtUp(id raft.ServerID) bool {
	current := l.current(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.nodes[id]
	switch {
	case seen == nil:
		return false
	case current:
		seen.caughtUp++
	default:
		seen.caughtUp = 0
	}
	return seen.caughtUp >= 2
}

// holder is the member with an address.
func holder(servers []raft.Server, addr string) (raft.Server, bool) {
	for _, s := range servers {
		if string(s.Address) == addr {
			return s, true
		}
	}
	return raft.Server{}, false
}
