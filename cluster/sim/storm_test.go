package sim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// seeds are the fixed ones of the ordinary suite; STORMS=n runs the first n, and
// SEED=n that one alone.
func seeds(t *testing.T, fixed int) (list []uint64) {
	if seed := number(t, "SEED"); seed > 0 {
		return []uint64{uint64(seed)}
	}
	if n := number(t, "STORMS"); n > 0 {
		fixed = n
	}
	for seed := range fixed {
		list = append(list, uint64(seed+1))
	}
	return list
}

// number is an environment variable's, 0 if it is not set.
func number(t *testing.T, name string) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s: want a whole number", name, s)
	}
	return n
}

// storm runs a storm in virtual time and judges its history. Of one that fails it
// says which faults it takes.
func storm(t *testing.T, s Storm, opts Options) *History {
	t.Helper()
	began := time.Now()
	h, wrong := Trial(t, s, opts)
	took := time.Since(began)
	report(t, s, opts, wrong)
	counts := h.outcomes()
	t.Logf("seed %d: %v of faults, %v of virtual time in %v: %v, %d reads, %d grants, %d frames", s.Seed, s.Duration, h.Virtual.Round(time.Second),
		took.Round(time.Millisecond), counts, len(h.Reads), len(h.Grants), frames(h))
	if counts[Applied] < 100 || len(h.Reads) < 20 {
		t.Errorf("seed %d: too little happened to say anything", s.Seed)
	}
	return h
}

// report fails the test of a storm that failed, with the seed and as few faults as
// still make it fail.
func report(t *testing.T, s Storm, opts Options, wrong []error) {
	t.Helper()
	if len(wrong) == 0 {
		return
	}
	complain(t, s.Seed, wrong)
	trials := 12
	if s.Compact {
		trials = 60
	}
	part := Shrink(t, s, opts, trials)
	var kept []string
	for _, f := range part {
		kept = append(kept, strconv.Itoa(f.N))
	}
	t.Errorf("again: SEED=%d go test -run '%s' ./cluster/sim; these faults alone, with FAULTS=%s, made it fail too, or nothing less did:\n%v",
		s.Seed, t.Name(), strings.Join(kept, ","), part)
}

func (h *History) outcomes() map[Outcome]int {
	counts := map[Outcome]int{}
	for _, op := range h.Ops {
		counts[op.Outcome]++
	}
	return counts
}

// complain fails a test with the first of some errors.
func complain(t *testing.T, seed uint64, errs []error) {
	t.Helper()
	for i, err := range errs {
		if i == 8 {
			t.Errorf("seed %d: and %d more", seed, len(errs)-i)
			return
		}
		t.Errorf("seed %d: %v", seed, err)
	}
}

func frames(h *History) (n int) {
	for _, s := range h.Segments {
		n += len(s.Frames)
	}
	return n
}

// storms runs one kind of storm with some seeds. With every other seed everything is
// four times as hasty, and logs are short, so that snapshots happen too.
func storms(t *testing.T, fixed int, s Storm, net Conditions, sync time.Duration, hiccups float64) {
	t.Helper()
	for _, seed := range seeds(t, fixed) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			s.Seed, s.Duration = seed, 30*time.Second
			hasty, timeout := seed%2 == 0, time.Second
			if hasty {
				timeout = 250 * time.Millisecond
			}
			storm(t, s, Options{Net: net, Sync: sync, Hiccups: hiccups, Configure: s.configure(timeout, hasty)})
		})
	}
}

// TestStorm runs everything at once under every fault: G1 to G11 hold.
func TestStorm(t *testing.T) { storms(t, 3, Storm{}, Rough, time.Millisecond, 0.01) }

// TestStorm_Lossy runs it on a network that is hardly one.
func TestStorm_Lossy(t *testing.T) { storms(t, 1, Storm{}, Lossy, 3*time.Millisecond, 0.02) }

// TestStorm_Wipes has nodes lose their disks as well, and come back as members
// that were never there before.
func TestStorm_Wipes(t *testing.T) { storms(t, 1, Storm{Wipes: true}, Rough, time.Millisecond, 0.01) }

// TestStorm_Moves has nodes leave for good and new ones take their places, which
// may lose their disks in turn.
func TestStorm_Moves(t *testing.T) {
	storms(t, 1, Storm{Moves: true, Wipes: true}, Rough, time.Millisecond, 0.01)
}

// TestStorm_Calm runs the same workload without a fault.
func TestStorm_Calm(t *testing.T) {
	h := storm(t, Storm{Seed: 1, Duration: 10 * time.Second, Calm: true}, Options{Net: LAN, Sync: time.Millisecond})
	for _, op := range h.Ops {
		if op.Outcome == Unknown || op.Outcome == NotApplied {
			t.Errorf("without a fault: %v", op)
		}
	}
}
