package lock

import "slices"

// Outcome is what became of an acquire.
type Outcome uint8

// The outcomes of Acquire.
const (
	Refused Outcome = iota // held by another, or by the owner in a mode that does not cover this one, or in its delay
	Granted                // this acquire took the lock
	Held                   // the owner had it already: same fence, lease extended
	Queued                 // a new place at the end of the line
	Waits                  // the same request is in line already
)

// Answer is the outcome of an acquire with what goes with it.
type Answer struct {
	Outcome  Outcome
	Fence    uint64 // Granted, Held
	Position int    // Queued, Waits: 1 is next
	Waiter   uint64 // Queued, Waits: ID of the place in line
}

// Acquire asks for the lock on behalf of w and returns the lock as it is then.
// Nobody overtakes: while others wait, even a request that the holders would
// admit goes to the end of the line.
//
// An owner that holds the lock gets the same fence and a lease that starts
// anew with the TTL asked for now; all else stays as it was granted, also in a
// delay, which is about grants only. A holder never waits for itself: to ask for
// more than it has (exclusive while it shares) is refused. The same request
// again (see Waiter.same) finds its place in line, and its answer goes to the
// node that asked last; another request of a waiting owner takes a place of its
// own, and is answered together with the first.
func (l *Lock) Acquire(w Waiter, wait bool, t Moment) (*Lock, Answer) {
	w.Permits = max(w.Permits, 1)
	if l == nil {
		l = &Lock{}
	}
	if h := l.Holder(w.Owner); h != nil {
		if l.exclusive() || l.sameMode(&w) {
			return l.extend(w.Owner, w.TTL, t), Answer{Outcome: Held, Fence: h.Fence}
		}
		return l, Answer{Outcome: Refused}
	}
	for i := range l.Queue {
		if q := &l.Queue[i]; q.same(&w) {
			return l.move(i, &w), Answer{Outcome: Waits, Position: i + 1, Waiter: q.ID}
		}
	}
	if len(l.Queue) == 0 && l.admits(&w, t) {
		return l.grant(&w, t), Answer{Outcome: Granted, Fence: t.Rev}
	}
	if !wait {
		return l, Answer{Outcome: Refused}
	}
	w.ID, w.Since = t.Rev, t.Wall
	next := *l
	next.Queue = append(slices.Clip(l.Queue), w)
	return &next, Answer{Outcome: Queued, Position: len(next.Queue), Waiter: w.ID}
}

// same reports whether two waiters stand for the same request: of the same
// owner, with the same client and number, idempotency key, or name on a node.
func (w *Waiter) same(o *Waiter) bool {
	switch {
	case w.Owner != o.Owner:
		return false
	case o.Client != "":
		return w.User == o.User && w.Client == o.Client && w.Request == o.Request
	case o.Idem != "":
		return w.User == o.User && w.Idem == o.Idem
	}
	return o.Name != "" && w.Node == o.Node && w.Incarnation == o.Incarnation && w.Name == o.Name
}

// move makes another node the one that serves a waiter.
func (l *Lock) move(i int, w *Waiter) *Lock {
	q := l.Queue[i]
	if q.Node == w.Node && q.Incarnation == w.Incarnation && q.Name == w.Name {
		return l
	}
	next := *l
	next.Queue = slices.Clone(l.Queue)
	next.Queue[i].Node, next.Queue[i].Incarnation, next.Queue[i].Name = w.Node, w.Incarnation, w.Name
	return &next
}

func (l *Lock) exclusive() bool { return !l.Shared && l.Permits <= 1 }

func (l *Lock) sameMode(w *Waiter) bool {
	return l.Shared == w.Shared && (l.Shared || l.Permits == w.Permits)
}

// admits reports whether w may hold the lock beside those who do.
func (l *Lock) admits(w *Waiter, t Moment) bool {
	switch {
	case l.Delayed(t.Now):
		return false
	case len(l.Holders) == 0:
		return true
	}
	return l.sameMode(w) && (l.Shared || len(l.Holders) < l.Permits)
}

// grant adds w as a holder. Its lease starts now, however long it waited.
func (l *Lock) grant(w *Waiter, t Moment) *Lock {
	next := *l
	next.NotBefore = 0
	if len(l.Holders) == 0 {
		next.Shared, next.Permits = w.Shared, w.Permits
	}
	h := Holder{Owner: w.Owner, Fence: t.Rev, Since: t.Wall, OnDetach: w.OnDetach, Data: w.Data, Delay: w.Delay}
	h.lease(w.TTL, t)
	next.Holders = append(slices.Clip(l.Holders), h)
	return &next
}

// extend starts the lease of a holder anew.
func (l *Lock) extend(o Owner, ttl int64, t Moment) *Lock {
	next := *l
	next.Holders = slices.Clone(l.Holders)
	next.Holder(o).lease(ttl, t)
	return &next
}

func (h *Holder) lease(ttl int64, t Moment) {
	h.TTL, h.Expires = ttl, 0
	if ttl > 0 {
		h.Expires = t.Now + ttl
	}
}
