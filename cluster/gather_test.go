package cluster

import (
	"testing"
	"time"
)

// TestGathering plays clients that ask again when they are answered, and others.
func TestGathering(t *testing.T) {
	start := time.Now()
	const took = 3 * time.Millisecond
	expect := func(t *testing.T, g *gathering, now time.Time, queued int, want time.Duration) {
		t.Helper()
		if got := g.wait(now, queued); got != want {
			t.Errorf("with %d commands it waits %v, want %v (%+v)", queued, got, want, *g)
		}
	}
	t.Run("one client never waits", func(t *testing.T) {
		var g gathering
		for range 3 {
			expect(t, &g, start, 1, 0)
			g.left(1)
			g.done(start, 1, 0, took)
		}
	})
	t.Run("two halves become one entry", func(t *testing.T) {
		var g gathering
		g.left(8)
		expect(t, &g, start, 8, -1) // the other half comes while it is in flight
		g.done(start, 8, 8, took)
		expect(t, &g, start.Add(time.Millisecond), 8, 2*took-time.Millisecond)
		expect(t, &g, start.Add(time.Millisecond), 13, 2*took-time.Millisecond)
		expect(t, &g, start.Add(time.Millisecond), 14, 0) // enough
		g.left(14)
		g.done(start, 14, 2, took)
		expect(t, &g, start, 2, 2*took)
		expect(t, &g, start, 16, 0)
	})
	t.Run("who does not come back is waited for less and less often", func(t *testing.T) {
		var g gathering
		waits := 0
		for range 10_000 {
			if g.wait(start, 4) > 0 {
				waits++
				expect(t, &g, start.Add(2*took), 4, 0) // in vain
			}
			g.left(4)
			g.done(start, 4, 4, took)
		}
		if waits < 100 || waits > 200 {
			t.Errorf("of 10,000 entries %d waited in vain", waits)
		}
	})
	t.Run("it is waited for again once it helps", func(t *testing.T) {
		g := gathering{vain: maxSkip, skip: 1}
		expect(t, &g, start, 1, 0)
		g.left(4)
		g.done(start, 4, 0, took)
		expect(t, &g, start, 4, 0)
		if g.vain != 0 || g.skip != 0 {
			t.Errorf("%d entries would go without, %d in the end", g.skip, g.vain)
		}
	})
	t.Run("no longer than the bound", func(t *testing.T) {
		var g gathering
		g.left(2)
		g.done(start, 2, 0, time.Second)
		expect(t, &g, start, 1, maxGather)
	})
	t.Run("several in flight, while it does not help", func(t *testing.T) {
		g := gathering{skip: 10}
		g.left(3)
		expect(t, &g, start, 3, 0)
		g.left(3)
		g.done(start, 3, 1, took)
		if g.want != 7 {
			t.Errorf("%d may come, want 7: two entries of 3, and one that waits", g.want)
		}
	})
}
