package lock

import "slices"

// End takes the lock from the holders for which ends is true, and returns the
// lock without them (the same if there are none) and their grants. The line
// does not move: call HandOver next.
func (l *Lock) End(ends func(*Holder) bool) (*Lock, []Holder) {
	next, ended := l.without(ends)
	return next.settled(), ended
}

// Expire is End for leases that nobody gave back: the lock is then granted to
// nobody for as long as the longest delay that they asked for, counted from now.
func (l *Lock) Expire(ends func(*Holder) bool, t Moment) (*Lock, []Holder) {
	next, ended := l.without(ends)
	for i := range ended {
		if d := ended[i].Delay; d > 0 {
			next.NotBefore = max(next.NotBefore, t.Now+d)
		}
	}
	return next.settled(), ended
}

// without is the lock without some of its holders: a copy, or l if there are none.
func (l *Lock) without(ends func(*Holder) bool) (*Lock, []Holder) {
	if l == nil {
		return nil, nil
	}
	kept, ended := split(l.Holders, ends)
	if len(ended) == 0 {
		return l, nil
	}
	next := *l
	next.Holders = kept
	return &next, ended
}

// Lift ends a delay before its time. Call HandOver next.
func (l *Lock) Lift() *Lock {
	if l == nil || l.NotBefore == 0 {
		return l
	}
	next := *l
	next.NotBefore = 0
	return next.settled()
}

// Of is for End: the grant of this owner with this fence.
func Of(o Owner, fence uint64) func(*Holder) bool {
	return func(h *Holder) bool { return h.Owner == o && h.Fence == fence }
}

// Drop takes waiters out of the line and returns the lock without them (the same
// if there are none) and their places. Call HandOver next: who left may have
// kept others waiting.
func (l *Lock) Drop(drops func(*Waiter) bool) (*Lock, []Waiter) {
	if l == nil {
		return nil, nil
	}
	kept, dropped := split(l.Queue, drops)
	if len(dropped) == 0 {
		return l, nil
	}
	next := *l
	next.Queue = kept
	return next.settled(), dropped
}

// Grant is the end of a wait: Waiter has the lock.
type Grant struct {
	Waiter Waiter
	Fence  uint64
}

// HandOver lets the line move up: it grants the lock in the order of the queue
// for as long as the head is admitted beside the holders, which nobody is in a
// delay. A delay whose time has come is over. A head that is not
// live (its peer or its node is gone) loses its place, even while the lock is
// held: it might keep back who could share. Those behind it are not looked at
// before their turn. An owner that gets the lock has all
// its places answered with that fence that ask for no more. The lock comes back nil when nobody holds
// or wants it.
func (l *Lock) HandOver(live func(*Waiter) bool, t Moment) (next *Lock, grants []Grant, dropped []Waiter) {
	next = l
	if next != nil && !next.Delayed(t.Now) {
		next = next.Lift()
	}
	next = next.settled()
	for next != nil && len(next.Queue) > 0 {
		head := &next.Queue[0]
		if !live(head) {
			dropped = append(dropped, *head)
			next = next.behind()
			continue
		}
		if !next.admits(head, t) {
			return next, grants, dropped
		}
		owner := head.Owner
		next = next.grant(head, t)
		var answered []Waiter
		next.Queue, answered = split(next.Queue, func(w *Waiter) bool {
			return w.Owner == owner && (next.exclusive() || next.sameMode(w))
		})
		for _, w := range answered {
			grants = append(grants, Grant{Waiter: w, Fence: t.Rev})
		}
		t.Rev++
	}
	return next.settled(), grants, dropped
}

// behind is the lock without the head of its queue.
func (l *Lock) behind() *Lock {
	next := *l
	next.Queue = l.Queue[1:]
	return &next
}

// settled is l, or nil when nobody holds or wants it and there is no delay.
func (l *Lock) settled() *Lock {
	if l == nil || len(l.Holders) == 0 && len(l.Queue) == 0 && l.NotBefore == 0 {
		return nil
	}
	return l
}

// split parts a slice without touching it; what is kept is the same slice when
// nothing is taken.
func split[T any](all []T, takes func(*T) bool) (kept, taken []T) {
	for i := range all {
		if takes(&all[i]) {
			if len(taken) == 0 {
				kept = slices.Clone(all[:i])
			}
			taken = append(taken, all[i])
		} else if len(taken) > 0 {
			kept = append(kept, all[i])
		}
	}
	if len(taken) == 0 {
		return all, nil
	}
	return kept, taken
}
