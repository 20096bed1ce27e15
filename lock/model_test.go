package lock

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// model is a lock written without thought of cost: lists of names with what each
// asked for.
type model struct {
	mode      mode // of the holders; of those before when there are none
	holders   []want
	queue     []want
	notBefore int64
	dead      map[string]bool
	last      uint64 // the greatest fence given out
}

// mode is exclusive (1, false), shared (1, true) or a semaphore (n, false).
type mode struct {
	permits int
	shared  bool
}

func (m mode) covers(o mode) bool { return m == mode{1, false} || m == o }

type want struct {
	owner string
	mode  mode
	delay int64
	fence uint64 // of a holder
}

func (m *model) holder(owner string) int {
	return slices.IndexFunc(m.holders, func(w want) bool { return w.owner == owner })
}

func (m *model) admits(w want, now int64) bool {
	switch n := len(m.holders); {
	case now < m.notBefore:
		return false
	case n == 0:
		return true
	case w.mode != m.mode:
		return false
	default:
		return w.mode.shared || n < w.mode.permits
	}
}

// grant gives the lock to w, under a fence that nobody has had.
func (m *model) grant(w want, rev uint64) {
	if len(m.holders) == 0 {
		m.mode = w.mode
	}
	w.fence = max(rev, m.last+1)
	m.last = w.fence
	m.holders = append(m.holders, w)
	m.notBefore = 0
}

func (m *model) settle(rev uint64, now int64) {
	for len(m.queue) > 0 {
		next := m.queue[0]
		switch {
		case m.dead[next.owner]:
			m.queue = m.queue[1:]
			continue
		case !m.admits(next, now):
			return
		}
		m.grant(next, rev)
		m.queue = slices.DeleteFunc(m.queue, func(w want) bool { return w.owner == next.owner && m.mode.covers(w.mode) })
	}
}

// TestG6_LockIsGivenInTheOrderAsked compares the rules with the model over random
// histories of all modes, with delays, and checks that no value given out before is
// ever changed.
func TestG6_LockIsGivenInTheOrderAsked(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e"}
	modes := []mode{{1, false}, {1, false}, {1, true}, {1, true}, {2, false}, {3, false}}
	rapid.Check(t, func(t *rapid.T) {
		m := &model{dead: map[string]bool{}}
		var l *Lock
		var rev uint64
		var now int64
		var given []*Lock
		var prints []string
		live := func(w *Waiter) bool { return !m.dead[w.Owner.Peer] }
		name := func() string { return rapid.SampledFrom(names).Draw(t, "name") }
		step := func() Moment {
			rev = max(rev+1, m.last+1)
			return Moment{Rev: rev, Now: now}
		}
		move := func(t0 Moment) {
			l, _, _ = l.HandOver(live, t0)
			m.settle(t0.Rev, now)
		}
		// fence is one of a holder's, or one that nobody has.
		fence := func(owner string) uint64 {
			if i := m.holder(owner); i >= 0 {
				return m.holders[i].fence - uint64(rapid.IntRange(0, 1).Draw(t, "old"))
			}
			return m.last
		}
		end := func(owner string, fence uint64) (delay int64, ended bool) {
			i := m.holder(owner)
			if i < 0 || m.holders[i].fence != fence {
				return 0, false
			}
			delay = m.holders[i].delay
			m.holders = slices.Delete(slices.Clone(m.holders), i, i+1)
			return delay, true
		}
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				at := step()
				w := want{owner: name(), mode: rapid.SampledFrom(modes).Draw(t, "mode"), delay: int64(rapid.IntRange(0, 2).Draw(t, "delay")) * 50}
				wait := rapid.Bool().Draw(t, "wait")
				if m.dead[w.owner] {
					return
				}
				next, a := l.Acquire(Waiter{
					Owner: Owner{Peer: w.owner}, TTL: 5000, Shared: w.mode.shared, Permits: w.mode.permits, Delay: w.delay,
				}, wait, at)
				i, outcome := m.holder(w.owner), Refused
				switch {
				case i >= 0 && m.mode.covers(w.mode):
					outcome = Held
				case i >= 0: // would wait for itself
				case len(m.queue) == 0 && m.admits(w, now):
					outcome = Granted
					m.grant(w, at.Rev)
					i = len(m.holders) - 1
				case wait:
					outcome, m.queue = Queued, append(m.queue, w)
				}
				if a.Outcome != outcome {
					t.Fatalf("acquire of %+v: %+v, want outcome %d", w, a, outcome)
				}
				if (outcome == Granted || outcome == Held) && a.Fence != m.holders[i].fence {
					t.Fatalf("fence %d, want %d", a.Fence, m.holders[i].fence)
				}
				if outcome == Refused && next != l && next.Held() {
					t.Fatal("a refusal changed the lock")
				}
				if outcome != Refused {
					l = next
				}
			},
			"release": func(t *rapid.T) {
				at, who := step(), name()
				f := fence(who)
				next, ended := l.End(Of(Owner{Peer: who}, f))
				_, ends := end(who, f)
				if (len(ended) == 1) != ends {
					t.Fatalf("release by %s with %d: ended %+v, want %v", who, f, ended, ends)
				}
				if l = next; ends {
					move(at)
				}
			},
			"expire": func(t *rapid.T) {
				at, who := step(), name()
				f := fence(who)
				next, ended := l.Expire(Of(Owner{Peer: who}, f), at)
				delay, ends := end(who, f)
				if (len(ended) == 1) != ends {
					t.Fatalf("expiry of %s with %d: ended %+v, want %v", who, f, ended, ends)
				}
				if l = next; ends {
					if delay > 0 {
						m.notBefore = max(m.notBefore, now+delay)
					}
					move(at)
				}
			},
			"lift": func(t *rapid.T) {
				at := step()
				l, m.notBefore = l.Lift(), 0
				move(at)
			},
			"drop": func(t *rapid.T) {
				at, who := step(), name()
				l, _ = l.Drop(func(w *Waiter) bool { return w.Owner.Peer == who })
				m.queue = slices.DeleteFunc(m.queue, func(w want) bool { return w.owner == who })
				move(at)
			},
			"die": func(t *rapid.T) { m.dead[name()] = true },
			"time": func(t *rapid.T) {
				now += int64(rapid.IntRange(1, 80).Draw(t, "ms"))
				move(step())
			},
			"": func(t *rapid.T) {
				m.compare(t, l, now)
				for i := range given {
					if got := print(given[i]); got != prints[i] {
						t.Fatalf("a lock given out before was changed:\nwas %s\nis  %s", prints[i], got)
					}
				}
				given, prints = append(given, l), append(prints, print(l))
			},
		})
	})
}

// compare holds a lock against the model.
func (m *model) compare(t *rapid.T, l *Lock, now int64) {
	if m.notBefore <= now {
		m.notBefore = 0
	}
	if (l == nil) != (len(m.holders)+len(m.queue) == 0 && m.notBefore == 0) {
		t.Fatalf("the lock is %s, want %+v", print(l), m)
	}
	var holders, queue []want
	if l != nil {
		for _, h := range l.Holders {
			holders = append(holders, want{h.Owner.Peer, mode{max(l.Permits, 1), l.Shared}, h.Delay, h.Fence})
		}
		for _, w := range l.Queue {
			queue = append(queue, want{w.Owner.Peer, mode{w.Permits, w.Shared}, w.Delay, 0})
		}
		if l.Delayed(now) != (m.notBefore > now) || l.Delayed(now) && l.NotBefore != m.notBefore {
			t.Fatalf("not before %d, want %d", l.NotBefore, m.notBefore)
		}
	}
	if d := cmp.Diff(append([]want(nil), m.holders...), holders, cmp.AllowUnexported(want{}, mode{})); d != "" {
		t.Fatalf("holders (-want +got):\n%s", d)
	}
	if d := cmp.Diff(append([]want(nil), m.queue...), queue, cmp.AllowUnexported(want{}, mode{})); d != "" {
		t.Fatalf("queue (-want +got):\n%s", d)
	}
}

func print(l *Lock) string {
	if l == nil {
		return "none"
	}
	return fmt.Sprintf("%+v", *l)
}
