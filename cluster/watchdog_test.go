package cluster

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// slowStore takes its time, and may fail.
type slowStore struct {
	*raft.InmemStore
	takes time.Duration
	err   error
}

func (s *slowStore) do() error {
	time.Sleep(s.takes) // virtual time
	return s.err
}

func (s *slowStore) StoreLogs([]*raft.Log) error    { return s.do() }
func (s *slowStore) StoreLog(*raft.Log) error       { return s.do() }
func (s *slowStore) DeleteRange(_, _ uint64) error  { return s.do() }
func (s *slowStore) Set(_, _ []byte) error          { return s.do() }
func (s *slowStore) SetUint64([]byte, uint64) error { return s.do() }
func (s *slowStore) IsMonotonic() bool              { return true }

// writes are all the ways to write through a watchdog.
func writes(w *watchdog, s *slowStore) map[string]func() error {
	log, stable := w.logStore(s), w.stableStore(s)
	return map[string]func() error{
		"append to the log":   func() error { return log.StoreLogs([]*raft.Log{{Index: 1}}) },
		"append to the log 1": func() error { return log.StoreLog(&raft.Log{Index: 1}) },
		"delete from the log": func() error { return log.DeleteRange(1, 2) },
		"set CurrentTerm":     func() error { return stable.SetUint64([]byte("CurrentTerm"), 1) },
		"set Identity":        func() error { return stable.Set([]byte("Identity"), nil) },
	}
}

func TestWatchdog_TheFirstErrorIsFatalAndFinal(t *testing.T) {
	for name := range writes(newWatchdog(time.Second, nil), &slowStore{}) {
		t.Run(name, func(t *testing.T) {
			var fatal []error
			w := newWatchdog(time.Minute, func(err error) { fatal = append(fatal, err) })
			s := &slowStore{}
			write := writes(w, s)
			if err := write[name](); err != nil || len(fatal) > 0 {
				t.Fatalf("a good write: %v %v", err, fatal)
			}
			s.err = errors.New("input/output error")
			if err := write[name](); !errors.Is(err, s.err) {
				t.Errorf("got %v, want the store's error", err)
			}
			if len(fatal) != 1 || !errors.Is(fatal[0], s.err) || !strings.Contains(fatal[0].Error(), strings.TrimSuffix(name, " 1")) {
				t.Fatalf("fatal %v, want one naming %q", fatal, name)
			}
			s.err = nil
			for other, f := range write {
				if err := f(); err == nil {
					t.Errorf("%s succeeds after the failure", other)
				}
			}
			if len(fatal) != 1 {
				t.Errorf("fatal again: %v", fatal)
			}
		})
	}
}

func TestWatchdog_AHangingWriteIsFatalWhileItHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		fatal := make(chan error, 2)
		w := newWatchdog(10*time.Second, func(err error) { fatal <- err })
		s := &slowStore{takes: time.Hour}
		result := make(chan error)
		go func() { result <- w.logStore(s).StoreLogs(nil) }()
		err := <-fatal
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("fatal after %s, want 10s", took)
		}
		if !strings.Contains(err.Error(), "append to the log") || !strings.Contains(err.Error(), "10s") {
			t.Errorf("fatal %q names neither the operation nor the time", err)
		}
		if got := w.Latency(); got != 10*time.Second {
			t.Errorf("latency %s while the write hangs, want 10s", got)
		}
		if err := w.stableStore(s).Set(nil, nil); err == nil || time.Since(start) != 10*time.Second {
			t.Errorf("another write: %v after %s, want an error at once", err, time.Since(start))
		}
		if err := <-result; err == nil {
			t.Error("the write that hung counts as done")
		}
		if len(fatal) > 0 {
			t.Errorf("fatal again: %v", <-fatal)
		}
	})
}

func TestWatchdog_SlowWritesWithinTheLimitAreFine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatchdog(10*time.Second, func(err error) { t.Errorf("fatal: %v", err) })
		s := &slowStore{takes: 8 * time.Second}
		log := w.logStore(s)
		if err := log.StoreLogs(nil); err != nil {
			t.Fatal(err)
		}
		if got := w.Latency(); got != 8*time.Second {
			t.Errorf("latency %s after the first write, want its 8s", got)
		}
		s.takes = 0
		for range 100 {
			if err := log.StoreLogs(nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.Latency(); got > time.Millisecond {
			t.Errorf("latency %s after a hundred quick writes", got)
		}
		time.Sleep(time.Hour) // no timer is left behind to go off
	})
}

func TestWatchdog_ReadsAndNatureOfTheStorePass(t *testing.T) {
	w := newWatchdog(time.Second, func(err error) { t.Errorf("fatal: %v", err) })
	inner := raft.NewInmemStore()
	if err := w.logStore(inner).StoreLogs([]*raft.Log{{Index: 3, Data: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	var got raft.Log
	if err := w.logStore(inner).GetLog(3, &got); err != nil || string(got.Data) != "x" {
		t.Errorf("got %v %v", got, err)
	}
	if _, err := w.stableStore(inner).Get([]byte("absent")); !isNotFound(err) {
		t.Errorf("got %v, want %q", err, notFound)
	}
	monotonic := func(l raft.LogStore) bool {
		m, ok := l.(raft.MonotonicLogStore)
		return ok && m.IsMonotonic()
	}
	if monotonic(w.logStore(inner)) || !monotonic(w.logStore(&slowStore{})) {
		t.Error("a store's being monotonic is not passed on")
	}
}

// Raft panics when it cannot write its term; the node has said by then why it stops.
func TestTermStore_ATermThatCannotBeWrittenEndsRaftQuietly(t *testing.T) {
	v := termStore{brokenStable{raft.NewInmemStore()}, make(chan struct{})}
	returned, ended := false, make(chan struct{})
	go func() {
		defer close(ended)
		v.SetUint64([]byte("CurrentTerm"), 7)
		returned = true
	}()
	<-ended
	if returned {
		t.Error("raft was told, and would have panicked")
	}
	select {
	case <-v.ended:
	default:
		t.Error("nobody learns that raft has ended")
	}
}

// brokenStable cannot be written.
type brokenStable struct{ raft.StableStore }

func (brokenStable) SetUint64([]byte, uint64) error { return errors.New("input/output error") }
