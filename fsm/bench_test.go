package fsm

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// benchState has rooms with one peer each, and keys in each room. The puts that made
// them come back to be repeated, as other requests: the peers' are numbered from 2.
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
				Kind: CommandTxn, Room: room, Client: "c", Request: uint64(k + 2), Caller: caller,
				Txn: &Txn{Single: true, Then: []Operation{{Kind: OpPut, Store: DefaultStore, Key: fmt.Sprintf("key-%03d", k), Value: value}}},
			})
		}
	}
	for i := 0; i < len(puts); i += 1000 {
		for _, r := range apply(puts[i:min(i+1000, len(puts))]) {
			if r.Refusal != nil {
				b.Fatal(r.Refusal)
			}
		}
	}
	return s, puts
}

// BenchmarkState_Put is a put in an entry of 64, with a View published after
// each entry. One iteration is one put.
func BenchmarkState_Put(b *testing.B) {
	for _, size := range []struct{ rooms, keys int }{{1, 1000}, {64, 100}, {100_000, 1}} {
		// Made once for all the runs by which the number of iterations is found.
		s, puts := benchState(b, size.rooms, size.keys)
		n, _ := s.nodes.get("n1")
		seq, request := n.last, uint64(size.keys+1)
		b.Run(fmt.Sprintf("rooms=%d/keys=%d", size.rooms, size.keys), func(b *testing.B) {
			cmds := make([]Command, 0, 64)
			b.ReportAllocs()
			for i := 0; i < b.N; i += 64 {
				cmds = cmds[:0]
				for range 64 {
					request++
					cmd := puts[int(request)*7919%len(puts)]
					cmd.Request = request
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

// BenchmarkState_Publish is an entry of a single put, and the View published after
// it, which makes the next put copy what it touches. One iteration is one of both.
func BenchmarkState_Publish(b *testing.B) {
	for _, rooms := range []int{1, 100_000} {
		b.Run(fmt.Sprintf("rooms=%d", rooms), func(b *testing.B) {
			s, puts := benchState(b, rooms, 1)
			apply := benchApply(b, s)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				cmd := puts[i*7919%len(puts)]
				cmd.Request = uint64(i + 3)
				apply(cmd)
				s.Publish()
			}
		})
	}
}

// benchApply applies entries of one command, which must not be refused.
func benchApply(b *testing.B, s *State) func(Command) *Result {
	n, _ := s.nodes.get("n1")
	seq := n.last
	return func(cmd Command) *Result {
		seq++
		out := s.Apply(seq, 1, &Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: seq, Commands: []Command{cmd}}}})
		r := &out.Batches[0].Results[0]
		if r.Refusal != nil {
			b.Fatal(r.Refusal)
		}
		return r
	}
}

// BenchmarkState_Txn is a transaction of a condition and four puts. One iteration is
// one transaction.
func BenchmarkState_Txn(b *testing.B) {
	s, puts := benchState(b, 64, 4)
	apply := benchApply(b, s)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		room := i % 64 * 4
		cmd := puts[room]
		cmd.Request = uint64(i + 6)
		t := &Txn{If: []Condition{{Store: DefaultStore, Key: puts[room].Txn.Then[0].Key, If: If{Exists: true}}}}
		for _, put := range puts[room : room+4] {
			t.Then = append(t.Then, put.Txn.Then...)
		}
		cmd.Txn = t
		if r := apply(cmd); !r.Applied {
			b.Fatal("the condition failed")
		}
		s.Publish()
	}
}

// BenchmarkState_Lock takes a lock and gives it back; with a queue, it is handed over
// to the next in line, who queues again. One iteration is one grant.
func BenchmarkState_Lock(b *testing.B) {
	for _, waiting := range []int{0, 100} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			s, puts := benchState(b, 1, 1)
			apply := benchApply(b, s)
			acquire := func(owner int, wait int64) *Result {
				return apply(Command{
					Kind: CommandAcquire, Room: puts[0].Room, Caller: Caller{Kind: CallerServer, User: "bench", Owner: fmt.Sprint("o", owner)},
					Acquire: &Acquire{
						Store: DefaultStore, Key: "k", Lock: LockRequest{TTL: 60_000}, Wait: wait,
						Node: "n1", Incarnation: 1, Waiter: fmt.Sprint("w", owner),
					},
				})
			}
			for i := range waiting + 1 {
				acquire(i, 60_000)
			}
			v := s.Publish()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				owner := i % (waiting + 1)
				fence := v.Session(puts[0].Room).Lock(DefaultStore, "k").Newest().Fence
				apply(single(puts[0].Room, Caller{Kind: CallerServer, User: "bench", Owner: fmt.Sprint("o", owner)}, Operation{Kind: OpRelease, Key: "k", Fence: fence}))
				acquire(owner, 60_000)
				v = s.Publish()
			}
		})
	}
}

// BenchmarkProposal_Encode and its Decode are of an entry of 64 puts. One iteration
// is one put.
func BenchmarkProposal_Encode(b *testing.B) {
	p := benchProposal(b)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += 64 {
		if _, err := EncodeProposal(p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProposal_Decode(b *testing.B) {
	data, err := EncodeProposal(benchProposal(b))
	if err != nil {
		b.Fatal(err)
	}
	d := decoder{seen: new(names)} // as replicas have
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += 64 {
		if _, err := decodeProposal(&d, data); err != nil {
			b.Fatal(err)
		}
	}
}

func benchProposal(b *testing.B) *Proposal {
	_, puts := benchState(b, 1, 64)
	return &Proposal{V: 1, Time: 1, Wall: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: 1, Commands: puts}}}
}

// BenchmarkView_WriteSnapshot writes a snapshot of 100,000 entries of 256 bytes, and
// BenchmarkReadSnapshot reads it. One iteration is one snapshot.
func BenchmarkView_WriteSnapshot(b *testing.B) {
	s, _ := benchState(b, 1000, 100)
	v := s.Publish()
	b.ReportAllocs()
	for b.Loop() {
		var size counter
		if err := v.WriteSnapshot(&size); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(size))
	}
}

func BenchmarkReadSnapshot(b *testing.B) {
	s, _ := benchState(b, 1000, 100)
	var image bytes.Buffer
	if err := s.Publish().WriteSnapshot(&image); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(image.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadSnapshot(bytes.NewReader(image.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}

// counter is a writer that counts bytes.
type counter int

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// BenchmarkState_Append appends to an array of about 60 KiB; BenchmarkState_Update and
// BenchmarkState_Patch change a member of an object as large. One iteration is one
// write.
func BenchmarkState_Append(b *testing.B) {
	benchCompute(b, "["+strings.Repeat("0,", 30_000)+"0]", func(i int) Operation {
		if i%2 == 0 {
			return Operation{Kind: OpAppend, Value: []byte("[1]")}
		}
		return Operation{Kind: OpRemove, Value: []byte("[1]")}
	})
}

func BenchmarkState_Update(b *testing.B) {
	benchCompute(b, largeObject(), func(i int) Operation {
		return Operation{Kind: OpUpdate, Value: fmt.Appendf(nil, `{"last":%d}`, i+1)}
	})
}

// largeObject is an object of about 50 KiB whose member last is 0.
func largeObject() string {
	value := []byte{'{'}
	for i := range 2_500 {
		value = fmt.Appendf(value, `"member%04d":%d,`, i, i)
	}
	return string(value) + `"last":0}`
}

func BenchmarkState_Patch(b *testing.B) {
	benchCompute(b, largeObject(), func(i int) Operation {
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
