package client

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"conclave/client/wire"
)

// longestWait is the wait of a Lock that only its context bounds: as long as the
// servers let anybody wait.
const longestWait = 24 * time.Hour

// acquire is the body of the verb.
type acquire struct {
	Do       string          `json:"do"`
	Store    string          `json:"store,omitempty"`
	Key      string          `json:"key"`
	TTLMs    int64           `json:"ttl_ms,omitempty"`
	WaitMs   int64           `json:"wait_ms,omitempty"`
	OnDetach bool            `json:"release_on_detach,omitempty"`
	Mode     string          `json:"mode,omitempty"`
	Permits  int             `json:"permits,omitempty"`
	DelayMs  int64           `json:"delay_ms,omitempty"`
	Data     json.RawMessage `json:"data,omitempty"`
}

// shortestGrace is the least grace by which a lock without TTL can be proven to be
// held: a round trip must fit into a third of it. A peer with less is taken to
// lose its locks with its connection.
const shortestGrace = 3 * time.Second

// fenced is the body of renew, release and validate.
type fenced struct {
	Do    string `json:"do"`
	Store string `json:"store,omitempty"`
	Key   string `json:"key"`
	Fence uint64 `json:"fence"`
}

// Lock takes a lock, in the order in which peers (and, within this room,
// goroutines) have asked for it. It waits until ctx ends, or as long as Wait
// says: then the error is lock_timeout.
//
// With TTL the lock is a lease that the Lock renews by itself. Without, it lasts
// while this peer does: through lost connections that are shorter than the
// peer's grace, unless ReleaseOnDetach is given.
//
// When ctx ends while the lock may have been granted, it is given back behind the
// caller's back.
func (r *Room) Lock(ctx context.Context, key string, opts ...LockOption) (*Lock, error) {
	return r.lock(ctx, key, lockOptions{forever: true}, opts)
}

// TryLock takes a lock if nobody has it; else the error is locked (IsLocked).
func (r *Room) TryLock(ctx context.Context, key string, opts ...LockOption) (*Lock, error) {
	return r.lock(ctx, key, lockOptions{}, opts)
}

func (r *Room) lock(ctx context.Context, key string, o lockOptions, opts []LockOption) (*Lock, error) {
	for _, opt := range opts {
		if err := opt.lock(&o); err != nil {
			return nil, err
		}
	}
	if o.forever {
		o.wait = longestWait
	}
	name := lockName{storeName(o.store), key}
	until := time.Now().Add(o.wait)
	if err := r.takeTurn(ctx, name, o.wait); err != nil {
		return nil, err
	}
	l, err := r.grant(ctx, name, o, until)
	var undo *undoing
	switch {
	case errors.As(err, &undo):
		return nil, undo.error
	case err != nil:
		r.giveTurn(name)
		return nil, err
	}
	return l, nil
}

// cancelAgain is how long after a cancel its acquire should be answered.
const cancelAgain = time.Second

// undoing is the error of an acquire that is being undone in the background. The
// turn comes back after that, so the caller must not give it back.
type undoing struct{ error }

// grant asks the servers for the lock until it is proven to be held.
func (r *Room) grant(ctx context.Context, name lockName, o lockOptions, until time.Time) (*Lock, error) {
	for {
		left := max(time.Until(until), 0)
		req, err := newRequest("acquire", acquire{
			Do: "acquire", Store: name.store, Key: name.key, TTLMs: o.ttl.Milliseconds(),
			WaitMs: left.Milliseconds(), OnDetach: o.onDetach, Data: o.data,
			Mode: modeName(o.shared), Permits: o.permits, DelayMs: o.delay.Milliseconds(),
		})
		if err != nil {
			return nil, err
		}
		req.acquire = true
		sent := time.Now()
		fence, err := r.acquire(ctx, req, name)
		if IsLocked(err) && o.wait > 0 {
			return nil, wire.Errorf(wire.LockTimeout, "%q is held, and the wait is over", name.key)
		}
		if err != nil {
			return nil, err
		}
		l, err := r.confirmed(ctx, req, name, o, fence, sent)
		if l != nil || !gone(err) || time.Now().After(until) || r.Err() != nil {
			return l, err
		}
		// The grant was lost before it could be used: queue again.
	}
}

// modeName is the wire's name of a mode, "" for the default.
func modeName(shared bool) string {
	if shared {
		return "shared"
	}
	return ""
}

// acquire sends an acquire and waits for its end. If ctx ends first, the acquire
// is undone in the background, which then gives the turn back.
func (r *Room) acquire(ctx context.Context, req *request, name lockName) (fence uint64, err error) {
	var ok wire.Grant
	err = r.ask(ctx, req, &ok)
	var interrupted *InterruptedError
	if errors.As(err, &interrupted) && interrupted.MayHaveApplied && r.Err() == nil {
		r.background(func() {
			r.undo(req, name)
			r.giveTurn(name)
		})
		return 0, &undoing{err}
	}
	return ok.Fence, err
}

// undo ends an acquire that nobody waits for any more: it cancels the wait, and
// releases the lock if it was granted all the same. It goes on until it knows, or
// the room ends: an acquire that is sent again on a new connection may queue again.
func (r *Room) undo(req *request, name lockName) {
	for known := false; !known; {
		err := r.simple(r.ctx, "cancel", struct {
			Do      string `json:"do"`
			Request uint64 `json:"request"`
		}{"cancel", req.id}, nil)
		if r.ctx.Err() != nil {
			return
		}
		select {
		case <-req.done:
			known = true
		case <-r.ctx.Done():
			return
		case <-time.After(cancelAgain):
			r.log.Debug("cancelling again", "key", name.key, "err", err)
		}
	}
	var ok wire.Grant
	if req.err == nil && json.Unmarshal(req.ok, &ok) == nil {
		_ = r.simple(r.ctx, "release", fenced{"release", name.store, name.key, ok.Fence}, nil)
	}
}

// confirmed makes the handle of a granted lock. A grant that took its time (it
// was waited for, or its answer was lost) is confirmed first, so that the lease
// counts from then; one of a peer that is no more is none.
func (r *Room) confirmed(ctx context.Context, req *request, name lockName, o lockOptions, fence uint64, sent time.Time) (*Lock, error) {
	r.mu.Lock()
	waited, lease, owner, bound := req.waited, o.ttl, r.peer, o.ttl == 0
	if bound {
		lease = max(r.grace, shortestGrace)
		o.onDetach = o.onDetach || r.grace < shortestGrace
	}
	r.mu.Unlock()
	k := &roomKeeper{r: r, bound: bound}
	probe := &Lock{store: name.store, key: name.key, fence: fence, lease: lease}
	if waited || time.Since(sent) > lease/3 {
		sent = time.Now()
		if err := k.confirm(ctx, probe); err != nil {
			if !gone(err) {
				r.background(func() { _ = k.release(r.ctx, probe) })
				return nil, &undoing{err}
			}
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	if r.epoch != req.epoch || o.onDetach && r.conn == nil {
		return nil, wire.Errorf(wire.NotHolder, "the lock has ended with the connection that it was granted to").With("reason", "detached")
	}
	l := &Lock{store: name.store, key: name.key, owner: owner, fence: fence, lease: lease, told: o.told}
	r.locks[l] = o.onDetach
	l.begin(context.Background(), &r.work, k, sent)
	r.work.Go(func() { r.heed(l) })
	return l, nil
}

// loseLocks ends all locks that the peer holds. The caller holds mu.
func (r *Room) loseLocks(why error) {
	for l := range r.locks {
		delete(r.locks, l)
		l.over(why)
	}
}

// Locks lists all locks of the room, page by page; see AllLocks for long lists.
func (r *Room) Locks(ctx context.Context) ([]wire.Lock, error) {
	return collect(r.AllLocks(ctx, ""))
}

// Validate reports whether a fence is the current grant of a key.
func (r *Room) Validate(ctx context.Context, key string, fence uint64, opts ...ReadOption) (bool, error) {
	var o readOptions
	for _, opt := range opts {
		opt.read(&o)
	}
	var ok wire.Valid
	err := r.query(ctx, "validate", fenced{"validate", o.store, key, fence}, &ok)
	return ok.Valid, err
}
