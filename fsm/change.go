package fsm

// change is one command or control while it is applied: what it runs on, and
// what it has brought so far. It is used again for the next.
type change struct {
	s    *State
	out  *Outcome
	wall int64

	rev    uint64   // the revision that it takes if it changes something
	room   string   // all that it touches is in one room
	ses    *Session // live; nil if there is none. Read only, see write
	ended  *Session // what ses was, once the change has ended it
	caller Caller
	by     By

	changed  bool // something visible changed: it takes its revision
	events   []*Event
	floor    uint64            // the session's LastEventRev before
	acquired []string          // places of the locks that this transaction acquired
	fences   map[string]uint64 // the next fence of each lock that was granted
	last     uint64            // the greatest fence given out, 0 if none
	rejoins  string            // the peer that a repeated join made
	work     work              // what computing values may still cost this transaction
	request  string            // under which the answer is remembered: memoryKey, made once
}

// begin makes c ready for a command or control in a room.
func (c *change) begin(room string, caller Caller) {
	c.rev, c.room, c.caller = c.s.rev+1, room, caller
	c.ended, c.changed, c.rejoins = nil, false, ""
	c.events, c.acquired = c.events[:0], c.acquired[:0]
	c.forgetFences()
	c.ses, _ = c.s.rooms.get(room)
	if c.ses != nil {
		c.floor = c.ses.LastEventRev
	}
	c.by = author(c.ses, caller)
}

// author is a caller as others see it; the session, if there is one, knows the ref
// of a peer.
func author(s *Session, caller Caller) By {
	by := By{Kind: caller.Kind, User: caller.User}
	if caller.Kind == CallerPeer {
		by.Peer = caller.Peer
		if s != nil {
			if p := s.Peer(caller.Peer); p != nil {
				by.Ref = p.Ref
			}
		}
	}
	return by
}

// write is the session for writing: cloned first if others may see it.
func (c *change) write() *Session {
	if c.ses.gen != c.s.gen {
		clone := *c.ses
		clone.gen = c.s.gen
		c.ses = &clone
		c.s.rooms.write(c.s.gen).Set(c.room, c.ses)
	}
	return c.ses
}

// emit adds an event of this change.
func (c *change) emit(e *Event) {
	e.Rev, e.At, e.By = c.rev, c.wall, c.by
	c.events = append(c.events, e)
	c.changed = true
}

// deadline tells the leader of an end to come. Leaving one out would leave the
// thing there until the next leader lists them all.
func (c *change) deadline(d Deadline) {
	d.Timer.Room = c.room
	d.Timer.Session = c.ses.ID
	c.out.Deadlines = append(c.out.Deadlines, d)
}

// mark is a point to which rollback takes a change back. It begins a generation:
// the session as it is now will be cloned before it is written, so that putting
// its pointer back undoes everything below it.
type mark struct {
	ses               *Session
	events            int
	grants, deadlines int
}

func (c *change) mark() mark {
	c.s.gen++
	return mark{c.ses, len(c.events), len(c.out.Grants), len(c.out.Deadlines)}
}

// rollback is for what only this change's session, events, grants and deadlines
// hold; endings and nodes are written after a command has succeeded.
func (c *change) rollback(m mark) {
	rooms := c.s.rooms.write(c.s.gen)
	if m.ses == nil {
		rooms.Delete(c.room)
	} else {
		rooms.Set(c.room, m.ses)
	}
	c.ses, c.changed = m.ses, false
	c.forgetFences()
	c.events = c.events[:m.events]
	c.out.Grants, c.out.Deadlines = c.out.Grants[:m.grants], c.out.Deadlines[:m.deadlines]
}

// commit gives the change its revision, and the room its frame. Revisions that it
// took for fences are skipped: nothing else ever has them.
func (c *change) commit() {
	if !c.changed {
		return
	}
	c.s.rev = max(c.rev, c.last)
	if len(c.events) == 0 {
		return
	}
	ses := c.ended
	if ses == nil {
		ses = c.write()
		ses.LastEventRev = c.rev
	}
	c.out.Frames = append(c.out.Frames, RoomFrame{
		Room: c.room, Session: ses.ID, Floor: c.floor, Frame: newFrame(c.rev, c.events), Ended: c.ended != nil,
	})
}

// newFrame makes a frame; the usual one, of one event, in one allocation.
func newFrame(rev uint64, events []*Event) *Frame {
	if len(events) == 1 {
		one := &struct {
			Frame
			list [1]*Event
		}{list: [1]*Event{events[0]}}
		one.Rev, one.Events = rev, one.list[:]
		return &one.Frame
	}
	return &Frame{Rev: rev, Events: append([]*Event(nil), events...)}
}
