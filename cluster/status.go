package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// Status is the cluster as the node sees it; the members' figures are the
// leader's when it answers.
type Status struct {
	Cluster     string   `cbor:"1,keyasint"`
	ID          string   `cbor:"2,keyasint"`
	Leader      string   `cbor:"3,keyasint"` // "" when none is known
	Term        uint64   `cbor:"4,keyasint"`
	ConfigIndex uint64   `cbor:"5,keyasint"`
	Applied     uint64   `cbor:"6,keyasint"`
	Commit      uint64   `cbor:"7,keyasint"`
	Rev         uint64   `cbor:"8,keyasint"`
	Members     []Member `cbor:"9,keyasint"`
	Agreed      uint64   `cbor:"10,keyasint"` // newest log index at which this node's state was compared, and that of the majority
	Differing   uint64   `cbor:"11,keyasint"` // how often this node has seen replicas' states differ
}

// Member is one node of the configuration.
type Member struct {
	ID          string        `cbor:"1,keyasint"` // the node's name
	PeerAddr    string        `cbor:"2,keyasint"`
	HTTPAddr    string        `cbor:"3,keyasint"`
	Voter       bool          `cbor:"4,keyasint"`
	Leader      bool          `cbor:"5,keyasint"`
	Applied     uint64        `cbor:"6,keyasint"`
	Lag         uint64        `cbor:"7,keyasint"` // entries behind the leader
	LastContact time.Duration `cbor:"8,keyasint"`
	Disk        time.Duration `cbor:"9,keyasint"` // a recent write, smoothed
	Version     string        `cbor:"10,keyasint"`
	Healthy     bool          `cbor:"11,keyasint"`
}

// Status is the cluster as this node sees it.
func (n *Node) Status(ctx context.Context) Status {
	own := n.status()
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	var theirs Status
	if n.leaderID() == "" || n.askLeader(ctx, methodStatus, struct{}{}, &theirs, func(l *leadership) error {
		theirs = l.status()
		return nil
	}) != nil {
		return own
	}
	own.Members, own.Leader, own.Term = theirs.Members, theirs.Leader, max(own.Term, theirs.Term)
	return own
}

// status is what the node knows without asking.
func (n *Node) status() Status {
	view := n.machine.View()
	leader := n.leaderID()
	s := Status{
		Cluster: view.Cluster(), ID: n.self.Node, Leader: nodeOf(leader),
		Term: n.raft.CurrentTerm(), ConfigIndex: n.configIndex(),
		Applied: view.Index(), Commit: n.raft.CommitIndex(), Rev: view.Rev(),
	}
	s.Agreed, s.Differing = n.divergence.figures()
	for _, server := range n.configuration().Servers {
		m := Member{
			ID: nodeOf(server.ID), PeerAddr: string(server.Address),
			Voter: server.Suffrage == raft.Voter, Leader: server.ID == leader,
		}
		if info, ok := view.Node(m.ID); ok {
			m.HTTPAddr, m.Version = info.HTTPAddr, info.Version
		}
		if server.ID == n.self.ServerID() {
			m.Applied, m.Disk, m.Healthy = view.Index(), n.watchdog.Latency(), leader != ""
		}
		s.Members = append(s.Members, m)
	}
	return s
}

// status adds what heartbeats told.
func (l *leadership) status() Status {
	s := l.n.status()
	servers := l.n.configuration().Servers
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range s.Members {
		if i >= len(servers) || nodeOf(servers[i].ID) != s.Members[i].ID {
			break // the configuration changed in between
		}
		m := &s.Members[i]
		if seen := l.nodes[servers[i].ID]; seen != nil {
			m.Applied, m.Lag = seen.beat.Applied, seen.lag
			m.Disk = time.Duration(seen.beat.DiskMicros) * time.Microsecond
			m.LastContact = time.Since(seen.at)
			if m.Healthy = m.LastContact < goneAfter*l.n.timeout; !m.Healthy && m.Applied < s.Applied {
				m.Lag = s.Applied - m.Applied // what it said then says little now
			}
		} else if !m.Leader {
			m.LastContact = time.Since(l.start)
			m.Lag = s.Applied
		}
	}
	return s
}

// Ready returns why the node does not serve, nothing when it does.
func (n *Node) Ready() []string {
	var reasons []string
	n.mu.Lock()
	closing := n.closing
	n.mu.Unlock()
	if closing {
		reasons = append(reasons, "the node is closing")
	}
	if n.removed.Load() {
		reasons = append(reasons, "the node is not a member of the cluster")
	}
	if !n.caughtUp.Load() {
		reasons = append(reasons, "the node has not yet caught up with a leader")
	}
	if !n.NoLeaderSince().IsZero() {
		reasons = append(reasons, "no leader is known")
	}
	return reasons
}

// NoLeaderSince is when the node lost sight of a leader; zero while it has one.
func (n *Node) NoLeaderSince() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leaderless
}

// Removed is closed once a leader has told this node that it is no member any
// more: it should drain its clients and end.
func (n *Node) Removed() <-chan struct{} { return n.gone }

func (n *Node) markRemoved() {
	if n.caughtUp.Load() && n.removed.CompareAndSwap(false, true) {
		n.log.Warn("this node is not a member of the cluster any more")
		close(n.gone)
	}
}
