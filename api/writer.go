package api

import (
	"errors"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"conclave/client/wire"
	"conclave/cluster"
	"conclave/fsm"
)

// work is what one round of the writer takes up.
type work struct {
	items    []item
	fleeting []*cluster.Ephemeral
	pong     []byte
	ping     bool
	bookmark bool
	ending   int
	endText  string
}

// kick has the writer look for something to write. Callers hold mu.
func (k *socket) kick() {
	k.dirty = true
	if !k.writing && !k.closed {
		k.writing = true
		k.spawn(k.write)
	}
}

// write is the writer's goroutine: it ends when there is nothing left to write.
func (k *socket) write() {
	for {
		w, ok := k.next()
		if !ok {
			return
		}
		err := k.fill(&w)
		if err == nil {
			err = k.out.flush()
		}
		k.wrote(&w)
		switch {
		case errors.Is(err, errSlow):
			k.end(wire.CloseSlow, err.Error())
		case err != nil && !errors.Is(err, errClosing):
			k.give(err)
			return
		}
		if w.ending != 0 {
			k.give(k.sendClose(w.ending, w.endText))
			return
		}
	}
}

// next takes what there is to do.
func (k *socket) next() (work, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.dirty || k.closed {
		k.writing = false
		return work{}, false
	}
	k.dirty = false
	w := work{k.queue, k.inbox.take(), k.pong, k.ping, k.bookmark, k.ending, k.endText}
	k.watching = k.watching || len(w.items) > 0
	k.queue, k.pong, k.ping, k.bookmark = nil, nil, false, false
	return w, true
}

// fill puts a round's frames into the outbox. Everything that an answer in it
// follows is published already, so the stream goes first: that is how the events
// of a write come before its answer.
func (k *socket) fill(w *work) error {
	if k.stream != nil {
		v, session, err := k.stream.follow()
		if err != nil {
			return err
		}
		if code, text := k.standing(v, session); code != 0 {
			k.end(code, text)
		} else if err := k.pass(w.fleeting, v, session); err != nil {
			return err
		}
	}
	for _, it := range w.items {
		if err := it.send(); err != nil {
			return err
		}
	}
	if w.pong != nil {
		if err := k.out.put(opPong, w.pong); err != nil {
			return err
		}
	}
	if w.bookmark && !k.out.wrote && k.stream != nil {
		if err := k.stream.bookmark(); err != nil {
			return err
		}
	}
	if w.ping {
		return k.out.put(opPing, nil)
	}
	return nil
}

// pass sends ephemeral messages. What comes too early waits for the next round,
// which the room's next change brings.
func (k *socket) pass(fleeting []*cluster.Ephemeral, v *fsm.View, session *fsm.Session) error {
	wrote := k.out.wrote
	early, err := k.stream.pass(fleeting, v, session)
	k.out.wrote = wrote // they put no bookmark off
	if len(early) > 0 {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.inbox.waiting.Return(early)
	}
	return err
}

// wrote settles what a round has answered.
func (k *socket) wrote(w *work) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, it := range w.items {
		if it.answer {
			k.open--
			k.openBytes -= it.weight
		}
	}
	k.watching = k.stream != nil && len(k.stream.filters) > 0
	if k.out.wrote {
		k.out.wrote = false
		k.told = time.Now().UnixMilli()
	}
	k.changed.Broadcast()
}

// sendClose writes the close frame and gives the client a moment to answer it.
func (k *socket) sendClose(code int, text string) error {
	if len(text) > 120 { // a control frame has 125 bytes
		text = strings.ToValidUTF8(text[:120], "")
	}
	err := k.out.put(opClose, websocket.FormatCloseMessage(code, text))
	if err == nil || errors.Is(err, errClosing) {
		err = k.out.flush()
	}
	if err == nil {
		err = k.ws.SetReadDeadline(time.Now().Add(lingerTime))
	}
	return err
}

// give says that nothing is written any more; with an error nothing is read
// either.
func (k *socket) give(err error) {
	k.mu.Lock()
	k.closed, k.writing = true, false
	if k.ending == 0 {
		k.ending = wire.CloseSlow
	}
	k.changed.Broadcast()
	k.mu.Unlock()
	if err != nil {
		_ = k.ws.Close() // the reader sees it
	}
}

// standing looks after the peer whose socket this is: what the log says of it
// decides, whatever this node believed. v is where the stream has come to, session
// its own there, nil when that is over.
func (k *socket) standing(v *fsm.View, session *fsm.Session) (code int, text string) {
	k.mu.Lock()
	left := k.leaving
	k.mu.Unlock()
	if left || k.caller.Kind != fsm.CallerPeer {
		return 0, ""
	}
	if session == nil {
		return wire.CloseSessionEnded, "the session has ended"
	}
	// The generation says whose the peer is now: a later one is that of a newer
	// connection, or of a detach that was not this socket's.
	switch p := k.stream.peer; {
	case p == nil:
		if k.outstayed(v) {
			return wire.CloseNoQuorum, "the cluster took this node for dead"
		}
		return wire.CloseRemoved, "removed from the room"
	case p.Gen <= k.caller.Gen:
		return 0, ""
	case p.Attached && p.Client == k.client && k.doubts():
		return 0, ""
	case p.Attached:
		return wire.CloseReplaced, "replaced by a newer connection of this peer"
	}
	return wire.CloseNoQuorum, "the peer was detached elsewhere"
}

// doubtTime is how long a socket waits to see whether the connection that took
// its peer over lives.
const doubtTime = time.Second

// doubts reports whether it is too early to tell who has this peer. A hello that
// an older connection of the same client sent may reach the log late, after that
// connection is gone: then its node detaches the peer in a moment, and the client
// is sent to come back. If nothing happens the other connection is the newer one.
func (k *socket) doubts() bool {
	if k.doubted.IsZero() {
		k.doubted = time.Now()
		time.AfterFunc(doubtTime, func() { k.wake(nil) })
	}
	return time.Since(k.doubted) < doubtTime
}

// outstayed reports whether the peer left because its grace ran out, which with a
// socket in place can only be while this node was cut off.
func (k *socket) outstayed(v *fsm.View) bool {
	ring := k.server.node.Ring(k.room)
	if ring == nil {
		return false
	}
	frames, _, _ := ring.After(max(k.caller.Gen, ring.Floor()), v.Rev(), 1<<30)
	for _, f := range frames {
		for _, e := range f.Events {
			if e.Type == fsm.EventPeer && e.State == "left" && e.Peer.ID == k.caller.Peer {
				return e.Reason == "grace"
			}
		}
	}
	return false
}
