package api

import (
	"net/http"
	"sync/atomic"

	"github.com/gin-gonic/gin"

	"conclave/cluster"
	"conclave/fsm"
)

// Ephemeral messages take no part in the log. The node where one is sent checks it
// by its own copy of the state, gives it to its own watchers and relays it to the
// other nodes, which do the same.

// The bounds of what waits for one watcher that is slow.
const (
	maxWaiting      = 1024
	maxWaitingBytes = 256 << 10
)

// passOn sends an ephemeral message of a caller, if its session, as of v, takes it.
func (s *Server) passOn(v *fsm.View, session *fsm.Session, by fsm.Caller, m *fsm.Message) error {
	author, no := session.Ephemeral(m, by)
	if no != nil {
		return no
	}
	// Of a bucket of their own: cursors must not use up what their peer may write.
	if bad := s.count(&by, session.Room, session.ID, quotaOf(session), true, 0); bad != nil {
		return bad
	}
	e := cluster.NewEphemeral(session.Room, session.ID, v.Rev(), author, m)
	s.hub.pass([]*cluster.Ephemeral{e})
	s.node.Relay(e)
	return nil
}

// sendMessage is the verb send: a write, unless the message is ephemeral.
func (k *socket) sendMessage(r *request) {
	if !r.o.flag("ephemeral") {
		k.change(r)
		return
	}
	m := r.o.message()
	if bad := r.o.done(); bad != nil {
		k.refuse(r, bad)
		return
	}
	v := k.server.node.View()
	// An earlier connection may have sent this one already: once is enough.
	if r.id < k.hello {
		k.ok(r, revision(v.Rev()))
		return
	}
	if session, err := liveSession(v, k.room, k.session); err == nil {
		k.passOn(r, v, session, m)
		return
	}
	// Only what a majority confirms is a reason to say no.
	k.read(r, read{run: func(v *fsm.View) {
		session, err := liveSession(v, k.room, k.session)
		if err != nil {
			k.refuse(r, k.explain(r, err))
			return
		}
		k.passOn(r, v, session, m)
	}})
}

// passOn sends an ephemeral message and answers its request.
func (k *socket) passOn(r *request, v *fsm.View, session *fsm.Session, m *fsm.Message) {
	if err := k.server.passOn(v, session, k.caller, m); err != nil {
		k.refuse(r, k.explain(r, err))
		return
	}
	k.ok(r, revision(v.Rev()))
}

// postEphemeral answers POST …/messages of an ephemeral message.
func (s *Server) postEphemeral(c *gin.Context, in *input, cmd *fsm.Command, m *fsm.Message) error {
	if cmd.Open != nil {
		in.refuse("open_ms", "an ephemeral message opens no session")
	}
	if err := in.done(); err != nil {
		return err
	}
	by, err := s.caller(in.request(), cmd.Room, "")
	if err != nil {
		return err
	}
	v, err := s.node.Stale()
	if err != nil {
		return err
	}
	session, err := liveSession(v, cmd.Room, cmd.Session)
	if err != nil { // this node may not have heard of it yet
		if v, err = s.node.Read(in.request().Context()); err == nil {
			session, err = liveSession(v, cmd.Room, cmd.Session)
		}
	}
	if err == nil {
		err = s.passOn(v, session, by, m)
	}
	if err != nil {
		return err
	}
	return answer(c, http.StatusOK, v.Rev(), revision(v.Rev())(nil))
}

// inbox is what of ephemeral messages waits for one watcher. While nothing does it
// takes no memory.
type inbox struct {
	// wants are the filters that let messages through, nil when none does. The
	// stream sets it; whoever has messages reads it.
	wants   atomic.Pointer[filters]
	waiting cluster.Latest // guarded by mu of the watcher
}

// want says what the watcher watches from now on.
func (b *inbox) want(fs filters) {
	fs = fs.ofMessages()
	if len(fs) == 0 {
		b.wants.Store(nil)
		return
	}
	b.wants.Store(&fs)
}

// put takes in what the watcher, a peer or "", wants of a burst, and reports whether
// it wants any of it. Callers hold mu of the watcher.
func (b *inbox) put(burst *cluster.Burst, self string, m *metrics) bool {
	fs := b.wants.Load()
	if fs == nil {
		return false
	}
	wanted := false
	// Whom the names of the recipients mean is up to the stream, which knows the
	// state that the watcher has got.
	superseded, lost := b.waiting.Add(burst, func(e *cluster.Ephemeral) bool {
		own := self != "" && e.By.Peer == self
		public := len(e.Message.Peers)+len(e.Message.Refs)+len(e.Message.Roles) == 0
		keep := (!own || e.Message.Echo) && (self != "" || public) && fs.passes(e.Event())
		wanted = wanted || keep
		return keep
	}, maxWaiting, maxWaitingBytes)
	m.superseded.Add(float64(superseded))
	m.lost.Add(float64(lost))
	return wanted
}

// take takes out all that waits. Callers hold mu of the watcher.
func (b *inbox) take() []*cluster.Ephemeral { return b.waiting.Take(maxWaitingBytes) }

// pass sends what of ephemeral messages is for the watcher, in one frame. All
// events up to v were sent before, so nobody speaks who has not joined. It returns
// those for which it is too early: their sender's node is ahead of this one.
func (s *stream) pass(es []*cluster.Ephemeral, v *fsm.View, session *fsm.Session) (early []*cluster.Ephemeral, err error) {
	if len(es) == 0 {
		return nil, nil
	}
	buf := takeBuffer()
	b := append(*buf, `{"ephemeral":[`...)
	sent := 0
	for _, e := range es {
		here := session != nil && session.ID == e.Session && (e.By.Kind != fsm.CallerPeer || session.Peer(e.By.Peer) != nil)
		switch {
		case !here && e.Rev > v.Rev():
			early = append(early, e)
			continue
		case !here, !s.passes(e.Event()): // if not here: the session is over, or its sender has left
			continue
		}
		if sent++; sent > 1 {
			b = append(b, ',')
		}
		b = append(b, e.Event().Encoded(encodeEphemeral)...)
	}
	b = append(b, ']', '}')
	defer giveBuffer(buf, b)
	if sent == 0 {
		return early, nil
	}
	s.metrics.ephemeral.Add(float64(sent))
	return early, s.out.frame(0, b)
}

// encodeEphemeral is an ephemeral message as every watcher receives it.
func encodeEphemeral(e *fsm.Event) []byte {
	b := appendString(append(make([]byte, 0, 160+len(e.Data)), `{"topic":`...), e.Topic)
	b = appendRaw(b, "data", e.Data)
	return append(appendBy(appendName(b, "from"), e.By), '}')
}
