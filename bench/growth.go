package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"time"
)

// growth is all that the report on growth is made of.
type growth struct {
	Date    string         `json:"date"`
	Machine string         `json:"machine"`
	Version string         `json:"version"`
	Command string         `json:"command"`
	Points  []point        `json:"points"`
	Large   *largeFigures  `json:"large,omitempty"`
	Idle    []*idleFigures `json:"idle,omitempty"`
}

// point is one row of a table: what was measured at one size.
type point struct {
	Table  string             `json:"table"`
	Size   size               `json:"size"`
	Values map[string]float64 `json:"values"` // by the keys of the table's columns
}

// grower measures how the cost of things grows.
type grower struct {
	path          string // of the program
	work          string // folder for clusters
	p             pace
	most, sockets int
	res           *growth
}

// The parts that are no tables.
const (
	largePart = "large"
	idlePart  = "idle"
)

// benchGrowth is the program's second way to run.
func benchGrowth(ctx context.Context, args []string) error {
	var g grower
	f := flag.NewFlagSet("growth", flag.ExitOnError)
	var (
		only   = f.String("parts", "", "comma-separated `names`, or beginnings of names, of "+strings.Join(parts(), ", ")+"; empty: all")
		raw    = f.String("raw", "results/growth.json", "where the `file` of all that was measured is written")
		page   = f.String("page", "", "Markdown `file` whose part between the markers of this program is replaced; empty: stdout")
		plot   = f.String("plot", "", "SVG `file` for the plots; empty: none")
		render = f.Bool("render", false, "make page and plots of the raw file, without running anything")
	)
	f.DurationVar(&g.p.measure, "duration", 4*time.Second, "how long each load is measured")
	f.DurationVar(&g.p.warmUp, "warm-up", time.Second, "how long each runs before that")
	f.IntVar(&g.most, "most", 1_000_000, "leave out what has more rooms, keys, watchers, entries or bytes than `this`: for a trial")
	f.IntVar(&g.sockets, "sockets", 3000, "idle sockets at each `node`")
	_ = f.Parse(args) // it exits

	g.res = &growth{
		Date: time.Now().UTC().Format(time.DateOnly), Machine: machine(), Version: gitVersion(),
		Command: strings.Join(append([]string{"go run . growth"}, args...), " "),
	}
	if *render {
		b, err := os.ReadFile(*raw)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(b, g.res); err != nil {
			return fmt.Errorf("read %s: %w", *raw, err)
		}
		return g.res.publish(*page, *plot)
	}

	var err error
	if g.work, err = os.MkdirTemp("", "conclave-growth-"); err != nil {
		return err
	}
	defer os.RemoveAll(g.work)
	if g.path, err = buildConclave(g.work); err != nil {
		return err
	}
	begun := time.Now()
	// One part that does not work does not take the others' figures away.
	var failed error
	for _, part := range parts() {
		if !wanted(part, *only) {
			continue
		}
		if err := g.measure(ctx, part); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			log.Printf("%s: %v", part, err)
			failed = errors.Join(failed, fmt.Errorf("%s: %w", part, err))
		}
		if err := save(g.res, *raw); err != nil {
			return err
		}
	}
	log.Printf("measured in %v", time.Since(begun).Round(time.Second))
	if failed != nil {
		return failed // what there is can be had with -render
	}
	return g.res.publish(*page, *plot)
}

// parts are the names of all that can be measured, in the order of the report.
func parts() []string {
	var names []string
	for _, t := range growthTables() {
		names = append(names, t.name)
	}
	return append(names, largePart, idlePart)
}

func (g *grower) measure(ctx context.Context, part string) (err error) {
	switch part {
	case largePart:
		l := &largeFigures{}
		if err = g.large(ctx, l); err == nil {
			g.res.Large = l
		}
		return err
	case idlePart:
		g.res.Idle, err = g.idle(ctx)
		return err
	}
	all := growthTables()
	t := all[slices.IndexFunc(all, func(t table) bool { return t.name == part })]
	for _, at := range t.sizes {
		if at.N > g.most {
			log.Printf("%s %s: left out by -most", t.name, at)
			continue
		}
		values := figuresByName{}
		err := g.cluster(ctx, t.shape(at), 3*time.Minute+8*g.p.measure, func(ctx context.Context, r *running) error {
			return t.run(ctx, g, r, at, values)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		log.Printf("%s %s:%s", t.name, at, t.line(values))
		g.res.Points = append(g.res.Points, point{t.name, at, values})
	}
	return nil
}

// cluster runs f on a fresh cluster.
func (g *grower) cluster(ctx context.Context, shape conclaveShape, limit time.Duration, f func(context.Context, *running) error) error {
	return once(ctx, g.work, conclaveSystem(g.path, shape), limit, f)
}

// figuresByName are the values of a row, by the keys of its columns.
type figuresByName map[string]float64

// take adds what one load has measured, under names that begin with its own.
func (v figuresByName) take(load string, f figures) {
	v[load+"_rate"], v[load+"_p50"], v[load+"_p99"], v[load+"_cpu"] = f.Rate, f.P50, f.P99, f.CPU
}
