package fsm

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// benchState has rooms with one peer each, and keys in each room.
func benchState(b *testing.B, rooms, keys int) (*State, []Command) {
	b.Helper()
	s := NewState()
	value := bytes.Repeat([]byte("v"), 256)
	value[0], value[255] = '"', '"'
	puts := make([]Command, 0, rooms*keys)
	seq := uint64(0)
	apply := func(cmds []Command) []Result {
		seq++
		return s.Apply(seq, 1, &Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: seq, Commands: cmds}}}).Batches[0].Results
	}
	s.Apply(1, 1, &Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Register: &Register{}}}})
	for r := range rooms {
		room := fmt.Sprintf("room-%06d", r)
		join := apply([]Command{{
			Kind: CommandJoin, Room: room, Client: "c", Request: 1, Open: &Open{Limits: standardLimits},
			Join: &Join{Key: "secret", Node: "n1", Incarnation: 1},
		}})[0]
		caller := Caller{Kind: CallerPeer, Peer: join.Peer, Gen: join.Gen}
		for k := range keys {
			puts = append(puts, Command{
				Kind: CommandTxn, Room: room, Client: "c", Caller: caller,
				Txn: &Txn{Single: true, Then: []Operation{{Kind: OpPut, Store: DefaultStore, Key: fmt.Sprintf("key-%03d", k), Value: value}}},
			})
		}
	}
	for i := 0; i < len(puts); i += 1000 {
		apply(puts[i:min(i+1000, len(puts))])
	}
	return s, puts
}

// BenchmarkState_Put is a put in an entry of 64, with a View published after
// each entry. One iteration is one put.
func BenchmarkState_Put(b *testing.B) {
	for _, size := range []struct{ rooms, keys int }{{64, 100}, {100_000, 1}} {
		b.Run(fmt.Sprintf("rooms=%d/keys=%d", size.rooms, size.keys), func(b *testing.B) {
			s, puts := benchState(b, size.rooms, size.keys)
			n, _ := s.nodes.get("n1")
			seq := n.last
			cmds := make([]Command, 0, 64)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += 64 {
				cmds = cmds[:0]
				for j := range 64 {
					cmd := puts[(i+j)*7919%len(puts)]
					cmd.Request = uint64(i + j + 2)
					cmds = append(cmds, cmd)
				}
				seq++
				out := s.Apply(seq, 1, &Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: seq, Commands: cmds}}})
				if no := out.Batches[0].Results[63].Refusal; no != nil {
					b.Fatal(no)
				}
				s.Publish()
			}
		})
	}
}

// BenchmarkProposal_RoundTrip encodes and decodes an entry of 64 puts. One
// iteration is one put.
func BenchmarkProposal_RoundTrip(b *testing.B) {
	_, puts := benchState(b, 1, 64)
	p := &Proposal{V: 1, Time: 1, Wall: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: 1, Commands: puts}}}
	b.ReportAllocs()
	for i := 0; i < b.N; i += 64 {
		data, err := EncodeProposal(p)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := DecodeProposal(data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkState_Append appends to an array of about 60 KiB; BenchmarkState_Patch
// changes a member of an object as large. One iteration is one write.
func BenchmarkState_Append(b *testing.B) {
	benchCompute(b, "["+strings.Repeat("0,", 30_000)+"0]", func(i int) Operation {
		if i%2 == 0 {
			return Operation{Kind: OpAppend, Value: []byte("[1]")}
		}
		return Operation{Kind: OpRemove, Value: []byte("[1]")}
	})
}

func BenchmarkState_Patch(b *testing.B) {
	value := []byte{'{'}
	for i := range 2_500 {
		value = fmt.Appendf(value, `"member%04d":%d,`, i, i)
	}
	benchCompute(b, string(value)+`"last":0}`, func(i int) Operation {
		if i%2 == 0 {
			return Operation{Kind: OpPatch, Value: fmt.Appendf(nil, `{"last":%d}`, i+1)}
		}
		return Operation{Kind: OpPatch, Steps: true, Value: fmt.Appendf(nil, `[{"op":"replace","path":"/last","value":%d}]`, i+1)}
	})
}

func benchCompute(b *testing.B, value string, op func(i int) Operation) {
	s, puts := benchState(b, 1, 1)
	n, _ := s.nodes.get("n1")
	cmd := puts[0]
	cmd.Client, cmd.Txn = "", &Txn{Single: true, Then: []Operation{{Kind: OpPut, Store: DefaultStore, Key: "k", Value: []byte(value)}}}
	seq := n.last
	apply := func() {
		seq++
		out := s.Apply(seq, 1, &Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: seq, Commands: []Command{cmd}}}})
		if r := out.Batches[0].Results[0]; r.Refusal != nil || !r.Changed {
			b.Fatal(r.Refusal)
		}
		s.Publish()
	}
	apply()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		next := op(i)
		next.Store, next.Key = DefaultStore, "k"
		cmd.Txn = &Txn{Single: true, Then: []Operation{next}}
		apply()
	}
}

// BenchmarkView_Hash hashes a state of a million entries, as replicas do to compare
// themselves: one iteration is one hash.
func BenchmarkView_Hash(b *testing.B) {
	s, puts := benchState(b, 10_000, 100)
	n, _ := s.nodes.get("n1")
	seq := n.last
	for i := range puts {
		puts[i].Request = uint64(i + 2)
	}
	for i := 0; i < len(puts); i += 1000 {
		seq++
		s.Apply(seq, 1, &Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: seq, Commands: puts[i : i+1000]}}})
	}
	v, entries := s.Publish(), 0
	v.Rooms("", "", func(ses *Session) bool {
		entries += ses.Counts().Keys
		return true
	})
	if entries != len(puts) {
		b.Fatalf("%d entries, want %d", entries, len(puts))
	}
	b.ResetTimer()
	for b.Loop() {
		v.Hash()
	}
}
