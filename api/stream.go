package api

import (
	"errors"
	"slices"
	"strconv"

	"conclave/fsm"
)

// pullBytes is about how many bytes of frames a stream takes from the ring at a
// time.
const pullBytes = 64 << 10

// maxResets is how many resets in a row a watcher gets without once being up to
// date in between. The ring holds as much as a snapshot takes, so that is for a
// link that carries less than the room brings: it would otherwise get snapshots for
// ever; it is closed (4001), and its owner comes back when the link may be better.
const maxResets = 3

var (
	errClosing = errors.New("the socket is to end")
	errSlow    = errors.New("the watcher does not catch up")
)

// sink is where a stream goes.
type sink interface {
	// frame takes one frame of protocol section 4. rev is where it brings the
	// watcher: of events, of a bookmark, of the last page of a snapshot; else 0.
	// It may block for as long as the watcher needs, and keeps nothing.
	frame(rev uint64, payload []byte) error
}

// reset says why a watcher must forget what it has; "" that it need not.
type reset string

const (
	resetCompacted reset = "compacted"
	resetSession   reset = "session"
	resetRestored  reset = "restored"
	resetSlow      reset = "slow"
)

// stream is what one watcher gets of a room: everything after cursor that its
// filters let through, pulled from the room's ring in revision order. It is a
// cursor, not a queue. One goroutine uses it at a time.
//
// Invariant: the watcher has been sent (or its filters have dropped) everything
// up to cursor and nothing beyond it, and what it has is of session.
type stream struct {
	node    Store
	metrics *metrics
	room    string
	backlog int // bound in bytes
	out     sink

	// pinned ties the stream to its session, as a peer is. Else it goes on to the
	// room's next one.
	pinned  bool
	session string    // "" until the room has had one
	ring    *fsm.Ring // of session; nil when it is over, or before the first
	cursor  uint64

	filters filters
	inbox   *inbox // of the watcher, for what does not come by the ring

	// self is the peer whose stream it is, "" for who only observes; peer is that
	// peer as the last view had it, which decides about the messages that it gets.
	self string
	peer *fsm.Peer
}

// stream makes the stream of a watcher. It watches nothing yet, and must watch
// nothing again when the watcher goes.
func (s *Server) stream(room string, out sink, in *inbox) *stream {
	return &stream{node: s.node, metrics: s.metrics, room: room, backlog: s.cfg.Backlog, out: out, inbox: in}
}

// watch sets what the watcher wants to see from the cursor on.
func (s *stream) watch(fs filters) {
	switch {
	case len(s.filters) == 0 && len(fs) > 0:
		s.metrics.watchers.Inc()
	case len(s.filters) > 0 && len(fs) == 0:
		s.metrics.watchers.Dec()
	}
	s.filters = fs
	s.inbox.want(fs)
}

// view is the present: a view, the session in it that concerns this stream, and
// that session's ring. The ring is asked for only when the present one is closed:
// asking takes a lock that the goroutine that applies the log needs too.
func (s *stream) view() (*fsm.View, *fsm.Session, *fsm.Ring) {
	for {
		v := s.node.View()
		session := v.Session(s.room)
		if session == nil || s.pinned && session.ID != s.session {
			return v, nil, nil // a ring there may be is of a session that is not ours, or not in v yet
		}
		ring := s.ring
		if ring != nil {
			if closed, _ := ring.Closed(); closed {
				ring = nil
			}
		}
		if ring == nil {
			ring = s.node.Ring(s.room)
		}
		// A session that begins or ends just now may not match; the next view will.
		if ring != nil && ring.Session() == session.ID {
			return v, session, ring
		}
	}
}

// resume goes on after rev, if nothing of the session since then is lost.
func (s *stream) resume(session string, rev uint64) bool {
	v, live, ring := s.view()
	if live == nil || live.ID != session || rev < ring.Floor() || rev > v.Rev() {
		return false
	}
	s.session, s.ring, s.cursor = session, ring, rev
	return true
}

// add lets more through from now on: first come all events up to a view, then
// whatever tell sends there, then the snapshot of what was added.
func (s *stream) add(fs filters, request uint64, tell func(*fsm.View, *fsm.Session) error) error {
	v, session, err := s.follow()
	if err != nil {
		return err
	}
	if err := tell(v, session); err != nil || len(fs) == 0 {
		return err
	}
	s.watch(slices.Concat(s.filters, fs))
	return s.snapshot(v, session, fs, request)
}

// follow sends everything up to the present, and returns the view that it has
// reached with its session. It fails when the sink does, or with errSlow.
func (s *stream) follow() (*fsm.View, *fsm.Session, error) {
	for resets := 0; ; resets++ {
		v, session, ring := s.view()
		s.recognize(session)
		why, err := s.pull(v)
		if why == "" && err == nil && s.ring != ring {
			if why, err = s.turn(session, ring); why == "" && err == nil {
				why, err = s.pull(v)
			}
		}
		switch {
		case err != nil:
			return nil, nil, err
		case why == "":
			s.cursor = v.Rev()
			return v, session, nil
		case resets == maxResets:
			return nil, nil, errSlow
		}
		if err := s.reset(why, 0); err != nil {
			return nil, nil, err
		}
	}
}

// pull sends what the ring holds up to v.
func (s *stream) pull(v *fsm.View) (reset, error) {
	if s.ring == nil || len(s.filters) == 0 {
		return "", nil
	}
	for more := true; more; {
		var frames []*fsm.Frame
		var ok bool
		if frames, more, ok = s.ring.After(s.cursor, v.Rev(), pullBytes); !ok {
			return resetSlow, nil
		}
		// A watcher that is up to date takes any frame, so the first does not count.
		if len(frames) > 0 && s.outweighs(s.ring.Backlog(frames[0].Rev), v) {
			return resetSlow, nil
		}
		for _, f := range frames {
			if err := s.send(f); err != nil {
				return "", err
			}
			s.cursor = f.Rev
		}
	}
	return "", nil
}

// outweighs reports whether a backlog is more than a watcher may be behind: more
// than the bound, and than what the session takes that a reset would send.
func (s *stream) outweighs(backlog int, v *fsm.View) bool {
	if backlog <= s.backlog {
		return false
	}
	session := v.Session(s.room)
	return session == nil || backlog > session.SnapshotBytes()
}

// recognize notes the peer as it is now. One that has left gets no more messages:
// what was sent since is not for it.
func (s *stream) recognize(session *fsm.Session) {
	if session != nil && s.self != "" {
		s.peer = session.Peer(s.self)
	}
}

// passes decides about an event. A message is for those alone whom its sender
// named; who only observes gets those that are for everybody.
func (s *stream) passes(e *fsm.Event) bool {
	if e.To != nil && s.peer == nil && s.self != "" {
		return false // it has left: as nobody it would get what is for everybody
	}
	return s.filters.passes(e) && e.For(s.peer)
}

// send sends what passes of one frame. Most watchers see all of it: they get the
// same bytes.
func (s *stream) send(f *fsm.Frame) error {
	passed := 0
	for _, e := range f.Events {
		if s.passes(e) {
			passed++
		}
	}
	switch passed {
	case 0:
		return nil
	case len(f.Events):
		s.metrics.frames.Inc()
		return s.out.frame(f.Rev, f.Encoded(encodeFrame))
	}
	buf := takeBuffer()
	b := append(*buf, `{"events":[`...)
	start := len(b)
	for _, e := range f.Events {
		if !s.passes(e) {
			continue
		}
		if len(b) > start {
			b = append(b, ',')
		}
		b = append(b, e.Encoded(encodeEvent)...)
	}
	b = append(appendNumber(append(b, ']'), "rev", f.Rev), '}')
	defer giveBuffer(buf, b)
	s.metrics.frames.Inc()
	return s.out.frame(f.Rev, b)
}

// messages sends the messages that fs let through and that were sent after a
// revision, up to v. A new peer's stream begins with a snapshot, which has none:
// those sent between its join and the snapshot would be lost.
func (s *stream) messages(fs filters, after uint64, v *fsm.View) error {
	filters, cursor := s.filters, s.cursor
	s.filters, s.cursor = fs.ofMessages(), after
	// A reset would say nothing: the snapshot comes anyway.
	_, err := s.pull(v)
	s.filters, s.cursor = filters, cursor
	return err
}

// turn goes over to another ring once the one before has been sent to its end:
// that of the room's next session, or of a state that replaced the whole. No ring
// says that there is no session now.
func (s *stream) turn(session *fsm.Session, ring *fsm.Ring) (reset, error) {
	restored := false
	if s.ring != nil {
		_, restored = s.ring.Closed()
	}
	switch {
	case len(s.filters) == 0: // nothing was seen, so nothing can be missing
		s.ring = ring
		if session != nil {
			s.session = session.ID
		}
		return "", nil
	case session != nil && session.ID == s.session:
		if ring.Floor() > s.cursor {
			return resetRestored, nil
		}
		s.ring = ring
		return "", nil
	case restored:
		return resetRestored, nil
	case session == nil:
		s.ring = nil
		return "", nil
	case ring.Floor() > s.cursor && ring.Floor() >= session.StartedRev:
		return resetSession, nil
	}
	// The ring has the new session from its first event on: it begins with nothing.
	before := s.session
	s.session, s.ring = session.ID, ring
	if before == "" {
		return "", nil
	}
	if err := s.sendReset(resetSession); err != nil {
		return "", err
	}
	page := snapshot{id: session.ID, rev: s.cursor, out: s.out}
	return "", page.send()
}

// reset has the watcher forget what it has and sends the present anew, as the
// answer to that request, if to any.
func (s *stream) reset(why reset, request uint64) error {
	if err := s.sendReset(why); err != nil {
		return err
	}
	v, session, ring := s.view()
	s.ring, s.cursor, s.session = ring, v.Rev(), ""
	if session != nil {
		s.session = session.ID
	}
	return s.snapshot(v, session, s.filters, request)
}

// snapshot sends what fs let through of v.
func (s *stream) snapshot(v *fsm.View, session *fsm.Session, fs filters, request uint64) error {
	snap := snapshot{session: session, filters: fs, request: request, rev: v.Rev(), out: s.out}
	if session != nil {
		snap.id = session.ID
	}
	return snap.send()
}

func (s *stream) sendReset(why reset) error {
	s.metrics.resets.WithLabelValues(string(why)).Inc()
	return s.out.frame(0, []byte(`{"reset":"`+why+`"}`))
}

// bookmark says that nothing was missed up to the cursor.
func (s *stream) bookmark() error {
	return s.out.frame(s.cursor, append(strconv.AppendUint([]byte(`{"rev":`), s.cursor, 10), '}'))
}
