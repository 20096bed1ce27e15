package client

import (
	"context"
	"time"

	"conclave/client/wire"
)

// lockName is a lock of the room.
type lockName struct{ store, key string }

// turn lets one user of a room at a time want or hold a lock. To the servers a
// peer is one owner: it would be granted again what it holds already.
type turn struct {
	window *window // of size 1
	users  int     // in it or waiting; the last one removes it. Guarded by mu of the Room
}

// takeTurn waits for the turn to want a lock.
func (r *Room) takeTurn(ctx context.Context, name lockName, wait time.Duration) error {
	r.mu.Lock()
	t := r.turns[name]
	if t == nil {
		t = &turn{window: newWindow(1)}
		r.turns[name] = t
	}
	t.users++
	r.mu.Unlock()
	err := t.window.enterWithin(ctx, wait)
	if err == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropTurn(name, t)
	switch {
	case ctx.Err() != nil:
		return &InterruptedError{Do: "acquire", Err: ctx.Err(), Last: r.away}
	case wait > 0:
		return wire.Errorf(wire.LockTimeout, "%q is held within this room", name.key)
	}
	return wire.Errorf(wire.Locked, "%q is held within this room", name.key).With("key", name.key).With("owner", r.peer)
}

func (r *Room) giveTurn(name lockName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.turns[name]; t != nil {
		t.window.leave()
		r.dropTurn(name, t)
	}
}

// dropTurn forgets a user of a turn. The caller holds mu.
func (r *Room) dropTurn(name lockName, t *turn) {
	if t.users--; t.users == 0 {
		delete(r.turns, name)
	}
}
