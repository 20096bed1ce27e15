package cluster

import (
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
)

// heldLog is a log in memory whose writes wait until they are let through.
type heldLog struct {
	*raft.InmemStore
	let chan error // an error per write

	mu     sync.Mutex
	writes [][]uint64 // indexes, by write
}

func (s *heldLog) StoreLogs(logs []*raft.Log) error {
	err := <-s.let
	if err != nil {
		return err
	}
	var indexes []uint64
	for _, l := range logs {
		indexes = append(indexes, l.Index)
	}
	s.mu.Lock()
	s.writes = append(s.writes, indexes)
	s.mu.Unlock()
	return s.InmemStore.StoreLogs(logs)
}

func commands(first, last uint64) (logs []*raft.Log) {
	for i := first; i <= last; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: []byte{byte(i)}})
	}
	return logs
}

// leading has a log believe that raft leads.
func leading() (*earlyLog, *heldLog) {
	disk := &heldLog{InmemStore: raft.NewInmemStore(), let: make(chan error)}
	return newEarlyLog(disk, func() bool { return true }), disk
}

func store(t *testing.T, l *earlyLog, logs []*raft.Log) {
	t.Helper()
	if err := l.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

// On a leader, entries are there at once and count when they are on the disk; what
// comes during a write is written together.
func TestEarlyLog_ALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, disk := leading()
		if got := l.Durable(); got != math.MaxUint64 {
			t.Errorf("of nothing, %d is durable", got)
		}
		store(t, l, commands(1, 1))
		synctest.Wait()
		store(t, l, commands(2, 3))
		store(t, l, commands(4, 4))
		var got raft.Log
		for i := uint64(1); i <= 4; i++ {
			if err := l.GetLog(i, &got); err != nil || got.Index != i || got.Data[0] != byte(i) {
				t.Errorf("entry %d: %+v, %v", i, got, err)
			}
		}
		if first, err := l.FirstIndex(); first != 1 || err != nil {
			t.Errorf("begins at %d, %v", first, err)
		}
		if last, err := l.LastIndex(); last != 4 || err != nil {
			t.Errorf("ends at %d, %v", last, err)
		}
		if l.Durable() != 0 {
			t.Errorf("%d is durable", l.Durable())
		}
		waited := make(chan bool)
		go func() { waited <- l.Await(2) }()
		disk.let <- nil
		synctest.Wait()
		select {
		case <-waited:
			t.Error("entry 2 is not on the disk yet")
		default:
		}
		if !l.Await(1) || l.Durable() != 1 {
			t.Errorf("entry 1 is on the disk; %d is durable", l.Durable())
		}
		disk.let <- nil
		if !<-waited {
			t.Error("entry 2 is on the disk")
		}
		synctest.Wait()
		if len(disk.writes) != 2 || len(disk.writes[1]) != 3 || l.Durable() != math.MaxUint64 {
			t.Errorf("written as %v; %d is durable", disk.writes, l.Durable())
		}
	})
}

// What is no command, and everything on a follower, is on the disk when StoreLogs
// returns, and so is what came before; so is what is cut off at the end.
func TestEarlyLog_WaitsForTheDisk(t *testing.T) {
	for name, act := range map[string]func(l *earlyLog) error{
		"a configuration": func(l *earlyLog) error {
			return l.StoreLogs([]*raft.Log{{Index: 3, Term: 1, Type: raft.LogConfiguration}})
		},
		"a command among others": func(l *earlyLog) error {
			return l.StoreLogs(append(commands(3, 3), &raft.Log{Index: 4, Term: 1, Type: raft.LogBarrier}))
		},
		"a follower": func(l *earlyLog) error {
			l.leads = func() bool { return false }
			return l.StoreLog(commands(3, 3)[0])
		},
		"a truncation": func(l *earlyLog) error { return l.DeleteRange(2, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, disk := leading()
				store(t, l, commands(1, 2))
				done := make(chan error, 1)
				go func() { done <- act(l) }()
				synctest.Wait()
				if first, _ := disk.FirstIndex(); first != 0 || len(done) > 0 {
					t.Fatal("it did not wait for the disk")
				}
				disk.let <- nil
				synctest.Wait()
				if name != "a truncation" {
					if len(done) > 0 {
						t.Error("it did not wait for its own write")
					}
					disk.let <- nil
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
				want := uint64(3)
				switch name {
				case "a truncation":
					want = 1
				case "a command among others":
					want = 4
				}
				if last, _ := disk.LastIndex(); last != want {
					t.Errorf("the disk ends at %d, want %d", last, want)
				}
			})
		})
	}
}

// What a snapshot has made needless is deleted while newer entries are written.
func TestEarlyLog_CompactsMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, disk := leading()
		store(t, l, commands(1, 5))
		disk.let <- nil
		synctest.Wait()
		store(t, l, commands(6, 6))
		if err := l.DeleteRange(1, 4); err != nil {
			t.Error(err)
		}
		if first, _ := l.FirstIndex(); first != 5 {
			t.Errorf("begins at %d", first)
		}
		disk.let <- nil
		synctest.Wait()
	})
}

// After a write that failed nothing is written any more, nothing waits for ever, and
// the state machine gets nothing that is not on the disk.
func TestEarlyLog_AWriteThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, disk := leading()
		store(t, l, commands(1, 2))
		disk.let <- nil
		synctest.Wait()
		store(t, l, commands(3, 3))
		synctest.Wait()
		store(t, l, commands(4, 4))
		broken := errors.New("broken")
		disk.let <- broken
		synctest.Wait()
		if !l.Await(2) || l.Await(3) || l.Await(4) || l.Durable() != 2 {
			t.Errorf("2 is the last entry; %d is durable", l.Durable())
		}
		for what, err := range map[string]error{
			"store early": l.StoreLogs(commands(5, 5)), "truncate": l.DeleteRange(3, 4),
			"store a barrier": l.StoreLog(&raft.Log{Index: 5, Type: raft.LogBarrier}),
		} {
			if !errors.Is(err, broken) {
				t.Errorf("%s: %v", what, err)
			}
		}
		m := durableMachine{log: l} // it would panic if it were given anything
		if got := m.ApplyBatch(commands(2, 3)); len(got) != 2 {
			t.Errorf("answers %v", got)
		}
		if _, err := m.Snapshot(); !errors.Is(err, broken) {
			t.Errorf("snapshot: %v", err)
		}
	})
}
