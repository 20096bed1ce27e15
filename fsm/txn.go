package fsm

import "slices"

// maxResultBytes bounds what the gets of one transaction return.
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
	total := 0
	for i := range ops {
		// Each operation sees what those before it did.
		no := c.operation(&ops[i], &r.Ops[i])
		if e := r.Ops[i].Entry; e != nil && no == nil {
			if total += size(e.Key, e.Value); total > maxResultBytes {
				no = overLimit("result_bytes", maxResultBytes, total)
			}
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
	case OpDelete:
		return c.opDelete(op, r)
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
	if op.Bind != "" && c.ses.Peer(op.Bind) == nil {
		return c.ses.gone(op.Bind)
	}
	if no := c.admitted(op, old); no != nil {
		return no
	}
	e := &Entry{
		Key: op.Key, Value: op.Value, Version: 1, Rev: c.rev, CreatedRev: c.rev, By: c.by, At: c.wall, Bound: op.Bind,
	}
	if old != nil {
		e.Version, e.CreatedRev = old.Version+1, old.CreatedRev
	}
	if op.TTL > 0 {
		e.Expires, e.ExpiresAt = c.s.now+op.TTL, c.wall+op.TTL
		c.deadline(entryDeadline(op.Store, e))
	}
	c.put(op.Store, e, old)
	c.emit(&Event{Type: EventPut, Store: op.Store, Key: op.Key, Entry: e})
	r.Version, r.Rev, r.Created = e.Version, e.Rev, old == nil
	return nil
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

// admitted checks a write against the lock on its key, then its condition.
func (c *change) admitted(op *Operation, old *Entry) *Refusal {
	if no := c.guard(op.Store, op.Key, op.Fence); no != nil {
		return no
	}
	if op.If != nil && !op.If.holds(old) {
		return conflict(op.Store, op.Key, old)
	}
	return nil
}

// guard enforces the lock on a key: while it is held, only its owner writes, and
// only by naming the fence of the grant. What the same transaction acquired
// before needs none: no other grant can have come between.
func (c *change) guard(store, key string, fence uint64) *Refusal {
	if c.ses.locks.len() == 0 && fence == 0 {
		return nil
	}
	l := c.ses.Lock(store, key)
	switch {
	case !l.Held() && fence == 0:
		return nil
	case !l.Held():
		return staleFence(store, key, 0)
	case fence == 0 && slices.Contains(c.acquired, place(store, key)):
		return nil
	case fence == 0:
		return locked(store, key, l)
	case !l.Guards(c.caller.LockOwner(), fence):
		return staleFence(store, key, l.Holders[0].Fence)
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
