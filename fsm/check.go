package fsm

import (
	"strings"
	"unicode/utf8"
)

// Bounds on the form of a command, besides the protocol's on names. They hold
// for what the api lets through as well; a command beyond them is refused with
// bad_request by every replica alike.
const (
	MaxOperations = 128     // of a transaction; what pre-seeds a session may have more
	MaxLockData   = 1 << 10 // bytes
	MaxNameBytes  = 1 << 10 // of a peer's name, ref, role and key, of subjects and request ids
	MaxDuration   = 1 << 42 // ms; sums with cluster time stay far below overflow
	MaxRoomBytes  = 128
	MaxStoreBytes = 64
	MaxKeyBytes   = 256
	MaxKeys       = 10_000 // that one operation names; the session's own limit is lower
	MaxRecipients = 10_000 // peers, refs and roles of a message
)

// Check refuses a command whose form is wrong, whatever the state. The state
// machine asks it before anything else, and so relies on it: payloads are there,
// names are not empty and have no NUL, durations do not overflow. The decoder
// does not ask it: one bad command must not cost the others in its batch, whose
// number would never be applied.
func (cmd *Command) Check() *Refusal {
	f := form{}
	f.name("room", cmd.Room, MaxRoomBytes)
	f.text("session", cmd.Session)
	f.text("caller", cmd.Caller.Peer)
	f.text("caller", cmd.Caller.User)
	f.text("owner", cmd.Caller.Owner)
	f.text("client", cmd.Client)
	f.text("Idempotency-Key", cmd.Idem)
	f.text("reason", cmd.Reason)
	f.text("target", cmd.Target)
	f.is("hash", len(cmd.Hash) <= MaxNameBytes)
	f.is("caller", cmd.Caller.Kind <= CallerSystem && (cmd.Caller.Kind == CallerPeer) == (cmd.Caller.Peer != ""))
	f.open(cmd)
	switch cmd.Kind {
	case CommandOpen:
		f.is("open", cmd.Open != nil)
		f.seeds(cmd.Txn)
	case CommandEnd:
	case CommandJoin:
		f.join(cmd.Join)
	case CommandAttach:
		if a := cmd.Attach; f.is("attach", a != nil) {
			f.name("peer", a.Peer, MaxNameBytes)
			f.text("key", a.Key)
			f.text("node", a.Node)
			f.text("client", a.Client)
		}
	case CommandDetach, CommandLeave:
		f.name("peer", cmd.Target, MaxNameBytes)
	case CommandSetPeer:
		f.name("peer", cmd.Target, MaxNameBytes)
		f.setPeer(cmd.SetPeer)
	case CommandTxn:
		f.txn(cmd.Txn)
	case CommandAcquire:
		if a := cmd.Acquire; f.is("acquire", a != nil) {
			f.place(a.Store, a.Key)
			f.lock(&a.Lock)
			f.duration("wait_ms", a.Wait)
			f.text("node", a.Node)
			f.text("waiter", a.Waiter)
		}
	case CommandCancel:
		if cancel := cmd.Cancel; f.is("cancel", cancel != nil) {
			f.text("store", cancel.Store)
			f.text("key", cancel.Key)
			f.text("waiter", cancel.Waiter)
		}
	default:
		f.is("kind", false)
	}
	return f.no
}

// form collects the first thing that is wrong.
type form struct{ no *Refusal }

func (f *form) is(field string, ok bool) bool {
	if !ok && f.no == nil {
		f.no = badRequest(field, field+" is missing, malformed or too long")
	}
	return ok && f.no == nil
}

// text may be empty. It has no NUL, by which the state joins names, and is valid
// UTF-8, without which no replica could decode the entry.
func (f *form) text(field, s string) {
	if s != "" {
		f.name(field, s, MaxNameBytes)
	}
}

func (f *form) optional(field string, s *string) {
	if s != nil {
		f.text(field, *s)
	}
}

func (f *form) name(field, s string, most int) {
	f.is(field, s != "" && len(s) <= most && strings.IndexByte(s, 0) < 0 && utf8.ValidString(s))
}

func (f *form) place(store, key string) {
	f.name("store", store, MaxStoreBytes)
	f.name("key", key, MaxKeyBytes)
}

// duration is in ms. Negative ones would put deadlines into the past.
func (f *form) duration(field string, ms int64) { f.is(field, ms >= 0 && ms <= MaxDuration) }

// open checks the numbers of a session that the command may start.
func (f *form) open(cmd *Command) {
	o := cmd.Open
	if o == nil {
		return
	}
	f.text("profile", o.Profile)
	f.duration("grace_ms", o.Grace)
	f.duration("linger_ms", o.Linger)
	f.duration("idle_timeout_ms", o.Idle)
	// A session that nobody joins must end some time.
	f.is("idle_timeout_ms", o.Idle > 0 || cmd.Kind == CommandJoin)
}

// join needs either a node, whose heartbeats keep the peer alive, or a TTL: a peer
// with neither would never leave.
func (f *form) join(j *Join) {
	if !f.is("join", j != nil) {
		return
	}
	f.name("key", j.Key, MaxNameBytes)
	f.text("name", j.Name)
	f.text("ref", j.Ref)
	f.text("role", j.Role)
	f.text("node", j.Node)
	f.text("peer", j.Peer)
	f.duration("ttl_ms", j.TTL)
	f.is("ttl_ms", (j.TTL > 0) == (j.Node == ""))
}

func (f *form) setPeer(set *SetPeer) {
	if !f.is("set_peer", set != nil) {
		return
	}
	f.optional("name", set.Name)
	f.optional("ref", set.Ref)
	f.optional("role", set.Role)
}

// seeds are what a session begins with: as many puts as fit into a command, and
// no conditions, for there is nothing yet.
func (f *form) seeds(t *Txn) {
	if t == nil {
		return
	}
	f.is("stores", len(t.If) == 0 && len(t.Else) == 0)
	for i := range t.Then {
		f.is("stores", t.Then[i].Kind == OpPut)
		f.operation(&t.Then[i])
	}
}

// txn bounds both branches: the one that does not run is decoded too.
func (f *form) txn(t *Txn) {
	if !f.is("txn", t != nil) {
		return
	}
	f.is("if", len(t.If) <= MaxOperations)
	f.is("then", len(t.Then) <= MaxOperations && (!t.Single || len(t.Then) == 1 && len(t.Else) == 0))
	f.is("else", len(t.Else) <= MaxOperations)
	for i := range t.If {
		if cond := &t.If[i]; cond.Session == "" {
			f.place(cond.Store, cond.Key)
		} else {
			f.text("session", cond.Session)
		}
	}
	for i := range t.Then {
		f.operation(&t.Then[i])
	}
	for i := range t.Else {
		f.operation(&t.Else[i])
	}
}

// operation checks what every operation has, and what its kind needs. Values are
// the api's to check: a put's are only stored, and those that are computed with are
// refused where they turn out not to be JSON.
func (f *form) operation(op *Operation) {
	if op.Kind == OpSend {
		f.message(op.Message)
		return
	}
	f.name("store", op.Store, MaxStoreBytes)
	switch op.Kind {
	case OpMerge, OpReplace:
		f.keys(op)
		f.fences(op.Fences)
		return
	case OpDeletePrefix:
		if op.Key != "" {
			f.name("prefix", op.Key, MaxKeyBytes)
		}
		f.fences(op.Fences)
		return
	}
	f.name("key", op.Key, MaxKeyBytes)
	switch op.Kind {
	case OpPut, OpUpdate, OpAppend, OpRemove, OpAdd, OpPatch:
		f.is("value", len(op.Value) > 0)
		f.duration("ttl_ms", op.TTL)
		f.text("bind", op.Bind)
	case OpAcquire:
		if f.is("lock", op.Lock != nil) {
			f.lock(op.Lock)
		}
	case OpGet, OpDelete, OpRelease:
	default:
		f.is("do", false)
	}
}

// keys are sorted, each once, so that one look tells who is among them, and a key
// cannot be both set and deleted.
func (f *form) keys(op *Operation) {
	f.is("set", len(op.Set) <= MaxKeys)
	f.is("delete", len(op.Delete) <= MaxKeys && (op.Kind == OpMerge || len(op.Delete) == 0))
	for i := range op.Set {
		f.name("key", op.Set[i].Key, MaxKeyBytes)
		f.is("value", len(op.Set[i].Value) > 0)
		f.is("set", i == 0 || op.Set[i-1].Key < op.Set[i].Key)
	}
	for i, key := range op.Delete {
		f.name("key", key, MaxKeyBytes)
		_, both := op.setTo(key)
		f.is("delete", !both && (i == 0 || op.Delete[i-1] < key))
	}
}

func (f *form) fences(fences []KeyFence) {
	f.is("fences", len(fences) <= MaxKeys)
	for i := range fences {
		f.name("fences", fences[i].Key, MaxKeyBytes)
		f.is("fences", fences[i].Fence > 0 && (i == 0 || fences[i-1].Key < fences[i].Key))
	}
}

func (f *form) message(m *Message) {
	if !f.is("message", m != nil) {
		return
	}
	f.name("topic", m.Topic, MaxKeyBytes)
	f.is("data", len(m.Data) > 0)
	f.is("to", len(m.Peers)+len(m.Refs)+len(m.Roles) <= MaxRecipients)
	for _, list := range [...][]string{m.Peers, m.Refs, m.Roles} {
		for _, who := range list {
			f.name("to", who, MaxNameBytes)
		}
	}
}

func (f *form) lock(r *LockRequest) {
	f.duration("ttl_ms", r.TTL)
	f.is("permits", r.Permits >= 0 && r.Permits <= MaxDuration && (!r.Shared || r.Permits <= 1))
	f.duration("delay_ms", r.Delay)
	f.is("data", len(r.Data) <= MaxLockData)
}
