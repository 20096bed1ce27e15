package client

import (
	"context"
	"errors"
	"slices"

	"conclave/client/wire"
)

// Bounds of the ephemeral messages that wait for the consumer of a Watch. Beyond
// either, older ones give way to newer of their sender and topic, then the oldest go.
const (
	maxFleeting      = 256
	maxFleetingBytes = 256 << 10
)

// errAway is why an ephemeral message was not sent.
var errAway = errors.New("the connection is away")

// Ephemeral sends a message past the log: for cursors, reactions and the like. It
// takes no revision, nobody gets it later, and each gets it at most once; of
// messages that follow fast, who is slow gets the latest per sender and topic. While
// the connection is away Send fails at once, for it would come too late; and what a
// lost connection leaves unanswered is not sent again.
func Ephemeral() SendOption { return func(op *wire.Op) { op.Ephemeral = true } }

// sendEphemeral sends a message once.
func (r *Room) sendEphemeral(ctx context.Context, op *wire.Op) (rev uint64, err error) {
	req, err := newRequest(op.Do, op)
	if err != nil {
		return 0, err
	}
	req.once = true
	r.mu.Lock()
	err = r.ready(req)
	r.mu.Unlock()
	if err != nil { // rather than wait for a place in the window
		return 0, err
	}
	var ok wire.Done
	err = r.ask(ctx, req, &ok)
	return ok.Rev, err
}

// ready refuses what cannot be sent: anything when the room is over, and while the
// connection is away what is sent once. The caller holds mu.
func (r *Room) ready(req *request) error {
	switch {
	case r.err != nil:
		return &InterruptedError{Do: req.do, Err: r.err}
	case req.once && r.conn == nil:
		return &InterruptedError{Do: req.do, Err: errAway, Last: r.away}
	}
	return nil
}

// dropOnce ends the requests that are not sent again on the next connection. The
// caller holds mu.
func (r *Room) dropOnce(cause error) {
	for _, req := range r.pending {
		if req.once {
			r.finish(req, nil, &InterruptedError{Do: req.do, MayHaveApplied: true, Err: errAway, Last: cause})
		}
	}
}

// ephemeral queues what passes of ephemeral messages. The caller holds mu.
func (w *Watch) ephemeral(messages []wire.Ephemeral) {
	before := len(w.fleeting)
	for i := range messages {
		if m := &messages[i]; passes(w.filters, &wire.Event{Type: "message", Topic: m.Topic}) {
			w.fleeting = append(w.fleeting, *m)
			w.fleetingBytes += len(m.Data)
		}
	}
	if len(w.fleeting) > maxFleeting || w.fleetingBytes > maxFleetingBytes {
		w.thin()
	}
	if len(w.fleeting) > before {
		w.tell()
	}
}

// thin keeps the latest of each sender and topic, as far as there is room.
func (w *Watch) thin() {
	type place struct {
		topic string
		from  wire.By
	}
	seen := map[place]bool{}
	kept := make([]wire.Ephemeral, 0, maxFleeting)
	bytes := 0
	for i := len(w.fleeting) - 1; i >= 0 && len(kept) < maxFleeting; i-- {
		m := w.fleeting[i]
		at := place{m.Topic, m.From}
		if seen[at] {
			continue
		}
		if bytes += len(m.Data); bytes > maxFleetingBytes && len(kept) > 0 {
			bytes -= len(m.Data)
			break
		}
		seen[at] = true
		kept = append(kept, m)
	}
	slices.Reverse(kept)
	w.fleeting, w.fleetingBytes = kept, bytes
}
