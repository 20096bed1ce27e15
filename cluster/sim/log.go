package sim

import (
	"fmt"
	"reflect"
	"slices"
	"sort"
	"time"

	"conclave/fsm"
)

// Log is the one sequence of frames that all nodes published: what happened, as
// against what clients were told. It answers what the state was at any revision.
type Log struct {
	Frames []Logged // by revision
	byRev  map[uint64]int
	keys   map[place][]version
	lives  []life
}

// Logged is a frame with where it belongs and when it was first seen.
type Logged struct {
	Seen
	Room, Session string
}

type place struct{ room, key string }

// version is what a key was from a revision on; nil when absent.
type version struct {
	rev   uint64
	entry *fsm.Entry
}

// life is one session of a room.
type life struct {
	room, session string
	from, to      uint64 // to is 0 while it lasts
}

// Log puts what the nodes published together. It complains of frames on which
// they do not agree, of frames missing from one node's sequence or foreign to it,
// and of holes that no node has seen.
func (h *History) Log() (*Log, []error) {
	l := &Log{byRev: map[uint64]int{}, keys: map[place][]version{}}
	var errs []error
	first := map[uint64]Logged{}
	for _, s := range h.Segments {
		for _, f := range s.Frames {
			known, ok := first[f.Rev]
			if ok && (known.Room != s.Room || known.Session != s.Session || !reflect.DeepEqual(known.Frame, f.Frame)) {
				errs = append(errs, fmt.Errorf("nodes disagree on rev %d: %s has, in %s,\n%sothers have, in %s,\n%s",
					f.Rev, s.Node, s.Session, describe(f.Frame), known.Session, describe(known.Frame)))
			}
			if !ok || f.At < known.At {
				first[f.Rev] = Logged{f, s.Room, s.Session}
			}
		}
	}
	for _, f := range first {
		l.Frames = append(l.Frames, f)
	}
	slices.SortFunc(l.Frames, func(a, b Logged) int { return int(int64(a.Rev) - int64(b.Rev)) })
	for i, f := range l.Frames {
		l.byRev[f.Rev] = i
		l.apply(f)
	}
	for _, s := range h.Segments {
		errs = append(errs, l.contains(s)...)
	}
	return l, append(errs, h.holes()...)
}

// apply notes what a frame does to keys and sessions.
func (l *Log) apply(f Logged) {
	for _, e := range f.Events {
		at := place{f.Room, e.Key}
		switch {
		case e.Store != store && e.Type != fsm.EventSession:
		case e.Type == fsm.EventPut:
			l.keys[at] = append(l.keys[at], version{f.Rev, e.Entry})
		case e.Type == fsm.EventDelete:
			l.keys[at] = append(l.keys[at], version{f.Rev, nil})
		case e.Type == fsm.EventSession && e.State == "started":
			l.lives = append(l.lives, life{room: f.Room, session: f.Session, from: f.Rev})
		case e.Type == fsm.EventSession && e.State == "ended":
			l.end(f)
		}
	}
}

// end empties the room: nothing of a session is left in the next.
func (l *Log) end(f Logged) {
	for i := range l.lives {
		if l.lives[i].session == f.Session {
			l.lives[i].to = f.Rev
		}
	}
	for at, versions := range l.keys {
		if at.room == f.Room && versions[len(versions)-1].entry != nil {
			l.keys[at] = append(versions, version{f.Rev, nil})
		}
	}
}

// between are the frames of a session with from < rev <= to.
func (l *Log) between(session string, from, to uint64) (frames []Logged) {
	i := sort.Search(len(l.Frames), func(i int) bool { return l.Frames[i].Rev > from })
	for ; i < len(l.Frames) && l.Frames[i].Rev <= to; i++ {
		if l.Frames[i].Session == session {
			frames = append(frames, l.Frames[i])
		}
	}
	return frames
}

// contains checks one node's sequence against all.
func (l *Log) contains(s *Segment) (errs []error) {
	want := l.between(s.Session, s.From, s.To)
	if len(want) != len(s.Frames) {
		return []error{fmt.Errorf("%s published %d frames of %s in (%d, %d], all nodes together %d", s.Node, len(s.Frames), s.Session, s.From, s.To, len(want))}
	}
	for i := range want {
		if s.Frames[i].Rev != want[i].Rev {
			return []error{fmt.Errorf("%s published rev %d where rev %d was due", s.Node, s.Frames[i].Rev, want[i].Rev)}
		}
	}
	return nil
}

// holes finds stretches of a session that no node was seen to publish.
func (h *History) holes() (errs []error) {
	bySession := map[string][]*Segment{}
	for _, s := range h.Segments {
		bySession[s.Session] = append(bySession[s.Session], s)
	}
	for session, segments := range bySession {
		slices.SortFunc(segments, func(a, b *Segment) int { return int(int64(a.From) - int64(b.From)) })
		reached := segments[0].To
		for _, s := range segments[1:] {
			if s.From > reached {
				errs = append(errs, fmt.Errorf("nobody published (%d, %d] of %s", reached, s.From, session))
			}
			reached = max(reached, s.To)
		}
	}
	return errs
}

// At is a key's entry as of a revision, nil when absent.
func (l *Log) At(room, key string, rev uint64) *fsm.Entry {
	versions := l.keys[place{room, key}]
	i := sort.Search(len(versions), func(i int) bool { return versions[i].rev > rev })
	if i == 0 {
		return nil
	}
	return versions[i-1].entry
}

// frame is the frame of a revision.
func (l *Log) frame(rev uint64) (Logged, bool) {
	i, ok := l.byRev[rev]
	if !ok {
		return Logged{}, false
	}
	return l.Frames[i], true
}

// seenAt is when a revision was first published.
func (l *Log) seenAt(rev uint64) time.Duration {
	f, _ := l.frame(rev)
	return f.At
}

// session is the session of a room at a revision, "" if it had none.
func (l *Log) session(room string, rev uint64) string {
	for _, life := range l.lives {
		if life.room == room && life.from <= rev && (life.to == 0 || rev < life.to) {
			return life.session
		}
	}
	return ""
}
