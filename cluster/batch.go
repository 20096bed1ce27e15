package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"conclave/fsm"
)

// Bounds of the batcher: how much one batch may hold, and how much may wait.
const (
	maxBatchBytes    = 256 << 10
	maxBatchCommands = 2048
	maxQueuedBytes   = 64 << 20
)

// Lane is a client connection's queue of commands: they are applied in the order
// of Submit, whatever happens to leaders. Lanes take turns, so that none owns the
// node's batches. A lane may be used by one goroutine at a time.
type Lane struct {
	b     *batcher
	queue []*pending // guarded by b.mu
	ready bool       // is in b.ready
}

// pending is a command that waits for its outcome.
type pending struct {
	command  *fsm.Command
	size     int
	deadline time.Time
	done     func(*fsm.Result, error)
}

// batch is a numbered batch without an outcome yet.
type batch struct {
	seq      uint64
	commands []*pending // nil once given up: it is re-sent empty, under its number
	deadline time.Time
	epoch    uint64 // of the last sending; 0: never sent
	// attempts counts the sendings that may have reached a log: those without an
	// answer, and those answered "proposed". Zero means never handed over.
	attempts int
	began    time.Time // when it was first sent
	size     int       // commands that it had then
}

// batcher collects the node's commands into numbered batches and sees each of
// them through: it sends them to whoever leads, all again after a change of
// leader, and learns their fate from this node's own copy of the log. The state
// machine applies a node's numbers densely, each once, so sending twice is
// harmless and nothing is lost, doubled or reordered.
//
// It owns one goroutine (run). Outcomes are delivered on raft's FSM goroutine, or
// on its own when a deadline passes.
type batcher struct {
	n    *Node
	kick chan struct{}

	mu         sync.Mutex
	ready      []*Lane // with commands, in turn
	queued     int     // bytes in lanes
	waiting    int     // commands in lanes
	gathering  gathering
	inflight   []*batch
	next       uint64    // number of the next batch
	registered bool      // the log knows this incarnation
	epoch      uint64    // grows when everything in flight has to be sent again
	announced  uint64    // epoch in which the registration was last sent
	failures   int       // sendings refused since the last progress, for the pause
	resend     time.Time // when to send again what is in flight; zero: not planned
	retryAfter time.Time // an unanswered batch is not sent again before
	closed     bool
}

func newBatcher(n *Node) *batcher {
	return &batcher{n: n, kick: make(chan struct{}, 1), next: 1, epoch: 1}
}

func (b *batcher) wake() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// Submit queues a command. done is called exactly once, within Config.Deadline,
// in the order of Submit per lane, after this node has published the change; it
// must not block. c must not be changed afterwards. The error is nil,
// *UnavailableError or *UnknownError; refusals are in the result.
func (l *Lane) Submit(c *fsm.Command, done func(*fsm.Result, error)) {
	b := l.b
	p := &pending{command: c, size: commandSize(c), deadline: time.Now().Add(b.n.deadline), done: done}
	if no := unfit(c, p.size); no != nil {
		done(&fsm.Result{Rev: b.n.machine.View().Rev(), Refusal: no}, nil)
		return
	}
	b.mu.Lock()
	if b.closed || b.queued+p.size > maxQueuedBytes {
		reason := "the node is overloaded"
		if b.closed {
			reason = "the node is closing"
		}
		b.mu.Unlock()
		done(nil, &UnavailableError{reason})
		return
	}
	b.queued += p.size
	b.waiting++
	l.queue = append(l.queue, p)
	if !l.ready {
		l.ready = true
		b.ready = append(b.ready, l)
	}
	b.mu.Unlock()
	b.wake()
}

// unfit refuses here what must never reach a log, since no replica could read it.
func unfit(c *fsm.Command, size int) *fsm.Refusal {
	if size > fsm.MaxCommandBytes {
		return &fsm.Refusal{
			Code: fsm.CodeLimitExceeded, Message: "the command is too large",
			Details: fsm.Details{Limit: "command_bytes", Max: fsm.MaxCommandBytes, Actual: int64(size)},
		}
	}
	return c.Check()
}

// run sends what is to be sent and ends what took too long.
func (b *batcher) run() {
	tick := time.NewTicker(b.n.timeout / 10)
	tick.Stop()
	ticking := false
	gathered := time.NewTimer(0)
	defer gathered.Stop()
	for {
		changed := b.n.leaderChanged()
		busy, wait := b.pump()
		if wait > 0 {
			gathered.Reset(wait)
		}
		if busy != ticking { // an idle node has no ticker
			ticking = busy
			if busy {
				tick.Reset(b.n.timeout / 10)
			} else {
				tick.Stop()
			}
		}
		select {
		case <-b.kick:
		case <-gathered.C:
		case <-tick.C:
			b.expire(time.Now())
		case <-changed:
			b.rewind(0)
		case <-b.n.done:
			b.close()
			return
		}
	}
}

// pump sends the registration, what is to be sent again, and new batches while
// the window is open. It reports whether anything waits for an outcome, and how long
// it would wait for more commands before the next batch, if longer than nothing.
func (b *batcher) pump() (busy bool, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.resend.IsZero() && !time.Now().Before(b.resend) {
		b.resend = time.Time{}
		b.epoch++
	}
	if !b.n.hasLeader() {
		return b.busy(), 0
	}
	if !b.registered {
		if b.announced < b.epoch {
			b.announced = b.epoch
			b.send(nil)
		}
		return true, 0
	}
	for _, sent := range b.inflight {
		if sent.epoch < b.epoch {
			b.send(sent)
		}
	}
	for len(b.inflight) < fsm.BatchWindow && len(b.ready) > 0 {
		if wait = b.gathering.wait(time.Now(), b.waiting); wait != 0 {
			break
		}
		b.send(b.fill())
	}
	return b.busy(), wait
}

func (b *batcher) busy() bool {
	return !b.registered || len(b.inflight) > 0 || len(b.ready) > 0
}

// fill makes the next batch out of what waits, one command of each lane in turn.
func (b *batcher) fill() *batch {
	out := &batch{seq: b.next}
	b.next++
	size := 0
	for len(b.ready) > 0 && len(out.commands) < maxBatchCommands {
		lane := b.ready[0]
		p := lane.queue[0]
		if size > 0 && size+p.size > maxBatchBytes {
			break
		}
		size += p.size
		b.queued -= p.size
		b.waiting--
		lane.queue[0] = nil
		lane.queue = lane.queue[1:]
		b.ready = b.ready[1:]
		if lane.ready = len(lane.queue) > 0; lane.ready {
			b.ready = append(b.ready, lane)
		} else {
			lane.queue = nil
		}
		out.commands = append(out.commands, p)
	}
	out.deadline, out.began, out.size = out.commands[0].deadline, time.Now(), len(out.commands)
	b.gathering.left(out.size)
	b.inflight = append(b.inflight, out)
	return out
}

// send hands a batch, or with nil the registration, to whoever leads. b.mu is
// held: sendings leave in order.
func (b *batcher) send(out *batch) {
	m := fsm.Batch{Node: b.n.self.Node, Incarnation: b.n.incarnation}
	if out == nil {
		m.Register = b.n.register()
	} else {
		m.Seq = out.seq
		m.Commands = make([]fsm.Command, len(out.commands))
		for i, p := range out.commands {
			m.Commands[i] = *p.command
		}
		out.epoch = b.epoch
		out.attempts++
	}
	refused := func(certain bool) { b.refused(out, certain) }
	if l := b.n.leads(); l != nil {
		l.enqueue(&m, func(proposed bool) {
			if !proposed {
				refused(true)
			}
		})
		return
	}
	data, err := fsm.EncodeBatch(&m)
	if err != nil { // every command was bounded before it came here: a bug
		b.n.fatal(err)
		return
	}
	ctx, cancel := context.WithTimeout(b.n.ctx, 2*b.n.timeout)
	b.n.channel.Send(ctx, b.n.leaderID(), methodForward, data, func(answer []byte, err error) {
		cancel()
		var a forwardAnswer
		switch {
		case err == nil && decode(answer, &a) == nil && a.Proposed:
		case err == nil || errors.Is(err, ErrNotSent) || isNotLeader(err):
			refused(true)
		default:
			refused(false)
		}
	})
}

// refused is called when a sending came to nothing; certain says that it
// certainly reached no log.
func (b *batcher) refused(out *batch, certain bool) {
	b.mu.Lock()
	if out != nil && certain {
		out.attempts--
	}
	// A new leader refuses until its barrier is applied: some fsyncs.
	pause := min(b.n.timeout/500<<min(b.failures, 7), b.n.timeout/4)
	b.failures++
	b.mu.Unlock()
	b.rewind(pause)
}

// rewind has everything in flight sent again after a pause.
func (b *batcher) rewind(pause time.Duration) {
	b.mu.Lock()
	at := time.Now().Add(pause)
	if b.resend.IsZero() || at.Before(b.resend) {
		b.resend = at
	}
	b.mu.Unlock()
	if pause <= 0 {
		b.wake()
		return
	}
	time.AfterFunc(pause, b.wake)
}

// expire ends commands whose deadline has passed: unavailable if they were never
// handed over, else with an unknown outcome. A batch keeps its number and is sent
// empty from then on, so that whichever copy commits first decides and nothing
// of it applies much later.
func (b *batcher) expire(now time.Time) {
	type ended struct {
		p   *pending
		err error
	}
	var over []ended
	b.mu.Lock()
	if (len(b.inflight) > 0 || !b.registered) && b.resend.IsZero() && now.After(b.retryAfter) {
		if !b.retryAfter.IsZero() {
			b.resend = now // nothing settled for a timeout: perhaps lost
		}
		b.retryAfter = now.Add(b.n.timeout)
	}
	for _, sent := range b.inflight {
		if len(sent.commands) == 0 || now.Before(sent.deadline) {
			continue
		}
		var err error = &UnknownError{"no outcome in time"}
		if sent.attempts == 0 {
			err = &UnavailableError{"no leader in time"}
		}
		for _, p := range sent.commands {
			over = append(over, ended{p, err})
		}
		sent.commands = nil
	}
	stay := b.ready[:0]
	for _, lane := range b.ready {
		for len(lane.queue) > 0 && !now.Before(lane.queue[0].deadline) {
			over = append(over, ended{lane.queue[0], &UnavailableError{"no leader in time"}})
			b.queued -= lane.queue[0].size
			b.waiting--
			lane.queue = lane.queue[1:]
		}
		if lane.ready = len(lane.queue) > 0; lane.ready {
			stay = append(stay, lane)
		}
	}
	clear(b.ready[len(stay):])
	b.ready = stay
	b.mu.Unlock()
	for _, e := range over {
		e.p.done(nil, e.err)
	}
}

// published takes the outcomes of this node's batches from a publication.
func (b *batcher) published(p *fsm.Published) {
	if p.Restored {
		b.restored(p.View)
	}
	for i := range p.Batches {
		o := &p.Batches[i]
		if o.Node != b.n.self.Node {
			continue
		}
		switch {
		case o.Status == fsm.BatchStale && o.Incarnation == b.n.incarnation:
			// This incarnation was registered before it sent anything. Its numbers
			// cannot begin again: copies of the old ones may still come.
			b.n.fatal(errors.New("the cluster knows this process no more: another runs under its name, or it was removed"))
			return
		case o.Incarnation != b.n.incarnation:
		case o.Seq == 0:
			b.mu.Lock()
			b.registered = true
			b.failures = 0
			b.mu.Unlock()
			b.wake()
		case o.Status == fsm.BatchGap:
			b.rewind(b.n.timeout / 100)
		default:
			b.settle(o.Seq, o.Results)
		}
	}
}

// settle delivers the results of a batch, once.
func (b *batcher) settle(seq uint64, results []fsm.Result) {
	b.mu.Lock()
	if len(b.inflight) == 0 || b.inflight[0].seq != seq {
		b.mu.Unlock()
		return // a second copy
	}
	out := b.inflight[0]
	b.inflight[0] = nil
	b.inflight = b.inflight[1:]
	b.failures = 0
	now := time.Now()
	b.retryAfter = now.Add(b.n.timeout)
	b.gathering.done(now, out.size, b.waiting, now.Sub(out.began))
	b.mu.Unlock()
	b.wake()
	for i, p := range out.commands {
		if i < len(results) {
			p.done(&results[i], nil)
		} else { // an empty copy committed first, or the results are gone: cannot tell
			p.done(nil, &UnknownError{"the batch was given up"})
		}
	}
}

// restored takes the outcomes out of a state that was installed whole.
func (b *batcher) restored(v *fsm.View) {
	info, known := v.Node(b.n.self.Node)
	b.mu.Lock()
	known = known && info.Incarnation == b.n.incarnation
	waiting := append([]*batch(nil), b.inflight...)
	if !known && b.registered { // a backup was restored: numbering starts anew
		b.registered, b.next, b.inflight, b.gathering = false, 1, nil, gathering{}
	} else {
		b.registered = b.registered || known
	}
	b.mu.Unlock()
	for _, out := range waiting {
		results, last, ok := v.BatchResults(b.n.self.Node, b.n.incarnation, out.seq)
		switch {
		case !known:
			for _, p := range out.commands {
				p.done(nil, &UnknownError{"the state was restored"})
			}
		case ok || out.seq <= last:
			b.settle(out.seq, results)
		}
	}
	b.rewind(0)
}

// close ends everything that waits.
func (b *batcher) close() {
	b.mu.Lock()
	b.closed = true
	lanes, inflight := b.ready, b.inflight
	b.ready, b.inflight = nil, nil
	b.mu.Unlock()
	for _, out := range inflight {
		for _, p := range out.commands {
			p.done(nil, &UnknownError{"the node is closing"})
		}
	}
	for _, lane := range lanes {
		for _, p := range lane.queue {
			p.done(nil, &UnavailableError{"the node is closing"})
		}
	}
}
