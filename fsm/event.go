package fsm

import (
	"slices"
	"sync"

	"conclave/lock"
)

// EventType says what an event is about.
type EventType string

// The event types, as the wire names them.
const (
	EventPut     EventType = "put"
	EventDelete  EventType = "delete"
	EventLock    EventType = "lock"
	EventPeer    EventType = "peer"
	EventMessage EventType = "message"
	EventSession EventType = "session"
)

// Event is one change that watchers hear of. It is never changed once
// published, but for the cache of its encoding.
type Event struct {
	Type EventType
	Rev  uint64
	At   int64 // wall time, Unix ms
	By   By

	Store, Key string // put, delete, lock
	Entry      *Entry // put
	State      string // lock: acquired, released, expired, broken; peer: joined, updated, detached, attached, left; session: started, ended
	Owner      lock.Owner
	Fence      uint64
	Waiting    int         // lock: how many wait
	Peer       *Peer       // peer
	Session    string      // session
	Reason     string      // delete: deleted, expired, unbound, replaced; peer left: left, removed, grace, …; session ended: …
	Topic      string      // message
	Data       []byte      // message
	To         *Recipients // message

	once    sync.Once
	encoded []byte
}

// Encoded returns the event's encoding, made once by encode and shared by all
// watchers. The bytes must not be changed.
func (e *Event) Encoded(encode func(*Event) []byte) []byte {
	e.once.Do(func() { e.encoded = encode(e) })
	return e.encoded
}

// Recipients says who gets a message. Immutable.
type Recipients struct {
	Peers, Refs, Roles []string // all empty: everybody
	Sender             string   // the peer that sent it, "" if none did
	Echo               bool     // the sender gets it too, whoever else it is for
}

// For reports whether the event is for a peer as it is now, as far as that is up
// to the message: what the peer's rules let it read is the api's. A message is for
// nobody who joined after it was sent, and for nil, who watches without being a
// peer, if it is for everybody. All other events are for all.
func (e *Event) For(p *Peer) bool {
	to := e.To
	switch {
	case to == nil:
		return true
	case p == nil:
		return to.everybody()
	case p.JoinedRev > e.Rev:
		return false
	case p.ID == to.Sender:
		return to.Echo
	}
	return to.everybody() || slices.Contains(to.Peers, p.ID) ||
		p.Ref != "" && slices.Contains(to.Refs, p.Ref) || p.Role != "" && slices.Contains(to.Roles, p.Role)
}

func (to *Recipients) everybody() bool { return len(to.Peers)+len(to.Refs)+len(to.Roles) == 0 }

// Frame is all events of one revision in one room.
type Frame struct {
	Rev    uint64
	Events []*Event

	once    sync.Once
	encoded []byte
}

// Encoded is the frame for a watcher that sees all of its events, made once.
func (f *Frame) Encoded(encode func(*Frame) []byte) []byte {
	f.once.Do(func() { f.encoded = encode(f) })
	return f.encoded
}
