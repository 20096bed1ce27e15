package sim

import (
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// TestDisk_Crash: what a write that returned has written survives; of one under
// way all or nothing does, by the seed; and what the dead process does later has
// no effect.
func TestDisk_Crash(t *testing.T) {
	survived := map[bool]int{}
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			disk := NewDisk(rand.New(rand.NewPCG(seed, 1)), 10*time.Millisecond, 0)
			vol := disk.Open()
			if err := vol.StoreLogs([]*raft.Log{{Index: 1}, {Index: 2}}); err != nil {
				t.Fatal(err)
			}
			if err := vol.SetUint64([]byte("term"), 7); err != nil {
				t.Fatal(err)
			}
			written := make(chan error)
			go func() { written <- vol.StoreLogs([]*raft.Log{{Index: 3}, {Index: 4}}) }()
			time.Sleep(time.Millisecond)
			disk.Crash()
			after := disk.Open()
			if err := <-written; err != nil {
				t.Error(err)
			}
			vol.SetUint64([]byte("term"), 99)

			term, err := after.GetUint64([]byte("term"))
			if err != nil || term != 7 {
				t.Errorf("the term is %d, %v", term, err)
			}
			last, _ := after.LastIndex()
			if last != 2 && last != 4 {
				t.Errorf("the log ends at %d: half a write", last)
			}
			survived[last == 4]++
		})
	}
	if survived[true] == 0 || survived[false] == 0 {
		t.Errorf("of the writes under way %v survived: always the same", survived)
	}
}

// TestDisk_Durable: a write returns when it is durable, not before.
func TestDisk_Durable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := NewDisk(rand.New(rand.NewPCG(1, 1)), 10*time.Millisecond, 0)
		start := time.Now()
		if err := disk.Open().Set([]byte("k"), []byte("v")); err != nil || time.Since(start) < 10*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		disk.Hang()
		time.AfterFunc(time.Minute, disk.Work)
		if disk.Open().Set([]byte("k"), []byte("w")); time.Since(start) < time.Minute {
			t.Errorf("a hanging write returned after %v", time.Since(start))
		}
		disk.Fail(errors.New("broken"))
		if err := disk.Open().StoreLog(&raft.Log{Index: 1}); err == nil {
			t.Error("a failing write did not fail")
		}
		disk.Wipe()
		if _, err := disk.Open().Get([]byte("k")); err == nil || err.Error() != "not found" {
			t.Errorf("a wiped disk answers %v", err)
		}
	})
}

// TestDisk_Log: ranges, gaps and overwriting, as raft uses them.
func TestDisk_Log(t *testing.T) {
	vol := NewDisk(rand.New(rand.NewPCG(1, 1)), 0, 0).Open()
	ends := func(first, last uint64) {
		t.Helper()
		gotFirst, _ := vol.FirstIndex()
		gotLast, _ := vol.LastIndex()
		if gotFirst != first || gotLast != last {
			t.Errorf("the log is %d to %d, want %d to %d", gotFirst, gotLast, first, last)
		}
	}
	ends(0, 0)
	for i := range uint64(10) {
		vol.StoreLog(&raft.Log{Index: i + 1, Term: 1})
	}
	vol.DeleteRange(1, 3)
	ends(4, 10)
	vol.DeleteRange(8, 10)
	ends(4, 7)
	vol.StoreLog(&raft.Log{Index: 7, Term: 2})
	vol.StoreLog(&raft.Log{Index: 100, Term: 3})
	ends(4, 100)
	var log raft.Log
	if err := vol.GetLog(7, &log); err != nil || log.Term != 2 {
		t.Errorf("entry 7: %+v, %v", log, err)
	}
	if err := vol.GetLog(50, &log); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("entry 50: %v", err)
	}
	vol.DeleteRange(1, 100)
	ends(0, 0)
}

// TestDisk_Snapshots: a snapshot is there once it is closed, newest first, two of
// them; a crash leaves nothing of one that is being written.
func TestDisk_Snapshots(t *testing.T) {
	disk := NewDisk(rand.New(rand.NewPCG(1, 1)), 0, 0)
	store := disk.Open().Snapshots()
	write := func(index uint64) raft.SnapshotSink {
		sink, err := store.Create(1, index, 1, raft.Configuration{}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(sink, "content")
		return sink
	}
	for i := range uint64(3) {
		write(i + 1).Close()
	}
	write(8).Cancel()
	write(9)
	disk.Crash()
	store = disk.Open().Snapshots()
	metas, err := store.List()
	if err != nil || len(metas) != 2 || metas[0].Index != 3 || metas[1].Index != 2 {
		t.Fatalf("%v, %v", metas, err)
	}
	meta, content, err := store.Open(metas[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(content)
	if string(data) != "content" || meta.Size != int64(len(data)) {
		t.Errorf("%q, %d bytes by its meta", data, meta.Size)
	}
	if _, _, err := store.Open("other"); err == nil {
		t.Error("opened a snapshot that is not there")
	}
}
