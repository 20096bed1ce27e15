package fsm

import (
	"conclave/lock"
)

// moment is when the change happens, for the rules of a lock: its revision is the
// fence of what it grants first. More grants of that lock by the same change have
// the revisions after it.
func (c *change) moment(store, key string) lock.Moment {
	return lock.Moment{Rev: max(c.rev, c.fences[place(store, key)]), Now: c.s.now, Wall: c.wall}
}

// fenced notes that a fence was given out.
func (c *change) fenced(store, key string, fence uint64) {
	if c.fences == nil {
		c.fences = make(map[string]uint64, 1)
	}
	c.fences[place(store, key)] = fence + 1
	c.last = max(c.last, fence)
}

// forgetFences is for a change that begins, or has granted nothing after all. The
// map is kept for the next: most grant one lock, or none.
func (c *change) forgetFences() {
	if c.last != 0 {
		clear(c.fences)
		c.last = 0
	}
}

// opAcquire is an acquire within a transaction: it does not wait.
func (c *change) opAcquire(op *Operation, r *OpResult) *Refusal {
	a, no := c.acquire(op.Store, op.Key, op.Lock, lock.Waiter{}, 0)
	if no != nil {
		return no
	}
	c.acquired = append(c.acquired, place(op.Store, op.Key))
	r.Fence = a.Fence
	return nil
}

// acquireOrWait is an acquire of its own, which may queue.
func (c *change) acquireOrWait(cmd *Command, r *Result) *Refusal {
	a := cmd.Acquire
	answer, no := c.acquire(a.Store, a.Key, &a.Lock, lock.Waiter{
		Client: cmd.Client, Request: cmd.Request, Node: a.Node, Incarnation: a.Incarnation, Name: a.Waiter,
		User: cmd.Caller.User, Idem: cmd.Idem,
	}, a.Wait)
	if no != nil {
		return no
	}
	r.Fence, r.Waiting, r.Waiter = answer.Fence, answer.Position, answer.Waiter
	return nil
}

// acquire asks for a lock; w has what identifies the request.
func (c *change) acquire(store, key string, req *LockRequest, w lock.Waiter, wait int64) (lock.Answer, *Refusal) {
	w.Owner = c.caller.LockOwner()
	switch {
	case w.Owner == lock.Owner{}:
		return lock.Answer{}, badRequest("owner", "a lock needs an owner")
	case req.TTL == 0 && w.Owner.Peer == "":
		return lock.Answer{}, badRequest("ttl_ms", "a lock without a TTL lasts as long as its peer: the owner is none")
	}
	w.TTL, w.OnDetach, w.Data, w.Shared, w.Permits, w.Delay = req.TTL, req.OnDetach, req.Data, req.Shared, req.Permits, req.Delay
	w.Until = c.s.now + wait
	old := c.ses.Lock(store, key)
	// A value: nothing has changed until setLock.
	l, a := old.Acquire(w, wait > 0, c.moment(store, key))
	switch a.Outcome {
	case lock.Refused:
		return a, c.lockedFor(store, key, l, w.Owner)
	case lock.Granted, lock.Queued:
		if n := c.ses.locks.len() + 1; old == nil && n > c.ses.Limits.Locks {
			return a, overLimit("locks", c.ses.Limits.Locks, n)
		}
		if n := l.Waiting(); a.Outcome == lock.Queued && n > c.ses.Limits.LockWaiters {
			return a, overLimit("lock_waiters", c.ses.Limits.LockWaiters, n)
		}
		// Of those who share a lock there are as many as may wait for it: a line that
		// moves up all at once never makes more than twice that.
		if n := len(l.Holders); a.Outcome == lock.Granted && n > 1 && n > c.ses.Limits.LockWaiters {
			return a, overLimit("lock_holders", c.ses.Limits.LockWaiters, n)
		}
	}
	c.setLock(store, key, l)
	switch a.Outcome {
	case lock.Granted:
		c.fenced(store, key, a.Fence)
		c.tie(w.Owner, store, key)
		c.emit(&Event{Type: EventLock, State: "acquired", Store: store, Key: key, Owner: w.Owner, Fence: a.Fence, Waiting: l.Waiting()})
		c.leaseDeadline(store, key, l.Holder(w.Owner))
	case lock.Held:
		c.leaseDeadline(store, key, l.Holder(w.Owner))
	case lock.Queued:
		c.changed = true // the place in line is named by this revision
		c.tie(w.Owner, store, key)
		c.deadline(waitDeadline(store, key, &l.Queue[len(l.Queue)-1]))
	}
	return a, nil
}

// opRelease gives a lock back, or with Break takes it from whoever holds it, and
// ends its delay.
func (c *change) opRelease(op *Operation) *Refusal {
	l := c.ses.Lock(op.Store, op.Key)
	ends, state := lock.Of(c.caller.LockOwner(), op.Fence), "released"
	if op.Break {
		ends, state = func(h *lock.Holder) bool { return op.Fence == 0 || h.Fence == op.Fence }, "broken"
	}
	ended := c.endHolds(op.Store, op.Key, ends, state, false)
	if op.Break && op.Fence == 0 && c.lift(op.Store, op.Key) {
		ended = true
	}
	if !ended {
		return &Refusal{
			Code: CodeNotHolder, Message: "the lock is not held so",
			Details: Details{Store: op.Store, Key: op.Key, Fence: c.current(l)},
		}
	}
	return nil
}

// lift ends a lock's delay before its time, and reports whether there was one.
func (c *change) lift(store, key string) bool {
	l := c.ses.Lock(store, key)
	if !l.Delayed(c.s.now) {
		return false
	}
	c.changed = true
	c.moveUp(store, key, l.Lift(), func(int) {})
	return true
}

// endHolds ends grants of a lock and lets the line move up: at once, or, if they
// lapsed without anybody's doing, after the delay that they asked for. It returns
// false, and changes nothing, if ends is true for none.
func (c *change) endHolds(store, key string, ends func(*lock.Holder) bool, state string, lapsed bool) bool {
	l := c.ses.Lock(store, key)
	var ended []lock.Holder
	if lapsed {
		l, ended = l.Expire(ends, c.moment(store, key))
	} else {
		l, ended = l.End(ends)
	}
	if len(ended) == 0 {
		return false
	}
	if l.Delayed(c.s.now) {
		c.deadline(delayDeadline(store, key, l))
	}
	c.moveUp(store, key, l, func(waiting int) {
		for _, h := range ended {
			c.untie(h.Owner, store, key)
			c.emit(&Event{Type: EventLock, State: state, Store: store, Key: key, Owner: h.Owner, Fence: h.Fence, Waiting: waiting})
		}
	})
	return true
}

// endWaits takes waiters out of line, tells why, and lets the line move up. It
// returns false, and changes nothing, if ends is true for none.
func (c *change) endWaits(store, key string, ends func(*lock.Waiter) bool, reason string) bool {
	l, dropped := c.ses.Lock(store, key).Drop(ends)
	if len(dropped) == 0 {
		return false
	}
	c.changed = true
	c.moveUp(store, key, l, func(int) { c.dropped(store, key, dropped, reason) })
	return true
}

// moveUp stores a lock that lost holders or waiters after granting it to the
// next in line. told emits what led to this; it is called with the lock stored,
// before the grants are told.
func (c *change) moveUp(store, key string, l *lock.Lock, told func(waiting int)) {
	next, grants, skipped := l.HandOver(c.live, c.moment(store, key))
	c.setLock(store, key, next)
	c.changed = c.changed || len(skipped) > 0
	told(next.Waiting())
	c.dropped(store, key, skipped, "gone")
	for i := range grants {
		w := &grants[i].Waiter
		// All waits of an owner end with its one grant, and stand together.
		if i == 0 || grants[i-1].Waiter.Owner != w.Owner {
			c.emit(&Event{Type: EventLock, State: "acquired", Store: store, Key: key, Owner: w.Owner, Fence: grants[i].Fence, Waiting: next.Waiting()})
			c.leaseDeadline(store, key, next.Holder(w.Owner))
			c.fenced(store, key, grants[i].Fence)
		}
		c.waitOver(store, key, w, Result{
			Rev: c.rev, Session: c.ses.ID, Fence: grants[i].Fence, Waiter: w.ID, Changed: true,
		})
	}
}

// live tells whether a waiter can be granted the lock: its peer is in the
// session, and the node that serves it, if it has no socket, has not restarted.
func (c *change) live(w *lock.Waiter) bool {
	if w.Owner.Peer != "" && c.ses.Peer(w.Owner.Peer) == nil {
		return false
	}
	if w.Node == "" {
		return true
	}
	n, _ := c.s.nodes.get(w.Node)
	return n != nil && n.Incarnation == w.Incarnation
}

// dropped tells of waits that ended without a grant.
func (c *change) dropped(store, key string, waiters []lock.Waiter, reason string) {
	for i := range waiters {
		w := &waiters[i]
		c.untie(w.Owner, store, key)
		c.waitOver(store, key, w, Result{Rev: c.rev, Session: c.ses.ID, Waiter: w.ID, Refusal: &Refusal{
			Code: CodeLockTimeout, Message: "the wait for the lock is over",
			Details: Details{Store: store, Key: key, Reason: reason},
		}})
	}
}

// waitOver tells whoever waits how the wait ended, and so does the memory of the
// request from now on.
func (c *change) waitOver(store, key string, w *lock.Waiter, r Result) {
	c.out.Grants = append(c.out.Grants, Grant{
		Room: c.room, Session: c.ses.ID, Store: store, Key: key,
		Waiter: w.ID, Rev: c.rev, Fence: r.Fence, Refusal: r.Refusal,
	})
	c.amend(w.User, w.Client, w.Request, w.Idem, r)
}

// endTies ends what ties a peer to locks: all of it when it leaves, what was
// asked to end on detach when its socket goes. A peer that nobody saw leave may
// not know, so its locks have their delay.
func (c *change) endTies(peer, reason string, onDetach bool) {
	lapsed := reason == "detached" || reason == "grace" || reason == "expired"
	var tied []string
	prefix := place(peer, "")
	c.ses.ties.scan(prefix, "", func(key string, _ struct{}) bool {
		tied = append(tied, key[len(prefix):])
		return true
	})
	owner := lock.Owner{Peer: peer}
	for _, at := range tied {
		store, key := splitPlace(at)
		// Waits first, or the peer would get the lock that it lets go.
		c.endWaits(store, key, func(w *lock.Waiter) bool { return w.Owner == owner && (w.OnDetach || !onDetach) }, reason)
		c.endHolds(store, key, func(h *lock.Holder) bool { return h.Owner == owner && (h.OnDetach || !onDetach) }, "released", lapsed)
	}
}

// setLock stores a lock; nil when there is none.
func (c *change) setLock(store, key string, l *lock.Lock) {
	locks := c.write().locks.write(c.s.gen)
	if l == nil {
		locks.Delete(place(store, key))
	} else {
		locks.Set(place(store, key), l)
	}
}

// tie notes that a peer holds or waits for a lock; untie takes the note away
// once it does neither.
func (c *change) tie(o lock.Owner, store, key string) {
	if o.Peer != "" {
		c.write().ties.write(c.s.gen).Set(place(o.Peer, place(store, key)), struct{}{})
	}
}

func (c *change) untie(o lock.Owner, store, key string) {
	if o.Peer == "" {
		return
	}
	l := c.ses.Lock(store, key)
	if l.Holder(o) != nil || l.Waits(o) {
		return
	}
	c.write().ties.write(c.s.gen).Delete(place(o.Peer, place(store, key)))
}

// cancel ends a wait of the caller's. If the lock was granted before, it answers
// the fence; else lock_timeout, and no grant can follow.
func (c *change) cancel(cmd *Command, r *Result) *Refusal {
	x, owner := cmd.Cancel, c.caller.LockOwner()
	mine := func(w *lock.Waiter) bool {
		if w.Owner != owner {
			return false
		}
		if x.Waiter != "" {
			return w.Name == x.Waiter
		}
		return w.Client == cmd.Client && w.Request == x.Request && w.Client != ""
	}
	store, key, ok := c.findWait(x, owner, mine)
	if ok {
		c.endWaits(store, key, mine, "cancelled")
	} else if fence := c.granted(cmd, owner); fence != 0 {
		r.Fence = fence
		return nil
	}
	return &Refusal{Code: CodeLockTimeout, Message: "the wait for the lock is over", Details: Details{
		Store: store, Key: key, Reason: "cancelled",
	}}
}

// findWait finds the lock of a wait: the one named, else among those that the
// peer is tied to.
func (c *change) findWait(x *Cancel, owner lock.Owner, mine func(*lock.Waiter) bool) (store, key string, ok bool) {
	if x.Key != "" {
		return x.Store, x.Key, waits(c.ses.Lock(x.Store, x.Key), mine)
	}
	prefix := place(owner.Peer, "")
	c.ses.ties.scan(prefix, "", func(tie string, _ struct{}) bool {
		store, key = splitPlace(tie[len(prefix):])
		ok = waits(c.ses.Lock(store, key), mine)
		return !ok
	})
	if !ok {
		return "", "", false
	}
	return store, key, true
}

// waits tells whether ends is true of anybody in line.
func waits(l *lock.Lock, mine func(*lock.Waiter) bool) bool {
	if l == nil {
		return false
	}
	for i := range l.Queue {
		if mine(&l.Queue[i]) {
			return true
		}
	}
	return false
}

// granted is the fence that the wait to be cancelled ended with, 0 if none: as
// remembered for a request of a client, else as the lock stands.
func (c *change) granted(cmd *Command, owner lock.Owner) uint64 {
	x := cmd.Cancel
	if cmd.Client != "" && x.Waiter == "" {
		m, _ := c.ses.memory.clients.get(c.request)
		if m == nil {
			return 0
		}
		if a := m.find(x.Request); a != nil && a.full != nil {
			return a.full.Fence
		}
		return 0
	}
	if h := c.ses.Lock(x.Store, x.Key).Holder(owner); h != nil {
		return h.Fence
	}
	return 0
}

// locked tells who has the lock: of several the first. The time left is added
// outside: renewals are not in the state.
func locked(store, key string, l *lock.Lock) *Refusal {
	no := &Refusal{Code: CodeLocked, Message: "the key is locked", Details: Details{Store: store, Key: key}}
	if l.Held() {
		no.Details.Owner, no.Details.Fence = l.Holders[0].Owner.String(), l.Holders[0].Fence
	}
	return no
}

// lockedFor refuses an acquire. To who holds the lock in another mode, and would
// wait for itself, it tells its own grant.
func (c *change) lockedFor(store, key string, l *lock.Lock, o lock.Owner) *Refusal {
	no := locked(store, key, l)
	switch h := l.Holder(o); {
	case h != nil:
		no.Message, no.Details.Reason = "the caller holds the lock in a mode that does not cover this one", "mode"
		no.Details.Owner, no.Details.Fence = h.Owner.String(), h.Fence
	case l.Delayed(c.s.now):
		no.Message, no.Details.Reason = "a lease on the lock has expired, and its delay is not over", "delay"
	}
	return no
}

// current is the fence to tell a caller who named another: that of its own grant,
// else of the newest; 0 when nobody holds the lock.
func (c *change) current(l *lock.Lock) uint64 {
	h := l.Holder(c.caller.LockOwner())
	if h == nil {
		h = l.Newest()
	}
	if h == nil {
		return 0
	}
	return h.Fence
}

// staleFence tells the current fence, which is no secret; 0 when nobody holds it.
func staleFence(store, key string, current uint64) *Refusal {
	return &Refusal{
		Code: CodeStaleFence, Message: "the fence is not the caller's current grant",
		Details: Details{Store: store, Key: key, Fence: current},
	}
}
