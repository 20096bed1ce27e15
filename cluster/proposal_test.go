package cluster

import (
	"testing"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// A follower sends a batch again that it has not heard of for a while. On a slow disk
// the first copy is on its way all the same, and as many copies as there were waits
// would fill the log: writes of 290 KB from 32 clients came into it four times, and
// then most of them failed.
func TestLeadership_aBatchOnItsWayIsLoggedOnce(t *testing.T) {
	g := startGroup(t, 1)
	g.ready()
	node := g.leader()
	l := node.leads()
	resume := holdEntries(l)

	const other = "other" // a node that has not registered: its batches are stale, but logged
	full := fsm.Batch{Node: other, Incarnation: 7, Seq: 1, Commands: []fsm.Command{*put("room", "key", `"value"`)}}
	empty := fsm.Batch{Node: other, Incarnation: 7, Seq: 1}
	replies := make(chan bool, 8)
	reply := func(proposed bool) { replies <- proposed }
	l.enqueue(&full, reply)
	l.enqueue(&full, reply)
	if got := waitingOf(l, other); len(got) != 1 || len(got[0].Commands) != 1 {
		t.Fatalf("%+v wait, want one batch with its command", got)
	}
	l.enqueue(&empty, reply) // given up
	l.enqueue(&full, reply)  // what a slow network brings after that
	if got := waitingOf(l, other); len(got) != 1 || len(got[0].Commands) != 0 {
		t.Fatalf("%+v wait, want one batch without its command: nobody waits for that", got)
	}
	second := full
	second.Seq = 2
	l.enqueue(&second, reply)
	resume()
	for range 5 {
		if !<-replies {
			t.Error("a copy was told that it reached no log")
		}
	}
	if got := loggedOf(t, node, other); len(got) != 2 || got[0].Seq != 1 || got[1].Seq != 2 {
		t.Errorf("the log has %+v, want the numbers 1 and 2, each once", got)
	}
	// What is through may come again: a gap before it may have refused it. Its senders
	// have been told, so it is not on its way any more.
	l.enqueue(&second, reply)
	if !<-replies {
		t.Error("a later copy was told that it reached no log")
	}
	if got := loggedOf(t, node, other); len(got) != 3 || got[2].Seq != 2 || len(got[2].Commands) != 1 {
		t.Errorf("the log has %+v, want number 2 again, whole", got)
	}
}

// What the leader has applied, but the sender not yet, needs its number only.
func TestLeadership_anAppliedBatchIsNotLoggedWithItsCommandsAgain(t *testing.T) {
	g := startGroup(t, 1)
	g.ready()
	node := g.leader()
	l := node.leads()
	first := do(t, node, put("room", "key", `"value"`))
	_, last, _ := node.machine.View().BatchResults(node.self.Node, node.incarnation, 1)
	if last == 0 {
		t.Fatal("a write is applied, but no batch")
	}
	eventually(t, "raft has answered for the write", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.known) == 0
	})
	replies := make(chan bool, 1)
	again := fsm.Batch{
		Node: node.self.Node, Incarnation: node.incarnation, Seq: last,
		Commands: []fsm.Command{*put("room", "key", `"value"`)},
	}
	before := len(loggedOf(t, node, node.self.Node))
	l.enqueue(&again, func(proposed bool) { replies <- proposed })
	if !<-replies {
		t.Error("the copy was told that it reached no log")
	}
	logged := loggedOf(t, node, node.self.Node)
	if len(logged) != before+1 || logged[before].Seq != last || len(logged[before].Commands) != 0 {
		t.Errorf("the log has %+v after %d batches, want one more, without commands", logged, before)
	}
	if len(again.Commands) != 1 {
		t.Error("the sender's batch was changed")
	}
	if got := do(t, node, put("room", "key", `"next"`)); got.Ops[0].Version != first.Ops[0].Version+1 {
		t.Errorf("the next write makes version %d, want %d", got.Ops[0].Version, first.Ops[0].Version+1)
	}
}

// holdEntries keeps what is enqueued out of the log until resume is called.
func holdEntries(l *leadership) (resume func()) {
	for range maxProposals {
		l.slots <- struct{}{}
	}
	return func() {
		for range maxProposals {
			<-l.slots
		}
	}
}

// waitingOf are the batches of a node that are in no entry yet.
func waitingOf(l *leadership, node string) (list []fsm.Batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.queue {
		if p.batch.Node == node {
			list = append(list, *p.batch)
		}
	}
	return list
}

// loggedOf are the batches of a node in the log, in their order.
func loggedOf(t *testing.T, n *groupNode, node string) (list []fsm.Batch) {
	t.Helper()
	last, err := n.cfg.Log.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= last; i++ {
		var entry raft.Log
		if err := n.cfg.Log.GetLog(i, &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Type != raft.LogCommand {
			continue
		}
		p, err := fsm.DecodeProposal(entry.Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range p.Batches {
			if b.Node == node {
				list = append(list, b)
			}
		}
	}
	return list
}
