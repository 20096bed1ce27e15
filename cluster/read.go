package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// rounds runs the leader's numbered read-index rounds. A round asks every voter
// for its term, after the round has begun; once a majority has answered with this
// term, no newer leader had been elected when the round began, so everything that
// was acknowledged anywhere before is at or below this leader's commit index.
// (A write is answered by a node that has applied it, which it does at or below
// a commit index that it has from the leader.) A caller joins only a round that
// has not begun. raft.VerifyLeader credits earlier acks and non-voters; this does
// not.
type rounds struct {
	l    *leadership
	kick chan struct{}

	mu     sync.Mutex
	next   []func(index uint64, err error) // callers of the round to come
	number uint64
	ended  bool
}

func newRounds(l *leadership) *rounds {
	return &rounds{l: l, kick: make(chan struct{}, 1)}
}

// join calls done with the read index of the next round to begin; done must not
// block.
func (r *rounds) join(done func(index uint64, err error)) {
	if unconfirmed {
		done(r.l.readIndex(), nil)
		return
	}
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		done(0, errNotLeader)
		return
	}
	r.next = append(r.next, done)
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// run holds rounds one after the other while somebody asks.
func (r *rounds) run() {
	for {
		select {
		case <-r.l.ctx.Done():
			r.mu.Lock()
			r.ended = true
			callers := r.next
			r.next = nil
			r.mu.Unlock()
			for _, done := range callers {
				done(0, errNotLeader)
			}
			return
		case <-r.kick:
		}
		r.mu.Lock()
		callers := r.next
		r.next = nil
		r.number++
		number := r.number
		r.mu.Unlock()
		if len(callers) == 0 {
			continue
		}
		index, err := r.hold(number)
		for _, done := range callers {
			done(index, err)
		}
	}
}

// hold holds one round and returns its read index.
func (r *rounds) hold(number uint64) (uint64, error) {
	n := r.l.n
	ctx, cancel := context.WithTimeout(r.l.ctx, n.timeout)
	defer cancel()
	voters, acks, asked := 0, 0, 0
	servers := n.configuration().Servers
	answers := make(chan bool, len(servers)) // Send answers each once: never full
	request := encode(roundMessage{Term: r.l.term, Number: number})
	for _, server := range servers {
		if server.Suffrage != raft.Voter {
			continue
		}
		voters++
		if server.ID == n.self.ServerID() {
			acks++
			continue
		}
		asked++
		n.channel.Send(ctx, server.ID, methodRound, request, func(data []byte, err error) {
			var a roundMessage
			answers <- err == nil && decode(data, &a) == nil && a.Number == number && a.Term == r.l.term
		})
	}
	for acks <= voters/2 {
		if acks+asked <= voters/2 {
			return 0, errNotLeader // too few can still confirm
		}
		select {
		case ok := <-answers:
			asked--
			if ok {
				acks++
			}
		case <-ctx.Done():
			return 0, errNotLeader
		}
	}
	if !n.leadsTerm(r.l.term) {
		return 0, errNotLeader
	}
	return r.l.readIndex(), nil
}

// readIndex is the raft index up to which a state must have been applied to hold
// everything committed. Above the term's barrier only commands and configurations
// are logged, and the state counts both; a leader's no-op and barrier, which it
// does not see, lie at or below.
func (l *leadership) readIndex() uint64 {
	if commit := l.n.raft.CommitIndex(); commit > l.barrier {
		return commit
	}
	return l.floor
}

func (n *Node) serveReadIndex(reply func([]byte, error)) {
	l := n.leads()
	if l == nil {
		reply(nil, errNotLeader)
		return
	}
	l.rounds.join(func(index uint64, err error) {
		if err != nil {
			reply(nil, err)
			return
		}
		reply(encode(readIndexAnswer{Index: index, Term: l.term}), nil)
	})
}

// reader gathers this node's linearizable reads: those that wait while one
// question to the leader is under way share the next.
type reader struct {
	n *Node

	mu      sync.Mutex
	running bool
	next    *readCall
}

type readCall struct {
	done  chan struct{}
	index uint64
	err   error
}

// Read returns a view that holds everything acknowledged anywhere before the
// call: a linearizable read. The error is an *UnavailableError.
func (n *Node) Read(ctx context.Context) (*fsm.View, error) {
	ctx, cancel := context.WithTimeout(ctx, n.deadline)
	defer cancel()
	call := n.reader.join()
	select {
	case <-call.done:
	case <-ctx.Done():
		return nil, &UnavailableError{"no leader confirmed the read in time"}
	}
	if call.err != nil {
		return nil, &UnavailableError{"no leader confirmed the read in time"}
	}
	if err := n.indexes.wait(ctx, call.index); err != nil {
		return nil, &UnavailableError{"this node did not catch up in time"}
	}
	return n.machine.View(), nil
}

// join returns the call that has not begun, and has it begun soon.
func (r *reader) join() *readCall {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil {
		r.next = &readCall{done: make(chan struct{})}
	}
	call := r.next
	if !r.running {
		r.running = r.n.spawn(r.run)
		if !r.running {
			r.next = nil
			call.err = errClosed
			close(call.done)
		}
	}
	return call
}

// run asks the leader until nobody waits any more.
func (r *reader) run() {
	for {
		r.mu.Lock()
		call := r.next
		r.next = nil
		r.running = call != nil
		r.mu.Unlock()
		if call == nil {
			return
		}
		call.index, call.err = r.n.askIndex()
		close(call.done)
	}
}

// askIndex asks whoever leads for a read index.
func (n *Node) askIndex() (uint64, error) {
	ctx, cancel := context.WithTimeout(n.ctx, n.deadline)
	defer cancel()
	var answer readIndexAnswer
	err := n.askLeader(ctx, methodReadIndex, struct{}{}, &answer, func(l *leadership) error {
		type outcome struct {
			index uint64
			err   error
		}
		ch := make(chan outcome, 1)
		l.rounds.join(func(index uint64, err error) { ch <- outcome{index, err} })
		out := <-ch
		answer.Index = out.index
		return out.err
	})
	return answer.Index, err
}

// Stale returns this node's view for a read that may lag, or an
// *UnavailableError while the node has not yet caught up with a leader once: its
// state may be an old snapshot.
func (n *Node) Stale() (*fsm.View, error) {
	if !n.caughtUp.Load() {
		return nil, &UnavailableError{"this node has not yet caught up with a leader"}
	}
	return n.machine.View(), nil
}

// WaitRev returns a view whose revision is at least rev; the error is an
// *UnavailableError when ctx or the deadline ends first.
func (n *Node) WaitRev(ctx context.Context, rev uint64) (*fsm.View, error) {
	ctx, cancel := context.WithTimeout(ctx, n.deadline)
	defer cancel()
	if err := n.revs.wait(ctx, rev); err != nil {
		return nil, &UnavailableError{"this node has not reached that revision in time"}
	}
	return n.Stale()
}

// catchUp marks the node as serving after its first linearizable read.
func (n *Node) catchUp() {
	for {
		if _, err := n.Read(n.ctx); err == nil {
			n.caughtUp.Store(true)
			return
		}
		select {
		case <-n.done:
			return
		case <-time.After(n.timeout / 10):
		}
	}
}
