package sim

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"conclave/cluster"
)

// A feature is there, on all nodes, once the last voter understands it, and gone when
// a voter goes back to an older program. Who has no vote does not count, but does
// not show what it does not understand itself.
func TestFeatures_InARollingUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		programs := map[string][]string{"n1": {"b", "a", "b"}, "n2": {"a", "c"}}
		opts := ordinary(7)
		opts.Configure = func(cfg *cluster.Config) {
			mu.Lock()
			defer mu.Unlock()
			cfg.Features = programs[cfg.ID]
		}
		c := Start(t, opts)
		want := func(what string, nodes int, want ...string) {
			t.Helper()
			for i := range nodes {
				c.Await(what, func() bool { return slices.Equal(c.Node(i).Features(), want) })
			}
		}
		restart := func(i int, features ...string) {
			t.Helper()
			mu.Lock()
			programs[c.Server(i).Name] = features
			mu.Unlock()
			c.Kill(i)
			c.Restart(i)
			c.AwaitReady()
		}
		want("nothing, as long as an old voter is left", 3)
		restart(2, "a", "c")
		want("what all understand", 3, "a")
		restart(0, "c", "a")
		want("what all understand by now", 3, "a", "c")

		c.Add()
		ask := func(what string, f func(context.Context) error) {
			t.Helper()
			c.Await(what, func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				return f(ctx) == nil
			})
		}
		ask("n4 to join", func(ctx context.Context) error { return c.Node(0).AddMember(ctx, "n4", c.Net.Addr("n4"), true, 0) })
		c.AwaitReady()
		want("the same beside an older replica", 3, "a", "c")
		if got := c.Node(3).Features(); len(got) != 0 {
			t.Errorf("the replica shows %q, which it does not understand", got)
		}
		ask("n4 to vote", func(ctx context.Context) error { return c.Node(0).Promote(ctx, "n4", 0) })
		want("nothing, with an older voter", 4)
		restart(3, "a")
		want("what the fourth understands too", 4, "a")
		restart(1)
		want("nothing, after one went back", 4)
	})
}
