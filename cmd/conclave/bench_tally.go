package main

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"conclave/client"
	"conclave/client/wire"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// tally is what a run has measured so far: for each kind of operation, how long each
// took. It is written from many goroutines.
//
// What counts is what was due in the measured time, whenever its answer came; all
// that was begun is waited for, so nothing slow is left out.
type tally struct {
	start, begin, end time.Time // of the run, and of what is measured

	mu      sync.Mutex
	rows    []*tallyRow // guarded by mu; in the order of the report
	running bool        // all is set up; guarded by mu
}

// stripes is a power of two: that many can be noted at the same time.
const stripes = 8

// longestNoted is the longest time that a histogram tells from longer ones.
const longestNoted = 10 * time.Minute

// tallyRow is one kind of operation.
type tallyRow struct {
	name   string
	noted  atomic.Int64 // answered, for the progress
	inTime atomic.Int64 // answered within the measured time
	// busy is the time that its rate counts by if that is not the measured time,
	// for what happens in rounds; in nanoseconds.
	busy   atomic.Int64
	stripe [stripes]struct {
		mu sync.Mutex
		h  *hdrhistogram.Histogram // nil before the first
	}

	mu     sync.Mutex
	errors map[string]int64 // by code; guarded by mu
}

// newTally makes the tally of a run that is yet to be set up.
func newTally() *tally { return &tally{start: time.Now()} }

// begins starts the clock, once all is set up.
func (t *tally) begins(b *bench) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.start, t.running = time.Now(), true
	t.begin = t.start.Add(b.warmUp)
	t.end = t.begin.Add(b.duration)
}

// row makes a kind of operation.
func (t *tally) row(name string) *tallyRow {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &tallyRow{name: name, errors: map[string]int64{}}
	t.rows = append(t.rows, r)
	return r
}

// measures reports whether what is due at a time counts.
func (t *tally) measures(due time.Time) bool { return !due.Before(t.begin) && due.Before(t.end) }

// note notes that an operation has ended now that was due, or begun, at since. who
// spreads the callers.
func (t *tally) note(r *tallyRow, who int, counts bool, since time.Time) {
	now := time.Now()
	if t.measures(now) {
		r.inTime.Add(1)
	}
	r.note(who, counts, now.Sub(since))
}

// note notes an operation, and how long it took if it counts.
func (r *tallyRow) note(who int, counts bool, took time.Duration) {
	if r.noted.Add(1); !counts {
		return
	}
	s := &r.stripe[who%stripes]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.h == nil {
		s.h = newHistogram()
	}
	_ = s.h.RecordValue(int64(min(max(took, 0), longestNoted))) // within its bounds
}

// newHistogram takes nanoseconds, with three digits.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(longestNoted), 3) }

// whole is everything that was recorded.
func (r *tallyRow) whole() *hdrhistogram.Histogram {
	all := newHistogram()
	for i := range r.stripe {
		s := &r.stripe[i]
		s.mu.Lock()
		if s.h != nil {
			all.Merge(s.h)
		}
		s.mu.Unlock()
	}
	return all
}

// failed counts an operation that failed, by the code of its error.
func (r *tallyRow) failed(err error) {
	code := "failed"
	var refused *wire.Error
	var interrupted *client.InterruptedError
	switch {
	case errors.As(err, &refused):
		code = string(refused.Code)
	case errors.As(err, &interrupted):
		code = "no_answer" // within --patience
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors[code]++
}

func (r *tallyRow) failures() (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, many := range r.errors {
		n += many
	}
	return n
}
