package fsm

import (
	"bytes"
	"slices"
)

// What a session remembers of requests. Retries are answered from it, so the
// bounds refuse new clients rather than forget what may be asked again.
const (
	rememberedResults = 256            // of a client, at least
	rememberedSlack   = 64             // more, before the oldest are dropped together
	rememberedBytes   = 256 << 10      // of a client; beyond, its oldest results are forgotten (not their ids)
	clientShare       = 16 << 10       // what a client may keep when its session is over its bound
	rememberedIdems   = 10_000         // idempotency keys of a session, at least; see maxIdems
	rememberedKeys    = 64 << 20       // bytes of their results
	rememberFor       = 10 * 60 * 1000 // ms of cluster time: keys, and clients whose peer is gone
	sweepEvery        = 10 * 1000      // ms between looks for clients to drop
	minRememberBytes  = 64 << 20       // of all clients of a session, at least
	clientsPerPeer    = 2              // client handles remembered per peer allowed
	extraClients      = 1000
)

// memory is a session's memory of requests.
type memory struct {
	clients   tree[*client] // by subject and client
	idems     tree[*idem]   // by subject and idempotency key
	idemOrder []string      // keys in the order in which they expire. Only ever appended to or cut in front
	bytes     int           // of all clients
	idemBytes int
	sweepAt   int64 // cluster time
}

// client is the memory of one client handle. A session's copy of it may be
// changed while its generation is the state's; answers is only ever appended
// to, or replaced.
type client struct {
	gen       uint64
	peer      string // the last peer to use it, "" if none
	used      int64  // cluster time of the last use
	forgotten uint64 // requests up to this that are not in answers are refused
	newest    uint64 // the greatest id among answers
	answers   []answer
	bytes     int
}

// answer is a remembered result. Most are the success of a single write: those
// need no Result of their own.
type answer struct {
	id      uint64
	rev     uint64
	version uint64
	flags   uint8
	full    *Result // nil when the above says it all
}

const (
	answerChanged = 1 << iota
	answerApplied
	answerCreated
	answerExisted
	answerEntryRev // Ops[0].Rev is Rev
)

const answerBytes = 48

// idem is the memory of a request with an idempotency key. Immutable.
type idem struct {
	hash    []byte
	result  Result
	expires int64 // cluster time
}

// memoryKey scopes a client's name or key by its subject: nobody can ask for, or
// spoil, the answers of another.
func (cmd *Command) memoryKey() string {
	if cmd.Client != "" {
		return place(cmd.Caller.User, cmd.Client)
	}
	return place(cmd.Caller.User, cmd.Idem)
}

// recall finds what a request was answered before, under its memoryKey. A refusal says that it
// cannot be answered and must not be applied.
func (s *Session) recall(cmd *Command, key string, now int64) (*Result, *Refusal) {
	if cmd.Client != "" {
		m, _ := s.memory.clients.get(key)
		if m == nil {
			return nil, nil
		}
		if a := m.find(cmd.Request); a != nil {
			return a.result(s.ID), nil
		}
		if cmd.Request <= m.forgotten {
			return nil, forgotten()
		}
		return nil, nil
	}
	m, _ := s.memory.idems.get(key)
	if m == nil || m.expires <= now {
		return nil, nil
	}
	if !bytes.Equal(m.hash, cmd.Hash) {
		return nil, otherRequest()
	}
	r := m.result
	return &r, nil
}

// otherRequest refuses a key that was used for something else: the answer of the
// first would be a lie.
func otherRequest() *Refusal {
	return badRequest("Idempotency-Key", "the key was used for another request")
}

// find looks from the newest on: what is repeated is recent.
func (m *client) find(id uint64) *answer {
	if id > m.newest {
		return nil // as is every request that is not repeated
	}
	for i := len(m.answers) - 1; i >= 0; i-- {
		if m.answers[i].id == id {
			return &m.answers[i]
		}
	}
	return nil
}

// admit makes sure that the answer to a command can be remembered.
func (c *change) admit(cmd *Command) *Refusal {
	s := c.ses
	if cmd.Idem != "" && cmd.Client == "" {
		if s.memory.idems.len() >= s.maxIdems() || s.memory.idemBytes >= rememberedKeys {
			c.sweepIdems()
			s = c.ses
		}
		if n := s.memory.idems.len(); n >= s.maxIdems() || s.memory.idemBytes >= rememberedKeys {
			return overLimit("request_memory", s.maxIdems(), n+1)
		}
		return nil
	}
	if s.memory.clients.has(c.request) {
		return nil
	}
	if c.s.now >= s.memory.sweepAt {
		c.sweepClients()
		s = c.ses
	}
	if n := s.memory.clients.len(); n >= s.maxClients() || s.memory.bytes >= s.maxRemembered() {
		return overLimit("request_memory", s.maxClients(), n+1)
	}
	return nil
}

func (s *Session) maxClients() int { return clientsPerPeer*s.Limits.Peers + extraClients }

// maxIdems lets one caller write with keys at the session's rate for as long as
// keys are remembered.
func (s *Session) maxIdems() int {
	return max(rememberedIdems, s.Limits.WritesPerS*(rememberFor/1000))
}

func (s *Session) maxRemembered() int { return max(minRememberBytes, s.maxClients()*clientShare) }

// remember keeps the result of a command that has been admitted.
func (c *change) remember(cmd *Command, r Result) {
	if cmd.Client == "" {
		c.rememberIdem(c.request, &idem{hash: cmd.Hash, result: r, expires: c.s.now + rememberFor})
		return
	}
	m := c.writeClient(c.request)
	m.used = c.s.now
	switch {
	case r.Peer != "":
		m.peer = r.Peer
	case cmd.Caller.Kind == CallerPeer:
		m.peer = cmd.Caller.Peer
	}
	before := m.bytes
	m.keep(newAnswer(cmd.Request, &r))
	// A session over its bound has its clients keep their share, which is enough
	// for rememberedResults of plain writes.
	limit := rememberedBytes
	if c.ses.memory.bytes >= c.ses.maxRemembered() {
		limit = clientShare
	}
	m.trim(limit)
	c.ses.memory.bytes += m.bytes - before
}

// writeClient is a client's memory for writing.
func (c *change) writeClient(key string) *client {
	s := c.write()
	m, ok := s.memory.clients.get(key)
	switch {
	case !ok:
		m = &client{gen: c.s.gen}
	case m.gen != c.s.gen:
		clone := *m
		clone.gen = c.s.gen
		m = &clone
	default:
		return m
	}
	s.memory.clients.write(c.s.gen).Set(key, m)
	return m
}

// keep adds an answer, or puts it in the place of the one with the same id.
func (m *client) keep(a answer) {
	m.bytes += a.size()
	if old := m.find(a.id); old != nil {
		m.bytes -= old.size()
		m.answers = slices.Clone(m.answers)
		*m.find(a.id) = a
		return
	}
	m.answers = append(m.answers, a)
	m.newest = max(m.newest, a.id)
}

// trim forgets the oldest answers beyond the bounds, but for those that still
// wait for a lock and the newest.
func (m *client) trim(limit int) {
	if len(m.answers) < rememberedResults+rememberedSlack && m.bytes <= limit {
		return
	}
	kept := make([]answer, 0, rememberedResults+rememberedSlack)
	n := len(m.answers)
	for i := range m.answers {
		a := &m.answers[i]
		if a.waiting() || i == n-1 || n-i <= rememberedResults && m.bytes <= limit {
			kept = append(kept, *a)
			continue
		}
		m.bytes -= a.size()
		m.forgotten = max(m.forgotten, a.id)
	}
	m.answers = kept
}

// rememberIdem keeps a result under an idempotency key.
func (c *change) rememberIdem(key string, m *idem) {
	mem := &c.write().memory
	old, replaced := mem.idems.write(c.s.gen).Set(key, m)
	mem.idemBytes += m.size(key)
	if replaced {
		mem.idemBytes -= old.size(key)
		if at := slices.Index(mem.idemOrder, key); at >= 0 {
			mem.idemOrder = slices.Delete(slices.Clone(mem.idemOrder), at, at+1)
		}
	}
	mem.idemOrder = append(mem.idemOrder, key)
	c.sweepIdems()
}

func (m *idem) size(key string) int { return len(key) + len(m.hash) + m.result.size() }

// sweepIdems drops the keys whose time is over: the first in order.
func (c *change) sweepIdems() {
	mem := &c.ses.memory
	for len(mem.idemOrder) > 0 {
		key := mem.idemOrder[0]
		m, _ := mem.idems.get(key)
		if m.expires > c.s.now {
			return
		}
		mem = &c.write().memory
		mem.idems.write(c.s.gen).Delete(key)
		mem.idemBytes -= m.size(key)
		mem.idemOrder = mem.idemOrder[1:]
	}
}

// sweepClients drops clients that were not used for a while and whose peer has
// left. That is safe: a late request of such a client comes from a peer that
// the session no longer has, and is refused for that; a repeated join makes a
// new peer, as the old one is gone.
func (c *change) sweepClients() {
	mem := &c.write().memory
	mem.sweepAt = c.s.now + sweepEvery
	var gone []string
	mem.clients.scan("", "", func(key string, m *client) bool {
		if m.used+rememberFor <= c.s.now && c.ses.Peer(m.peer) == nil {
			gone = append(gone, key)
		}
		return true
	})
	for _, key := range gone {
		m, _ := mem.clients.write(c.s.gen).Delete(key)
		mem.bytes -= m.bytes
	}
}

// amend replaces the remembered answer of a request whose wait has ended.
func (c *change) amend(user, clientID string, request uint64, idemKey string, r Result) {
	mem := &c.ses.memory
	switch {
	case clientID != "":
		key := place(user, clientID)
		if m, _ := mem.clients.get(key); m != nil && m.find(request) != nil {
			m = c.writeClient(key)
			before := m.bytes
			m.keep(newAnswer(request, &r))
			c.ses.memory.bytes += m.bytes - before
		}
	case idemKey != "":
		key := place(user, idemKey)
		if m, _ := mem.idems.get(key); m != nil {
			next := *m
			next.result = r
			mem = &c.write().memory
			mem.idems.write(c.s.gen).Set(key, &next)
			mem.idemBytes += next.size(key) - m.size(key)
		}
	}
}

// newAnswer stores a result in the least space.
func newAnswer(id uint64, r *Result) answer {
	a := answer{id: id, rev: r.Rev}
	if !r.plain() {
		full := *r
		a.full = &full
		return a
	}
	op := &r.Ops[0]
	a.version = op.Version
	a.flag(answerChanged, r.Changed)
	a.flag(answerApplied, r.Applied)
	a.flag(answerCreated, op.Created)
	a.flag(answerExisted, op.Existed)
	a.flag(answerEntryRev, op.Rev != 0)
	return a
}

func (a *answer) flag(bit uint8, set bool) {
	if set {
		a.flags |= bit
	}
}

// plain reports whether an answer without a Result of its own says it all.
func (r *Result) plain() bool {
	if r.Refusal != nil || r.Peer != "" || r.Key != "" || r.Gen != 0 || r.Created || len(r.Ops) != 1 ||
		r.Waiting != 0 || r.Waiter != 0 || r.Fence != 0 {
		return false
	}
	op := &r.Ops[0]
	return op.Fence == 0 && op.Entry == nil && op.Value == nil && (op.Rev == 0 || op.Rev == r.Rev)
}

// result is the remembered result, in the session that remembers it.
func (a *answer) result(session string) *Result {
	if a.full != nil {
		r := *a.full
		return &r
	}
	op := OpResult{
		Version: a.version, Created: a.flags&answerCreated != 0, Existed: a.flags&answerExisted != 0,
	}
	if a.flags&answerEntryRev != 0 {
		op.Rev = a.rev
	}
	return &Result{
		Rev: a.rev, Session: session, Changed: a.flags&answerChanged != 0,
		Applied: a.flags&answerApplied != 0, Ops: []OpResult{op},
	}
}

func (a *answer) waiting() bool { return a.full != nil && a.full.Waiting > 0 }

func (a *answer) size() int {
	if a.full == nil {
		return answerBytes
	}
	return answerBytes + a.full.size()
}
