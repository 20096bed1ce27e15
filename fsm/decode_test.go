package fsm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

// decodesAlike fails unless what the decoder takes is what the library takes; it
// reports whether the decoder took it.
func decodesAlike(t *testing.T, d *decoder, data []byte) (took bool) {
	t.Helper()
	before := bytes.Clone(data)
	check := func(what string, ok bool, got, want any) {
		t.Helper()
		if !ok {
			return
		}
		if err := decMode.Unmarshal(data, want); err != nil {
			t.Fatalf("%s: the library refuses what was taken: %v", what, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: got %+v, want %+v", what, got, want)
		}
	}
	p := new(Proposal)
	d.reuse(data)
	took = d.proposal(p)
	check("entry", took, p, new(Proposal))
	b, cut := new(Batch), decoder{in: bytes.Clone(data), text: string(data)}
	cut.batch(b)
	check("batch", cut.done(), b, new(Batch))
	if !bytes.Equal(data, before) {
		t.Fatal("decoding changes what is decoded")
	}
	if took { // what is kept of an entry does not keep the bytes that it came in
		encoded := must(EncodeProposal(p))
		clear(data)
		if !bytes.Equal(must(EncodeProposal(p)), encoded) {
			t.Fatal("an entry refers to the bytes that it was decoded from")
		}
	}
	return took
}

func FuzzDecoder(f *testing.F) {
	entry := must(os.ReadFile("testdata/golden/entry-v1-operations.cbor"))
	f.Add(entry)
	f.Add(must(EncodeProposal(&Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Register: &Register{}}}})))
	f.Add(must(EncodeBatch(&fullProposal().Batches[0])))
	for _, text := range []string{
		"a0", "a10101", "a1011801", "a201010101", "a20201" + "0101", "a10120", "a1011bffffffffffffffff", "a10480", "a104f6",
		"a104811bffffffffffffffff", "a1049bffffffffffffffff", "a10481a101604100", "a10481a10161ff", "a10481a1014161", "a10481a10581a101190100",
		"a10481a10581a10aa1049af5", "a10481a10581a10aa104f4", "a10481a10581a10aa10280", "a10481a10581a10aa10281a10440", "a10481a10581a10aa10281a104820102",
		"a10481a10581a10aa10281a105f6", "a10481a10581a10aa10281a105a10101", "a10481a10581a10aa10281a105a10601", "a1010100", "a1181800", "bf0101ff",
	} {
		f.Add(must(decHex(text)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := decoder{seen: new(names)}
		for range 3 { // the second time texts come from names, and commands from slabs
			decodesAlike(t, &d, bytes.Clone(data))
		}
	})
}

// TestDecoder_mutated is FuzzDecoder for a while, on what is nearly an entry.
func TestDecoder_mutated(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	whole := must(EncodeProposal(fullProposal()))
	small := must(EncodeProposal(&Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: 1, Commands: []Command{
		single("room", Caller{Kind: CallerPeer, Peer: "p1", Gen: 300}, putOp("key", "1")),
	}}}}))
	d, took := decoder{seen: new(names)}, 0
	for i := range 6000 {
		data := bytes.Clone(small)
		if i%3 == 0 {
			data = bytes.Clone(whole)
		}
		for range 1 + r.IntN(3) {
			at := r.IntN(len(data))
			switch r.IntN(4) {
			case 0:
				data[at] ^= 1 << r.IntN(8)
			case 1:
				data[at]++
			case 2:
				data = slices.Insert(data, at, byte(r.Uint32()))
			case 3:
				data = slices.Delete(data, at, at+1)
			}
		}
		if decodesAlike(t, &d, data) {
			took++
		}
	}
	if took < 100 || took > 5900 {
		t.Errorf("%d of 6000 were taken: this says little", took)
	}
}

// TestDecoder_takes everything that this version writes: nothing of it may fall to
// the library unnoticed.
func TestDecoder_takes(t *testing.T) {
	entries := map[string][]byte{"every member": must(EncodeProposal(fullProposal())), "nothing": must(EncodeProposal(&Proposal{V: 1}))}
	golden, _ := filepath.Glob("testdata/golden/entry-*.cbor")
	for _, file := range golden {
		entries[file] = must(os.ReadFile(file))
	}
	for _, n := range []int{1, 5, mostInSlab, mostInSlab + 1, 3} {
		p := &Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: 1}}}
		for i := range n {
			ops := []Operation{putOp(fmt.Sprint("key-", i), "1"), putOp("other", "null"), putOp("third", `""`)}
			p.Batches[0].Commands = append(p.Batches[0].Commands, Command{
				Kind: CommandTxn, Room: "room", Client: "c", Request: uint64(i), Txn: &Txn{Then: ops[:1+i%3], Else: ops[:i%2]},
			})
		}
		entries[fmt.Sprint(n, " transactions")] = must(EncodeProposal(p))
	}
	d := decoder{seen: new(names)}
	for range 2 {
		for name, data := range entries {
			if !decodesAlike(t, new(decoder), bytes.Clone(data)) || !decodesAlike(t, &d, bytes.Clone(data)) {
				t.Errorf("%s: left to the library", name)
			}
		}
	}
}

// TestState_keeps texts and values of an entry, and nothing else of it: its commands
// are made anew in the same place.
func TestState_keeps(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("room")
	d := decoder{}
	for i, cmds := range [][]Command{
		{single("room", ada, putOp("k", "1")), single("room", ada, Operation{Kind: OpSend, Message: &Message{Topic: "t", Data: []byte("1"), Peers: []string{"p"}}})},
		{acquireCommand("room", ada, 0, 5000), single("room", ada, Operation{Kind: OpMerge, Store: DefaultStore, Set: []KeyValue{{"a", []byte("1")}}})},
		{{Kind: CommandTxn, Room: "room", Caller: ada, Txn: &Txn{Then: []Operation{putOp("x", `"x"`), putOp("y", `"y"`)}}}},
	} {
		w.seq++
		data := must(EncodeProposal(&Proposal{V: 1, Time: w.now, Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: w.seq, Commands: cmds}}}))
		var p *Proposal
		for range 2 { // the first finds how large the slabs must be
			var err error
			if p, err = decodeProposal(&d, data); err != nil {
				t.Fatal(err)
			}
		}
		if d.commands.used != len(cmds) {
			t.Fatalf("entry %d: %d commands are in the slab, want %d", i, d.commands.used, len(cmds))
		}
		w.index++
		for _, r := range w.s.Apply(w.index, w.term, p).Batches[0].Results {
			if r.Refusal != nil {
				t.Fatal(r.Refusal)
			}
		}
		before := w.hash()
		for j := range d.commands.all {
			d.commands.all[j] = Command{Room: "other"}
		}
		for j := range d.ops.all {
			d.ops.all[j] = Operation{Key: "other", Value: []byte("other")}
		}
		for j := range d.txns.all {
			d.txns.all[j] = Txn{Single: true}
		}
		if w.hash() != before {
			t.Errorf("entry %d: the state has more of it", i)
		}
	}
}

func TestNames_find(t *testing.T) {
	var n names
	if _, ok := n.find([]byte("a")); ok {
		t.Error("found what was not added")
	}
	for i := range 3 * len(n) {
		name := fmt.Sprint("name ", i)
		n.add([]byte(name))
		if got, ok := n.find([]byte(name)); !ok || got != name {
			t.Fatalf("%s: got %q, %v", name, got, ok)
		}
	}
	long := bytes.Repeat([]byte("x"), longestName+1)
	if n.add(long) != string(long) {
		t.Error("a long text is not itself")
	}
	if _, ok := n.find(long); ok {
		t.Error("a long text is kept")
	}
}
