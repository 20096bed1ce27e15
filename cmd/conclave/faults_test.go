package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// The faults of real processes, round by round under a mixed load, with the
// distribution of the write gap: for how long nobody, and each single writer, got a
// write acknowledged. A few rounds belong to the suite, which judges what clients
// saw and never how long it took: `make faults ROUNDS=100` is for the figures.

// rounds are how many times a fault is made.
func rounds(t *testing.T, few int) int {
	s := os.Getenv("ROUNDS")
	if s == "" {
		return few
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("ROUNDS: want a number of 1 or more, got %q", s)
	}
	return n
}

// The rooms' keys in a mixed load.
const (
	sumKey    = "sum"     // added to by all
	casKey    = "cas"     // compared and set by all
	lockedKey = "console" // locked, and written under the lock
)

// mix is several clients on every node, each doing one kind of thing over and over.
type mix struct {
	t    *testing.T
	room string
	ctx  context.Context // ends with stop
	stop context.CancelFunc
	done sync.WaitGroup

	adds, sets atomic.Int64 // acknowledged; unsure ones are not sent by this SDK but retried
	fences     struct {
		sync.Mutex
		seen []uint64 // of acknowledged writes under the lock, in the order of their revisions
		revs []uint64
	}
	putters []*putter
	failed  atomic.Pointer[error]
}

// putter puts 1, 2, 3, … under its own key and notes when each was acknowledged.
type putter struct {
	writer
	r *client.Room

	mu    sync.Mutex
	times []time.Time
}

// startMix starts a mixed load. pace keeps each client below the rate at which a
// session slows its peers down.
func (c *testCluster) startMix(room string, perNode int, pace time.Duration) *mix {
	c.t.Helper()
	ctx, stop := context.WithCancel(c.t.Context())
	m := &mix{t: c.t, room: room, ctx: ctx, stop: stop}
	c.t.Cleanup(func() { stop(); m.done.Wait() })
	start := func(i int, what string, step func(r *client.Room) error) *client.Room {
		r := c.join(room, i)
		m.done.Go(func() {
			for ; ctx.Err() == nil; pause(ctx, pace) {
				if err := step(r); err != nil && ctx.Err() == nil {
					err = fmt.Errorf("%s: %w", what, err)
					m.failed.CompareAndSwap(nil, &err)
					return
				}
			}
		})
		return r
	}
	for i := range c.nodes {
		for j := range perNode {
			p := &putter{writer: writer{key: fmt.Sprintf("putter-%d-%d", i, j)}}
			m.putters = append(m.putters, p)
			p.r = start(i, p.key, func(r *client.Room) error { return p.step(ctx, r) })
		}
		start(i, "add", func(r *client.Room) error {
			_, err := r.Add(ctx, sumKey, 1)
			if err == nil {
				m.adds.Add(1)
			}
			return err
		})
		start(i, "compare and set", func(r *client.Room) error { return m.compareAndSet(ctx, r) })
		start(i, "lock", func(r *client.Room) error { return m.locked(ctx, r) })
	}
	return m
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (p *putter) step(ctx context.Context, r *client.Room) error {
	n := p.acked.Load() + 1
	if _, err := r.Put(ctx, p.key, n); err != nil {
		return fmt.Errorf("put %d: %w", n, err)
	}
	p.acked.Store(n)
	p.mu.Lock()
	p.times = append(p.times, time.Now())
	p.mu.Unlock()
	return nil
}

// compareAndSet counts one further, if nobody else does meanwhile.
func (m *mix) compareAndSet(ctx context.Context, r *client.Room) error {
	e, err := r.Get(ctx, casKey)
	var version uint64
	var n int64
	switch {
	case client.HasCode(err, wire.NotFound):
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(e.Value, &n); err != nil {
			return err
		}
		version = e.Version
	}
	_, err = r.Put(ctx, casKey, n+1, client.IfVersion(version))
	switch {
	case client.HasCode(err, wire.Conflict):
		return nil
	case err == nil:
		m.sets.Add(1)
	}
	return err
}

// locked takes the lock, writes under its fence, and gives it back. A lock that was
// lost meanwhile is no fault.
func (m *mix) locked(ctx context.Context, r *client.Room) error {
	l, err := r.Lock(ctx, lockedKey, client.TTL(5*time.Second))
	if err != nil {
		return lostOr(err)
	}
	w, err := l.Put(ctx, l.Fence())
	if err == nil {
		m.fences.Lock()
		m.fences.seen = append(m.fences.seen, l.Fence())
		m.fences.revs = append(m.fences.revs, w.Rev)
		m.fences.Unlock()
	}
	if err := lostOr(err); err != nil {
		return err
	}
	return lostOr(l.Unlock(ctx))
}

func lostOr(err error) error {
	for _, code := range []wire.Code{wire.NotHolder, wire.StaleFence, wire.LockTimeout, wire.Locked} {
		if client.HasCode(err, code) {
			return nil
		}
	}
	return err
}

// acked is how many puts were acknowledged so far.
func (m *mix) acked() (sum int64) {
	m.t.Helper()
	if err := m.failed.Load(); err != nil {
		m.t.Fatal(*err)
	}
	for _, p := range m.putters {
		sum += p.writer.acked.Load()
	}
	return sum
}

// steady waits until every putter has had some more writes acknowledged, but for
// those that a paused node leaves hanging.
func (m *mix) steady(paused string) {
	m.t.Helper()
	before := make([]int64, len(m.putters))
	for i, p := range m.putters {
		before[i] = p.writer.acked.Load()
	}
	eventually(m.t, "all writers go on", func() bool {
		m.acked()
		for i, p := range m.putters {
			if p.writer.acked.Load() < before[i]+5 && p.r.Node() != paused {
				return false
			}
		}
		return true
	})
}

// gap is the longest time without an acknowledgement around a moment, of all
// putters together and of the one that waited longest.
func (m *mix) gap(from, to time.Time) (all, worst time.Duration) {
	var every []time.Time
	for _, p := range m.putters {
		p.mu.Lock()
		times := slices.Clone(p.times)
		p.mu.Unlock()
		times = slices.DeleteFunc(times, func(t time.Time) bool { return t.Before(from) || t.After(to) })
		worst = max(worst, longest(times))
		every = append(every, times...)
	}
	slices.SortFunc(every, time.Time.Compare)
	return longest(every), worst
}

func longest(times []time.Time) (gap time.Duration) {
	for i := 1; i < len(times); i++ {
		gap = max(gap, times[i].Sub(times[i-1]))
	}
	return gap
}

// check ends the load and compares what is there with what was acknowledged.
func (m *mix) check(h *client.HTTP) {
	m.t.Helper()
	m.stop()
	m.done.Wait()
	m.acked()
	for _, p := range m.putters {
		number, version := m.number(h, p.key)
		// One more may have been applied: the write whose answer nobody awaited.
		if acked := p.writer.acked.Load(); number < acked || number > acked+1 || version != number {
			m.t.Errorf("%s is %d in version %d, but %d was acknowledged last", p.key, number, version, acked)
		}
	}
	for key, acked := range map[string]int64{sumKey: m.adds.Load(), casKey: m.sets.Load()} {
		number, version := m.number(h, key)
		if number < acked || number > acked+int64(len(m.putters)) || version != number {
			m.t.Errorf("%s is %d in version %d, but %d steps were acknowledged", key, number, version, acked)
		}
	}
	order := make([]int, len(m.fences.seen))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(int64(m.fences.revs[a]) - int64(m.fences.revs[b])) })
	for i := 1; i < len(order); i++ {
		if last, next := m.fences.seen[order[i-1]], m.fences.seen[order[i]]; next < last {
			m.t.Errorf("a write under fence %d came after one under %d", next, last)
		}
	}
	if len(order) < 2 {
		m.t.Errorf("only %d writes under the lock: that says nothing", len(order))
	}
}

func (m *mix) number(h *client.HTTP, key string) (n, version int64) {
	m.t.Helper()
	e, err := h.Get(m.t.Context(), m.room, key, client.ReadParams{})
	if err != nil {
		m.t.Errorf("%s: %v", key, err)
		return 0, 0
	}
	if err := json.Unmarshal(e.Value, &n); err != nil {
		m.t.Errorf("%s: %v", key, err)
	}
	return n, int64(e.Version)
}

// faults are what happens to a leader. Each returns what undoes it.
var faults = map[string]func(leader *testNode) (undo func()){
	"killed": func(n *testNode) func() {
		n.kill()
		return n.start
	},
	"paused": func(n *testNode) func() {
		n.signal(syscall.SIGSTOP)
		return func() { n.signal(syscall.SIGCONT) }
	},
	"stopped": func(n *testNode) func() {
		if code := n.stop(); code != 0 {
			n.t.Errorf("%s exited with %d", n.id, code)
		}
		return n.start
	},
}

// runFaults makes one fault after the other under load, and reports the gaps.
func runFaults(t *testing.T, name string, times, perNode int) {
	c := startCluster(t, 3)
	c.open("load")
	var watchers []*watcher
	for i := range c.nodes {
		watchers = append(watchers, c.watch("load", i))
	}
	m := c.startMix("load", perNode, 12*time.Millisecond)
	var all, worst []time.Duration
	for round := range times {
		m.steady("")
		leader := c.leader()
		pause(t.Context(), lead())
		from := time.Now().Add(-50 * time.Millisecond)
		undo := faults[name](leader)
		hanging := ""
		if name == "paused" {
			hanging = leader.id
		}
		m.steady(hanging)
		a, w := m.gap(from, time.Now())
		all, worst = append(all, a), append(worst, w)
		t.Logf("round %d: %s %s; nobody wrote for %v, one writer for %v", round+1, leader.id, name, a, w)
		undo()
		leader.ready()
	}
	m.check(c.http(0))
	for _, w := range watchers {
		for _, p := range m.putters {
			eventually(t, w.name+" sees all of "+p.key, func() bool { return w.reached(p.key, uint64(p.writer.acked.Load())) })
		}
		w.check(t)
	}
	t.Logf("%d leaders %s, %d writers per node, %d writes: nobody wrote for %s; the writer that waited longest, %s",
		times, name, perNode, m.acked(), distribution(all), distribution(worst))
}

// lead is how long a leader leads before its fault, when figures are asked for: one
// that dies in its first second is replaced at raft's pace.
func lead() time.Duration {
	if os.Getenv("ROUNDS") == "" {
		return 0
	}
	return 1200 * time.Millisecond
}

func distribution(d []time.Duration) string {
	slices.Sort(d)
	at := func(p float64) time.Duration { return d[min(int(p*float64(len(d))), len(d)-1)].Round(time.Millisecond) }
	return fmt.Sprintf("p50 %v, p90 %v, p99 %v, max %v", at(.5), at(.9), at(.99), at(1))
}

func TestG1_mixed_load_over_killed_leaders(t *testing.T) { runFaults(t, "killed", rounds(t, 2), 2) }

func TestG1_mixed_load_over_paused_leaders(t *testing.T) { runFaults(t, "paused", rounds(t, 1), 1) }

func TestG1_mixed_load_over_stopped_leaders(t *testing.T) { runFaults(t, "stopped", rounds(t, 1), 1) }
