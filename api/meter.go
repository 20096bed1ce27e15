package api

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"conclave/client/wire"
	"conclave/fsm"
)

// What callers write is counted in token buckets where their requests come in: a
// peer's by the numbers of its session, a token's by those of the configuration.
// A request that finds its bucket empty is refused before the log hears of it.

// What is counted, as the metric calls it.
const (
	countPeer  = "peer"  // what a peer writes in its session
	countToken = "token" // what callers with one token's subject write in a room
	countHello = "hello" // hellos of one connection
)

// countedBy are the limits' names in refusals.
var countedBy = map[string]string{
	countPeer: "writes_per_s", countToken: "token_writes_per_s", countHello: "hellos_per_s",
}

// The default of what a token may write, per room and node: what one peer of the
// largest profile may.
const (
	defaultTokenPerS = 1_000
	defaultTokenMost = 2_000
	maxTokenWrites   = 1_000_000
)

// helloQuota bounds the hellos that a connection may say. The first is all that
// most need; a client that is refused for good must not go on for ever.
var helloQuota = quota{perS: 1, burst: 20}

// maxBuckets bounds the buckets of a node. They are those of callers that have
// written within the last seconds, so it is not reached in earnest; half of them
// would be forgotten, and so counted anew.
const maxBuckets = 100_000

// sweepBuckets is how often full buckets are looked for, as long as any is used.
const sweepBuckets = 10 * time.Second

// quota is how fast a bucket fills, and what it holds. The zero quota is none.
type quota struct{ perS, burst int }

// level is a token bucket in one number: the time at which it is full again. One
// that has passed means a full bucket, whoever's; so nothing is kept for those.
type level time.Duration

// take takes one out of a bucket, or says how long to wait for it. slack is how
// many more than its burst it may give, to be made up for afterwards.
func (l level) take(now time.Duration, q quota, slack int) (_ level, wait time.Duration) {
	every := time.Second / time.Duration(q.perS)
	full := max(time.Duration(l), now) + every
	if wait = full - now - time.Duration(q.burst+slack)*every; wait > 0 {
		return l, wait
	}
	return level(full), 0
}

// bucket names a bucket: a peer of a session, or a subject in a room. Messages that
// are not logged have buckets of their own.
type bucket struct {
	kind, in, who string
	ephemeral     bool
}

// draw is one to be taken out of a bucket.
type draw struct {
	from  bucket
	quota quota
}

// meter has the buckets of a node that are not full. Its methods may be called
// from any goroutine.
type meter struct {
	clock   func() time.Duration   // monotonic
	refused *prometheus.CounterVec // by kind

	most int // buckets

	mu      sync.Mutex // guards all below
	levels  map[bucket]level
	sweepAt time.Duration
	roomFor int // buckets, then full ones are looked for
}

func newMeter(clock func() time.Duration, refused *prometheus.CounterVec) *meter {
	if clock == nil {
		began := time.Now()
		clock = func() time.Duration { return time.Since(began) }
	}
	for kind := range countedBy {
		refused.WithLabelValues(kind) // there from the start, at 0
	}
	return &meter{clock: clock, refused: refused, most: maxBuckets, levels: map[bucket]level{}}
}

// take takes one out of each bucket, or nothing at all. The refusal is that of the
// bucket that takes longest.
func (m *meter) take(slack int, draws ...draw) *wire.Error {
	now := m.clock()
	m.mu.Lock()
	var next [2]level
	var longest time.Duration
	var empty draw
	for i, d := range draws {
		after, wait := m.levels[d.from].take(now, d.quota, slack)
		if next[i] = after; wait > longest {
			longest, empty = wait, d
		}
	}
	if longest == 0 {
		m.sweep(now)
		for i, d := range draws {
			m.levels[d.from] = next[i]
		}
	}
	m.mu.Unlock()
	if longest == 0 {
		return nil
	}
	return m.refuse(empty.from.kind, empty.quota, longest)
}

func (m *meter) refuse(kind string, q quota, wait time.Duration) *wire.Error {
	m.refused.WithLabelValues(kind).Inc()
	limit := countedBy[kind]
	ms := int((wait + time.Millisecond - 1) / time.Millisecond)
	return wire.Errorf(wire.RateLimited, "%s: %d, after a burst of %d", limit, q.perS, q.burst).
		With("retry_after_ms", ms).With("limit", limit).With("max", q.perS)
}

// sweep makes room for two more buckets: it drops full ones, now and then and when
// there are many. The caller holds mu.
func (m *meter) sweep(now time.Duration) {
	if now < m.sweepAt && len(m.levels) < m.roomFor {
		return
	}
	left := make(map[bucket]level)
	for name, l := range m.levels {
		if time.Duration(l) > now && len(left) < m.most/2 {
			left[name] = l
		}
	}
	m.levels, m.sweepAt, m.roomFor = left, now+sweepBuckets, min(max(2*len(left), 1024), m.most)
}

// charge counts a command that is about to be handed to the log on behalf of its
// caller, q being the quota of its session. Whoever is neither a peer nor shows a
// token is nobody, and not counted: without tokens such a caller has every right.
func (s *Server) charge(c *fsm.Command, session string, q quota, repeat bool) *wire.Error {
	by := &c.Caller
	if c.Kind == fsm.CommandLeave && by.Kind == fsm.CallerPeer && c.Target == by.Peer {
		return nil // once in its life
	}
	slack := 0
	if repeat || givesBack(c) {
		slack = window
	}
	return s.count(by, c.Room, session, q, false, slack)
}

// count takes one out of each bucket of a caller.
func (s *Server) count(by *fsm.Caller, room, session string, q quota, ephemeral bool, slack int) *wire.Error {
	var draws [2]draw
	n := 0
	if by.Kind == fsm.CallerPeer && q.perS > 0 {
		draws[n] = draw{bucket{countPeer, session, by.Peer, ephemeral}, q}
		n++
	}
	if by.User != "" {
		draws[n] = draw{bucket{countToken, room, by.User, ephemeral}, s.tokenQuota}
		n++
	}
	if n == 0 {
		return nil
	}
	return s.meter.take(slack, draws[:n]...)
}

// givesBack reports whether others may be waiting for what a command gives up. It
// counts, but may be made up for later: who was too fast must not keep the lock for
// that.
func givesBack(c *fsm.Command) bool {
	return c.Kind == fsm.CommandCancel || c.Kind == fsm.CommandTxn && c.Txn.Single && c.Txn.Then[0].Kind == fsm.OpRelease
}

// quotaOf is what the peers of a session may write.
func quotaOf(sess *fsm.Session) quota {
	return quota{perS: sess.Limits.WritesPerS, burst: sess.Limits.WritesBurst}
}

// chargeHTTP is charge for a request over HTTP. Its peer, if it has one, is proven,
// so this node knows its session, unless that has ended since.
func (s *Server) chargeHTTP(c *fsm.Command) *wire.Error {
	session, q := "", quota{}
	if c.Caller.Kind == fsm.CallerPeer {
		if sess := s.node.View().Session(c.Room); sess != nil {
			session, q = sess.ID, quotaOf(sess)
		}
	}
	return s.charge(c, session, q, false)
}
