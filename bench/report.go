package main

import (
	"bufio"
	"bytes"
	"fmt"
	"image/color"
	"os"
	"runtime"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// product is whose figures the others' are compared with.
const product = "Conclave"

// The part of a page that this program writes is between these.
const (
	pageBegin = "<!-- bench: begin -->"
	pageEnd   = "<!-- bench: end -->"
)

// machine says what everything ran on.
func machine() string {
	cpu := "unknown CPU"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores (%s), %s", runtime.NumCPU(), cpu, runtime.Version())
}

// of are the values by which a workload is judged, one a round.
func (r *results) of(w workload, system string) (values []float64) {
	for _, run := range r.Runs {
		if run.Workload == w.name && run.System == system && !run.Skipped {
			values = append(values, w.better.value(run.Figures))
		}
	}
	return values
}

// ratio compares round by round, so that what else the machine did meanwhile
// cancels out: the median, and from where to where it goes. Over 1 is better for
// the product whichever way the workload is judged.
func (r *results) ratio(w workload, peer string) (median, low, high float64, ok bool) {
	ours, theirs := r.of(w, product), r.of(w, peer)
	n := min(len(ours), len(theirs))
	if n == 0 {
		return 0, 0, 0, false
	}
	ratios := make([]float64, n)
	for i := range n {
		ratios[i] = ours[i] / theirs[i]
		if w.better != byRate {
			ratios[i] = theirs[i] / ours[i]
		}
	}
	slices.Sort(ratios)
	return middle(ratios), ratios[0], ratios[n-1], true
}

func middle(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// table is the report in Markdown.
func (r *results) table() string {
	var b strings.Builder
	peers := []string{"etcd", "NATS"}
	fmt.Fprintf(&b, "%s, %s. ", r.Date, r.Machine)
	for i, name := range append([]string{product}, peers...) {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %s", name, r.Versions[name])
	}
	fmt.Fprintf(&b, ". Command: `%s`.\n\n", r.Command)
	b.WriteString("| workload | judged by | Conclave | etcd | NATS | against etcd | against NATS |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, w := range workloads() {
		if len(r.of(w, product)) == 0 {
			continue
		}
		fmt.Fprintf(&b, "| %s | %s |", w.detail, w.better.unit())
		for _, name := range append([]string{product}, peers...) {
			if values := r.of(w, name); len(values) > 0 {
				fmt.Fprintf(&b, " %s |", number(middle(values)))
			} else {
				b.WriteString(" – |")
			}
		}
		for _, peer := range peers {
			if median, low, high, ok := r.ratio(w, peer); ok {
				fmt.Fprintf(&b, " **%.1f ×** (%.1f–%.1f) |", median, low, high)
			} else {
				b.WriteString(" – |")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// publish writes the report where it is wanted.
func (r *results) publish(page, plotFile string) error {
	if plotFile != "" {
		if err := r.plot(plotFile); err != nil {
			return fmt.Errorf("plot: %w", err)
		}
	}
	return writePage(page, pageBegin, pageEnd, r.table())
}

// writePage puts a text between two markers of a page, or on stdout without a page.
func writePage(page, begin, end, text string) error {
	if page == "" {
		fmt.Print(text)
		return nil
	}
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(old, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return fmt.Errorf("%s has no markers %s and %s", page, begin, end)
	}
	whole := fmt.Sprintf("%s%s\n\n%s\n%s%s", before, begin, text, end, after)
	return os.WriteFile(page, []byte(whole), 0o644)
}

// plot draws the ratios as bars, on a logarithmic scale.
func (r *results) plot(path string) error {
	p := plot.New()
	p.Title.Text = "Times better than etcd and NATS, same machine and run"
	p.Legend.Top = true // the right of the upper rows is free
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.ConstantTicks{
		{Value: 0.5, Label: "0.5"},
		{Value: 1, Label: "1"},
		{Value: 2, Label: "2"},
		{Value: 5, Label: "5"},
		{Value: 10, Label: "10"},
		{Value: 20, Label: "20"},
		{Value: 50, Label: "50"},
		{Value: 100, Label: "100"},
	}
	p.X.Min, p.X.Max = 0.5, 100
	var names []string
	all := workloads()
	slices.Reverse(all)
	colors := map[string]color.Color{"etcd": color.RGBA{R: 0x1f, G: 0x77, B: 0xb4, A: 0xff}, "NATS": color.RGBA{R: 0xff, G: 0x7f, B: 0x0e, A: 0xff}}
	points := map[string]plotter.XYs{}
	for _, w := range all {
		row := float64(len(names))
		found := false
		for _, peer := range []string{"etcd", "NATS"} {
			if median, low, high, ok := r.ratio(w, peer); ok {
				found = true
				points[peer] = append(points[peer], plotter.XY{X: median, Y: row})
				line, err := plotter.NewLine(plotter.XYs{{X: low, Y: row}, {X: high, Y: row}})
				if err != nil {
					return err
				}
				line.Color = colors[peer]
				p.Add(line)
				p.X.Max = max(p.X.Max, high*1.2)
				p.X.Min = min(p.X.Min, low*0.8)
			}
		}
		if found {
			names = append(names, w.name)
		}
	}
	one, err := plotter.NewLine(plotter.XYs{{X: 1, Y: -0.5}, {X: 1, Y: float64(len(names)) - 0.5}})
	if err != nil {
		return err
	}
	p.Add(one)
	for _, peer := range []string{"etcd", "NATS"} {
		if len(points[peer]) == 0 {
			continue
		}
		s, err := plotter.NewScatter(points[peer])
		if err != nil {
			return err
		}
		s.Color, s.Radius = colors[peer], vg.Points(4)
		p.Add(s)
		p.Legend.Add("against "+peer, s)
	}
	p.NominalY(names...)
	return p.Save(18*vg.Centimeter, vg.Length(len(names)+4)*0.8*vg.Centimeter, path)
}
