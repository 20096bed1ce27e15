package cluster

import (
	"testing"
	"time"

	"conclave/fsm"
)

// Of a delay the leader knows the time left, to whichever node asks, and nobody can
// renew it.
func TestNode_aDelayHasATimeLeftAndIsNobodysToRenew(t *testing.T) {
	g := startGroup(t, 3)
	g.ready()
	do(t, g.follower(), &fsm.Command{
		Kind: fsm.CommandAcquire, Room: "room", Open: &fsm.Open{Limits: testLimits, Idle: 600_000}, Caller: fsm.Caller{Owner: "job"},
		Acquire: &fsm.Acquire{Store: "default", Key: "gate", Lock: fsm.LockRequest{TTL: 1000, Delay: 600_000}},
	})
	eventually(t, "the lease's end", func() bool {
		s := g.follower().View().Session("room")
		return s != nil && s.Lock("default", "gate").Delayed(0) && !s.Lock("default", "gate").Held()
	})
	delay := fsm.LeaseRef{Room: "room", Store: "default", Key: "gate"}
	if left := g.follower().TimeLeft(t.Context(), []fsm.LeaseRef{delay})[delay]; left <= 0 || left > 600*time.Second {
		t.Errorf("%v left of the delay", left)
	}
	if _, err := g.follower().Renew(t.Context(), delay); code(err) != fsm.CodeNotHolder {
		t.Errorf("a renewal of the delay: %v", err)
	}
}
