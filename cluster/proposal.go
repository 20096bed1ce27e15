package cluster

import "conclave/fsm"

// proposal is a batch on its way into the log. A node sends a batch again when it
// has not heard of it for a while, which on a slow disk means only that the log is
// behind. Logged again, with all its commands, each would make the log slower yet:
// so copies of one that is on its way share its fate.
type proposal struct {
	batch   *fsm.Batch
	size    int
	handed  bool // it is in an entry
	replies []func(proposed bool)
}

// batchID is a batch's number.
type batchID struct {
	node             string
	incarnation, seq uint64
}

// enqueue takes a batch for the next entry. reply is called once, from another
// goroutine: true when raft got it, false when it certainly will not in this term.
func (l *leadership) enqueue(b *fsm.Batch, reply func(proposed bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		go reply(false)
		return
	}
	id := batchID{b.Node, b.Incarnation, b.Seq}
	p := l.known[id]
	if p == nil {
		p = &proposal{}
		l.known[id] = p
		l.queue = append(l.queue, p)
		p.take(l.withoutApplied(b))
		l.wake()
	} else if !p.handed && len(b.Commands) < len(p.batch.Commands) {
		p.take(b) // it was given up meanwhile: nobody waits for the commands
	}
	p.replies = append(p.replies, reply)
}

func (p *proposal) take(b *fsm.Batch) {
	p.batch, p.size = b, headBytes
	for i := range b.Commands {
		p.size += commandSize(&b.Commands[i])
	}
}

// withoutApplied leaves the commands out of a batch that this node has applied, which
// its sender has not heard of yet: the state machine answers it by its number.
func (l *leadership) withoutApplied(b *fsm.Batch) *fsm.Batch {
	_, last, _ := l.n.machine.View().BatchResults(b.Node, b.Incarnation, b.Seq)
	if b.Seq == 0 || b.Seq > last {
		return b
	}
	return &fsm.Batch{Node: b.Node, Incarnation: b.Incarnation, Seq: b.Seq}
}

// answer tells the senders of batches, of all their copies, what became of them.
// Copies that come later are batches of their own.
func (l *leadership) answer(done []*proposal, proposed bool) {
	var replies []func(bool)
	l.mu.Lock()
	for _, p := range done {
		delete(l.known, batchID{p.batch.Node, p.batch.Incarnation, p.batch.Seq})
		replies = append(replies, p.replies...)
	}
	l.mu.Unlock()
	for _, reply := range replies {
		reply(proposed)
	}
}
