package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// walTail is what the segment of a write-ahead log that is written to has in it,
// when it is opened again. It was made full of zeros, and batches of entries follow one
// another, each written and synced before the next: frames of entries, at last the
// index if the segment is full, and a frame with the checksum of all that. The layout
// is that of raft-wal's segment/format.go.
type walTail struct {
	entries uint64
	index   uint64 // where the index begins, if it has one; 0 otherwise
	end     int    // of the last whole batch
}

const (
	walHead        = 32 // of a segment
	walFrame       = 8  // the head of a frame; frames begin at multiples of it
	walEntry       = 1
	walIndex       = 2
	walCommit      = 3
	diskSector     = 512 // what a disk writes whole or not at all
	longestZeroRun = 64  // longer than any run of zeros in what we write
)

// openWALTail reads a segment from end to end and verifies every batch. A write that a
// crash has torn was never acknowledged: it is the last, and some of its sectors are
// still zeros, or all from one on. That is overwritten with zeros, so that its remains
// never pass for more. Anything else is damage.
//
// Zeros in place of sectors of the last batch of all are taken for a torn write: after
// a crash there is nothing to tell them apart by.
func openWALTail(path string, size int64) (walTail, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return walTail{}, damaged(path, "%w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(file)
	if err != nil {
		return walTail{}, damaged(path, "%w", err)
	}
	if int64(len(data)) < size {
		return walTail{}, damaged(path, "the file is cut short: %d bytes, not %d", len(data), size)
	}
	var t walTail
	for t.add(data) {
	}
	torn, err := t.torn(data)
	if err != nil {
		return walTail{}, &DamagedError{path, err}
	}
	if torn > t.end {
		_, err := file.WriteAt(make([]byte, torn-t.end), int64(t.end))
		if err := errors.Join(err, file.Sync()); err != nil {
			return walTail{}, fmt.Errorf("cut off a torn write of %s: %w", path, err)
		}
	}
	return t, nil
}

// add goes over the next batch if it is whole.
func (t *walTail) add(data []byte) bool {
	b, stop := walBatch(data, t.end)
	if !stop.whole {
		return false
	}
	t.entries, t.end = t.entries+b.entries, b.end
	if b.index > 0 {
		t.index = b.index
	}
	return true
}

// walStop is where the reading of a batch ended.
type walStop struct {
	whole  bool
	commit bool // at a checksum, right or wrong
	frame  int  // the last frame begins here
	needs  int  // and the batch goes on to here at least; 0: what is there is no frame
}

// walBatch reads the batch that begins at an offset, the first with the segment's head.
func walBatch(data []byte, begin int) (b walTail, stop walStop) {
	at := begin
	if begin == 0 {
		at = walHead
	}
	for at+walFrame <= len(data) {
		kind, size := binary.LittleEndian.Uint32(data[at:]), int64(binary.LittleEndian.Uint32(data[at+4:]))
		stop = walStop{frame: at, needs: at + walFrame}
		switch kind {
		case walEntry:
			b.entries++
		case walIndex:
			b.index = uint64(at + walFrame)
		case walCommit:
			stop.commit = true
			stop.whole = int64(crc32.Checksum(data[begin:at], castagnoli)) == size
			b.end = at + walFrame
			return b, stop
		default:
			if kind != 0 || size != 0 {
				stop.needs = 0
			}
			return b, stop
		}
		next := int64(at) + walFrame + (size+walFrame-1)/walFrame*walFrame
		if next > int64(len(data)) {
			stop.needs = len(data) + 1
			return b, stop
		}
		at = int(next)
	}
	return b, walStop{frame: at, needs: len(data) + 1}
}

// torn returns where the remains of a torn write end, t.end if there are none, or says
// why what follows the last whole batch is none.
func (t *walTail) torn(data []byte) (end int, err error) {
	last := len(data)
	for last > t.end && data[last-1] == 0 {
		last--
	}
	if last == t.end {
		return t.end, nil
	}
	for at := t.end + walFrame; at < last && at+walFrame <= len(data); at += walFrame {
		if binary.LittleEndian.Uint32(data[at:]) != walEntry {
			continue
		}
		if _, stop := walBatch(data, at); stop.whole {
			return 0, fmt.Errorf("what was written at %d is not whole, though more was written after it, at %d", t.end, at)
		}
	}
	for from := t.end; from < last; { // a sector that never came
		to := min((from/diskSector+1)*diskSector, len(data))
		if allZero(data[from:to]) {
			return last, nil
		}
		from = to
	}
	sector := (last + diskSector - 1) / diskSector * diskSector // where what came ends
	_, stop := walBatch(data, t.end)
	commit := (last + walFrame - 1) / walFrame * walFrame
	switch {
	case stop.commit, commit-walFrame > t.end && binary.LittleEndian.Uint32(data[commit-walFrame:]) == walCommit:
		return 0, fmt.Errorf("what was written at %d has a wrong checksum", t.end)
	case stop.needs == 0:
		return 0, fmt.Errorf("what was written at %d has no frame at %d", t.end, stop.frame)
	case stop.needs <= sector || sector-last > longestZeroRun:
		return 0, fmt.Errorf("what was written at %d does not go on at %d", t.end, last)
	}
	return last, nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
