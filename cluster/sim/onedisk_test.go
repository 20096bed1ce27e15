package sim

import (
	"context"
	"testing"
	"time"

	"conclave/fsm"
)

// TestG1_OneDiskIsNoMajority: the leader sends entries before its own disk has them.
// While the disk is slow and one follower is away, only the other has them: that is
// not acknowledged, nor shown.
func TestG1_OneDiskIsNoMajority(t *testing.T) {
	opts := ordinary(13)
	inBubble(t, opts, func(t *testing.T, c *Cluster, h *History) {
		if op := oneDisk(t, c, h); op.Outcome == Applied {
			t.Errorf("acknowledged with the word of one disk: %v", op)
		}
	})
}

// oneDisk has an entry reach one disk, of one follower, and then has the two that
// lack it go on without that one.
func oneDisk(t testing.TB, c *Cluster, h *History) *Op {
	leader := c.settled()
	has, behind := c.Followers()[0], c.Followers()[1]
	k := c.NewClient(h, "ada").On(has)
	c.Isolate(behind)
	c.Server(leader).Disk.Hang()
	outcome := make(chan *Op)
	go func() {
		cmd := single(hall, fsm.Operation{Kind: fsm.OpPut, Key: "k", Value: k.value()})
		k.request++
		cmd.Caller, cmd.Client, cmd.Request = k.caller, k.Name, k.request
		op := &Op{Client: k.Name, Command: cmd, Call: h.Now(), Outcome: Unknown}
		result, err := c.Node(has).Do(context.Background(), cmd)
		if err == nil && result.Refusal == nil {
			op.Outcome, op.Result = Applied, result
		}
		op.Return = h.Now()
		h.addOp(op)
		outcome <- op
	}()
	time.Sleep(100 * time.Millisecond) // the follower has written it
	if c.Node(has).View().Session(hall) != nil {
		t.Error("a follower shows what its leader has not written")
	}
	c.Kill(leader)
	c.Server(leader).Disk.Work()
	c.Net.Heal()
	c.Isolate(has)
	c.Restart(leader)
	c.NewClient(h, "bob").On(c.Leader()).put("k")
	op := <-outcome
	c.Net.Heal()
	return op
}
