package latency

import (
	"bytes"
	"fmt"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Step is a time in which users went on asking: how long they waited, in milliseconds.
type Step struct {
	Name              string
	Median, Tail, Max float64 // 50th, 99th percentile, and the longest
}

const (
	stepHeight = 24
	stepsWidth = 2 * panelWidth
)

// Steps draws how long users waited in each step, one below the other, as [Chart.SVG] does.
func Steps(title string, steps []Step) ([]byte, error) {
	low, high := math.Inf(1), 0.0
	for _, s := range steps {
		for _, v := range []float64{s.Median, s.Tail, s.Max} {
			if !(v > 0 && v < math.Inf(1)) {
				return nil, fmt.Errorf("draw %s: %s: %g ms: want a positive number", title, s.Name, v)
			}
		}
		low, high = min(low, s.Median), max(high, s.Max)
	}
	if len(steps) == 0 {
		return nil, fmt.Errorf("draw %s: there is no step", title)
	}
	width, height := vg.Length(stepsWidth), vg.Length(headHeight+len(steps)*stepHeight+40)
	canvas := vgsvg.New(width, height)
	all := draw.New(canvas)
	all.FillText(style(strong, 15), vg.Point{X: 8, Y: height - 18}, title)
	all.FillText(style(weak, textSize), vg.Point{X: 8, Y: height - 36}, "median; the bar reaches to the 99th percentile, the line to the longest wait")

	pl := plot.New()
	pl.BackgroundColor = nil
	pl.X.Min, pl.X.Max = low/1.6, high*1.6
	pl.Y.Min, pl.Y.Max = -0.5, float64(len(steps))-0.5
	pl.X.Scale = plot.LogScale{}
	pl.X.Tick.Marker = plot.TickerFunc(latencyTicks)
	var names plot.ConstantTicks
	for i, s := range steps {
		names = append(names, plot.Tick{Value: float64(len(steps) - 1 - i), Label: s.Name})
	}
	pl.Y.Tick.Marker = names
	for _, axis := range []*plot.Axis{&pl.X, &pl.Y} {
		axis.Padding = 0
		axis.LineStyle.Color, axis.Tick.LineStyle.Color = weak.light, weak.light
		axis.Tick.Length = 4
		for _, text := range []*text.Style{&axis.Tick.Label, &axis.Label.TextStyle} {
			text.Color, text.Font = weak.light, sans(textSize)
		}
	}
	lines := plotter.NewGrid()
	lines.Horizontal.Color = nil
	lines.Vertical.Color, lines.Vertical.Width = grid.light, 1
	pl.Add(lines, waits(steps))
	pl.Draw(draw.Crop(all, 8, -gutter, 8, -headHeight))

	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("draw %s: %w", title, err)
	}
	return Chart{Title: title}.dress(out.String(), float64(width), float64(height))
}

// waits are steps as a [plot.Plotter].
type waits []Step

// Plot draws them.
func (w waits) Plot(c draw.Canvas, pl *plot.Plot) {
	x, y := pl.Transforms(&c)
	ink := styles[tenancy].ink
	for i, s := range w {
		at := y(float64(len(w) - 1 - i))
		median, tail, longest := x(s.Median), x(s.Tail), x(s.Max)
		c.StrokeLine2(draw.LineStyle{Color: ink.light, Width: 1.2}, tail, at, longest, at)
		c.StrokeLine2(draw.LineStyle{Color: ink.light, Width: 1.2}, longest, at-4, longest, at+4)
		c.StrokeLine2(draw.LineStyle{Color: ink.light, Width: 5}, median, at, tail, at)
		c.DrawGlyph(draw.GlyphStyle{Color: ink.light, Radius: 4.4, Shape: draw.CircleGlyph{}}, vg.Point{X: median, Y: at})
		c.FillText(style(strong, textSize), vg.Point{X: longest + 8, Y: at - textSize/3},
			fmt.Sprintf("%s, %s, %s", duration(s.Median), duration(s.Tail), duration(s.Max)))
	}
}
