package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"conclave/client/wire"
)

// watchBytes bounds, about, the events that wait for the consumer of a Watch. A
// consumer that falls behind by more starts anew from a snapshot, which it gets
// when it comes back for it. Others on the same connection do not notice.
const watchBytes = 1 << 20

// watchState is how far a watch has come.
type watchState uint8

const (
	dropped watchState = iota // no server knows of it; its consumer asks anew
	asked                     // the request is unanswered
	loading                   // accepted; its snapshot is to come
	live                      // it gets events
)

// Watch delivers the changes of a room that its filters let through: a snapshot,
// then every change once and in the order of revisions, all events of one
// transaction together. That holds across lost connections and moves to other
// nodes. Where it cannot be kept up (the servers no longer know the changes, or
// the consumer was too slow) the next Update is a Snapshot with the Reset that
// says why.
//
// One goroutine at a time may use a Watch. What an Update refers to is shared and
// must not be changed.
type Watch struct {
	r       *Room
	filters []wire.Filter
	wake    chan struct{} // of capacity 1: there is news for the consumer

	// All below is guarded by mu of the Room.
	state   watchState
	id      uint64 // of the request, or the hello, that made it known to the server
	byHello bool
	reset   string // why it starts anew; "" for the first time
	begun   bool   // the consumer was given a snapshot
	queue   []Update
	bytes   int    // about, of the events in queue
	rev     uint64 // of the last update that the consumer was given

	fleeting      []wire.Ephemeral // delivered when queue is empty
	fleetingBytes int              // of their data

	err error // it has ended
}

// Watch watches what the filters let through; without any, everything that the
// caller may read. A refusal (a key that the caller may not read, a malformed
// pattern) is returned here.
//
// The servers bound the filters of a connection, to 64. Consumers that want the
// same share a Watch rather than open one each.
func (r *Room) Watch(ctx context.Context, filters ...Filter) (*Watch, error) {
	if len(filters) == 0 {
		filters = []Filter{{}}
	}
	w := &Watch{r: r, filters: slices.Clone(filters), wake: make(chan struct{}, 1)}
	r.mu.Lock()
	if r.err != nil {
		defer r.mu.Unlock()
		return nil, fmt.Errorf("watch: %w", r.err)
	}
	r.stream.watches = append(r.stream.watches, w)
	r.mu.Unlock()
	if err := w.ask(ctx); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// Next waits for the next Update. It fails when ctx ends, when the room is over,
// or when the watch was closed.
func (w *Watch) Next(ctx context.Context) (Update, error) {
	for {
		u, state, err := w.pop()
		if err != nil || u != nil {
			return deref(u), err
		}
		if state == dropped {
			if err := w.ask(ctx); err != nil {
				return Update{}, err
			}
			continue
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return Update{}, fmt.Errorf("watch: %w", ctx.Err())
		}
	}
}

func deref(u *Update) Update {
	if u == nil {
		return Update{}
	}
	return *u
}

// pop takes the next update out of the queue, nil if it is empty. What came
// before the end of the watch is still delivered.
func (w *Watch) pop() (*Update, watchState, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	if len(w.queue) == 0 && len(w.fleeting) > 0 {
		u := Update{Rev: w.rev, Ephemeral: w.fleeting}
		w.fleeting, w.fleetingBytes = nil, 0
		return &u, w.state, nil
	}
	if len(w.queue) == 0 {
		return nil, w.state, w.err
	}
	u := w.queue[0]
	w.queue = w.queue[1:]
	w.bytes -= size(&u)
	w.rev = u.Rev
	w.begun = w.begun || u.Snapshot != nil
	return &u, w.state, nil
}

// All iterates over the updates until ctx ends or the watch does (the last pair
// has the error), or the loop breaks.
func (w *Watch) All(ctx context.Context) iter.Seq2[Update, error] { return all(ctx, w.Next) }

// Rev is the revision as of which everything was delivered.
func (w *Watch) Rev() uint64 {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	if w.state == live && len(w.queue) == 0 {
		return w.r.stream.rev
	}
	return w.rev
}

// Close ends the watch. It may be called twice.
func (w *Watch) Close() error {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	if w.err == nil {
		w.r.stream.remove(w)
		w.unwatch()
		w.queue, w.fleeting = nil, nil
		w.fail(fmt.Errorf("watch: %w", ErrClosed))
	}
	return nil
}

// ask makes the watch known to the server.
func (w *Watch) ask(ctx context.Context) error {
	req, err := newRequest("watch", struct {
		Do    string        `json:"do"`
		Watch []wire.Filter `json:"watch"`
	}{"watch", w.filters})
	if err != nil {
		return err
	}
	req.read = true
	req.queued = func(id uint64) { w.state, w.id, w.byHello = asked, id, false }
	req.accepted = func() {
		if w.state == asked && w.id == req.id {
			w.state = loading
		}
	}
	if err = w.r.ask(ctx, req, nil); err == nil {
		return nil
	}
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	var refused *wire.Error
	if errors.As(err, &refused) {
		w.state = dropped
	} else if w.state != dropped {
		w.unwatch()
	}
	return err
}

// unwatch tells the server, as far as there is one, that the watch is not wanted
// any more. Filters that a hello brought go together, with the last watch that
// needs them; until then, or the next connection, what they bring is ignored.
// The caller holds mu.
func (w *Watch) unwatch() {
	state := w.state
	w.state = dropped
	if state == dropped || w.byHello && slices.ContainsFunc(w.r.stream.watches, func(other *Watch) bool {
		return other.byHello && other.state != dropped
	}) {
		return
	}
	w.r.post("unwatch", struct {
		Do    string `json:"do"`
		Watch uint64 `json:"watch"`
	}{"unwatch", w.id})
}

// reload marks a watch that the server knows as one that starts anew. The caller
// holds mu, as for all below.
func (w *Watch) reload(why string) {
	w.state = loading
	w.reset = why
}

// load starts the watch from a snapshot. What the consumer has not taken of what
// came before is void.
func (w *Watch) load(whole *wire.Snapshot, rev uint64) {
	u := Update{Rev: rev, Snapshot: only(w.filters, whole)}
	if w.begun {
		u.Reset = w.reset
	}
	w.queue, w.bytes = []Update{u}, 0
	w.state, w.reset = live, ""
	w.tell()
}

// event queues what passes of the events of one revision. A queue that is empty
// takes anything; one that becomes too long is dropped.
func (w *Watch) event(u Update) {
	if u.Events = w.passing(u.Events); len(u.Events) == 0 {
		return
	}
	n := size(&u)
	if len(w.queue) > 0 && w.bytes+n > watchBytes {
		w.queue, w.bytes = nil, 0
		w.unwatch()
		w.reset = "slow"
		w.tell()
		return
	}
	w.queue = append(w.queue, u)
	w.bytes += n
	w.tell()
}

// passing are the events that the filters let through, in their order.
func (w *Watch) passing(events []wire.Event) []wire.Event {
	var kept []wire.Event
	for i := range events {
		if passes(w.filters, &events[i]) {
			kept = append(kept, events[i])
		}
	}
	return kept
}

// size is about what an update of events holds in memory; a snapshot, which is
// bounded by the session's limits, does not count.
func size(u *Update) int {
	n := 0
	for i := range u.Events {
		e := &u.Events[i]
		n += 400 + len(e.Key) + len(e.Value) + len(e.Data)
		if e.Peer != nil {
			n += 200 + len(e.Peer.Data)
		}
	}
	return n
}

// fail ends the watch.
func (w *Watch) fail(err error) {
	w.err = err
	w.tell()
}

// tell wakes the consumer.
func (w *Watch) tell() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
