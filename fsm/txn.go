package fsm

import (
	"bytes"
	"slices"
)

// maxResultBytes bounds what one transaction returns: the entries of its gets and
// the values that it computes.
const maxResultBytes = MaxCommandBytes

// txn runs the branch that the conditions choose. The caller has set a mark if
// there is more than one operation.
func (c *change) txn(t *Txn, r *Result) *Refusal {
	ops := t.Then
	r.Applied = true
	for i := range t.If {
		if !c.holds(&t.If[i]) {
			ops, r.Applied = t.Else, false
			break
		}
	}
	if len(ops) > 0 {
		r.Ops = make([]OpResult, len(ops))
	}
	c.work = worksFor(&c.ses.Limits)
	total := 0
	for i := range ops {
		// Each operation sees what those before it did.
		no := c.operation(&ops[i], &r.Ops[i])
		if total += r.Ops[i].returned(); no == nil && total > maxResultBytes {
			no = overLimit("result_bytes", maxResultBytes, total)
		}
		if no != nil {
			if !t.Single {
				no.Details.Index = &i
			}
			return no
		}
	}
	return nil
}

// holds tells whether a condition is true. A fence holds for its owner only.
func (c *change) holds(cond *Condition) bool {
	if cond.Session != "" {
		return cond.Session == c.ses.ID
	}
	if cond.Fence != 0 && !c.ses.Lock(cond.Store, cond.Key).Guards(c.caller.LockOwner(), cond.Fence) {
		return false
	}
	return cond.If.holds(c.ses.Entry(cond.Store, cond.Key))
}

// holds tells whether an entry, nil when absent, is as expected.
func (x *If) holds(e *Entry) bool {
	var version, rev uint64
	if e != nil {
		version, rev = e.Version, e.Rev
	}
	switch {
	case x.Rev != nil && *x.Rev != rev, x.Version != nil && *x.Version != version:
		return false
	case x.Absent && e != nil, x.Exists && e == nil:
		return false
	}
	return x.Value == nil || e != nil && EqualJSON(x.Value, e.Value)
}

// operation runs one step. It either changes nothing and refuses, or succeeds.
func (c *change) operation(op *Operation, r *OpResult) *Refusal {
	switch op.Kind {
	case OpGet:
		r.Entry = c.ses.Entry(op.Store, op.Key)
		return nil
	case OpPut:
		return c.opPut(op, r)
	case OpUpdate, OpAppend, OpRemove, OpAdd, OpPatch:
		return c.opCompute(op, r)
	case OpDelete:
		return c.opDelete(op, r)
	case OpMerge:
		return c.edit(op.Store, c.merges(op), op.Fences, "deleted")
	case OpReplace:
		edits, no := c.replaces(op)
		if no != nil {
			return no
		}
		return c.edit(op.Store, edits, op.Fences, "replaced")
	case OpDeletePrefix:
		edits := c.deletesPrefix(op)
		r.Existed = len(edits) > 0
		return c.edit(op.Store, edits, op.Fences, "deleted")
	case OpSend:
		return c.send(op.Message)
	case OpAcquire:
		return c.opAcquire(op, r)
	case OpRelease:
		return c.opRelease(op)
	}
	return badRequest("do", "unknown operation")
}

// opPut refuses in the protocol's order (limits, lock, condition) and then cannot
// fail any more. Without TTL and Bind it clears those of the entry before.
func (c *change) opPut(op *Operation, r *OpResult) *Refusal {
	old := c.ses.Entry(op.Store, op.Key)
	if no := c.fits(op.Store, op.Key, op.Value, old); no != nil {
		return no
	}
	if no := c.admitted(op, old); no != nil {
		return no
	}
	e := c.newEntry(op.Key, op.Value, old)
	c.binds(e, op)
	c.store(op.Store, e, old)
	r.Version, r.Rev, r.Created = e.Version, e.Rev, old == nil
	return nil
}

// opCompute stores a value that is computed from the one that is there. The order
// is as with a put; what is wrong with the value itself counts as a condition.
func (c *change) opCompute(op *Operation, r *OpResult) *Refusal {
	old := c.ses.Entry(op.Store, op.Key)
	var before []byte
	if old != nil {
		before = old.Value
	}
	value, wrong := c.compute(op, before)
	switch {
	case wrong != nil || value == nil:
	case len(value) > maxResultBytes: // before it is stored: a single operation is not taken back
		wrong = overLimit("result_bytes", maxResultBytes, len(value))
	default:
		wrong = c.fits(op.Store, op.Key, value, old)
	}
	if wrong != nil && (wrong.Code == CodeBadRequest || wrong.Code == CodeLimitExceeded) {
		return wrong
	}
	if no := c.admitted(op, old); no != nil {
		return no
	}
	switch {
	case wrong != nil && wrong.Code == CodeConflict:
		no := conflict(op.Store, op.Key, old)
		no.Message, no.Details.Reason = wrong.Message, wrong.Details.Reason
		return no
	case wrong != nil:
		return wrong
	case value == nil: // taken out of what is absent
		r.Value = []byte("[]")
		return nil
	case old != nil && bytes.Equal(value, before) && op.TTL == 0 && op.Bind == "":
		r.Value, r.Version, r.Rev = before, old.Version, old.Rev
		return nil
	}
	e := c.newEntry(op.Key, value, old)
	e.keeps(old)
	c.binds(e, op)
	c.store(op.Store, e, old)
	r.Value, r.Version, r.Rev, r.Created = value, e.Version, e.Rev, old == nil
	return nil
}

// newEntry is the entry that follows old, without a TTL and bound to nobody.
func (c *change) newEntry(key string, value []byte, old *Entry) *Entry {
	e := &Entry{Key: key, Value: value, Version: 1, Rev: c.rev, CreatedRev: c.rev, By: c.by, At: c.wall}
	if old != nil {
		e.Version, e.CreatedRev = old.Version+1, old.CreatedRev
	}
	return e
}

// keeps takes over when an entry ends.
func (e *Entry) keeps(old *Entry) {
	if old != nil {
		e.Expires, e.ExpiresAt, e.Bound = old.Expires, old.ExpiresAt, old.Bound
	}
}

// binds sets the ends that an operation names.
func (c *change) binds(e *Entry, op *Operation) {
	if op.TTL > 0 {
		e.Expires, e.ExpiresAt = c.s.now+op.TTL, c.wall+op.TTL
	}
	if op.Bind != "" {
		e.Bound = op.Bind
	}
}

// store stores an entry and tells of it. Its end is told anew even if it was known:
// the timer that is under way saw another revision.
func (c *change) store(name string, e, old *Entry) {
	if e.Expires != 0 {
		c.deadline(entryDeadline(name, e))
	}
	c.put(name, e, old)
	c.emit(&Event{Type: EventPut, Store: name, Key: e.Key, Entry: e})
}

// opDelete of what is absent succeeds and changes nothing, but only if the lock
// on the key lets the caller write it.
func (c *change) opDelete(op *Operation, r *OpResult) *Refusal {
	old := c.ses.Entry(op.Store, op.Key)
	if no := c.admitted(op, old); no != nil || old == nil {
		return no
	}
	r.Existed = true
	c.delete(op.Store, old, "deleted")
	return nil
}

// delete removes an entry and says why.
func (c *change) delete(store string, e *Entry, reason string) {
	c.remove(store, e)
	c.emit(&Event{Type: EventDelete, Store: store, Key: e.Key, Reason: reason})
}

// admitted checks who an entry is bound to, then a write against the lock on its
// key, then its condition.
func (c *change) admitted(op *Operation, old *Entry) *Refusal {
	if op.Bind != "" && c.ses.Peer(op.Bind) == nil {
		return c.ses.gone(op.Bind)
	}
	if no := c.guard(op.Store, op.Key, op.Fence); no != nil {
		return no
	}
	if op.If != nil && !op.If.holds(old) {
		return conflict(op.Store, op.Key, old)
	}
	return nil
}

// guard enforces the lock on a key: while it is held, only who holds it writes, and
// only by naming the fence of its own grant; so of a lock that several hold, each
// may write, in the name of its own. What the same transaction acquired before
// needs none: no other grant can have come between. A lock in its delay is held by
// nobody, so a write needs no fence, and a late one with a fence is refused.
func (c *change) guard(store, key string, fence uint64) *Refusal {
	if c.ses.locks.len() == 0 && fence == 0 || unfenced {
		return nil
	}
	l, owner := c.ses.Lock(store, key), c.caller.LockOwner()
	switch {
	case !l.Held() && fence == 0:
		return nil
	// Acquired before and released since, it may be another's.
	case fence == 0 && l.Holder(owner) != nil && slices.Contains(c.acquired, place(store, key)):
		return nil
	case fence == 0:
		return locked(store, key, l)
	case !l.Guards(owner, fence):
		return staleFence(store, key, c.current(l))
	}
	return nil
}

// conflict tells the loser what it would need to try again.
func conflict(store, key string, e *Entry) *Refusal {
	exists := e != nil
	no := &Refusal{
		Code: CodeConflict, Message: "the entry is not as expected",
		Details: Details{Store: store, Key: key, Exists: &exists},
	}
	if exists {
		no.Details.Version, no.Details.Rev, no.Details.Value = e.Version, e.Rev, e.Value
	}
	return no
}
