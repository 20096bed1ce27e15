package sim

import (
	"context"
	"time"

	"conclave/fsm"
)

// Locks takes a lock again and again, waiting for it in the queue: it writes the
// locked key under the fence, renews, and lets go, or forgets and lets the lease
// expire. Until stop.
func (k *Client) Locks(room, key string, ttl time.Duration, stop <-chan struct{}) {
	k.caller.Owner = k.Name
	for ; !stopped(stop); k.pause() {
		fence := k.acquire(room, key, ttl)
		if fence == 0 {
			continue
		}
		for range k.rng.IntN(6) {
			k.pause()
			k.Do(single(room, fsm.Operation{Kind: fsm.OpPut, Key: key, Value: k.value(), Fence: fence}))
			if k.rng.IntN(2) == 0 && !k.renew(room, key, fence, ttl) {
				break
			}
		}
		switch k.rng.IntN(4) {
		case 0: // forgets: the lease runs out; its last write must come to nothing
			time.Sleep(2 * ttl)
			k.Do(single(room, fsm.Operation{Kind: fsm.OpPut, Key: key, Value: k.value(), Fence: fence}))
		default:
			k.Do(single(room, fsm.Operation{Kind: fsm.OpRelease, Key: key, Fence: fence}))
		}
	}
}

// Intrudes writes a locked key with fences that are not its own.
func (k *Client) Intrudes(room, key string, stop <-chan struct{}) {
	k.caller.Owner = k.Name
	for ; !stopped(stop); k.pause() {
		fence := uint64(0)
		if r := k.Read(room, key); r != nil && k.rng.IntN(4) > 0 {
			fence = k.fenceOf(room, key)
		}
		k.Do(single(room, fsm.Operation{Kind: fsm.OpPut, Key: key, Value: k.value(), Fence: fence}))
		time.Sleep(time.Second)
	}
}

// fenceOf looks up the current fence, which is no secret.
func (k *Client) fenceOf(room, key string) uint64 {
	_, p := k.any()
	if s := p.node.View().Session(room); s != nil {
		if l := s.Lock(store, key); l != nil && len(l.Holders) > 0 {
			return l.Holders[0].Fence
		}
	}
	return 0
}

// Locks that several hold at once, in the hall.
const (
	library = "library" // shared, but by the keeper, who wants it alone
	pool    = "pool"    // for two
	keeper  = "sharer0"
)

// Shares takes locks that several may hold, writes their keys under its own fence,
// and lets go or forgets; what it forgets is granted to nobody for a while. Until
// stop.
func (k *Client) Shares(room string, ttl time.Duration, stop <-chan struct{}) {
	k.caller.Owner = k.Name
	for ; !stopped(stop); k.pause() {
		key, req := library, fsm.LockRequest{TTL: ttl.Milliseconds(), Shared: k.Name != keeper}
		if k.rng.IntN(2) == 0 {
			key, req = pool, fsm.LockRequest{TTL: ttl.Milliseconds(), Permits: 2, Delay: ttl.Milliseconds() / 2}
		}
		fence := k.acquireAs(room, key, req)
		if fence == 0 {
			continue
		}
		for range 1 + k.rng.IntN(3) {
			k.pause()
			k.Do(single(room, fsm.Operation{Kind: fsm.OpPut, Key: key, Value: k.value(), Fence: fence}))
		}
		if k.rng.IntN(3) == 0 {
			continue // forgets
		}
		k.Do(single(room, fsm.Operation{Kind: fsm.OpRelease, Key: key, Fence: fence}))
		k.Do(single(room, fsm.Operation{Kind: fsm.OpPut, Key: key, Value: k.value(), Fence: fence}))
	}
}

// acquire asks for a lock for itself alone.
func (k *Client) acquire(room, key string, ttl time.Duration) (fence uint64) {
	return k.acquireAs(room, key, fsm.LockRequest{TTL: ttl.Milliseconds()})
}

// acquireAs asks for a lock and waits for twice its TTL; 0 means that it was not
// granted, or that the client cannot know.
func (k *Client) acquireAs(room, key string, req fsm.LockRequest) (fence uint64) {
	_, p := k.any()
	ttl := time.Duration(req.TTL) * time.Millisecond
	cmd := &fsm.Command{
		Kind: fsm.CommandAcquire, Room: room, Open: opened(),
		Acquire: &fsm.Acquire{
			Store: store, Key: key, Wait: (2 * ttl).Milliseconds(), Lock: req,
			Node: p.node.ID(), Incarnation: p.node.Incarnation(), Waiter: string(k.value()),
		},
	}
	sent := k.h.Now()
	op := k.Do(cmd)
	switch {
	case op.Outcome != Applied:
		return 0
	case op.Result.Waiting == 0:
		k.granted(room, key, op.Result.Fence, sent, ttl)
		return op.Result.Fence
	}
	// Queued: the end of the wait is a fact of the log that every node tells.
	waiter, fence := op.Result.Waiter, uint64(0)
	until := k.h.Now() + 4*ttl
	for fence == 0 && k.h.Now() < until {
		time.Sleep(20 * time.Millisecond)
		_, p := k.any()
		view := p.node.View()
		s := view.Session(room)
		if s == nil || view.Rev() < waiter {
			continue
		}
		l, mine := s.Lock(store, key), false
		if l != nil {
			for _, w := range l.Queue {
				mine = mine || w.ID == waiter
			}
			if h := l.Holder(k.caller.LockOwner()); h != nil {
				fence = h.Fence
			}
		}
		if !mine && fence == 0 {
			return 0
		}
	}
	if fence != 0 {
		// What was waited for is renewed at once: the grant is older than it seems.
		k.renew(room, key, fence, ttl)
	}
	return fence
}

// granted notes a lease that began no earlier than when it was asked for.
func (k *Client) granted(room, key string, fence uint64, sent, ttl time.Duration) {
	k.h.addRenewal(Renewal{Room: room, Key: key, Fence: fence, Sent: sent, TTL: ttl})
}

// renew keeps the lease; false when it is lost for certain.
func (k *Client) renew(room, key string, fence uint64, ttl time.Duration) bool {
	_, p := k.any()
	sent := k.h.Now()
	ctx, cancel := context.WithTimeout(context.Background(), ttl)
	defer cancel()
	_, err := p.node.Renew(ctx, fsm.LeaseRef{Room: room, Store: store, Key: key, Fence: fence, Owner: k.caller.LockOwner()})
	if err == nil && !p.dead() {
		k.granted(room, key, fence, sent, ttl)
	}
	_, refused := err.(*fsm.Refusal)
	return !refused
}
