package cluster

import (
	"time"

	"conclave/fsm"
)

// The bounds of gathering: how long an entry waits for commands at most, how many of
// those that may come are enough, and how many entries go without a wait at most once
// one was in vain.
const (
	maxGather     = 20 * time.Millisecond
	enoughOfEight = 7
	maxSkip       = 64
)

// gathering has the leader's entries, and the batches that a node sends to the leader,
// wait for the commands of clients that ask again as soon as they are answered. Else
// the first of them to come back would go into an entry by itself, and all others wait
// for that one to be on three disks before they are in the next: two entries for what
// is one's work, and every other nearly empty.
//
// When an entry is done, as many commands may come soon as were in it or wait
// already. The next entry goes when most of them are there, or after twice the time
// that the one before took. Clients that are far, or that do not ask again, make that
// a vain wait; then many entries go as they come, several at a time, before it is
// tried again. What is said of entries goes for a node's batches.
//
// Guarded by mu of the leadership, or of the batcher.
type gathering struct {
	flying int       // entries in flight
	aboard int       // commands in them
	want   int       // commands that may come
	until  time.Time // for them
	vain   int       // entries that go without, after the next wait in vain
	skip   int       // entries that go without, from now
}

// left notes that an entry has gone.
func (g *gathering) left(commands int) {
	g.flying++
	g.aboard += commands
	g.skip = max(g.skip-1, 0)
}

// done notes that it is in the log, or never will be; queued commands wait.
func (g *gathering) done(now time.Time, commands, queued int, took time.Duration) {
	g.flying--
	g.want = g.aboard + queued
	g.aboard -= commands
	g.until = now.Add(min(2*took, maxGather))
}

// wait is for how long an entry with the queued commands should wait; a negative time
// means until one in flight is done.
func (g *gathering) wait(now time.Time, queued int) time.Duration {
	if g.skip > 0 {
		return 0
	}
	if g.flying > 0 {
		return -1
	}
	if queued*8 >= g.want*enoughOfEight {
		if g.want > 1 {
			g.vain = 0
		}
		return 0
	}
	if left := g.until.Sub(now); left > 0 {
		return left
	}
	g.vain = min(max(2*g.vain, 1), maxSkip)
	g.skip = g.vain
	return 0
}

// gather returns when the next entry should go, or the term is over.
func (l *leadership) gather() {
	for {
		wait := l.shouldWait()
		if wait == 0 {
			return
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-l.kick:
		case <-timer:
		case <-l.ctx.Done():
			return
		}
	}
}

func (l *leadership) shouldWait() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	commands, size := load(l.queue)
	if len(l.queue) == 0 || len(l.controls) > 0 || l.stampDue || size >= fsm.MaxProposalBytes {
		return 0
	}
	return l.gathering.wait(time.Now(), commands)
}

// load is how much is in batches. Callers hold mu.
func load(batches []*proposal) (commands, size int) {
	for _, p := range batches {
		commands += len(p.batch.Commands)
		size += p.size
	}
	return commands, size
}
