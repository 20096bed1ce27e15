package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// testSegment is a size at which a few entries fill a segment.
const testSegment = 16 << 10

var walOptions = DataDirOptions{LogStore: LogWAL, segmentSize: testSegment}

// walTest has a log on disk, and what must be in it.
type walTest struct {
	*rapid.T
	dir  string
	d    *DataDir
	want []*raft.Log
	snap uint64 // the newest snapshot ends here
}

func (w *walTest) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *walTest) open() {
	w.Helper()
	var err error
	w.d, err = OpenDataDir(w.dir, walOptions)
	w.must(err)
}

// same compares the log with what must be in it.
func (w *walTest) same(what string, want []*raft.Log) {
	w.Helper()
	first, err1 := w.d.Log.FirstIndex()
	last, err2 := w.d.Log.LastIndex()
	w.must(errors.Join(err1, err2))
	if len(want) == 0 {
		if first != 0 || last != 0 {
			w.Fatalf("%s: the log has %d to %d, want none", what, first, last)
		}
		return
	}
	if first != want[0].Index || last != want[len(want)-1].Index {
		w.Fatalf("%s: the log has %d to %d, want %d to %d", what, first, last, want[0].Index, want[len(want)-1].Index)
	}
	for _, l := range want {
		var got raft.Log
		w.must(w.d.Log.GetLog(l.Index, &got))
		if got.Term != l.Term || got.Type != l.Type || !bytes.Equal(got.Data, l.Data) || len(got.Extensions) > 0 {
			w.Fatalf("%s: entry %d is %d %d %.20q, want %d %d %.20q", what, l.Index, got.Term, got.Type, got.Data, l.Term, l.Type, l.Data)
		}
	}
	for _, outside := range []uint64{first - 1, last + 1} {
		if err := w.d.Log.GetLog(outside, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
			w.Fatalf("%s: entry %d, outside of %d to %d: %v", what, outside, first, last, err)
		}
	}
}

// snapshot takes one, or installs it, if it is newer than the last.
func (w *walTest) snapshot(index uint64) {
	if index > w.snap {
		w.snap = index
		snapshotAt(w.T, w.d, index)
	}
}

// batch draws entries that go on where the log ends.
func (w *walTest) batch(term uint64) []*raft.Log {
	next := w.snap + 1
	if len(w.want) > 0 {
		next = w.want[len(w.want)-1].Index + 1
	}
	var logs []*raft.Log
	for range rapid.IntRange(1, 6).Draw(w.T, "entries") {
		size := rapid.SampledFrom([]int{0, 1, 100, 1000, 5000}).Draw(w.T, "size")
		logs = append(logs, &raft.Log{Index: next, Term: term, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(1 + next%250)}, size)})
		next++
	}
	return logs
}

// The log does what a slice does, over restarts, with truncations at both ends and
// crashes at which any part of the last write reached the disk, or the next segment
// was not made yet.
func TestG1_WALIsALogOverRestartsAndCrashes(t *testing.T) {
	root := t.TempDir()
	n, torn, lost := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		w := &walTest{T: rt, dir: filepath.Join(root, fmt.Sprint(n))}
		defer os.RemoveAll(w.dir)
		w.open()
		defer func() {
			if w.d != nil {
				w.d.Close()
			}
		}()
		term := uint64(1)
		for range rapid.IntRange(1, 15).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"append", "append", "append", "front", "end", "all", "reopen", "crash"}).Draw(rt, "step") {
			case "append":
				logs := w.batch(term)
				w.must(w.d.Log.StoreLogs(logs))
				w.want = append(w.want, logs...)
			case "front":
				if len(w.want) > 1 {
					k := rapid.IntRange(1, len(w.want)-1).Draw(rt, "deleted")
					w.snapshot(rapid.Uint64Range(w.want[k-1].Index, w.want[len(w.want)-1].Index).Draw(rt, "snapshot"))
					w.must(w.d.Log.DeleteRange(w.want[0].Index, w.want[k-1].Index))
					w.want = w.want[k:]
				}
			case "end":
				committed := 1
				for committed < len(w.want) && w.want[committed-1].Index < w.snap {
					committed++
				}
				if len(w.want) > committed {
					k := rapid.IntRange(committed, len(w.want)-1).Draw(rt, "kept")
					w.must(w.d.Log.DeleteRange(w.want[k].Index, w.want[len(w.want)-1].Index))
					w.want = w.want[:k:k]
					term++
				}
			case "all":
				if len(w.want) > 0 {
					last := w.want[len(w.want)-1].Index
					w.snapshot(last + rapid.Uint64Range(0, 50).Draw(rt, "ahead"))
					w.must(w.d.Log.DeleteRange(w.want[0].Index, last))
					w.want = nil
				}
			case "reopen":
				w.must(w.d.Close())
				w.open()
			case "crash":
				// What the disk has at a crash lies between what it had before and after an
				// append, sector by sector; the rest is what was synced before.
				before := filepath.Join(root, fmt.Sprint(n, "-before"))
				w.must(errors.Join(os.RemoveAll(before), os.CopyFS(before, os.DirFS(w.dir))))
				old, logs := w.want, w.batch(term)
				w.must(w.d.Log.StoreLogs(logs))
				crashed := filepath.Join(root, fmt.Sprint(n, "-crashed"))
				arrived := w.crash(before, crashed)
				w.d.Close()
				w.must(errors.Join(os.RemoveAll(w.dir), os.RemoveAll(before), os.Rename(crashed, w.dir)))
				w.open()
				last, err := w.d.Log.LastIndex()
				w.must(err)
				if arrived || last == logs[len(logs)-1].Index {
					w.want = append(slices.Clone(old), logs...)
				} else {
					torn++
					if last == 0 {
						lost++
					}
				}
			}
			w.same("after a step", w.want)
		}
		w.must(w.d.Close())
		w.open()
		w.same("at the end", w.want)
	})
	if torn == 0 {
		t.Error("no write was torn")
	}
	t.Logf("%d writes were torn, %d of them the log's first", torn, lost)
}

// crash makes the directory that a crash during the last append leaves: the files are
// those from before, but for sectors of the segment that was written to; or, if the
// append has begun another segment, those from after it, with sectors of that one. It
// reports whether all of them arrived.
func (w *walTest) crash(before, to string) (arrived bool) {
	w.must(os.RemoveAll(to))
	list := func(dir string) []string {
		entries, err := os.ReadDir(filepath.Join(dir, walDir))
		w.must(err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	older, newer := list(before), list(w.dir)
	base, both := before, func(name string) bool { return slices.Contains(older, name) && slices.Contains(newer, name) }
	touched := both
	if !slices.Equal(older, newer) && rapid.Bool().Draw(w.T, "late") {
		base, touched = w.dir, func(name string) bool { return !slices.Contains(older, name) }
	}
	w.must(os.CopyFS(to, os.DirFS(base)))
	inOrder, came := rapid.Bool().Draw(w.T, "in order"), rapid.IntRange(0, 40).Draw(w.T, "sectors")
	wrote := false
	arrived = true
	for _, name := range newer {
		if !touched(name) {
			continue
		}
		is, err := os.ReadFile(filepath.Join(w.dir, walDir, name))
		w.must(err)
		got := make([]byte, len(is))
		if both(name) {
			was, err := os.ReadFile(filepath.Join(before, walDir, name))
			w.must(err)
			copy(got, was)
		}
		for at := 0; at < len(is); at += diskSector {
			old, sector := got[at:min(at+diskSector, len(is))], is[at:min(at+diskSector, len(is))]
			if bytes.Equal(old, sector) {
				continue
			}
			wrote = true
			if came--; inOrder && came >= 0 || !inOrder && rapid.Bool().Draw(w.T, "arrived") {
				copy(old, sector)
			} else {
				arrived = false
			}
		}
		w.must(os.WriteFile(filepath.Join(to, walDir, name), got, 0o600))
	}
	return arrived && wrote
}

// filledWAL makes a log of several segments, the last with a few batches.
func filledWAL(t *testing.T) (dir string, d *DataDir) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "d")
	d, err := OpenDataDir(dir, walOptions)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	for i := uint64(1); i <= 50; i += 2 {
		fill(t, d, i, i+1)
	}
	return dir, d
}

// segments are the files of a log, oldest first.
func segments(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, walDir, "*.wal"))
	if err != nil || len(names) == 0 {
		t.Fatalf("segments: %v, %v", names, err)
	}
	slices.Sort(names)
	return names
}

// A crash leaves the write that filled a segment, and not yet the next segment: in the
// list, or as a file.
func TestWAL_ACrashBetweenTwoSegments(t *testing.T) {
	dir, d := filledWAL(t)
	before := filepath.Join(t.TempDir(), "before")
	next := uint64(51)
	for count := len(segments(t, dir)); len(segments(t, dir)) == count; next++ {
		if err := errors.Join(os.RemoveAll(before), os.CopyFS(before, os.DirFS(dir))); err != nil {
			t.Fatal(err)
		}
		fill(t, d, next, next)
	}
	names := segments(t, dir)
	full, empty := names[len(names)-2], names[len(names)-1]
	for name, crash := range map[string]func(to string) error{
		"before the list": func(to string) error { // all of the write, the list and files from before
			data, err := os.ReadFile(full)
			return errors.Join(err, os.CopyFS(to, os.DirFS(before)), os.WriteFile(filepath.Join(to, walDir, filepath.Base(full)), data, 0o600))
		},
		"before the file's record": func(to string) error {
			err := os.CopyFS(to, os.DirFS(dir))
			db, err2 := openBolt(filepath.Join(to, dbName))
			if err := errors.Join(err, err2); err != nil {
				return err
			}
			f := newWALFiles(filepath.Join(to, walDir), db)
			made, err := f.number(keyWALMade)
			return errors.Join(err, db.SetUint64([]byte(keyWALMade), made-1), db.Close(), os.Truncate(filepath.Join(to, walDir, filepath.Base(empty)), 0))
		},
	} {
		to := filepath.Join(t.TempDir(), "crashed")
		if err := crash(to); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			d, err := OpenDataDir(to, walOptions)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			last, err := d.Log.LastIndex()
			if want := next - 1; err != nil || last < want {
				t.Errorf("%s: the log ends at %d, %v, want %d", name, last, err, want)
			}
			fill(t, d, last+1, last+3)
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// What is missing, or is of another size, is damage: never an empty log.
func TestG1_WALMissesItsFiles(t *testing.T) {
	dir, d := filledWAL(t)
	was := contents(t, d)
	d.Close()
	names := segments(t, dir)
	for name, damage := range map[string]func(to string) error{
		"the first segment is gone": func(to string) error { return os.Remove(filepath.Join(to, walDir, filepath.Base(names[0]))) },
		"the last segment is gone":  func(to string) error { return os.Remove(filepath.Join(to, walDir, filepath.Base(names[len(names)-1]))) },
		"all segments are gone":     func(to string) error { return os.RemoveAll(filepath.Join(to, walDir)) },
		"the last segment is empty": func(to string) error {
			return os.Truncate(filepath.Join(to, walDir, filepath.Base(names[len(names)-1])), 0)
		},
		"the last segment is zeros": func(to string) error {
			return os.WriteFile(filepath.Join(to, walDir, filepath.Base(names[len(names)-1])), make([]byte, testSegment), 0o600)
		},
		"the last is another's": func(to string) error {
			return copyFile(filepath.Join(to, walDir, filepath.Base(names[len(names)-1])), names[0])
		},
		"a file has no proper name":          func(to string) error { return os.WriteFile(filepath.Join(to, walDir, "x.wal"), nil, 0o600) },
		"the list of segments is of another": func(to string) error { return copyFile(filepath.Join(to, dbName), filepath.Join(emptyWAL(t), dbName)) },
	} {
		to := filepath.Join(t.TempDir(), "damaged")
		if err := errors.Join(os.CopyFS(to, os.DirFS(dir)), damage(to)); err != nil {
			t.Fatal(err)
		}
		for range 2 { // a second start finds it too
			if !openDamaged(t, walOptions, to, walDir+"/x", was) {
				t.Errorf("%s: nobody noticed", name)
			}
		}
	}
	to := filepath.Join(t.TempDir(), "lost")
	if err := errors.Join(os.CopyFS(to, os.DirFS(dir)), os.Remove(filepath.Join(to, dbName))); err != nil {
		t.Fatal(err)
	}
	if d, err := OpenDataDir(to, walOptions); err == nil || !strings.Contains(err.Error(), "the log is lost") {
		t.Errorf("without %s: %v, %v", dbName, d, err)
	}
}

func emptyWAL(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "empty")
	d, err := OpenDataDir(dir, walOptions)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	return dir
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	return errors.Join(err, os.WriteFile(to, data, 0o600))
}

// A directory has one log store for ever.
func TestOpenDataDir_KeepsItsLogStore(t *testing.T) {
	for has, wants := range map[LogStore]LogStore{LogBolt: LogWAL, LogWAL: LogBolt} {
		dir := filepath.Join(t.TempDir(), string(has))
		opts := DataDirOptions{LogStore: has, segmentSize: testSegment}
		d, err := OpenDataDir(dir, opts)
		if err != nil {
			t.Fatal(err)
		}
		fill(t, d, 1, 5)
		was := contents(t, d)
		d.Close()
		other, err := OpenDataDir(dir, DataDirOptions{LogStore: wants, segmentSize: testSegment})
		if !errors.Is(err, ErrLogStore) || !strings.Contains(err.Error(), fmt.Sprintf("its log store is %s, not %s", has, wants)) {
			t.Errorf("opened %s as %s: %v, %v", has, wants, other, err)
		}
		if d, err = OpenDataDir(dir, opts); err != nil {
			t.Fatal(err)
		}
		if got := contents(t, d); got != was {
			t.Errorf("%s: holds %s, want %s", has, got, was)
		}
		d.Close()
	}
}

// What raft does when it installs a snapshot leaves no gap, and takes nothing that was
// acknowledged after a snapshot that came late.
func TestG1_WALAfterASnapshotIsInstalled(t *testing.T) {
	for _, c := range []struct {
		name           string
		snapshot, term uint64
		emptied        bool // raft empties the log before it stops
		next, first    uint64
		lastBefore     uint64
	}{
		{"ahead of the log", 80, 3, true, 81, 81, 0},
		{"ahead of the log, and a crash before it is emptied", 80, 3, false, 81, 81, 0},
		{"late: the log goes on", 40, 1, true, 51, 41, 50},
		{"of another history", 40, 2, true, 41, 41, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, d := filledWAL(t)
			_, trans := raft.NewInmemTransport("x")
			sink, err := d.Snapshots.Create(1, c.snapshot, c.term, raft.Configuration{}, 1, trans)
			if err == nil {
				err = sink.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.emptied {
				if err := d.Log.DeleteRange(1, 50); err != nil {
					t.Fatal(err)
				}
			} else {
				d.Close()
				if d, err = OpenDataDir(dir, walOptions); err != nil {
					t.Fatal(err)
				}
			}
			if last, err := d.Log.LastIndex(); err != nil || last != c.lastBefore {
				t.Errorf("the log ends at %d, %v, want %d", last, err, c.lastBefore)
			}
			fill(t, d, c.next, c.next+4)
			d.Close()
			if d, err = OpenDataDir(dir, walOptions); err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			first, err1 := d.Log.FirstIndex()
			last, err2 := d.Log.LastIndex()
			if err := errors.Join(err1, err2); err != nil || first != c.first || last != c.next+4 {
				t.Errorf("the log has %d to %d, %v, want %d to %d", first, last, err, c.first, c.next+4)
			}
			if m, ok := raft.LogStore((&watchedLog{d.Log, nil})).(raft.MonotonicLogStore); !ok || !m.IsMonotonic() {
				t.Error("raft is not told that the log is monotonic")
			}
		})
	}
}

// A segment that cannot be made ends the append that filled the one before, with the reason.
func TestWAL_ASegmentThatCannotBeMade(t *testing.T) {
	dir, d := filledWAL(t)
	if err := os.Rename(filepath.Join(dir, walDir), filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := uint64(51); i < 100 && err == nil; i++ {
		err = d.Log.StoreLog(&raft.Log{Index: i, Term: 1, Data: make([]byte, 1000)})
	}
	if err == nil || !strings.Contains(err.Error(), "begin the next segment") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want the reason", err)
	}
}
