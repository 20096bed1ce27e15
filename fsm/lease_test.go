package fsm

import "testing"

// TestG5_AnAcquireBeatsTheEndThatWasOnItsWay: the leader found a lease over and
// proposed its end; before that is applied the holder acquires again, which
// starts the lease anew, and is told so. The end that was on its way is void.
func TestG5_AnAcquireBeatsTheEndThatWasOnItsWay(t *testing.T) {
	w := newWorld(t)
	holder := w.joined("room")
	acquire := single("room", holder, Operation{Kind: OpAcquire, Key: "stage", Lock: &LockRequest{TTL: 1000}})
	fence := w.must(acquire).Ops[0].Fence
	var end Control
	w.s.Publish().Deadlines(func(d Deadline) {
		if d.Lease {
			end = d.Timer
			end.Term = w.term
		}
	})
	w.now += 1000
	if got := w.must(acquire).Ops[0].Fence; got != fence {
		t.Fatalf("fence %d, want %d again", got, fence)
	}
	out := w.propose(&Proposal{Controls: []Control{end}})
	if !w.s.Publish().Session("room").Lock(DefaultStore, "stage").Held() {
		t.Error("a lease that had just begun anew was ended")
	}
	if len(out.Deadlines) != 1 || out.Deadlines[0].At != w.now+1000 {
		t.Errorf("deadlines %+v, want the new end of the lease", out.Deadlines)
	}
	w.now += 1000
	w.propose(&Proposal{Controls: []Control{end}})
	if w.s.Publish().Session("room").Lock(DefaultStore, "stage").Held() {
		t.Error("the lease outlived its TTL")
	}
}
