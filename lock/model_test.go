package lock

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// model is an exclusive lock written without thought of cost: who has it, and a
// list of names.
type model struct {
	holder string
	fence  uint64
	queue  []string
	dead   map[string]bool
}

func (m *model) settle(rev uint64) {
	for len(m.queue) > 0 {
		next := m.queue[0]
		switch {
		case m.dead[next]:
			m.queue = m.queue[1:]
			continue
		case m.holder != "":
			return
		}
		m.holder, m.fence = next, rev
		m.queue = slices.DeleteFunc(m.queue, func(o string) bool { return o == next })
	}
}

// TestG6_LockIsGivenInTheOrderAsked compares the rules with the model over random
// histories, and checks that no value given out before is ever changed.
func TestG6_LockIsGivenInTheOrderAsked(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e"}
	rapid.Check(t, func(t *rapid.T) {
		m := &model{dead: map[string]bool{}}
		var l *Lock
		rev := uint64(0)
		var given []*Lock
		var prints []string
		live := func(w *Waiter) bool { return !m.dead[w.Owner.Peer] }
		name := func() string { return rapid.SampledFrom(names).Draw(t, "name") }
		move := func() { l, _, _ = l.HandOver(live, at(rev)) }
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				rev++
				who, wait := name(), rapid.Bool().Draw(t, "wait")
				if m.dead[who] {
					return
				}
				next, a := l.Acquire(Waiter{Owner: Owner{Peer: who}, TTL: 5000}, wait, at(rev))
				want := Refused
				switch {
				case m.holder == who:
					want = Held
				case m.holder == "":
					want, m.holder, m.fence = Granted, who, rev
				case wait:
					want, m.queue = Queued, append(m.queue, who)
				}
				if a.Outcome != want {
					t.Fatalf("acquire by %s: %+v, want outcome %d", who, a, want)
				}
				if want == Granted || want == Held {
					if a.Fence != m.fence {
						t.Fatalf("fence %d, want %d", a.Fence, m.fence)
					}
				}
				if want == Refused && m.holder == "" {
					t.Fatal("a free lock was refused")
				}
				if want != Refused {
					l = next
				}
			},
			"release": func(t *rapid.T) {
				rev++
				who, fence := name(), m.fence-uint64(rapid.IntRange(0, 1).Draw(t, "old"))
				next, ended := l.End(Of(Owner{Peer: who}, fence))
				ends := m.holder == who && m.holder != "" && fence == m.fence
				if (len(ended) == 1) != ends {
					t.Fatalf("release by %s with %d: ended %+v, want %v", who, fence, ended, ends)
				}
				l = next
				if ends {
					m.holder = ""
				}
				move()
				m.settle(rev)
			},
			"drop": func(t *rapid.T) {
				rev++
				who := name()
				l, _ = l.Drop(func(w *Waiter) bool { return w.Owner.Peer == who })
				move()
				m.queue = slices.DeleteFunc(m.queue, func(o string) bool { return o == who })
				m.settle(rev)
			},
			"die": func(t *rapid.T) { m.dead[name()] = true },
			"": func(t *rapid.T) {
				var holders []string
				if m.holder != "" {
					holders = []string{m.holder}
				}
				gotHolders, gotQueue := owners(l)
				if d := cmp.Diff(holders, gotHolders); d != "" {
					t.Fatalf("holders (-want +got):\n%s", d)
				}
				if d := cmp.Diff(append([]string(nil), m.queue...), gotQueue); d != "" {
					t.Fatalf("queue (-want +got):\n%s", d)
				}
				if l.Held() && l.Holders[0].Fence != m.fence {
					t.Fatalf("fence %d, want %d", l.Holders[0].Fence, m.fence)
				}
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

func print(l *Lock) string {
	if l == nil {
		return "none"
	}
	return fmt.Sprintf("%+v", *l)
}
