package fsm

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// Machine adapts a State to raft: it decodes entries, applies them, appends to
// the rings, publishes a View and tells the observers, in that order. Raft's FSM
// goroutine calls it; View, Ring and Observe may be called from any goroutine.
type Machine struct {
	state     *State  // raft's FSM goroutine alone
	dead      bool    // an entry could not be read: nothing is applied after it
	decoder   decoder // likewise raft's
	fatal     func(error)
	observers []func(*Published)

	view atomic.Pointer[View]

	mu    sync.Mutex
	rings map[string]*Ring // of live sessions, by room; made with the first frame, or when asked for
	quiet quiet            // which of them have been silent for how long
}

var _ raft.BatchingFSM = (*Machine)(nil)

// Published is what one publication brought: several raft entries may share it.
type Published struct {
	View      *View
	Index     uint64 // of the last raft entry applied, a command or a configuration
	Term      uint64 // its raft term; 0 when restored
	Batches   []BatchOutcome
	Changed   []RoomChange // rooms with new frames, each once
	Grants    []Grant
	Deadlines []Deadline
	Hashes    []HashRequest
	Restored  bool // the whole state was replaced (an installed snapshot or a restore)
}

// RoomChange says that a room has new frames, and whom they concern even if he
// does not watch.
type RoomChange struct {
	Room  string
	Moved []string // peers that were attached, detached or have left, sorted
	Ended bool     // a session of it is over
}

// NewMachine returns a machine with an empty state. fatal is called, once, when
// an entry cannot be read and going on would let replicas diverge; nothing is
// applied after it, whether or not it returns.
func NewMachine(fatal func(error)) *Machine {
	m := &Machine{state: NewState(), decoder: decoder{seen: new(names)}, fatal: fatal, rings: make(map[string]*Ring)}
	m.view.Store(m.state.Publish())
	return m
}

// Observe adds a function called after each publication, in order, on raft's FSM
// goroutine. It must not block. Add observers before raft starts.
func (m *Machine) Observe(f func(*Published)) { m.observers = append(m.observers, f) }

// View is the last published state.
func (m *Machine) View() *View { return m.view.Load() }

// Ring is the ring of a room's live session, nil if it has none.
func (m *Machine) Ring(room string) *Ring {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.rings[room]; r != nil {
		return r
	}
	// A frame that is applied and not yet published has made its ring already,
	// under this lock: so the view's last event is the last before this ring.
	s := m.View().Session(room)
	if s == nil {
		return nil
	}
	r := newRing(s.ID, s.LastEventRev)
	m.rings[room] = r
	return r
}

// Apply applies a single entry.
func (m *Machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries in order and publishes once. The answers are nil:
// outcomes go to the observers.
func (m *Machine) ApplyBatch(logs []*raft.Log) []any {
	p := &Published{}
	var frames []RoomFrame
	for _, l := range logs {
		if m.dead {
			break
		}
		if l.Index <= m.state.index {
			continue // applied before a late snapshot: see Restore
		}
		if l.Type != raft.LogCommand {
			m.state.skip(l.Index)
		} else if out := m.apply(l); out != nil {
			frames = append(frames, out.Frames...)
			p.Batches = append(p.Batches, out.Batches...)
			p.Grants = append(p.Grants, out.Grants...)
			p.Deadlines = append(p.Deadlines, out.Deadlines...)
			p.Hashes = append(p.Hashes, out.Hashes...)
		} else {
			break
		}
		p.Index, p.Term = l.Index, l.Term
	}
	if p.Index != 0 {
		m.publish(p, frames)
	}
	return make([]any, len(logs))
}

// apply decodes and applies one entry; nil when that is impossible.
func (m *Machine) apply(l *raft.Log) *Outcome {
	proposal, err := decodeProposal(&m.decoder, l.Data)
	if err != nil {
		m.dead = true
		m.fatal(fmt.Errorf("log entry %d of term %d: %w", l.Index, l.Term, err))
		return nil
	}
	return m.state.Apply(l.Index, l.Term, proposal)
}

// publish makes a new state visible: rings and view together, then the observers
// are told. Who is woken, or looks, finds in the ring whatever the view has.
func (m *Machine) publish(p *Published, frames []RoomFrame) {
	p.View = m.state.Publish()
	changed := make(map[string]int, len(frames))
	m.mu.Lock()
	for i := range frames {
		f := &frames[i]
		if eventless && i+1 < len(frames) && frames[i+1].Room == f.Room {
			continue
		}
		m.append(f, p.View)
		at, ok := changed[f.Room]
		if !ok {
			at = len(p.Changed)
			changed[f.Room] = at
			p.Changed = append(p.Changed, RoomChange{Room: f.Room})
		}
		p.Changed[at].add(f)
	}
	for i := range p.Changed {
		slices.Sort(p.Changed[i].Moved)
	}
	m.quiet.relieve(m.state.now)
	m.view.Store(p.View)
	m.mu.Unlock()
	m.tell(p)
}

// add counts in a frame.
func (c *RoomChange) add(f *RoomFrame) {
	c.Ended = c.Ended || f.Ended
	for _, e := range f.Frame.Events {
		if e.Type == EventPeer && (e.State == "attached" || e.State == "detached" || e.State == "left") {
			c.Moved = append(c.Moved, e.Peer.ID)
		}
	}
}

func (m *Machine) tell(p *Published) {
	for _, f := range m.observers {
		f(p)
	}
}

// append adds a frame to its session's ring. The ring of a session that has
// ended is let go: who holds it finds it closed.
func (m *Machine) append(f *RoomFrame, v *View) {
	r := m.rings[f.Room]
	if r == nil {
		r = newRing(f.Session, f.Floor)
		m.rings[f.Room] = r
	}
	most := 0
	if s := v.Session(f.Room); s != nil && s.ID == f.Session {
		most = s.SnapshotBytes()
	}
	r.append(f.Frame, most, f.Ended)
	if f.Ended {
		m.quiet.drop(r)
		delete(m.rings, f.Room)
		return
	}
	m.quiet.heard(r, m.state.now)
}

// Snapshot captures the state; writing it later takes nothing from applying.
func (m *Machine) Snapshot() (raft.FSMSnapshot, error) { return &snapshot{view: m.View()}, nil }

type snapshot struct{ view *View }

// Persist writes the snapshot to where raft keeps it.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.view.WriteSnapshot(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release is part of raft.FSMSnapshot; a View needs none.
func (s *snapshot) Release() {}

// Restore replaces the state by a snapshot's. It is read to its end and verified
// before anything is replaced. All rings are closed; new ones are made when they
// are asked for.
//
// A snapshot of what this state has been already is left aside. Raft installs one
// that the network has kept for long, and then applies once more what came after
// it; going back would show readers and watchers the past. A restored backup is no
// such thing: it has a greater revision.
func (m *Machine) Restore(source io.ReadCloser) error {
	defer source.Close()
	state, err := ReadSnapshot(source)
	if err != nil {
		return err
	}
	if state.index < m.state.index && state.rev <= m.state.rev {
		return nil
	}
	m.state, m.dead = state, false
	p := &Published{View: state.Publish(), Index: state.index, Restored: true}
	m.mu.Lock()
	for room, r := range m.rings {
		p.Changed = append(p.Changed, RoomChange{Room: room, Ended: true})
		r.close(true)
	}
	m.rings, m.quiet = make(map[string]*Ring), quiet{}
	m.view.Store(p.View)
	m.mu.Unlock()
	slices.SortFunc(p.Changed, func(a, b RoomChange) int { return strings.Compare(a.Room, b.Room) })
	m.tell(p)
	return nil
}
