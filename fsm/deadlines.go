package fsm

import "conclave/lock"

// Deadlines calls f for every pending deadline of the state, in no particular
// order but the same on all replicas. A new leader starts its timers from it.
// Its cost is that of sessions, peers, locks and entries with a TTL; other
// entries are not looked at.
func (v *View) Deadlines(f func(Deadline)) {
	v.Rooms("", "", func(s *Session) bool {
		s.deadlines(func(d Deadline) {
			d.Timer.Room, d.Timer.Session = s.Room, s.ID
			f(d)
		})
		return true
	})
}

func (s *Session) deadlines(f func(Deadline)) {
	if s.emptySince != 0 {
		f(lingerDeadline(s))
	}
	if !s.joined && s.Idle > 0 {
		f(idleDeadline(s))
	}
	s.Peers(func(p *Peer) bool {
		if p.Deadline != 0 {
			f(peerDeadline(p))
		}
		return true
	})
	s.timed.scan("", "", func(at string, _ struct{}) bool {
		store, key := splitPlace(at)
		f(entryDeadline(store, s.Entry(store, key)))
		return true
	})
	s.Locks(func(store, key string, l *lock.Lock) bool {
		for i := range l.Holders {
			if l.Holders[i].TTL > 0 {
				f(leaseDeadline(store, key, &l.Holders[i]))
			}
		}
		for i := range l.Queue {
			f(waitDeadline(store, key, &l.Queue[i]))
		}
		if l.NotBefore != 0 {
			f(delayDeadline(store, key, l))
		}
		return true
	})
}

// NodeUse calls f for every room in which a node and incarnation for which gone
// returns true has attached peers or waiters without a socket, with the timer
// (ControlNodeGone) that ends that; Term is left to the caller.
func (v *View) NodeUse(gone func(node string, incarnation uint64) bool, f func(Control)) {
	v.Rooms("", "", func(s *Session) bool {
		for _, ctl := range s.nodeUse(gone) {
			f(ctl)
		}
		return true
	})
}

// nodeUse gathers a session's peers by the node that serves them. A session has
// few nodes, so a list does.
func (s *Session) nodeUse(gone func(node string, incarnation uint64) bool) (uses []Control) {
	use := func(node string, incarnation uint64) *Control {
		if node == "" || !gone(node, incarnation) {
			return nil
		}
		for i := range uses {
			if uses[i].Node == node && uses[i].Incarnation == incarnation {
				return &uses[i]
			}
		}
		uses = append(uses, Control{
			Kind: ControlNodeGone, Room: s.Room, Session: s.ID, Node: node, Incarnation: incarnation,
		})
		return &uses[len(uses)-1]
	}
	s.Peers(func(p *Peer) bool {
		if p.Attached {
			if ctl := use(p.Node, p.Incarnation); ctl != nil {
				ctl.Peers = append(ctl.Peers, PeerGen{p.ID, p.Gen})
			}
		}
		return true
	})
	s.Locks(func(_, _ string, l *lock.Lock) bool {
		for i := range l.Queue {
			use(l.Queue[i].Node, l.Queue[i].Incarnation)
		}
		return true
	})
	return uses
}

// Lease finds the deadline of a lock's holder (by fence and owner) as it stands
// in the state; ok is false if it does not hold the lock. A hold without a TTL
// has neither At nor TTL: it lasts while its peer does. Without a fence it is the
// delay of the lock, which is no Lease. Peer leases likewise by peer id (owner and
// key zero); a peer with a socket lasts while that does.
func (v *View) Lease(r LeaseRef) (d Deadline, ok bool) {
	s := v.Session(r.Room)
	if s == nil || r.Session != "" && r.Session != s.ID {
		return Deadline{}, false
	}
	l := s.Lock(r.Store, r.Key)
	switch {
	case r.Key == "":
		p := s.Peer(r.Peer)
		if p == nil || !p.Attached {
			return Deadline{}, false
		}
		d = peerDeadline(p)
	case r.Fence == 0:
		if l == nil || l.NotBefore == 0 {
			return Deadline{}, false
		}
		d = delayDeadline(r.Store, r.Key, l)
	case !l.Guards(r.Owner, r.Fence):
		return Deadline{}, false
	default:
		d = leaseDeadline(r.Store, r.Key, l.Holder(r.Owner))
	}
	d.Timer.Room, d.Timer.Session = s.Room, s.ID
	return d, true
}

// Pending is the deadline, as the state has it now, of what a timer names: a
// lease by its fence, a wait by its number, all else by its place. So a timer
// that saw an older generation finds the present one. ok is false when the
// thing is gone or does not end by itself.
func (v *View) Pending(timer Control) (d Deadline, ok bool) {
	s := v.Session(timer.Room)
	if s == nil || timer.Session != "" && timer.Session != s.ID {
		return Deadline{}, false
	}
	d, ok = s.pending(&timer)
	d.Timer.Room, d.Timer.Session = s.Room, s.ID
	return d, ok
}

func (s *Session) pending(timer *Control) (Deadline, bool) {
	switch timer.Kind {
	case ControlLeaseEnd:
		l := s.Lock(timer.Store, timer.Key)
		if l == nil {
			break
		}
		for i := range l.Holders {
			if h := &l.Holders[i]; h.Fence == timer.Fence && h.TTL > 0 {
				return leaseDeadline(timer.Store, timer.Key, h), true
			}
		}
	case ControlWaitEnd:
		l := s.Lock(timer.Store, timer.Key)
		if at := l.Position(timer.Seen); at > 0 {
			return waitDeadline(timer.Store, timer.Key, &l.Queue[at-1]), true
		}
	case ControlDelayEnd:
		if l := s.Lock(timer.Store, timer.Key); l != nil && l.NotBefore != 0 {
			return delayDeadline(timer.Store, timer.Key, l), true
		}
	case ControlEntryEnd:
		if e := s.Entry(timer.Store, timer.Key); e != nil && e.Expires != 0 {
			return entryDeadline(timer.Store, e), true
		}
	case ControlPeerEnd:
		if p := s.Peer(timer.Peer); p != nil && p.Deadline != 0 {
			return peerDeadline(p), true
		}
	case ControlLingerEnd:
		return lingerDeadline(s), s.emptySince != 0
	case ControlIdleEnd:
		return idleDeadline(s), !s.joined && s.Idle > 0
	}
	return Deadline{}, false
}
