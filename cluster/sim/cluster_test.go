package sim

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestStart shows that a cluster of three is one line, in virtual and in real time.
func TestStart(t *testing.T) {
	t.Run("in a bubble", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			NewCluster(t, 3).Leader()
		})
	})
	t.Run("in real time", func(t *testing.T) {
		NewCluster(t, 3).Leader()
	})
}

// TestQuiet lets a cluster be idle for ten minutes: nobody is elected, nothing
// is written but the time, and it logs how much faster than real time that was.
func TestQuiet(t *testing.T) {
	const idle = 10 * time.Minute
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		c := Start(t, Options{Seed: 1, Net: LAN, Sync: time.Millisecond})
		leader := c.Leader()
		term := c.Node(leader).Status(t.Context()).Term
		time.Sleep(idle)
		if after := c.Leader(); after != leader || c.Node(leader).Status(t.Context()).Term != term {
			t.Errorf("n%d leads in another term than n%d did", after+1, leader+1)
		}
	})
	t.Logf("%.0f virtual seconds per second", idle.Seconds()/time.Since(began).Seconds())
}
