package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// run is one run of a workload on a fresh cluster of a system.
type run struct {
	Workload string  `json:"workload"`
	System   string  `json:"system"`
	Round    int     `json:"round"`
	Figures  figures `json:"figures"`
	Skipped  bool    `json:"skipped,omitempty"` // the system has no such operation
}

// results is all that a report is made of.
type results struct {
	Date     string            `json:"date"`
	Machine  string            `json:"machine"`
	Command  string            `json:"command"`
	Versions map[string]string `json:"versions"`
	Runs     []run             `json:"runs"`
}

func main() {
	log.SetFlags(log.Ltime)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "growth" {
		err = benchGrowth(ctx, os.Args[2:])
	} else {
		err = bench(ctx)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func bench(ctx context.Context) error {
	var (
		only    = flag.String("workloads", "", "comma-separated `names`, or beginnings of names; empty: all")
		against = flag.String("systems", "conclave,etcd,nats", "which `systems`, in this order in each round")
		rounds  = flag.Int("rounds", 3, "how often each workload runs on each system, in turn")
		p       pace
		raw     = flag.String("raw", "results/peers.json", "where the `file` of all runs is written")
		page    = flag.String("page", "", "Markdown `file` whose part between the markers of this program is replaced; empty: stdout")
		plot    = flag.String("plot", "", "SVG `file` for the plot of ratios; empty: none")
		render  = flag.Bool("render", false, "make page and plot of the raw file, without running anything")
		flags   = flag.String("conclave-flags", "", "space-separated `flags` for conclave serve")
	)
	flag.DurationVar(&p.measure, "duration", 8*time.Second, "how long each run is measured")
	flag.DurationVar(&p.warmUp, "warm-up", 2*time.Second, "how long each runs before that")
	flag.Parse()

	res := &results{
		Date: time.Now().UTC().Format(time.DateOnly), Machine: machine(), Versions: map[string]string{},
		Command: "go run . " + strings.Join(os.Args[1:], " "),
	}
	if *render {
		b, err := os.ReadFile(*raw)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(b, res); err != nil {
			return fmt.Errorf("read %s: %w", *raw, err)
		}
		return res.publish(*page, *plot)
	}

	work, err := os.MkdirTemp("", "conclave-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	systems, err := build(work, strings.Split(*against, ","), strings.Fields(*flags))
	if err != nil {
		return err
	}
	for _, s := range systems {
		res.Versions[s.name] = s.version
	}
	for _, w := range workloads() {
		if !wanted(w.name, *only) {
			continue
		}
		for round := range *rounds {
			for _, s := range systems {
				var f figures
				// Whatever hangs is an error, not a night.
				err := once(ctx, work, s, 3*time.Minute+p.warmUp+p.measure, func(ctx context.Context, r *running) (err error) {
					f, err = w.run(ctx, r, p)
					return err
				})
				if ctx.Err() != nil {
					return ctx.Err()
				}
				skipped := errors.Is(err, errUnsupported)
				if err != nil && !skipped {
					return fmt.Errorf("%s on %s: %w", w.name, s.name, err)
				}
				if !skipped {
					log.Printf("%-14s %-9s %d: %s", w.name, s.name, round+1, f)
				}
				res.Runs = append(res.Runs, run{w.name, s.name, round + 1, f, skipped})
			}
		}
		if err := save(res, *raw); err != nil {
			return err
		}
	}
	return res.publish(*page, *plot)
}

// build makes the servers of the systems that are asked for.
func build(work string, names, conclaveFlags []string) ([]*system, error) {
	var list []*system
	for _, name := range names {
		var s *system
		var err error
		log.Printf("building %s", name)
		switch name {
		case "conclave":
			s, err = newConclave(work, conclaveFlags...)
		case "etcd":
			s, err = newEtcd(work)
		case "nats":
			s, err = newNATS(work)
		default:
			err = fmt.Errorf("-systems: there is no %q; want conclave, etcd, nats", name)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

func wanted(name, only string) bool {
	return only == "" || slices.ContainsFunc(strings.Split(only, ","), func(o string) bool { return strings.HasPrefix(name, o) })
}

// once runs f on a fresh cluster, within a time.
func once(ctx context.Context, work string, s *system, limit time.Duration, f func(context.Context, *running) error) error {
	dir, err := os.MkdirTemp(work, "cluster-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r, err := s.start(ctx, dir)
	if err != nil {
		return withLogs(err, dir)
	}
	defer r.stop()
	if err = f(ctx, r); err != nil && !errors.Is(err, errUnsupported) {
		err = withLogs(err, dir)
	}
	return err
}

// withLogs adds the ends of the nodes' logs to an error.
func withLogs(err error, dir string) error {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, name := range logs {
		b, _ := os.ReadFile(name)
		if len(b) > 2000 {
			b = b[len(b)-2000:]
		}
		if len(b) > 0 {
			err = fmt.Errorf("%w\n%s:\n%s", err, filepath.Base(name), b)
		}
	}
	return err
}

// save writes what was measured as JSON.
func save(results any, path string) error {
	b, err := json.MarshalIndent(results, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// String tells a run in one line.
func (f figures) String() string {
	s := fmt.Sprintf("p50 %.2f ms, p99 %.2f ms, max %.1f ms", f.P50, f.P99, f.Max)
	if f.Rate > 0 {
		s = fmt.Sprintf("%.0f/s, %s", f.Rate, s)
	}
	if f.Gaps > 0 {
		s += fmt.Sprintf(", %d GAPS", f.Gaps)
	}
	return s
}
