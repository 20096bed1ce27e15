package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"conclave/client/wire"
)

// DefaultTTL is the lease of a lock taken without saying how long.
const DefaultTTL = 15 * time.Second

// LockParams ask for a lock over HTTP.
type LockParams struct {
	RequestParams
	Store string
	// Owner names the holder; "" draws one. Whoever knows the token and the name
	// is the owner.
	Owner string
	TTL   time.Duration // of the lease, 1 s to 24 h; 0 means DefaultTTL
	Wait  time.Duration // how long to queue; 0 is refused with locked when it is held
	Data  any           // shown to others with the lock; nil for none

	Shared  bool          // together with others who ask for it so
	Permits int           // so many may hold it, of those who ask for the same number; 0 and 1: one
	Delay   time.Duration // if the lease lapses, nobody gets the lock for so long, at most an hour

	// OnStatus is told of changes of a Lock, as with OnLockStatus.
	OnStatus func(LockStatus)

	Open time.Duration // opens a session with that idle timeout if the room has none
}

// Grant is a lock as it was granted.
type Grant struct {
	Fence       uint64 `json:"fence"`
	Owner       string `json:"owner"`
	TTLMs       int64  `json:"ttl_ms"`
	ExpiresInMs int64  `json:"expires_in_ms"`
}

// Lock acquires a lock and keeps it. While it waits its turn the call blocks, up
// to Wait. A grant that was waited for is confirmed before Lock returns, so the
// lease starts with the return, not with a grant that was under way.
func (h *HTTP) Lock(ctx context.Context, room, key string, p LockParams) (*Lock, error) {
	if p.Owner == "" {
		p.Owner = rand.Text()
	}
	if p.TTL == 0 {
		p.TTL = DefaultTTL
	}
	g, sent, err := h.queue(ctx, room, key, p)
	if err != nil {
		if MayHaveApplied(err) {
			h.undo(ctx, room, key, p)
		}
		return nil, err
	}
	// The lease began with the grant, which may be as old as the request.
	if time.Since(sent) > p.TTL/3 {
		sent = time.Now()
		if _, err := h.Renew(ctx, room, p.Store, key, g.Fence, p.Owner); err != nil {
			h.undo(ctx, room, key, p)
			return nil, fmt.Errorf("confirm lock %q: %w", key, err)
		}
	}
	l := &Lock{store: storeName(p.Store), key: key, owner: p.Owner, fence: g.Fence, lease: p.TTL, told: p.OnStatus}
	return l.begin(h.ctx, &h.work, httpKeeper{h, room, p}, sent), nil
}

// queue acquires a lock, and says when the acquire that was granted was sent. A
// place in the queue ends with the connection that holds it; then the servers say
// lock_timeout before the time, and the rest of it is waited at the end of the queue.
func (h *HTTP) queue(ctx context.Context, room, key string, p LockParams) (g *Grant, sent time.Time, err error) {
	until := time.Now().Add(p.Wait)
	for n := 0; ; n++ {
		sent = time.Now()
		if g, err = h.Acquire(ctx, room, key, p); !HasCode(err, wire.LockTimeout) || p.IdempotencyKey != "" {
			return g, sent, err
		}
		if p.Wait = time.Until(until); p.Wait < time.Millisecond || sleep(ctx, min(backoff(n), p.Wait)) != nil {
			return nil, sent, err
		}
	}
}

// Acquire acquires a lock without keeping it: the caller renews and releases it.
func (h *HTTP) Acquire(ctx context.Context, room, key string, p LockParams) (*Grant, error) {
	if p.Owner == "" {
		p.Owner = rand.Text() // ours, so that a repeat asks in the same name
	}
	if p.TTL == 0 {
		p.TTL = DefaultTTL
	}
	body := struct {
		Owner  string `json:"owner"`
		TTLMs  int64  `json:"ttl_ms"`
		WaitMs int64  `json:"wait_ms,omitempty"`
		Data   any    `json:"data,omitempty"`

		Mode    string `json:"mode,omitempty"`
		Permits int    `json:"permits,omitempty"`
		DelayMs int64  `json:"delay_ms,omitempty"`
	}{p.Owner, p.TTL.Milliseconds(), p.Wait.Milliseconds(), p.Data, modeName(p.Shared), p.Permits, p.Delay.Milliseconds()}
	c, err := newCall(http.MethodPost, roomPath(room, "locks", storeName(p.Store), key), body)
	if err != nil {
		return nil, err
	}
	setMillis(c.query, "open_ms", p.Open)
	p.RequestParams.set(c)
	c.wait = p.Wait
	return answer[Grant](ctx, h, c)
}

// Renew keeps a lease and returns the time left, which counts from when the
// request was sent at the earliest.
func (h *HTTP) Renew(ctx context.Context, room, store, key string, fence uint64, owner string) (time.Duration, error) {
	body := struct {
		Fence uint64 `json:"fence"`
		Owner string `json:"owner"`
	}{fence, owner}
	c, err := newCall(http.MethodPut, roomPath(room, "locks", storeName(store), key), body)
	if err != nil {
		return 0, err
	}
	c.repeat = true // renewing twice is renewing
	g, err := answer[Grant](ctx, h, c)
	if err != nil {
		return 0, err
	}
	return time.Duration(g.ExpiresInMs) * time.Millisecond, nil
}

// Release gives a lock back.
func (h *HTTP) Release(ctx context.Context, room, store, key string, fence uint64, owner string) error {
	c, err := newCall(http.MethodDelete, roomPath(room, "locks", storeName(store), key), nil)
	if err != nil {
		return err
	}
	setNumber(c.query, "fence", fence)
	setString(c.query, "owner", owner)
	return h.do(ctx, c.write(""), nil)
}

// Break ends a lock whoever holds it; it needs the right.
func (h *HTTP) Break(ctx context.Context, room, store, key string) error {
	c, err := newCall(http.MethodDelete, roomPath(room, "locks", storeName(store), key), nil)
	if err != nil {
		return err
	}
	c.query.Set("break", "true")
	return h.do(ctx, c.write(""), nil)
}

// LockState shows a lock; the error is not_found when nobody holds or wants it.
func (h *HTTP) LockState(ctx context.Context, room, store, key string) (*wire.Lock, error) {
	return get[wire.Lock](ctx, h, roomPath(room, "locks", storeName(store), key))
}

// Locks lists all locks of a room, page by page; see AllLocks for long lists.
func (h *HTTP) Locks(ctx context.Context, room string) ([]wire.Lock, error) {
	return collect(h.AllLocks(ctx, room, ""))
}

// Validate reports whether a fence is the current grant of a key.
func (h *HTTP) Validate(ctx context.Context, room, store, key string, fence uint64) (bool, error) {
	c, err := newCall(http.MethodGet, roomPath(room, "locks", storeName(store), key), nil)
	if err != nil {
		return false, err
	}
	c.query.Set("fence", strconv.FormatUint(fence, 10))
	a, err := answer[wire.Valid](ctx, h, c)
	if err != nil {
		return false, err
	}
	return a.Valid, nil
}

// undo gives back what an acquire that was not waited out may have left behind.
// It is a courtesy to those who wait: a failure leaves it to the lease's end.
func (h *HTTP) undo(ctx context.Context, room, key string, p LockParams) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	state, err := h.LockState(ctx, room, p.Store, key)
	if err != nil {
		return
	}
	for _, holder := range state.Holders {
		if holder.Owner == p.Owner {
			if err := h.Release(ctx, room, p.Store, key, holder.Fence, p.Owner); err != nil {
				h.log.Debug("lock left to its lease", "room", room, "key", key, "err", err)
			}
		}
	}
}

// httpKeeper keeps one lock over HTTP. There is no turn to give back: over HTTP
// every Lock has an owner of its own.
type httpKeeper struct {
	h    *HTTP
	room string
	p    LockParams
}

func (k httpKeeper) confirm(ctx context.Context, l *Lock) error {
	_, err := k.h.Renew(ctx, k.room, l.store, l.key, l.fence, l.owner)
	return err
}

func (k httpKeeper) release(ctx context.Context, l *Lock) error {
	return k.h.Release(ctx, k.room, l.store, l.key, l.fence, l.owner)
}

func (k httpKeeper) forget(*Lock) {}

func (k httpKeeper) put(ctx context.Context, l *Lock, value any, opts []WriteOption) (*Written, error) {
	op, err := newWrite("put", l.key, value, append(opts, InStore(l.store)))
	if err != nil {
		return nil, err
	}
	p := WriteParams{RequestParams: RequestParams{Session: k.p.Session}, Store: l.store, Fence: l.fence, Owner: l.owner}
	if err := p.take(op); err != nil {
		return nil, err
	}
	return k.h.Put(ctx, k.room, l.key, op.Value, p)
}
