package cluster

import (
	"errors"
	"math"
	"sync"

	"github.com/hashicorp/raft"

	"conclave/fsm"
)

// earlyLog is the log of a leader whose followers need not wait for its own disk.
// Raft writes an entry to the leader's log first and sends it then: a write takes two
// fsyncs, one after the other. Here the leader's own is under way while the
// followers get the entry and write it, too.
//
// Raft counts the leader's copy at once, so it may take an entry for committed that a
// majority does not have yet. Nothing comes of that before the leader's own copy is
// on the disk: the state machine waits (durableMachine), and so do the followers, who
// are told of no commit beyond it (transport). So what anybody sees of an entry is
// seen when a majority has it, as ever; what is sent early and lost with the leader
// is what any entry is before it is committed. Only commands are written early; the
// entries by which raft changes its membership and begins its terms wait for all
// before them.
//
// Raft's main goroutine alone stores, and truncates at the end.
type earlyLog struct {
	raft.LogStore
	leads func() bool

	mu      sync.Mutex
	changed *sync.Cond
	writing bool        // a goroutine writes
	pending []*raft.Log // that are not on the disk yet, in order: first those that it writes
	lost    uint64      // the first entry that could not be written; 0: none
	failed  error
}

// newEarlyLog makes a log; leads says whether raft leads.
func newEarlyLog(inner raft.LogStore, leads func() bool) *earlyLog {
	l := &earlyLog{LogStore: inner, leads: leads}
	l.changed = sync.NewCond(&l.mu)
	return l
}

var errLogLost = errors.New("an earlier entry could not be written")

// StoreLog implements raft.LogStore.
func (l *earlyLog) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs returns at once on a leader, if all are commands, else when all is written.
func (l *earlyLog) StoreLogs(entries []*raft.Log) error {
	early := l.leads()
	for _, e := range entries {
		early = early && e.Type == raft.LogCommand
	}
	if !early {
		if err := l.settle(); err != nil {
			return err
		}
		return l.LogStore.StoreLogs(entries)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return l.failed
	}
	l.pending = append(l.pending, entries...)
	if !l.writing {
		l.writing = true
		go l.write()
	}
	return nil
}

// write writes what is pending, and what comes meanwhile, together.
func (l *earlyLog) write() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pending) > 0 && l.failed == nil {
		batch := l.pending[:len(l.pending):len(l.pending)]
		l.mu.Unlock()
		err := l.LogStore.StoreLogs(batch)
		l.mu.Lock()
		if err != nil { // the watchdog stops the node
			l.lost, l.failed = batch[0].Index, errors.Join(errLogLost, err)
			break
		}
		l.pending = append([]*raft.Log(nil), l.pending[len(batch):]...)
		l.changed.Broadcast()
	}
	l.writing = false
	l.changed.Broadcast()
}

// err is why nothing is written any more, if so.
func (l *earlyLog) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// settle waits until nothing is pending.
func (l *earlyLog) settle() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.writing {
		l.changed.Wait()
	}
	return l.failed
}

// Await waits until everything up to an index is on this node's disk; false: it never
// will be.
func (l *earlyLog) Await(index uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.failed == nil && len(l.pending) > 0 && l.pending[0].Index <= index {
		l.changed.Wait()
	}
	return l.failed == nil || index < l.lost
}

// Durable is the index up to which everything that there is is on this node's disk.
func (l *earlyLog) Durable() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.failed != nil:
		return l.lost - 1
	case len(l.pending) > 0:
		return l.pending[0].Index - 1
	}
	return math.MaxUint64
}

// GetLog implements raft.LogStore.
func (l *earlyLog) GetLog(index uint64, to *raft.Log) error {
	l.mu.Lock()
	if n := len(l.pending); n > 0 && index >= l.pending[0].Index && index <= l.pending[n-1].Index {
		*to = *l.pending[index-l.pending[0].Index]
		l.mu.Unlock()
		return nil
	}
	l.mu.Unlock()
	return l.LogStore.GetLog(index, to)
}

// FirstIndex implements raft.LogStore.
func (l *earlyLog) FirstIndex() (uint64, error) {
	l.mu.Lock()
	var pending uint64
	if len(l.pending) > 0 {
		pending = l.pending[0].Index
	}
	l.mu.Unlock()
	first, err := l.LogStore.FirstIndex()
	if err == nil && first == 0 {
		first = pending
	}
	return first, err
}

// LastIndex implements raft.LogStore.
func (l *earlyLog) LastIndex() (uint64, error) {
	l.mu.Lock()
	if n := len(l.pending); n > 0 {
		defer l.mu.Unlock()
		return l.pending[n-1].Index, nil
	}
	l.mu.Unlock()
	return l.LogStore.LastIndex()
}

// DeleteRange implements raft.LogStore. What a snapshot has made needless goes while
// newer entries are written.
func (l *earlyLog) DeleteRange(first, last uint64) error {
	if last > l.Durable() {
		if err := l.settle(); err != nil {
			return err
		}
	}
	return l.LogStore.DeleteRange(first, last)
}

// IsMonotonic passes on what a log store asks of raft.
func (l *earlyLog) IsMonotonic() bool { return isMonotonic(l.LogStore) }

// durableMachine is the state machine, of what is on this node's disk only.
type durableMachine struct {
	*fsm.Machine // not raft.FSM, which would leave ApplyBatch out
	log          *earlyLog
	committed    func(index, term uint64) // told before they are applied
}

var _ raft.BatchingFSM = durableMachine{}

// Apply implements raft.FSM.
func (m durableMachine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch waits for the disk. It leaves out what cannot be written, and so
// everything after: the node stops.
func (m durableMachine) ApplyBatch(logs []*raft.Log) []any {
	last := logs[len(logs)-1]
	if !hasty && !m.log.Await(last.Index) {
		return make([]any, len(logs))
	}
	m.committed(last.Index, last.Term)
	return m.Machine.ApplyBatch(logs)
}

// Snapshot implements raft.FSM: none is taken of a state that lacks entries which
// raft takes for applied.
func (m durableMachine) Snapshot() (raft.FSMSnapshot, error) {
	if err := m.log.err(); err != nil {
		return nil, err
	}
	return m.Machine.Snapshot()
}
