package cluster

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"conclave/fsm"
)

// stampEvery is how often, at least, the leader logs the time while deadlines
// are pending, so that the state's clock does not fall far behind.
const stampEvery = 10 * time.Second

// timers ends what is due: leases, waits, entries, graces, empty and idle
// sessions. Its heap holds moments at which to look, in cluster time; what is
// really due is asked of the state each time, so an item too many does no harm.
// Renewals of leases are remembered here and are not logged: a new leader gives
// every lease its full TTL again. It owns one goroutine.
type timers struct {
	l    *leadership
	kick chan struct{}

	mu      sync.Mutex
	heap    deadlineHeap
	planned map[thing]int64   // earliest look planned for each thing
	renewed map[thing]int64   // until when a lease was renewed
	ending  map[thing]*ending // leases whose end is proposed, until its result
}

// ending is a lease whose end is proposed; over is closed with its result.
type ending struct {
	timer fsm.Control
	at    int64 // its end in the state then; a later one means that it began anew
	over  chan struct{}
}

func newTimers(l *leadership) *timers {
	return &timers{
		l: l, kick: make(chan struct{}, 1),
		planned: map[thing]int64{},
		renewed: map[thing]int64{},
		ending:  map[thing]*ending{},
	}
}

// begin plans everything that the state has pending. Leases get their full TTL
// from now: the renewals that earlier leaders acknowledged are not known here.
func (t *timers) begin(v *fsm.View) {
	now := t.l.now()
	v.Deadlines(func(d fsm.Deadline) {
		if d.Lease && !grudging {
			t.mu.Lock()
			t.renewed[thingOf(d.Timer)] = now + d.TTL
			t.mu.Unlock()
			d.At = max(d.At, now+d.TTL)
		}
		t.plan(d)
	})
}

// plan has a deadline looked at when it comes.
func (t *timers) plan(d fsm.Deadline) {
	k := thingOf(d.Timer)
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.planned[k]; ok && at <= d.At {
		return // looked at earlier anyway, and then planned anew
	}
	t.planned[k] = d.At
	heap.Push(&t.heap, look{at: d.At, timer: d.Timer})
	if t.heap[0].at == d.At {
		t.wake()
	}
}

func (t *timers) wake() {
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// published takes the deadlines that a publication brought, and the ends of
// leases that it settled.
func (t *timers) published(p *fsm.Published) {
	if p.Restored {
		t.begin(p.View)
	}
	for _, d := range p.Deadlines {
		t.plan(d)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, e := range t.ending {
		d, held := p.View.Pending(e.timer)
		if held && d.At <= e.at {
			continue
		}
		close(e.over)
		delete(t.ending, k)
		if !held {
			delete(t.renewed, k)
		}
	}
}

// run proposes what is due and logs the time now and then.
func (t *timers) run() {
	t.begin(t.l.n.machine.View())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(t.next())
		select {
		case <-t.l.ctx.Done():
			t.mu.Lock()
			for _, e := range t.ending {
				close(e.over)
			}
			clear(t.ending)
			t.mu.Unlock()
			return
		case <-t.kick:
		case <-timer.C:
			t.l.stamp()
		}
		t.fire()
	}
}

// next is how long there is nothing to do. While something is pending the time
// is logged now and then.
func (t *timers) next() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.heap) == 0 {
		return time.Hour
	}
	wait := time.Duration(t.heap[0].at-t.l.now()) * time.Millisecond
	return min(max(wait, time.Millisecond), stampEvery)
}

// fire looks at everything whose moment has come. What the state no longer has
// is forgotten, what was put off is planned anew, the rest is proposed.
func (t *timers) fire() {
	now := t.l.now()
	view := t.l.n.machine.View()
	for {
		t.mu.Lock()
		if len(t.heap) == 0 || t.heap[0].at > now {
			t.mu.Unlock()
			return
		}
		due := heap.Pop(&t.heap).(look)
		k := thingOf(due.timer)
		if t.planned[k] == due.at {
			delete(t.planned, k)
		}
		t.mu.Unlock()
		d, ok := view.Pending(due.timer)
		if !ok {
			t.mu.Lock()
			delete(t.renewed, thingOf(due.timer))
			t.mu.Unlock()
			continue
		}
		t.end(d, now)
	}
}

// end proposes the end of something, unless it is not due.
func (t *timers) end(d fsm.Deadline, now int64) {
	t.mu.Lock()
	k, at := thingOf(d.Timer), d.At
	if d.Lease {
		d.At = max(d.At, t.renewed[k])
	}
	if d.At > now {
		t.mu.Unlock()
		t.plan(d)
		return
	}
	if d.Lease && t.ending[k] == nil {
		t.ending[k] = &ending{timer: d.Timer, at: at, over: make(chan struct{})}
	}
	t.mu.Unlock()
	d.Timer.Term = t.l.term
	t.l.control(d.Timer)
	d.At = now + t.l.n.timeout.Milliseconds() // if it is still there then, again
	t.plan(d)
}

// renew puts a lease off. It returns the time left, or the channel of an end
// that is proposed already, whose result decides; held is false when that result
// has come since the caller looked.
func (t *timers) renew(d fsm.Deadline) (left time.Duration, ending <-chan struct{}, held bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := thingOf(d.Timer)
	if e := t.ending[k]; e != nil {
		return 0, e.over, true
	}
	// An end is settled here, under the mutex, after its view was published.
	if _, held := t.l.n.machine.View().Pending(d.Timer); !held {
		return 0, nil, false
	}
	t.renewed[k] = max(t.renewed[k], t.l.now()+d.TTL)
	return time.Duration(d.TTL) * time.Millisecond, nil, true
}

// left is the time left of a lease.
func (t *timers) left(d fsm.Deadline) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	until := max(d.At, t.renewed[thingOf(d.Timer)])
	return time.Duration(max(0, until-t.l.now())) * time.Millisecond
}

// stamp logs the time, if nothing was proposed lately and something is pending.
func (l *leadership) stamp() {
	if !l.timers.pending() {
		return
	}
	l.mu.Lock()
	l.stampDue = time.Since(l.stamped) >= stampEvery
	l.mu.Unlock()
	l.wake()
}

func (t *timers) pending() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.heap) > 0
}

// renew records a renewal, then confirms by a round that this leader still leads,
// then acknowledges it. While the lease's end is proposed the renewal waits for
// the result.
func (l *leadership) renew(ctx context.Context, ref fsm.LeaseRef) (time.Duration, error) {
	// A grant may be known to its holder before this node has applied it.
	if err := l.n.indexes.wait(ctx, l.readIndex()); err != nil {
		return 0, errNotLeader
	}
	for ctx.Err() == nil {
		d, ok := l.n.machine.View().Lease(ref)
		if !ok || d.Timer.Kind == fsm.ControlDelayEnd { // a delay is nobody's
			return 0, refuseLease(l.n.machine.View(), ref)
		}
		if d.TTL == 0 { // it lasts while its peer, or its peer's socket, does: nothing to put off
			return 0, l.confirm()
		}
		left, ending, held := l.timers.renew(d)
		if !held {
			continue // the state says what became of it
		}
		if ending == nil {
			return left, l.confirm()
		}
		select {
		case <-ending:
		case <-ctx.Done():
		}
	}
	return 0, errNotLeader
}

// confirm waits for a round that begins now: with its majority this leader leads.
func (l *leadership) confirm() error {
	confirmed := make(chan error, 1)
	l.rounds.join(func(_ uint64, err error) { confirmed <- err })
	return <-confirmed
}

// refuseLease says why there is nothing to renew.
func refuseLease(v *fsm.View, ref fsm.LeaseRef) *fsm.Refusal {
	session := v.Session(ref.Room)
	switch {
	case ref.Session != "" && (session == nil || session.ID != ref.Session):
		return &fsm.Refusal{Code: fsm.CodeSessionEnded, Message: "that session is over"}
	case session == nil:
		return &fsm.Refusal{Code: fsm.CodeNoSession, Message: "the room has no live session"}
	case ref.Key == "":
		return &fsm.Refusal{Code: fsm.CodeNotFound, Message: "no such peer, or it is detached"}
	}
	return &fsm.Refusal{Code: fsm.CodeNotHolder, Message: "the lock is not held so", Details: fsm.Details{Store: ref.Store, Key: ref.Key}}
}

func (l *leadership) timeLeft(r timeLeftRequest) timeLeftAnswer {
	view := l.n.machine.View()
	answer := timeLeftAnswer{LeftMs: make([]int64, len(r.Leases))}
	for i, ref := range r.Leases {
		answer.LeftMs[i] = -1
		if d, ok := view.Lease(ref); ok {
			answer.LeftMs[i] = l.timers.left(d).Milliseconds()
		}
	}
	return answer
}

// thing names what a timer ends, whatever it was when the timer was made: a
// lease by its fence, a wait by its number, all else by its place.
type thing struct {
	kind                            fsm.ControlKind
	room, session, store, key, peer string
	number                          uint64
}

func thingOf(c fsm.Control) thing {
	t := thing{kind: c.Kind, room: c.Room, session: c.Session, store: c.Store, key: c.Key, peer: c.Peer}
	switch c.Kind {
	case fsm.ControlLeaseEnd:
		t.number = c.Fence
	case fsm.ControlWaitEnd:
		t.number = c.Seen
	}
	return t
}

// look is a moment at which to look at something.
type look struct {
	at    int64
	timer fsm.Control
}

type deadlineHeap []look

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h deadlineHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *deadlineHeap) Push(x any)        { *h = append(*h, x.(look)) }
func (h *deadlineHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = look{}
	*h = old[:len(old)-1]
	return last
}
