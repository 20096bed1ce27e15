package lock

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

var ada, bob, eve = Owner{Peer: "ada"}, Owner{Peer: "bob"}, Owner{Peer: "eve"}

func at(rev uint64) Moment { return Moment{Rev: rev, Now: int64(rev) * 1000, Wall: int64(rev) * 10} }

func alive(*Waiter) bool { return true }

// steps applies acquires, in order, by owners who are ready to wait.
func steps(t *testing.T, owners ...Owner) *Lock {
	t.Helper()
	var l *Lock
	for i, o := range owners {
		l, _ = l.Acquire(Waiter{Owner: o, TTL: 5000}, true, at(uint64(i+1)))
	}
	return l
}

func owners(l *Lock) (holders, queue []string) {
	if l == nil {
		return nil, nil
	}
	for _, h := range l.Holders {
		holders = append(holders, h.Owner.String())
	}
	for _, w := range l.Queue {
		queue = append(queue, w.Owner.String())
	}
	return holders, queue
}

func expect(t *testing.T, l *Lock, holders, queue []string) {
	t.Helper()
	gotHolders, gotQueue := owners(l)
	if d := cmp.Diff(holders, gotHolders); d != "" {
		t.Errorf("holders (-want +got):\n%s", d)
	}
	if d := cmp.Diff(queue, gotQueue); d != "" {
		t.Errorf("queue (-want +got):\n%s", d)
	}
}

func TestLock_Acquire(t *testing.T) {
	t.Run("a free lock is granted with the revision as fence", func(t *testing.T) {
		var free *Lock
		l, a := free.Acquire(Waiter{Owner: ada, TTL: 5000, Data: []byte("1")}, false, at(7))
		want := &Lock{Permits: 1, Holders: []Holder{{Owner: ada, Fence: 7, Since: 70, TTL: 5000, Expires: 12_000, Data: []byte("1")}}}
		if d := cmp.Diff(want, l); d != "" {
			t.Errorf("lock (-want +got):\n%s", d)
		}
		if d := cmp.Diff(Answer{Outcome: Granted, Fence: 7}, a); d != "" {
			t.Errorf("answer (-want +got):\n%s", d)
		}
	})
	t.Run("its holder gets the same fence and a new lease", func(t *testing.T) {
		l, a := steps(t, ada, bob).Acquire(Waiter{Owner: ada, TTL: 9000}, false, at(9))
		if a.Outcome != Held || a.Fence != 1 || l.Holders[0].Expires != 18_000 || l.Holders[0].TTL != 9000 {
			t.Errorf("got %+v, %+v", a, l.Holders[0])
		}
		expect(t, l, []string{"ada"}, []string{"bob"})
	})
	t.Run("a held lock is refused to who does not wait", func(t *testing.T) {
		before := steps(t, ada)
		l, a := before.Acquire(Waiter{Owner: bob}, false, at(2))
		if a.Outcome != Refused || l != before {
			t.Errorf("got %+v", a)
		}
	})
	t.Run("who waits stands at the end of the line", func(t *testing.T) {
		l, a := steps(t, ada, bob).Acquire(Waiter{Owner: eve}, true, at(3))
		if d := cmp.Diff(Answer{Outcome: Queued, Position: 2, Waiter: 3}, a); d != "" {
			t.Errorf("answer (-want +got):\n%s", d)
		}
		expect(t, l, []string{"ada"}, []string{"bob", "eve"})
	})
	t.Run("the zero owner of another kind is never the same", func(t *testing.T) {
		l, _ := (*Lock)(nil).Acquire(Waiter{Owner: Owner{Peer: "x"}}, false, at(1))
		if _, a := l.Acquire(Waiter{Owner: Owner{Name: "x"}}, false, at(2)); a.Outcome != Refused {
			t.Errorf("a name took a peer's lock: %+v", a)
		}
	})
}

func TestLock_AcquireRepeated(t *testing.T) {
	tests := []struct {
		name          string
		first, second Waiter
		same          bool
	}{
		{"the same client's same request", Waiter{Client: "c", Request: 4}, Waiter{Client: "c", Request: 4}, true},
		{"the same client's next request", Waiter{Client: "c", Request: 4}, Waiter{Client: "c", Request: 5}, false},
		{"another client's request of that number", Waiter{Client: "c", Request: 4}, Waiter{Client: "d", Request: 4}, false},
		{"the same key", Waiter{Idem: "k", Name: "1"}, Waiter{Idem: "k", Name: "2"}, true},
		{"the same name on the same node", Waiter{Node: "n", Incarnation: 1, Name: "1"}, Waiter{Node: "n", Incarnation: 1, Name: "1"}, true},
		{"the same name after a restart", Waiter{Node: "n", Incarnation: 1, Name: "1"}, Waiter{Node: "n", Incarnation: 2, Name: "1"}, false},
		{"no name at all", Waiter{}, Waiter{}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.first.Owner, test.second.Owner = bob, bob
			l, first := steps(t, ada).Acquire(test.first, true, at(2))
			l, second := l.Acquire(test.second, true, at(3))
			if same := second.Outcome == Waits; same != test.same {
				t.Fatalf("same is %v: %+v", same, second)
			}
			if test.same && (second.Waiter != first.Waiter || second.Position != 1 || l.Waiting() != 1) {
				t.Errorf("got %+v after %+v", second, first)
			}
		})
	}
	t.Run("the node that asked last serves the wait", func(t *testing.T) {
		before, _ := steps(t, ada).Acquire(Waiter{Owner: bob, Idem: "k", Node: "n1", Incarnation: 1, Name: "a"}, true, at(2))
		after, _ := before.Acquire(Waiter{Owner: bob, Idem: "k", Node: "n2", Incarnation: 5, Name: "b"}, true, at(3))
		if w := after.Queue[0]; w.Node != "n2" || w.Incarnation != 5 || w.Name != "b" {
			t.Errorf("got %+v", w)
		}
		if before.Queue[0].Node != "n1" {
			t.Error("the lock before was changed in place")
		}
	})
}

func TestLock_HandOver(t *testing.T) {
	t.Run("one release wakes one waiter, the first", func(t *testing.T) {
		l, ended := steps(t, ada, bob, eve).End(Of(ada, 1))
		if len(ended) != 1 {
			t.Fatalf("ended %+v", ended)
		}
		l, grants, dropped := l.HandOver(alive, at(9))
		expect(t, l, []string{"bob"}, []string{"eve"})
		if len(grants) != 1 || grants[0].Waiter.ID != 2 || grants[0].Fence != 9 || len(dropped) != 0 {
			t.Errorf("grants %+v, dropped %+v", grants, dropped)
		}
		if h := l.Holders[0]; h.Expires != 14_000 {
			t.Errorf("the lease does not start at the grant: %+v", h)
		}
	})
	t.Run("who is gone is skipped", func(t *testing.T) {
		l, _ := steps(t, ada, bob, eve).End(Of(ada, 1))
		l, grants, dropped := l.HandOver(func(w *Waiter) bool { return w.Owner != bob }, at(9))
		expect(t, l, []string{"eve"}, nil)
		if len(grants) != 1 || len(dropped) != 1 || dropped[0].Owner != bob {
			t.Errorf("grants %+v, dropped %+v", grants, dropped)
		}
	})
	t.Run("nobody left is no lock", func(t *testing.T) {
		l, _ := steps(t, ada).End(Of(ada, 1))
		if l, _, _ = l.HandOver(alive, at(9)); l != nil {
			t.Errorf("got %+v", l)
		}
	})
	t.Run("an owner's second wait is answered with its first", func(t *testing.T) {
		l := steps(t, ada, bob, eve)
		l, _ = l.Acquire(Waiter{Owner: bob, Client: "other"}, true, at(4))
		l, _ = l.End(Of(ada, 1))
		l, grants, _ := l.HandOver(alive, at(9))
		expect(t, l, []string{"bob"}, []string{"eve"})
		if len(grants) != 2 || grants[0].Waiter.ID != 2 || grants[1].Waiter.ID != 4 || grants[1].Fence != 9 {
			t.Errorf("grants %+v", grants)
		}
	})
	t.Run("a wrong fence or owner ends nothing", func(t *testing.T) {
		before := steps(t, ada, bob)
		for _, ends := range []func(*Holder) bool{Of(ada, 2), Of(bob, 1), Of(Owner{Name: "ada"}, 1)} {
			if l, ended := before.End(ends); l != before || ended != nil {
				t.Errorf("ended %+v", ended)
			}
		}
	})
}

func TestLock_Modes(t *testing.T) {
	shared := func(o Owner) Waiter { return Waiter{Owner: o, Shared: true} }
	t.Run("sharers share until one wants it alone", func(t *testing.T) {
		l, _ := (*Lock)(nil).Acquire(shared(ada), true, at(1))
		l, a := l.Acquire(shared(bob), true, at(2))
		if a.Outcome != Granted {
			t.Fatalf("got %+v", a)
		}
		l, _ = l.Acquire(Waiter{Owner: eve}, true, at(3))
		l, a = l.Acquire(shared(Owner{Peer: "dan"}), true, at(4))
		if a.Outcome != Queued {
			t.Errorf("overtook: %+v", a)
		}
		l, _ = l.End(func(h *Holder) bool { return true })
		l, _, _ = l.HandOver(alive, at(5))
		expect(t, l, []string{"eve"}, []string{"dan"})
		if l.Shared {
			t.Error("still shared")
		}
	})
	t.Run("sharers in a row are granted together", func(t *testing.T) {
		l, _ := (*Lock)(nil).Acquire(Waiter{Owner: eve}, true, at(1))
		l, _ = l.Acquire(shared(ada), true, at(2))
		l, _ = l.Acquire(shared(bob), true, at(3))
		l, _ = l.End(Of(eve, 1))
		l, grants, _ := l.HandOver(alive, at(4))
		expect(t, l, []string{"ada", "bob"}, nil)
		if len(grants) != 2 {
			t.Errorf("grants %+v", grants)
		}
	})
	t.Run("no two grants have one fence, though they are given together", func(t *testing.T) {
		l, _ := (*Lock)(nil).Acquire(Waiter{Owner: eve}, true, at(1))
		l, _ = l.Acquire(shared(ada), true, at(2))
		l, _ = l.Acquire(shared(bob), true, at(3))
		l, _ = l.End(Of(eve, 1))
		l, grants, _ := l.HandOver(alive, at(9))
		if len(grants) != 2 || grants[0].Fence != 9 || grants[1].Fence != 10 {
			t.Fatalf("grants %+v", grants)
		}
		if !l.Guards(ada, 9) || l.Guards(ada, 10) || !l.Guards(bob, 10) || l.Newest().Owner != bob {
			t.Errorf("holders %+v", l.Holders)
		}
	})
	t.Run("who asks for another number of permits waits until it is free", func(t *testing.T) {
		l, _ := (*Lock)(nil).Acquire(Waiter{Owner: ada, Permits: 3}, true, at(1))
		l, a := l.Acquire(Waiter{Owner: bob, Permits: 2}, true, at(2))
		if a.Outcome != Queued {
			t.Fatalf("got %+v", a)
		}
		l, a = l.Acquire(Waiter{Owner: eve, Permits: 3}, true, at(3))
		if a.Outcome != Queued {
			t.Fatalf("overtook: %+v", a)
		}
		l, _ = l.End(Of(ada, 1))
		l, _, _ = l.HandOver(alive, at(4))
		expect(t, l, []string{"bob"}, []string{"eve"})
		if l.Permits != 2 {
			t.Errorf("%d permits", l.Permits)
		}
		if _, a = l.Acquire(Waiter{Owner: bob, Permits: 5}, true, at(5)); a.Outcome != Refused {
			t.Errorf("who holds one of 2 permits asks for one of 5: %+v", a)
		}
	})
	t.Run("a semaphore has its permits", func(t *testing.T) {
		var l *Lock
		var a Answer
		for i, o := range []Owner{ada, bob, eve} {
			l, a = l.Acquire(Waiter{Owner: o, Permits: 2}, true, at(uint64(i+1)))
		}
		if a.Outcome != Queued {
			t.Errorf("got %+v", a)
		}
		expect(t, l, []string{"ada", "bob"}, []string{"eve"})
	})
	t.Run("a sharer cannot wait for itself", func(t *testing.T) {
		l, _ := (*Lock)(nil).Acquire(shared(ada), true, at(1))
		if _, a := l.Acquire(Waiter{Owner: ada}, true, at(2)); a.Outcome != Refused {
			t.Errorf("got %+v", a)
		}
	})
}

func TestLock_Delay(t *testing.T) {
	// held is ada's lock from 1 s on, with bob in line.
	held := func(w Waiter) *Lock {
		w.Owner = ada
		l, _ := (*Lock)(nil).Acquire(w, false, at(1))
		l, _ = l.Acquire(Waiter{Owner: bob, TTL: 5000}, true, at(2))
		return l
	}
	t.Run("after an expiry nobody is granted until it is over", func(t *testing.T) {
		l, ended := held(Waiter{TTL: 5000, Delay: 3000}).Expire(Of(ada, 1), at(6))
		if len(ended) != 1 || l.NotBefore != 9000 {
			t.Fatalf("ended %+v: %+v", ended, l)
		}
		l, grants, _ := l.HandOver(alive, at(6))
		expect(t, l, nil, []string{"bob"})
		if len(grants) != 0 || l.Held() {
			t.Fatalf("granted %+v in the delay", grants)
		}
		if _, a := l.Acquire(Waiter{Owner: ada}, false, at(7)); a.Outcome != Refused {
			t.Errorf("who lost it got it in the delay: %+v", a)
		}
		if l, grants, _ = l.HandOver(alive, Moment{Rev: 8, Now: 8999}); len(grants) != 0 {
			t.Errorf("granted a millisecond early: %+v", grants)
		}
		l, grants, _ = l.HandOver(alive, Moment{Rev: 9, Now: 9000})
		if expect(t, l, []string{"bob"}, nil); len(grants) != 1 || l.NotBefore != 0 {
			t.Errorf("granted %+v: %+v", grants, l)
		}
	})
	t.Run("a release has none", func(t *testing.T) {
		l, _ := held(Waiter{TTL: 5000, Delay: 3000}).End(Of(ada, 1))
		l, _, _ = l.HandOver(alive, at(6))
		expect(t, l, []string{"bob"}, nil)
	})
	t.Run("a lock that nobody wants is kept for its delay", func(t *testing.T) {
		l, _ := (*Lock)(nil).Acquire(Waiter{Owner: ada, TTL: 5000, Delay: 3000}, false, at(1))
		l, _ = l.Expire(Of(ada, 1), at(6))
		if l, _, _ = l.HandOver(alive, at(6)); l == nil || l.Held() || !l.Delayed(6000) {
			t.Fatalf("got %+v", l)
		}
		if l, _, _ = l.HandOver(alive, at(9)); l != nil {
			t.Errorf("got %+v after the delay", l)
		}
	})
	t.Run("it is lifted", func(t *testing.T) {
		l, _ := held(Waiter{TTL: 5000, Delay: 3000}).Expire(Of(ada, 1), at(6))
		l, _, _ = l.Lift().HandOver(alive, at(6))
		expect(t, l, []string{"bob"}, nil)
		if l, _ = (&Lock{NotBefore: 9}).Lift().End(func(*Holder) bool { return true }); l != nil {
			t.Errorf("left over: %+v", l)
		}
	})
	t.Run("who shares the lock keeps it, and new ones wait", func(t *testing.T) {
		l, _ := (*Lock)(nil).Acquire(Waiter{Owner: ada, TTL: 5000, Shared: true, Delay: 3000}, false, at(1))
		l, _ = l.Acquire(Waiter{Owner: bob, TTL: 9000, Shared: true}, false, at(2))
		l, _ = l.Expire(Of(ada, 1), at(6))
		l, a := l.Acquire(Waiter{Owner: eve, Shared: true}, true, at(7))
		if a.Outcome != Queued {
			t.Errorf("a new sharer in the delay: %+v", a)
		}
		if l, a = l.Acquire(Waiter{Owner: bob, TTL: 9000, Shared: true}, false, at(8)); a.Outcome != Held || l.Holders[0].Expires != 17_000 {
			t.Errorf("who shares it renews: %+v", a)
		}
		l, _, _ = l.HandOver(alive, at(9))
		expect(t, l, []string{"bob", "eve"}, nil)
	})
	t.Run("of several the longest counts", func(t *testing.T) {
		l, _ := (*Lock)(nil).Acquire(Waiter{Owner: ada, Permits: 2, Delay: 3000}, false, at(1))
		l, _ = l.Acquire(Waiter{Owner: bob, Permits: 2, Delay: 1000}, false, at(2))
		l, _ = l.Expire(Of(ada, 1), at(3))
		if l, _ = l.Expire(Of(bob, 2), at(4)); l.NotBefore != 6000 {
			t.Errorf("not before %d", l.NotBefore)
		}
	})
}

func TestLock_nil(t *testing.T) {
	var l *Lock
	if next, ended := l.Expire(Of(ada, 1), at(1)); next != nil || ended != nil || l.Lift() != nil || l.Newest() != nil || l.Delayed(0) {
		t.Error("the nil lock expired")
	}
	if l.Held() || l.Holder(ada) != nil || l.Guards(ada, 0) || l.Position(1) != 0 || l.Waiting() != 0 || l.Waits(ada) {
		t.Error("the nil lock is somebody's")
	}
	if next, grants, dropped := l.HandOver(alive, at(1)); next != nil || grants != nil || dropped != nil {
		t.Error("the nil lock was handed over")
	}
	if next, ended := l.End(Of(ada, 1)); next != nil || ended != nil {
		t.Error("the nil lock ended")
	}
	if next, dropped := l.Drop(func(*Waiter) bool { return true }); next != nil || dropped != nil {
		t.Error("the nil lock had waiters")
	}
}
