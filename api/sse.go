package api

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"conclave/client/wire"
	"conclave/cluster"
	"conclave/fsm"
)

// events is one stream of Server-Sent Events: the stream of an observer, without
// requests. Its only goroutine is the handler's.
type events struct {
	room  string
	pace  *Pace
	w     http.ResponseWriter
	ctl   *http.ResponseController
	wakes chan struct{} // one is as good as many
	stop  chan struct{} // closed by end

	mu       sync.Mutex
	told     int64 // Unix ms of the last frame
	bookmark bool
	ended    bool
	inbox    inbox
}

// serveEvents answers GET …/events: one event per frame of protocol section 4. The
// id of an event is the revision that it brings the reader to, so that a browser
// that reconnects goes on there by itself.
func (s *Server) serveEvents(c *gin.Context) {
	in := newInput(c)
	room, want, fs := in.room(), in.session(), in.filters()
	last, resumes := in.lastEventID()
	err := in.done()
	if err == nil {
		_, err = s.auth.Authenticate(bearer(c.Request))
	}
	if err == nil {
		err = s.observable(c, room, want, last)
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	e := &events{
		room: room, pace: &s.hub.pace, w: c.Writer, ctl: http.NewResponseController(c.Writer),
		wakes: make(chan struct{}, 1), stop: make(chan struct{}), told: time.Now().UnixMilli(),
	}
	if full, draining := s.hub.add(e); full || draining {
		reason := "this node is draining"
		if full {
			reason = "too many connections"
		}
		s.fail(c, wire.Errorf(wire.Unavailable, "%s", reason))
		return
	}
	defer s.hub.remove(e)
	h := c.Writer.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // else nginx holds events back
	c.Writer.WriteHeader(http.StatusOK)
	st := s.stream(room, e, &e.inbox)
	defer st.watch(nil)
	// An error is that of a reader who is gone or too slow: it comes back or not.
	if err := e.begin(st, fs, last, resumes); err == nil {
		e.serve(st, c.Request.Context().Done())
	}
}

// observable makes sure that what is sent is current, and that the session asked
// for is the live one.
func (s *Server) observable(c *gin.Context, room, want string, last uint64) error {
	v, err := s.node.Read(c.Request.Context())
	if err == nil && v.Rev() < last {
		v, err = s.node.WaitRev(c.Request.Context(), last)
	}
	if err == nil && want != "" {
		_, err = liveSession(v, room, want)
	}
	return err
}

// filters takes the filters of a query: keys, a store, types, topics. Without any,
// everything passes.
func (in *input) filters() filters {
	f := filter{keys: in.list("key"), topics: in.list("topic")}
	if store, ok := in.text("store"); ok {
		if wrong := badStore(store); wrong != "" {
			in.refuse("store", "%s", wrong)
		}
		f.store = store
	}
	in.checkPatterns("key", f.keys)
	in.checkPatterns("topic", f.topics)
	for _, name := range in.list("type") {
		t := typeOf(fsm.EventType(name))
		if t == 0 {
			in.refuse("type", "there is no event type %q", name)
		}
		f.types |= t
	}
	f.complete()
	fs := filters{f}
	if bad := fs.fits(); bad != nil && in.fault.err == nil {
		in.fault.err = bad
	}
	return fs
}

func (in *input) checkPatterns(name string, patterns []string) {
	for _, p := range patterns {
		if !validPattern(p) {
			in.refuse(name, "%q is neither a name nor a prefix followed by *", p)
		}
	}
}

// lastEventID takes the revision after which a reader goes on.
func (in *input) lastEventID() (rev uint64, ok bool) {
	id, ok := in.header("Last-Event-ID")
	if !ok || id == "" {
		return 0, false
	}
	rev, err := strconv.ParseUint(id, 10, 64)
	if err != nil || rev >= maxNumber {
		in.refuse("Last-Event-ID", "must be the id of an event")
	}
	return rev, true
}

// begin sends the start of the stream: what was missed since the last event, or a
// snapshot. A revision does not say of which session it is: one before the live
// one began is of another.
func (e *events) begin(st *stream, fs filters, last uint64, resumes bool) error {
	if !resumes {
		return st.add(fs, 0, func(*fsm.View, *fsm.Session) error { return nil })
	}
	_, session, _ := st.view()
	if session != nil && last >= session.StartedRev && st.resume(session.ID, last) {
		st.watch(fs)
		_, _, err := st.follow()
		return err
	}
	why := resetCompacted
	if session == nil || last < session.StartedRev {
		why = resetSession
	}
	st.watch(fs)
	return st.reset(why, 0)
}

// serve sends what comes, until the reader or the node goes.
func (e *events) serve(st *stream, gone <-chan struct{}) {
	for {
		e.mu.Lock()
		bookmark, fleeting := e.bookmark, e.inbox.take()
		e.bookmark = false
		e.mu.Unlock()
		v, session, err := st.follow()
		if err == nil {
			fleeting, err = st.pass(fleeting, v, session)
		}
		if err != nil {
			return
		}
		e.mu.Lock()
		e.inbox.waiting.Return(fleeting)
		e.mu.Unlock()
		if bookmark && st.bookmark() != nil {
			return
		}
		if e.ctl.Flush() != nil {
			return
		}
		select {
		case <-e.wakes:
		case <-gone:
			return
		case <-e.stop:
			return
		}
	}
}

// frame writes one event; it makes events a sink. The bytes go out in pieces, each
// of which the reader has a while to take.
func (e *events) frame(rev uint64, payload []byte) error {
	buf := takeBuffer()
	b := *buf
	if rev != 0 {
		b = append(strconv.AppendUint(append(b, "id: "...), rev, 10), '\n')
	}
	b = append(append(append(b, "data: "...), payload...), '\n', '\n')
	defer giveBuffer(buf, b)
	for len(b) > 0 {
		select {
		case <-e.stop:
			return errClosing
		default:
		}
		piece := b[:min(len(b), outboxBytes)]
		b = b[len(piece):]
		if err := e.ctl.SetWriteDeadline(time.Now().Add(e.pace.Stall)); err != nil {
			return err
		}
		if _, err := e.w.Write(piece); err != nil {
			return err
		}
	}
	if rev != 0 { // ephemeral messages put no bookmark off
		e.mu.Lock()
		defer e.mu.Unlock()
		e.told = time.Now().UnixMilli()
	}
	return nil
}

// The methods of a watcher.

func (e *events) watches() string { return e.room }

func (e *events) wake([]news) {
	select {
	case e.wakes <- struct{}{}:
	default:
	}
}

func (e *events) offer(b *cluster.Burst, m *metrics) {
	if e.inbox.wants.Load() == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inbox.put(b, "", m) {
		e.wake(nil)
	}
}

func (e *events) tick(t moment) {
	if t.leaderless {
		e.drain()
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if t.now.UnixMilli()-e.told >= e.pace.Ping.Milliseconds()*7/10 {
		e.bookmark = true
		e.wake(nil)
	}
}

// drain ends the stream; its reader comes back to another node.
func (e *events) drain() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended {
		e.ended = true
		close(e.stop)
	}
}

// kill has a write that hangs fail now.
func (e *events) kill() {
	e.drain()
	_ = e.ctl.SetWriteDeadline(time.Now()) // a reader that is gone needs none
}
