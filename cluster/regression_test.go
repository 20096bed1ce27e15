package cluster

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// Faults of what we build on, and of others in our place. docs/testing.md lists them.

// heartbeatSpy is a transport that knows whether raft's heartbeats take a short cut.
type heartbeatSpy struct {
	raft.LoopbackTransport
	handler func(raft.RPC)
}

func (s *heartbeatSpy) SetHeartbeatHandler(f func(raft.RPC)) { s.handler = f }

func (s *heartbeatSpy) RequestPreVote(raft.ServerID, raft.ServerAddress, *raft.RequestPreVoteRequest, *raft.RequestPreVoteResponse) error {
	return errors.New("not in this test")
}

// hashicorp/raft#695: a heartbeat handled beside raft's main loop may move the term
// while the leader's entries are being appended.
func TestRegression_raft695_HeartbeatsTakeNoShortCut(t *testing.T) {
	_, inner := raft.NewInmemTransport("")
	spy := &heartbeatSpy{LoopbackTransport: inner}
	trans, err := newTransport(spy, "a.1")
	if err != nil {
		t.Fatal(err)
	}
	defer trans.Close()
	trans.SetHeartbeatHandler(func(raft.RPC) {})
	if spy.handler != nil {
		t.Error("raft's heartbeat handler reached the transport")
	}
}

// hashicorp/raft#612: a pipeline can wedge, and its follower with it, for ever.
func TestRegression_raft612_NothingIsPipelined(t *testing.T) {
	_, inner := raft.NewInmemTransport("")
	trans, err := newTransport(&heartbeatSpy{LoopbackTransport: inner}, "a.1")
	if err != nil {
		t.Fatal(err)
	}
	defer trans.Close()
	if _, err := trans.AppendEntriesPipeline("b.1", "b"); !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
		t.Errorf("a pipeline was made: %v", err)
	}
	a, _ := newTCPPair(t, echoRequest)
	if _, err := a.raft.AppendEntriesPipeline("b.2", "b"); !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
		t.Errorf("the TCP transport makes one: %v", err)
	}
}

// A leader that lost and regained leadership between two looks has another term:
// nothing that it remembers from before counts, and nothing that it had ready is
// proposed.
func TestRegression_LeadershipRegainedBetweenTwoLooks(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	id := g.leader().ID()
	node := g.nodes[id]
	old := node.leads()
	eventually(t, "it leads again, in another term", func() bool {
		to := "" // away, then back
		if g.leader().ID() != id {
			to = id
		} else if l := node.leads(); l != nil && l.term > old.term {
			return true
		}
		_ = g.leader().Transfer(t.Context(), to)
		return false
	})
	if old.apply(&fsm.Proposal{V: fsm.FormatVersion}, nil, func() {}) {
		t.Error("an entry of the earlier term was proposed")
	}
	answered := make(chan bool, 1)
	old.enqueue(&fsm.Batch{Node: id, Incarnation: node.Incarnation(), Seq: 1}, func(proposed bool) { answered <- proposed })
	if <-answered {
		t.Error("a batch was taken in the earlier term")
	}
	if _, err := old.rounds.hold(1); err == nil {
		t.Error("a round of the earlier term was confirmed")
	}
}
