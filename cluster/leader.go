package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// maxProposals is how many log entries may be in flight: enough that raft always
// has the next one to write, few enough that entries grow under load. An entry costs
// three nodes some 30 wake-ups and six fsyncs, however much is in it.
const maxProposals = 2

// leadership is everything a leader remembers. It belongs to one term and is
// dropped with it: a node that lost and regained leadership between two looks has
// another term, and starts from the log. It exists once the term's barrier is
// applied, so that the state holds everything earlier leaders acknowledged.
type leadership struct {
	n       *Node
	term    uint64
	start   time.Time // monotonic; cluster time is base plus what has passed since
	base    int64     // cluster time at start, ms
	barrier uint64    // raft index of the term's barrier
	floor   uint64    // applied index once everything up to the barrier was applied

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	rounds *rounds
	timers *timers

	slots   chan struct{} // a place for each entry in flight, and for the one that is made
	handing sync.Mutex    // held while leadership is handed over

	mu        sync.Mutex
	queue     []*proposal           // batches of all nodes, in order of arrival
	known     map[batchID]*proposal // those of queue, and those that raft has and has not answered
	controls  []fsm.Control         // the leader's own
	kick      chan struct{}
	gathering gathering
	stamped   time.Time // when the last entry was proposed
	stampDue  bool      // log the time, even in an empty entry
	ended     bool

	nodes map[raft.ServerID]*nodeSeen // guarded by mu; what heartbeats told, by server id
}

// lead runs the term's barrier and makes its leadership; nil if the term ended.
func (n *Node) lead(term uint64) *leadership {
	future := n.raft.Barrier(0)
	if future.Error() != nil || !n.leadsTerm(term) {
		return nil
	}
	view := n.machine.View()
	l := &leadership{
		n: n, term: term, start: time.Now(), base: view.Now(),
		barrier: future.(raft.IndexFuture).Index(), floor: view.Index(),
		slots: make(chan struct{}, maxProposals), kick: make(chan struct{}, 1),
		known: map[batchID]*proposal{}, nodes: map[raft.ServerID]*nodeSeen{},
	}
	l.ctx, l.cancel = context.WithCancel(n.ctx)
	l.rounds = newRounds(l)
	l.timers = newTimers(l)
	return l
}

// begin starts the leader's work. The leadership is where the node's observer
// finds it by then, so that timers miss no deadline between state and events.
func (l *leadership) begin() {
	if l.n.machine.View().Cluster() == "" {
		l.control(fsm.Control{Kind: fsm.ControlGenesis, Cluster: "c" + l.n.drawID()})
	}
	for _, run := range []func(){l.propose, l.timers.run, l.rounds.run, l.watchNodes, l.compareStates} {
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			run()
		}()
	}
}

// end drops the leadership; batches that raft did not get are given back.
func (l *leadership) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.cancel()
	l.wg.Wait()
	l.answer(l.queue, false)
	l.queue = nil
}

// now is cluster time: it grows with this node's monotonic clock while it leads.
func (l *leadership) now() int64 { return l.base + time.Since(l.start).Milliseconds() }

// control queues a command of the leader's own.
func (l *leadership) control(c fsm.Control) {
	l.mu.Lock()
	l.controls = append(l.controls, c)
	l.mu.Unlock()
	l.wake()
}

func (l *leadership) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// propose is the one goroutine that calls raft.Apply, so that a node's batches
// enter the log in the order in which they came. It puts the waiting batches of
// all nodes into one entry, and keeps a few entries in flight.
func (l *leadership) propose() {
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.kick:
		}
		for {
			select {
			case l.slots <- struct{}{}:
			case <-l.ctx.Done():
				return
			}
			l.gather()
			entry, taken := l.collect()
			if entry == nil {
				<-l.slots
				break
			}
			if !l.apply(entry, taken, func() { <-l.slots }) {
				return
			}
		}
	}
}

// collect takes what waits, up to the size of an entry.
func (l *leadership) collect() (*fsm.Proposal, []*proposal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 && len(l.controls) == 0 && !l.stampDue {
		return nil, nil
	}
	l.stampDue = false
	entry := &fsm.Proposal{V: fsm.FormatVersion}
	size := 0
	for len(l.controls) > 0 && size < fsm.MaxProposalBytes/2 {
		c := l.controls[0]
		l.controls = l.controls[1:]
		entry.Controls = append(entry.Controls, c)
		size += controlSize(&c)
	}
	taken := 0
	for taken < len(l.queue) && (size == 0 || size+l.queue[taken].size <= fsm.MaxProposalBytes) {
		entry.Batches = append(entry.Batches, *l.queue[taken].batch)
		l.queue[taken].handed = true
		size += l.queue[taken].size
		taken++
	}
	out := append([]*proposal(nil), l.queue[:taken]...)
	clear(l.queue[:taken])
	l.queue = l.queue[taken:]
	if len(l.queue) == 0 {
		l.queue = nil
	}
	l.stamped = time.Now()
	return entry, out
}

// apply hands an entry to raft. It returns false once this term is over.
func (l *leadership) apply(entry *fsm.Proposal, taken []*proposal, release func()) bool {
	entry.Term, entry.Time, entry.Wall = l.term, l.now(), l.n.wall().UnixMilli()
	data, err := fsm.EncodeProposal(entry)
	if err != nil { // every part was checked before: a bug
		l.answer(taken, false)
		l.n.fatal(err)
		return false
	}
	if !l.n.leadsTerm(l.term) && (!stubborn || l.n.raft.State() != raft.Leader) {
		l.answer(taken, false)
		release()
		return stubborn
	}
	handed := time.Now()
	l.mu.Lock()
	commands, _ := load(taken)
	l.gathering.left(commands)
	l.mu.Unlock()
	future := l.n.raft.Apply(data, 0)
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		defer release()
		err := future.Error()
		l.mu.Lock()
		queued, _ := load(l.queue)
		l.gathering.done(time.Now(), commands, queued, time.Since(handed))
		l.mu.Unlock()
		l.wake()
		switch err {
		case raft.ErrNotLeader, raft.ErrEnqueueTimeout:
			l.answer(taken, false) // raft refused it before its log saw it
		default: // committed, or lost with the leadership: the log will tell
			l.answer(taken, true)
		}
	}()
	return true
}

// leadsTerm reports whether raft leads, in that term.
func (n *Node) leadsTerm(term uint64) bool {
	return n.raft.CurrentTerm() == term && n.raft.State() == raft.Leader && n.raft.CurrentTerm() == term
}

// leads is the present leadership, nil if this node does not lead (yet).
func (n *Node) leads() *leadership {
	l := n.leadership.Load()
	if l == nil || !n.leadsTerm(l.term) {
		return nil
	}
	return l
}

// drawID draws 80 random bits.
func (n *Node) drawID() string {
	source := n.cfg.Rand
	if source == nil {
		source = rand.Reader
	}
	var id [10]byte
	if _, err := source.Read(id[:]); err != nil {
		n.fatal(err)
	}
	return hex.EncodeToString(id[:])
}

// serveForward takes a batch from another node, if that is a member with its
// present data directory: what a lost one sent and the network kept is late. It is
// decoded with the replicas' own limits here: what a replica could not read never
// reaches the log.
func (n *Node) serveForward(from Identity, req []byte, reply func([]byte, error)) {
	l := n.leads()
	if l == nil {
		reply(nil, errNotLeader)
		return
	}
	if _, member := n.member(from.ServerID()); !member {
		reply(encode(forwardAnswer{Proposed: false}), nil)
		return
	}
	b, err := fsm.DecodeBatch(req)
	if err != nil {
		reply(nil, err)
		return
	}
	l.enqueue(b, func(proposed bool) { reply(encode(forwardAnswer{Proposed: proposed}), nil) })
}
