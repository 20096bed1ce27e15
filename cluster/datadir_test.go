package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/hashicorp/raft"
)

func mustOpen(t testing.TB, dir string) *DataDir {
	t.Helper()
	d, err := OpenDataDir(dir, DataDirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// fill writes log entries first to last.
func fill(t testing.TB, d *DataDir, first, last uint64) {
	t.Helper()
	var logs []*raft.Log
	for i := first; i <= last; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 1, Data: bytes.Repeat([]byte{byte(i)}, 1000)})
	}
	if err := d.Log.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

func snapshotAt(t interface {
	Helper()
	Fatal(...any)
}, d *DataDir, index uint64,
) {
	t.Helper()
	_, trans := raft.NewInmemTransport("x")
	sink, err := d.Snapshots.Create(1, index, 1, raft.Configuration{}, 1, trans)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Write([]byte("state")); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenDataDir_KeepsWhatWasWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "er")
	d := mustOpen(t, dir)
	fill(t, d, 1, 50)
	snapshotAt(t, d, 40)
	if err := d.Stable.SetUint64([]byte("CurrentTerm"), 7); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	d = mustOpen(t, dir)
	var l raft.Log
	last, err := d.Log.LastIndex()
	if err != nil || last != 50 {
		t.Errorf("last index %d, %v", last, err)
	}
	if err := d.Log.GetLog(50, &l); err != nil || len(l.Data) != 1000 {
		t.Errorf("entry of %d bytes, %v", len(l.Data), err)
	}
	if term, err := d.Stable.GetUint64([]byte("CurrentTerm")); err != nil || term != 7 {
		t.Errorf("term %d, %v", term, err)
	}
	if s, err := d.Snapshots.List(); err != nil || len(s) != 1 || s[0].Index != 40 {
		t.Errorf("snapshots %v, %v", s, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != dirMode {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestOpenDataDir_IsForOneAtATime(t *testing.T) {
	dir := t.TempDir()
	d := mustOpen(t, dir)
	_, err := OpenDataDir(dir, DataDirOptions{})
	if err == nil || !strings.Contains(err.Error(), "another process uses it") || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want that the directory is in use", err)
	}
	d.Close()
	mustOpen(t, dir)
}

// A new log is laid out ahead, so that a write does not have to change the file's
// size; it goes on beyond that.
func TestOpenDataDir_LaysALogOut(t *testing.T) {
	size := func(dir string) int64 {
		t.Helper()
		info, err := os.Stat(filepath.Join(dir, dbName))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	dir := t.TempDir()
	d := mustOpen(t, dir)
	for first := uint64(1); first <= 4000; first += 100 {
		fill(t, d, first, first+99)
	}
	if got := size(dir); got != laidOutBytes {
		t.Errorf("with 4 MB in it it has %d bytes, want %d", got, laidOutBytes)
	}
	for first := uint64(4001); size(dir) == laidOutBytes; first += 1000 {
		fill(t, d, first, first+999)
	}
	d.Close()
	last, err := mustOpen(t, dir).Log.LastIndex()
	if err != nil || last < 8000 {
		t.Errorf("the last of the entries is %d, %v", last, err)
	}
	other := t.TempDir()
	segments, err := OpenDataDir(other, DataDirOptions{LogStore: LogWAL})
	if err != nil {
		t.Fatal(err)
	}
	defer segments.Close()
	if got := size(other); got >= laidOutBytes {
		t.Errorf("with its log in segments it has %d bytes", got)
	}
}

// A crash while raft.db was being made leaves a draft that is of no account.
func TestOpenDataDir_ReplacesAHalfMadeLog(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, dbName+".new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	fill(t, mustOpen(t, dir), 1, 3)
}

func TestOpenDataDir_RefusesWhatDoesNotBelongTogether(t *testing.T) {
	for _, c := range []struct {
		name, want string
		damage     func(t *testing.T, dir string)
	}{
		{"the log is gone, snapshots are left", "log is lost", func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, dbName))
		}},
		{"the snapshots are gone", "entries are lost", func(t *testing.T, dir string) {
			os.RemoveAll(filepath.Join(dir, snapshotsDir))
		}},
		{"the log is cut short", dbName, func(t *testing.T, dir string) {
			os.Truncate(filepath.Join(dir, dbName), 8192)
		}},
		{"the log is something else", dbName, func(t *testing.T, dir string) {
			os.WriteFile(filepath.Join(dir, dbName), bytes.Repeat([]byte("not bolt "), 10000), 0o600)
		}},
		{"the directory is a file", "", func(t *testing.T, dir string) {
			os.RemoveAll(dir)
			os.WriteFile(dir, nil, 0o600)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			d := mustOpen(t, dir)
			fill(t, d, 1, 50)
			snapshotAt(t, d, 40)
			if err := d.Log.DeleteRange(1, 30); err != nil {
				t.Fatal(err)
			}
			d.Close()
			mustOpen(t, dir).Close() // whole so far
			c.damage(t, dir)
			d, err := OpenDataDir(dir, DataDirOptions{})
			if err == nil {
				d.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q does not name %s and %q", err, dir, c.want)
			}
		})
	}
}

func TestIdentity_IsDrawnOnceAndKept(t *testing.T) {
	stable := raft.NewInmemStore()
	first, err := identity(stable, "n1", bytes.NewReader([]byte("12345678")))
	if err != nil || first != (Identity{"n1", "3132333435363738"}) {
		t.Fatalf("got %v, %v", first, err)
	}
	again, err := identity(stable, "n1", bytes.NewReader([]byte("abcdefgh")))
	if err != nil || again != first {
		t.Errorf("got %v, %v, want %v again", again, err, first)
	}
	if _, err := identity(stable, "n2", nil); err == nil || !strings.Contains(err.Error(), `"n1"`) {
		t.Errorf("as another node: got %v, want that it belongs to n1", err)
	}
	one, err1 := identity(raft.NewInmemStore(), "n1", nil)
	two, err2 := identity(raft.NewInmemStore(), "n1", nil)
	if err1 != nil || err2 != nil || one == two || one.Dir == "" {
		t.Errorf("two directories: %v %v, %v %v", one, err1, two, err2)
	}
	broken := errors.New("no entropy")
	if _, err := identity(raft.NewInmemStore(), "n1", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if _, err := identity(raft.NewInmemStore(), "n1", io.LimitReader(bytes.NewReader([]byte("1234")), 4)); err == nil {
		t.Error("drawn from too few bytes")
	}
	if _, err := identity(&crashingStore{raft.NewInmemStore(), 0}, "n1", nil); !errors.Is(err, errCrashed) {
		t.Errorf("got %v, want the store's error", err)
	}
}

func TestNextIncarnation_GrowsOverStarts(t *testing.T) {
	dir := t.TempDir()
	for want := uint64(1); want <= 3; want++ {
		d := mustOpen(t, dir)
		got, err := nextIncarnation(newVoteStore(d.Stable))
		if err != nil || got != want {
			t.Errorf("start %d: got %d, %v", want, got, err)
		}
		d.Close()
	}
	disk := &crashingStore{raft.NewInmemStore(), 1}
	if _, err := nextIncarnation(disk); err != nil {
		t.Fatal(err)
	}
	if n, err := nextIncarnation(disk); !errors.Is(err, errCrashed) {
		t.Errorf("got %d, %v, want no number that is not durable", n, err)
	}
}

// Raft finds a new directory empty, whatever a node keeps there of its own.
func TestDataDir_OfANewNodeHasNoRaftState(t *testing.T) {
	d := mustOpen(t, t.TempDir())
	if _, err := identity(d.Stable, "n1", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := nextIncarnation(d.Stable); err != nil {
		t.Fatal(err)
	}
	has, err := raft.HasExistingState(d.Log, newVoteStore(d.Stable), d.Snapshots)
	if err != nil || has {
		t.Errorf("has state: %v, %v", has, err)
	}
	if err := d.Stable.SetUint64([]byte("CurrentTerm"), 1); err != nil {
		t.Fatal(err)
	}
	if has, err = raft.HasExistingState(d.Log, newVoteStore(d.Stable), d.Snapshots); err != nil || !has {
		t.Errorf("with a term: has state %v, %v", has, err)
	}
}

func ExampleIdentity_ServerID() {
	fmt.Println(Identity{Node: "n1", Dir: "3132333435363738"}.ServerID())
	// Output: n1.3132333435363738
}
