package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// How leadership moves because somebody wants it to: the leader proposes nothing
// more, waits until its successor has all of its log, and has it stand for election.
//
// It is not raft's own LeadershipTransfer, which in v1.7.3 may never end: when one
// has timed out, its question may still lie in the only place of the follower's
// queue (triggerDeferErrorCh), and the next waits for that place also when nothing
// is replicated to the follower any more. Until it ends, in later terms too, that
// node refuses every write when it leads (hashicorp/raft#696 has another such way).
// What is held back here goes on when the transfer has failed, and all that a
// transfer waits for ends with its context, its patience or the term.

// transfer hands leadership to a voter; the zero Server leaves the choice to this
// node. It returns nil once this term is over, however it came to that.
func (l *leadership) transfer(ctx context.Context, to raft.Server) error {
	switch {
	case to.ID == "":
		best, ok := l.bestFollower()
		if !ok {
			return refuse(fsm.CodeConflict, "no other voter is alive")
		}
		to = best
	case to.ID == l.n.self.ServerID():
		return nil
	case to.Suffrage != raft.Voter:
		return refuse(fsm.CodeConflict, "%s is not a voter", nodeOf(to.ID))
	case !l.heardOf(to.ID):
		return refuse(fsm.CodeConflict, "%s is not alive", nodeOf(to.ID))
	}
	if !l.handing.TryLock() {
		return errNotLeader // in a moment, perhaps
	}
	defer l.handing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 2*l.n.timeout)
	defer cancel()
	if err := l.handOver(ctx, to); err != nil && l.n.leadsTerm(l.term) {
		return &UnknownError{"transfer: " + err.Error()}
	}
	return nil
}

// handOver returns nil once the term is over, and why it is not when ctx ends.
func (l *leadership) handOver(ctx context.Context, to raft.Server) error {
	// With every slot taken nothing is in flight, and nothing more comes.
	for range maxProposals {
		select {
		case l.slots <- struct{}{}:
			defer func() { <-l.slots }()
		case <-l.ctx.Done():
			return nil
		case <-ctx.Done():
			return fmt.Errorf("entries wait for a majority: %w", ctx.Err())
		}
	}
	has := func() bool { return l.n.transport.Has(to.ID, l.term, l.n.raft.LastIndex()) }
	if err := l.await(ctx, has); err != nil {
		return fmt.Errorf("%s does not have the whole log: %w", nodeOf(to.ID), err)
	}
	if !l.n.leadsTerm(l.term) {
		return nil
	}
	if err := l.n.transport.Succeed(ctx, to); err != nil {
		return fmt.Errorf("ask %s to stand for election: %w", nodeOf(to.ID), err)
	}
	if err := l.await(ctx, func() bool { return false }); err != nil {
		return fmt.Errorf("%s was not elected: %w", nodeOf(to.ID), err)
	}
	return nil
}

// await polls until a condition holds or the term is over.
func (l *leadership) await(ctx context.Context, holds func() bool) error {
	look := time.NewTicker(l.n.timeout / 200)
	defer look.Stop()
	for !holds() && l.n.leadsTerm(l.term) {
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (l *leadership) hasFollower() bool {
	_, ok := l.bestFollower()
	return ok
}

// bestFollower is the live voter that has applied most, by its last heartbeat.
func (l *leadership) bestFollower() (best raft.Server, ok bool) {
	most := uint64(0)
	for _, s := range l.n.configuration().Servers {
		if s.Suffrage != raft.Voter || s.ID == l.n.self.ServerID() || !l.heardOf(s.ID) {
			continue
		}
		l.mu.Lock()
		applied := l.nodes[s.ID].beat.Applied
		l.mu.Unlock()
		if !ok || applied > most {
			best, most, ok = s, applied, true
		}
	}
	return best, ok
}
