package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// contents is all that a node reads from its data directory, as text.
func contents(t interface{ Fatal(...any) }, d *DataDir) string {
	var b strings.Builder
	first, err1 := d.Log.FirstIndex()
	last, err2 := d.Log.LastIndex()
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := d.Log.GetLog(i, &l); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%d %d %d %x %x\n", l.Index, l.Term, l.Type, l.Data, l.Extensions)
	}
	for _, key := range []string{"CurrentTerm", keyVote, string(keyIdentity)} {
		value, err := d.Stable.Get([]byte(key))
		fmt.Fprintf(&b, "%s %x %v\n", key, value, err)
	}
	metas, err3 := d.Snapshots.List()
	for _, m := range metas {
		_, state, err := d.Snapshots.Open(m.ID)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(state)
		state.Close()
		fmt.Fprintf(&b, "%s %d %d %d %d %v %q %v\n", m.ID, m.Size, m.Index, m.Term, m.ConfigurationIndex, m.Configuration, data, err)
	}
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// damageable makes a data directory with something of everything, and closes it.
func damageable(t *testing.T, opts DataDirOptions) (dir, was string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "d")
	d, err := OpenDataDir(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := identity(d.Stable, "n1", nil); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(12) { // several commits, so that there are free pages and old ones
		fill(t, d, i*4+1, i*4+4)
	}
	snapshotAt(t, d, 40)
	if err := d.Log.DeleteRange(1, 30); err != nil {
		t.Fatal(err)
	}
	if err := d.Log.StoreLog(&raft.Log{Index: 49, Term: 2, Type: raft.LogNoop, Data: bytes.Repeat([]byte("large"), 5000), AppendedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Stable.SetUint64([]byte("CurrentTerm"), 7), d.Stable.Set([]byte(keyVote), []byte("\x00\x00\x00\x00\x00\x00\x00\x07n1"))); err != nil {
		t.Fatal(err)
	}
	was = contents(t, d)
	d.Close()
	return dir, was
}

// copyDir copies a data directory and has one of its files replaced.
func copyDir(t interface{ Fatal(...any) }, to, from, file string, data []byte) {
	os.RemoveAll(to)
	err := os.CopyFS(to, os.DirFS(from))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, file), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// openDamaged opens a directory one of whose files was damaged: it is refused with
// an error that names the file, or holds exactly what it held. Never does it hold
// anything else, nor does the process end.
func openDamaged(t interface {
	Fatal(...any)
	Errorf(string, ...any)
}, opts DataDirOptions, dir, file, was string,
) (refused bool) {
	d, err := OpenDataDir(dir, opts)
	if err == nil {
		defer d.Close()
		if got := contents(t, d); got != was {
			t.Errorf("%s is damaged, was opened, and holds something else:\n%.2000s\nwant\n%.2000s", file, got, was)
		}
		return false
	}
	var damage *DamagedError
	if !errors.As(err, &damage) || !strings.Contains(err.Error(), filepath.Join(dir, filepath.Dir(file))) {
		t.Errorf("%q names no damaged file", err)
	}
	return true
}

func TestG1_DamagedLogIsRefusedOrWhole(t *testing.T) {
	kinds := []string{"bit", "head", "junk", "short", "zero", "moved"}
	t.Run("bolt", func(t *testing.T) {
		dir, was := damageable(t, DataDirOptions{})
		damageFile(t, DataDirOptions{}, dir, filepath.Join(dir, dbName), was, kinds)
	})
	t.Run("wal's list", func(t *testing.T) {
		dir, was := damageable(t, walOptions)
		damageFile(t, walOptions, dir, filepath.Join(dir, dbName), was, kinds)
	})
	t.Run("wal's full segment", func(t *testing.T) {
		dir, was := damageable(t, walOptions)
		all := segments(t, dir)
		damageFile(t, walOptions, dir, all[len(all)-2], was, kinds)
	})
	large := DataDirOptions{LogStore: LogWAL, segmentSize: 128 << 10} // all are in one
	t.Run("wal's last segment", func(t *testing.T) {
		dir, was := damageable(t, large)
		damageFile(t, large, dir, segments(t, dir)[0], was, kinds)
	})
	t.Run("wal's last segment after a crash", func(t *testing.T) {
		dir, was := damageable(t, large)
		db, err := openBolt(filepath.Join(dir, dbName))
		if err == nil {
			err = errors.Join(db.SetUint64([]byte(keyWALEnd), 0), db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		// Zeros in the last write are those of a torn one.
		damageFile(t, large, dir, segments(t, dir)[0], was, kinds[:4])
	})
}

// damageFile damages one file of a data directory in every way.
func damageFile(t *testing.T, opts DataDirOptions, dir, path, was string, kinds []string) {
	file, _ := filepath.Rel(dir, path)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "damaged")
	refused := map[string]int{}
	pages := 1 // that have anything
	for i := 0; i < len(data); i += 4096 {
		if !allZero(data[i:min(i+4096, len(data))]) {
			pages = i/4096 + 1
		}
	}
	pageAt := func(i int) []byte { return data[i*4096 : min((i+1)*4096, len(data))] }
	rapid.Check(t, func(rt *rapid.T) {
		bad := bytes.Clone(data)
		kind := rapid.SampledFrom(kinds).Draw(rt, "kind")
		number := rapid.IntRange(0, pages-1).Draw(rt, "page")
		page := bad[number*4096 : number*4096+len(pageAt(number))]
		switch kind {
		case "bit":
			page[rapid.IntRange(0, len(page)-1).Draw(rt, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
		case "head": // a bit of what bolt's structure hangs on
			page[rapid.IntRange(0, min(95, len(page)-1)).Draw(rt, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
		case "junk":
			copy(page, rapid.SliceOfN(rapid.Byte(), 16, 64).Draw(rt, "junk"))
		case "zero":
			clear(page)
		case "moved": // a write that went to another place
			copy(page, pageAt(rapid.IntRange(0, pages-1).Draw(rt, "from")))
		case "short":
			bad = bad[:rapid.IntRange(0, len(data)-1).Draw(rt, "size")]
		}
		copyDir(rt, to, dir, file, bad)
		if openDamaged(rt, opts, to, file, was) {
			refused[kind]++
		}
	})
	for _, kind := range kinds {
		if refused[kind] == 0 {
			t.Errorf("damage of kind %q was never noticed", kind)
		}
	}
	t.Logf("refused: %v", refused)
}

// One bit of any byte of a snapshot's files counts.
func TestG1_DamagedSnapshotIsRefusedOrWhole(t *testing.T) {
	dir, was := damageable(t, DataDirOptions{})
	to := filepath.Join(t.TempDir(), "damaged")
	files, err := filepath.Glob(filepath.Join(dir, snapshotsDir, "*", "*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("files of the snapshot: %v, %v", files, err)
	}
	for _, path := range files {
		file, _ := filepath.Rel(dir, path)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		tried, refused := 0, 0
		for at := rand.IntN(3); at < len(data); at += 3 {
			tried++
			bad := bytes.Clone(data)
			bad[at] ^= 1 << (at % 8)
			copyDir(t, to, dir, file, bad)
			if openDamaged(t, DataDirOptions{}, to, file, was) {
				refused++
			}
		}
		for _, size := range []int{0, 1, len(data) / 2, len(data) - 1} {
			copyDir(t, to, dir, file, data[:size])
			openDamaged(t, DataDirOptions{}, to, file, was)
		}
		if filepath.Base(file) != "meta.json" && refused != tried {
			t.Errorf("%s: %d of %d damaged bytes were noticed", filepath.Base(file), refused, tried)
		}
		copyDir(t, to, dir, file, data)
		if err := os.Remove(filepath.Join(to, file)); err != nil {
			t.Fatal(err)
		}
		if !openDamaged(t, DataDirOptions{}, to, file, was) {
			t.Errorf("%s: nobody noticed that it is gone", file)
		}
	}
}

// Damage that comes while the node runs stops it when it is read, with the file's
// name, and is never given out.
func TestG1_DamageWhileRunningIsFatal(t *testing.T) {
	t.Run("bolt", func(t *testing.T) { damageRunning(t, DataDirOptions{}, dbName) })
	t.Run("wal", func(t *testing.T) { damageRunning(t, walOptions, walDir+"/*") })
}

func damageRunning(t *testing.T, opts DataDirOptions, pattern string) {
	dir, _ := damageable(t, opts)
	d, err := OpenDataDir(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %v, %v", pattern, paths, err)
	}
	var path string // of the file with the entry
	for _, path = range paths {
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, bytes.Repeat([]byte("large"), 100)) {
			break
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, bytes.Repeat([]byte("large"), 100))
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte("Large"), int64(at)); err != nil {
		t.Fatal(err)
	}
	var fatal []error
	w := newWatchdog(time.Minute, func(err error) { fatal = append(fatal, err) })
	var l raft.Log
	if err := w.logStore(d.Log).GetLog(48, &l); err != nil || len(fatal) > 0 {
		t.Errorf("a whole entry: %v, %v", err, fatal)
	}
	if err := w.logStore(d.Log).GetLog(1, &l); !errors.Is(err, raft.ErrLogNotFound) || len(fatal) > 0 {
		t.Errorf("an entry that was deleted: %v, %v", err, fatal)
	}
	if err := w.logStore(d.Log).GetLog(49, &l); err == nil {
		t.Error("the damaged entry was read")
	}
	named := filepath.Join(dir, strings.SplitN(pattern, "/", 2)[0])
	if len(fatal) != 1 || !strings.Contains(fatal[0].Error(), named) {
		t.Errorf("fatal %v, want one that names %s", fatal, named)
	}

	fatal = nil
	w = newWatchdog(time.Minute, func(err error) { fatal = append(fatal, err) })
	store := w.snapshotStore(d.Snapshots)
	metas, err := store.List()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.Open("none"); err == nil || len(fatal) > 0 {
		t.Errorf("a snapshot that is gone: %v, %v", err, fatal)
	}
	state := filepath.Join(dir, snapshotsDir, metas[0].ID, "state.bin")
	if err := os.WriteFile(state, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.Open(metas[0].ID); err == nil || len(fatal) != 1 || !strings.Contains(fatal[0].Error(), metas[0].ID) {
		t.Errorf("the damaged snapshot: %v, fatal %v", err, fatal)
	}
}
