package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"conclave/client/wire"
)

// State is where a Room's connection stands.
type State string

// The states. A Room starts connecting and ends ended; a lost connection goes
// through backoff and connecting back to attached.
const (
	Connecting State = "connecting"
	Attached   State = "attached"
	Backoff    State = "backoff"
	Ended      State = "ended"
)

// Status is what OnStatus is told.
type Status struct {
	State State
	Node  string // the node attached to
	// Rejoined says that the peer that this room was before is no more: its grace
	// had run out. Locks and bound entries went with it, and Room.Peer is a new one.
	Rejoined bool
	Err      error // why the connection is away, or the room ended
}

// Room is a peer's, or an observer's, place in a room. It keeps itself connected
// until Close or Leave, or until a server says for good that it is over (Done,
// Err). Calls made while the connection is away wait for it, as long as their
// contexts allow.
//
// All methods may be called from any goroutine. A call that has returned is
// ordered before one made after it; calls made at the same time are not ordered.
type Room struct {
	c       *Client
	name    string
	client  string // random; with the id it identifies a request for ever
	observe bool
	opts    JoinOptions
	data    json.RawMessage
	log     *slog.Logger

	window *window // requests in flight

	ctx    context.Context // ends, with its cause, when the room is to end
	cancel context.CancelCauseFunc
	first  chan struct{} // closed when first attached or ended
	work   sync.WaitGroup

	mu      sync.Mutex // guards everything below
	state   State
	err     error // why the room ended; nil before
	away    error // why the connection is away; nil while attached
	conn    *conn // nil unless attached
	lastID  uint64
	seen    uint64              // the highest revision that an answer has shown
	pending map[uint64]*request // unanswered, by id

	// Who this room is, as the last hello said.
	node, session, peer, key string
	features                 []string
	grace                    time.Duration
	epoch                    int    // counts the peers that this room has been
	hello                    uint64 // id of the hello in force: snapshots may answer it
	helloTaken               bool   // hello has been answered: the next one gets a new id

	stream stream
	locks  map[*Lock]bool // held by the peer; true if they end on detach
	heeded int            // of them, how many have their end watched for
	turns  map[lockName]*turn
}

// newRoom makes a room that is not connected yet.
func newRoom(c *Client, name string, opts JoinOptions) (*Room, error) {
	r := &Room{
		c: c, name: name, client: rand.Text(), opts: opts, log: c.cfg.logger().With("room", name),
		window: newWindow(1),
		first:  make(chan struct{}), pending: map[uint64]*request{},
		locks: map[*Lock]bool{}, turns: map[lockName]*turn{},
	}
	if opts.Data != nil {
		data, err := marshal(opts.Data)
		if err != nil {
			return nil, fmt.Errorf("join %q: encode data: %w", name, err)
		}
		r.data = data
	}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	return r, nil
}

// open starts the connection and waits until it is attached for the first time.
func (r *Room) open(ctx context.Context) error {
	if err := r.c.add(r); err != nil {
		return err
	}
	r.work.Go(r.connect)
	select {
	case <-r.first:
		if err := r.Err(); err != nil {
			r.Close()
			return fmt.Errorf("join %q: %w", r.name, err)
		}
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	last := r.away
	r.mu.Unlock()
	r.Close()
	return fmt.Errorf("room %q: %w", r.name, &InterruptedError{Do: "join", MayHaveApplied: !r.observe, Err: ctx.Err(), Last: last})
}

// Name is the room's name.
func (r *Room) Name() string { return r.name }

// Peer is the id of this peer, "" for an observer. It changes if the connection
// was away for longer than the peer's grace (Status.Rejoined).
func (r *Room) Peer() string { r.mu.Lock(); defer r.mu.Unlock(); return r.peer }

// Session is the id of the room's session, "" while an observed room has none.
func (r *Room) Session() string { r.mu.Lock(); defer r.mu.Unlock(); return r.session }

// Node is the id of the node that the room is, or was last, attached to.
func (r *Room) Node() string { r.mu.Lock(); defer r.mu.Unlock(); return r.node }

// Features are what the servers have beyond version 1 of the protocol, as of the
// last hello. What needs a feature that is not listed is refused.
func (r *Room) Features() []string { r.mu.Lock(); defer r.mu.Unlock(); return slices.Clone(r.features) }

// State is where the connection stands.
func (r *Room) State() State { r.mu.Lock(); defer r.mu.Unlock(); return r.state }

// Done is closed when the room is over for this handle.
func (r *Room) Done() <-chan struct{} { return r.ctx.Done() }

// Err is why the room is over: ErrClosed after Close or Leave, a *CloseError or a
// *wire.Error when a server ended it; nil before.
func (r *Room) Err() error {
	if r.ctx.Err() == nil {
		return nil
	}
	return context.Cause(r.ctx)
}

// Leave leaves the room and waits until the leaving has been applied, then
// closes. Close alone does the same without knowing whether a server heard it.
func (r *Room) Leave(ctx context.Context) error {
	var err error
	if !r.observe {
		var req *request
		req, err = newRequest("leave", struct {
			Do string `json:"do"`
		}{"leave"})
		if err != nil {
			return err
		}
		// The server closes after its answer: that must not look like a lost
		// connection to come back from.
		req.accepted = func() { r.cancel(ErrClosed) }
		err = r.ask(ctx, req, nil)
	}
	r.Close()
	var interrupted *InterruptedError
	if errors.As(err, &interrupted) && ctx.Err() == nil || IsSessionEnded(err) {
		return nil // the room was over already
	}
	return err
}

// Close leaves the room: it tells the server so if there is a connection, and
// waits until everything that the room started has ended. Unanswered calls end
// with ErrClosed. It may be called twice.
func (r *Room) Close() error {
	r.cancel(ErrClosed)
	r.work.Wait()
	return nil
}

// simple runs a request of an object that encodes it.
func (r *Room) simple(ctx context.Context, do string, object, out any) error {
	req, err := newRequest(do, object)
	if err != nil {
		return err
	}
	return r.ask(ctx, req, out)
}

// query is simple for what changes nothing.
func (r *Room) query(ctx context.Context, do string, object, out any) error {
	req, err := newRequest(do, object)
	if err != nil {
		return err
	}
	req.read = true
	return r.ask(ctx, req, out)
}

// background runs a chore that must go on after its caller; Close waits for it.
func (r *Room) background(chore func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil { // the room's own goroutine, which sets err, is still counted
		r.work.Go(chore)
	}
}

// enter changes the state and tells of it. Only the connection's goroutine calls
// it, and it does not hold mu.
func (r *Room) enter(s Status) {
	r.mu.Lock()
	changed := r.state != s.State || s.State == Attached
	r.state = s.State
	if s.State == Backoff {
		r.away = s.Err
	}
	r.mu.Unlock()
	if !changed {
		return
	}
	r.log.Debug("connection", "state", s.State, "node", s.Node, "err", s.Err)
	if r.opts.OnStatus != nil {
		r.opts.OnStatus(s)
	}
}

// Ping asks the node for a sign of life and the revision it has applied.
func (r *Room) Ping(ctx context.Context) (rev uint64, err error) {
	pong, err := r.ping(ctx)
	return pong.Rev, err
}

// Time asks the node what time it is. An app that shows how long something still
// lasts goes by the servers' clock, like the times of entries, and not by its
// own, which may be wrong. The answer is as old as its way back.
func (r *Room) Time(ctx context.Context) (time.Time, error) {
	pong, err := r.ping(ctx)
	if err != nil {
		return time.Time{}, err
	}
	now, err := time.Parse(time.RFC3339, pong.Now)
	if err != nil {
		return time.Time{}, fmt.Errorf("answer to ping: %w", err)
	}
	return now, nil
}

func (r *Room) ping(ctx context.Context) (pong wire.Pong, err error) {
	err = r.query(ctx, "ping", read{Do: "ping"}, &pong)
	return pong, err
}
