package client

import (
	"context"
	"errors"

	"conclave/client/wire"
)

// roomKeeper keeps a lock of a room's peer. A lock without a lease of its own is
// bound to the peer: asking whether it is still valid proves that it was held
// then, so it is for the peer's grace after that.
type roomKeeper struct {
	r     *Room
	bound bool
}

// confirm needs no place in the window: it is not remembered by the servers, and
// must not wait behind a crowd of writers.
func (k *roomKeeper) confirm(ctx context.Context, l *Lock) error {
	do := "renew"
	if k.bound {
		do = "validate"
	}
	req, err := newRequest(do, fenced{do, l.store, l.key, l.fence})
	if err != nil {
		return err
	}
	req.read = true
	ok := wire.Valid{Valid: true} // a renewal that is answered is valid
	if err := k.r.run(ctx, req, &ok); err != nil {
		return err
	}
	if !ok.Valid {
		over := wire.Errorf(wire.NotHolder, "fence %d is over", l.fence)
		if ok.Reason != "" {
			over.With("reason", ok.Reason)
		}
		return over
	}
	return nil
}

// release gives the lock back. Until that is known to have happened, nobody else
// in this room gets its turn.
func (k *roomKeeper) release(ctx context.Context, l *Lock) error {
	r, name := k.r, lockName{l.store, l.key}
	r.mu.Lock()
	delete(r.locks, l)
	r.mu.Unlock()
	body := fenced{"release", l.store, l.key, l.fence}
	err := r.simple(ctx, "release", body, nil)
	var interrupted *InterruptedError
	if errors.As(err, &interrupted) && r.Err() == nil {
		r.background(func() {
			_ = r.simple(r.ctx, "release", body, nil)
			r.giveTurn(name)
		})
		return err
	}
	r.giveTurn(name)
	return err
}

func (k *roomKeeper) forget(l *Lock) {
	k.r.mu.Lock()
	delete(k.r.locks, l)
	k.r.mu.Unlock()
	k.r.giveTurn(lockName{l.store, l.key})
}

func (k *roomKeeper) put(ctx context.Context, l *Lock, value any, opts []WriteOption) (*Written, error) {
	return k.r.Put(ctx, l.key, value, append(opts[:len(opts):len(opts)], InStore(l.store), Under(l))...)
}
