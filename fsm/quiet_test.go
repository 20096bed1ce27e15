package fsm

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
)

// at is a log entry of a cluster time.
func (d *driven) at(now int64, cmds ...Command) *raft.Log {
	d.t.Helper()
	p := &Proposal{V: FormatVersion, Time: now, Wall: 1}
	if len(cmds) > 0 {
		d.seq++
		p.Batches = []Batch{{Node: "n1", Incarnation: 1, Seq: d.seq, Commands: cmds}}
	}
	data, err := EncodeProposal(p)
	if err != nil {
		d.t.Fatal(err)
	}
	d.index++
	return &raft.Log{Index: d.index, Term: 3, Type: raft.LogCommand, Data: data}
}

// A session in which nothing happens for long keeps no events: who has seen the
// last goes on, who has not gets a snapshot. One in which something happens keeps
// all of them.
func TestMachine_SilentRingsLetGo(t *testing.T) {
	d := newDriven(t)
	d.m.Apply(d.at(1000, openRoom("silent"), openRoom("busy"), openRoom("ended")))
	silent, busy := d.m.Ring("silent"), d.m.Ring("busy")
	last := func(room string) uint64 { return d.m.View().Session(room).LastEventRev }
	put := func(room, key string) Command {
		return single(room, Caller{User: "u"}, Operation{Kind: OpPut, Store: DefaultStore, Key: key, Value: []byte("1")})
	}
	for n := range 5 {
		d.m.Apply(d.at(1000+int64(n)*quietTime/4, put("busy", fmt.Sprint(n))))
	}
	d.m.Apply(d.at(1000+quietTime, Command{Kind: CommandEnd, Room: "ended"}))
	if frames, _, ok := silent.After(last("silent")-1, 1<<60, 1<<30); ok || frames != nil {
		t.Errorf("a ring that was silent for long has %v", revs(frames))
	}
	if frames, _, ok := silent.After(last("silent"), 1<<60, 1<<30); !ok || frames != nil {
		t.Errorf("who has seen the last event cannot go on: %v, %v", revs(frames), ok)
	}
	if silent.Backlog(0) != 0 || silent.Floor() != last("silent") {
		t.Errorf("backlog %d, floor %d", silent.Backlog(0), silent.Floor())
	}
	if frames, _, ok := busy.After(busy.Floor(), 1<<60, 1<<30); !ok || len(frames) != 6 {
		t.Errorf("the busy ring has %v, %v", revs(frames), ok)
	}
	if n := d.m.quiet.order.Len(); n != 1 {
		t.Errorf("%d rings are said to hold frames", n)
	}

	// It is the same ring as before, and holds what comes now.
	floor := last("silent")
	d.m.Apply(d.at(1001+quietTime, put("silent", "k")))
	if r := d.m.Ring("silent"); r != silent {
		t.Error("another ring")
	}
	if frames, _, ok := silent.After(floor, 1<<60, 1<<30); !ok || !slices.Equal(revs(frames), []uint64{last("silent")}) {
		t.Errorf("it has %v, %v", revs(frames), ok)
	}
	d.m.Apply(d.at(1000 + 2*quietTime)) // the busy one's last was before this one's
	if busy.Backlog(0) != 0 || silent.Backlog(0) == 0 {
		t.Errorf("backlogs %d and %d", busy.Backlog(0), silent.Backlog(0))
	}
}

// Rings that fall silent together are relieved by several publications.
func TestMachine_SilentRingsAreBoundedPerPublication(t *testing.T) {
	d := newDriven(t)
	const rooms = quietMost + 10
	for at := 0; at < rooms; at += 47 {
		var cmds []Command
		for i := at; i < min(at+47, rooms); i++ {
			cmds = append(cmds, openRoom(fmt.Sprint("room-", i)))
		}
		d.m.Apply(d.at(1, cmds...))
	}
	for want := rooms; want > 0; want = max(0, want-quietMost) {
		if n := d.m.quiet.order.Len(); n != want {
			t.Fatalf("%d rings hold frames, want %d", n, want)
		}
		d.m.Apply(d.at(1 + quietTime))
	}
}
