package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// benchReport is what `conclave bench` prints.
type benchReport struct {
	Workload    string           `json:"workload"`
	Settings    benchSettings    `json:"settings"`
	Seconds     float64          `json:"seconds"` // measured
	Interrupted bool             `json:"interrupted"`
	Operations  []benchRow       `json:"operations"`
	Counts      map[string]int64 `json:"counts,omitempty"`
}

// benchSettings are the flags that the figures depend on.
type benchSettings struct {
	Servers     int     `json:"servers"`
	Profile     string  `json:"profile"`
	Connections int     `json:"connections"`
	InFlight    int     `json:"in_flight,omitempty"`
	Rooms       int     `json:"rooms"`
	ValueBytes  int     `json:"value_bytes"`
	Rate        float64 `json:"rate,omitempty"`
	WarmUpMs    int64   `json:"warm_up_ms"`
	// MovesPerSecond is the rate of each cursor of `bench ephemeral`.
	MovesPerSecond float64 `json:"moves_per_second,omitempty"`
}

// benchRow is one kind of operation. Count are those that the latencies are of;
// times are in microseconds.
type benchRow struct {
	Operation string           `json:"operation"`
	Count     int64            `json:"count"`
	PerSecond float64          `json:"per_second"`
	Latency   benchLatency     `json:"latency_us"`
	Errors    map[string]int64 `json:"errors,omitempty"`
}

type benchLatency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// report sums up a run that has ended, or was ended before its time.
func (b *bench) report(workload string, rooms int, t *tally) *benchReport {
	now := time.Now()
	r := &benchReport{
		Workload: workload,
		Settings: benchSettings{
			Servers: len(b.servers), Profile: b.profile, Connections: b.connections, InFlight: b.inFlight,
			Rooms: rooms, ValueBytes: b.size, Rate: b.rate, WarmUpMs: b.warmUp.Milliseconds(),
		},
		Counts: map[string]int64{},
	}
	if now.After(t.end) {
		now = t.end
	}
	r.Seconds = max(0, now.Sub(t.begin).Seconds())
	for _, kind := range t.rows {
		h := kind.whole()
		out := benchRow{
			Operation: kind.name, Count: h.TotalCount(),
			Latency: benchLatency{
				Mean: micros(int64(h.Mean())),
				P50:  micros(h.ValueAtQuantile(50)), P90: micros(h.ValueAtQuantile(90)),
				P99: micros(h.ValueAtQuantile(99)), P999: micros(h.ValueAtQuantile(99.9)), Max: micros(h.Max()),
			},
			Errors: maps.Clone(kind.errors),
		}
		if busy := time.Duration(kind.busy.Load()); busy > 0 {
			out.PerSecond = float64(out.Count) / busy.Seconds()
		} else if r.Seconds > 0 {
			out.PerSecond = float64(kind.inTime.Load()) / r.Seconds
		}
		r.Operations = append(r.Operations, out)
	}
	return r
}

func micros(nanos int64) float64 { return float64(nanos) / 1000 }

// table prints the report for people.
func (r *benchReport) table(w io.Writer) {
	s := r.Settings
	fmt.Fprintf(w, "%s: connections %d", r.Workload, s.Connections)
	if s.InFlight > 0 {
		fmt.Fprintf(w, ", in flight %d each", s.InFlight)
	}
	fmt.Fprintf(w, ", rooms %d (%s), value %d bytes", s.Rooms, s.Profile, s.ValueBytes)
	if s.Rate > 0 {
		fmt.Fprintf(w, ", rate %g/s", s.Rate)
	}
	if s.MovesPerSecond > 0 {
		fmt.Fprintf(w, ", moves of a cursor %g/s", s.MovesPerSecond)
	}
	fmt.Fprintln(w)
	took := time.Duration(r.Seconds * float64(time.Second)).Round(time.Millisecond)
	if r.Interrupted {
		fmt.Fprintf(w, "interrupted; measured for %v\n\n", took)
	} else {
		fmt.Fprintf(w, "measured for %v\n\n", took)
	}
	row(w, "", "COUNT", "PER SECOND", "MEAN", "P50", "P90", "P99", "P99.9", "MAX", "ERRORS")
	for _, o := range r.Operations {
		row(w, o.Operation, o.Count, fmt.Sprintf("%.0f", o.PerSecond), rounded(o.Latency.Mean), rounded(o.Latency.P50), rounded(o.Latency.P90),
			rounded(o.Latency.P99), rounded(o.Latency.P999), rounded(o.Latency.Max), o.failures())
	}
	if len(r.Counts) > 0 {
		row(w)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Counts)) {
		row(w, strings.ReplaceAll(name, "_", " "), r.Counts[name])
	}
}

// failures lists the errors of a kind of operation with their codes.
func (o *benchRow) failures() string {
	if len(o.Errors) == 0 {
		return "0"
	}
	var list []string
	for _, code := range slices.Sorted(maps.Keys(o.Errors)) {
		list = append(list, fmt.Sprintf("%d %s", o.Errors[code], code))
	}
	return strings.Join(list, ", ")
}

// rounded gives microseconds with three digits or so.
func rounded(us float64) time.Duration {
	d := time.Duration(us * float64(time.Microsecond))
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= 10*time.Millisecond:
		return d.Round(100 * time.Microsecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}

// tell says every second how a run goes, if somebody looks; the function that it
// returns ends that.
func (b *bench) tell(w io.Writer, t *tally) (stop func()) {
	if !b.progress && !isTerminal(w) {
		return func() {}
	}
	done := make(chan struct{})
	var told sync.WaitGroup
	told.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		before := map[*tallyRow]int64{}
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				io.WriteString(w, t.line(before))
			}
		}
	})
	return func() { close(done); told.Wait() }
}

// isTerminal reports whether somebody reads along.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// line is the progress: what the last second brought, and p99 so far.
func (t *tally) line(before map[*tallyRow]int64) string {
	t.mu.Lock()
	rows, running, since, begin := slices.Clone(t.rows), t.running, time.Since(t.start), t.begin.Sub(t.start)
	t.mu.Unlock()
	phase := ""
	switch {
	case !running:
		phase = " (setting up)"
	case since < begin:
		phase = " (warming up)"
	}
	var line strings.Builder
	fmt.Fprintf(&line, "%4.0fs%s", since.Seconds(), phase)
	for _, r := range rows {
		noted := r.noted.Load()
		fmt.Fprintf(&line, "  %s %d/s", r.name, noted-before[r])
		before[r] = noted
		if h := r.whole(); h.TotalCount() > 0 {
			fmt.Fprintf(&line, " p99 %v", rounded(micros(h.ValueAtQuantile(99))))
		}
		if n := r.failures(); n > 0 {
			fmt.Fprintf(&line, " errors %d", n)
		}
	}
	return line.String() + "\n"
}
