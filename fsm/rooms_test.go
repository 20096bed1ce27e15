package fsm

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// manyRooms is a state of rooms that servers have opened, with ten entries each,
// and the proposals that made it.
func manyRooms(t testing.TB, rooms int) *State {
	t.Helper()
	s := NewState()
	s.Apply(1, 1, &Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Register: &Register{}}}})
	index := uint64(1)
	for at := 0; at < rooms; {
		var cmds []Command
		for ; at < rooms && len(cmds) < 64; at++ {
			cmds = append(cmds, openRoom(fmt.Sprintf("room-%06d", at)))
		}
		index++
		data, err := EncodeProposal(&Proposal{V: 1, Batches: []Batch{{Node: "n1", Incarnation: 1, Seq: index - 1, Commands: cmds}}})
		if err != nil {
			t.Fatal(err)
		}
		p, err := DecodeProposal(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range s.Apply(index, 1, p).Batches[0].Results {
			if !r.Created {
				t.Fatalf("not opened: %+v", r)
			}
		}
		s.Publish()
	}
	return s
}

// openRoom opens a room with ten entries of about a hundred bytes.
func openRoom(room string) Command {
	seeds := &Txn{}
	for k := range 10 {
		seeds.Then = append(seeds.Then, Operation{
			Kind: OpPut, Store: DefaultStore, Key: fmt.Sprintf("key-%d", k),
			Value: fmt.Appendf(nil, `{"room":%q,"number":%d,"text":%q}`, room, k, "as much as a pinned message may have to say"),
		})
	}
	return Command{Kind: CommandOpen, Room: room, Txn: seeds, Open: &Open{Profile: "standard", Limits: standardLimits, Idle: 3_600_000}}
}

func heapBytes() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestState_ManyRooms prints what rooms cost in memory, in a snapshot and in
// reading it again: with ROOMS=100000 the figures of docs/operations.md.
func TestState_ManyRooms(t *testing.T) {
	rooms := 2000
	if n, err := strconv.Atoi(os.Getenv("ROOMS")); err == nil {
		rooms = n
	}
	before := heapBytes()
	begun := time.Now()
	s := manyRooms(t, rooms)
	opened := time.Since(begun)
	per := float64(heapBytes()-before) / float64(rooms)
	if most := 6000.0; per > most {
		t.Errorf("a room takes %.0f bytes, want at most %.0f", per, most)
	}
	v := s.Publish()
	var file bytes.Buffer
	begun = time.Now()
	if err := v.WriteSnapshot(&file); err != nil {
		t.Fatal(err)
	}
	wrote := time.Since(begun)
	begun = time.Now()
	restored, err := ReadSnapshot(bytes.NewReader(file.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	read := time.Since(begun)
	begun = time.Now()
	runtime.GC()
	gc := time.Since(begun)
	t.Logf("%d rooms of 10 entries: %.0f bytes of memory per room, opened in %v (%.1f µs each), snapshot %.1f MB written in %v, read in %v, gc %v",
		rooms, per, opened, float64(opened.Microseconds())/float64(rooms), float64(file.Len())/1e6, wrote, read, gc)
	if restored.Publish().Hash() != v.Hash() {
		t.Fatal("the snapshot gives another state")
	}
}

// TestMachine_ManyRooms prints what rooms cost with the rings of recent events,
// when they were just opened and when nothing has happened in them for long.
func TestMachine_ManyRooms(t *testing.T) {
	rooms := 2000
	if n, err := strconv.Atoi(os.Getenv("ROOMS")); err == nil {
		rooms = n
	}
	d := newDriven(t)
	before := heapBytes()
	per := func() float64 { return float64(heapBytes()-before) / float64(rooms) }
	for at := 0; at < rooms; {
		var cmds []Command
		for ; at < rooms && len(cmds) < 64; at++ {
			cmds = append(cmds, openRoom(fmt.Sprintf("room-%06d", at)))
		}
		d.m.Apply(d.at(1, cmds...))
		d.published = nil
	}
	opened := per()
	for range 1 + rooms/quietMost {
		d.m.Apply(d.at(1 + quietTime))
		d.published = nil
	}
	quiet := per()
	runtime.KeepAlive(d)
	if quiet > 6400 || quiet+1000 > opened {
		t.Errorf("a room takes %.0f bytes, and %.0f when it was quiet for long", opened, quiet)
	}
	t.Logf("%d rooms of 10 entries: %.0f bytes of memory per room with its recent events, %.0f without", rooms, opened, quiet)
}
