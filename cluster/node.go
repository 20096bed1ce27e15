package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// UnavailableError says that a request was certainly never handed to the log:
// safe to repeat.
type UnavailableError struct{ Reason string }

func (e *UnavailableError) Error() string { return "unavailable: " + e.Reason }

// UnknownError says that a request may or may not have been applied: repeat only
// with the same request id.
type UnknownError struct{ Reason string }

func (e *UnknownError) Error() string { return "unknown outcome: " + e.Reason }

// logCacheEntries is how many log entries are kept in memory: enough for the
// followers of a busy leader, little even when every entry is as large as may be.
const logCacheEntries = 64

var errClosed = errors.New("the node is closing")

// Node is one member of the cluster.
type Node struct {
	cfg         Config
	log         *slog.Logger
	timeout     time.Duration
	deadline    time.Duration
	self        Identity
	incarnation uint64

	machine   *fsm.Machine
	raft      *raft.Raft
	transport *transport
	channel   Channel
	configs   *configIndexLog
	early     *earlyLog
	stable    raft.StableStore
	watchdog  *watchdog
	observer  *raft.Observer

	batcher    *batcher
	relay      *relay
	reader     reader
	losses     *losses
	divergence *divergence
	leadership atomic.Pointer[leadership] // set by manage alone
	indexes    waitList                   // raft indexes applied here
	revs       waitList                   // revisions applied here
	caughtUp   atomic.Bool                // has once been at a leader's read index
	removed    atomic.Bool                // a leader said that this node is no member
	promising  sync.Mutex
	gone       chan struct{} // closed when removed is set
	mute       chan struct{} // closed when raft cannot go on: it answers nobody any more

	ctx    context.Context // ends when the node closes
	cancel context.CancelFunc
	done   <-chan struct{} // ctx.Done()

	mu         sync.Mutex
	changed    chan struct{} // closed and replaced when the leader, as known here, changes
	lastSeen   sighting
	seenSince  time.Time // when lastSeen's term and leader were first seen
	leaderless time.Time
	observers  []*func(*fsm.Published)
	hints      map[raft.ServerID]string // see resolve
	closing    bool
	running    sync.WaitGroup // every goroutine started by spawn
	died       sync.Once
}

// sighting is who leads, as this node knows it.
type sighting struct {
	term   uint64
	leader raft.ServerID
	active bool // this node leads and has applied its barrier
}

// Open starts a node. It returns once raft runs; Ready tells when the node
// serves. The stores stay the caller's to close, after Close.
func Open(cfg Config) (*Node, error) {
	n := &Node{cfg: cfg, log: cfg.Logger, timeout: cfg.Timeout, deadline: cfg.Deadline, changed: make(chan struct{}), gone: make(chan struct{}), mute: make(chan struct{})}
	n.defaults()
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.done = n.ctx.Done()
	n.leaderless = time.Now()

	// Every write to the disk is watched, and votes are kept whole.
	n.watchdog = newWatchdog(n.cfg.DiskLimit, n.fatal)
	n.configs = &configIndexLog{LogStore: n.watchdog.logStore(cfg.Log)}
	n.stable = n.watchdog.stableStore(cfg.Stable)
	snapshots := n.watchdog.snapshotStore(cfg.Snapshots)
	err := n.configs.noteSnapshots(cfg.Snapshots)
	if err != nil {
		return nil, fmt.Errorf("list the snapshots: %w", err)
	}
	if n.self, err = identity(n.stable, cfg.ID, cfg.Rand); err != nil {
		return nil, fmt.Errorf("read the node's identity: %w", err)
	}
	if err := refuseDiverged(n.stable); err != nil {
		return nil, err
	}
	start, err := nextIncarnation(n.stable)
	if err != nil {
		return nil, fmt.Errorf("count the node's starts: %w", err)
	}
	n.incarnation = n.self.incarnation(start)

	// Whatever raft applies has somebody to tell before raft starts.
	n.machine = fsm.NewMachine(n.fatal)
	n.machine.Observe(n.published)
	n.batcher = newBatcher(n)
	n.losses = newLosses()
	n.divergence = newDivergence(n)
	n.relay = newRelay(n)
	n.reader.n = n

	inner, channel, err := cfg.Network.Open(n.self, n.resolve)
	if err != nil {
		return nil, fmt.Errorf("open the network: %w", err)
	}
	n.channel = channel
	if n.transport, err = newTransport(inner, n.self.ServerID()); err != nil {
		return nil, fmt.Errorf("wrap the raft transport: %w", err)
	}

	// Replication reads what was just written: from memory.
	n.early = newEarlyLog(n.configs, func() bool { return !n.cfg.WriteFirst && n.transport.leads() })
	n.transport.log = n.early
	recent, err := raft.NewLogCache(logCacheEntries, n.early)
	if err != nil {
		return nil, fmt.Errorf("cache the raft log: %w", err)
	}
	n.raft, err = raft.NewRaft(n.raftConfig(), durableMachine{n.machine, n.early, n.transport.Committed}, recent, termStore{newVoteStore(n.stable), n.mute}, snapshots, n.transport)
	if err != nil {
		err = errors.Join(fmt.Errorf("start raft: %w", err), n.channel.Close(), n.transport.Close())
		return nil, err
	}
	n.transport.serves(n.raft)
	events := make(chan raft.Observation, 64)
	n.observer = raft.NewObserver(events, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.RaftState, raft.LeaderObservation:
			return true
		}
		return false
	})
	n.raft.RegisterObserver(n.observer)
	n.channel.Lost(n.lost)
	n.channel.Handle(n.serve)
	for _, run := range []func(){func() { n.manage(events) }, n.batcher.run, n.relay.run, n.beat, n.enter, n.catchUp, n.succeed, n.divergence.run} {
		n.spawn(run)
	}
	return n, nil
}

func (n *Node) defaults() {
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if n.timeout == 0 {
		n.timeout = time.Second
	}
	if n.deadline == 0 {
		n.deadline = 4 * time.Second
	}
	if n.cfg.DiskLimit == 0 {
		n.cfg.DiskLimit = 10 * time.Second
	}
	if n.cfg.SnapshotThreshold == 0 {
		n.cfg.SnapshotThreshold = 65_536
	}
	if n.cfg.TrailingLogs == 0 {
		n.cfg.TrailingLogs = 32_768
	}
	if n.cfg.CompareInterval == 0 {
		n.cfg.CompareInterval = time.Minute
	}
	if n.cfg.Wall == nil {
		n.cfg.Wall = time.Now
	}
}

func (n *Node) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = n.self.ServerID()
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = n.timeout, n.timeout, n.timeout
	c.MaxAppendEntries = 16
	c.SnapshotThreshold, c.TrailingLogs = n.cfg.SnapshotThreshold, n.cfg.TrailingLogs
	c.SnapshotInterval = 30 * n.timeout
	c.NoLegacyTelemetry = true
	c.Logger = newRaftLogger(n.log)
	return c
}

// spawn runs f in a goroutine that Close waits for; false once the node closes.
func (n *Node) spawn(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return false
	}
	n.running.Add(1)
	go func() {
		defer n.running.Done()
		f()
	}()
	return true
}

// fatal stops the process: going on would risk what was acknowledged.
func (n *Node) fatal(err error) {
	n.died.Do(func() {
		n.log.Error("the node stops", "error", err)
		if n.cfg.Fatal == nil {
			panic(err)
		}
		n.cfg.Fatal(err)
	})
}

// Close hands leadership to a caught-up node if this one leads, stops raft, then
// closes the channel. It may be called twice.
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	if n.closing {
		n.mu.Unlock()
		n.running.Wait()
		return nil
	}
	n.closing = true
	n.mu.Unlock()
	if l := n.leads(); l != nil && l.hasFollower() {
		if err := l.transfer(ctx, raft.Server{}); err != nil {
			n.log.Warn("hand leadership over", "error", err)
		}
	}
	n.cancel()
	n.raft.DeregisterObserver(n.observer)
	// Whoever waits for raft is answered while raft runs: at the latest when this
	// node steps down. A raft that is shut down forgets what it has queued.
	ended := make(chan struct{})
	go func() {
		n.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		n.log.Warn("the node closes while raft does not answer")
		// It will, once a write that holds it up is over; Shutdown waits for that too.
		select {
		case <-ended:
		case <-n.mute:
		}
	}
	err := n.raft.Shutdown().Error()
	_ = n.early.settle() // a failure has stopped the node already
	return errors.Join(err, n.transport.Close(), n.channel.Close())
}

// manage follows raft: who leads, and whether it is this node. It polls slowly
// besides the observations, which may be dropped.
func (n *Node) manage(events <-chan raft.Observation) {
	ticker := time.NewTicker(n.timeout / 4)
	defer ticker.Stop()
	defer func() {
		if l := n.leadership.Swap(nil); l != nil {
			l.end()
		}
	}()
	for {
		n.follow()
		select {
		case <-n.done:
			return
		case <-events:
		case <-ticker.C:
		}
	}
}

// follow takes up and drops leadership, and tells when who leads has changed.
func (n *Node) follow() {
	term := n.raft.CurrentTerm()
	l := n.leadership.Load()
	if l != nil && !n.leadsTerm(l.term) {
		n.leadership.Store(nil)
		if !stubborn {
			l.end()
		}
		l = nil
	}
	if l == nil && n.leadsTerm(term) {
		if l = n.lead(term); l != nil {
			n.leadership.Store(l)
			l.begin()
			n.log.Info("leading", "term", term)
		}
	}
	_, id := n.raft.LeaderWithID()
	now := sighting{term: n.raft.CurrentTerm(), leader: id, active: l != nil}
	n.mu.Lock()
	defer n.mu.Unlock()
	if now == n.lastSeen {
		return
	}
	if now.term != n.lastSeen.term || now.leader != n.lastSeen.leader {
		n.seenSince = time.Now()
	}
	if n.lastSeen = now; id != "" {
		n.leaderless = time.Time{}
	} else if n.leaderless.IsZero() {
		n.leaderless = time.Now()
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

// leaderChanged is closed at the next change of who leads. Take it before
// looking who leads, so that no change is missed.
func (n *Node) leaderChanged() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// leaderID is the server id of the leader as raft knows it, "" without one.
func (n *Node) leaderID() raft.ServerID {
	_, id := n.raft.LeaderWithID()
	return id
}

// hasLeader reports whether there is somebody to send batches to: another node,
// or this one once its term has begun.
func (n *Node) hasLeader() bool {
	if id := n.leaderID(); id != "" && id != n.self.ServerID() {
		return true
	}
	return n.leads() != nil
}

// published passes a publication on: to those who wait for an index, to the
// leader's timers, to the node's own batches, to the observers. It runs on raft's
// FSM goroutine.
func (n *Node) published(p *fsm.Published) {
	if p.Restored {
		if err := n.configs.noteSnapshots(n.cfg.Snapshots); err != nil {
			n.log.Warn("list the snapshots", "error", err)
		}
	}
	n.transport.Applied(p.Index)
	n.indexes.advance(p.Index)
	n.revs.advance(p.View.Rev())
	if l := n.leadership.Load(); l != nil {
		l.timers.published(p)
	}
	n.batcher.published(p)
	n.divergence.published(p)
	n.mu.Lock()
	observers := n.observers
	n.mu.Unlock()
	for _, f := range observers {
		(*f)(p)
	}
}

// Observe adds a function called after each publication, in order; it must not
// block. remove stops it.
func (n *Node) Observe(f func(*fsm.Published)) (remove func()) {
	entry := &f
	n.mu.Lock()
	defer n.mu.Unlock()
	n.observers = append(n.observers[:len(n.observers):len(n.observers)], entry)
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		var left []*func(*fsm.Published)
		for _, o := range n.observers {
			if o != entry {
				left = append(left, o)
			}
		}
		n.observers = left
	}
}

// ID is the node's name; Incarnation the number of this start.
func (n *Node) ID() string          { return n.self.Node }
func (n *Node) Incarnation() uint64 { return n.incarnation }

// View is this node's published state, possibly behind the cluster's.
func (n *Node) View() *fsm.View { return n.machine.View() }

// Ring is the ring of recent frames of a room's live session, nil if none.
func (n *Node) Ring(room string) *fsm.Ring { return n.machine.Ring(room) }

func (n *Node) wall() time.Time { return n.cfg.Wall() }

// register is what this node says of itself in the log.
func (n *Node) register() *fsm.Register {
	return &fsm.Register{
		PeerAddr: n.cfg.PeerAddr, HTTPAddr: n.cfg.HTTPAddr, Version: n.cfg.Version, Features: n.features(),
	}
}

// NewLane makes a lane. It needs no closing.
func (n *Node) NewLane() *Lane { return &Lane{b: n.batcher} }

// Do hands one command to the log and waits for its result as applied on this
// node. The error is nil, *UnavailableError or *UnknownError (also when ctx ends);
// a refusal is in the result.
func (n *Node) Do(ctx context.Context, c *fsm.Command) (*fsm.Result, error) {
	type outcome struct {
		result *fsm.Result
		err    error
	}
	ch := make(chan outcome, 1)
	n.NewLane().Submit(c, func(r *fsm.Result, err error) { ch <- outcome{r, err} })
	select {
	case out := <-ch:
		return out.result, out.err
	case <-ctx.Done():
		return nil, &UnknownError{"the caller stopped waiting"}
	}
}

// Renew keeps a lease alive: a lock's holder, or a peer without a socket. It
// returns the time left, counted from when the leader recorded it; 0 for a lock
// without a TTL and a peer with a socket, which have no end of their own. A refusal
// (*fsm.Refusal: not_holder, not_found, session_ended, no_session) or an
// *UnavailableError is the error.
func (n *Node) Renew(ctx context.Context, r fsm.LeaseRef) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, n.deadline)
	defer cancel()
	var answer renewAnswer
	err := n.askLeader(ctx, methodRenew, renewRequest{r}, &answer, func(l *leadership) error {
		left, err := l.renew(ctx, r)
		answer.LeftMs = left.Milliseconds()
		return err
	})
	if err == nil && answer.Refusal != nil {
		err = answer.Refusal
	}
	if err != nil && !terminal(err) { // renewing again does no harm
		err = &UnavailableError{"no leader confirmed the renewal in time"}
	}
	return time.Duration(answer.LeftMs) * time.Millisecond, err
}

// TimeLeft asks the leader for the time left of leases; those it does not know
// are absent. On any failure it returns nil: the time left is a courtesy.
func (n *Node) TimeLeft(ctx context.Context, refs []fsm.LeaseRef) map[fsm.LeaseRef]time.Duration {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	var answer timeLeftAnswer
	request := timeLeftRequest{refs}
	err := n.askLeader(ctx, methodTimeLeft, request, &answer, func(l *leadership) error {
		answer = l.timeLeft(request)
		return nil
	})
	if err != nil || len(answer.LeftMs) != len(refs) {
		return nil
	}
	left := make(map[fsm.LeaseRef]time.Duration)
	for i, ms := range answer.LeftMs {
		if ms >= 0 {
			left[refs[i]] = time.Duration(ms) * time.Millisecond
		}
	}
	return left
}
