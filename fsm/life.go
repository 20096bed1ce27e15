package fsm

import "conclave/lock"

// open starts a session. It has no idle timeout if a join starts it: then the
// linger rule ends it.
func (c *change) open(o *Open, byJoin bool) {
	s := &Session{
		Room: c.room, ID: sessionID(c.rev), StartedAt: c.wall, StartedRev: c.rev,
		Profile: o.Profile, Limits: o.Limits, Grace: o.Grace, Linger: o.Linger, Idle: o.Idle,
		contents: contents{gen: c.s.gen},
	}
	if byJoin {
		s.Idle = 0
	}
	c.s.rooms.write(c.s.gen).Set(c.room, s)
	c.ses, c.floor = s, c.rev-1
	c.emit(&Event{Type: EventSession, State: "started", Session: s.ID})
	if s.Idle > 0 {
		c.used()
		c.deadline(idleDeadline(s))
	}
}

// seed puts what a session begins with. What is refused is told by its place: in
// which order they were put is nobody's business.
func (c *change) seed(t *Txn, r *Result) *Refusal {
	no := c.txn(t, r)
	if no != nil && no.Details.Index != nil {
		at := &t.Then[*no.Details.Index]
		no.Details.Index, no.Details.Store, no.Details.Key = nil, at.Store, at.Key
	}
	return no
}

// used puts the idle timeout off. The timer that is under way finds out when it
// fires, and is set again then: a write costs no new one.
func (c *change) used() {
	if s := c.ses; s != nil && !s.joined && s.Idle > 0 {
		s = c.write()
		s.usedRev, s.idleUntil = c.rev, c.s.now+s.Idle
	}
}

// end ends the session: everything of it is gone, and who waits is told.
func (c *change) end(reason string) {
	ses := c.ses
	ses.Locks(func(store, key string, l *lock.Lock) bool {
		for i := range l.Queue {
			c.out.Grants = append(c.out.Grants, Grant{
				Room: c.room, Session: ses.ID, Store: store, Key: key,
				Waiter: l.Queue[i].ID, Rev: c.rev, Refusal: sessionEnded(),
			})
		}
		return true
	})
	c.s.rooms.write(c.s.gen).Delete(c.room)
	c.ses, c.ended = nil, ses
	c.emit(&Event{Type: EventSession, State: "ended", Session: ses.ID, Reason: reason})
}

// empty starts the linger of a session that its last peer has left, or ends it.
func (c *change) empty() {
	s := c.write()
	if s.Linger == 0 {
		c.end("empty")
		return
	}
	s.emptySince, s.emptyUntil = c.rev, c.s.now+s.Linger
	c.deadline(lingerDeadline(s))
}
