package main

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The part of a page that the growth goes to.
const (
	growthBegin = "<!-- growth: begin -->"
	growthEnd   = "<!-- growth: end -->"
)

func (g *growth) publish(page, plotFile string) error {
	if plotFile != "" {
		if err := g.plot(plotFile); err != nil {
			return fmt.Errorf("plot: %w", err)
		}
	}
	return writePage(page, growthBegin, growthEnd, g.text())
}

// text is the report in Markdown.
func (g *growth) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s. Conclave %s. Command: `%s`.\n", g.Date, g.Machine, g.Version, g.Command)
	for _, t := range growthTables() {
		points := g.of(t)
		if len(points) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s:\n\n| %s |", t.title, t.counts)
		for _, c := range t.columns {
			fmt.Fprintf(&b, " %s |", c.head)
		}
		b.WriteString("\n| ---: |" + strings.Repeat(" ---: |", len(t.columns)) + "\n")
		for _, p := range points {
			fmt.Fprintf(&b, "| %s |", p.Size)
			for _, c := range t.columns {
				fmt.Fprintf(&b, " %s |", number(p.Values[c.key]))
			}
			b.WriteString("\n")
		}
		t.exponents(&b, "growth", points, func(e growthOf) float64 { return e.overall })
		t.exponents(&b, "steepest step", points, func(e growthOf) float64 { return e.steepest })
	}
	if g.Large != nil {
		b.WriteString("\n" + g.Large.text())
	}
	if len(g.Idle) > 0 {
		b.WriteString("\nIdle sockets, each with a watch of one key, by kind. Memory of a node:\n\n" +
			"| | sockets per node | RSS before, MB | all open, MB | quiet, MB | of which heap, MB | stacks, MB | KB per socket |\n" +
			"| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
		for _, f := range g.Idle {
			fmt.Fprintf(&b, "| %ss | %s | %.0f | %.0f | %.0f | %.1f | %.1f | **%.1f** |\n",
				f.Kind, thousands(f.Sockets), f.BeforeMB, f.OpenedMB, f.QuietMB, f.HeapMB, f.StacksMB, f.perSocket())
		}
	}
	return b.String()
}

func (g *growth) of(t table) (points []point) {
	for _, p := range g.Points {
		if p.Table == t.name {
			points = append(points, p)
		}
	}
	return points
}

// exponents is a row that says how the costs grow.
func (t table) exponents(b *strings.Builder, head string, points []point, which func(growthOf) float64) {
	fmt.Fprintf(b, "| *%s* |", head)
	for _, c := range t.columns {
		if e, ok := grows(points, c.key); ok && c.cost {
			fmt.Fprintf(b, " n^%.2f |", which(e))
		} else {
			b.WriteString(" |")
		}
	}
	b.WriteString("\n")
}

// growthOf a figure are exponents of n: from the first size to the last, and where
// from one to the next it is greatest.
type growthOf struct{ overall, steepest float64 }

// grows wants two sizes at least, and a figure above 0 at each.
func grows(points []point, key string) (growthOf, bool) {
	var sized []point
	for _, p := range points {
		if p.Size.Replicas == 0 {
			if p.Values[key] <= 0 {
				return growthOf{}, false
			}
			sized = append(sized, p)
		}
	}
	if len(sized) < 2 {
		return growthOf{}, false
	}
	between := func(from, to point) float64 {
		return math.Log(to.Values[key]/from.Values[key]) / math.Log(float64(to.Size.N)/float64(from.Size.N))
	}
	g := growthOf{between(sized[0], sized[len(sized)-1]), math.Inf(-1)}
	for i := range len(sized) - 1 {
		g.steepest = max(g.steepest, between(sized[i], sized[i+1]))
	}
	return g, true
}

// line tells a row while it is measured.
func (t table) line(v figuresByName) string {
	var b strings.Builder
	for _, c := range t.columns {
		fmt.Fprintf(&b, " %s %s;", number(v[c.key]), c.head)
	}
	return strings.TrimSuffix(b.String(), ";")
}

func (l *largeFigures) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s entries of %d bytes in %s rooms, three nodes:\n\n| | |\n| --- | --- |\n", thousands(l.Entries), valueBytes, thousands(l.Rooms))
	row := func(head, format string, args ...any) {
		fmt.Fprintf(&b, "| %s | "+format+" |\n", append([]any{head}, args...)...)
	}
	row("filled, a hundred entries to a write, 32 writes at a time", "%.1f s", l.FillS)
	row("RSS of a node, just after", "%.0f MB", l.FilledMB)
	row("RSS of a node, at most, snapshots included", "%.0f MB", l.MostMB)
	var took []float64
	longest := 0.0
	for _, s := range l.Snapshots {
		took = append(took, s.Seconds)
		longest = max(longest, s.Seconds)
	}
	row(fmt.Sprintf("snapshot of %.0f MB, under %s puts/s", l.SnapshotMB, thousands(l.Rate)), "%.1f s, median of %d; longest %.1f s", middle(took), len(took), longest)
	for _, f := range []struct {
		head string
		figures
	}{{"puts while a node wrote one, from when they were due", l.During}, {"all other puts", l.Else}} {
		row(f.head, "p50 %s ms, p99 %s ms, longest %s ms (%s)", number(f.P50), number(f.P99), number(f.Max), thousands(f.Count))
	}
	if l.Else.P99 > 0 {
		row("p99 while a node wrote one, against all others", "**%.2f ×**", l.During.P99/l.Else.P99)
	}
	row("one node killed and started: ready after", "%.1f s", l.RestartOneS)
	row("all three: ready after", "%.1f s", l.RestartAllS)
	return b.String()
}

// thousands writes a number with commas.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plot draws how the costs of each table grow, against those at its first size.
func (g *growth) plot(path string) error {
	var plots []*plot.Plot
	for _, t := range growthTables() {
		p, err := t.plot(g.of(t))
		if err != nil {
			return err
		}
		if p != nil {
			plots = append(plots, p)
		}
	}
	if len(plots) == 0 {
		return fmt.Errorf("no table has two sizes")
	}
	const across = 2
	grid := make([][]*plot.Plot, (len(plots)+across-1)/across)
	for i := range grid {
		grid[i] = make([]*plot.Plot, across)
		copy(grid[i], plots[i*across:])
	}
	width, height := 24*vg.Centimeter, vg.Length(len(grid))*9*vg.Centimeter
	img := vgsvg.New(width, height)
	gap := 4 * vg.Millimeter
	tiles := draw.Tiles{Rows: len(grid), Cols: across, PadX: gap, PadY: gap, PadTop: gap, PadBottom: gap, PadLeft: gap, PadRight: gap}
	for j, row := range plot.Align(grid, tiles, draw.New(img)) {
		for i, canvas := range row {
			if grid[j][i] != nil {
				grid[j][i].Draw(canvas)
			}
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := img.WriteTo(f); err != nil {
		return err
	}
	return f.Close()
}

// plot is nil where there is nothing to draw a line through.
func (t table) plot(points []point) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text = "by "+t.counts, t.counts
	p.Y.Label.Text = "times what it is at first"
	var ticks plot.ConstantTicks
	for _, at := range points {
		ticks = append(ticks, plot.Tick{Value: float64(at.Size.N), Label: thousands(at.Size.N)})
	}
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, ticks
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	low, high, drawn := 0.5, 10.0, 0
	var first, last float64
	for _, c := range t.columns {
		if _, ok := grows(points, c.key); !ok || !c.cost {
			continue
		}
		var line plotter.XYs
		for _, at := range points {
			if at.Size.Replicas == 0 {
				y := at.Values[c.key] / points[0].Values[c.key]
				line = append(line, plotter.XY{X: float64(at.Size.N), Y: y})
				low, high = min(low, y/2), max(high, y*2)
			}
		}
		first, last = line[0].X, line[len(line)-1].X
		l, s, err := plotter.NewLinePoints(line)
		if err != nil {
			return nil, err
		}
		l.Color, s.Color, s.Shape = plotutil.Color(drawn), plotutil.Color(drawn), plotutil.Shape(drawn)
		p.Add(l, s)
		p.Legend.Add(c.head, l, s)
		drawn++
	}
	if drawn == 0 {
		return nil, nil
	}
	proportional, err := plotter.NewLine(plotter.XYs{{X: first, Y: 1}, {X: last, Y: last / first}})
	if err != nil {
		return nil, err
	}
	proportional.Dashes, proportional.Color = plotutil.Dashes(1), color.Gray{Y: 0x80}
	p.Add(proportional)
	p.Legend.Add("proportional", proportional)
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = first, last, low, high
	return p, nil
}
