package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// walFiles are the segments of a write-ahead log and the list of them, as raft-wal
// wants them. The list is a sealed value of the bolt store, so what that promises
// of a vote holds for it too.
//
// It closes what raft-wal v0.4.0 leaves open:
//
//   - Its recovery takes the first frame that it cannot read for the end, and drops
//     acknowledged entries after it. Here each batch is verified before, and damage
//     told from a write that a crash has torn (see walTail).
//   - A segment that is missing at the end is made anew, empty. Here it is on record
//     once it is made, durably, before the first entry.
//   - After a crash between the write that fills a segment and the change of the
//     list it appends to the full one for ever in vain. Here the change is made up for.
//   - A segment that a truncation has closed has no index, and cannot be read after a
//     restart. Here it is read as one that is written to.
type walFiles struct {
	*segment.Filer
	dir string
	db  *sealedStore

	// full is made when an append has filled its segment, and takes what came of the
	// change to the next. See rotated.
	full chan error
}

var (
	_ types.MetaStore    = (*walFiles)(nil)
	_ types.SegmentFiler = (*walFiles)(nil)
)

// What is kept in the bolt store, beside raft's term and vote.
const (
	keyWALSegments = "WALSegments" // the list, as JSON
	keyWALMade     = "WALMade"     // segments with ids below this one were made, durably
	keyWALEnd      = "WALEnd"      // the last index and 1 when the log was closed; 0 while it is open
)

func newWALFiles(dir string, db *sealedStore) *walFiles {
	return &walFiles{Filer: segment.NewFiler(dir, walfs.New()), dir: dir, db: db}
}

// number reads a number that may be absent, and is 0 then.
func (f *walFiles) number(key string) (uint64, error) {
	n, err := f.db.GetUint64([]byte(key))
	if isNotFound(err) {
		return 0, nil
	}
	return n, err
}

func (f *walFiles) path(info types.SegmentInfo) string {
	return filepath.Join(f.dir, segment.FileName(info))
}

// recover verifies the segment that was written to last, cuts off what a crash has
// torn, and if it is full, begins the next.
func (f *walFiles) recover(segmentSize int) error {
	state, err := f.Load(f.dir)
	if err != nil || len(state.Segments) == 0 {
		return err
	}
	tail := &state.Segments[len(state.Segments)-1]
	made, err := f.made(*tail)
	if err != nil || !made || !tail.SealTime.IsZero() {
		return err
	}
	content, err := openWALTail(f.path(*tail), int64(tail.SizeLimit))
	if err != nil || content.index == 0 {
		return err
	}
	tail.SealTime, tail.IndexStart = time.Now(), content.index
	tail.MaxIndex = tail.BaseIndex + content.entries - 1
	state.Segments = append(state.Segments, types.SegmentInfo{
		ID: state.NextSegmentID, BaseIndex: tail.MaxIndex + 1, MinIndex: tail.MaxIndex + 1,
		SizeLimit: uint32(segmentSize), Codec: wal.CodecBinaryV1, CreateTime: time.Now(),
	})
	state.NextSegmentID++
	return f.CommitState(state)
}

// Load reads the list; there is none in a new directory.
func (f *walFiles) Load(string) (state types.PersistentState, err error) {
	list, err := f.db.Get([]byte(keyWALSegments))
	switch {
	case isNotFound(err):
		return state, nil
	case err != nil:
		return state, err
	}
	if err := json.Unmarshal(list, &state); err != nil {
		return state, damaged(f.db.path, "the list of segments: %w", err)
	}
	return state, nil
}

// CommitState replaces the list.
func (f *walFiles) CommitState(state types.PersistentState) error {
	list, err := json.Marshal(state)
	if err == nil {
		err = f.db.Set([]byte(keyWALSegments), list)
	}
	if err != nil {
		f.settle(err)
	}
	return err
}

// GetStable, SetStable and Close are of no use: raft's values have a store of their own.
func (f *walFiles) GetStable(key []byte) ([]byte, error) { return f.db.Get(key) }
func (f *walFiles) SetStable(key, value []byte) error    { return f.db.Set(key, value) }
func (f *walFiles) Close() error                         { return nil }

// made reports whether a segment was ever made. What is there of one that was not is
// left from a crash and has no entries.
func (f *walFiles) made(info types.SegmentInfo) (bool, error) {
	made, err := f.number(keyWALMade)
	return info.ID < made, err
}

// Create makes a segment, at its full size, durably, and records that.
func (f *walFiles) Create(info types.SegmentInfo) (_ types.SegmentWriter, err error) {
	defer func() { f.settle(err) }()
	w, err := f.Filer.Create(info)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", f.path(info), err)
	}
	err = syncFile(f.path(info))
	if err == nil {
		err = syncDir(f.dir)
	}
	if err == nil {
		err = f.db.SetUint64([]byte(keyWALMade), info.ID+1)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make %s: %w", f.path(info), err), w.Close())
	}
	return &walWriter{w, f}, nil
}

// RecoverTail opens the segment that was written to last, which recover has verified.
func (f *walFiles) RecoverTail(info types.SegmentInfo) (types.SegmentWriter, error) {
	made, err := f.made(info)
	if err != nil {
		return nil, err
	}
	if !made {
		if err := os.Remove(f.path(info)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return f.Create(info)
	}
	w, err := f.Filer.RecoverTail(info)
	if err != nil {
		return nil, damaged(f.path(info), "%v", err) // absent is no answer: raft-wal would make it
	}
	return &walWriter{w, f}, nil
}

// Open opens a segment that is complete.
func (f *walFiles) Open(info types.SegmentInfo) (types.SegmentReader, error) {
	if info.IndexStart > 0 {
		r, err := f.Filer.Open(info)
		if err != nil {
			return nil, damaged(f.path(info), "%v", err)
		}
		return r, nil
	}
	w, err := f.Filer.RecoverTail(info)
	switch {
	case err != nil:
		return nil, damaged(f.path(info), "%v", err)
	case w.LastIndex() < info.MaxIndex:
		return nil, errors.Join(damaged(f.path(info), "it ends at entry %d, not %d", w.LastIndex(), info.MaxIndex), w.Close())
	}
	return w, nil
}

// walWriter notes when its segment is full.
type walWriter struct {
	types.SegmentWriter
	files *walFiles
}

// Sealed is what raft-wal asks after each append, before it has a goroutine of its own
// replace a full segment.
func (w *walWriter) Sealed() (bool, uint64, error) {
	full, index, err := w.SegmentWriter.Sealed()
	if full && err == nil {
		w.files.full = make(chan error, 1)
	}
	return full, index, err
}

// rotated waits until the segment that the last append has filled, if it has, is
// replaced by the next.
func (f *walFiles) rotated() error {
	if f.full == nil {
		return nil
	}
	err := <-f.full
	f.full = nil
	if err != nil {
		return fmt.Errorf("begin the next segment of the log: %w", err)
	}
	return nil
}

// settle tells rotated what came of it.
func (f *walFiles) settle(err error) {
	if f.full != nil {
		f.full <- err
	}
}

// syncFile makes a file's content and size durable.
func syncFile(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
