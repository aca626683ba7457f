package latency

import (
	"bytes"
	"cmp"
	"fmt"
	"image/color"
	"maps"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Sizes, in the units of a pixel when it is not scaled.
const (
	panelWidth  = 460
	panelHeight = 292
	perRow      = 2   // panels side by side
	headHeight  = 52  // the chart's title, and what its marks mean
	titleHeight = 20  // a panel's title
	noteHeight  = 26  // what a panel lacks
	gutter      = 132 // for the lines' names, to the right of a panel
	textSize    = 10.5
)

// ink is a colour on light and on dark ground. Nothing is told by colour alone; these are told apart by the colour-blind, too.
type ink struct {
	name        string
	light, dark color.RGBA
}

var (
	strong = ink{"strong", rgb(0x1f2328), rgb(0xf0f3f6)}
	weak   = ink{"weak", rgb(0x59636e), rgb(0xa3acb6)}
	grid   = ink{"grid", rgb(0xdfe3e8), rgb(0x363c44)}
	inks   = []ink{strong, weak, grid, styles[tenancy].ink, styles[literal].ink, styles[other].ink}
)

// styles are how the lines look; the one that is drawn last is on top.
var styles = [lines]struct {
	name   string
	ink    ink
	dashes []vg.Length
	width  vg.Length
	glyph  draw.GlyphDrawer
	radius vg.Length
}{
	tenancy: {"tenancy", ink{"tenancy", rgb(0x0063b1), rgb(0x62b0f5)}, nil, 2, draw.CircleGlyph{}, 3.4},
	literal: {"literal policies", ink{"literal", rgb(0xb84a00), rgb(0xf0944d)}, []vg.Length{7, 3}, 1.5, draw.PyramidGlyph{}, 4.4},
	other:   {"by hand", ink{"other", rgb(0x4d5257), rgb(0xc2c8ce)}, []vg.Length{2, 2.5}, 1.5, draw.BoxGlyph{}, 4.6},
}

var drawn = []int{other, literal, tenancy}

func rgb(hex uint32) color.RGBA {
	return color.RGBA{R: uint8(hex >> 16), G: uint8(hex >> 8), B: uint8(hex), A: 0xff}
}

func hex(c color.RGBA) string { return fmt.Sprintf("#%02X%02X%02X", c.R, c.G, c.B) }

// SVG draws the chart. It stands alone as a file, and in a page: its colours follow the reader's preference for light or dark.
// The same figures make the same bytes.
func (c Chart) SVG() ([]byte, error) {
	columns := min(len(c.panels), perRow)
	rows := (len(c.panels) + columns - 1) / columns
	width, height := vg.Length(columns*panelWidth), vg.Length(headHeight+rows*panelHeight)
	canvas := vgsvg.New(width, height)
	all := draw.New(canvas)

	all.FillText(style(strong, 15), vg.Point{X: 8, Y: height - 18}, c.Title)
	all.FillText(style(weak, textSize), vg.Point{X: 8, Y: height - 36}, "median; the bar above it reaches to the 95th percentile")
	low, high := c.latencies()
	counts := c.counts()
	for i, p := range c.panels {
		left, top := vg.Length(i%columns*panelWidth), height-headHeight-vg.Length(i/columns*panelHeight)
		p.draw(draw.Crop(all, left, left+panelWidth-width, top-panelHeight, top-height), counts, low, high, c.designs)
	}

	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("draw %s: %w", c.Title, err)
	}
	return c.dress(out.String(), float64(width), float64(height))
}

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

// style is that of text to the right of a point.
func style(i ink, size vg.Length) text.Style {
	return text.Style{Color: i.light, Font: sans(size), Handler: plot.DefaultTextHandler}
}

// counts are the numbers of rows of all panels.
func (c Chart) counts() []int {
	found := map[int]bool{}
	for _, p := range c.panels {
		for _, line := range p.lines {
			for rows := range line {
				found[rows] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// latencies are the least and the greatest that is drawn, with a margin.
func (c Chart) latencies() (low, high float64) {
	low, high = math.Inf(1), 0
	see := func(v float64) { low, high = min(low, v), max(high, v) }
	for _, p := range c.panels {
		for _, line := range p.lines {
			for _, s := range line {
				see(middle(s.median))
				if len(s.tail) > 0 {
					see(middle(s.tail))
				}
			}
		}
		for _, budget := range p.budget {
			see(budget)
		}
	}
	low, high = low/1.6, high*1.6
	if widen := math.Sqrt(10 / (high / low)); widen > 1 { // one decade at least: noise is not to look like a mountain
		low, high = low/widen, high*widen
	}
	return low, high
}

// draw draws the panel, on axes that it has in common with the chart's others.
func (p *panel) draw(c draw.Canvas, counts []int, low, high float64, designs bool) {
	c.FillText(style(strong, 11.5), vg.Point{X: c.Min.X + 8, Y: c.Max.Y - 14}, p.title)
	if lacks := p.lacks(designs); lacks != "" {
		c.FillText(style(weak, textSize), vg.Point{X: c.Min.X + 8, Y: c.Min.Y + 13}, lacks)
	}

	pl := plot.New()
	pl.BackgroundColor = nil
	pl.X.Min, pl.X.Max = float64(counts[0])/1.6, float64(counts[len(counts)-1])*1.6
	pl.Y.Min, pl.Y.Max = low, high
	var sizes plot.ConstantTicks
	for _, rows := range counts {
		sizes = append(sizes, plot.Tick{Value: float64(rows), Label: count(rows)})
	}
	pl.X.Tick.Marker, pl.Y.Tick.Marker = sizes, plot.TickerFunc(latencyTicks)
	for _, axis := range []*plot.Axis{&pl.X, &pl.Y} {
		axis.Scale = plot.LogScale{}
		axis.Padding = 0
		axis.LineStyle.Color, axis.Tick.LineStyle.Color = weak.light, weak.light
		axis.Tick.Length = 4
		for _, text := range []*text.Style{&axis.Tick.Label, &axis.Label.TextStyle} {
			text.Color, text.Font = weak.light, sans(textSize)
		}
	}
	pl.X.Label.Text = "rows"

	lines := plotter.NewGrid()
	lines.Vertical.Color = nil
	lines.Horizontal.Color, lines.Horizontal.Width = grid.light, 1
	pl.Add(lines, p)
	pl.Draw(draw.Crop(c, 8, -gutter, noteHeight, -titleHeight))
}

// lacks says which lines there are no figures for: of the literal design only where designs are told apart.
func (p *panel) lacks(designs bool) string {
	var names []string
	for line, s := range p.lines {
		if len(s) == 0 && (line != literal || designs) {
			names = append(names, styles[line].name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "not measured: " + strings.Join(names, ", ")
}

// Plot draws the lines, each with its name and its last figure where it ends. It makes the panel a [plot.Plotter].
func (p *panel) Plot(c draw.Canvas, pl *plot.Plot) {
	x, y := pl.Transforms(&c)
	var right []label // beside the panel
	if len(p.budget) > 0 {
		right = append(right, p.drawBudget(c, y))
	}
	for _, line := range drawn {
		s, points := styles[line], p.lines[line]
		if len(points) == 0 {
			continue
		}
		solid := draw.LineStyle{Color: s.ink.light, Width: 1.2}
		var path []vg.Point
		counts := slices.Sorted(maps.Keys(points))
		for _, rows := range counts {
			at := vg.Point{X: x(float64(rows)), Y: y(middle(points[rows].median))}
			path = append(path, at)
			if tail := points[rows].tail; len(tail) > 0 {
				top := max(y(middle(tail)), at.Y)
				c.StrokeLine2(solid, at.X, at.Y, at.X, top)
				c.StrokeLine2(solid, at.X-4, top, at.X+4, top)
			}
		}
		c.StrokeLines(draw.LineStyle{Color: s.ink.light, Width: s.width, Dashes: s.dashes}, path)
		for _, at := range path {
			c.DrawGlyph(draw.GlyphStyle{Color: s.ink.light, Radius: s.radius, Shape: s.glyph}, at)
		}
		last := counts[len(counts)-1]
		name := s.name
		if line == other {
			name = p.other
		}
		right = append(right, label{path[len(path)-1], s.ink, name + " " + duration(middle(points[last].median))})
	}
	drawLabels(c, right)
}

// drawBudget draws the budget; its label says for how many rows it is held, if not for all.
func (p *panel) drawBudget(c draw.Canvas, y func(float64) vg.Length) label {
	most := slices.Max(slices.Collect(maps.Keys(p.budget)))
	say := "budget " + duration(p.budget[most])
	for rows := range p.lines[tenancy] {
		if rows > most {
			say += " up to " + count(most)
			break
		}
	}
	at := y(p.budget[most])
	c.StrokeLine2(draw.LineStyle{Color: strong.light, Width: 1}, c.Min.X, at, c.Max.X, at)
	return label{vg.Point{X: c.Max.X, Y: at}, strong, say}
}

// label is text for a point.
type label struct {
	at   vg.Point
	ink  ink
	text string
}

// drawLabels draws labels to the right of the panel, at the height of their points or, where they would lie over one
// another, a little above. That of a line that ends earlier stands where it ends.
func drawLabels(c draw.Canvas, labels []label) {
	const apart = textSize + 3
	slices.SortStableFunc(labels, func(a, b label) int { return cmp.Compare(a.at.Y, b.at.Y) })
	next := map[vg.Length]vg.Length{} // by column: how low the next label may be
	for _, l := range labels {
		column := l.at.X + 10
		if c.Max.X-l.at.X < 20 {
			column = c.Max.X + 6
		}
		y := l.at.Y
		if low, taken := next[column]; taken {
			y = max(y, low)
		}
		next[column] = y + apart
		c.FillText(style(l.ink, textSize), vg.Point{X: column, Y: y - textSize/3}, l.text)
	}
}

// latencyTicks are at powers of ten, or, where there are few of them, at 1, 2 and 5.
func latencyTicks(low, high float64) (ticks []plot.Tick) {
	labelled := []int{1}
	if high/low < 100 {
		labelled = []int{1, 2, 5}
	}
	for decade := math.Floor(math.Log10(low)); decade <= math.Log10(high); decade++ {
		for digit := 1; digit <= 9; digit++ {
			tick := plot.Tick{Value: float64(digit) * math.Pow(10, decade)}
			if slices.Contains(labelled, digit) {
				tick.Label = duration(tick.Value)
			}
			if tick.Value >= low && tick.Value <= high {
				ticks = append(ticks, tick)
			}
		}
	}
	return ticks
}
