package fsm

import (
	"bytes"
	"os"
	"testing"
)

// FuzzDecodeProposal: whatever can be decoded can be applied, without a panic,
// alike on two replicas.
func FuzzDecodeProposal(f *testing.F) {
	f.Add(must(os.ReadFile("testdata/golden/entry-v1.cbor")))
	f.Add(must(EncodeProposal(&Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Register: &Register{}}}})))
	w := newWorld(f)
	ada := w.joined("room")
	for _, cmd := range []Command{
		single("room", ada, putOp("k", "1")), acquireCommand("room", ada, 0, 5000), joinCommand("other"),
		{Kind: CommandDetach, Room: "room", Caller: ada, Target: ada.Peer}, {Kind: CommandLeave, Room: "room", Target: ada.Peer},
		{Kind: CommandCancel, Room: "room", Caller: ada, Cancel: &Cancel{Request: 1}}, {Kind: CommandEnd, Room: "room"},
	} {
		f.Add(must(EncodeProposal(&Proposal{V: 1, Time: 5000, Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: w.seq + 1, Commands: []Command{cmd}}}})))
	}
	w.s.Publish().Deadlines(func(d Deadline) {
		d.Timer.Term = w.term
		f.Add(must(EncodeProposal(&Proposal{V: 1, Time: 1 << 40, Controls: []Control{d.Timer}})))
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := DecodeProposal(data)
		if err != nil {
			return
		}
		if again, err := DecodeProposal(must(EncodeProposal(p))); err != nil {
			t.Fatalf("what was decoded does not encode: %v", err)
		} else if !bytes.Equal(must(EncodeProposal(again)), must(EncodeProposal(p))) {
			t.Fatal("the encoding is not one")
		}
		var hashes [2][32]byte
		for i := range hashes {
			w := newWorld(t)
			ada := w.joined("room")
			w.must(acquireCommand("room", ada, 5000, 0))
			out := w.s.Apply(w.index+1, w.term, p)
			for _, b := range out.Batches {
				for _, r := range b.Results {
					if r.Refusal != nil && r.Refusal.Code == CodeInternal {
						t.Fatalf("a panic was contained: %+v", p)
					}
				}
			}
			w.s.Publish().Deadlines(func(Deadline) {})
			hashes[i] = w.hash()
		}
		if hashes[0] != hashes[1] {
			t.Fatal("two replicas differ")
		}
	})
}

// FuzzReadSnapshot: bytes either are a snapshot, and then the one that writing it
// gives, or an error.
func FuzzReadSnapshot(f *testing.F) {
	golden := must(os.ReadFile("testdata/golden/snapshot-v1.bin"))
	f.Add(golden)
	f.Add(golden[:len(golden)/2])
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := readUnsealed(data)
		if err != nil {
			return
		}
		var file bytes.Buffer
		if err := s.Publish().WriteSnapshot(&file); err != nil {
			t.Fatal(err)
		}
		again, err := ReadSnapshot(&file)
		if err != nil {
			t.Fatal(err)
		}
		if again.Publish().Hash() != s.Publish().Hash() {
			t.Fatal("writing and reading gives another state")
		}
		s.Publish().Deadlines(func(Deadline) {})
	})
}

// readUnsealed reads records without looking at the checksum, which a fuzzer
// would never get right.
func readUnsealed(data []byte) (*State, error) {
	body, ok := bytes.CutPrefix(data, []byte(snapshotMagic))
	if !ok {
		return nil, errOrder
	}
	r := newRecordReader(bytes.NewReader(body))
	for {
		kind, record, err := r.next()
		if err != nil {
			return nil, err
		}
		if kind == recordEnd {
			return r.state, nil
		}
		if err := r.record(kind, record); err != nil {
			return nil, err
		}
	}
}
