package cluster

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// watchdog times every write to a node's stores and gives the node up at the
// first that fails, or that hangs longer than the limit. Raft alone would go on:
// it keeps a leader whose disk has died (hashicorp/raft#503), and a write that is
// tried again after a failed fsync may seem to succeed though the pages are lost.
// So after a failure every further write fails too. What is read and found damaged
// ends the node as well: raft would try it again for ever, or panic.
type watchdog struct {
	limit time.Duration
	fatal func(error)

	mu       sync.Mutex
	failed   error
	smoothed time.Duration
	writing  map[uint64]time.Time // writes under way, with their start
	next     uint64
}

// newWatchdog calls fatal at most once, from the goroutine that writes or, when a
// write hangs, from one of its own.
func newWatchdog(limit time.Duration, fatal func(error)) *watchdog {
	return &watchdog{limit: limit, fatal: fatal, writing: make(map[uint64]time.Time)}
}

// Latency is the time that a write takes: a moving average, or the age of the
// oldest write under way if that is longer already.
func (w *watchdog) Latency() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	latency := w.smoothed
	for _, start := range w.writing {
		latency = max(latency, time.Since(start))
	}
	return latency
}

// write runs one write under watch.
func (w *watchdog) write(what string, f func() error) error {
	w.mu.Lock()
	if w.failed != nil {
		defer w.mu.Unlock()
		return fmt.Errorf("%s: not tried after an earlier failure: %w", what, w.failed)
	}
	start := time.Now()
	w.next++
	id := w.next
	w.writing[id] = start
	w.mu.Unlock()

	hung := time.AfterFunc(w.limit, func() {
		w.fail(fmt.Errorf("disk: %s has not returned for %s", what, w.limit))
	})
	err := f()
	hung.Stop()
	took := time.Since(start)
	if err != nil {
		w.fail(fmt.Errorf("disk: %s failed after %s: %w", what, took.Round(time.Microsecond), err))
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.writing, id)
	if w.smoothed == 0 {
		w.smoothed = took
	}
	w.smoothed += (took - w.smoothed) / 8
	if err == nil {
		err = w.failed // it hung: nobody may build on it any more
	}
	return err
}

func (w *watchdog) fail(err error) {
	w.mu.Lock()
	first := w.failed == nil
	if first {
		w.failed = err
	}
	w.mu.Unlock()
	if first {
		w.fatal(err)
	}
}

// read passes on what came of a read, and fails at damage.
func (w *watchdog) read(err error) error {
	var damage *DamagedError
	if errors.As(err, &damage) {
		w.fail(fmt.Errorf("disk: %w", err))
	}
	return err
}

// logStore puts a log store under watch.
func (w *watchdog) logStore(inner raft.LogStore) raft.LogStore { return &watchedLog{inner, w} }

// stableStore puts a stable store under watch.
func (w *watchdog) stableStore(inner raft.StableStore) raft.StableStore {
	return &watchedStable{inner, w}
}

// snapshotStore puts the reading of snapshots under watch. One that cannot be written
// is given up and harms nobody: the log is kept instead.
func (w *watchdog) snapshotStore(inner raft.SnapshotStore) raft.SnapshotStore {
	return &watchedSnapshots{inner, w}
}

type watchedSnapshots struct {
	raft.SnapshotStore
	dog *watchdog
}

func (s *watchedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, state, err := s.SnapshotStore.Open(id)
	return meta, state, s.dog.read(err)
}

type watchedLog struct {
	raft.LogStore
	dog *watchdog
}

// IsMonotonic says what the inner store says, so that raft leaves no gaps in one
// that cannot have them.
func (s *watchedLog) IsMonotonic() bool { return isMonotonic(s.LogStore) }

func isMonotonic(log raft.LogStore) bool {
	m, ok := log.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func (s *watchedLog) GetLog(index uint64, l *raft.Log) error {
	return s.dog.read(s.LogStore.GetLog(index, l))
}

func (s *watchedLog) StoreLog(l *raft.Log) error {
	return s.dog.write("append to the log", func() error { return s.LogStore.StoreLog(l) })
}

func (s *watchedLog) StoreLogs(l []*raft.Log) error {
	return s.dog.write("append to the log", func() error { return s.LogStore.StoreLogs(l) })
}

func (s *watchedLog) DeleteRange(first, last uint64) error {
	return s.dog.write("delete from the log", func() error { return s.LogStore.DeleteRange(first, last) })
}

type watchedStable struct {
	raft.StableStore
	dog *watchdog
}

func (s *watchedStable) Set(key, value []byte) error {
	return s.dog.write("set "+string(key), func() error { return s.StableStore.Set(key, value) })
}

func (s *watchedStable) SetUint64(key []byte, n uint64) error {
	return s.dog.write("set "+string(key), func() error { return s.StableStore.SetUint64(key, n) })
}

// termStore keeps the watchdog's word from being lost. Raft panics when it cannot
// write its term; by then the watchdog has said why the node stops, or is about to.
// Raft's goroutine ends instead, and that raft does nothing more.
type termStore struct {
	raft.StableStore
	ended chan struct{} // closed then; raft's one goroutine that writes terms does it once
}

// keyTerm is the key of raft's term.
const keyTerm = "CurrentTerm"

func (s termStore) SetUint64(key []byte, n uint64) error {
	err := s.StableStore.SetUint64(key, n)
	if err != nil && string(key) == keyTerm {
		close(s.ended)
		runtime.Goexit()
	}
	return err
}
