package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// DataDir is a node's directory on disk, locked against other processes:
//
//	lock       held while the directory is open
//	raft.db    the log, raft's term and vote, identity and incarnation
//	snapshots  the last two
//
// What is in them carries checksums, all of which are verified when it is opened,
// and again when it is read.
//
// Log and stable store are one file on purpose: a node that lost its log must not
// keep its name, or it would vote as if it still had what it once acknowledged.
type DataDir struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore

	db   *sealedStore
	lock *os.File
}

// DataDirOptions are the choices of OpenDataDir.
type DataDirOptions struct {
	// Logger takes what the snapshot store has to say; nil discards.
	Logger *slog.Logger
}

const (
	dbName       = "raft.db"
	lockName     = "lock"
	snapshotsDir = "snapshots" // the name that raft's file store gives it
	keepSnaps    = 2
	dirMode      = 0o700
)

// OpenDataDir opens a data directory and makes it if need be; what it made is
// durable when it returns. The error says so if another process uses the
// directory, or if what is in it is damaged or does not belong together: such a
// directory is better emptied, so that the node joins anew.
func OpenDataDir(dir string, opts DataDirOptions) (*DataDir, error) {
	d, err := openDataDir(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("open data directory %s: %w", dir, err)
	}
	return d, nil
}

func openDataDir(dir string, opts DataDirOptions) (_ *DataDir, err error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	d := &DataDir{}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if d.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	if d.db, err = openDB(dir); err != nil {
		return nil, err
	}
	logger := opts.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnaps, newRaftLogger(logger))
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	snapshots := &sealedSnapshots{files, filepath.Join(dir, snapshotsDir)}
	if err := snapshots.check(); err != nil {
		return nil, err
	}
	if err := checkNoGap(d.db, snapshots); err != nil {
		return nil, err
	}
	if err := syncDir(dir); err != nil {
		return nil, err
	}
	d.Log, d.Stable, d.Snapshots = d.db, d.db, snapshots
	return d, nil
}

// Close closes the stores and unlocks the directory. It may be called twice.
func (d *DataDir) Close() error {
	var errs []error
	if d.db != nil {
		errs = append(errs, d.db.Close())
		d.db = nil
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
		d.lock = nil
	}
	return errors.Join(errs...)
}

// openDB opens raft.db. A new one is made under another name first, so that a
// crash leaves either none or a whole one.
func openDB(dir string) (*sealedStore, error) {
	path := filepath.Join(dir, dbName)
	_, err := os.Stat(path)
	if err == nil {
		return openBolt(path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if names, _ := filepath.Glob(filepath.Join(dir, snapshotsDir, "*")); len(names) > 0 {
		return nil, fmt.Errorf("there are snapshots but no %s: the log is lost", dbName)
	}
	draft := path + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	db, err := openBolt(draft)
	if err != nil {
		return nil, err
	}
	if err := db.Close(); err != nil {
		return nil, err
	}
	if err := os.Rename(draft, path); err != nil {
		return nil, err
	}
	return openBolt(path)
}

// openBolt opens a bolt file, new or old, after all of it was read and verified.
func openBolt(path string) (_ *sealedStore, err error) {
	defer guard(path, &err)()
	if _, err := os.Stat(path); err == nil {
		if err := checkBolt(path, checkValue); err != nil {
			return nil, err
		}
	}
	db, err := raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout: time.Second, // for its own file lock; ours is held already
			// The free pages are found again at each start instead of being written
			// with each commit, and a map holds them: a log frees pages in bulk.
			NoFreelistSync: true,
			FreelistType:   bbolt.FreelistMapType,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s := &sealedStore{db, path}
	if err := s.check(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// checkValue verifies what is stored beside the log, keys included.
func checkValue(bucket, key, value []byte) error {
	if string(bucket) == "logs" { // see sealedStore.check
		return nil
	}
	_, err := unseal(key, value)
	return err
}

// check verifies the log: every entry, and that none is missing between them.
func (s *sealedStore) check() error {
	first, err := s.FirstIndex()
	if err != nil || first == 0 {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	for i := first; i <= last; i++ {
		err := s.GetLog(i, new(raft.Log))
		if errors.Is(err, raft.ErrLogNotFound) {
			return damaged(s.path, "log entry %d is missing between %d and %d", i, first, last)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkNoGap makes sure that the log goes on where a snapshot ends.
func checkNoGap(log raft.LogStore, snapshots raft.SnapshotStore) error {
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	metas, err := snapshots.List()
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	var newest uint64
	for _, m := range metas {
		newest = max(newest, m.Index)
	}
	if first > newest+1 {
		return fmt.Errorf("the log begins at %d but the newest snapshot ends at %d: entries are lost", first, newest)
	}
	return nil
}

// makeDir makes a directory and those above it, durably.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}
