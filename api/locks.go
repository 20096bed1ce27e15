package api

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"conclave/client/wire"
	"conclave/fsm"
	"conclave/lock"
)

// acquireLock answers POST …/locks/{store}/{key}. A request that waits holds its
// place for as long as its connection lasts; when it ends, so does the wait.
func (s *Server) acquireLock(c *gin.Context, in *input) error {
	cmd := s.opens(in, writing(in, fsm.CommandAcquire))
	a := &fsm.Acquire{
		Store: in.store(), Key: in.key(),
		Node: s.node.ID(), Incarnation: s.node.Incarnation(), Waiter: in.unique("w"),
	}
	o := in.object()
	owner, named := o.str("owner")
	if w := badKey(owner); named && w != "" {
		o.refuse("owner", "%s", w)
	}
	by := in.claims(owner)
	if nobody := (lock.Owner{}); by.LockOwner() == nobody {
		owner = in.unique("o")
	}
	a.Wait, _ = o.number("wait_ms", 0, maxWait)
	a.Lock = *o.lockRequest(by)
	o.done()
	cmd.Acquire = a

	w := s.grants.expect(cmd.Room, a.Store, a.Key)
	defer w.forget()
	r, err := s.do(in, cmd, owner)
	held := fsm.LeaseRef{Room: cmd.Room, Session: cmd.Session, Store: a.Store, Key: a.Key, Owner: cmd.Caller.LockOwner()}
	waited := err == nil && r.Waiting > 0
	switch {
	case waited:
		held.Session = r.Session
		held.Fence, err = s.await(c.Request.Context(), w, cmd, r)
	case err == nil:
		held.Session, held.Fence = r.Session, r.Fence
	case c.Request.Context().Err() != nil: // it may have been queued, or granted, for nobody
		held.Fence, _ = s.cancelWait(cmd, cmd.Session)
	}
	if err == nil && c.Request.Context().Err() != nil {
		err = errGivenUp
	}
	if err != nil {
		if madeUp := !named && cmd.Idem == "" && by.Kind != fsm.CallerPeer; madeUp {
			s.abandon(held)
		}
		return err
	}
	left := a.Lock.TTL
	if waited || r.Repeated { // else it has just begun
		left = s.leaseLeft(c.Request.Context(), held, left)
	}
	// A grant's fence is its revision; a lock held already was granted earlier.
	return answer(c, http.StatusOK, max(r.Rev, held.Fence), encodeHeld(held, a.Lock.TTL, left))
}

// unique makes a name up. With an Idempotency-Key it is the same for every repeat
// of the request, so that a repeat owns, and waits for, what the first one did.
func (in *input) unique(prefix string) string {
	key, ok := in.header("Idempotency-Key")
	if !ok {
		return randomName(prefix)
	}
	sum := sha256.Sum256([]byte(prefix + "\n" + in.request().URL.EscapedPath() + "\n" + key))
	return prefix + shortName(sum[:16])
}

func encodeHeld(held fsm.LeaseRef, ttl, left int64) []byte {
	b := strconv.AppendUint([]byte(`{"fence":`), held.Fence, 10)
	b = appendText(b, "owner", held.Owner.String())
	if ttl > 0 {
		b = appendNumber(b, "ttl_ms", uint64(ttl))
		b = appendNumber(b, "expires_in_ms", uint64(left))
	}
	return append(b, '}')
}

// await waits for the end of a queued acquire. The log ends it, at wait_ms at the
// latest; when the request or the server ends first, it is cancelled through the
// log. A fence beside an error is a grant that nobody will hear of.
func (s *Server) await(ctx context.Context, w *wait, cmd *fsm.Command, r *fsm.Result) (fence uint64, _ error) {
	ended := make(chan fsm.Grant, 1)
	w.queued(cmd.Caller.LockOwner(), r.Session, r.Waiter, func(g fsm.Grant) { ended <- g })
	// Cluster time stands still without a leader, so the wait is bounded here too.
	limit := time.NewTimer(time.Duration(cmd.Acquire.Wait)*time.Millisecond + waitGrace)
	defer limit.Stop()
	var why error
	select {
	case g := <-ended:
		if g.Refusal != nil {
			return 0, g.Refusal
		}
		return g.Fence, nil
	case <-ctx.Done():
		why = errGivenUp
	case <-s.closing:
		why = wire.Errorf(wire.Unavailable, "this node is draining; the wait was cancelled")
	case <-limit.C:
		why = wire.Errorf(wire.LockTimeout, "the lock was not granted in time")
	}
	fence, err := s.cancelWait(cmd, r.Session)
	switch {
	case err != nil: // it may still be granted, until the node is gone or the TTL over
		return 0, wire.Errorf(wire.UnknownOutcome, "the wait ended, and nobody has confirmed its end")
	case fence != 0 && ctx.Err() == nil: // granted at the last moment, to somebody who is there
		return fence, nil
	}
	return fence, why
}

// errGivenUp is what nobody reads: the request has ended.
var errGivenUp = wire.Errorf(wire.UnknownOutcome, "the request was given up")

const (
	// waitGrace is how much longer than its wait_ms a request is held, for the
	// leader to end the wait.
	waitGrace = 5 * time.Second
	// cleanupTimeout bounds the work after a client has gone.
	cleanupTimeout = 10 * time.Second
)

// cancelWait takes a waiter out of the queue. The fence is not 0 if it was
// granted before.
func (s *Server) cancelWait(cmd *fsm.Command, session string) (fence uint64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	a := cmd.Acquire
	r, err := s.node.Do(ctx, &fsm.Command{
		Kind: fsm.CommandCancel, Room: cmd.Room, Session: session, Caller: cmd.Caller,
		Cancel: &fsm.Cancel{Store: a.Store, Key: a.Key, Waiter: a.Waiter},
	})
	switch {
	case err != nil:
		return 0, err
	case r.Refusal == nil:
		return r.Fence, nil
	case r.Refusal.Code == fsm.CodeUnavailable || r.Refusal.Code == fsm.CodeInternal:
		return 0, r.Refusal
	}
	return 0, nil // lock_timeout, or the session or the peer is gone: no grant can follow
}

// abandon releases a lock whose owner was made up for a request that is gone:
// nobody could ever use it. A named owner may come back for its lock.
func (s *Server) abandon(held fsm.LeaseRef) {
	if held.Fence == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	// If this fails, the lease ends by its TTL.
	_, _ = s.node.Do(ctx, &fsm.Command{
		Kind: fsm.CommandTxn, Room: held.Room, Session: held.Session,
		Caller: fsm.Caller{User: held.Owner.Subject, Owner: held.Owner.Name},
		Txn:    single(fsm.Operation{Kind: fsm.OpRelease, Store: held.Store, Key: held.Key, Fence: held.Fence}),
	})
}

// leaseLeft is the time left of a lease in ms: what the leader says, else all.
func (s *Server) leaseLeft(ctx context.Context, held fsm.LeaseRef, ttl int64) int64 {
	known := s.node.TimeLeft(ctx, []fsm.LeaseRef{held})
	if known == nil {
		return ttl
	}
	return max(known[held].Milliseconds(), 0)
}

// renewLock answers PUT …/locks/{store}/{key}.
func (s *Server) renewLock(c *gin.Context, in *input) error {
	ref := fsm.LeaseRef{Room: in.room(), Session: in.session(), Store: in.store(), Key: in.key()}
	o := in.object()
	if ref.Fence = o.fence(); !o.has("fence") {
		o.refuse("fence", "is missing")
	}
	owner, _ := o.str("owner")
	o.done()
	if err := in.done(); err != nil {
		return err
	}
	by, err := s.caller(c.Request, ref.Room, owner)
	if err != nil {
		return err
	}
	if ref.Owner = by.LockOwner(); ref.Owner == (lock.Owner{}) {
		return wire.Errorf(wire.BadRequest, "owner: is missing").With("field", "owner")
	}
	return s.renew(c, ref)
}

// renew keeps a lease alive and answers the time left.
func (s *Server) renew(c *gin.Context, ref fsm.LeaseRef) error {
	left, err := s.node.Renew(c.Request.Context(), ref)
	if err != nil {
		return s.notHolder(ref.Room, ref.Store, ref.Key, ref.Fence, err)
	}
	return answer(c, http.StatusOK, s.node.View().Rev(), appendRenewed(nil, left))
}

// appendRenewed appends the answer to a renewal: the time left, unless the lease
// has no end of its own.
func appendRenewed(b []byte, left time.Duration) []byte {
	if left <= 0 {
		return append(b, '{', '}')
	}
	b = strconv.AppendInt(append(b, `{"expires_in_ms":`...), left.Milliseconds(), 10)
	return append(b, '}')
}

// releaseLock answers DELETE …/locks/{store}/{key}.
func (s *Server) releaseLock(c *gin.Context, in *input) error {
	cmd, owner := writing(in, fsm.CommandTxn), in.owner()
	op := fsm.Operation{
		Kind: fsm.OpRelease, Store: in.store(), Key: in.key(), Fence: in.fence(), Break: in.flag("break"),
	}
	if op.Fence == 0 && !op.Break {
		in.refuse("fence", "is missing")
	}
	cmd.Txn = single(op)
	r, err := s.do(in, cmd, owner)
	if err != nil {
		return s.notHolder(cmd.Room, op.Store, op.Key, op.Fence, err)
	}
	return answer(c, http.StatusOK, r.Rev, revision(r.Rev)(nil))
}

// getLock answers GET …/locks/{store}/{key}; with ?fence= whether that is a
// current grant.
func (s *Server) getLock(c *gin.Context, in *input) error {
	store, key, fence, owner := in.store(), in.key(), in.fence(), in.owner()
	sess, v, err := s.reading(in)
	if err != nil {
		return err
	}
	l := sess.Lock(store, key)
	if fence != 0 {
		reason := ""
		valid := holds(l, fence, owner)
		if !valid {
			reason = s.endOf(sess.Room, store, key, fence)
		}
		return answer(c, http.StatusOK, v.Rev(), append(appendValid(nil, valid, reason), '}'))
	}
	if l == nil {
		return wire.Errorf(wire.NotFound, "nobody holds or wants this lock, and it is not in its delay").With("store", store).With("key", key)
	}
	left := s.timeLeft(c.Request.Context(), leaseRefs(nil, sess, store, key, l))
	return answer(c, http.StatusOK, v.Rev(), appendLock(nil, store, key, l, leftOf(left, sess, store, key)))
}

// holds reports whether a fence is that of a current grant and, if an owner is
// named, that owner's.
func holds(l *lock.Lock, fence uint64, owner string) bool {
	if l == nil {
		return false
	}
	for _, h := range l.Holders {
		if h.Fence == fence && (owner == "" || h.Owner.String() == owner) {
			return true
		}
	}
	return false
}

// appendValid appends the answer about a fence, left open: of one that is not valid
// how its grant ended, if that is known.
func appendValid(b []byte, valid bool, reason string) []byte {
	b = append(b, `{"valid":`...)
	b = strconv.AppendBool(b, valid)
	return appendText(b, "reason", reason)
}

// leaseRefs appends how the leader knows the leases of a lock's holders, and its
// delay.
func leaseRefs(refs []fsm.LeaseRef, sess *fsm.Session, store, key string, l *lock.Lock) []fsm.LeaseRef {
	for _, h := range l.Holders {
		if h.TTL > 0 {
			refs = append(refs, leaseRef(sess, store, key, h))
		}
	}
	if l.NotBefore != 0 {
		refs = append(refs, leaseRef(sess, store, key, lock.Holder{}))
	}
	return refs
}

func leaseRef(sess *fsm.Session, store, key string, h lock.Holder) fsm.LeaseRef {
	return fsm.LeaseRef{Room: sess.Room, Session: sess.ID, Store: store, Key: key, Fence: h.Fence, Owner: h.Owner}
}

// timeLeft asks the leader for the time left of leases, if there are any.
func (s *Server) timeLeft(ctx context.Context, refs []fsm.LeaseRef) map[fsm.LeaseRef]time.Duration {
	if len(refs) == 0 {
		return nil
	}
	return s.node.TimeLeft(ctx, refs)
}

// leftOf looks up what the leader said of a lock's leases, and, asked about nobody,
// of its delay.
func leftOf(left map[fsm.LeaseRef]time.Duration, sess *fsm.Session, store, key string) timeLeft {
	return func(h lock.Holder) (int64, bool) {
		d, ok := left[leaseRef(sess, store, key, h)]
		return d.Milliseconds(), ok
	}
}

// listLocks answers GET …/locks, a page of them by <store>/<key>.
func (s *Server) listLocks(c *gin.Context, in *input) error {
	p := in.page(true)
	sess, v, err := s.reading(in)
	if err != nil {
		return err
	}
	found := s.readLocks(c.Request.Context(), sess, p)
	return answer(c, http.StatusOK, v.Rev(), append(found.appendTo([]byte(`{"locks":`)).end(), '}'))
}

// lockPage is a page of locks before it is written, with the time left of their
// leases.
type lockPage struct {
	page
	sess  *fsm.Session
	found []namedLock // one more than a page has, which tells whether there is more
	left  map[fsm.LeaseRef]time.Duration
}

type namedLock struct {
	store, key string
	*lock.Lock
}

// readLocks reads a page of a session's locks. It asks the leader for the time left
// of their leases, which takes a moment.
func (s *Server) readLocks(ctx context.Context, sess *fsm.Session, p page) *lockPage {
	l := &lockPage{page: p, sess: sess}
	var refs []fsm.LeaseRef
	sess.LocksAfter(p.prefix, p.after, func(store, key string, lk *lock.Lock) bool {
		l.found = append(l.found, namedLock{store, key, lk})
		refs = leaseRefs(refs, sess, store, key, lk)
		return len(l.found) <= p.limit
	})
	l.left = s.timeLeft(ctx, refs)
	return l
}

// appendTo appends the page.
func (l *lockPage) appendTo(b []byte) *pager {
	g := l.begin(b)
	for _, n := range l.found {
		if !g.add(n.store+"/"+n.key, func(b []byte) []byte {
			return appendLock(b, n.store, n.key, n.Lock, leftOf(l.left, l.sess, n.store, n.key))
		}) {
			break
		}
	}
	return g
}
