package main

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// valueBytes is the size of every value.
const valueBytes = 256

// figures are what one run of a workload measured. Rate is operations, or events
// delivered, per second; latencies are in milliseconds. CPU is what all nodes spent
// on one of those operations, user and system, in microseconds. What does not apply
// is 0.
type figures struct {
	Rate    float64 `json:"rate,omitempty"`
	P50     float64 `json:"p50_ms,omitempty"`
	P99     float64 `json:"p99_ms,omitempty"`
	Max     float64 `json:"max_ms,omitempty"`
	CPU     float64 `json:"cpu_us,omitempty"`
	Gaps    int     `json:"gaps,omitempty"`
	Count   int     `json:"count,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

// pace is how long a workload runs.
type pace struct{ warmUp, measure time.Duration }

// workload is one row of the report. Better says which figure it is judged by.
type workload struct {
	name   string
	detail string
	better judged
	run    func(ctx context.Context, r *running, p pace) (figures, error)
}

// judged says what the ratio between two systems is made of.
type judged int

const (
	byRate judged = iota // more is better
	byP50                // less is better
	byP99
	byMax
)

func (j judged) value(f figures) float64 {
	return map[judged]float64{byRate: f.Rate, byP50: f.P50, byP99: f.P99, byMax: f.Max}[j]
}

func (j judged) unit() string {
	return map[judged]string{byRate: "per second", byP50: "p50, ms", byP99: "p99, ms", byMax: "longest, ms"}[j]
}

// workloads are all rows, in the order of the report.
func workloads() []workload {
	var list []workload
	add := func(name, detail string, better judged, run func(context.Context, *running, pace) (figures, error)) {
		list = append(list, workload{name, detail, better, run})
	}
	for _, n := range []int{1, 16, 64, 256, 1024} {
		better := byRate
		if n == 1 {
			better = byP50
		}
		add(fmt.Sprintf("put-%d", n), fmt.Sprintf("put, %d clients, each a key of its own", n), better, closedLoop(n,
			func(ctx context.Context, s session, i int, v []byte) (bool, error) {
				return true, s.put(ctx, fmt.Sprintf("key-%d", i), v)
			}))
	}
	add("put-256-own", "put, 256 clients, each with a connection of its own", byRate, func(ctx context.Context, r *running, p pace) (figures, error) {
		r.share = 256
		return closedLoop(256, func(ctx context.Context, s session, i int, v []byte) (bool, error) {
			return true, s.put(ctx, fmt.Sprintf("key-%d", i), v)
		})(ctx, r, p)
	})
	for _, n := range []int{1, 64} {
		add(fmt.Sprintf("get-%d", n), fmt.Sprintf("linearizable get, %d clients", n), byRate, closedLoop(n,
			func(ctx context.Context, s session, i int, _ []byte) (bool, error) {
				return true, s.get(ctx, fmt.Sprintf("key-%d", i))
			}, func(ctx context.Context, s session, i int, v []byte) error {
				return s.put(ctx, fmt.Sprintf("key-%d", i), v)
			}))
	}
	add("cas-16", "compare-and-set, 16 clients on one key: wins", byRate, closedLoop(16,
		func(ctx context.Context, s session, _ int, v []byte) (bool, error) { return s.cas(ctx, "hot-cas", v) }))
	add("lock-64", "lock and unlock, 64 clients, each a key of its own", byRate, closedLoop(64,
		func(ctx context.Context, s session, i int, _ []byte) (bool, error) {
			return true, lockUnlock(ctx, s, fmt.Sprintf("lock-%d", i))
		}))
	add("lock-hot", "lock and unlock, 16 clients on one key", byRate, closedLoop(16,
		func(ctx context.Context, s session, _ int, _ []byte) (bool, error) {
			return true, lockUnlock(ctx, s, "hot-lock")
		}))
	for _, n := range []int{100, 1000, 5000} {
		add(fmt.Sprintf("watch-%d", n), fmt.Sprintf("events delivered to %d subscribers, as fast as they take them", n), byRate, fanOut(n, 0))
	}
	add("watch-1000-20", "1,000 subscribers, 20 writes/s: from the write to the event", byP99, fanOut(1000, 20))
	add("failover", "longest gap between two writes when the leader is killed, 4 writers", byMax, failover)
	return list
}

func lockUnlock(ctx context.Context, s session, key string) error {
	unlock, err := s.lock(ctx, key)
	if err != nil {
		return err
	}
	return unlock()
}

// dialAll makes n clients.
func dialAll(ctx context.Context, r *running, n int) ([]session, func(), error) {
	sessions := make([]session, n)
	closeAll := func() {
		var wg sync.WaitGroup
		slots := make(chan struct{}, 64)
		for _, s := range sessions {
			if s == nil {
				continue
			}
			wg.Add(1)
			slots <- struct{}{}
			go func() {
				defer wg.Done()
				s.close()
				<-slots
			}()
		}
		wg.Wait()
	}
	err := inParallel(n, func(i int) error {
		var err error
		sessions[i], err = r.dial(ctx, i)
		return err
	})
	if err != nil {
		closeAll()
		return nil, nil, fmt.Errorf("make %d clients: %w", n, err)
	}
	return sessions, closeAll, nil
}

// inParallel runs f for 0 to n-1, some at a time, until one fails.
func inParallel(n int, f func(i int) error) error {
	slots := make(chan struct{}, 32)
	errs := make([]error, n)
	var failed atomic.Bool
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		if failed.Load() {
			break
		}
		wg.Go(func() {
			if errs[i] = f(i); errs[i] != nil {
				failed.Store(true)
			}
			<-slots
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// newHistogram takes microseconds up to a minute, with three digits.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 60_000_000, 3) }

func summarize(h *hdrhistogram.Histogram, f figures) figures {
	f.P50 = float64(h.ValueAtQuantile(50)) / 1000
	f.P99 = float64(h.ValueAtQuantile(99)) / 1000
	f.Max = float64(h.Max()) / 1000
	return f
}

// closedLoop runs n clients, each with one request at a time. An operation that
// counts is one for which op answers true. Each client first does what is to be done
// before, and the operation once, which makes its connection; that is not measured.
func closedLoop(n int, op func(ctx context.Context, s session, i int, value []byte) (bool, error),
	before ...func(ctx context.Context, s session, i int, value []byte) error,
) func(context.Context, *running, pace) (figures, error) {
	return func(ctx context.Context, r *running, p pace) (figures, error) {
		sessions, closeAll, err := dialAll(ctx, r, n)
		if err != nil {
			return figures{}, err
		}
		defer closeAll()
		value := valueOf(0)
		if err := inParallel(n, func(i int) error {
			for _, f := range before {
				if err := f(ctx, sessions[i], i, value); err != nil {
					return err
				}
			}
			_, err := op(ctx, sessions[i], i, value)
			return err
		}); err != nil {
			return figures{}, err
		}
		return r.load(ctx, n, p, func(i int) (bool, error) { return op(ctx, sessions[i], i, value) })
	}
}

// load runs n lanes, each of which does the next thing when the one before is done.
func (r *running) load(ctx context.Context, n int, p pace, op func(lane int) (counted bool, err error)) (figures, error) {
	begin := time.Now().Add(p.warmUp)
	end := begin.Add(p.measure)
	histograms := make([]*hdrhistogram.Histogram, n)
	counts := make([]int, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			h := newHistogram()
			histograms[i] = h
			for {
				sent := time.Now()
				if !sent.Before(end) {
					return
				}
				counted, err := op(i)
				if err != nil {
					errs[i] = err
					return
				}
				if done := time.Now(); counted && !sent.Before(begin) && done.Before(end) {
					counts[i]++
					_ = h.RecordValue(done.Sub(sent).Microseconds()) // within a minute, or the run has failed
				}
			}
		})
	}
	spent, err := r.spent(ctx, begin, end)
	wg.Wait()
	for _, e := range errs {
		if e != nil {
			return figures{}, e
		}
	}
	if err != nil {
		return figures{}, err
	}
	all, total := newHistogram(), 0
	for i := range n {
		all.Merge(histograms[i])
		total += counts[i]
	}
	f := figures{Rate: float64(total) / p.measure.Seconds(), Seconds: p.measure.Seconds()}
	return summarize(all, f.costing(spent, total)), nil
}

// costing shares what the nodes spent out to operations.
func (f figures) costing(spent time.Duration, operations int) figures {
	if operations > 0 {
		f.CPU = float64(spent.Microseconds()) / float64(operations)
	}
	return f
}

// valueOf is a value that begins with a time, in hexadecimal digits.
func valueOf(nanos int64) []byte {
	v := make([]byte, valueBytes)
	for i := range v {
		v[i] = 'x'
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(nanos))
	hex.Encode(v, b[:])
	return v
}

func timeIn(v []byte) (int64, bool) {
	var b [8]byte
	if len(v) < 16 {
		return 0, false
	}
	if _, err := hex.Decode(b[:], v[:16]); err != nil {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(b[:])), true
}

// undelivered bounds what a saturating publisher is ahead of the slowest
// subscriber, so that what is measured is what the system carries rather than how
// long its queues are.
const undelivered = 8

// fanOut publishes on one key, which n subscribers watch: rate times a second, or
// with 0 as fast as all of them take it. Latency counts from before the write.
func fanOut(n, rate int) func(context.Context, *running, pace) (figures, error) {
	return func(ctx context.Context, r *running, p pace) (figures, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		publisher, err := r.dial(ctx, 0)
		if err != nil {
			return figures{}, err
		}
		defer publisher.close()
		if err := publisher.put(ctx, "hot-watched", valueOf(0)); err != nil {
			return figures{}, err
		}
		subscribers, closeAll, err := dialAll(ctx, r, n)
		if err != nil {
			return figures{}, err
		}
		defer closeAll()

		var received, gaps atomic.Int64
		var late lateness
		var measuring atomic.Bool
		moved := make(chan struct{}, 1)
		err = inParallel(n, func(i int) error {
			return subscribers[i].watch(ctx, "hot-watched", func(v []byte) {
				if sent, ok := timeIn(v); ok && sent != 0 {
					if measuring.Load() {
						late.note(i, (time.Now().UnixNano()-sent)/1000)
					}
					if received.Add(1)%int64(n) == 0 {
						select {
						case moved <- struct{}{}:
						default:
						}
					}
				}
			}, func() { gaps.Add(1) })
		})
		if err != nil {
			return figures{}, err
		}

		begin := time.Now().Add(p.warmUp)
		end := begin.Add(p.measure)
		var atBegin int64
		var spentBefore time.Duration
		sent := 0
		for time.Now().Before(end) {
			if !measuring.Load() && !time.Now().Before(begin) {
				if spentBefore, err = r.cpu(); err != nil {
					return figures{}, err
				}
				atBegin = received.Load()
				begin = time.Now()
				measuring.Store(true)
			}
			if rate > 0 {
				select {
				case <-time.After(time.Second / time.Duration(rate)):
				case <-ctx.Done():
				}
			} else if int64(sent)*int64(n)-received.Load() >= int64(undelivered)*int64(n) {
				select {
				case <-moved:
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
				continue
			}
			if err := publisher.put(ctx, "hot-watched", valueOf(time.Now().UnixNano())); err != nil {
				return figures{}, err
			}
			sent++
		}
		measuring.Store(false)
		seconds := time.Since(begin).Seconds()
		delivered := received.Load() - atBegin
		spent, err := r.cpu()
		if err != nil {
			return figures{}, err
		}
		// What is still under way belongs to nobody's measurement, but must arrive.
		for deadline := time.Now().Add(20 * time.Second); received.Load() < int64(sent)*int64(n) && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
		missing := int64(sent)*int64(n) - received.Load()
		if missing != 0 {
			gaps.Add(missing)
		}
		f := figures{Rate: float64(delivered) / seconds, Gaps: int(gaps.Load()), Seconds: seconds}
		return summarize(late.all(), f.costing(spent-spentBefore, int(delivered))), nil
	}
}

// lateness is a histogram that many goroutines write. It has few parts, since one
// for each of ten thousand subscribers would not fit into any cache.
type lateness [16]struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram // nil until something is noted
}

func (l *lateness) note(i int, micros int64) {
	part := &l[i%len(l)]
	part.mu.Lock()
	defer part.mu.Unlock()
	if part.h == nil {
		part.h = newHistogram()
	}
	_ = part.h.RecordValue(max(1, micros))
}

func (l *lateness) all() *hdrhistogram.Histogram {
	all := newHistogram()
	for i := range l {
		l[i].mu.Lock()
		if l[i].h != nil {
			all.Merge(l[i].h)
		}
		l[i].mu.Unlock()
	}
	return all
}

// failover kills the leader while writers write through the other nodes, and
// measures the longest time without an acknowledged write.
func failover(ctx context.Context, r *running, p pace) (figures, error) {
	at, err := r.leader(ctx)
	if err != nil {
		return figures{}, err
	}
	const writers = 4
	sessions := make([]session, 0, writers)
	defer func() {
		for _, s := range sessions {
			s.close()
		}
	}()
	for i := 0; len(sessions) < writers; i++ {
		if i%len(r.procs) == at {
			continue // its clients would have to find another node first
		}
		s, err := r.dial(ctx, i)
		if err != nil {
			return figures{}, err
		}
		sessions = append(sessions, s)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var mu sync.Mutex
	last, longest := time.Now(), time.Duration(0)
	acked := func() {
		mu.Lock()
		defer mu.Unlock()
		longest, last = max(longest, time.Since(last)), time.Now()
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, s := range sessions {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				case <-ctx.Done():
					return
				default:
				}
				// A write that fails or hangs is given up and the next one tried, as long as
				// the cluster needs.
				attempt, done := context.WithTimeout(ctx, 250*time.Millisecond)
				err := s.put(attempt, fmt.Sprintf("failover-%d", i), valueOf(0))
				done()
				if err == nil {
					acked()
				} else {
					time.Sleep(time.Millisecond) // one that fails at once
				}
			}
		}()
	}
	time.Sleep(p.warmUp)
	mu.Lock()
	longest = 0
	mu.Unlock()
	r.procs[at].kill()
	time.Sleep(max(p.measure, 6*time.Second))
	close(stop)
	wg.Wait()
	acked() // a cluster that never came back has its gap until now
	return figures{Max: float64(longest.Microseconds()) / 1000, Seconds: p.measure.Seconds()}, nil
}
