package sim

import (
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"conclave/cluster"
)

// Trial runs a storm on a cluster of its own in virtual time and returns its
// history with everything that is wrong with it. It fails no test: the storm may be
// one of many tries.
func Trial(t *testing.T, s Storm, opts Options) (h *History, wrong []error) {
	t.Helper()
	v := &verdict{}
	var bubble string
	defer func() {
		if p := recover(); p != nil { // synctest's own: nothing moves any more, or goroutines are left
			panic(fmt.Sprintf("seed %d: %v\n%v\n%v\n%s", s.Seed, p, s.draw(), errors.Join(v.wrong...), stuck(bubble)))
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		v.TB, bubble = t, bubbleName()
		h = NewHistory()
		opts.Seed, opts.History = s.Seed, h
		over := make(chan struct{})
		go func() { // which may end amid everything
			defer close(over)
			s.Run(Start(v, opts), h)
		}()
		<-over
	})
	return h, append(v.wrong, h.Check()...)
}

// bubbleName is what stack traces call this goroutine's bubble.
func bubbleName() string {
	buf := make([]byte, 200)
	return regexp.MustCompile(`synctest bubble \d+`).FindString(string(buf[:runtime.Stack(buf, false)]))
}

// stuck are the goroutines that a bubble has left, as a stack trace has them.
func stuck(bubble string) string {
	buf := make([]byte, 16<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var found []string
	for _, goroutine := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(goroutine, bubble+"]") {
			found = append(found, goroutine)
		}
	}
	return strings.Join(found[:min(len(found), 20)], "\n\n")
}

// verdict is the test that a trial's cluster belongs to. It notes failures.
type verdict struct {
	testing.TB

	mu    sync.Mutex
	wrong []error
}

func (v *verdict) Errorf(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.wrong = append(v.wrong, fmt.Errorf(format, args...))
}

func (v *verdict) Fatalf(format string, args ...any) {
	v.Errorf(format, args...)
	runtime.Goexit()
}

func (v *verdict) Error(args ...any) { v.Errorf("%s", fmt.Sprint(args...)) }
func (v *verdict) Fatal(args ...any) { v.Fatalf("%s", fmt.Sprint(args...)) }

// Shrink makes the schedule of a storm that fails shorter while it still fails,
// within so many trials: it leaves out halves, then smaller parts, then single
// faults. A seed does not fix how goroutines interleave, so a part counts as
// innocent only after it passed twice.
func Shrink(t *testing.T, s Storm, opts Options, trials int) Schedule {
	t.Helper()
	full := s.Schedule
	if full == nil {
		full = s.draw()
	}
	return shrink(full, func(part Schedule) bool {
		for range 2 {
			if trials--; trials < 0 {
				return false
			}
			s.Schedule = part
			if _, wrong := Trial(t, s, opts); len(wrong) > 0 {
				return true
			}
		}
		return false
	})
}

// shrink is the search: it returns a part that fails.
func shrink(full Schedule, fails func(Schedule) bool) Schedule {
	for size := (len(full) + 1) / 2; size > 0; size /= 2 {
		for from := 0; from < len(full); {
			part := slices.Concat(Schedule{}, full[:from], full[min(len(full), from+size):])
			if len(full) > 1 && fails(part) {
				full = part
			} else {
				from += size
			}
		}
	}
	return full
}

// CompactStorm is the storm of a seed for mass runs, with the cluster it is for:
// among them are good and bad networks, three and five nodes, short logs that have
// snapshots taken and installed, disks that are wiped, and nodes that come and go.
func CompactStorm(seed uint64) (Storm, Options) {
	s := Storm{Seed: seed, Duration: 4500 * time.Millisecond, Compact: true, Wipes: seed%7 == 3, Moves: seed%9 == 4}
	opts := Options{
		Net: []Conditions{LAN, Rough, Rough, Lossy}[seed%4], Sync: time.Millisecond, Hiccups: 0.005,
		Configure: s.configure(150*time.Millisecond, seed%3 > 0),
	}
	if seed%8 == 5 {
		opts.Nodes = 5
	}
	if configure := opts.Configure; seed%2 == 1 { // a leader that is paused stands still then
		opts.Configure = func(cfg *cluster.Config) {
			configure(cfg)
			cfg.WriteFirst = true
		}
	}
	return s, opts
}
