package lock

// Lock is one lock. It is immutable once published: the functions that change it
// return a new one. A lock that nobody holds or wants, and that is not in its
// delay, does not exist.
type Lock struct {
	Shared  bool     `cbor:"1,keyasint,omitempty"`
	Permits int      `cbor:"2,keyasint"` // how many may hold it; 1 when exclusive
	Holders []Holder `cbor:"3,keyasint,omitempty"`
	Queue   []Waiter `cbor:"4,keyasint,omitempty"` // first in line first

	// NotBefore is the cluster time, ms, before which nobody is granted the lock,
	// because a lease on it expired that asked for a delay; 0: none.
	NotBefore int64 `cbor:"5,keyasint,omitempty"`
}

// Holder is a grant.
type Holder struct {
	Owner    Owner  `cbor:"1,keyasint"`
	Fence    uint64 `cbor:"2,keyasint"`           // the revision of the grant, or one that it took besides: see Moment
	Since    int64  `cbor:"3,keyasint"`           // wall time, Unix ms
	TTL      int64  `cbor:"4,keyasint,omitempty"` // ms; 0: lasts while its peer does
	Expires  int64  `cbor:"5,keyasint,omitempty"` // cluster time, ms; renewals are not logged and may put it off
	OnDetach bool   `cbor:"6,keyasint,omitempty"`
	Data     []byte `cbor:"7,keyasint,omitempty"`
	Delay    int64  `cbor:"8,keyasint,omitempty"` // ms for which nobody is granted the lock if this lease expires
}

// Waiter is a place in the queue.
type Waiter struct {
	ID       uint64 `cbor:"1,keyasint"` // the revision at which it queued
	Owner    Owner  `cbor:"2,keyasint"`
	Since    int64  `cbor:"3,keyasint"` // wall time, Unix ms
	Until    int64  `cbor:"4,keyasint"` // cluster time at which the wait ends, ms
	TTL      int64  `cbor:"5,keyasint,omitempty"`
	OnDetach bool   `cbor:"6,keyasint,omitempty"`
	Data     []byte `cbor:"7,keyasint,omitempty"`

	// Of a peer's request: how it is found again. Of a waiter without a socket:
	// the node that serves it.
	Client      string `cbor:"8,keyasint,omitempty"`
	Request     uint64 `cbor:"9,keyasint,omitempty"`
	Node        string `cbor:"10,keyasint,omitempty"`
	Incarnation uint64 `cbor:"11,keyasint,omitempty"`
	Name        string `cbor:"12,keyasint,omitempty"` // Acquire.Waiter

	// Where the request's answer is remembered, besides Client and Request.
	User string `cbor:"13,keyasint,omitempty"`
	Idem string `cbor:"14,keyasint,omitempty"`

	// The mode it asks for. The lock takes the mode of its first holder.
	Shared  bool `cbor:"15,keyasint,omitempty"`
	Permits int  `cbor:"16,keyasint,omitempty"` // 0 and 1: one

	Delay int64 `cbor:"17,keyasint,omitempty"` // Holder.Delay
}

// Moment is when a change happens, as the log of the caller says.
//
// No two grants have the same fence, or the lease of one could end, or be renewed,
// in the name of the other. So of several grants at once the first has Rev for its
// fence and each further one the next number, which the caller then does not use
// for anything else.
type Moment struct {
	Rev  uint64 // the revision of the change: the number of who queues, the fence of who is granted
	Now  int64  // cluster time, ms
	Wall int64  // Unix ms, for display only
}

// Held reports whether anybody holds the lock. The nil Lock is held by nobody,
// and all reading methods accept it.
func (l *Lock) Held() bool { return l != nil && len(l.Holders) > 0 }

// Newest is the grant with the greatest fence, nil if there is none.
func (l *Lock) Newest() (newest *Holder) {
	if l == nil {
		return nil
	}
	for i := range l.Holders {
		if newest == nil || l.Holders[i].Fence > newest.Fence {
			newest = &l.Holders[i]
		}
	}
	return newest
}

// Delayed reports whether a delay keeps everybody from being granted the lock.
func (l *Lock) Delayed(now int64) bool { return l != nil && l.NotBefore > now }

// Holder is the grant of an owner, nil if it has none.
func (l *Lock) Holder(o Owner) *Holder {
	if l == nil {
		return nil
	}
	for i := range l.Holders {
		if l.Holders[i].Owner == o {
			return &l.Holders[i]
		}
	}
	return nil
}

// Guards reports whether fence is the current fencing token of this owner: the
// number alone, which everybody may know, is worth nothing.
func (l *Lock) Guards(o Owner, fence uint64) bool {
	h := l.Holder(o)
	return h != nil && h.Fence == fence
}

// Position is the place in line of the waiter with this ID: 1 is next, 0 is not
// in line.
func (l *Lock) Position(id uint64) int {
	if l == nil {
		return 0
	}
	for i := range l.Queue {
		if l.Queue[i].ID == id {
			return i + 1
		}
	}
	return 0
}

// Waiting is how many wait.
func (l *Lock) Waiting() int {
	if l == nil {
		return 0
	}
	return len(l.Queue)
}

// Waits reports whether an owner is in line.
func (l *Lock) Waits(o Owner) bool {
	if l == nil {
		return false
	}
	for i := range l.Queue {
		if l.Queue[i].Owner == o {
			return true
		}
	}
	return false
}
