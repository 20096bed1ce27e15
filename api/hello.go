package api

import (
	"time"

	"conclave/client/wire"
	"conclave/fsm"
)

// maxClient bounds the name of a client's handle, in bytes.
const maxClient = 128

// hello is the first request of a socket. Members that this server does not know
// are ignored, so that newer clients may say more.
type hello struct {
	client  string
	token   string // here rather than in a header, which browsers cannot set
	observe bool
	join    fsm.Join
	watch   filters
	resume  *resume
}

// resume names what an earlier connection had.
type resume struct {
	session   string
	peer, key string  // "" for observers
	rev       *uint64 // nil: only the peer is resumed, not the stream
}

func parseHello(r *request) (*hello, *wire.Error) {
	o := r.o
	if v, ok := o.number("v", 1, maxNumber-1); ok && v != wire.Version {
		o.refuse("v", "this server speaks version %d", wire.Version)
	} else if !ok {
		o.refuse("v", "is missing")
	}
	h := &hello{client: o.bounded("client", maxClient), observe: o.flag("observe")}
	h.token, _ = o.str("token")
	h.join = fsm.Join{
		Name: o.bounded("name", maxPeerName), Ref: o.bounded("ref", maxPeerRef), Data: o.raw("data"),
	}
	h.watch = o.filters(r.id, true)
	if from := o.object("resume"); from != nil {
		h.resume = from.resume(h.observe)
	}
	if o.fault.err != nil {
		return nil, o.fault.err
	}
	if h.client == "" {
		h.client = randomName("c") // then nobody can repeat its requests
	}
	return h, h.watch.fits()
}

func (o *object) resume(observe bool) *resume {
	from := &resume{rev: o.counter("rev", 0)}
	from.session, _ = o.str("session")
	if badID(from.session) {
		o.refuse("session", "is not the id of a session")
	}
	if observe {
		return from
	}
	from.peer, _ = o.str("peer")
	from.key, _ = o.str("key")
	if from.peer != "" && badID(from.peer) {
		o.refuse("peer", "is not the id of a peer")
	}
	if (from.peer == "") != (from.key == "") {
		o.refuse("key", "and peer go together")
	}
	return from
}

// greet answers hello. Nothing else of the socket runs meanwhile: what was sent
// after it waits.
func (k *socket) greet(r *request) {
	if k.greeted {
		k.refuse(r, wire.Errorf(wire.BadRequest, "do: hello was said").With("field", "do"))
		return
	}
	h, bad := parseHello(r)
	if bad != nil {
		k.turnAway(r, bad)
		return
	}
	// What is refused may be said again, but each goes through the log.
	said, wait := k.hellos.take(k.server.meter.clock(), helloQuota, 0)
	if wait > 0 {
		k.turnAway(r, k.server.meter.refuse(countHello, helloQuota, wait))
		return
	}
	k.hellos = said
	token := h.token
	if token == "" {
		token = k.token
	}
	who, err := k.server.auth.Authenticate(token)
	if err != nil {
		k.turnAway(r, k.explain(r, err))
		return
	}
	k.caller = fsm.Caller{Kind: fsm.CallerServer, User: who.Subject}
	k.client, k.hello = h.client, r.id
	var entered *fsm.Result
	if h.observe {
		err = k.observe(h)
	} else {
		entered, err = k.enter(r, h)
	}
	if err != nil {
		k.turnAway(r, k.explain(r, err))
		return
	}
	k.begin(r, h, entered)
}

// turnAway refuses a hello. The client may say another, unless that is of no use.
func (k *socket) turnAway(r *request, e *wire.Error) {
	k.mu.Lock()
	k.since = time.Now()
	k.mu.Unlock()
	k.refuse(r, e)
	switch e.Code {
	case wire.SessionEnded:
		k.end(wire.CloseSessionEnded, e.Message)
	case wire.Unauthenticated:
		k.end(wire.CloseUnauthenticated, e.Message)
	}
}

// observe makes sure that what an observer sees is current, and that what it
// resumes is still there.
func (k *socket) observe(h *hello) error {
	v, err := k.server.node.Read(k.hub.ctx)
	if err != nil || h.resume == nil {
		return err
	}
	if h.resume.rev != nil {
		if v, err = k.server.node.WaitRev(k.hub.ctx, *h.resume.rev); err != nil {
			return err
		}
	}
	_, err = liveSession(v, k.room, h.resume.session)
	return err
}

// enter joins the room as a peer, or attaches the peer that is resumed. A peer
// whose grace is over is replaced by a new one, in the same session: a resume
// starts none.
func (k *socket) enter(r *request, h *hello) (*fsm.Result, error) {
	node := k.server.node
	if h.resume != nil {
		// First this: a hello refused after the attach would leave the peer attached
		// to a socket that does not serve it.
		if h.resume.rev != nil {
			if _, err := node.WaitRev(k.hub.ctx, *h.resume.rev); err != nil {
				return nil, err
			}
		}
		if h.resume.peer != "" {
			res, err := k.perform(&fsm.Command{
				Kind: fsm.CommandAttach, Room: k.room, Session: h.resume.session, Caller: k.caller,
				Attach: &fsm.Attach{
					Peer: h.resume.peer, Key: h.resume.key, Node: node.ID(), Incarnation: node.Incarnation(), Client: h.client,
				},
			})
			if err == nil || wireError(err).Code != wire.NotFound {
				return res, err
			}
		}
	}
	// The log remembers the join under the client's handle: a hello whose answer
	// was lost gets the same peer, under the key that it was given then.
	c := k.command(r, fsm.CommandJoin)
	c.Join = &h.join
	c.Join.Key, c.Join.Node, c.Join.Incarnation = randomName("k"), node.ID(), node.Incarnation()
	if h.resume != nil {
		c.Session = h.resume.session
	} else {
		c.Open, _ = k.server.opening("", 0)
	}
	if bad := k.server.admit(c); bad != nil {
		return nil, bad
	}
	return k.perform(c)
}

// perform hands a join or an attach to the lane and waits for its result.
func (k *socket) perform(c *fsm.Command) (res *fsm.Result, err error) {
	done := make(chan struct{})
	k.hand(c, func(r *fsm.Result, e error) {
		res, err = r, outcome(r, e)
		close(done)
	})
	<-done // within the store's deadline
	if err != nil && wireError(err).Code == wire.UnknownOutcome {
		k.hub.haunt(c, settleTime)
	}
	return res, err
}

// begin makes the socket a member: from here on it is woken, and its peer is its
// own to detach.
func (k *socket) begin(r *request, h *hello, entered *fsm.Result) {
	k.greeted = true
	k.token = "" // nothing asks for it again
	st := k.server.stream(k.room, &k.out, &k.inbox)
	if entered != nil {
		k.session = entered.Session
		st.pinned, st.session, st.self = true, entered.Session, entered.Peer
		if sess := k.server.node.View().Session(k.room); sess != nil {
			k.quota = quotaOf(sess)
		}
	}
	k.mu.Lock()
	if entered != nil {
		k.caller.Kind, k.caller.Peer, k.caller.Gen = fsm.CallerPeer, entered.Peer, entered.Gen
	}
	k.joined = true
	k.mu.Unlock()
	// From here on the stream is the writer's. The answer's revision is the
	// snapshot's, so the two are made together.
	k.push(item{answer: true, weight: r.weight, send: func() error {
		k.stream = st
		if h.resume != nil && h.resume.rev != nil && st.resume(h.resume.session, *h.resume.rev) {
			return k.goOn(r, h, entered)
		}
		return k.startAnew(r, h, entered)
	}})
}

// startAnew answers hello and starts the stream with a snapshot. It runs on the
// writer's goroutine, as goOn does.
func (k *socket) startAnew(r *request, h *hello, entered *fsm.Result) error {
	return k.stream.add(h.watch, r.id, func(v *fsm.View, session *fsm.Session) error {
		if err := k.sendWelcome(r, h, entered, v, session, false); err != nil {
			return err
		}
		if h.resume != nil && h.resume.rev != nil && len(h.watch) > 0 {
			if err := k.stream.sendReset(resetCompacted); err != nil {
				return err
			}
		}
		if entered == nil {
			return nil
		}
		return k.stream.messages(h.watch, entered.Rev, v)
	})
}

// goOn answers hello and goes on with the stream where it broke off. Filters that
// ask for a snapshot get one, after the events that were missed.
func (k *socket) goOn(r *request, h *hello, entered *fsm.Result) error {
	v := k.server.node.View()
	if err := k.sendWelcome(r, h, entered, v, v.Session(k.room), true); err != nil {
		return err
	}
	k.stream.watch(h.watch)
	v, session, err := k.stream.follow()
	if err != nil {
		return err
	}
	var fresh filters
	for _, f := range h.watch {
		if f.snapshot {
			fresh = append(fresh, f)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	return k.stream.snapshot(v, session, fresh, r.id)
}

// sendWelcome writes the answer to hello.
func (k *socket) sendWelcome(r *request, h *hello, entered *fsm.Result, v *fsm.View, session *fsm.Session, streamed bool) error {
	ok := wire.Welcome{
		V: wire.Version, Features: k.server.common(), Rev: v.Rev(), Now: formatTime(wallNow()), Node: k.server.node.ID(),
		StreamResumed: streamed, PingMs: k.hub.pace.Ping.Milliseconds(), Window: window,
	}
	if session != nil {
		ok.Session = &session.ID
		limits := wire.Limits(session.Limits)
		ok.Limits, ok.GraceMs = &limits, &session.Grace
	}
	if entered != nil {
		ok.Session, ok.Peer, ok.ResumeKey = &k.session, entered.Peer, entered.Key
		ok.PeerResumed = h.resume != nil && h.resume.peer == entered.Peer
	}
	return k.sendOK(r, func(b []byte) []byte { return append(b, marshal(ok)...) })
}
