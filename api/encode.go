package api

import (
	"strconv"
	"time"
	"unicode/utf8"

	"conclave/fsm"
	"conclave/lock"
)

// The functions of this file write the shapes of protocol section 4. They append
// by hand: an event is encoded once per node, but entries of snapshots and lists
// once per reader. client/wire decodes what they write; testdata/wire holds the
// samples that both sides are tested against.

// timeFormat is RFC 3339 with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z"

// appendTime appends a wall time in Unix ms as a JSON string.
func appendTime(b []byte, ms int64) []byte {
	b = append(b, '"')
	b = time.UnixMilli(ms).UTC().AppendFormat(b, timeFormat)
	return append(b, '"')
}

// formatTime is a wall time in Unix ms as the wire has it.
func formatTime(ms int64) string { return time.UnixMilli(ms).UTC().Format(timeFormat) }

// appendString appends s as a JSON string. What is not UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(b, s[start:i]...)
				b = append(b, "\ufffd"...)
				start = i + 1
			}
			i += size
			continue
		}
		b = append(b, s[start:i]...)
		if c == '"' || c == '\\' {
			b = append(b, '\\', c)
		} else {
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// The next append one member with the comma before it; appendText leaves out an
// empty one.

func appendText(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(appendName(b, name), s)
}

func appendNumber(b []byte, name string, n uint64) []byte {
	return strconv.AppendUint(appendName(b, name), n, 10)
}

func appendRaw(b []byte, name string, raw []byte) []byte {
	return append(appendName(b, name), raw...)
}

func appendName(b []byte, name string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

// appendBy appends an author. What it has not is left out.
func appendBy(b []byte, by fsm.By) []byte {
	b = append(b, `{"kind":"`...)
	b = append(b, callerKind(by.Kind)...)
	b = append(b, '"')
	b = appendText(b, "peer", by.Peer)
	b = appendText(b, "ref", by.Ref)
	b = appendText(b, "user", by.User)
	return append(b, '}')
}

// callerKind is the wire's name of a kind of caller.
func callerKind(k fsm.CallerKind) string {
	switch k {
	case fsm.CallerPeer:
		return "peer"
	case fsm.CallerSystem:
		return "system"
	}
	return "server"
}

// appendEntry appends an entry.
func appendEntry(b []byte, e *fsm.Entry) []byte {
	b = appendString(append(b, `{"key":`...), e.Key)
	b = appendEntryMembers(b, e)
	return append(b, '}')
}

// appendEntryMembers appends all members of an entry but its key.
func appendEntryMembers(b []byte, e *fsm.Entry) []byte {
	b = appendRaw(b, "value", e.Value)
	b = appendNumber(b, "version", e.Version)
	b = appendNumber(b, "rev", e.Rev)
	b = appendNumber(b, "created_rev", e.CreatedRev)
	b = appendBy(appendName(b, "by"), e.By)
	b = appendTime(appendName(b, "at"), e.At)
	if e.ExpiresAt != 0 {
		b = appendTime(appendName(b, "expires_at"), e.ExpiresAt)
	}
	return appendText(b, "bound_to", e.Bound)
}

// appendPeer appends a peer as others see it: without its resume key.
func appendPeer(b []byte, p *fsm.Peer) []byte {
	b = appendString(append(b, `{"peer":`...), p.ID)
	b = appendText(b, "user", p.User)
	b = appendText(b, "ref", p.Ref)
	b = appendString(appendName(b, "role"), p.Role)
	b = appendText(b, "name", p.Name)
	if p.Data != nil {
		b = appendRaw(b, "data", p.Data)
	}
	b = appendText(b, "state", peerState(p))
	b = appendTime(appendName(b, "joined_at"), p.JoinedAt)
	b = appendNumber(b, "joined_rev", p.JoinedRev)
	return append(b, '}')
}

// peerState is what others see. A peer without a socket is there until its TTL
// has passed.
func peerState(p *fsm.Peer) string {
	if p.Attached || p.TTL > 0 {
		return "attached"
	}
	return "detached"
}

// timeLeft answers the time left of a holder's lease in ms, false when it has no
// end or nobody knows it. It is added while encoding, for it is never stored.
// Asked about nobody, it answers the time left of the lock's delay.
type timeLeft func(lock.Holder) (ms int64, ok bool)

// appendLock appends a lock. left may be nil.
func appendLock(b []byte, store, key string, l *lock.Lock, left timeLeft) []byte {
	b = appendString(append(b, `{"store":`...), store)
	b = appendString(appendName(b, "key"), key)
	mode := "exclusive"
	if l.Shared {
		mode = "shared"
	}
	b = appendText(b, "mode", mode)
	b = appendNumber(b, "permits", uint64(max(l.Permits, 1)))
	b = append(b, `,"holders":[`...)
	for i, h := range l.Holders {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, `{"owner":`...), h.Owner.String())
		b = appendNumber(b, "fence", h.Fence)
		b = appendTime(appendName(b, "since"), h.Since)
		if left != nil {
			if ms, ok := left(h); ok {
				b = appendNumber(b, "expires_in_ms", uint64(max(ms, 0)))
			}
		}
		if h.Delay > 0 {
			b = appendNumber(b, "delay_ms", uint64(h.Delay))
		}
		if h.Data != nil {
			b = appendRaw(b, "data", h.Data)
		}
		b = append(b, '}')
	}
	b = append(b, `],"queue":[`...)
	for i, w := range l.Queue {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, `{"owner":`...), w.Owner.String())
		b = appendTime(appendName(b, "since"), w.Since)
		b = append(b, '}')
	}
	b = append(b, ']')
	if l.NotBefore != 0 && left != nil {
		if ms, ok := left(lock.Holder{}); ok && ms > 0 {
			b = appendNumber(b, "delay_ends_in_ms", uint64(ms))
		}
	}
	return append(b, '}')
}

// encodeEvent is the event as every watcher that may see it receives it.
func encodeEvent(e *fsm.Event) []byte {
	size := 320 + len(e.Key) // what an event has besides its value, about
	if e.Entry != nil {
		size += len(e.Entry.Value)
	}
	b := append(make([]byte, 0, size), `{"type":"`...)
	b = append(b, e.Type...)
	b = append(b, '"')
	b = appendText(b, "store", e.Store)
	b = appendText(b, "key", e.Key)
	switch e.Type {
	case fsm.EventPut:
		b = appendEntryMembers(b, e.Entry)
		return append(b, '}')
	case fsm.EventDelete:
		b = appendBy(appendName(b, "by"), e.By)
		b = appendTime(appendName(b, "at"), e.At)
		b = appendText(b, "reason", e.Reason)
	case fsm.EventLock:
		b = appendText(b, "state", e.State)
		b = appendText(b, "owner", e.Owner.String())
		b = appendNumber(b, "fence", e.Fence)
		b = appendNumber(b, "waiting", uint64(e.Waiting))
	case fsm.EventPeer:
		b = appendText(b, "state", e.State)
		b = appendPeer(appendName(b, "peer"), e.Peer)
		b = appendText(b, "reason", e.Reason)
	case fsm.EventMessage:
		b = appendText(b, "topic", e.Topic)
		b = appendRaw(b, "data", e.Data)
		b = appendBy(appendName(b, "from"), e.By)
		b = appendTime(appendName(b, "at"), e.At)
	case fsm.EventSession:
		b = appendText(b, "state", e.State)
		b = appendText(b, "session", e.Session)
		b = appendText(b, "reason", e.Reason)
	}
	b = appendNumber(b, "rev", e.Rev)
	return append(b, '}')
}

// encodeFrame is a frame for a watcher that sees all of its events, which most do:
// the bytes are made once per node. Who sees less gets a frame of its own around
// the same encoded events.
func encodeFrame(f *fsm.Frame) []byte {
	size := 32
	for _, e := range f.Events {
		size += len(e.Encoded(encodeEvent)) + 1
	}
	b := append(make([]byte, 0, size), `{"events":[`...)
	for i, e := range f.Events {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, e.Encoded(encodeEvent)...)
	}
	b = append(b, ']')
	b = appendNumber(b, "rev", f.Rev)
	return append(b, '}')
}

// appendOpResult appends what one operation gave, as its verb answers: without
// the revision, which is the transaction's.
func appendOpResult(b []byte, kind fsm.OpKind, r *fsm.OpResult) []byte {
	switch kind {
	case fsm.OpGet:
		b = append(b, `{"entry":`...)
		if r.Entry == nil {
			return append(b, "null}"...)
		}
		return append(appendEntry(b, r.Entry), '}')
	case fsm.OpPut:
		b = strconv.AppendUint(append(b, `{"version":`...), r.Version, 10)
	case fsm.OpUpdate, fsm.OpAppend, fsm.OpRemove, fsm.OpAdd, fsm.OpPatch:
		b = append(append(b, `{"value":`...), r.Value...)
		b = appendNumber(b, "version", r.Version)
	case fsm.OpDelete, fsm.OpDeletePrefix:
		b = strconv.AppendBool(append(b, `{"existed":`...), r.Existed)
	case fsm.OpAcquire:
		b = strconv.AppendUint(append(b, `{"fence":`...), r.Fence, 10)
	default:
		b = append(b, '{')
	}
	return append(b, '}')
}

// appendVerb appends the answer to a write that is a verb of its own: what its
// operation gave, and the revision.
func appendVerb(b []byte, kind fsm.OpKind, r *fsm.Result) []byte {
	op, rev := &r.Ops[0], r.Rev
	// A computed value may be the one that was there. Then the revision is still
	// that of the entry, by which the caller may compare and set.
	if computes(kind) {
		rev = op.Rev
	}
	b = appendOpResult(b, kind, op)
	b = b[:len(b)-1] // its closing brace
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = strconv.AppendUint(append(b, `"rev":`...), rev, 10)
	return append(b, '}')
}

// appendTxnResult appends the answer to a transaction (protocol section 5).
func appendTxnResult(b []byte, t *fsm.Txn, r *fsm.Result) []byte {
	// A result does not say what it is of; its operation does.
	ops := t.Else
	if r.Applied {
		ops = t.Then
	}
	b = strconv.AppendBool(append(b, `{"applied":`...), r.Applied)
	b = appendNumber(b, "rev", r.Rev)
	b = append(b, `,"results":[`...)
	for i := range r.Ops {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendOpResult(b, ops[i].Kind, &r.Ops[i])
	}
	return append(b, ']', '}')
}
