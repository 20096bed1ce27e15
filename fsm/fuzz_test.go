package fsm

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"unicode/utf8"
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
		{Kind: CommandDetach, Room: "room", Caller: ada, Target: ada.Peer},
		{Kind: CommandLeave, Room: "room", Target: ada.Peer},
		{Kind: CommandCancel, Room: "room", Caller: ada, Cancel: &Cancel{Request: 1}},
		{Kind: CommandEnd, Room: "room"},
		single("room", ada, Operation{Kind: OpAppend, Key: "k", Value: []byte("[1]"), TTL: 5, Bind: ada.Peer, Unique: true}),
		single("room", ada, Operation{Kind: OpPatch, Key: "k", Value: []byte(`[{"op":"add","path":"","value":1}]`), Steps: true}),
		single("room", ada, Operation{Kind: OpMerge, Set: []KeyValue{{"a", []byte("1")}}, Delete: []string{"b"}, Fences: []KeyFence{{"c", 1}}}),
		single("room", ada, Operation{Kind: OpSend, Message: &Message{Topic: "t", Data: []byte("1"), Peers: []string{"p"}, Roles: []string{"r"}, Echo: true}}),
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

// FuzzCompute: whatever bytes are stored and given, a computing operation gives a
// value within bounds or a refusal, without a panic, and what is JSON stays JSON; in
// the texts that the naive operations can read, it is theirs.
func FuzzCompute(f *testing.F) {
	for _, seed := range [][2]string{
		{`[1,2.0]`, `[1,{"a":null}]`},
		{`{"a":{"b":1}}`, `{"a":{"b":null,"c":[]},"d":1}`},
		{`1.5`, `-0.125`},
		{`null`, `1`},
		{`[1`, `[`},
		{``, `1e9`},
		{`{"a":[1]}`, `[{"op":"copy","from":"/a","path":"/b"},{"op":"test","path":"/b/0","value":1},{"op":"move","from":"/a/0","path":"/c"}]`},
		{`{"\ud800":"\ud83d\ude00"}`, `[{"op":"add","path":"/\ud800~1","value":[]},{"op":"remove","path":"/\ud800"},{"op":"replace","path":"","value":1}]`},
	} {
		for kind := range uint8(6) {
			f.Add(kind, []byte(seed[0]), []byte(seed[1]))
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, old, given []byte) {
		op := &Operation{Kind: OpUpdate + OpKind(kind%5), Key: "k", Value: given, Unique: kind >= 128, Steps: kind >= 128}
		w := newWorld(t)
		ada := w.joined("r")
		if len(old) > 0 {
			w.must(single("r", ada, putOp("k", string(old))))
		}
		r := w.one(single("r", ada, *op)) // which fails the test for a panic that was contained
		switch code(r) {
		case "":
		case CodeBadRequest, CodeWrongType, CodeConflict, CodeLimitExceeded:
			return
		default:
			t.Fatal(r.Refusal)
		}
		value := r.Ops[0].Value
		if len(value) > standardLimits.ValueBytes {
			t.Fatalf("%d bytes", len(value))
		}
		if (len(old) == 0 || json.Valid(old)) && !json.Valid(value) {
			t.Fatalf("%q with %q gives %q, which is no JSON", old, given, value)
		}
		if !readable(given) || len(old) > 0 && !readable(old) || op.Steps && op.Kind == OpPatch {
			return
		}
		want, no := naiveCompute(op, string(old), standardLimits.ValueBytes)
		if want == "" && op.Kind == OpRemove {
			want = "[]"
		}
		if no != "" || string(value) != want {
			t.Fatalf("%q with %q gives %q, want %q %s", old, given, value, want, no)
		}
	})
}

// readable tells whether the naive operations take a text as it is: JSON in the form
// that they write, without double members or exponents.
func readable(text []byte) bool {
	if !json.Valid(text) || !utf8.Valid(text) {
		return false
	}
	_, parsed := parseJSON(text)
	return parsed && encodeNaive(decodeNaive(string(text))) == string(text) && !bytes.ContainsAny(text, "eE") && len(text) < 40
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
