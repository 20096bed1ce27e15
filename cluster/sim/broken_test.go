//go:build broken

package sim

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"conclave/cluster"
	"conclave/fsm"
)

// TestBroken runs compact storms on builds that do one thing wrong, and has the
// checkers find out: each within some seeds, and by the word of the checker that is
// there for it. TestCheckers_CatchBrokenBuilds runs it, in a build of its own.
func TestBroken(t *testing.T) {
	for _, test := range []struct {
		defects []string
		guards  string // what the defect leaves out
		wants   string // a complaint that has to be among those made
		roles   []string
		kinds   []string // of faults; nil: all
	}{
		{[]string{"unfenced"}, "the fence check", "holds with fence", []string{"locker", "intruder"}, nil},
		{[]string{"untermed", "stubborn"}, "the term guard of expiry", "before the end of its lease", []string{"register", "locker"}, []string{"leadership transferred again and again"}},
		{[]string{"grudging"}, "a new leader's full TTL", "before the end of its lease", []string{"register", "locker"}, []string{"leadership transferred", "killed"}},
		{[]string{"unconfirmed"}, "the read's round", "stale read", nil, []string{"paused"}},
		{[]string{"eventless"}, "an event", "all nodes together", nil, nil},
		{[]string{"forgetful"}, "the memory of requests", "was written at revs", nil, nil},
		{[]string{"torn"}, "a transaction's rollback", "half a transaction", []string{"notary"}, nil},
		{[]string{"undying"}, "the session that a write names", "was applied in", []string{"visitor"}, nil},
	} {
		t.Run(strings.Join(test.defects, " and "), func(t *testing.T) {
			for _, defect := range test.defects {
				breaks := fsm.Break
				if slices.Contains([]string{"unconfirmed", "stubborn", "grudging"}, defect) {
					breaks = cluster.Break
				}
				defer breaks(defect)()
			}
			const most = 400
			for seed := range uint64(most) {
				s, opts := CompactStorm(seed + 1)
				s.Roles = test.roles
				s.Schedule = s.draw()
				for i := range s.Schedule {
					if test.kinds != nil {
						s.Schedule[i].Kind = test.kinds[i%len(test.kinds)]
						s.Schedule[i].Lasts = max(s.Schedule[i].Lasts, 400*time.Millisecond)
					}
				}
				_, wrong := Trial(t, s, opts)
				i := slices.IndexFunc(wrong, func(err error) bool { return strings.Contains(err.Error(), test.wants) })
				if i >= 0 {
					t.Logf("caught without %s, by seed %d: %s", test.guards, seed+1, strings.SplitN(wrong[i].Error(), "\n", 2)[0])
					return
				}
			}
			t.Errorf("%d seeds without %s, and nobody complained of %q", most, test.guards, test.wants)
		})
	}
	t.Run("hasty", func(t *testing.T) { // storms seldom meet it: this is the way to
		defer cluster.Break("hasty")()
		for range 20 { // the two may have elected one that has the entry
			v := &verdict{}
			var h *History
			synctest.Test(t, func(t *testing.T) {
				v.TB, h = t, NewHistory()
				opts := ordinary(13)
				opts.History = h
				c := Start(v, opts)
				oneDisk(v, c, h)
				c.Mend()
				c.AwaitReady()
				c.Settle()
			})
			if wrong := h.Check(); len(wrong) > 0 {
				t.Logf("caught without the leader's own disk before a commit is told: %s", strings.SplitN(wrong[0].Error(), "\n", 2)[0])
				return
			}
		}
		t.Error("acknowledged writes are gone, and nobody complained")
	})
}
