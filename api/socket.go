package api

import (
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/gorilla/websocket"

	"conclave/client/wire"
	"conclave/cluster"
	"conclave/fsm"
)

// lingerTime is how long the other side may take to answer a close frame. What it
// still sends is thrown away, so that it gets to read why it was closed.
const lingerTime = 5 * time.Second

// upgrader keeps sockets small: gorilla writes nothing but rare control frames,
// so it gets no write buffer of its own for each.
var upgrader = websocket.Upgrader{
	ReadBufferSize:  1024,
	WriteBufferPool: &sync.Pool{},
	CheckOrigin:     func(*http.Request) bool { return true }, // refused with a close code instead
	Error: func(w http.ResponseWriter, _ *http.Request, _ int, reason error) {
		writeProblem(w, wire.Errorf(wire.BadRequest, "%v", reason).With("field", "upgrade"))
	},
}

// socket is one WebSocket connection. It has one goroutine while nothing happens:
// the reader, which owns the requests and their order. The writer runs while
// there is something to write; it owns the outbox and the stream. What both touch
// is guarded by mu. Neither ever waits for another socket, and nobody who applies
// the log waits for either.
type socket struct {
	server *Server
	hub    *hub
	ws     *websocket.Conn
	room   string
	token  string // of the upgrade request
	lane   Lane
	since  time.Time

	heard atomic.Int64 // Unix ms of the last sign of life

	// Of the reader: set by hello, before anybody else learns of it.
	greeted  bool
	caller   fsm.Caller // its peer is set with mu, together with joined
	session  string
	client   string
	quota    quota  // of the session, if this is a peer
	hello    uint64 // its id
	hellos   level  // how many were said
	lastID   uint64
	byClient int // close code that the client sent, 0 for none

	// Of the writer.
	out     outbox
	stream  *stream   // nil before hello
	doubted time.Time // since when another connection of this client seems to have the peer

	mu        sync.Mutex
	changed   sync.Cond // of anything below
	busy      int       // goroutines besides the reader
	writing   bool      // the writer is one of them
	dirty     bool      // there may be something to write
	watching  bool      // the stream has filters, or may get some in the writer's round
	queue     []item    // to be written, in this order
	joined    bool      // hello has been answered
	leaving   bool      // the peer is leaving by itself: its absence is no surprise
	left      bool      // and has left
	ending    int       // close code that is to be sent, 0 for none
	endText   string
	closed    bool // nothing is written any more
	open      int  // requests without an answer
	openBytes int
	sent      uint64 // writes submitted
	done      uint64 // writes with a result
	reads     []read // in the order sent
	reading   bool   // a goroutine runs them
	waits     map[uint64]*wait
	unknown   map[uint64]struct{} // ids answered unknown_outcome: they may be repeated here
	pong      []byte              // payload of a ping to be answered
	ping      bool                // ask for a sign of life
	pinged    int64               // Unix ms of the last
	bookmark  bool
	inbox     inbox
	told      int64 // Unix ms of the last write
}

// item is something for the writer: what to do, and what is answered by it.
type item struct {
	send   func() error
	answer bool
	weight int
}

// serveSocket answers GET …/socket. The handler returns at once, so that nothing
// of net/http's or gin's is held for the life of the socket.
func (s *Server) serveSocket(c *gin.Context) {
	in := newInput(c)
	room := in.room()
	if err := in.done(); err != nil {
		s.fail(c, err)
		return
	}
	ws, err := upgrader.Upgrade(c.Writer, c.Request, nil)
	if err != nil {
		return // the upgrader has answered
	}
	k := &socket{
		server: s, hub: s.hub, ws: ws, room: room, token: bearer(c.Request), lane: s.node.NewLane(), since: time.Now(),
	}
	k.changed.L = &k.mu
	limitUnsent(ws.NetConn())
	k.out = outbox{conn: ws.NetConn(), stall: s.hub.pace.Stall, stop: k.isEnding, moves: k.hear}
	k.told = k.since.UnixMilli()
	k.heard.Store(k.told)
	allowed := s.originAllowed(c.Request)
	full, draining := s.hub.add(k)
	switch {
	case draining || full:
		refuseSocket(ws, full)
		return
	case !allowed:
		k.end(wire.CloseForbidden, "this origin is not allowed")
	}
	go k.serve()
}

// refuseSocket closes a socket that the hub did not take.
func refuseSocket(ws *websocket.Conn, full bool) {
	code, text := wire.CloseDraining, "this node is draining"
	if full {
		code, text = wire.CloseTooMany, "too many connections"
	}
	deadline := time.Now().Add(time.Second)
	// Whether it arrives or not, the socket is closed.
	_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), deadline)
	_ = ws.SetReadDeadline(deadline)
	for {
		if _, _, err := ws.NextReader(); err != nil {
			_ = ws.Close()
			return
		}
	}
}

// hear notes a sign of life.
func (k *socket) hear() { k.heard.Store(time.Now().UnixMilli()) }

// start runs f in a goroutine that the end of the socket waits for.
func (k *socket) start(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.spawn(f)
}

// spawn is start for callers that hold mu.
func (k *socket) spawn(f func()) {
	k.busy++
	go func() {
		f()
		k.mu.Lock()
		defer k.mu.Unlock()
		k.busy--
		k.changed.Broadcast()
	}()
}

// end has the socket closed with a code, once what is queued is written. The
// first one counts.
func (k *socket) end(code int, text string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ending == 0 {
		k.ending, k.endText = code, text
		k.changed.Broadcast()
		k.kick()
	}
}

func (k *socket) isEnding() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ending != 0
}

// finish is the end of the reader: nothing comes from the client any more.
func (k *socket) finish() {
	c := k.farewell()
	// The client's code is answered first: once the log has the farewell, the writer
	// would find a peer that is no longer this socket's.
	if k.byClient != 0 {
		k.end(replyCode(k.byClient), "")
	}
	if c != nil {
		k.hub.goodbye(k.lane, c)
	}
	if k.byClient != 0 {
		k.awaitClosed()
	}
	k.mu.Lock()
	k.closed = true
	if k.ending == 0 {
		k.ending = wire.CloseSlow // wakes a writer in the middle of a long round
	}
	waits := k.waits
	k.waits = nil
	k.changed.Broadcast()
	k.mu.Unlock()
	_ = k.ws.Close() // there is nobody left to tell
	for _, w := range waits {
		w.forget()
	}
	k.mu.Lock()
	for k.busy > 0 {
		k.changed.Wait()
	}
	k.mu.Unlock()
	if k.stream != nil { // the writer is gone
		k.stream.watch(nil)
	}
	k.hub.remove(k)
}

// farewell is what the log must be told of the peer: it leaves if its client said
// so, else it is detached and may come back. Nil when there is nothing to tell.
func (k *socket) farewell() *fsm.Command {
	k.mu.Lock()
	peer := k.joined && !k.left && k.caller.Kind == fsm.CallerPeer
	switch k.ending {
	case wire.CloseReplaced, wire.CloseSessionEnded, wire.CloseRemoved:
		peer = false // another connection's, or nobody's
	}
	k.leaving = k.leaving || k.byClient == websocket.CloseNormalClosure
	leaves := k.leaving
	k.mu.Unlock()
	if !peer {
		return nil
	}
	c := &fsm.Command{Kind: fsm.CommandDetach, Room: k.room, Session: k.session, Caller: k.caller, Target: k.caller.Peer}
	if leaves {
		c.Kind, c.Reason = fsm.CommandLeave, "left"
	}
	return c
}

// replyCode answers a client's close frame: with the same code where that may be
// sent (RFC 6455, section 7.4.1).
func replyCode(code int) int {
	if code == websocket.CloseNoStatusReceived {
		return websocket.CloseNormalClosure
	}
	return code
}

// awaitClosed waits until the writer has sent the close frame or given up.
func (k *socket) awaitClosed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for !k.closed {
		k.changed.Wait()
	}
}

// The methods of a watcher.

func (k *socket) watches() string { return k.room }

// wake has a socket that watches nothing look only when it may have lost its
// peer: else each of a full room's peers would look up whenever another joins.
func (k *socket) wake(list []news) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.joined && (k.watching || list == nil || concern(list, k.caller.Peer)) {
		k.kick()
	}
}

// concern reports whether any news may mean the end of a peer's attachment.
func concern(list []news, peer string) bool {
	return slices.ContainsFunc(list, func(n news) bool {
		_, moved := slices.BinarySearch(n.Moved, peer)
		return moved || n.Ended
	})
}

func (k *socket) offer(b *cluster.Burst, m *metrics) {
	if k.inbox.wants.Load() == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.closed && k.inbox.put(b, k.caller.Peer, m) {
		k.kick()
	}
}

func (k *socket) drain() { k.end(wire.CloseDraining, "this node is draining") }

// kill closes the connection under the socket's feet. A TLS connection may take
// its time to say goodbye, so nobody waits for it.
func (k *socket) kill() { go func(conn net.Conn) { _ = conn.Close() }(k.ws.NetConn()) }

func (k *socket) tick(t moment) {
	pace := &k.hub.pace
	now := t.now.UnixMilli()
	silent := time.Duration(now-k.heard.Load()) * time.Millisecond
	k.mu.Lock()
	greeted := k.joined || t.now.Sub(k.since) < pace.Greeting
	if silent >= pace.Ping && now-k.pinged >= pace.Ping.Milliseconds() {
		k.ping, k.pinged = true, now
		k.kick()
	}
	// Early by two ticks and a little, so that the wait is never longer than Ping.
	if k.joined && now-k.told >= pace.Ping.Milliseconds()*7/10 {
		k.bookmark = true
		k.kick()
	}
	k.mu.Unlock()
	switch {
	case !greeted:
		k.end(wire.CloseProtocol, "no hello in time")
	case t.leaderless:
		k.end(wire.CloseNoQuorum, "this node sees no leader")
	}
	if silent >= 3*pace.Ping {
		k.kill()
	}
}
