package sim

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"conclave/fsm"
)

// History is what clients asked and were told, what watchers saw, and what every
// node published, with times. The checkers judge it; they need nothing else.
type History struct {
	start   time.Time
	Virtual time.Duration // how long it lasted

	mu       sync.Mutex
	Ops      []*Op
	Reads    []*Reading
	Segments []*Segment
	Watches  []*Watch
	Renewals []Renewal
	Grants   map[uint64]fsm.Grant           // of waits for locks, by waiter
	Hashes   map[uint64]map[string][32]byte // of states, by raft index and node

	Installed int // snapshots that replaced a running node's state
}

// NewHistory starts a history now.
func NewHistory() *History {
	return &History{start: time.Now(), Grants: map[uint64]fsm.Grant{}, Hashes: map[uint64]map[string][32]byte{}}
}

// Now is the time since the history began.
func (h *History) Now() time.Duration { return time.Since(h.start) }

// Outcome is what a client knows of a request.
type Outcome int

// The outcomes: the three classes, and success.
const (
	Unknown    Outcome = iota // may have been applied, now or later
	Applied                   // Result says what came of it
	Refused                   // Result.Refusal says why; it changed nothing
	NotApplied                // never handed to the log
)

func (o Outcome) String() string {
	return [...]string{"unknown", "applied", "refused", "not applied"}[o]
}

// Op is one command of a client, all its retries together.
type Op struct {
	Client       string
	Lane         string // the lane of a pipelining client, else ""
	Place        int    // in the lane's order of Submit
	Command      *fsm.Command
	Call, Return time.Duration
	Outcome      Outcome
	Result       *fsm.Result // of Applied and Refused
}

func (o *Op) String() string {
	what := fmt.Sprintf("%s #%d kind %d", o.Client, o.Command.Request, o.Command.Kind)
	if put := o.put(); put != nil {
		what += fmt.Sprintf(" put %s=%s", put.Key, put.Value)
	}
	return fmt.Sprintf("%s [%v, %v] %s", what, o.Call, o.Return, o.Outcome)
}

// put is the operation of a single put, nil if the command is something else.
func (o *Op) put() *fsm.Operation {
	if t := o.Command.Txn; t != nil && t.Single && t.Then[0].Kind == fsm.OpPut {
		return &t.Then[0]
	}
	return nil
}

// Reading is one linearizable read of a room's keys.
type Reading struct {
	Client, Node string
	Room         string
	Call, Return time.Duration
	Rev          uint64 // of the view
	Entries      map[string]*fsm.Entry
}

// Segment is what one process published for one session, without a gap: exactly
// the frames with From < rev <= To.
type Segment struct {
	Node, Room, Session string
	From, To            uint64
	Frames              []Seen
}

// Seen is a frame with the time at which it was seen.
type Seen struct {
	*fsm.Frame
	At time.Duration
}

// Watch is what one watcher was given, in order.
type Watch struct {
	Name, Room string
	Items      []WatchItem
}

// WatchItem is a snapshot (Frame nil) or a frame.
type WatchItem struct {
	Frame   *fsm.Frame
	Rev     uint64
	Session string
	Entries map[string]*fsm.Entry // of the default store
}

// Renewal is an acknowledged renewal of a lease, or the grant that began it: of a
// lock, or of a peer without a socket.
type Renewal struct {
	Room, Key string
	Peer      string // "" for a lock
	Fence     uint64
	Sent      time.Duration
	TTL       time.Duration
}

func (h *History) addOp(o *Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Ops = append(h.Ops, o)
}

func (h *History) addRead(r *Reading) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Reads = append(h.Reads, r)
}

func (h *History) addRenewal(r Renewal) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Renewals = append(h.Renewals, r)
}

func (h *History) addWatch(w *Watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Watches = append(h.Watches, w)
}

// hashEvery is how often, in raft indexes, a node's state is hashed: all nodes
// hash at the same indexes, those they publish at.
const hashEvery = 32

// recorder follows the rings of one process, on its publishing goroutine.
type recorder struct {
	h    *History
	node string
	p    *process
	open map[string]*following // by room
}

type following struct {
	ring    *fsm.Ring
	segment *Segment
}

// record has everything a process publishes recorded.
func (h *History) record(node string, p *process) {
	r := &recorder{h: h, node: node, p: p, open: map[string]*following{}}
	p.node.Observe(r.published)
}

func (r *recorder) published(p *fsm.Published) {
	select {
	case <-r.p.killed:
		return
	default:
	}
	if p.Index%hashEvery == 0 {
		hash := p.View.Hash()
		r.h.mu.Lock()
		if r.h.Hashes[p.Index] == nil {
			r.h.Hashes[p.Index] = map[string][32]byte{}
		}
		r.h.Hashes[p.Index][r.node] = hash
		r.h.mu.Unlock()
	}
	r.h.mu.Lock()
	for _, g := range p.Grants {
		r.h.Grants[g.Waiter] = g
	}
	r.h.mu.Unlock()
	if p.Restored { // the rings are not those of before: begin anew
		r.h.mu.Lock()
		r.h.Installed++
		r.h.mu.Unlock()
		clear(r.open)
	}
	for _, change := range p.Changed {
		room := change.Room
		if f := r.open[room]; f != nil {
			r.drain(f, p.View.Rev())
			if closed, _ := f.ring.Closed(); !closed {
				continue
			}
			delete(r.open, room)
		}
		if ring := r.p.node.Ring(room); ring != nil {
			f := &following{ring, &Segment{Node: r.node, Room: room, Session: ring.Session(), From: ring.Floor()}}
			f.segment.To = f.segment.From
			r.h.mu.Lock()
			r.h.Segments = append(r.h.Segments, f.segment)
			r.h.mu.Unlock()
			r.open[room] = f
			r.drain(f, p.View.Rev())
		}
	}
}

// drain appends what a ring has beyond the segment.
func (r *recorder) drain(f *following, upTo uint64) {
	frames, _, ok := f.ring.After(f.segment.To, upTo, 1<<30)
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	if !ok { // more in one publication than a ring holds: begin anew
		f.segment = &Segment{Node: r.node, Room: f.segment.Room, Session: f.segment.Session, From: upTo, To: upTo}
		r.h.Segments = append(r.h.Segments, f.segment)
		return
	}
	now := r.h.Now()
	for _, frame := range frames {
		f.segment.Frames = append(f.segment.Frames, Seen{frame, now})
	}
	f.segment.To = max(f.segment.To, upTo)
}

// describe is a frame as text, for complaints.
func describe(f *fsm.Frame) string {
	var b strings.Builder
	for _, e := range f.Events {
		fmt.Fprintf(&b, "%s %s/%s %s %v %d %d %s %s %+v at %d", e.Type, e.Store, e.Key, e.State, e.Owner, e.Fence, e.Waiting, e.Session, e.Reason, e.By, e.At)
		if e.Entry != nil {
			fmt.Fprintf(&b, " entry %+v", *e.Entry)
		}
		if e.Peer != nil {
			fmt.Fprintf(&b, " peer %+v", *e.Peer)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
