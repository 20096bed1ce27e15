package cluster

import (
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// TestTransport_LateSnapshots: a snapshot of what this server has published is
// answered without raft, which would take over the membership of that time; any
// other request and any newer snapshot reaches it.
func TestTransport_LateSnapshots(t *testing.T) {
	_, leader := raft.NewInmemTransport("leader")
	addr, inner := raft.NewInmemTransport("follower")
	leader.Connect(addr, inner)
	follower, err := newTransport(inner, "follower.d")
	if err != nil {
		t.Fatal(err)
	}
	follower.Applied(100)
	follower.Applied(90) // raft may apply once more what came after a snapshot

	reached := make(chan uint64, 10)
	done := make(chan struct{})
	go func() { // raft, as far as it matters
		defer close(done)
		for range 2 {
			rpc := <-follower.Consumer()
			if req, ok := rpc.Command.(*raft.InstallSnapshotRequest); ok {
				reached <- req.LastLogIndex
				rpc.Respond(&raft.InstallSnapshotResponse{Term: req.Term, Success: true}, nil)
				continue
			}
			rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
		}
	}()
	for _, index := range []uint64{50, 100, 101} {
		var resp raft.InstallSnapshotResponse
		req := &raft.InstallSnapshotRequest{Term: 3, LastLogIndex: index}
		if err := leader.InstallSnapshot("", addr, req, &resp, strings.NewReader("state")); err != nil || !resp.Success || resp.Term != 3 {
			t.Errorf("snapshot of %d: %+v, %v", index, resp, err)
		}
	}
	var resp raft.AppendEntriesResponse
	if err := leader.AppendEntries("", addr, &raft.AppendEntriesRequest{}, &resp); err != nil || !resp.Success {
		t.Errorf("entries: %+v, %v", resp, err)
	}
	<-done
	close(reached)
	var got []uint64
	for index := range reached {
		got = append(got, index)
	}
	if len(got) != 1 || got[0] != 101 {
		t.Errorf("raft saw snapshots of %v, want 101 alone", got)
	}
	for range 2 {
		if err := follower.Close(); err != nil {
			t.Error(err)
		}
	}
}
