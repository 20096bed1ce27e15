package client

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"conclave/client/wire"
)

// ReadOption modifies a read of a Room: InStore, Stale, MinRev.
type ReadOption interface{ read(*readOptions) }

// WriteOption modifies a write of a Room: InStore, the conditions (If…), Fence,
// Fences and Under, TTL, Bound and BoundTo, Unique. One that says nothing to a verb
// (a condition on a whole store, say) is refused by the servers.
type WriteOption interface{ write(*wire.Op) error }

// LockOption modifies the taking of a lock: InStore, TTL, Wait, LockData,
// ReleaseOnDetach.
type LockOption interface{ lock(*lockOptions) error }

type readOptions struct {
	store  string
	stale  bool
	minRev uint64
}

type lockOptions struct {
	store    string
	ttl      time.Duration // 0: bound to the peer
	wait     time.Duration
	forever  bool // no Wait given: as long as the context lasts
	data     json.RawMessage
	onDetach bool
	shared   bool
	permits  int
	delay    time.Duration
	told     func(LockStatus)
}

type (
	storeOption string
	readFunc    func(*readOptions)
	writeFunc   func(*wire.Op) error
	lockFunc    func(*lockOptions) error
	ttlOption   time.Duration
)

func (f readFunc) read(o *readOptions)          { f(o) }
func (f writeFunc) write(op *wire.Op) error     { return f(op) }
func (f lockFunc) lock(o *lockOptions) error    { return f(o) }
func (s storeOption) read(o *readOptions)       { o.store = string(s) }
func (s storeOption) write(op *wire.Op) error   { op.Store = string(s); return nil }
func (s storeOption) lock(o *lockOptions) error { o.store = string(s); return nil }

func (t ttlOption) write(op *wire.Op) error {
	ms := time.Duration(t).Milliseconds()
	op.TTLMs = &ms
	return nil
}

func (t ttlOption) lock(o *lockOptions) error { o.ttl = time.Duration(t); return nil }

// InStore names the store; without it, it is "default".
func InStore(store string) interface {
	ReadOption
	WriteOption
	LockOption
} {
	return storeOption(store)
}

// Stale reads the copy of the node that the room is connected to. It may lag, but
// never behind what this Room has seen.
func Stale() ReadOption { return readFunc(func(o *readOptions) { o.stale = true }) }

// MinRev waits until the node has applied that revision.
func MinRev(rev uint64) ReadOption { return readFunc(func(o *readOptions) { o.minRev = rev }) }

// IfRev writes only if the key's rev is this one; an absent key has rev 0.
func IfRev(rev uint64) WriteOption {
	return condition(func(c *wire.If) error { c.Rev = &rev; return nil })
}

// IfVersion writes only if the key's version is this one; an absent key has
// version 0. Versions start again after a delete: compare by rev where a key may
// be deleted.
func IfVersion(version uint64) WriteOption {
	return condition(func(c *wire.If) error { c.Version = &version; return nil })
}

// IfAbsent writes only if the key is absent, IfExists only if it is there.
func IfAbsent() WriteOption {
	return condition(func(c *wire.If) error { c.Absent = true; return nil })
}

// IfExists writes only if the key is there.
func IfExists() WriteOption {
	return condition(func(c *wire.If) error { c.Exists = true; return nil })
}

// IfValue writes only if the key's value equals v as JSON: numbers as exact
// decimals, members of objects in any order.
func IfValue(v any) WriteOption {
	return condition(func(c *wire.If) (err error) {
		if c.Value, err = marshal(v); err != nil {
			err = fmt.Errorf("encode expected value: %w", err)
		}
		return err
	})
}

// condition adds to the conditions of a write; all of them must hold.
func condition(set func(*wire.If) error) WriteOption {
	return writeFunc(func(op *wire.Op) error {
		if op.If == nil {
			op.If = &wire.If{}
		}
		return set(op.If)
	})
}

// Fence writes under the lock on the key that was granted with that fence. Only
// its owner can; Under is the better way for a Lock of this Room.
func Fence(fence uint64) WriteOption {
	return writeFunc(func(op *wire.Op) error { op.Fence = &fence; return nil })
}

// Under writes under a lock on the key, with its fence; a write of many keys may
// be under several. A lock that is known to be lost refuses at once.
func Under(l *Lock) WriteOption {
	return writeFunc(func(op *wire.Op) error {
		if err := l.Err(); err != nil {
			return lostError(l, err)
		}
		fence := l.Fence()
		if op.Key == "" { // a write of many keys, which has a fence for each
			return Fences(map[string]uint64{l.key: fence}).write(op)
		}
		op.Fence = &fence
		return nil
	})
}

// Fences names the fences of locked keys to a write of many keys (Merge, Replace,
// DeletePrefix), which is refused whole if it touches a locked key without. Under
// is the better way for Locks of this Room.
func Fences(fences map[string]uint64) WriteOption {
	return writeFunc(func(op *wire.Op) error {
		if op.Fences == nil {
			op.Fences = map[string]uint64{}
		}
		maps.Copy(op.Fences, fences)
		return nil
	})
}

// Unique lets Append take only items that the array does not have, each once.
func Unique() WriteOption {
	return writeFunc(func(op *wire.Op) error { op.Unique = true; return nil })
}

// TTL is the time after which an entry goes, or the lease of a lock (1 s to
// 24 h). The resolution is 1 ms.
func TTL(d time.Duration) interface {
	WriteOption
	LockOption
} {
	return ttlOption(d)
}

// Bound lets the entry go when the peer of this Room leaves.
func Bound() WriteOption {
	return writeFunc(func(op *wire.Op) error { op.Bind = json.RawMessage("true"); return nil })
}

// BoundTo lets the entry go when that peer leaves; it must be in the room.
func BoundTo(peer string) WriteOption {
	return writeFunc(func(op *wire.Op) (err error) { op.Bind, err = marshal(peer); return err })
}

// Wait bounds how long Lock queues; without it, the context does.
func Wait(d time.Duration) LockOption {
	return lockFunc(func(o *lockOptions) error { o.wait, o.forever = d, false; return nil })
}

// LockData is shown to others with the lock.
func LockData(v any) LockOption {
	return lockFunc(func(o *lockOptions) (err error) {
		if o.data, err = marshal(v); err != nil {
			err = fmt.Errorf("encode lock data: %w", err)
		}
		return err
	})
}

// ReleaseOnDetach ends the lock as soon as the connection is lost, rather than
// when the peer's grace is over.
func ReleaseOnDetach() LockOption {
	return lockFunc(func(o *lockOptions) error { o.onDetach = true; return nil })
}

// Shared takes a lock together with others who ask for it so. To the servers this
// Room is one owner, so its goroutines still exclude each other.
func Shared() LockOption {
	return lockFunc(func(o *lockOptions) error { o.shared = true; return nil })
}

// Permits makes the lock a semaphore: n owners may hold it, of those who ask for
// the same number. Of one Room only one goroutine at a time has a permit.
func Permits(n int) LockOption {
	return lockFunc(func(o *lockOptions) error {
		if n < 1 {
			return fmt.Errorf("permits: %d is less than 1", n)
		}
		o.permits = n
		return nil
	})
}

// LockDelay keeps everybody from the lock for a while (at most an hour) should this
// lease lapse: for resources that cannot check fences.
func LockDelay(d time.Duration) LockOption {
	return lockFunc(func(o *lockOptions) error { o.delay = d; return nil })
}

// OnLockStatus is told when the lock comes into jeopardy, is safe again, and is
// lost or released. It is called in order, on the goroutine that renews the lock:
// it must return at once, and must not call Unlock.
func OnLockStatus(f func(LockStatus)) LockOption {
	return lockFunc(func(o *lockOptions) error { o.told = f; return nil })
}

// newWrite makes the operation of a write; value is left out when do has none.
func newWrite(do, key string, value any, opts []WriteOption) (*wire.Op, error) {
	op := &wire.Op{Do: do, Key: key}
	if do == "put" {
		var err error
		if op.Value, err = encode("value of", key, value); err != nil {
			return nil, err
		}
	}
	return op, apply(op, opts)
}

// apply lets the options add to an operation, in their order.
func apply(op *wire.Op, opts []WriteOption) error {
	for _, o := range opts {
		if err := o.write(op); err != nil {
			return err
		}
	}
	return nil
}

// encode encodes what a caller gives for name.
func encode(what, name string, v any) (json.RawMessage, error) {
	data, err := marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s %q: %w", what, name, err)
	}
	return data, nil
}
