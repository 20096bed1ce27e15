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
//	wal        the log's segments, if it is not in raft.db (see LogWAL)
//	snapshots  the last two
//
// What is in them carries checksums, all of which are verified when it is opened,
// and again when it is read.
//
// Log and stable store are one file on purpose, or hang together by the list of the
// segments: a node that lost its log must not keep its name, or it would vote as if
// it still had what it once acknowledged.
type DataDir struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore

	db   *sealedStore
	wal  *sealedWAL // nil when the log is in db
	lock *os.File
}

// LogStore is where a data directory has raft's log. It is chosen when the directory
// is made, for ever.
type LogStore string

const (
	// LogBolt keeps the log in raft.db, a B+ tree: an append rewrites a few pages.
	LogBolt LogStore = "bolt"
	// LogWAL keeps it in segments that are appended to, one write and one fsync for
	// each append, and have their space on disk from the start.
	LogWAL LogStore = "wal"
)

// ErrLogStore says that a data directory was made with another log store.
var ErrLogStore = errors.New("a node keeps its log store: to change it, have the node leave the cluster, " +
	"empty the directory, and let it join anew")

// DataDirOptions are the choices of OpenDataDir.
type DataDirOptions struct {
	// Logger takes what the snapshot store has to say; nil discards.
	Logger *slog.Logger
	// LogStore is where the log is, in an old directory too; "" means LogBolt.
	LogStore LogStore

	segmentSize int // of a LogWAL, for tests; 0 means walSegment
}

const (
	dbName       = "raft.db"
	walDir       = "wal"
	walSegment   = 16 << 20
	keyLogStore  = "LogStore" // in raft.db, unless it is LogBolt
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
	if opts.LogStore == "" {
		opts.LogStore = LogBolt
	}
	if d.db, err = openDB(dir, opts.LogStore); err != nil {
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
	d.Log, d.Stable, d.Snapshots = d.db, d.db, snapshots
	if opts.LogStore == LogWAL {
		if err := d.openWAL(filepath.Join(dir, walDir), opts.segmentSize, logger); err != nil {
			return nil, err
		}
	}
	if err := checkNoGap(d.Log, snapshots); err != nil {
		return nil, err
	}
	if err := syncDir(dir); err != nil {
		return nil, err
	}
	return d, nil
}

// openWAL has the log in segments.
func (d *DataDir) openWAL(dir string, segmentSize int, logger *slog.Logger) (err error) {
	if segmentSize == 0 {
		segmentSize = walSegment
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	if d.wal, err = openWAL(dir, d.db, segmentSize, logger); err != nil {
		return err
	}
	d.Log, d.wal.snapshots = d.wal, d.Snapshots
	return d.wal.dropCovered()
}

// Close closes the stores and unlocks the directory. It may be called twice.
func (d *DataDir) Close() error {
	var errs []error
	if d.wal != nil {
		errs = append(errs, d.wal.Close())
		d.wal = nil
	}
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

// openDB opens raft.db, which knows where the log is. A new one is made under another
// name first, so that a crash leaves either none or a whole one.
func openDB(dir string, log LogStore) (*sealedStore, error) {
	path := filepath.Join(dir, dbName)
	_, err := os.Stat(path)
	if err == nil {
		db, err := openBolt(path)
		if err != nil {
			return nil, err
		}
		if err := checkLogStore(db, log); err != nil {
			return nil, errors.Join(err, db.Close())
		}
		return db, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if names, _ := filepath.Glob(filepath.Join(dir, snapshotsDir, "*")); len(names) > 0 {
		return nil, fmt.Errorf("there are snapshots but no %s: the log is lost", dbName)
	}
	if hasSegments(dir) {
		return nil, fmt.Errorf("there are segments of a log but no %s: the log is lost", dbName)
	}
	draft := path + ".new"
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	db, err := openBolt(draft)
	if err != nil {
		return nil, err
	}
	if log != LogBolt {
		err = db.Set([]byte(keyLogStore), []byte(log))
	}
	if err := errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	if log == LogBolt {
		if err := layOut(draft); err != nil {
			return nil, fmt.Errorf("lay %s out: %w", dbName, err)
		}
	}
	if err := os.Rename(draft, path); err != nil {
		return nil, err
	}
	return openBolt(path)
}

// laidOutBytes is the size of a new raft.db that holds the log.
const laidOutBytes = 16 << 20

// layOut writes zeros behind what is in a bolt file, where bolt will put its next
// pages. A write to where the disk has something already is on the disk with one
// write of its own; one to a new place, or to a hole, takes a second, of the inode.
func layOut(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for left := laidOutBytes - info.Size(); left > 0; left -= int64(len(zeros)) {
		if _, err := file.Write(zeros[:min(left, int64(len(zeros)))]); err != nil {
			return err
		}
	}
	return file.Sync()
}

// checkLogStore makes sure that a directory was made with this log store.
func checkLogStore(db *sealedStore, want LogStore) error {
	has, err := db.Get([]byte(keyLogStore))
	if isNotFound(err) {
		has, err = []byte(LogBolt), nil
	}
	if err == nil && LogStore(has) != want {
		err = fmt.Errorf("its log store is %s, not %s; %w", has, want, ErrLogStore)
	}
	return err
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
	if err := checkLog(s, path); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// checkValue verifies what is stored beside the log, keys included.
func checkValue(bucket, key, value []byte) error {
	if string(bucket) == "logs" { // see checkLog
		return nil
	}
	_, err := unseal(key, value)
	return err
}

// checkLog verifies a sealed log: every entry, and that none is missing between them.
func checkLog(log raft.LogStore, path string) error {
	first, err := log.FirstIndex()
	if err != nil || first == 0 {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	for i := first; i <= last; i++ {
		err := log.GetLog(i, new(raft.Log))
		if errors.Is(err, raft.ErrLogNotFound) {
			return damaged(path, "log entry %d is missing between %d and %d", i, first, last)
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
