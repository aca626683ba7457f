package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vital-health/tenancy/helpers/latency"
	"github.com/vital-health/tenancy/helpers/results"
	"golang.org/x/perf/benchfmt"
)

// measurements are figures that are others each time.
type measurements struct {
	Benchmarks []benchmark `json:"benchmarks,omitempty"`
	Live       *live       `json:"live,omitempty"`
}

// benchmark is what make bench measured; figures by unit, milliseconds unless it is called otherwise.
type benchmark struct {
	Name    string             `json:"name"`
	Figures map[string]float64 `json:"figures"`
}

// live is what users of the application noticed of each phase: of build/report/live.json, what is shown. Milliseconds.
type live struct {
	Schema  string    `json:"schema"`
	Started time.Time `json:"started"`
	Rows    int       `json:"rows"`
	Rate    float64   `json:"rate"`
	Scale   float64   `json:"scale,omitempty"` // that multiplied each budget
	Steps   []step    `json:"steps"`
	Over    []string  `json:"over"`
}

type step struct {
	Name        string         `json:"name"`
	Application string         `json:"application"`
	Requests    int            `json:"requests"`
	Errors      map[string]int `json:"errors,omitempty"`
	P50         float64        `json:"p50"`
	P99         float64        `json:"p99"`
	Max         float64        `json:"max"`
}

// slow are the benchmarks that took longer than their budgets, and passed or not: PERF_BUDGET_SCALE says what passes.
func (m measurements) slow() (names []string) {
	for _, b := range m.Benchmarks {
		if budget := b.Figures["budget-ms"]; budget > 0 && b.Figures["p95-ms"] > budget {
			names = append(names, b.Name)
		}
	}
	return names
}

func (m measurements) liveOver() []string {
	if m.Live == nil {
		return nil
	}
	return m.Live.Over
}

// mutants is how good the tests are: of build/mutants/mutants.json, the score and who survived.
type mutants struct {
	Generated  int      `json:"generated"`
	Run        int      `json:"run"`
	Killed     int      `json:"killed"`
	Survived   int      `json:"survived"`
	Equivalent int      `json:"equivalent"`
	Invalid    int      `json:"invalid"`
	Unknown    int      `json:"unknown"` // the tests did not run as they should
	Survivors  []mutant `json:"survivors,omitempty"`
}

type mutant struct {
	ID  string `json:"id"`
	SQL string `json:"sql"`
}

// unknown is how make mutants calls a mistake of which the tests, not running as they should, have said nothing.
const unknown = "harness error"

// Score is how many of the mistakes that are some were found, in percent.
func (m mutants) Score() float64 {
	return 100 * float64(m.Killed) / float64(max(1, m.Killed+m.Survived))
}

// ofThese reads a file that make left into a value, if it is there and is of the SQL with that digest; else it says why not.
func ofThese(name, digest string, into any) (why string, err error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "it was not run", nil
	}
	if err != nil {
		return "", err
	}
	var of struct {
		Schema string `json:"schema"`
	}
	if err := json.Unmarshal(text, &of); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	if of.Schema != digest {
		return "what there is, is of other SQL", nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return "", nil
}

// measure takes in what was measured, and draws it.
func (r *report) measure(s source, p *pictures) error {
	return errors.Join(r.ofBenchmarks(s, p), r.ofLive(s, p), r.ofMutants(s))
}

func (r *report) ofBenchmarks(s source, p *pictures) error {
	text, err := results.Benchmarks(s.events...)
	if err != nil {
		return err
	}
	charts, err := latency.Read(strings.NewReader(text), "the benchmarks")
	if err != nil {
		why := "no benchmark was run"
		if strings.Contains(text, "\nBenchmark") {
			why = "it cannot be drawn (" + err.Error() + ")"
		}
		r.Missing = append(r.Missing, missing{"latency", why, "make bench PERF_ROWS=1000,100000"})
	}
	for _, c := range charts {
		svg, err := c.SVG()
		if err != nil {
			return err
		}
		p.Latency = append(p.Latency, picture{c.Name, c.Title, template.HTML(svg)})
	}
	reader := benchfmt.NewReader(strings.NewReader(text), "the benchmarks")
	for reader.Scan() {
		if found, ok := reader.Result().(*benchfmt.Result); ok {
			b := benchmark{found.Name.String(), map[string]float64{}}
			for _, v := range found.Values {
				b.Figures[v.Unit] = v.Value
			}
			r.Measurements.Benchmarks = append(r.Measurements.Benchmarks, b)
		}
	}
	return nil
}

func (r *report) ofLive(s source, p *pictures) error {
	l := &live{}
	why, err := ofThese(filepath.Join(s.build, "report", "live.json"), r.Schema, l)
	if err != nil {
		return err
	}
	if why != "" {
		r.Missing = append(r.Missing, missing{"what users notice of each phase", why, "make live"})
		return nil
	}
	if r.Measurements.Live = l; l.Over == nil {
		l.Over = []string{}
	}
	var steps []latency.Step
	for _, step := range l.Steps {
		if step.P50 == 0 {
			continue // nobody asked anything
		}
		name := step.Name
		if name == "idle" {
			name = "idle, " + step.Application + " application"
		}
		steps = append(steps, latency.Step{Name: name, Median: step.P50, Tail: step.P99, Max: step.Max})
	}
	if len(steps) == 0 {
		return nil
	}
	svg, err := latency.Steps("What users wait while a phase runs", steps)
	p.Live = template.HTML(svg)
	return err
}

func (r *report) ofMutants(s source) error {
	var m struct {
		Generated int            `json:"generated"`
		Run       int            `json:"run"`
		Count     map[string]int `json:"count"`
		Results   []struct {
			ID     string `json:"id"`
			SQL    string `json:"sql"`
			Status string `json:"status"`
			How    string `json:"how"`
		} `json:"results"`
	}
	why, err := ofThese(filepath.Join(s.build, "mutants", "mutants.json"), r.Schema, &m)
	if err != nil {
		return err
	}
	if why != "" {
		r.Missing = append(r.Missing, missing{"how good the tests are", why, "make mutants"})
		return nil
	}
	r.Mutants = &mutants{Generated: m.Generated, Run: m.Run, Killed: m.Count["killed"], Survived: m.Count["survived"],
		Equivalent: m.Count["equivalent"], Invalid: m.Count["invalid"], Unknown: m.Count[unknown]}
	for _, found := range m.Results {
		if found.Status == "survived" && found.How != unknown {
			r.Mutants.Survivors = append(r.Mutants.Survivors, mutant{found.ID, found.SQL})
		}
	}
	slices.SortFunc(r.Mutants.Survivors, func(a, b mutant) int { return strings.Compare(a.ID, b.ID) })
	return nil
}
