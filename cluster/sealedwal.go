package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// sealedWAL is raft's log in a write-ahead log, segment after segment, each of
// whose entries carries the checksum that it has in a bolt store too. All else, the
// list of the segments included, is in the sealed bolt store beside it.
//
// Around hashicorp/raft-wal it does what v0.4.0 does not; see walFiles for what it
// would make of a crash or of damage. A full segment is replaced before the append
// that filled it returns, not behind the caller's back: a truncation that came first
// would have the wrong segment closed, and an error would be lost.
type sealedWAL struct {
	dir       string
	log       *wal.WAL
	files     *walFiles
	snapshots raft.SnapshotStore // set before raft writes

	// mu is held over each write, with the change of segments that follows it, which
	// needs no other lock: appends and compaction come from two goroutines of raft's.
	mu     sync.Mutex
	closed bool
}

var _ raft.MonotonicLogStore = (*sealedWAL)(nil)

// openWAL opens the log in a directory, new or old, after all of it was read and
// verified. db has its list of segments, and stays the caller's to close.
func openWAL(dir string, db *sealedStore, segmentSize int, logger *slog.Logger) (_ *sealedWAL, err error) {
	defer guard(dir, &err)()
	files := newWALFiles(dir, db)
	if err := files.recover(segmentSize); err != nil {
		return nil, err
	}
	log, err := wal.Open(dir, wal.WithMetaStore(files), wal.WithSegmentFiler(files),
		wal.WithSegmentSize(segmentSize), wal.WithLogger(newRaftLogger(logger)))
	switch {
	case errors.Is(err, wal.ErrCorrupt):
		return nil, damaged(dir, "%w", err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	s := &sealedWAL{dir: dir, log: log, files: files}
	if err = checkLog(s, dir); err == nil {
		err = s.checkEnd()
	}
	if err != nil {
		return nil, errors.Join(err, s.log.Close())
	}
	return s, nil
}

// checkEnd compares the end of the log with that at which it was closed, if it was.
// After a crash nobody can tell a last write that was lost from one that was torn.
func (s *sealedWAL) checkEnd() error {
	last, err := s.log.LastIndex()
	if err != nil {
		return err
	}
	end, err := s.files.number(keyWALEnd)
	if err != nil || end == 0 {
		return err
	}
	if last+1 != end {
		return damaged(s.dir, "the log ends at %d, but was closed at %d", last, end-1)
	}
	return s.files.db.SetUint64([]byte(keyWALEnd), 0)
}

// IsMonotonic tells raft that there can be no gap, so that it empties the log when
// it installs a snapshot.
func (s *sealedWAL) IsMonotonic() bool { return true }

func (s *sealedWAL) FirstIndex() (uint64, error) { return s.log.FirstIndex() }
func (s *sealedWAL) LastIndex() (uint64, error)  { return s.log.LastIndex() }

func (s *sealedWAL) GetLog(index uint64, l *raft.Log) (err error) {
	defer guard(s.dir, &err)()
	// The segment that is written to would give out what was deleted at its front.
	first, err := s.log.FirstIndex()
	if err != nil {
		return err
	}
	if index < first {
		return raft.ErrLogNotFound
	}
	return getSealed(s.log, s.dir, wal.ErrClosed, index, l)
}

func (s *sealedWAL) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *sealedWAL) StoreLogs(logs []*raft.Log) (err error) {
	defer guard(s.dir, &err)()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.log.StoreLogs(sealLogs(logs)); err != nil {
		return err
	}
	return s.files.rotated()
}

// DeleteRange deletes entries at the log's front or end. When raft empties the log for
// a snapshot that it has installed, those after the snapshot stay, if the log has led
// up to it: they were acknowledged, and a snapshot may come late. Raft itself keeps
// them in stores that may have gaps, and goes on as if it had them here.
func (s *sealedWAL) DeleteRange(first, last uint64) (err error) {
	defer guard(s.dir, &err)()
	s.mu.Lock()
	defer s.mu.Unlock()
	has, err := s.log.FirstIndex()
	if err != nil {
		return err
	}
	end, err := s.log.LastIndex()
	if err != nil {
		return err
	}
	if first <= has && last >= end && s.snapshots != nil {
		newest, err := newestSnapshot(s.snapshots)
		if err != nil {
			return err
		}
		var l raft.Log
		if newest != nil && newest.Index < end && s.GetLog(newest.Index, &l) == nil && l.Term == newest.Term {
			last = newest.Index
		}
	}
	return s.log.DeleteRange(first, last)
}

// Close closes the log and notes where it ends.
func (s *sealedWAL) Close() (err error) {
	defer guard(s.dir, &err)()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	last, err := s.log.LastIndex()
	if err == nil {
		err = s.files.db.SetUint64([]byte(keyWALEnd), last+1)
	}
	return errors.Join(err, s.log.Close())
}

// dropCovered empties the log if it ends before the newest snapshot: a crash came
// between the installation and raft's emptying it, and no entry could follow.
func (s *sealedWAL) dropCovered() error {
	newest, err := newestSnapshot(s.snapshots)
	if err != nil || newest == nil {
		return err
	}
	first, err1 := s.log.FirstIndex()
	last, err2 := s.log.LastIndex()
	if err := errors.Join(err1, err2); err != nil || first == 0 || last >= newest.Index {
		return err
	}
	return s.log.DeleteRange(first, last)
}

// newestSnapshot is the one of the highest index, nil when there is none.
func newestSnapshot(store raft.SnapshotStore) (newest *raft.SnapshotMeta, err error) {
	metas, err := store.List()
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, m := range metas {
		if newest == nil || m.Index > newest.Index {
			newest = m
		}
	}
	return newest, nil
}

// hasSegments reports whether a data directory has any of a log's segments.
func hasSegments(dir string) bool {
	names, _ := filepath.Glob(filepath.Join(dir, walDir, "*.wal"))
	return len(names) > 0
}
