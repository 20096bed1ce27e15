package cluster

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"conclave/fsm"
)

// Ephemeral is a message that goes past the log: to who watches its session now,
// on any node, at most once. It is never changed.
type Ephemeral struct {
	Room    string      `cbor:"1,keyasint"`
	Session string      `cbor:"2,keyasint"` // a late one must not reach the room's next
	Rev     uint64      `cbor:"3,keyasint"` // of the state of the node where it was sent
	By      fsm.By      `cbor:"4,keyasint"`
	Message fsm.Message `cbor:"5,keyasint"`

	event *fsm.Event
	key   string
	wire  []byte // as nodes send it; of the relay's goroutine
}

// NewEphemeral makes a message of a session as of a revision. m must not be
// changed afterwards.
func NewEphemeral(room, session string, rev uint64, by fsm.By, m *fsm.Message) *Ephemeral {
	e := &Ephemeral{Room: room, Session: session, Rev: rev, By: by, Message: *m}
	e.prepare()
	return e
}

// prepare makes what is not sent along.
func (e *Ephemeral) prepare() {
	m := &e.Message
	e.event = m.Event(e.By, e.Rev)
	parts := []string{e.Room, string('0' + rune(e.By.Kind)), e.By.Peer, e.By.User, m.Topic}
	if len(m.Peers)+len(m.Refs)+len(m.Roles) > 0 {
		h := sha256.New()
		for _, list := range [...][]string{m.Peers, m.Refs, m.Roles} {
			fmt.Fprintf(h, "%q", list)
		}
		parts = append(parts, string(h.Sum(nil)))
	}
	e.key = strings.Join(parts, "\x00") // names have no NUL
}

// check refuses what no node of this version sends.
func (e *Ephemeral) check() error {
	if e.Room == "" || e.Session == "" || e.By.Kind > fsm.CallerSystem {
		return fmt.Errorf("an ephemeral message without room, session or sender")
	}
	if no := e.Message.Check(); no != nil {
		return no
	}
	return nil
}

// Event is the message as watchers hear of it; its revision says no more than who
// had joined when it was sent.
func (e *Ephemeral) Event() *fsm.Event { return e.event }

// Size is about what the message takes while it waits.
func (e *Ephemeral) Size() int {
	n := 256 + len(e.key) + len(e.Message.Data)
	for _, list := range [...][]string{e.Message.Peers, e.Message.Refs, e.Message.Roles} {
		for _, name := range list {
			n += 16 + len(name)
		}
	}
	return n
}
