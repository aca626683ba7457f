// Package latency draws what the benchmarks measured: how long a query takes against how many rows there are, with our
// policies, with the checklist's literal ones, and as somebody would write it by hand, or what else it is compared with,
// beside its budget.
package latency

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// The names that the benchmarks give their figures: all in milliseconds.
const (
	medianUnit = "p50-ms"
	tailUnit   = "p95-ms"
	otherUnit  = "-p50-ms"   // of what is measured in turns with it: by-hand-p50-ms
	budgetUnit = "budget-ms" // for the 95th percentile
)

// Chart is a query: a panel for each kind of user and each shape of the database.
type Chart struct {
	Name  string // of a file that holds it, without an ending
	Title string

	panels  []*panel
	designs bool // that its benchmarks are of one or the other is said
}

type panel struct {
	role   string
	title  string
	lines  [lines]map[int]*samples // by the number of rows
	other  string                  // what the last line is; "" if there is none
	budget map[int]float64         // by the number of rows
}

// The lines of a panel.
const (
	tenancy = iota
	literal
	other
	lines
)

// designs are the values of design=; without it, it is ours.
var designs = map[string]int{"": tenancy, "tenancy": tenancy, "literal": literal}

// samples are the figures of the same benchmark in several runs.
type samples struct{ median, tail []float64 }

// queries are the benchmarks that measure the same in each design. What others measure is in their names.
var queries = []string{"Read", "Literal"}

// Read reads what go test -bench wrote, the output of several runs as well. Benchmarks that say no median, or nothing of
// rows, have nothing to draw and are left out; name is for errors.
func Read(r io.Reader, name string) ([]Chart, error) {
	var charts []*Chart
	reader := benchfmt.NewReader(r, name)
	for reader.Scan() {
		switch record := reader.Result().(type) {
		case *benchfmt.SyntaxError:
			return nil, record
		case *benchfmt.Result:
			var err error
			if charts, err = add(charts, record); err != nil {
				file, line := record.Pos()
				return nil, fmt.Errorf("%s:%d: %s: %w", file, line, record.Name, err)
			}
		}
	}
	if err := reader.Err(); err != nil {
		return nil, err
	}
	if len(charts) == 0 {
		return nil, fmt.Errorf("%s: no benchmark says rows= and %s: want the output of go test -bench . ./perf_test", name, medianUnit)
	}
	found := make([]Chart, len(charts))
	for i, c := range charts {
		found[i] = *c
	}
	return found, nil
}

// add adds what a line says.
func add(charts []*Chart, result *benchfmt.Result) ([]*Chart, error) {
	if _, measured := result.Value(medianUnit); !measured {
		return charts, nil
	}
	base, parts := result.Name.Parts()
	var words []string // of the chart
	if !slices.Contains(queries, string(base)) {
		words = append(words, strings.ToLower(inNames.ReplaceAllString(string(base), "$1 $2")))
	}
	keys := map[string]string{}
	var shape []string // of the database
	for _, part := range parts {
		if part[0] == '-' { // GOMAXPROCS
			continue
		}
		key, value, _ := strings.Cut(string(part[1:]), "=")
		keys[key] = value
		switch key {
		case "rows", "design", "role":
		case "tenants", "organizations":
			shape = append(shape, value+" "+key)
		case "unrelated":
			shape = append(shape, "beside "+value+" × as much of others")
		default:
			words = append(words, cmp.Or(value, key))
		}
	}
	if keys["rows"] == "" {
		return charts, nil
	}
	rows, err := strconv.Atoi(keys["rows"])
	if err != nil || rows <= 0 {
		return nil, fmt.Errorf("rows=%s: want a positive number", keys["rows"])
	}
	line, known := designs[keys["design"]]
	if !known {
		return nil, fmt.Errorf("design=%s: want tenancy or literal", keys["design"])
	}

	title := strings.ReplaceAll(strings.Join(words, " · "), "_", " ")
	at := slices.IndexFunc(charts, func(c *Chart) bool { return c.Title == title })
	if at < 0 {
		at = len(charts)
		charts = append(charts, &Chart{Name: fileName(charts, words), Title: title})
	}
	charts[at].designs = charts[at].designs || keys["design"] != ""
	return charts, charts[at].panel(strings.ReplaceAll(keys["role"], "_", " "), shape).add(line, rows, result)
}

var inNames = regexp.MustCompile(`([a-z])([A-Z])`)

var notInFileNames = regexp.MustCompile(`[^A-Za-z0-9_]+`)

// fileName is one that no other chart has.
func fileName(charts []*Chart, words []string) string {
	stem := strings.ToLower(strings.Trim(notInFileNames.ReplaceAllString(strings.Join(words, "-"), "-"), "-"))
	name := stem
	for i := 2; slices.ContainsFunc(charts, func(c *Chart) bool { return c.Name == name }); i++ {
		name = fmt.Sprintf("%s-%d", stem, i)
	}
	return name
}

// panel is the one of a role in a shape of the database. Those of a role are neighbours.
func (c *Chart) panel(role string, shape []string) *panel {
	words := shape
	if role != "" {
		words = append([]string{role}, shape...)
	}
	title := strings.Join(words, ", ")
	at := slices.IndexFunc(c.panels, func(p *panel) bool { return p.title == title })
	if at >= 0 {
		return c.panels[at]
	}
	added := &panel{role: role, title: title, budget: map[int]float64{}}
	at = len(c.panels)
	for i, p := range c.panels {
		if p.role == role {
			at = i + 1
		}
	}
	c.panels = slices.Insert(c.panels, at, added)
	return added
}

func (p *panel) add(line, rows int, result *benchfmt.Result) error {
	var failed []error
	// value calls use with a figure, if the benchmark says it. A logarithm has none for zero.
	value := func(unit string, use func(float64)) {
		v, ok := result.Value(unit)
		if ok && !(v > 0 && v < math.Inf(1)) {
			failed = append(failed, fmt.Errorf("%g %s: want a positive number", v, unit))
		} else if ok {
			use(v)
		}
	}
	value(medianUnit, func(v float64) { s := p.samples(line, rows); s.median = append(s.median, v) })
	value(tailUnit, func(v float64) { s := p.samples(line, rows); s.tail = append(s.tail, v) })
	if line == tenancy {
		value(budgetUnit, func(v float64) { p.budget[rows] = v })
		for _, v := range result.Values {
			name, ok := strings.CutSuffix(v.Unit, otherUnit)
			if !ok {
				continue
			}
			name = strings.ReplaceAll(name, "-", " ")
			if p.other = cmp.Or(p.other, name); p.other != name {
				failed = append(failed, fmt.Errorf("it is compared with %q here, and elsewhere with %q: want one of them", name, p.other))
			}
			value(v.Unit, func(v float64) { s := p.samples(other, rows); s.median = append(s.median, v) })
		}
	}
	return errors.Join(failed...)
}

func (p *panel) samples(line, rows int) *samples {
	if p.lines[line] == nil {
		p.lines[line] = map[int]*samples{}
	}
	if p.lines[line][rows] == nil {
		p.lines[line][rows] = &samples{}
	}
	return p.lines[line][rows]
}

// middle is the median of figures, of which there is at least one.
func middle(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}
