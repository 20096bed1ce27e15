package sim

import (
	"testing"
	"time"

	"conclave/fsm"
)

// TestG6_HandOverIsPushed: while two wait on different nodes for ten minutes the log
// grows by the leader's time stamps only, since nobody asks again and again; one
// release then wakes one of them, at once.
func TestG6_HandOverIsPushed(t *testing.T) {
	inBubble(t, ordinary(61), func(t *testing.T, c *Cluster, h *History) {
		first := c.NewClient(h, "first")
		first.caller.Owner = "first"
		fence := first.hold(t, time.Hour)
		woken := make(chan time.Duration, 2)
		var fences [2]uint64
		var waiters [2]*Client
		for i := range fences {
			k := c.NewClient(h, string(rune('a'+i)))
			k.caller.Owner = k.Name
			k.On(i)
			waiters[i] = k
			go func() {
				fences[i] = k.queue(time.Hour)
				woken <- h.Now()
			}()
			c.Await("one more in line", func() bool { return c.waiting() == i+1 })
		}
		node := c.Servers()[c.Leader()].Node()
		before := node.View().Index()
		time.Sleep(10 * time.Minute)
		if grown := node.View().Index() - before; grown > 70 { // a stamp every 10 s
			t.Errorf("the log grew by %d entries while two waited", grown)
		}
		released := h.Now()
		first.patient = true
		first.Do(single(hall, fsm.Operation{Kind: fsm.OpRelease, Key: stage, Fence: fence}))
		if took := <-woken - released; took > 100*time.Millisecond {
			t.Errorf("the next in line was told after %v", took)
		}
		time.Sleep(time.Minute)
		if len(woken) != 0 || c.waiting() != 1 {
			t.Errorf("one release woke %d more, and %d wait", len(woken), c.waiting())
		}
		waiters[0].Do(single(hall, fsm.Operation{Kind: fsm.OpRelease, Key: stage, Fence: fences[0]}))
		<-woken
	})
}
