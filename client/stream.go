package client

import (
	"slices"

	"conclave/client/wire"
)

// stream is what a connection brings of the room's changes, shared out to the
// watches. It belongs to a Room and is guarded by its mu.
//
// Invariant: every live watch has been given everything up to rev that its
// filters let through, and nothing beyond it. So rev is where the stream resumes
// on another connection.
type stream struct {
	rev     uint64
	session string // that rev is of
	watches []*Watch
	pages   pages // of the snapshot that is under way
	renewal bool  // after a reset: the next snapshot is for every watch that the server knows
}

// filters are what hello asks for: those of every watch that a server has
// accepted, so that a bad one cannot spoil the hello. What has not had its
// snapshot yet asks for it.
func (s *stream) filters() []wire.Filter {
	var filters []wire.Filter
	for _, w := range s.watches {
		if w.state != live && w.state != loading {
			continue
		}
		for _, f := range w.filters {
			f.Snapshot = w.state == loading
			filters = append(filters, f)
		}
	}
	return filters
}

// attached begins a connection: its hello has brought the filters of all watches.
// If the stream was not resumed, all of them start anew.
func (s *stream) attached(hello uint64, session string, w *wire.Welcome) {
	why := "compacted"
	if s.session != session {
		why = "session"
	}
	if s.session = session; !w.StreamResumed {
		s.rev = w.Rev
	}
	for _, watch := range s.watches {
		if watch.state != live && watch.state != loading {
			continue
		}
		watch.id, watch.byHello = hello, true
		if !w.StreamResumed {
			watch.reload(why)
		}
	}
}

// detached ends a connection. Half a snapshot is worth nothing.
func (s *stream) detached() {
	s.pages.take()
	s.renewal = false
}

// take takes in a frame that is not an answer.
func (s *stream) take(f *wire.Frame) {
	switch {
	case f.Reset != "":
		s.pages.take()
		s.renewal = true
		for _, w := range s.watches {
			if w.state == live || w.state == loading {
				w.reload(f.Reset)
			}
		}
	case f.Snapshot != nil:
		if s.pages.add(f.Snapshot); more(f) || f.Rev == nil {
			return
		}
		whole := s.pages.take()
		s.rev = *f.Rev
		for _, w := range s.watches {
			if w.state == loading && (s.renewal || w.id == f.For) {
				w.load(whole, s.rev)
			}
		}
		s.renewal = false
		s.session = whole.Session
	case len(f.Ephemeral) > 0:
		for _, w := range s.watches {
			if w.state == live {
				w.ephemeral(f.Ephemeral)
			}
		}
	case len(f.Events) > 0:
		for _, u := range byRevision(f.Events) {
			s.rev = u.Rev
			for _, w := range s.watches {
				if w.state == live {
					w.event(u)
				}
			}
		}
		s.begun(f.Events)
		fallthrough
	default:
		if f.Rev != nil {
			s.rev = max(s.rev, *f.Rev)
		}
	}
}

// begun notes the session that the events start, if they do: observers see the
// room's next one begin.
func (s *stream) begun(events []wire.Event) {
	for i := range events {
		if e := &events[i]; e.Type == "session" && e.State == "started" {
			s.session = e.Session
		}
	}
}

// end ends all watches.
func (s *stream) end(err error) {
	for _, w := range s.watches {
		w.fail(err)
	}
	s.watches = nil
}

func (s *stream) remove(w *Watch) {
	s.watches = slices.DeleteFunc(s.watches, func(other *Watch) bool { return other == w })
}
