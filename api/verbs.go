package api

import (
	"slices"
	"strconv"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
	"conclave/fsm"
)

// request is one message of a client.
type request struct {
	id     uint64
	do     string
	o      *object
	weight int  // bytes that count towards windowBytes until it is answered
	repeat bool // it was sent before: the log may have it
}

// verbs are the requests of a socket after hello. They run on the reader's
// goroutine, in the order sent; each takes its members, refuses what is wrong
// and sees to it that the request is answered once.
var verbs = map[string]func(*socket, *request){
	"get":         (*socket).get,
	"list":        (*socket).list,
	"put":         (*socket).change,
	"delete":      (*socket).change,
	"update":      (*socket).change,
	"append":      (*socket).change,
	"remove":      (*socket).change,
	"add":         (*socket).change,
	"patch":       (*socket).change,
	"merge":       (*socket).change,
	"replace":     (*socket).change,
	"txn":         (*socket).txn,
	"watch":       (*socket).watch,
	"unwatch":     (*socket).unwatch,
	"acquire":     (*socket).acquire,
	"renew":       (*socket).renew,
	"release":     (*socket).release,
	"cancel":      (*socket).cancel,
	"locks":       (*socket).locks,
	"validate":    (*socket).validate,
	"peers":       (*socket).peers,
	"send":        (*socket).sendMessage,
	"set_self":    (*socket).setSelf,
	"remove_peer": (*socket).removePeer,
	"leave":       (*socket).leave,
	"ping":        (*socket).pingVerb,
}

// laterVerbs are verbs of the protocol that this server does not have.
var laterVerbs = []string{"auth"}

// request dispatches an admitted request.
func (k *socket) request(r *request) {
	verb := verbs[r.do]
	r.repeat = r.id < k.hello
	switch {
	case r.do == "hello":
		k.greet(r)
		return
	case !k.greeted:
		r.o.refuse("do", "the first request is hello")
	case (r.id <= k.lastID || r.id == k.hello) && !k.mayRepeat(r):
		r.o.refuse("id", "must grow: %d was the last", max(k.lastID, k.hello))
	case r.do == "":
		r.o.refuse("do", "is missing")
	case slices.Contains(laterVerbs, r.do):
		r.o.refuse("do", "%s is not supported by this server", r.do)
	case verb == nil:
		r.o.refuse("do", "unknown verb %q", r.do)
	}
	k.lastID = max(k.lastID, r.id)
	if bad := r.o.fault.err; bad != nil {
		k.refuse(r, bad)
		return
	}
	verb(k, r)
}

// maxUnknown bounds the ids that may be repeated on their own connection; those
// beyond it are repeated on the next.
const maxUnknown = 1024

// mayRepeat reports whether a request was answered unknown_outcome, and takes
// note that it is asked again: the log knows it by its id.
func (k *socket) mayRepeat(r *request) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.unknown[r.id]
	delete(k.unknown, r.id)
	r.repeat = r.repeat || ok
	return ok
}

// push hands something to the writer.
func (k *socket) push(it item) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed {
		k.queue = append(k.queue, it)
		k.kick()
	}
}

// ok answers a request; body appends the answer. It runs on the writer's
// goroutine, so that answers take memory only while they are written.
func (k *socket) ok(r *request, body func([]byte) []byte) {
	k.push(item{answer: true, weight: r.weight, send: func() error { return k.sendOK(r, body) }})
}

// refuse answers a request with an error.
func (k *socket) refuse(r *request, e *wire.Error) {
	if e.Retry == wire.RetryUnknown {
		k.mu.Lock()
		if k.unknown == nil {
			k.unknown = make(map[uint64]struct{})
		}
		if len(k.unknown) < maxUnknown {
			k.unknown[r.id] = struct{}{}
		}
		k.mu.Unlock()
	}
	k.push(item{answer: true, weight: r.weight, send: func() error { return k.sendError(r, e) }})
}

// explain is what a client is told of an error; a bug is logged.
func (k *socket) explain(r *request, err error) *wire.Error {
	e := wireError(err)
	if e.Code == wire.Internal {
		e = k.server.bug(err, "room", k.room, "do", r.do)
	}
	return e
}

// sendOK, sendError and send write one frame now, on the writer's goroutine.
func (k *socket) sendOK(r *request, body func([]byte) []byte) error {
	return k.send(func(b []byte) []byte {
		b = strconv.AppendUint(append(b, `{"id":`...), r.id, 10)
		return append(body(append(b, `,"ok":`...)), '}')
	})
}

func (k *socket) sendError(r *request, e *wire.Error) error {
	return k.send(func(b []byte) []byte {
		b = strconv.AppendUint(append(b, `{"id":`...), r.id, 10)
		return append(append(append(b, `,"error":`...), marshal(e)...), '}')
	})
}

func (k *socket) send(appendTo func([]byte) []byte) error {
	buf := takeBuffer()
	b := appendTo(*buf)
	defer giveBuffer(buf, b)
	return k.out.frame(0, b)
}

// command makes a command of this socket's peer. Its identity is the client's
// handle and the request's id, so that a repeat is answered from memory.
func (k *socket) command(r *request, kind fsm.CommandKind) *fsm.Command {
	return &fsm.Command{
		Kind: kind, Room: k.room, Session: k.session, Caller: k.caller, Client: k.client, Request: r.id,
	}
}

// submit hands a command to the socket's lane. then takes its result if it was
// not refused; it must not block.
func (k *socket) submit(r *request, c *fsm.Command, then func(*fsm.Result)) {
	if !k.admitted(r, c) {
		return
	}
	k.hand(c, func(res *fsm.Result, err error) {
		if err := outcome(res, err); err != nil {
			k.refused(r, err)
		} else {
			then(res)
		}
	})
}

// refused answers a command that came to nothing. What the leader has to say about
// it is asked for aside.
func (k *socket) refused(r *request, err error) {
	if no, ok := err.(*fsm.Refusal); ok && no.Code == fsm.CodeLocked {
		k.start(func() { k.refuse(r, k.explain(r, k.server.refusalOf(k.hub.ctx, k.room, err))) })
		return
	}
	k.refuse(r, k.explain(r, err))
}

// admitted is all that a request must pass before its command is handed to the log:
// its form, then what every command passes, then the rate. It refuses the request
// otherwise. What was sent before is not refused at once as too fast, for "not
// applied" may be untrue of its earlier copy.
func (k *socket) admitted(r *request, c *fsm.Command) bool {
	bad := r.o.done()
	if bad == nil {
		bad = k.server.admit(c)
	}
	if bad == nil {
		bad = k.server.charge(c, k.session, k.quota, r.repeat)
	}
	if bad != nil {
		k.refuse(r, bad)
	}
	return bad == nil
}

// hand hands a checked command to the lane. Reads sent after it wait until done
// has been called, which must not block.
func (k *socket) hand(c *fsm.Command, done func(*fsm.Result, error)) {
	k.mu.Lock()
	k.sent++
	k.mu.Unlock()
	k.lane.Submit(c, func(res *fsm.Result, err error) {
		done(res, err)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.done++
		k.startReads()
	})
}

// revision appends the body of answers that have nothing else to say.
func revision(rev uint64) func([]byte) []byte {
	return func(b []byte) []byte {
		return append(strconv.AppendUint(append(b, `{"rev":`...), rev, 10), '}')
	}
}

func nothing(b []byte) []byte { return append(b, '{', '}') }

// change is every verb that is one write.
func (k *socket) change(r *request) {
	op := r.o.operation(r.do, k.caller)
	c := k.command(r, fsm.CommandTxn)
	c.Txn = single(op)
	kind := op.Kind // so that op need not live on
	// A result without a refusal has one OpResult for the one operation.
	k.submit(r, c, func(res *fsm.Result) {
		k.ok(r, func(b []byte) []byte { return appendVerb(b, kind, res) })
	})
}

func (k *socket) txn(r *request) {
	c := k.command(r, fsm.CommandTxn)
	c.Txn = r.o.transaction(k.caller)
	values := 0
	for _, branch := range [][]fsm.Operation{c.Txn.Then, c.Txn.Else} {
		for i := range branch {
			if kind := branch[i].Kind; kind == fsm.OpGet || computes(kind) {
				values++
			}
		}
	}
	// A small transaction may read much: it counts as what it may be answered with.
	k.reserve(r, values*valueBytes)
	k.submit(r, c, func(res *fsm.Result) {
		k.ok(r, func(b []byte) []byte { return appendTxnResult(b, c.Txn, res) })
	})
}

// valueBytes is what an operation of a transaction that answers a value may: the
// largest of the standard profile.
const valueBytes = 64 << 10

func (k *socket) setSelf(r *request) {
	if !k.mustBePeer(r) {
		return
	}
	// What is left out stays as it is, so an empty string must be told from none.
	c := k.command(r, fsm.CommandSetPeer)
	c.Target = k.caller.Peer
	c.SetPeer = &fsm.SetPeer{Data: r.o.raw("data")}
	if r.o.has("name") {
		name := r.o.bounded("name", maxPeerName)
		c.SetPeer.Name = &name
	}
	if r.o.has("ref") {
		ref := r.o.bounded("ref", maxPeerRef)
		c.SetPeer.Ref = &ref
	}
	if c.SetPeer.Data == nil && c.SetPeer.Name == nil && c.SetPeer.Ref == nil {
		r.o.refuse("do", "set_self needs one of data, name, ref")
	}
	k.submit(r, c, func(res *fsm.Result) { k.ok(r, revision(res.Rev)) })
}

// removePeer sends a peer away; its socket is closed with 4102.
func (k *socket) removePeer(r *request) {
	c := k.command(r, fsm.CommandLeave)
	c.Target, _ = r.o.str("peer")
	if c.Reason = "removed"; badID(c.Target) {
		r.o.refuse("peer", "is not the id of a peer")
	}
	k.submit(r, c, func(res *fsm.Result) { k.ok(r, revision(res.Rev)) })
}

// leave ends the peer, and with the answer the connection.
func (k *socket) leave(r *request) {
	if bad := r.o.done(); bad != nil {
		k.refuse(r, bad)
		return
	}
	if k.caller.Kind != fsm.CallerPeer {
		k.ok(r, nothing)
		k.end(websocket.CloseNormalClosure, "left")
		return
	}
	// From now on the peer's absence is expected. Should the leave fail, the end of
	// the socket still says goodbye for it.
	k.setLeaving(true, false)
	c := k.command(r, fsm.CommandLeave)
	c.Target, c.Reason = k.caller.Peer, "left"
	k.hand(c, func(res *fsm.Result, err error) {
		if err := outcome(res, err); err != nil {
			k.setLeaving(false, false)
			k.refuse(r, k.explain(r, err))
			return
		}
		k.setLeaving(true, true)
		k.ok(r, nothing)
		k.end(websocket.CloseNormalClosure, "left")
	})
}

func (k *socket) setLeaving(leaving, left bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.leaving, k.left = leaving, left
}

func (k *socket) pingVerb(r *request) {
	if bad := r.o.done(); bad != nil {
		k.refuse(r, bad)
		return
	}
	k.ok(r, func(b []byte) []byte {
		b = strconv.AppendUint(append(b, `{"rev":`...), k.stream.cursor, 10)
		return append(appendTime(appendName(b, "now"), wallNow()), '}')
	})
}

// mustBePeer refuses what needs a peer from somebody who only observes.
func (k *socket) mustBePeer(r *request) bool {
	if k.caller.Kind != fsm.CallerPeer {
		k.refuse(r, wire.Errorf(wire.BadRequest, "do: %s is for peers, not observers", r.do).With("field", "do"))
		return false
	}
	return true
}
