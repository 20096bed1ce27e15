package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"conclave/client/wire"
)

// ErrReleased is Lock.Err after Unlock.
var ErrReleased = errors.New("lock released")

// ErrExpired is Lock.Err when the lease ran out by this process's clock: no
// server has confirmed it for its whole length.
var ErrExpired = errors.New("lock lease expired: not confirmed in time")

// Lock is a lock that is held. It keeps itself: at a third of its lease it asks
// the servers to go on, again and again.
//
// The lease is counted on the monotonic clock from when the last confirmation
// was asked for, never from when it came back, so the servers keep the lock at
// least as long as Err says nil. That clock may stand still while a machine
// sleeps: what protects the key itself is the fence, which the servers check on
// every write.
type Lock struct {
	store, key, owner string
	fence             uint64
	lease             time.Duration
	keeper            keeper
	told              func(LockStatus) // of changes; nil for nobody

	held context.Context // ends, with its cause, when the lock is over
	over context.CancelCauseFunc
	kept chan struct{} // closed when the keeping goroutine has ended

	mu       sync.Mutex
	proven   time.Time // send time of the last confirmed request; guarded by mu
	jeopardy bool      // a renewal was due and has not been confirmed; guarded by mu
}

// keeper is who holds locks: a room as its peer, or a caller over HTTP.
type keeper interface {
	// confirm asks the servers to go on with the lease. A refusal that says that
	// the lock is not held any more ends it.
	confirm(ctx context.Context, l *Lock) error
	// release gives the lock back. It is called once, unless the lock was lost.
	release(ctx context.Context, l *Lock) error
	// forget is called once, when the lock is over without a release.
	forget(l *Lock)
	// put writes the locked key with the fence.
	put(ctx context.Context, l *Lock, value any, opts []WriteOption) (*Written, error)
}

// begin starts to keep a lock that was proven to be held by a request sent at
// proven, on a goroutine of the group. The end of ctx, with its cause, is the
// lock's.
func (l *Lock) begin(ctx context.Context, group *sync.WaitGroup, k keeper, proven time.Time) *Lock {
	l.keeper, l.proven, l.kept = k, proven, make(chan struct{})
	l.held, l.over = context.WithCancelCause(ctx)
	group.Go(l.keep)
	return l
}

// Store and Key name the lock; Owner is its holder as others see it.
func (l *Lock) Store() string { return l.store }
func (l *Lock) Key() string   { return l.key }
func (l *Lock) Owner() string { return l.owner }

// Fence is the fencing token: the revision of the grant. Fences of a key grow for
// ever. It is no secret.
func (l *Lock) Fence() uint64 { return l.fence }

// Done is closed when the lock is over: lost or released.
func (l *Lock) Done() <-chan struct{} { return l.held.Done() }

// Err is nil while the lock is held, ErrReleased after Unlock, and why it was
// lost else. It looks at the clock: a program that was suspended learns of the
// loss even before Done is closed.
func (l *Lock) Err() error {
	if l.held.Err() == nil && !time.Now().Before(l.expiry()) {
		l.over(ErrExpired)
	}
	if l.held.Err() == nil {
		return nil
	}
	return context.Cause(l.held)
}

// Context returns a copy of parent that ends when the lock is over; its cause is
// then Lock.Err. Work under the lock runs with it.
func (l *Lock) Context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(l.held, func() { cancel(context.Cause(l.held)) })
	return ctx, func() { stop(); cancel(context.Canceled) }
}

// Put writes the locked key under the lock: with its fence, which the servers
// check. A holder that has lost the lock is refused with stale_fence, by its own
// clock or by the servers.
func (l *Lock) Put(ctx context.Context, value any, opts ...WriteOption) (*Written, error) {
	if err := l.Err(); err != nil {
		return nil, lostError(l, err)
	}
	return l.keeper.put(ctx, l, value, opts)
}

// Cond is the condition of a transaction that the lock is held.
func (l *Lock) Cond() wire.Cond {
	fence := l.fence
	return wire.Cond{Store: l.store, Key: l.key, Fence: &fence}
}

// Unlock releases the lock. If ctx ends first, the release goes on behind the
// caller's back, or the lease runs out. The error of a lock that was lost before
// is why.
func (l *Lock) Unlock(ctx context.Context) error {
	if err := l.Err(); err != nil {
		if errors.Is(err, ErrReleased) {
			return nil
		}
		return lostError(l, err)
	}
	l.over(ErrReleased)
	<-l.kept
	if cause := context.Cause(l.held); !errors.Is(cause, ErrReleased) {
		return lostError(l, cause) // lost in the same moment
	}
	return l.keeper.release(ctx, l)
}

// lostError is the refusal of work under a lock that is over.
func lostError(l *Lock, err error) error {
	return fmt.Errorf("lock %q: %w: %w", l.key, err, wire.Errorf(wire.StaleFence, "fence %d is over", l.fence))
}

func (l *Lock) expiry() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proven.Add(l.lease)
}

// keep confirms the lease until the lock is over.
func (l *Lock) keep() {
	defer close(l.kept)
	for l.held.Err() == nil {
		l.mu.Lock()
		due := l.proven.Add(l.lease / 3)
		l.mu.Unlock()
		if sleep(l.held, time.Until(due)) == nil {
			l.renew()
		}
	}
	if !errors.Is(context.Cause(l.held), ErrReleased) {
		l.keeper.forget(l)
	}
	l.tell()
}

// renew confirms the lease once, or ends the lock. An attempt that takes a third
// of the lease is given up for a fresh one, whose send time counts.
func (l *Lock) renew() {
	expiry := l.expiry()
	ctx, cancel := context.WithDeadline(l.held, expiry)
	defer cancel()
	for {
		sent := time.Now()
		attempt, done := context.WithTimeout(ctx, l.lease/3)
		err := l.keeper.confirm(attempt, l)
		done()
		switch {
		case err == nil:
			l.mu.Lock()
			was := l.jeopardy
			l.proven, l.jeopardy = sent, false
			l.mu.Unlock()
			if was {
				l.tell()
			}
			return
		case gone(err):
			l.over(err)
			return
		}
		l.mu.Lock()
		first := !l.jeopardy && l.held.Err() == nil && ctx.Err() == nil
		l.jeopardy = true
		l.mu.Unlock()
		if first {
			l.tell()
		}
		if sleep(ctx, min(l.lease/12, time.Second)) != nil {
			if l.held.Err() == nil {
				l.over(ErrExpired)
			}
			return
		}
	}
}

// gone reports whether err says for certain that a lock is not held any more.
func gone(err error) bool {
	var e *wire.Error
	if !errors.As(err, &e) {
		return errors.Is(err, ErrClosed)
	}
	switch e.Code {
	case wire.NotHolder, wire.NotFound, wire.NoSession, wire.SessionEnded, wire.StaleFence:
		return true
	}
	return false
}
