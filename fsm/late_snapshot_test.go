package fsm

import (
	"bytes"
	"io"
	"testing"

	"github.com/hashicorp/raft"
)

// TestG2_Regression_consul5358_ALateSnapshotIsNotGoneBackTo: raft installs whatever snapshot its leader
// sent, also one that the network kept until the follower had all of it and more
// by other ways, and applies what came after it once more. The state goes on from
// where it was: going back would serve stale reads, publish events twice and
// answer requests with the results of others.
func TestG2_Regression_consul5358_ALateSnapshotIsNotGoneBackTo(t *testing.T) {
	d := newDriven(t)
	var logs []*raft.Log
	apply := func(l *raft.Log) {
		logs = append(logs, l)
		d.m.ApplyBatch([]*raft.Log{l})
	}
	apply(d.commands(joinCommand("r")))
	var early bytes.Buffer
	if err := d.m.View().WriteSnapshot(&early); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		apply(d.commands(single("r", Caller{}, putOp("k", `"v"`))))
	}
	want, ring := d.m.View(), d.m.Ring("r")
	published := 0
	d.m.Observe(func(*Published) { published++ })

	if err := d.m.Restore(io.NopCloser(&early)); err != nil {
		t.Fatal(err)
	}
	d.m.ApplyBatch(logs[1:])
	if got := d.m.View(); got.Rev() != want.Rev() || got.Index() != want.Index() || got.Hash() != want.Hash() {
		t.Errorf("after a late snapshot rev %d at index %d, before it rev %d at index %d", got.Rev(), got.Index(), want.Rev(), want.Index())
	}
	if published != 0 {
		t.Errorf("%d publications of what was published before", published)
	}
	if closed, _ := ring.Closed(); closed || d.m.Ring("r") != ring {
		t.Error("the ring was closed")
	}
	apply(d.commands(single("r", Caller{}, putOp("k", `"v"`))))
	if got := d.m.View(); got.Rev() != want.Rev()+1 || published != 1 {
		t.Errorf("rev %d after one more change, %d publications", got.Rev(), published)
	}
}
