package api

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"

	"conclave/client/wire"
	"conclave/fsm"
)

// The bounds of a session's own durations, in ms. Longer than maxGrace, who is not
// coming back would hold its locks and its place.
const (
	maxSessionTime = 24 * 3_600_000
	maxGrace       = 10 * 60_000
	defaultIdle    = 5 * 60_000
)

// consistency is how fresh a read must be.
type consistency struct {
	stale  bool
	minRev uint64
}

// consistency takes ?consistency= and ?min_rev=.
func (in *input) consistency() (q consistency) {
	switch s, ok := in.text("consistency"); {
	case !ok || s == "linearizable":
	case s == "stale":
		q.stale = true
	default:
		in.refuse("consistency", "must be linearizable or stale")
	}
	q.minRev, _ = in.counter("min_rev")
	return q
}

// view is a view as fresh as asked for: a linearizable one costs a round of the
// leader, which many reads share; a stale one costs nothing and needs no leader. Sockets
// have runReads, where one round serves all reads that wait.
func (s *Server) view(ctx context.Context, q consistency) (*fsm.View, error) {
	read := s.node.Read
	if q.stale {
		read = func(context.Context) (*fsm.View, error) { return s.node.Stale() }
	}
	v, err := read(ctx)
	if err == nil && v.Rev() < q.minRev {
		return s.node.WaitRev(ctx, q.minRev)
	}
	return v, err
}

// liveSession is a room's session; when want is set it must be that one.
func liveSession(v *fsm.View, room, want string) (*fsm.Session, error) {
	sess := v.Session(room)
	switch {
	case sess == nil && want == "":
		return nil, wire.Errorf(wire.NoSession, "the room has no live session")
	case want != "" && (sess == nil || sess.ID != want):
		return nil, wire.Errorf(wire.SessionEnded, "session %s is over", want)
	}
	return sess, nil
}

// reading takes what every read of a room shares, checks the request and returns
// the session with the view that it is of.
func (s *Server) reading(in *input) (*fsm.Session, *fsm.View, error) {
	room, want, q := in.room(), in.session(), in.consistency()
	if err := in.done(); err != nil {
		return nil, nil, err
	}
	ctx := in.request().Context()
	if _, err := s.caller(in.request(), room, ""); err != nil {
		return nil, nil, err
	}
	v, err := s.view(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	sess, err := liveSession(v, room, want)
	return sess, v, err
}

// writing takes what every write shares. The caller adds to the command what it
// does, and gives it to do.
func writing(in *input, kind fsm.CommandKind) *fsm.Command {
	cmd := &fsm.Command{Kind: kind, Room: in.room(), Session: in.session()}
	in.remember(cmd)
	return cmd
}

// opens takes ?open_ms=, with which a write opens a session if there is none.
func (s *Server) opens(in *input, cmd *fsm.Command) *fsm.Command {
	if ms, ok := in.number("open_ms", 1, maxSessionTime); ok {
		cmd.Open, _ = s.opening("", ms)
	}
	return cmd
}

// do checks the rest of a request, establishes its caller (who owns locks under
// that name) and applies its command, in the protocol's order of refusals: form,
// rights, then what the state says. A refusal is an error.
func (s *Server) do(in *input, cmd *fsm.Command, owner string) (*fsm.Result, error) {
	if err := in.done(); err != nil {
		return nil, err
	}
	by, err := s.caller(in.request(), cmd.Room, owner)
	if err != nil {
		return nil, err
	}
	cmd.Caller = by
	if err := s.admit(cmd); err != nil {
		return nil, err
	}
	if err := s.chargeHTTP(cmd); err != nil {
		return nil, err
	}
	r, err := s.node.Do(in.request().Context(), cmd)
	return r, s.refusalOf(in.request().Context(), cmd.Room, outcome(r, err))
}

// listRooms answers GET /v1/rooms, a page of the rooms that have a live session.
// The name of the last one is where the next page goes on, whatever was opened or
// ended in between.
func (s *Server) listRooms(c *gin.Context, in *input) error {
	p, q := in.page(true), in.consistency()
	if err := in.done(); err != nil {
		return err
	}
	if _, err := s.auth.Authenticate(bearer(c.Request)); err != nil {
		return err
	}
	v, err := s.view(c.Request.Context(), q)
	if err != nil {
		return err
	}
	list := wire.Rooms{Rooms: []wire.RoomSummary{}}
	v.Rooms(p.prefix, p.after, func(sess *fsm.Session) bool {
		if len(list.Rooms) == p.limit {
			list.Next = list.Rooms[p.limit-1].Room
			return false
		}
		list.Rooms = append(list.Rooms, wire.RoomSummary{
			Room: sess.Room, Session: sess.ID, StartedAt: formatTime(sess.StartedAt), Peers: sess.Counts().Peers,
		})
		return true
	})
	return answer(c, http.StatusOK, v.Rev(), marshal(list))
}

// getRoom answers GET /v1/rooms/{room}.
func (s *Server) getRoom(c *gin.Context, in *input) error {
	sess, v, err := s.reading(in)
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, v.Rev(), encodeRoom(sess, v.Rev(), sess.Counts()))
}

func encodeRoom(sess *fsm.Session, rev uint64, n fsm.Counts) []byte {
	return marshal(wire.Room{
		Room: sess.Room, Session: sess.ID, StartedAt: formatTime(sess.StartedAt), Rev: rev,
		Profile: sess.Profile, Limits: wire.Limits(sess.Limits),
		GraceMs: sess.Grace, LingerMs: sess.Linger, IdleMs: sess.Idle, Counts: wire.RoomCounts(n),
	})
}

// putRoom answers PUT /v1/rooms/{room}: it opens a session, with what its stores
// hold at first. A room that is open stays as it is.
func (s *Server) putRoom(c *gin.Context, in *input) error {
	cmd := writing(in, fsm.CommandOpen)
	o := in.object()
	profile, named := o.str("profile")
	// A session that nobody joins must end some time: it always has an idle timeout.
	open, ok := s.opening(profile, defaultIdle)
	if named && !ok {
		o.refuse("profile", "there is no profile %q", profile)
	}
	for _, d := range []struct {
		name     string
		min, max int64
		into     *int64
	}{
		{"linger_ms", 0, maxSessionTime, &open.Linger},
		{"grace_ms", 0, maxGrace, &open.Grace},
		{"idle_timeout_ms", 1, maxSessionTime, &open.Idle},
	} {
		if ms, ok := o.number(d.name, d.min, d.max); ok {
			*d.into = ms
		}
	}
	cmd.Open = open
	cmd.Txn = o.seeds()
	o.done()
	r, err := s.do(in, cmd, "")
	if err != nil {
		return err
	}
	v := s.node.View()
	sess := v.Session(cmd.Room)
	live := sess != nil && sess.ID == r.Session
	status := http.StatusOK
	switch {
	case r.Created && live: // as it was opened: a repeat is answered the same
		return answer(c, http.StatusCreated, r.Rev, encodeRoom(sess, r.Rev, seeded(cmd.Txn)))
	case live:
		return answer(c, status, v.Rev(), encodeRoom(sess, v.Rev(), sess.Counts()))
	case r.Created:
		status = http.StatusCreated
	}
	// The session has ended since: say what is still true.
	return answer(c, status, r.Rev, marshal(map[string]any{"room": cmd.Room, "session": r.Session, "rev": r.Rev}))
}

// seeds takes `stores`: what the stores of a new session hold, nil when absent.
func (o *object) seeds() *fsm.Txn {
	stores := o.object("stores")
	if stores == nil {
		return nil
	}
	t := &fsm.Txn{}
	for _, m := range stores.members {
		store := string(m.name)
		if wrong := badStore(store); wrong != "" {
			stores.refuse(store, "a store's name %s", wrong)
		}
		entries := stores.object(store)
		if entries == nil {
			return nil
		}
		for _, e := range entries.members {
			key := string(e.name)
			if wrong := badKey(key); wrong != "" {
				entries.refuse(key, "a key %s", wrong)
			}
			t.Then = append(t.Then, fsm.Operation{Kind: fsm.OpPut, Store: store, Key: key, Value: e.raw})
		}
	}
	return t
}

// seeded counts what a session begins with.
func seeded(t *fsm.Txn) fsm.Counts {
	stores := map[string]struct{}{fsm.DefaultStore: {}}
	var n fsm.Counts
	if t != nil {
		for i := range t.Then {
			put := &t.Then[i]
			stores[put.Store] = struct{}{}
			n.Keys, n.Bytes = n.Keys+1, n.Bytes+len(put.Key)+len(put.Value)
		}
	}
	n.Stores = len(stores)
	return n
}

// deleteRoom answers DELETE /v1/rooms/{room}: it ends the session now. With an
// Idempotency-Key, or naming the session, a repeat cannot end the next one.
func (s *Server) deleteRoom(c *gin.Context, in *input) error {
	cmd := writing(in, fsm.CommandEnd)
	r, err := s.do(in, cmd, "")
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, r.Rev, revision(r.Rev)(nil))
}
