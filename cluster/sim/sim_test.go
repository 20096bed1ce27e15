package sim

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// ordinarySeeds is how many compact storms the ordinary suite has; make sim
// SEEDS=10000 runs more.
const ordinarySeeds = 12

// TestSim runs compact storms, one seed after the other on every core: G1 to G11
// hold in all of them. SEEDS=n runs n, FROM=m begins with the m-th; SEED=n runs that one
// alone, FAULTS=2,5 with these faults of its schedule only.
func TestSim(t *testing.T) {
	if seed := number(t, "SEED"); seed > 0 {
		s, opts := CompactStorm(uint64(seed))
		s.Schedule = only(t, s.draw())
		t.Logf("seed %d:\n%v", seed, s.Schedule)
		h, wrong := Trial(t, s, opts)
		t.Logf("%v: %v, %d reads, %d grants, %d frames", h.Virtual, h.outcomes(), len(h.Reads), len(h.Grants), frames(h))
		report(t, s, opts, wrong)
		return
	}
	first, count := max(1, number(t, "FROM")), ordinarySeeds
	if n := number(t, "SEEDS"); n > 0 {
		count = n
	}
	m := &mass{began: time.Now(), next: uint64(first), last: uint64(first + count - 1), told: time.Now(), faults: map[string]int{}}
	t.Run("seeds", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint("core ", i), func(t *testing.T) {
				t.Parallel()
				for {
					seed, ok := m.take()
					if !ok {
						return
					}
					s, opts := CompactStorm(seed)
					h, wrong := Trial(t, s, opts)
					m.add(s, h, wrong)
					report(t, s, opts, wrong)
				}
			})
		}
	})
	t.Log(m)
	if m.counts[Applied] < 30*count {
		t.Errorf("%d commands were acknowledged: too few to say anything", m.counts[Applied])
	}
}

// only are the faults that FAULTS names, or all.
func only(t *testing.T, all Schedule) Schedule {
	t.Helper()
	names := os.Getenv("FAULTS")
	if names == "" {
		return all
	}
	part := Schedule{}
	for _, name := range strings.Split(names, ",") {
		n, err := strconv.Atoi(name)
		if err != nil || n < 0 || n >= len(all) {
			t.Fatalf("FAULTS=%s: want numbers of 0 to %d, separated by commas", names, len(all)-1)
		}
		part = append(part, all[n])
	}
	return part
}

// mass adds up many trials.
type mass struct {
	began time.Time

	mu         sync.Mutex
	next, last uint64
	told       time.Time // of progress
	ran        int
	failed     []uint64
	virtual    time.Duration
	counts     [4]int // by Outcome
	reads      int
	grants     int
	snapshots  int
	frames     int
	faults     map[string]int
}

// take is the next seed, and tells of progress now and then.
func (m *mass) take() (seed uint64, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.told) > 20*time.Second {
		m.told = time.Now()
		fmt.Fprintf(os.Stderr, "seed %d of %d after %v; failed: %v\n", m.next, m.last, time.Since(m.began).Round(time.Second), m.failed)
	}
	seed = m.next
	m.next++
	return seed, seed <= m.last
}

func (m *mass) add(s Storm, h *History, wrong []error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ran++
	if len(wrong) > 0 {
		m.failed = append(m.failed, s.Seed)
	}
	m.virtual += h.Virtual
	for outcome, n := range h.outcomes() {
		m.counts[outcome] += n
	}
	m.reads += len(h.Reads)
	m.grants += len(h.Grants)
	m.snapshots += h.Installed
	m.frames += frames(h)
	for _, f := range s.draw() {
		m.faults[f.Kind]++
	}
}

func (m *mass) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d seeds, %d failed %v: %.1f virtual hours in %v\n", m.ran, len(m.failed), m.failed, m.virtual.Hours(), time.Since(m.began).Round(time.Second))
	fmt.Fprintf(&b, "%d commands acknowledged, %d refused, %d unknown, %d not applied; %d reads, %d waits for locks ended, %d frames published, %d snapshots installed\n",
		m.counts[Applied], m.counts[Refused], m.counts[Unknown], m.counts[NotApplied], m.reads, m.grants, m.frames, m.snapshots)
	for _, kind := range slices.Sorted(maps.Keys(m.faults)) {
		fmt.Fprintf(&b, "%7d × %s\n", m.faults[kind], kind)
	}
	return b.String()
}

// TestShrink: what is left of a schedule fails, and nothing less does.
func TestShrink(t *testing.T) {
	all := Schedule{}
	for i := range 13 {
		all = append(all, Fault{N: i})
	}
	for _, needed := range [][]int{{}, {0}, {12}, {3, 4}, {0, 6, 12}, {5, 7, 8, 9}} {
		trials := 0
		got := shrink(all, func(part Schedule) bool {
			trials++
			for _, n := range needed {
				if !slices.ContainsFunc(part, func(f Fault) bool { return f.N == n }) {
					return false
				}
			}
			return true
		})
		var left []int
		for _, f := range got {
			left = append(left, f.N)
		}
		if len(needed) > 0 && !slices.Equal(left, needed) || len(left) > max(1, len(needed)) || trials > 60 {
			t.Errorf("of %v %v is left, after %d trials", needed, left, trials)
		}
	}
}
