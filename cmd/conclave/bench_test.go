package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"conclave/client"
	"conclave/client/wire"
)

// benchOf is a benchmark of a cluster as flags would make it, but that tests look at
// its rooms before they end. All that it does counts: there is no warm-up.
func benchOf(c *testCluster, n crowding) *bench {
	return &bench{
		connection: connection{servers: c.urls(0), patience: patience}, crowding: n,
		size: 64, profile: "large", prefix: "bench-test",
	}
}

// counted runs a workload for longer and longer until it has done something, and
// gives the counts by kind of operation to check, which looks at the cluster.
func counted(t *testing.T, b *bench, w *work, check func(t *testing.T, counts map[string]int64, rooms *benchRooms)) {
	t.Helper()
	for b.duration = 200 * time.Millisecond; ; b.duration *= 4 {
		rooms, err := b.openRooms(t.Context(), b.rooms)
		if err != nil {
			t.Fatal(err)
		}
		tally := newTally()
		lanes, err := b.lanes(t.Context(), rooms, w, tally)
		if err != nil {
			t.Fatal(err)
		}
		tally.begins(b)
		if _, err := b.drive(t.Context(), lanes, w, tally); err != nil {
			t.Fatal(err)
		}
		report := b.report(w.name, len(rooms.names), tally)
		counts, sum := map[string]int64{}, int64(0)
		for _, o := range report.Operations {
			counts[o.Operation] = o.Count
			sum += o.Count
			if len(o.Errors) > 0 {
				t.Errorf("%s has errors: %v", o.Operation, o.Errors)
			}
		}
		if sum > 0 {
			check(t, counts, rooms)
		}
		if err := rooms.close(); err != nil {
			t.Error(err)
		}
		for _, name := range rooms.names {
			if _, err := rooms.http.Room(t.Context(), name); !client.HasCode(err, wire.NoSession) {
				t.Errorf("room %s after the run: %v", name, err)
			}
		}
		if sum > 0 {
			return
		}
		if b.duration > patience {
			t.Fatal("nothing was done")
		}
	}
}

// versions are the sums of the versions of keys, that is, how often they were
// written, by the beginning of their names.
func versions(t *testing.T, rooms *benchRooms, of ...string) map[string]int64 {
	t.Helper()
	sums := map[string]int64{}
	for _, room := range rooms.names {
		for e, err := range rooms.http.AllEntries(t.Context(), room, client.ListParams{}) {
			if err != nil {
				t.Fatal(err)
			}
			for _, begin := range of {
				if strings.HasPrefix(e.Key, begin) {
					sums[begin] += int64(e.Version)
				}
			}
		}
	}
	return sums
}

// What a workload says that it has done is what the cluster has seen.
func TestBench_counts_what_was_done(t *testing.T) {
	c := startCluster(t, 1)
	n := crowding{connections: 6, inFlight: 2, rooms: 3}
	lanes := int64(n.connections * n.inFlight)
	equal := func(t *testing.T, what string, got, want int64) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	t.Run("put", func(t *testing.T) {
		counted(t, benchOf(c, n), putWork(), func(t *testing.T, counts map[string]int64, rooms *benchRooms) {
			equal(t, "puts", counts["put"], versions(t, rooms, "key-")["key-"])
		})
	})
	t.Run("put at a rate", func(t *testing.T) {
		at := n
		at.rate = 200
		counted(t, benchOf(c, at), putWork(), func(t *testing.T, counts map[string]int64, rooms *benchRooms) {
			equal(t, "puts", counts["put"], versions(t, rooms, "key-")["key-"])
		})
	})
	for _, w := range []*work{getWork("get"), getWork("get-stale", client.Stale())} {
		t.Run(w.name, func(t *testing.T) {
			counted(t, benchOf(c, n), w, func(t *testing.T, _ map[string]int64, rooms *benchRooms) {
				equal(t, "writes of the keys that are read", versions(t, rooms, "key-")["key-"], lanes)
			})
		})
	}
	t.Run("cas", func(t *testing.T) {
		counted(t, benchOf(c, n), casWork(2), func(t *testing.T, counts map[string]int64, rooms *benchRooms) {
			equal(t, "won", counts["won"], versions(t, rooms, "hot-")["hot-"])
		})
	})
	t.Run("txn", func(t *testing.T) {
		counted(t, benchOf(c, n), txnWork(3), func(t *testing.T, counts map[string]int64, rooms *benchRooms) {
			equal(t, "puts of transactions", 3*counts["txn"], versions(t, rooms, "key-")["key-"]-lanes)
		})
	})
	for _, hot := range []bool{false, true} {
		t.Run(fmt.Sprintf("lock, hot: %v", hot), func(t *testing.T) {
			n := n
			n.inFlight = 1
			counted(t, benchOf(c, n), lockWork(hot), func(t *testing.T, counts map[string]int64, rooms *benchRooms) {
				equal(t, "locks", counts["lock"], counts["unlock"])
				for _, room := range rooms.names {
					if left, err := rooms.http.Locks(t.Context(), room); err != nil || len(left) > 0 {
						t.Errorf("locks that are left in %s: %v, %v", room, left, err)
					}
				}
			})
		})
	}
	t.Run("mixed", func(t *testing.T) {
		w, err := mixWork(map[string]int{"put": 2, "cas": 1, "get": 1})
		if err != nil {
			t.Fatal(err)
		}
		counted(t, benchOf(c, n), w, func(t *testing.T, counts map[string]int64, rooms *benchRooms) {
			got := versions(t, rooms, "key-", "hot-")
			equal(t, "puts", counts["put"], got["key-"]-lanes) // each lane has made the key that it reads
			equal(t, "won", counts["won"], got["hot-"])
		})
	})
	t.Run("watch", func(t *testing.T) { benchWatchAddsUp(t, c) })
	t.Run("join", func(t *testing.T) {
		r := benchJSON(t, c, "join", "--connections", "8", "--rooms", "2", "--duration", "100ms", "--warm-up", "0s")
		want := 8 * r.Counts["rounds"]
		for _, o := range r.Operations {
			equal(t, o.Operation, o.Count, want)
		}
		equal(t, "came back", r.Counts["resumed"]+r.Counts["rejoined"], want)
		if len(r.Operations) != 4 || want == 0 {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("ephemeral", func(t *testing.T) {
		r := benchJSON(t, c, "ephemeral", "--clients", "2", "--peers", "3", "--duration", "400ms", "--warm-up", "100ms")
		equal(t, "revisions", r.Counts["revisions"], r.Counts["puts"])
	})
	t.Run("what no run can do ends it", func(t *testing.T) {
		_, stderr, code := c.conclave(c.urls(0), "bench", "put", "--connections", "2", "--profile", "100ms", "--size", "2000", "--prefix", "too-large")
		if code != exitRefused || !strings.HasPrefix(stderr, "limit_exceeded") {
			t.Errorf("exit code %d, %s", code, stderr)
		}
		noRooms(t, c, "too-large")
	})
	t.Run("Ctrl-C", func(t *testing.T) { benchInterrupted(t, c) })
}

// benchJSON runs a workload by its command line.
func benchJSON(t *testing.T, c *testCluster, args ...string) *benchReport {
	t.Helper()
	prefix := "cli-" + args[0]
	stdout, stderr, code := c.conclave(c.urls(0), append([]string{"bench", "--json", "--prefix", prefix}, args...)...)
	if code != 0 {
		t.Fatalf("bench %v: exit code %d: %s", args, code, stderr)
	}
	r := new(benchReport)
	if err := json.Unmarshal([]byte(stdout), r); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	if r.Workload != args[0] || r.Interrupted {
		t.Errorf("got %+v", r)
	}
	for _, o := range r.Operations {
		l := o.Latency
		if len(o.Errors) > 0 || o.Count > 0 && !(0 < l.P50 && l.P50 <= l.P90 && l.P90 <= l.P99 && l.P99 <= l.P999 && l.P999 <= l.Max) {
			t.Errorf("got %+v", o)
		}
	}
	noRooms(t, c, prefix)
	return r
}

// noRooms checks that a run has ended the rooms that it made.
func noRooms(t *testing.T, c *testCluster, prefix string) {
	t.Helper()
	page, err := c.http(0).Rooms(t.Context(), prefix, "", 10)
	if err != nil || len(page.Rooms) > 0 {
		t.Errorf("rooms that are left: %v, %v", page, err)
	}
}

func benchWatchAddsUp(t *testing.T, c *testCluster) {
	for _, rate := range []string{"0", "100"} {
		r := benchJSON(t, c, "watch", "--subscribers", "6", "--rooms", "2", "--rate", rate, "--duration", "400ms", "--warm-up", "100ms", "--patience", "60s")
		n := r.Counts
		if got, want := n["delivered"]+n["gaps"]+n["skipped"]+n["undelivered"], 3*n["published"]; got != want {
			t.Errorf("rate %s: %d changes for subscribers are accounted for, want %d: %v", rate, got, want, n)
		}
		if n["gaps"] != 0 || n["doubles"] != 0 || n["undelivered"] != 0 {
			t.Errorf("rate %s: got %v", rate, n)
		}
	}
}

// A run that is ended by hand tells what it has measured, and tidies up.
func benchInterrupted(t *testing.T, c *testCluster) {
	cmd := exec.Command(binary, "bench", "put", "--connections", "2", "--rooms", "1", "--warm-up", "0s", "--duration", "1h",
		"--progress", "--json", "--prefix", "interrupted", "--server", c.urls(0)[0])
	var out bytes.Buffer
	cmd.Stdout, cmd.SysProcAttr = &out, childAttr()
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	killer := time.AfterFunc(2*patience, func() { cmd.Process.Kill() })
	defer killer.Stop()
	var lines []string
	for s, told := bufio.NewScanner(progress), false; s.Scan(); {
		lines = append(lines, s.Text())
		if !told && strings.Contains(s.Text(), " p99 ") { // something was measured
			told = true
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, strings.Join(lines, "\n"))
	}
	var r benchReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if !r.Interrupted || r.Operations[0].Count == 0 || r.Seconds <= 0 || r.Seconds >= 3600 {
		t.Errorf("got %+v", r)
	}
	noRooms(t, c, "interrupted")
}

// A pause of the cluster is in the figures of everything that fell due in it, not
// only of the one request that met it.
func TestBench_a_rate_counts_what_waits_behind_a_pause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pause, rate = 400 * time.Millisecond, 100.0
		b := &bench{crowding: crowding{connections: 1, inFlight: 1, rate: rate}, duration: pause + 100*time.Millisecond}
		b.patience = patience
		tally := newTally()
		tally.begins(b)
		row := tally.row("op")
		l := &lane{rows: map[string]*tallyRow{"op": row}, doing: "op", tally: tally}
		paused := false
		w := &work{do: func(context.Context, *lane) error {
			if !paused {
				paused = true
				time.Sleep(pause)
			}
			l.took("op")
			return nil
		}}
		missed, err := b.drive(t.Context(), []*lane{l}, w, tally)
		if err != nil {
			t.Fatal(err)
		}
		h := row.whole()
		late := int64(0)
		for _, bar := range h.Distribution() {
			if bar.From >= int64(pause/4) {
				late += bar.Count
			}
		}
		// Those due in its first three quarters waited for at least a quarter of it;
		// which of them were begun before the end is up to the machine.
		if due := int64(rate * (3 * pause / 4).Seconds()); late+missed < due {
			t.Errorf("%d were late and %d not begun, of %d that fell due in the pause", late, missed, due)
		}
	})
}

func TestPacer_between(t *testing.T) {
	start := time.Now()
	p := &pacer{start: start, rate: 10}
	for _, tt := range []struct {
		from, to time.Duration
		want     int64
	}{{0, time.Second, 10}, {time.Second, 3 * time.Second, 20}, {-time.Second, time.Second, 10}, {time.Second, 0, 0}} {
		if got := p.between(start.Add(tt.from), start.Add(tt.to)); got != tt.want {
			t.Errorf("from %v to %v: %d, want %d", tt.from, tt.to, got, tt.want)
		}
	}
}

// What does not come, comes twice or is jumped over is seen.
func TestSubscriber_change(t *testing.T) {
	s := &subscriber{feed: &feed{subscribers: 1, moved: make(chan struct{}, 1)}}
	s.feed.published.Store(12)
	snapshot := func(n int64) *wire.Snapshot {
		value, _ := json.Marshal(stamp(n, 0))
		return &wire.Snapshot{Stores: map[string][]wire.Entry{"default": {{Key: feedKey, Value: value}}}}
	}
	if err := s.restart(&wire.Snapshot{}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{1, 2, 5, 5, 4, 6} {
		s.change(n)
	}
	if err := s.restart(snapshot(9)); err != nil {
		t.Fatal(err)
	}
	s.change(10)
	counts := map[string]int64{}
	countWatch(counts, []*feed{s.feed}, []*subscriber{s})
	want := map[string]int64{
		"published": 12, "delivered": 5, "gaps": 2, "doubles": 2, "skipped": 3, "resets": 1, "undelivered": 2,
	}
	for name, n := range want {
		if counts[name] != n {
			t.Errorf("%s: %d, want %d", name, counts[name], n)
		}
	}
	if err := s.restart(&wire.Snapshot{Stores: map[string][]wire.Entry{"default": {{Key: feedKey, Value: []byte(`"x"`)}}}}); err == nil {
		t.Error("a value that is not a publisher's was taken")
	}
}

func TestDraw_goes_by_weight(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var drawn [3]int
	for range 10_000 {
		drawn[draw(random, []int{1, 1 + 6, 1 + 6 + 3})]++
	}
	for i, want := range []int{1000, 6000, 3000} {
		if drawn[i] < want*8/10 || drawn[i] > want*12/10 {
			t.Errorf("part %d was drawn %d times, want about %d", i, drawn[i], want)
		}
	}
}

// What a benchmark is not to do is refused before it contacts anybody, with the flag.
func TestBench_refuses_bad_flags(t *testing.T) {
	for _, tt := range []struct{ args, names string }{
		{"", "want one of put, get"},
		{"put --connections 0", "--connections is 0"},
		{"put --connections 1000000", "--connections"},
		{"put --in-flight 0", "--in-flight is 0"},
		{"put --in-flight 5000", "--in-flight"},
		{"put --rooms 0", "--rooms is 0"},
		{"put --size 1", "--size is 1"},
		{"put --size 2000000", "--size"},
		{"put --rate -1", "--rate is -1"},
		{"put --rate NaN", "--rate is NaN"},
		{"put --duration 0s", "--duration is 0s"},
		{"put --duration 25h", "--duration"},
		{"put --warm-up -1s", "--warm-up is -1s"},
		{"put --patience 0s", "--patience is 0s"},
		{"put --profile=", "--profile"},
		{"put extra", "extra"},
		{"cas --keys 0", "--keys is 0"},
		{"txn --puts 0", "--puts is 0"},
		{"txn --puts 129", "--puts is 129"},
		{"lock --hot --in-flight 2", "--in-flight is 2"},
		{"mixed --mix put=-1", "--mix: put=-1"},
		{"mixed --mix jump=1", `--mix: there is no "jump"`},
		{"mixed --mix put=0", "--mix names nothing"},
		{"watch --subscribers 0", "--subscribers is 0"},
		{"watch --size 20", "--size is 20"},
		{"join --connections 0", "--connections is 0"},
		{"ephemeral --rate 0", "--rate is 0"},
		{"ephemeral --clients 0", "--clients is 0"},
		{"ephemeral --peers 0", "--peers is 0"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var out, errs bytes.Buffer
			args := append([]string{"bench", "--server", "http://127.0.0.1:1"}, strings.Fields(tt.args)...)
			if code := run(t.Context(), args, strings.NewReader(""), &out, &errs); code != exitUsage || !strings.Contains(errs.String(), tt.names) {
				t.Errorf("exit code %d, want %d and %q: %s", code, exitUsage, tt.names, errs.String())
			}
		})
	}
}

// A run goes on where trying again may help, and ends where it will not.
func TestHopeless(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{context.Canceled, false},
		{&client.InterruptedError{Do: "put", Err: context.DeadlineExceeded}, false},
		{wire.Errorf(wire.Unavailable, "no leader"), false},
		{fmt.Errorf("put: %w", wire.Errorf(wire.LimitExceeded, "too much")), true},
		{wire.Errorf(wire.StaleFence, "lost"), false},
		{errors.Join(client.ErrClosed), true},
	} {
		if got := hopeless(tt.err); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}
