package fsm

// Outcome is what applying one proposal brought.
type Outcome struct {
	Frames    []RoomFrame
	Batches   []BatchOutcome
	Grants    []Grant
	Deadlines []Deadline
	Hashes    []HashRequest
}

// HashRequest is the leader's wish, in the log, that all replicas compare their
// states as of one point of it. Hashing the View takes nothing from applying.
type HashRequest struct {
	Version uint64 // of the hash; who computes another does not compare
	View    *View  // before the batches of the entry that asks
}

// RoomFrame is a frame with the room and session it belongs to.
type RoomFrame struct {
	Room, Session string
	Floor         uint64 // rev of the session's event before; StartedRev-1 for its first
	Frame         *Frame
	Ended         bool // the session's last frame
}

// Apply applies one log entry: its controls, then its batches, in order. Index
// and term are the entry's own.
//
// A command that panics on what a user sent is refused as internal and changes
// nothing: the state returns to where it was before the entry, which is then
// applied again with a mark before each command. Replicas do the same, so they
// stay equal.
func (s *State) Apply(index, term uint64, p *Proposal) *Outcome {
	before := s.copy()
	if out := s.run(index, term, p, false); out != nil {
		return out
	}
	s.restore(before)
	return s.run(index, term, p, true)
}

// run applies a proposal. With careful it contains panics to single commands;
// without it returns nil after the first.
func (s *State) run(index, term uint64, p *Proposal, careful bool) (out *Outcome) {
	if !careful {
		defer func() {
			if recover() != nil {
				out = nil
			}
		}()
	}
	s.index = index
	if p.Term == 0 || p.Term == term {
		s.now = max(s.now, p.Time) // a stamp of an earlier leader does not count: time stood still since
	}
	c := &change{s: s, wall: p.Wall, out: new(Outcome)}
	for i := range p.Controls {
		if ctl := &p.Controls[i]; !ctl.Kind.timer() || ctl.Term == term || untermed {
			c.contain(careful, func() { c.control(ctl) })
		}
	}
	c.out.Batches = make([]BatchOutcome, 0, len(p.Batches))
	for i := range p.Batches {
		c.out.Batches = append(c.out.Batches, c.batch(&p.Batches[i], careful))
	}
	return c.out
}

// contain runs f; with careful a panic in it takes the state back to before, and
// false is returned.
func (c *change) contain(careful bool, f func()) (ok bool) {
	if !careful {
		f()
		return true
	}
	before, frames, grants, deadlines := c.s.copy(), len(c.out.Frames), len(c.out.Grants), len(c.out.Deadlines)
	defer func() {
		if recover() != nil {
			ok = false
			c.s.restore(before)
			c.out.Frames, c.out.Grants, c.out.Deadlines = c.out.Frames[:frames], c.out.Grants[:grants], c.out.Deadlines[:deadlines]
		}
	}()
	f()
	return true
}

// skip advances the index past an entry that is not for the state.
func (s *State) skip(index uint64) { s.index = index }
