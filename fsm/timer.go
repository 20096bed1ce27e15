package fsm

import "conclave/lock"

// timer tells whether a control is one of the leader's timers: those are applied
// in an entry of their own term only.
func (k ControlKind) timer() bool { return k >= ControlLeaseEnd && k != ControlHash }

// control applies what the leader proposed. A timer is applied only if what it
// saw still stands and is due; of leases the state knows the earliest end only,
// the leader's memory has the renewals. One that comes too early is answered
// with the deadline that holds now.
func (c *change) control(ctl *Control) {
	c.begin(ctl.Room, Caller{Kind: CallerSystem})
	switch ctl.Kind {
	case ControlGenesis:
		if c.s.cluster == "" {
			c.s.cluster = ctl.Cluster
		}
		return
	case ControlReplica:
		if replicas := c.s.replicas.write(c.s.gen); ctl.Off {
			replicas.Delete(ctl.Node)
		} else {
			replicas.Set(ctl.Node, struct{}{})
		}
		return
	case ControlForget:
		c.s.nodes.write(c.s.gen).Delete(ctl.Node)
		c.s.replicas.write(c.s.gen).Delete(ctl.Node)
		return
	case ControlHash:
		c.out.Hashes = append(c.out.Hashes, HashRequest{Version: ctl.Seen, View: c.s.Publish()})
		return
	}
	if c.ses == nil || ctl.Session != "" && ctl.Session != c.ses.ID {
		return
	}
	c.timer(ctl)
	c.commit()
}

func (c *change) timer(ctl *Control) {
	switch ctl.Kind {
	case ControlLeaseEnd:
		c.leaseEnd(ctl)
	case ControlWaitEnd:
		c.waitEnd(ctl)
	case ControlEntryEnd:
		e := c.ses.Entry(ctl.Store, ctl.Key)
		switch {
		case e == nil || e.Rev != ctl.Seen || e.Expires == 0:
		case e.Expires > c.s.now:
			c.deadline(entryDeadline(ctl.Store, e))
		default:
			c.delete(ctl.Store, e, "expired")
		}
	case ControlPeerEnd:
		c.peerEnd(ctl)
	case ControlLingerEnd:
		switch s := c.ses; {
		case s.emptySince == 0 || s.emptySince != ctl.Seen:
		case s.emptyUntil > c.s.now:
			c.deadline(lingerDeadline(s))
		default:
			c.end("empty")
		}
	case ControlIdleEnd:
		c.idleEnd(ctl)
	case ControlNodeGone:
		c.nodeGone(ctl)
	case ControlDelayEnd:
		c.delayEnd(ctl)
	}
}

// leaseEnd ends a lease, unless an acquire by its holder, applied while the timer
// was under way, began it anew.
func (c *change) leaseEnd(ctl *Control) {
	ends := func(h *lock.Holder) bool { return h.Fence == ctl.Fence && h.TTL > 0 }
	if l := c.ses.Lock(ctl.Store, ctl.Key); l != nil {
		for i := range l.Holders {
			if h := &l.Holders[i]; ends(h) && h.Expires > c.s.now {
				c.leaseDeadline(ctl.Store, ctl.Key, h)
			}
		}
	}
	if c.endHolds(ctl.Store, ctl.Key, func(h *lock.Holder) bool { return ends(h) && h.Expires <= c.s.now }, "expired", true) {
		c.used()
	}
}

// delayEnd lets a line move up that a delay held back, or forgets a lock that
// nobody has wanted meanwhile.
func (c *change) delayEnd(ctl *Control) {
	l := c.ses.Lock(ctl.Store, ctl.Key)
	switch {
	case l == nil || l.NotBefore == 0:
	case l.Delayed(c.s.now):
		c.deadline(delayDeadline(ctl.Store, ctl.Key, l))
	default:
		c.moveUp(ctl.Store, ctl.Key, l, func(int) {})
		if c.changed {
			c.used()
		}
	}
}

func (c *change) waitEnd(ctl *Control) {
	l := c.ses.Lock(ctl.Store, ctl.Key)
	at := l.Position(ctl.Seen)
	if at == 0 {
		return
	}
	if w := &l.Queue[at-1]; w.Until > c.s.now {
		c.deadline(waitDeadline(ctl.Store, ctl.Key, w))
		return
	}
	c.endWaits(ctl.Store, ctl.Key, func(w *lock.Waiter) bool { return w.ID == ctl.Seen }, "timeout")
}

// peerEnd ends a peer whose grace is over, or whose TTL is.
func (c *change) peerEnd(ctl *Control) {
	p := c.ses.Peer(ctl.Peer)
	switch {
	case p == nil || p.Gen != ctl.Seen || p.Deadline == 0:
	case p.Deadline > c.s.now:
		c.deadline(peerDeadline(p))
	case p.TTL > 0:
		c.leave(p, "expired")
	default:
		c.leave(p, "grace")
	}
}

// idleEnd ends a session that was opened and never used. A lock that somebody
// holds, wants, or left in its delay is a use; so the timer comes again.
func (c *change) idleEnd(ctl *Control) {
	s := c.ses
	if s.joined || s.Idle == 0 {
		return
	}
	switch {
	case s.locks.len() > 0:
		d := idleDeadline(s)
		d.At = c.s.now + s.Idle
		c.deadline(d)
	case s.usedRev != ctl.Seen || s.idleUntil > c.s.now:
		c.deadline(idleDeadline(s))
	default:
		c.end("idle")
	}
}

// nodeGone detaches the peers that a dead node served, as far as they are still
// in the generation that was seen, and drops the waiters without a socket that
// it served.
func (c *change) nodeGone(ctl *Control) {
	type at struct{ store, key string }
	var waiting []at
	gone := func(w *lock.Waiter) bool {
		return w.Node == ctl.Node && w.Incarnation == ctl.Incarnation && w.Node != ""
	}
	c.ses.Locks(func(store, key string, l *lock.Lock) bool {
		if waits(l, gone) {
			waiting = append(waiting, at{store, key})
		}
		return true
	})
	for _, w := range waiting {
		c.endWaits(w.store, w.key, gone, "gone")
	}
	for _, seen := range ctl.Peers {
		if c.ses == nil {
			return // the last one took the session along
		}
		c.detachSocket(seen.Peer, seen.Gen)
	}
}

// The deadlines of all that ends by itself. Room and session are filled in where
// they are handed out; the term is the leader's.

func entryDeadline(store string, e *Entry) Deadline {
	return Deadline{At: e.Expires, Timer: Control{Kind: ControlEntryEnd, Store: store, Key: e.Key, Seen: e.Rev}}
}

func peerDeadline(p *Peer) Deadline {
	return Deadline{
		At: p.Deadline, Timer: Control{Kind: ControlPeerEnd, Peer: p.ID, Seen: p.Gen}, Lease: p.TTL > 0, TTL: p.TTL,
	}
}

func lingerDeadline(s *Session) Deadline {
	return Deadline{At: s.emptyUntil, Timer: Control{Kind: ControlLingerEnd, Seen: s.emptySince}}
}

func idleDeadline(s *Session) Deadline {
	return Deadline{At: s.idleUntil, Timer: Control{Kind: ControlIdleEnd, Seen: s.usedRev}}
}

func waitDeadline(store, key string, w *lock.Waiter) Deadline {
	return Deadline{At: w.Until, Timer: Control{Kind: ControlWaitEnd, Store: store, Key: key, Seen: w.ID}}
}

func delayDeadline(store, key string, l *lock.Lock) Deadline {
	return Deadline{At: l.NotBefore, Timer: Control{Kind: ControlDelayEnd, Store: store, Key: key}}
}

func leaseDeadline(store, key string, h *lock.Holder) Deadline {
	return Deadline{
		At: h.Expires, Timer: Control{Kind: ControlLeaseEnd, Store: store, Key: key, Fence: h.Fence}, Lease: true, TTL: h.TTL,
	}
}

// leaseDeadline hands out the end of a lease. A hold without a TTL has none: it
// ends with its peer.
func (c *change) leaseDeadline(store, key string, h *lock.Holder) {
	if h.TTL > 0 {
		c.deadline(leaseDeadline(store, key, h))
	}
}
