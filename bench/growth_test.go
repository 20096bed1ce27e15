package main

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestGrows(t *testing.T) {
	var points []point
	for _, n := range []int{10, 100, 1000} {
		points = append(points, point{Size: size{N: n}, Values: map[string]float64{
			"flat": 7, "linear": float64(3 * n), "absent at first": float64(n - 10),
			"late": map[int]float64{10: 1, 100: 1, 1000: 100}[n],
		}})
	}
	points = append(points, point{Size: size{3, 1}, Values: map[string]float64{"flat": 1e9, "linear": 1e9}})
	for key, want := range map[string]growthOf{"flat": {0, 0}, "linear": {1, 1}, "late": {1, 2}} {
		got, ok := grows(points, key)
		if !ok || math.Abs(got.overall-want.overall) > 1e-9 || math.Abs(got.steepest-want.steepest) > 1e-9 {
			t.Errorf("%s grows by %+v, %v, want %+v", key, got, ok, want)
		}
	}
	if got, ok := grows(points, "absent at first"); ok {
		t.Errorf("a figure of 0 grows by %+v, want no exponent", got)
	}
	if got, ok := grows(points[:1], "flat"); ok {
		t.Errorf("one size grows by %+v, want no exponent", got)
	}
}

// A put counts as one during a snapshot when any part of its time was in it, also of
// the time that it only waited.
func TestTellApart(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(1000 + ms)) }
	puts := []timed{
		{at(0), 10 * time.Millisecond},  // over before
		{at(90), 20 * time.Millisecond}, // into the first span
		{at(95), 400 * time.Millisecond},
		{at(120), 5 * time.Millisecond}, // within
		{at(200), 5 * time.Millisecond}, // between the two
		{at(399), 2 * time.Millisecond}, // out of the second
		{at(400), 30 * time.Millisecond},
	}
	during, others := tellApart(puts, []span{{at(100), at(150)}, {at(300), at(400)}})
	if during.Count != 4 || others.Count != 3 {
		t.Errorf("%d puts during snapshots and %d others, want 4 and 3", during.Count, others.Count)
	}
	if during.Max < 399 || during.Max > 401 || others.Max < 29 || others.Max > 31 {
		t.Errorf("the longest took %v and %v ms, want 400 and 30", during.Max, others.Max)
	}
}

func TestSnapshotFolder_look(t *testing.T) {
	dir := t.TempDir()
	w := &snapshotFolder{path: dir}
	at := func(s int) time.Time { return time.Unix(int64(1000+s), 0) }
	look := func(s int) {
		t.Helper()
		if err := w.look(at(s)); err != nil {
			t.Fatal(err)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(os.Mkdir(filepath.Join(dir, "2-10-1"), 0o755))
	look(0) // there before
	do(os.Mkdir(filepath.Join(dir, "2-20-2.tmp"), 0o755))
	look(1)
	look(4)
	do(os.Rename(filepath.Join(dir, "2-20-2.tmp"), filepath.Join(dir, "2-20-2")))
	look(5)
	do(os.Mkdir(filepath.Join(dir, "2-30-3"), 0o755)) // written since the last look
	look(7)
	do(os.Mkdir(filepath.Join(dir, "2-40-4.tmp"), 0o755))
	look(8)
	do(os.Remove(filepath.Join(dir, "2-40-4.tmp"))) // given up
	look(9)
	want := []span{{at(1), at(5)}, {at(5), at(7)}}
	if len(w.spans) != 2 || w.spans[0] != want[0] || w.spans[1] != want[1] || !w.since.IsZero() {
		t.Errorf("spans are %v, and since %v, want %v and none under way", w.spans, w.since, want)
	}
}

// What falls due during a pause counts from when it was due.
func TestOpenLoop(t *testing.T) {
	failed := errors.New("the end")
	o := openLoop{begin: time.Now(), every: time.Millisecond}
	const pause = 50 * time.Millisecond
	err := o.run(t.Context(), 1, func(_, n int) error {
		switch n {
		case 3:
			time.Sleep(pause)
		case 20:
			return failed
		}
		return nil
	})
	if !errors.Is(err, failed) || len(o.puts()) != 20 {
		t.Fatalf("%d were done and then %v, want 20 and an error", len(o.puts()), err)
	}
	for n, p := range o.puts() {
		if want := o.begin.Add(time.Duration(n) * o.every); !p.due.Equal(want) {
			t.Errorf("number %d was due at %v, want %v", n, p.due.Sub(o.begin), want.Sub(o.begin))
		}
		if least := pause - time.Duration(n-3)*o.every; n >= 3 && p.took < least {
			t.Errorf("number %d took %v, want %v at least: it waited for the pause", n, p.took, least)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	idle := openLoop{begin: time.Now().Add(time.Hour), every: time.Second}
	if err := idle.run(ctx, 3, func(int, int) error { return failed }); err != nil || len(idle.puts()) != 0 {
		t.Errorf("a loop that is over before it begins did %d, %v", len(idle.puts()), err)
	}
}

func TestWritePage(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	for _, c := range []struct{ old, want string }{
		{"a " + growthBegin + "old" + growthEnd + " z", "a " + growthBegin + "\n\nnew\n\n" + growthEnd + " z"},
		{"a " + growthBegin + " z", ""},
		{"a z", ""},
	} {
		if err := os.WriteFile(page, []byte(c.old), 0o644); err != nil {
			t.Fatal(err)
		}
		err := writePage(page, growthBegin, growthEnd, "new\n")
		got, _ := os.ReadFile(page)
		if c.want == "" && (err == nil || string(got) != c.old) {
			t.Errorf("a page %q without both markers: %v, and it is %q now, want an error and no change", c.old, err, got)
		}
		if c.want != "" && (err != nil || string(got) != c.want) {
			t.Errorf("the page is %q, %v, want %q", got, err, c.want)
		}
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 65536: "65,536", 1_000_000: "1,000,000"} {
		if got := thousands(n); got != want {
			t.Errorf("%d is written %s, want %s", n, got, want)
		}
	}
}

// The times of this very process grow with its work.
func TestProcess_cpu(t *testing.T) {
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: &exec.Cmd{Process: self}}
	before, err := p.cpu()
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if after, err := p.cpu(); err != nil || after > before {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the time stays at %v while this process works", before)
		}
	}
	if now, most, err := p.memory(); err != nil || now <= 0 || most < now/2 {
		t.Errorf("memory is %v, at most %v, %v", now, most, err)
	}
}
