package api

import (
	"conclave/client/wire"
	"conclave/fsm"
)

// From the members of requests to the state machine's operations: the same for
// HTTP, for sockets and inside transactions, so that a verb means one thing. A
// verb to come is added to operation, encode's appendOpResult and its OpKind. What
// the verbs that compute values take is in edits.go.

// maxOperations bounds the operations of each branch of a transaction, and its
// conditions (protocol section 5).
const maxOperations = fsm.MaxOperations

// The bounds of durations in requests, in milliseconds. Those of a lock's TTL are
// the protocol's; the others keep sums of times far from overflow.
const (
	minLockTTL  = 1_000
	maxLockTTL  = 24 * 3_600_000
	maxEntryTTL = 365 * 24 * 3_600_000
	maxWait     = 24 * 3_600_000

	maxPermits   = 100_000 // a session lets fewer hold a lock: its lock_waiters
	maxLockDelay = 3_600_000
)

// operation takes the members of the verb do, as a frame of a socket and as an
// operation of a transaction have them. The caller calls done.
func (o *object) operation(do string, by fsm.Caller) fsm.Operation {
	if do == "send" { // the one without a store
		if o.flag("ephemeral") {
			o.refuse("ephemeral", "is not for transactions, which are logged")
		}
		return fsm.Operation{Kind: fsm.OpSend, Message: o.message()}
	}
	op := fsm.Operation{Store: o.store()}
	switch do {
	case "get":
		op.Kind = fsm.OpGet
	case "put":
		op.Kind = fsm.OpPut
		op.Value = o.required("value")
	case "update", "append", "remove", "add", "patch":
		o.computation(do, &op)
	case "merge", "replace":
		o.storeEdit(do, &op)
		return op
	case "delete":
		if op.Kind = fsm.OpDelete; o.has("prefix") {
			o.deletePrefix(&op)
			return op
		}
	case "acquire":
		op.Kind = fsm.OpAcquire
		op.Lock = o.lockRequest(by)
	case "release":
		op.Kind = fsm.OpRelease
		if !o.has("fence") {
			o.refuse("fence", "is missing")
		}
	default:
		o.refuse("do", "unknown verb %q", do)
		return op
	}
	// Which members a verb has is decided here once: what is not taken is refused
	// by done as unknown, so a fence on a get is an error and not ignored.
	op.Key = o.key()
	if stores(op.Kind) {
		op.TTL, _ = o.number("ttl_ms", 1, maxEntryTTL)
		op.Bind = o.bind(by)
	}
	if stores(op.Kind) || op.Kind == fsm.OpDelete {
		op.If = o.condition()
	}
	if op.Kind != fsm.OpGet && op.Kind != fsm.OpAcquire {
		op.Fence = o.fence()
	}
	return op
}

// stores reports whether an operation stores one entry.
func stores(kind fsm.OpKind) bool { return kind == fsm.OpPut || computes(kind) }

// computes reports whether an operation computes the value that it stores.
func computes(kind fsm.OpKind) bool {
	switch kind {
	case fsm.OpUpdate, fsm.OpAppend, fsm.OpRemove, fsm.OpAdd, fsm.OpPatch:
		return true
	}
	return false
}

// required takes a member of any type that must be there.
func (o *object) required(name string) []byte {
	raw := o.raw(name)
	if raw == nil {
		o.refuse(name, "is missing")
	}
	return raw
}

// fence takes a fence, 0 when absent.
func (o *object) fence() uint64 {
	if n := o.counter("fence", 1); n != nil {
		return *n
	}
	return 0
}

// bind takes the peer that an entry is bound to: true for the caller itself, or
// a peer's id.
func (o *object) bind(by fsm.Caller) string {
	raw := o.raw("bind")
	switch {
	case raw == nil:
		return ""
	case string(raw) == "true" && by.Kind == fsm.CallerPeer:
		return by.Peer
	}
	peer, ok := text(raw)
	if !ok || badID(peer) {
		o.refuse("bind", "must be true, from a peer, or a peer's id")
	}
	return peer
}

// badID reports a string that cannot be the id of a peer or a session.
func badID(s string) bool { return badStore(s) != "" }

// condition takes `if`, nil when absent.
func (o *object) condition() *fsm.If {
	c := o.object("if")
	if c == nil {
		return nil
	}
	cond := c.conditions()
	if len(c.members) == 0 {
		o.refuse("if", "must have one of rev, version, absent, exists, value")
	}
	c.done()
	return &cond
}

// conditions takes the members that say what must hold of an entry. They are the
// same in an `if` and in a condition of a transaction.
func (o *object) conditions() fsm.If {
	return fsm.If{
		Rev: o.counter("rev", 0), Version: o.counter("version", 0),
		Absent: o.mark("absent"), Exists: o.mark("exists"), Value: o.raw("value"),
	}
}

// lockRequest takes what an acquire asks for besides the key. Only peers may
// leave out the TTL: their locks last while they do.
func (o *object) lockRequest(by fsm.Caller) *fsm.LockRequest {
	l := &fsm.LockRequest{Data: o.raw("data"), OnDetach: o.flag("release_on_detach")}
	if len(l.Data) > fsm.MaxLockData {
		o.refuse("data", "must have at most %d bytes", fsm.MaxLockData)
	}
	var given bool
	l.TTL, given = o.number("ttl_ms", minLockTTL, maxLockTTL)
	if !given && by.Kind != fsm.CallerPeer {
		o.refuse("ttl_ms", "is missing; only peers may leave it out")
	}
	if l.OnDetach && by.Kind != fsm.CallerPeer {
		o.refuse("release_on_detach", "is for peers only")
	}
	mode, given := o.str("mode")
	if l.Shared = mode == "shared"; given && !l.Shared && mode != "exclusive" {
		o.refuse("mode", "must be exclusive or shared")
	}
	if permits, _ := o.number("permits", 1, maxPermits); permits > 1 {
		l.Permits = int(permits)
	}
	if l.Shared && l.Permits > 1 {
		o.refuse("permits", "is for exclusive locks; a shared one has as many as it takes")
	}
	l.Delay, _ = o.number("delay_ms", 0, maxLockDelay)
	return l
}

// transaction takes the members of a transaction.
func (o *object) transaction(by fsm.Caller) *fsm.Txn {
	t := &fsm.Txn{}
	for _, c := range o.objects("if", maxOperations) {
		t.If = append(t.If, c.txnCondition())
		c.done()
	}
	t.Then = o.operations("then", by)
	t.Else = o.operations("else", by)
	if !o.has("then") {
		o.refuse("then", "is missing")
	}
	return t
}

func (o *object) operations(branch string, by fsm.Caller) (ops []fsm.Operation) {
	for _, item := range o.objects(branch, maxOperations) {
		do, ok := item.str("do")
		if !ok {
			item.refuse("do", "is missing")
		}
		ops = append(ops, item.operation(do, by))
		item.done()
	}
	return ops
}

// txnCondition takes a condition on the session, or on a key.
func (o *object) txnCondition() fsm.Condition {
	if session, ok := o.str("session"); ok {
		if badID(session) {
			o.refuse("session", "is not the id of a session")
		}
		return fsm.Condition{Session: session}
	}
	c := fsm.Condition{Store: o.store(), Key: o.key(), If: o.conditions(), Fence: o.fence()}
	if c.Fence == 0 && c.If.Rev == nil && c.If.Version == nil && !c.If.Absent && !c.If.Exists && c.If.Value == nil {
		o.refuse("key", "needs one of rev, version, absent, exists, value, fence")
	}
	return c
}

// single makes the transaction of a verb of its own.
func single(op fsm.Operation) *fsm.Txn {
	return &fsm.Txn{Then: []fsm.Operation{op}, Single: true}
}

// checkSize refuses a command that would be over fsm.MaxCommandBytes encoded. It
// counts what may be large and allows for the rest.
func checkSize(c *fsm.Command) *wire.Error {
	// Encoding the command to measure it would cost more than all the rest of the
	// decoding; counted this way it is never less than the encoding.
	const (
		condition = 96 // its numbers, tags and short names
		operation = 64 // its numbers and flags, which Texts leaves out
	)
	size := 1024
	if c.Txn != nil {
		for _, cond := range c.Txn.If {
			size += condition + len(cond.Store) + len(cond.Key) + len(cond.If.Value)
		}
		for _, branch := range [][]fsm.Operation{c.Txn.Then, c.Txn.Else} {
			for i := range branch {
				size += operation + branch[i].Texts()
			}
		}
	}
	if c.Join != nil {
		size += len(c.Join.Data)
	}
	if c.SetPeer != nil {
		size += len(c.SetPeer.Data)
	}
	if c.Acquire != nil {
		size += len(c.Acquire.Lock.Data)
	}
	if size <= fsm.MaxCommandBytes {
		return nil
	}
	return overLimit("command_bytes", fsm.MaxCommandBytes, int64(size))
}

func overLimit(limit string, max, actual int64) *wire.Error {
	return wire.Errorf(wire.LimitExceeded, "%s: %d is over %d", limit, actual, max).
		With("limit", limit).With("max", max).With("actual", actual)
}
