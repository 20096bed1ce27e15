package lock

// Lock is one lock. It is immutable once published: the functions that change it
// return a new one. A lock that nobody holds or wants does not exist.
type Lock struct {
	Shared  bool     `cbor:"1,keyasint,omitempty"`
	Permits int      `cbor:"2,keyasint"` // how many may hold it; 1 when exclusive
	Holders []Holder `cbor:"3,keyasint,omitempty"`
	Queue   []Waiter `cbor:"4,keyasint,omitempty"` // first in line first
}

// Holder is a grant.
type Holder struct {
	Owner    Owner  `cbor:"1,keyasint"`
	Fence    uint64 `cbor:"2,keyasint"`           // the revision of the grant
	Since    int64  `cbor:"3,keyasint"`           // wall time, Unix ms
	TTL      int64  `cbor:"4,keyasint,omitempty"` // ms; 0: lasts while its peer does
	Expires  int64  `cbor:"5,keyasint,omitempty"` // cluster time, ms; renewals are not logged and may put it off
	OnDetach bool   `cbor:"6,keyasint,omitempty"`
	Data     []byte `cbor:"7,keyasint,omitempty"`
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
}
