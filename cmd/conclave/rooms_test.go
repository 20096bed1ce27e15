package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"conclave/client"
)

// manyRooms is a cluster with many rooms of ten entries each. What its test logs
// are, with ROOMS=100000, the figures of docs/operations.md.
type manyRooms struct {
	*testCluster
	rooms int
}

func (m *manyRooms) name(i int) string { return fmt.Sprintf("room-%06d", i) }

// fill opens all rooms, from several clients at every node.
func (m *manyRooms) fill() {
	m.t.Helper()
	begun := time.Now()
	var next, failed atomic.Int64
	var all sync.WaitGroup
	for i := range 24 {
		h := m.http(i % len(m.nodes))
		all.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= m.rooms || failed.Load() > 0 {
					return
				}
				entries := map[string]any{}
				for k := range 10 {
					entries[fmt.Sprintf("key-%d", k)] = map[string]any{
						"room": m.name(n), "number": k, "text": "as much as a pinned message may have to say",
					}
				}
				_, err := h.OpenRoom(m.t.Context(), m.name(n), client.OpenParams{
					Idle: 12 * time.Hour, Stores: map[string]map[string]any{"default": entries},
				})
				if err != nil {
					failed.Add(1)
					m.t.Errorf("open room %d: %v", n, err)
				}
			}
		})
	}
	all.Wait()
	if m.t.Failed() {
		m.t.FailNow()
	}
	took := time.Since(begun)
	m.t.Logf("%d rooms of 10 entries opened in %v: %.0f/s", m.rooms, took.Round(time.Millisecond), float64(m.rooms)/took.Seconds())
}

// list pages through a node's rooms: each is there once, in order.
func (m *manyRooms) list(n *testNode) {
	m.t.Helper()
	h := n.http1()
	defer h.Close()
	begun := time.Now()
	pages, seen, after := 0, 0, ""
	for {
		p, err := h.Rooms(m.t.Context(), "room-", after, 0)
		if err != nil {
			m.t.Fatalf("page %d of the rooms of %s: %v", pages, n.id, err)
		}
		pages++
		for _, r := range p.Rooms {
			if r.Room != m.name(seen) {
				m.t.Fatalf("room %d of %s is %s", seen, n.id, r.Room)
			}
			seen++
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if seen != m.rooms {
		m.t.Fatalf("%s lists %d rooms, want %d", n.id, seen, m.rooms)
	}
	last := m.name(m.rooms - 1)
	page, err := h.List(m.t.Context(), last, client.ListParams{})
	if err != nil || len(page.Entries) != 10 {
		m.t.Fatalf("%s at %s: %+v, %v", last, n.id, page, err)
	}
	m.t.Logf("%s: listed in %d pages in %v", n.id, pages, time.Since(begun).Round(time.Millisecond))
}

// gauge is a figure of a node's /metrics.
func (n *testNode) gauge(name string) float64 {
	n.t.Helper()
	once := http.Client{Transport: &http.Transport{DialContext: dialNode, DisableKeepAlives: true}}
	resp, err := once.Get(n.url() + "/metrics")
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			f, err := strconv.ParseFloat(value, 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return f
		}
	}
	n.t.Fatalf("%s has no %s", n.id, name)
	return 0
}

// snapshots are the node's complete snapshots, and whether one is being written.
func (n *testNode) snapshots() (complete []string, writing bool) {
	names, _ := filepath.Glob(filepath.Join(n.data, "snapshots", "*"))
	for _, name := range names {
		if strings.HasSuffix(name, ".tmp") {
			writing = true
		} else {
			complete = append(complete, name)
		}
	}
	return complete, writing
}

// restart kills nodes and logs how long each takes until it serves again.
func (m *manyRooms) restart(nodes ...*testNode) {
	m.t.Helper()
	for _, n := range nodes {
		n.kill()
	}
	begun := time.Now()
	for _, n := range nodes {
		n.start()
	}
	for _, n := range nodes {
		if !within(5*patience, func() bool {
			resp, err := http.Get(n.url() + "/readyz")
			if err != nil {
				return false
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		}) {
			m.t.Fatalf("%s is not ready", n.id)
		}
		m.t.Logf("%s killed and restarted, of %d at once: ready after %v, of which %.1f s of a processor",
			n.id, len(nodes), time.Since(begun).Round(time.Millisecond), n.gauge("process_cpu_seconds_total"))
	}
}

// stamped is a put's latency, and whether a snapshot was under way meanwhile.
type stamped struct {
	took    time.Duration
	writing bool
}

// putUntilSnapshot has writers at work until every node has taken a snapshot of all
// rooms, and logs the puts' latency while one was being written and else.
func (m *manyRooms) putUntilSnapshot() {
	m.t.Helper()
	m.open("busy")
	ctx, cancel := context.WithCancel(m.t.Context())
	defer cancel()
	var writing atomic.Bool
	samples := make([][]stamped, 8)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for i := range samples {
		r := m.join("busy", i%len(m.nodes))
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				begun, before := time.Now(), writing.Load()
				if _, err := r.Put(ctx, fmt.Sprintf("key-%d", i), n); err != nil {
					if ctx.Err() == nil {
						m.t.Error(err)
					}
					return
				}
				samples[i] = append(samples[i], stamped{time.Since(begun), before || writing.Load()})
			}
		})
	}
	had := map[string][]string{}
	for _, n := range m.nodes {
		had[n.id], _ = n.snapshots()
	}
	var began, wrote time.Duration
	begun := time.Now()
	for len(had) > 0 {
		if time.Since(begun) > 5*patience {
			m.t.Fatal("no snapshots were taken")
		}
		any := false
		for _, n := range m.nodes {
			complete, busy := n.snapshots()
			any = any || busy
			if old, waits := had[n.id]; waits && !busy && len(complete) > 0 && !slices.Equal(old, complete) {
				delete(had, n.id)
			}
		}
		if any && !writing.Load() {
			began = time.Since(begun)
		}
		if !any && writing.Load() {
			wrote += time.Since(begun) - began
		}
		writing.Store(any)
		time.Sleep(2 * time.Millisecond)
	}
	cancel()
	all.Wait()
	var during, others []time.Duration
	for _, s := range slices.Concat(samples...) {
		if s.writing {
			during = append(during, s.took)
		} else {
			others = append(others, s.took)
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "snapshots were being written for %v of %v; puts meanwhile", wrote.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	printLatency(&text, during)
	fmt.Fprint(&text, "and puts else")
	printLatency(&text, others)
	m.t.Log(text.String())
}

// Many rooms: every node lists them page by page, snapshots are taken while writes
// go on, and nodes that were killed come back with all of them.
func TestRooms_many(t *testing.T) {
	m := &manyRooms{rooms: sizeOf(t, "ROOMS", 1000)}
	args := []string{"--snapshot-threshold", "100", "--trailing-logs", "100"}
	if m.rooms < 10_000 {
		args = append(args, "--timeout", "300ms") // of which the time between snapshots is a multiple
	}
	m.testCluster = startCluster(t, 3, args...)
	before := m.nodes[0].gauge("go_memstats_heap_alloc_bytes")
	m.fill()
	for _, n := range m.nodes {
		m.list(n)
	}
	for _, n := range m.nodes {
		t.Logf("%s: %.0f MB in the heap (%.0f at first), %.0f MB resident", n.id,
			n.gauge("go_memstats_heap_alloc_bytes")/1e6, before/1e6, n.gauge("process_resident_memory_bytes")/1e6)
	}
	m.putUntilSnapshot()
	for _, n := range m.nodes {
		complete, _ := n.snapshots()
		if info, err := os.Stat(filepath.Join(complete[len(complete)-1], "state.bin")); err != nil {
			t.Error(err)
		} else {
			t.Logf("%s: a snapshot of %.1f MB", n.id, float64(info.Size())/1e6)
		}
	}
	m.restart(m.other(m.leader()))
	m.restart(m.nodes...)
	for _, n := range m.nodes {
		m.list(n)
	}
}

// printLatency ends a line with the quantiles of what was measured.
func printLatency(out io.Writer, samples []time.Duration) {
	if len(samples) == 0 {
		fmt.Fprintln(out, ": nothing was measured")
		return
	}
	slices.Sort(samples)
	at := func(q float64) time.Duration {
		return samples[min(len(samples)-1, int(q*float64(len(samples))))].Round(time.Microsecond)
	}
	fmt.Fprintf(out, ", p50 %v, p99 %v, max %v (%d samples)\n", at(0.5), at(0.99), at(1), len(samples))
}
