package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/raft"
)

// Bounds of the relay.
const (
	// relayPause is how long messages are gathered for one request after another.
	// The first after a while goes at once.
	relayPause = 10 * time.Millisecond
	// relayFlying is how many requests to a member may be unanswered.
	relayFlying = 4
	// relayBytes is about what a request holds at most, unless it is one message.
	relayBytes = 64 << 10
	// What may wait: for the relay, and for each member that is slow or away.
	maxRelayItems = 16_384
	maxRelayBytes = 4 << 20
)

// relay carries ephemeral messages from this node to every other member, past the
// log. Each goes out once: what was under way when a connection broke is lost, not
// sent again. While a member is slow or away the latest messages wait for it.
//
// It owns one goroutine (run), which rests while there is nothing to send.
type relay struct {
	n    *Node
	kick chan struct{} // holds one: something may be sent

	mu         sync.Mutex
	fresh      []*Ephemeral // from this node's clients, for all members
	freshBytes int
	lines      map[raft.ServerID]*relayLine
	number     uint64 // of the last request
	heard      map[raft.ServerID]relayed
	takers     []*func([]*Ephemeral)
	superseded uint64
	lost       uint64
}

// relayLine is what goes to one member.
type relayLine struct {
	waiting Latest
	flying  int
	// away: the last request was not answered, so nothing more is risked until an
	// empty one is. The next goes at retry.
	away  bool
	retry time.Time
}

// relayed is the last request that came from a member: one that an old connection
// brings later is older, and would show cursors where they no longer are.
type relayed struct{ incarnation, number uint64 }

// relayRequest carries messages in the order of sending. Requests of an incarnation
// grow in number, also over several connections.
type relayRequest struct {
	Incarnation uint64            `cbor:"1,keyasint"`
	Number      uint64            `cbor:"2,keyasint"`
	Messages    []cbor.RawMessage `cbor:"3,keyasint,omitempty"` // of Ephemeral
}

func newRelay(n *Node) *relay {
	return &relay{
		n: n, kick: make(chan struct{}, 1), lines: map[raft.ServerID]*relayLine{}, heard: map[raft.ServerID]relayed{},
	}
}

// Relay sends a message on to the other members, to be delivered there at most
// once and in the order of the calls. It never waits, for nobody.
func (n *Node) Relay(e *Ephemeral) {
	r := n.relay
	r.mu.Lock()
	r.fresh = append(r.fresh, e)
	r.freshBytes += e.Size()
	for len(r.fresh) > maxRelayItems || r.freshBytes > maxRelayBytes && len(r.fresh) > 1 {
		r.freshBytes -= r.fresh[0].Size()
		r.fresh = r.fresh[1:]
		r.lost++
	}
	r.mu.Unlock()
	r.wake()
}

// ObserveEphemeral adds a function that gets the messages that other members send
// on, in their order. It must not block. remove stops it.
func (n *Node) ObserveEphemeral(f func([]*Ephemeral)) (remove func()) {
	r, entry := n.relay, &f
	r.mu.Lock()
	defer r.mu.Unlock()
	r.takers = append(r.takers[:len(r.takers):len(r.takers)], entry)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		var left []*func([]*Ephemeral)
		for _, t := range r.takers {
			if t != entry {
				left = append(left, t)
			}
		}
		r.takers = left
	}
}

// Relayed counts the messages that members did not get: those that gave way to
// newer ones while a member was slow or away, and those for which there was no room.
func (n *Node) Relayed() (superseded, lost uint64) {
	n.relay.mu.Lock()
	defer n.relay.mu.Unlock()
	return n.relay.superseded, n.relay.lost
}

func (r *relay) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// run sends what is to be sent, and lets more come together in between.
func (r *relay) run() {
	var retry <-chan time.Time // nil unless something waits for a member that is away
	for {
		select {
		case <-r.n.done:
			return
		case <-r.kick:
		case <-retry:
		}
		retry = nil
		if d := r.flush(time.Now()); d > 0 {
			retry = time.After(d)
		}
		if !r.n.pause(relayPause) {
			return
		}
	}
}

// outgoing is one request to one member.
type outgoing struct {
	to       raft.ServerID
	line     *relayLine
	messages []*Ephemeral // none: it asks whether the member is back
	number   uint64
}

// flush shares out what is fresh and sends what may be sent. It returns how long
// it is until a member that is away should be asked again, 0 if none.
func (r *relay) flush(now time.Time) (retry time.Duration) {
	members := r.n.configuration().Servers
	r.mu.Lock()
	fresh := r.fresh
	r.fresh, r.freshBytes = nil, 0
	r.share(fresh, members)
	var out []outgoing
	for _, m := range members { // in their order: the simulation repeats itself
		line := r.lines[m.ID]
		if line == nil {
			continue // this node itself
		}
		for line.sendable(now) {
			o := outgoing{to: m.ID, line: line}
			if !line.away {
				o.messages = line.waiting.Take(relayBytes)
			}
			r.number++
			o.number = r.number
			line.flying++
			line.retry = now.Add(r.n.timeout / 2)
			out = append(out, o)
		}
		if line.away && line.waiting.Len() > 0 {
			if d := max(line.retry.Sub(now), relayPause); retry == 0 || d < retry {
				retry = d
			}
		}
	}
	r.mu.Unlock()
	for _, o := range out {
		r.send(o)
	}
	return retry
}

// share puts messages into the lines of all other members. Of who is no member any
// more nothing is kept. The caller holds mu.
func (r *relay) share(fresh []*Ephemeral, members []raft.Server) {
	burst := NewBurst(fresh)
	lines := make(map[raft.ServerID]*relayLine, len(members))
	for _, m := range members {
		if m.ID == r.n.self.ServerID() {
			continue
		}
		line := r.lines[m.ID]
		if line == nil {
			line = &relayLine{}
		}
		lines[m.ID] = line
		superseded, lost := line.waiting.Add(burst, nil, maxRelayItems, maxRelayBytes)
		r.superseded += uint64(superseded)
		r.lost += uint64(lost)
	}
	r.lines = lines
}

// sendable reports whether a request may go now.
func (l *relayLine) sendable(now time.Time) bool {
	if l.away {
		return l.waiting.Len() > 0 && l.flying == 0 && !now.Before(l.retry)
	}
	return l.waiting.Len() > 0 && l.flying < relayFlying
}

// send sends one request. Only run calls it, so that they go in order.
func (r *relay) send(o outgoing) {
	req := relayRequest{Incarnation: r.n.incarnation, Number: o.number, Messages: make([]cbor.RawMessage, len(o.messages))}
	for i, e := range o.messages {
		if e.wire == nil { // one encoding for all members
			e.wire = encode(e)
		}
		req.Messages[i] = e.wire
	}
	ctx, cancel := context.WithTimeout(r.n.ctx, r.n.deadline) // not soon: what is given up is lost
	r.n.channel.Send(ctx, o.to, methodRelay, encode(req), func(_ []byte, err error) {
		cancel()
		r.answered(o.line, err)
	})
}

// answered notes that a member has, or has not, taken a request. A node that does
// not know the method counts as away, like one that does not answer.
func (r *relay) answered(line *relayLine, err error) {
	r.mu.Lock()
	line.flying--
	line.away = err != nil
	r.mu.Unlock()
	r.wake()
}

// serve takes what another member sends on. Whoever is no member is not listened
// to: its clients are no longer the cluster's.
func (r *relay) serve(from Identity, data []byte, reply func([]byte, error)) {
	var req relayRequest
	if err := decode(data, &req); err != nil {
		reply(nil, fmt.Errorf("decode %T: %w", req, err))
		return
	}
	messages := make([]*Ephemeral, len(req.Messages))
	for i, data := range req.Messages {
		e := &Ephemeral{}
		err := decode(data, e)
		if err == nil {
			err = e.check()
		}
		if err != nil {
			reply(nil, fmt.Errorf("message %d of a relay: %w", i, err))
			return
		}
		e.prepare()
		messages[i] = e
	}
	if _, member := r.n.member(from.ServerID()); !member {
		reply(nil, RemoteError("not a member"))
		return
	}
	if !r.take(from.ServerID(), req, messages) {
		reply(nil, RemoteError("a later request has come"))
		return
	}
	reply(nil, nil)
}

// take hands messages on, unless a later request of that member has come before.
func (r *relay) take(from raft.ServerID, req relayRequest, messages []*Ephemeral) bool {
	// The lock is held until all have the messages: two connections of a member must
	// not mix theirs.
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.heard[from]
	if req.Incarnation < last.incarnation || req.Incarnation == last.incarnation && req.Number <= last.number {
		return false
	}
	r.heard[from] = relayed{req.Incarnation, req.Number}
	if len(messages) > 0 {
		for _, f := range r.takers {
			(*f)(messages)
		}
	}
	return true
}
