package fsm

import (
	"testing"

	"github.com/hashicorp/raft"
)

// A request to hash is about the state before the batches of its entry, and
// changes nothing: who does not know it stays equal.
func TestMachine_HashRequest(t *testing.T) {
	m := NewMachine(func(err error) { t.Error(err) })
	var requests []HashRequest
	m.Observe(func(p *Published) { requests = append(requests, p.Hashes...) })
	apply := func(index uint64, p *Proposal) {
		data, err := EncodeProposal(p)
		if err != nil {
			t.Fatal(err)
		}
		m.Apply(&raft.Log{Index: index, Term: 1, Data: data})
	}
	apply(1, &Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Register: &Register{}}}})
	before := m.View().Hash()
	apply(2, &Proposal{V: 1, Term: 1, Controls: []Control{{Kind: ControlHash, Seen: 7}}, Batches: []Batch{{
		Node: "n1", Incarnation: 1, Seq: 1, Commands: []Command{{
			Kind: CommandJoin, Room: "r", Client: "c", Request: 1, Open: &Open{Limits: standardLimits},
			Join: &Join{Key: "secret", Node: "n1", Incarnation: 1},
		}},
	}}})
	if len(requests) != 1 || requests[0].Version != 7 || requests[0].View.Index() != 2 {
		t.Fatalf("got %+v", requests)
	}
	v := requests[0].View
	if v.Session("r") != nil || m.View().Session("r") == nil {
		t.Error("the view is not that of before the batches")
	}
	if v.Hash() == before { // the index is part of it
		t.Error("states as of two indexes have one hash")
	}

	other := NewState()
	other.Apply(1, 1, &Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Register: &Register{}}}})
	other.Apply(2, 1, &Proposal{V: 1, Term: 1}) // the same without the request
	if other.Publish().Hash() != v.Hash() {
		t.Error("the request changed the state")
	}
}
