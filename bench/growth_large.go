package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// largeFigures are those of a state of many entries.
type largeFigures struct {
	Rooms    int     `json:"rooms"`
	Entries  int     `json:"entries"`
	FillS    float64 `json:"fill_s"`
	FilledMB float64 `json:"filled_rss_mb"` // of a node, just after
	MostMB   float64 `json:"most_rss_mb"`   // of a node, at any time until its restart

	Rate       int        `json:"puts_per_s"`
	LoadS      float64    `json:"load_s"`
	Snapshots  []duration `json:"snapshots"` // one each time that a node took one
	SnapshotMB float64    `json:"snapshot_mb"`
	During     figures    `json:"during"` // puts while any node wrote a snapshot
	Else       figures    `json:"else"`   // all others

	RestartOneS float64 `json:"restart_one_s"`
	RestartAllS float64 `json:"restart_all_s"`
}

// duration is how long one node took, in seconds.
type duration struct {
	Node    int     `json:"node"`
	Seconds float64 `json:"seconds"`
}

const (
	largeEntries = 1_000_000
	largePerRoom = 1000
	largeRate    = 500 // puts per second, of 64 clients: what a cluster does beside, not what it can do
	largeClients = 64
)

// large fills a cluster, takes snapshots under a modest load, and restarts it.
func (g *grower) large(ctx context.Context, l *largeFigures) error {
	l.Entries, l.Rate = min(largeEntries, g.most), largeRate
	l.Rooms = max(1, l.Entries/largePerRoom)
	// Raft looks every 30 to 60 s whether enough entries have come for a snapshot: of
	// this load always. The replicas' comparison of states is as much work as a snapshot,
	// and would be in the figures without one.
	shape := conclaveShape{voters: nodes, flags: []string{"--snapshot-threshold", "1000", "--compare-interval", "0"}}
	return g.cluster(ctx, shape, 10*time.Minute, func(ctx context.Context, r *running) error {
		begun := time.Now()
		if err := r.fill(ctx, l.Rooms, l.Entries/l.Rooms); err != nil {
			return err
		}
		var err error
		l.FillS = time.Since(begun).Seconds()
		if l.FilledMB, _, err = r.memory(); err != nil {
			return err
		}
		l.FilledMB /= 1e6
		log.Printf("large: %d entries in %.1f s, %.0f MB; now waiting for snapshots, up to two minutes", l.Entries, l.FillS, l.FilledMB)
		if err := l.snapshots(ctx, r); err != nil {
			return err
		}
		if _, l.MostMB, err = r.memory(); err != nil {
			return err
		}
		l.MostMB /= 1e6
		log.Printf("large: snapshots %v of %.0f MB; puts meanwhile %s; else %s", l.Snapshots, l.SnapshotMB, l.During, l.Else)
		leader, err := r.leader(ctx)
		if err != nil {
			return err
		}
		one, err := r.restart(ctx, (leader+1)%nodes)
		if err != nil {
			return err
		}
		all, err := r.restart(ctx, 0, 1, 2)
		if err != nil {
			return err
		}
		l.RestartOneS, l.RestartAllS = one.Seconds(), all.Seconds()
		log.Printf("large: restart of one node %v, of all %v", one, all)
		return nil
	})
}

// timed is one put of an open loop: its time counts from when it was due.
type timed struct {
	due  time.Time
	took time.Duration
}

// snapshots has clients put at a rate until each node has taken a snapshot, and tells
// the puts that met one from the others.
func (l *largeFigures) snapshots(ctx context.Context, r *running) error {
	r.dial = func(ctx context.Context, i int) (session, error) {
		return dialConclave(ctx, r.servers, i, filledRoom(i*l.Rooms/largeClients))
	}
	sessions, closeAll, err := dialAll(ctx, r, largeClients)
	if err != nil {
		return err
	}
	defer closeAll()
	if err := inParallel(len(sessions), func(i int) error { return sessions[i].put(ctx, keyName(0), valueOf(0)) }); err != nil {
		return err
	}
	watched := make([]*snapshotFolder, len(r.procs))
	for i, p := range r.procs {
		watched[i] = &snapshotFolder{path: filepath.Join(p.data, "snapshots")}
		if err := watched[i].look(time.Now()); err != nil {
			return err
		}
	}
	loading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	begin := time.Now()
	load := openLoop{begin: begin, every: time.Second / time.Duration(l.Rate)}
	var putting sync.WaitGroup
	var failed error
	putting.Go(func() {
		failed = load.run(loading, len(sessions), func(lane, n int) error {
			err := sessions[lane].put(ctx, keyName(n%(l.Entries/l.Rooms)), valueOf(0))
			if err != nil {
				stop(err)
			}
			return err
		})
	})
	err = await(loading, watched)
	stop(nil)
	putting.Wait()
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	l.LoadS = time.Since(begin).Seconds()
	var spans []span
	for i, w := range watched {
		spans = append(spans, w.spans...)
		for _, s := range w.spans {
			l.Snapshots = append(l.Snapshots, duration{i, s.end.Sub(s.begin).Seconds()})
		}
		if size, err := w.size(); err == nil {
			l.SnapshotMB = float64(size) / 1e6
		}
	}
	l.During, l.Else = tellApart(load.puts(), spans)
	return nil
}

// await looks at the nodes' folders until each has got another snapshot, and none is
// under way.
func await(ctx context.Context, watched []*snapshotFolder) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	for {
		missing := 0
		for _, w := range watched {
			if err := w.look(time.Now()); err != nil {
				return err
			}
			if len(w.spans) == 0 || !w.since.IsZero() {
				missing++
			}
		}
		if missing == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the snapshots of %d nodes: %w", missing, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// openLoop does something at a rate, whatever it takes.
type openLoop struct {
	begin time.Time
	every time.Duration
	next  atomic.Int64
	mu    sync.Mutex
	all   []timed // guarded by mu
}

// run has lanes do what is due until ctx ends.
func (o *openLoop) run(ctx context.Context, lanes int, do func(lane, n int) error) error {
	return inLanes(lanes, func(lane int) error {
		var mine []timed
		defer func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.all = append(o.all, mine...)
		}()
		for {
			n := int(o.next.Add(1)) - 1
			due := o.begin.Add(time.Duration(n) * o.every)
			select {
			case <-time.After(time.Until(due)):
			case <-ctx.Done():
				return nil
			}
			if err := do(lane, n); err != nil {
				return err
			}
			mine = append(mine, timed{due, time.Since(due)})
		}
	})
}

func (o *openLoop) puts() []timed {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.all
}

// inLanes runs f for 0 to n-1, all at the same time.
func inLanes(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// span is from when a snapshot was begun until it was whole.
type span struct{ begin, end time.Time }

// tellApart makes figures of the puts that were under way during any span, and of
// all others.
func tellApart(puts []timed, spans []span) (during, others figures) {
	with, without := newHistogram(), newHistogram()
	for _, p := range puts {
		h := without
		for _, s := range spans {
			if p.due.Before(s.end) && p.due.Add(p.took).After(s.begin) {
				h = with
			}
		}
		_ = h.RecordValue(p.took.Microseconds()) // within a minute, or the run has failed
	}
	return summarize(with, figures{Count: int(with.TotalCount())}), summarize(without, figures{Count: int(without.TotalCount())})
}

// snapshotFolder is where a node keeps its snapshots; one that is not whole has a
// name that ends in .tmp.
type snapshotFolder struct {
	path   string
	whole  map[string]bool // seen so far; nil before the first look
	since  time.Time       // when one was seen to be written; zero while none is
	looked time.Time
	spans  []span
}

// look notes what has changed since the last look.
func (w *snapshotFolder) look(now time.Time) error {
	entries, err := os.ReadDir(w.path)
	if err != nil {
		return err
	}
	first := w.whole == nil
	if first {
		w.whole = map[string]bool{}
	}
	writing, fresh := false, false
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".tmp") {
			writing = true
		} else if !w.whole[name] {
			w.whole[name], fresh = true, true
		}
	}
	if fresh && !first {
		if w.since.IsZero() {
			w.since = w.looked // written between two looks
		}
		w.spans = append(w.spans, span{w.since, now})
		w.since = time.Time{}
	}
	if !writing {
		w.since = time.Time{}
	} else if w.since.IsZero() {
		w.since = now
	}
	w.looked = now
	return nil
}

// size is that of the largest snapshot, in bytes.
func (w *snapshotFolder) size() (most int64, err error) {
	names, err := filepath.Glob(filepath.Join(w.path, "*", "state.bin"))
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			most = max(most, info.Size())
		}
	}
	return most, err
}
