package api

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"conclave/fsm"
	"conclave/lock"
)

// told collects what a wait is told.
type told struct {
	mu     sync.Mutex
	grants []fsm.Grant
}

func (c *told) end(g fsm.Grant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.grants = append(c.grants, g)
}

func (c *told) is(t *testing.T, fences ...uint64) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var got []uint64
	for _, g := range c.grants {
		got = append(got, g.Fence)
	}
	if fmt.Sprint(got) != fmt.Sprint(fences) {
		t.Errorf("told of the fences %v, want %v", got, fences)
	}
}

func grantOf(session string, waiter, fence uint64) *fsm.Published {
	return &fsm.Published{Grants: []fsm.Grant{{Room: "r", Session: session, Store: "default", Key: "k", Waiter: waiter, Fence: fence}}}
}

func TestGrants(t *testing.T) {
	owner := lock.Owner{Name: "o"}
	t.Run("one that comes after the place in line is known", func(t *testing.T) {
		g, c := newGrants(), &told{}
		g.expect("r", "default", "k").queued(owner, "s1", 7, c.end)
		g.observe(grantOf("s1", 6, 8))
		g.observe(grantOf("s2", 7, 9))
		c.is(t)
		g.observe(grantOf("s1", 7, 10))
		g.observe(grantOf("s1", 7, 10))
		c.is(t, 10)
	})
	t.Run("one that comes before", func(t *testing.T) {
		g, c := newGrants(), &told{}
		w := g.expect("r", "default", "k")
		g.observe(grantOf("s1", 6, 8))
		g.observe(grantOf("s1", 7, 10))
		w.queued(owner, "s1", 7, c.end)
		c.is(t, 10)
	})
	t.Run("of another key", func(t *testing.T) {
		g, c := newGrants(), &told{}
		w := g.expect("r", "default", "other")
		g.observe(grantOf("s1", 7, 10))
		w.queued(owner, "s1", 7, c.end)
		c.is(t)
	})
	t.Run("two requests for one place are both told", func(t *testing.T) {
		g, a, b := newGrants(), &told{}, &told{}
		g.expect("r", "default", "k").queued(owner, "s1", 7, a.end)
		g.expect("r", "default", "k").queued(owner, "s1", 7, b.end)
		g.observe(grantOf("s1", 7, 10))
		a.is(t, 10)
		b.is(t, 10)
	})
	t.Run("nobody is told after forget", func(t *testing.T) {
		g, c := newGrants(), &told{}
		w := g.expect("r", "default", "k")
		w.queued(owner, "s1", 7, c.end)
		w.forget()
		w.forget()
		g.observe(grantOf("s1", 7, 10))
		c.is(t)
	})
	t.Run("the table does not grow", func(t *testing.T) {
		g, c := newGrants(), &told{}
		for i := range uint64(100) {
			w := g.expect("r", "default", "k")
			if i%2 == 0 {
				w.queued(owner, "s1", i+1, c.end)
				g.observe(grantOf("s1", i+1, i+2))
			}
			w.forget()
		}
		if n := g.size(); n != 0 || len(g.waits) != 0 {
			t.Errorf("%d waits are left", n)
		}
	})
}

// A node that falls behind gets the whole state instead of what happened: waits
// that ended meanwhile are settled from it.
func TestGrants_afterTheStateWasReplaced(t *testing.T) {
	ctx := t.Context()
	store := newTestStore(t)
	do := func(c *fsm.Command) *fsm.Result {
		t.Helper()
		c.Room = "r"
		r, err := store.Do(ctx, c)
		if err := outcome(r, err); err != nil {
			t.Fatal(err)
		}
		return r
	}
	s := &Server{cfg: Config{Profile: standardProfile}, profiles: builtin}
	open, _ := s.opening("", 60_000)
	session := do(&fsm.Command{Kind: fsm.CommandOpen, Open: open}).Session
	acquire := func(owner string) *fsm.Result {
		return do(&fsm.Command{Kind: fsm.CommandAcquire, Caller: fsm.Caller{Owner: owner}, Acquire: &fsm.Acquire{
			Store: "default", Key: "k", Lock: fsm.LockRequest{TTL: 60_000}, Wait: 60_000, Node: testNode, Incarnation: 1, Waiter: owner,
		}})
	}
	fence := acquire("a").Fence
	granted, waits, gone := acquire("b").Waiter, acquire("c").Waiter, uint64(1)
	grant := do(&fsm.Command{Kind: fsm.CommandTxn, Caller: fsm.Caller{Owner: "a"}, Txn: single(fsm.Operation{
		Kind: fsm.OpRelease, Store: "default", Key: "k", Fence: fence,
	})}).Rev
	restored := &fsm.Published{View: store.View(), Restored: true}

	for name, early := range map[string]bool{"known waits": false, "waits on their way": true} {
		t.Run(name, func(t *testing.T) {
			g := newGrants()
			ends := map[string]*told{}
			var queue []func()
			for owner, waiter := range map[string]uint64{"b": granted, "c": waits, "d": gone, "later": grant + 1} {
				c, w := &told{}, g.expect("r", "default", "k")
				ends[owner] = c
				queue = append(queue, func() { w.queued(lock.Owner{Name: owner}, session, waiter, c.end) })
			}
			if early {
				g.observe(restored)
			}
			for _, q := range queue {
				q()
			}
			if !early {
				delete(ends, "later") // a wait newer than the state cannot be known before it
				g.observe(restored)
			}
			ends["b"].is(t, grant)
			ends["c"].is(t)
			ends["d"].is(t, 0)
			if got := ends["d"].grants[0].Refusal; got == nil || got.Code != fsm.CodeUnknownOutcome {
				t.Errorf("got %v", got)
			}
			if c := ends["later"]; c != nil {
				c.is(t)
			}
		})
	}
	t.Run("when the session is over", func(t *testing.T) {
		g, c := newGrants(), &told{}
		g.expect("r", "default", "k").queued(lock.Owner{Name: "x"}, "sold", 1, c.end)
		g.observe(restored)
		if len(c.grants) != 1 || c.grants[0].Refusal.Code != fsm.CodeSessionEnded {
			t.Errorf("got %v", c.grants)
		}
	})
}

// Under load, with grants published in the same entry as the place in line, every
// request ends exactly once and no two hold the lock together.
func TestG6_nobodyIsForgottenInLine(t *testing.T) {
	s := newTestServer(t, Config{})
	s.open("r")
	const clients, rounds = 8, 12
	var holding sync.Mutex
	var all sync.WaitGroup
	var mu sync.Mutex
	var fences []uint64
	for i := range clients {
		all.Go(func() {
			for range rounds {
				r := s.do("POST", locks+"k", fmt.Sprintf(`{"owner":"o%d","ttl_ms":60000,"wait_ms":60000}`, i))
				if r.status != 200 {
					t.Errorf("got %d %s", r.status, r.body)
					return
				}
				if !holding.TryLock() {
					t.Error("two hold the lock")
					return
				}
				fence := r.number("fence")
				mu.Lock()
				fences = append(fences, fence)
				mu.Unlock()
				holding.Unlock()
				if r := s.do("DELETE", fmt.Sprintf("%sk?fence=%d&owner=o%d", locks, fence, i), ""); r.status != 200 {
					t.Errorf("release: got %d %s", r.status, r.body)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("somebody waits for ever")
	}
	if len(fences) != clients*rounds {
		t.Fatalf("%d grants", len(fences))
	}
	for i := 1; i < len(fences); i++ {
		if fences[i] <= fences[i-1] {
			t.Errorf("the fence %d came after %d", fences[i], fences[i-1])
		}
	}
}
