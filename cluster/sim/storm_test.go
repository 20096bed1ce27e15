package sim

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"conclave/cluster"
)

// seeds are the fixed ones of the ordinary suite; SEEDS=n runs the first n, and
// SEED=n that one alone.
func seeds(t *testing.T, fixed int) (list []uint64) {
	if s := os.Getenv("SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return []uint64{seed}
	}
	if s := os.Getenv("SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		fixed = n
	}
	for seed := range fixed {
		list = append(list, uint64(seed+1))
	}
	return list
}

// storm runs a workload under faults in virtual time and judges its history,
// outside the bubble.
func storm(t *testing.T, s Storm, opts Options) *History {
	t.Helper()
	var h *History
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		h = NewHistory()
		opts.Seed, opts.History = s.Seed, h
		s.Run(Start(t, opts), h)
	})
	ran := time.Since(began)
	complain(t, s.Seed, h.Check())
	counts := map[Outcome]int{}
	for _, op := range h.Ops {
		counts[op.Outcome]++
	}
	t.Logf("seed %d: %v in %v, checked in %v: %v, %d reads, %d grants, %d frames", s.Seed, s.Duration, ran.Round(time.Millisecond),
		(time.Since(began) - ran).Round(time.Millisecond), counts, len(h.Reads), len(h.Grants), frames(h))
	if counts[Applied] < 100 || len(h.Reads) < 20 {
		t.Errorf("seed %d: too little happened to say anything", s.Seed)
	}
	return h
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

// TestStorm runs everything at once under every fault: G1 to G11 hold. With every
// other seed everything is four times as hasty, so that snapshots happen too.
func TestStorm(t *testing.T) {
	for _, seed := range seeds(t, 3) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			storm(t, Storm{Seed: seed, Duration: 30 * time.Second}, Options{
				Net: Rough, Sync: time.Millisecond, Hiccups: 0.01, Configure: hasty(seed%2 == 0),
			})
		})
	}
}

// hasty shortens timeouts and logs.
func hasty(yes bool) func(*cluster.Config) {
	return func(cfg *cluster.Config) {
		if yes {
			cfg.Timeout, cfg.SnapshotThreshold, cfg.TrailingLogs = 250*time.Millisecond, 100, 20
		}
	}
}

// TestStorm_Lossy runs it on a network that is hardly one.
func TestStorm_Lossy(t *testing.T) {
	for _, seed := range seeds(t, 1) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			storm(t, Storm{Seed: 1000 + seed, Duration: 30 * time.Second}, Options{
				Net: Conditions{
					Delay: time.Millisecond, Jitter: 15 * time.Millisecond,
					Spike: 0.05, Loss: 0.05, Duplicate: 0.1, Reset: 0.03,
				},
				Sync: 3 * time.Millisecond, Hiccups: 0.02, Configure: hasty(seed%2 == 0),
			})
		})
	}
}

// TestStorm_Wipes has nodes lose their disks as well, and come back as members
// that were never there before.
func TestStorm_Wipes(t *testing.T) {
	for _, seed := range seeds(t, 1) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			storm(t, Storm{Seed: 2000 + seed, Duration: 30 * time.Second, Wipes: true}, Options{
				Net: Rough, Sync: time.Millisecond, Hiccups: 0.01, Configure: hasty(seed%2 == 0),
			})
		})
	}
}

// TestStorm_Moves has nodes leave for good and new ones take their places, which
// may lose their disks in turn.
func TestStorm_Moves(t *testing.T) {
	for _, seed := range seeds(t, 1) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			storm(t, Storm{Seed: 3000 + seed, Duration: 30 * time.Second, Moves: true, Wipes: true}, Options{
				Net: Rough, Sync: time.Millisecond, Hiccups: 0.01, Configure: hasty(seed%2 == 0),
			})
		})
	}
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
