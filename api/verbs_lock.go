package api

import (
	"strconv"

	"conclave/client/wire"
	"conclave/fsm"
)

// acquire asks for a lock. If it has to wait it is told its place, and answered
// when the wait is over; until then it holds back nothing behind it, and does not
// count as a request without an answer.
func (k *socket) acquire(r *request) {
	if !k.mustBePeer(r) {
		return
	}
	a := &fsm.Acquire{Store: r.o.store(), Key: r.o.key()}
	a.Wait, _ = r.o.number("wait_ms", 0, maxWait)
	a.Lock = *r.o.lockRequest(k.caller)
	c := k.command(r, fsm.CommandAcquire)
	c.Acquire = a
	if !k.admitted(r, c) {
		return
	}
	// Announced before it is submitted: the grant may be published with the result.
	w := k.server.grants.expect(k.room, a.Store, a.Key)
	if full := k.keepWait(r.id, w); full != nil {
		w.forget()
		k.refuse(r, full)
		return
	}
	k.hand(c, func(res *fsm.Result, err error) {
		switch err := outcome(res, err); {
		case err != nil:
			k.dropWait(r.id)
			k.refused(r, err)
		case res.Waiting > 0:
			k.queued(r, a, w, res)
		default:
			k.dropWait(r.id)
			k.granted(r, a, res.Fence, res.Repeated)
		}
	})
}

// queued tells the place in line, and the end of the wait when it comes.
func (k *socket) queued(r *request, a *fsm.Acquire, w *wait, res *fsm.Result) {
	// The notice is the answer that the window waits for; the real one weighs
	// nothing any more.
	weight := r.weight
	r.weight = 0
	k.push(item{answer: true, weight: weight, send: func() error {
		return k.send(func(b []byte) []byte {
			b = strconv.AppendUint(append(b, `{"id":`...), r.id, 10)
			b = strconv.AppendInt(append(b, `,"waiting":{"position":`...), int64(res.Waiting), 10)
			return append(b, '}', '}')
		})
	}})
	w.queued(k.caller.LockOwner(), res.Session, res.Waiter, func(g fsm.Grant) {
		k.dropWait(r.id)
		k.mu.Lock()
		k.open++ // its notice has counted as its answer
		k.mu.Unlock()
		if g.Refusal != nil {
			k.refuse(r, refusal(g.Refusal))
			return
		}
		k.granted(r, a, g.Fence, false)
	})
}

// granted answers an acquire. A lease that has just begun has all of its time
// left; of an older one only the leader knows.
func (k *socket) granted(r *request, a *fsm.Acquire, fence uint64, older bool) {
	answer := func(left int64) {
		k.ok(r, func(b []byte) []byte {
			b = strconv.AppendUint(append(b, `{"fence":`...), fence, 10)
			if a.Lock.TTL > 0 {
				b = appendNumber(b, "expires_in_ms", uint64(max(left, 0)))
			}
			return append(b, '}')
		})
	}
	if !older || a.Lock.TTL == 0 {
		answer(a.Lock.TTL)
		return
	}
	k.start(func() {
		// Unknown is as good as over: a holder who does not know renews at once.
		lease := k.lease(a.Store, a.Key, fence)
		answer(k.server.node.TimeLeft(k.hub.ctx, []fsm.LeaseRef{lease})[lease].Milliseconds())
	})
}

func (k *socket) lease(store, key string, fence uint64) fsm.LeaseRef {
	return fsm.LeaseRef{
		Room: k.room, Session: k.session, Store: store, Key: key, Fence: fence, Owner: k.caller.LockOwner(),
	}
}

// keepWait remembers an acquire on its way, so that the end of the socket forgets
// it.
func (k *socket) keepWait(id uint64, w *wait) *wire.Error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.waits) >= maxWaits {
		return overLimit("waiting_acquires", maxWaits, int64(len(k.waits)+1))
	}
	if k.waits == nil {
		k.waits = make(map[uint64]*wait)
	}
	k.waits[id] = w
	return nil
}

// dropWait forgets an acquire that is over.
func (k *socket) dropWait(id uint64) {
	k.mu.Lock()
	w := k.waits[id]
	delete(k.waits, id)
	k.mu.Unlock()
	if w != nil {
		w.forget()
	}
}

func (k *socket) release(r *request) {
	if !k.mustBePeer(r) {
		return
	}
	op := r.o.operation(r.do, k.caller)
	c := k.command(r, fsm.CommandTxn)
	c.Txn = single(op)
	if !k.admitted(r, c) {
		return
	}
	k.hand(c, func(res *fsm.Result, err error) {
		if err := outcome(res, err); err != nil {
			k.refuse(r, k.explain(r, k.server.notHolder(k.room, op.Store, op.Key, op.Fence, err)))
			return
		}
		k.ok(r, revision(res.Rev))
	})
}

// renew is not a write: the leader keeps it in its memory. It still comes after
// the writes sent before it.
func (k *socket) renew(r *request) {
	if !k.mustBePeer(r) {
		return
	}
	store, key, fence := r.o.store(), r.o.key(), r.o.fence()
	if !r.o.has("fence") {
		r.o.refuse("fence", "is missing")
	}
	k.read(r, read{apart: func() {
		left, err := k.server.node.Renew(k.hub.ctx, k.lease(store, key, fence))
		if err != nil {
			k.refuse(r, k.explain(r, k.server.notHolder(k.room, store, key, fence, err)))
			return
		}
		k.ok(r, func(b []byte) []byte { return appendRenewed(b, left) })
	}})
}

// cancel ends the wait of an earlier acquire, which is answered with its outcome:
// lock_timeout, or the fence if it was granted before.
func (k *socket) cancel(r *request) {
	if !k.mustBePeer(r) {
		return
	}
	id := r.o.counter("request", 1)
	if id == nil {
		r.o.refuse("request", "is missing")
		id = new(uint64)
	}
	c := k.command(r, fsm.CommandCancel)
	c.Cancel = &fsm.Cancel{Request: *id}
	if !k.admitted(r, c) {
		return
	}
	k.hand(c, func(res *fsm.Result, err error) {
		// The log says lock_timeout when no grant can follow, which is what was wanted.
		if err := outcome(res, err); err == nil || res != nil && res.Refusal != nil && res.Refusal.Code == fsm.CodeLockTimeout {
			k.ok(r, nothing)
		} else {
			k.refuse(r, k.explain(r, err))
		}
	})
}
