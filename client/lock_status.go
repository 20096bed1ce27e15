package client

import (
	"context"
	"errors"
	"time"

	"conclave/client/wire"
)

// LockState says what this process knows of a Lock.
type LockState string

// The states of a Lock. It goes from held to jeopardy and back, and to lost from
// either, once and for good.
const (
	LockHeld LockState = "held"
	// LockJeopardy: a renewal has failed, or was not answered for a third of the
	// lease, so no majority is known to confirm the lock. It is still held, until
	// the lease has run out by this process's clock.
	LockJeopardy LockState = "jeopardy"
	LockLost     LockState = "lost" // or released
)

// LostReason says why a Lock is over.
type LostReason string

// The reasons. The servers' word counts where there is one; what they no longer
// remember is LostUnknown.
const (
	LostReleased     LostReason = "released"      // Unlock, or somebody under the same owner's name
	LostExpired      LostReason = "expired"       // the lease, or the peer's grace, ran out
	LostBroken       LostReason = "broken"        // by somebody with the right to
	LostSessionEnded LostReason = "session_ended" // the room's session is over
	LostRemoved      LostReason = "removed"       // the peer was sent out of the room
	LostReplaced     LostReason = "replaced"      // another connection took the peer over
	LostDetached     LostReason = "detached"      // its connection broke, and it was to end with it
	LostClosed       LostReason = "closed"        // the Room, its Client or the HTTP was closed
	LostUnknown      LostReason = "not_held"      // the servers say that it is not held
)

// errDetached ends the locks that were to end with their connection.
var errDetached = errors.New("connection lost")

// LockStatus is the state of a Lock at a moment.
type LockStatus struct {
	State  LockState
	Left   time.Duration // until it is lost by this process's clock, unless it is confirmed before
	Reason LostReason    // of a lost one
	Err    error         // of a lost one: Lock.Err
}

// Status is the lock's state now, by this process's clock.
func (l *Lock) Status() LockStatus {
	if err := l.Err(); err != nil {
		return LockStatus{State: LockLost, Reason: lostReason(err), Err: err}
	}
	left := time.Until(l.expiry())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.jeopardy {
		return LockStatus{State: LockJeopardy, Left: left}
	}
	return LockStatus{State: LockHeld, Left: left}
}

// tell tells of a change, on the keeping goroutine.
func (l *Lock) tell() {
	if l.told != nil {
		l.told(l.Status())
	}
}

// lostReason reads the reason out of what ended a lock.
func lostReason(err error) LostReason {
	var refused *wire.Error
	var closed *CloseError
	switch {
	case errors.Is(err, ErrReleased):
		return LostReleased
	case errors.Is(err, ErrExpired):
		return LostExpired
	case errors.Is(err, errDetached):
		return LostDetached
	case errors.As(err, &closed):
		switch closed.Code {
		case 4102:
			return LostRemoved
		case 4103:
			return LostSessionEnded
		case 4105:
			return LostReplaced
		}
		return LostClosed
	case errors.As(err, &refused):
		switch refused.Code {
		case wire.SessionEnded, wire.NoSession:
			return LostSessionEnded
		}
		if reason, _ := refused.Details["reason"].(string); reason != "" {
			return LostReason(reason)
		}
		return LostUnknown
	}
	return LostClosed
}

// WithLock takes a lock as Lock does and runs work under it. The context of work
// ends when the lock is lost, with the loss as its cause (context.Cause), and when
// ctx does. After work, also if it panics, the lock is released.
//
// The error is work's; if the lock was lost meanwhile, the loss (IsStaleFence, and
// errors.Is the cause), joined with work's. That the release could not be confirmed
// is no error: the lock then ends by itself.
func (r *Room) WithLock(ctx context.Context, key string, work func(ctx context.Context, l *Lock) error, opts ...LockOption) error {
	l, err := r.Lock(ctx, key, opts...)
	if err != nil {
		return err
	}
	return l.run(ctx, work)
}

// WithLock is as Room.WithLock, with a lock over HTTP.
func (h *HTTP) WithLock(ctx context.Context, room, key string, p LockParams, work func(ctx context.Context, l *Lock) error) error {
	l, err := h.Lock(ctx, room, key, p)
	if err != nil {
		return err
	}
	return l.run(ctx, work)
}

func (l *Lock) run(ctx context.Context, work func(context.Context, *Lock) error) error {
	under, cancel := l.Context(ctx)
	defer cancel()
	defer func() {
		// Longer than the lease is no use: then the lock has ended by itself.
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.lease)
		defer cancel()
		_ = l.Unlock(release)
	}()
	err := work(under, l)
	if lost := l.Err(); lost != nil && !errors.Is(lost, ErrReleased) {
		return errors.Join(lostError(l, lost), err)
	}
	return err
}
