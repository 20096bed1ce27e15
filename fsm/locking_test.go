package fsm

import "testing"

// locking asks for the lock on k with all that an acquire may have.
func locking(by Caller, req LockRequest, wait int64) Command {
	return Command{
		Kind: CommandAcquire, Room: "r", Caller: by,
		Acquire: &Acquire{Store: DefaultStore, Key: "k", Wait: wait, Lock: req},
	}
}

// TestRegression_etcd9921_ADeadWaiterIsNotGranted: etcd's Mutex gave the lock to a
// waiter whose session had expired while it waited.
func TestRegression_etcd9921_ADeadWaiterIsNotGranted(t *testing.T) {
	for name, dies := range map[string]func(w *world, ada Caller){
		"its grace ends while it waits": func(w *world, ada Caller) {
			w.must(Command{Kind: CommandDetach, Room: "r", Caller: ada, Target: ada.Peer})
			w.now += 15_000
			w.due()
		},
		"it leaves": func(w *world, ada Caller) {
			w.must(Command{Kind: CommandLeave, Room: "r", Caller: ada, Target: ada.Peer})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			holder, ada, bob := w.joined("r"), w.joined("r"), w.joined("r")
			fence := w.must(locking(holder, LockRequest{}, 0)).Fence
			w.must(locking(ada, LockRequest{}, 1<<40))
			next := w.must(locking(bob, LockRequest{}, 1<<40)).Waiter
			dies(w, ada)
			_, out := w.do(single("r", holder, Operation{Kind: OpRelease, Key: "k", Fence: fence}))
			if len(out.Grants) != 1 || out.Grants[0].Waiter != next || out.Grants[0].Refusal != nil {
				t.Fatalf("grants %+v, want one to %d", out.Grants, next)
			}
		})
	}
	t.Run("the node that serves it has restarted, and nobody has said so yet", func(t *testing.T) {
		w := newWorld(t)
		holder := w.joined("r")
		fence := w.must(locking(holder, LockRequest{}, 0)).Fence
		dead := locking(Caller{User: "u", Owner: "dead"}, LockRequest{TTL: 5000}, 60_000)
		dead.Acquire.Node, dead.Acquire.Incarnation, dead.Acquire.Waiter = "n1", 1, "w"
		gone := w.must(dead).Waiter
		next := w.must(locking(w.joined("r"), LockRequest{}, 60_000)).Waiter
		w.propose(&Proposal{Batches: []Batch{{Node: "n1", Incarnation: 2, Register: &Register{}}}})
		out := w.propose(&Proposal{Batches: []Batch{{Node: "n1", Incarnation: 2, Seq: 1, Commands: []Command{
			single("r", holder, Operation{Kind: OpRelease, Key: "k", Fence: fence}),
		}}}})
		told := map[uint64]Code{}
		for _, g := range out.Grants {
			told[g.Waiter] = ""
			if g.Refusal != nil {
				told[g.Waiter] = g.Refusal.Code
			}
		}
		if len(told) != 2 || told[gone] != CodeLockTimeout || told[next] != "" {
			t.Errorf("the waits %d and %d ended with %v", gone, next, told)
		}
	})
}

// TestRegression_etcd15247_AnEarlierTermsTimerEndsNothing: a leader that was stuck,
// and deposed meanwhile, revoked leases that its successor kept alive.
func TestRegression_etcd15247_AnEarlierTermsTimerEndsNothing(t *testing.T) {
	w := newWorld(t)
	ada := w.joined("r")
	req := LockRequest{TTL: 5000, Delay: 3000}
	fence := w.must(locking(ada, req, 0)).Fence
	w.must(locking(w.joined("r"), LockRequest{TTL: 5000}, 60_000))
	end := Control{Kind: ControlLeaseEnd, Room: "r", Store: DefaultStore, Key: "k", Fence: fence, Term: w.term}
	stuck, now := w.term, w.s.Publish().Now()
	w.term++ // another leads
	w.now += 60_000
	w.propose(&Proposal{Term: stuck, Controls: []Control{end}})
	w.now -= 60_000
	if got := w.s.Publish().Now(); got != now {
		t.Errorf("the old leader's clock moved the state's from %d to %d", now, got)
	}
	if l := w.s.Publish().Session("r").Lock(DefaultStore, "k"); len(l.Holders) != 1 || l.Holders[0].Fence != fence {
		t.Fatalf("the old leader's timer ended the lease: %+v", l)
	}
}

// TestG4_EachOfManyHoldersHasItsOwnFence: of a lock that several hold each writes
// and renews by its own grant only, and no two grants have one fence, though they
// are made at one revision.
func TestG4_EachOfManyHoldersHasItsOwnFence(t *testing.T) {
	for name, req := range map[string]LockRequest{
		"shared": {TTL: 5000, Shared: true}, "semaphore": {TTL: 5000, Permits: 5},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first := w.joined("r")
			fence := w.must(locking(first, LockRequest{}, 0)).Fence
			callers := map[uint64]Caller{} // by waiter
			for range 4 {
				by := w.joined("r")
				callers[w.must(locking(by, req, 60_000)).Waiter] = by
			}
			_, out := w.do(single("r", first, Operation{Kind: OpRelease, Key: "k", Fence: fence}))
			if len(out.Grants) != 4 {
				t.Fatalf("%d grants", len(out.Grants))
			}
			w.restart()
			seen := map[uint64]bool{}
			for _, g := range out.Grants {
				if seen[g.Fence] || g.Fence <= fence {
					t.Fatalf("fence %d again, after %d", g.Fence, fence)
				}
				seen[g.Fence] = true
				for _, other := range out.Grants {
					op := putOp("k", "1")
					op.Fence = other.Fence
					want := CodeStaleFence
					if other.Waiter == g.Waiter {
						want = ""
					}
					if r := w.one(single("r", callers[g.Waiter], op)); code(r) != want {
						t.Errorf("waiter %d with the fence of %d: %q, want %q", g.Waiter, other.Waiter, code(r), want)
					}
				}
			}
			// The end of one lease is the end of one.
			one := out.Grants[1]
			w.now += 5000
			w.propose(&Proposal{Controls: []Control{{
				Kind: ControlLeaseEnd, Room: "r", Store: DefaultStore, Key: "k", Fence: one.Fence, Term: w.term,
			}}})
			l := w.s.Publish().Session("r").Lock(DefaultStore, "k")
			if len(l.Holders) != 3 || l.Guards(callers[one.Waiter].LockOwner(), one.Fence) {
				t.Errorf("the holders after the end of %d: %+v", one.Fence, l.Holders)
			}
			// What is granted next has a fence that nobody had, whatever the revision.
			if r := w.must(locking(w.joined("r"), req, 0)); seen[r.Fence] {
				t.Errorf("fence %d was given out before", r.Fence)
			}
		})
	}
}

// TestG4_WhatATransactionGaveBackItCannotWrite: a lock that a transaction acquires
// needs no fence, but only for as long as it has it.
func TestG4_WhatATransactionGaveBackItCannotWrite(t *testing.T) {
	w := newWorld(t)
	ada, bob := w.joined("r"), w.joined("r")
	fence := w.must(locking(ada, LockRequest{}, 0)).Fence
	w.must(locking(bob, LockRequest{}, 60_000))
	for name, write := range map[string]Operation{
		"put":   putOp("k", "1"),
		"merge": {Kind: OpMerge, Store: DefaultStore, Set: []KeyValue{{"k", []byte("1")}}},
	} {
		r := w.one(Command{Kind: CommandTxn, Room: "r", Caller: ada, Txn: &Txn{Then: []Operation{
			{Kind: OpAcquire, Store: DefaultStore, Key: "k", Lock: &LockRequest{}},
			{Kind: OpRelease, Store: DefaultStore, Key: "k", Fence: fence},
			write,
		}}})
		if code(r) != CodeLocked || *r.Refusal.Details.Index != 2 || r.Refusal.Details.Owner != bob.Peer {
			t.Errorf("a %s of what was given back, and is bob's: %+v", name, r.Refusal)
		}
		if !w.s.Publish().Session("r").Lock(DefaultStore, "k").Guards(ada.LockOwner(), fence) {
			t.Fatal("the refused transaction changed who holds the lock")
		}
	}
}

// TestG6_AnExpiredLocksDelay: after an expiry the line waits for the delay, whoever
// leads and whatever is restarted, and then moves by one.
func TestG6_AnExpiredLocksDelay(t *testing.T) {
	w := newWorld(t)
	w.must(locking(w.joined("r"), LockRequest{TTL: 5000, Delay: 3000}, 0))
	first := w.must(locking(w.joined("r"), LockRequest{TTL: 5000}, 60_000)).Waiter
	w.must(locking(w.joined("r"), LockRequest{TTL: 5000}, 60_000))
	w.now += 5000
	if out := w.due(); len(out.Grants) != 0 || len(out.Frames) != 1 {
		t.Fatalf("the end of the lease granted %+v", out.Grants)
	}
	w.restart()
	w.term++
	w.now += 2999
	if out := w.due(); len(out.Grants) != 0 {
		t.Fatalf("granted in the delay: %+v", out.Grants)
	}
	w.now++
	out := w.due()
	if len(out.Grants) != 1 || out.Grants[0].Waiter != first || out.Grants[0].Refusal != nil {
		t.Fatalf("after the delay: %+v", out.Grants)
	}
}

func TestState_HoldersAreBounded(t *testing.T) {
	w := newWorld(t)
	join := joinCommand("r")
	join.Open.Limits.LockWaiters = 3
	w.must(join)
	for range 3 {
		w.must(locking(w.joined("r"), LockRequest{Shared: true}, 0))
	}
	no := w.one(locking(w.joined("r"), LockRequest{Shared: true}, 60_000)).Refusal
	if no == nil || no.Code != CodeLimitExceeded || no.Details.Limit != "lock_holders" || no.Details.Max != 3 || no.Details.Actual != 4 {
		t.Errorf("the fourth: %+v", no)
	}
}
