package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vital-health/tenancy/schema"
)

// result is what became of a mutant.
type result struct {
	mutant
	Digest  string  `json:"digest"`         // of the mutant and of the tests
	Status  string  `json:"status"`         // killed, survived, equivalent, invalid
	How     ending  `json:"how,omitempty"`  // a kill
	By      string  `json:"by,omitempty"`   // the unit that killed it
	Says    string  `json:"says,omitempty"` // what it says
	Tried   int     `json:"tried"`          // units
	Seconds float64 `json:"seconds"`
}

const (
	killed     = "killed"
	survived   = "survived"
	equivalent = "equivalent"
	invalid    = "invalid" // the statement cannot run, or changes nothing
)

// hunt lets the tests find mutants.
type hunt struct {
	suite   *suite
	history history
	work    string // a folder for the mutants'
	most    int    // units that are tried before whole packages
	quick   bool   // no whole packages, and what is known is believed
	control *control

	mu sync.Mutex
}

// one lets the tests find one mutant.
func (h *hunt) one(ctx context.Context, m mutant) (r result) {
	began := time.Now()
	r = result{mutant: m, Digest: m.digest() + h.suite.digest, Status: survived}
	defer func() { r.Seconds = time.Since(began).Seconds() }()
	if m.statement != "" {
		switch changes, err := h.control.phase[m.Phase].changes(ctx, m.statement); {
		case err != nil:
			r.Status, r.Says = invalid, err.Error()
			return r
		case !changes:
			r.Status, r.Says = invalid, "it changes nothing in the catalog"
			return r
		}
	}
	folder, err := os.MkdirTemp(h.work, "mutant-")
	if err == nil {
		err = m.folder(folder)
	}
	defer os.RemoveAll(folder)
	if err != nil {
		r.How, r.Says = harness, err.Error()
		return r
	}
	tried := map[unit]bool{}
	try := func(u unit) (over bool) {
		tried[u] = true
		how, text := h.suite.run(ctx, u, folder)
		if ctx.Err() != nil {
			return true
		}
		if how == absent {
			return false
		}
		r.Tried++
		h.tell(m, u, how)
		switch how {
		case passed:
			return false
		case harness:
			r.How, r.By, r.Says = harness, u.String(), tail(text, 3000)
			return true
		}
		// What it was that failed does the next time, unless it passed when it was alone.
		by := u
		if part := u.finest(text); how != timeout && !tried[part] {
			by = part
		}
		r.Status, r.How, r.By, r.Says = killed, how, by.String(), gist(text)
		return true
	}
	h.mu.Lock()
	units := h.history.order(m, h.suite.cost, h.quick)
	h.mu.Unlock()
	for i, u := range units {
		if (i < h.most || repeats(u) == 1) && try(u) {
			return r
		}
	}
	if h.quick {
		return r
	}
	for _, pkg := range packages {
		if try(unit{Package: pkg}) {
			return r
		}
	}
	return r
}

func (h *hunt) tell(m mutant, u unit, how ending) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// That a part finds nothing does not say that the whole would not.
	if whole := h.suite.measured(u); whole == u || how != passed {
		h.history.learn(m, whole, how != passed)
	}
}

// gist is the lines of a failed test that say what is wrong.
func gist(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "Error Trace") || strings.HasPrefix(line, "===") || strings.HasPrefix(line, "/") || strings.Contains(line, "_test.go:") {
			continue
		}
		lines = append(lines, line)
	}
	return tail(strings.Join(lines[:min(len(lines), 12)], "\n"), 1500)
}

// history is which units have found which mutants.
type history struct {
	killer map[string]unit            // by the mutant's id, from runs before
	found  map[string]map[unit][2]int // by kind of mutant: how often a unit found one, and was tried
}

// kinds are what mutants have in common with others, the closest first.
func (m mutant) kinds() []string {
	object, _, _ := strings.Cut(m.ID, ": ")
	operator, _, _ := strings.Cut(m.Operator, ": ")
	return []string{resources.ReplaceAllString(object, "?"), m.Phase.String() + m.Class + operator, m.Phase.String() + m.Class}
}

func (h *history) learn(m mutant, u unit, kill bool) {
	for _, kind := range m.kinds() {
		if h.found[kind] == nil {
			h.found[kind] = map[unit][2]int{}
		}
		n := h.found[kind][u]
		n[1]++
		if kill {
			n[0]++
		}
		h.found[kind][u] = n
	}
}

// home is where the tests of a phase are.
var home = map[schema.Phase][]string{
	schema.Phase1: {"phases_test/schema", "phases_test/rollback"}, schema.Phase2: {"phases_test/backfill", "phases_test/messy"},
	schema.Phase3: {"phases_test/constraints", "perf_test", "rls_test"}, schema.Phase4: {"rls_test"},
}

// repeating are the units that compare policies with how they are written.
var repeating = []string{"TestPhase4/Verification_queries", "TestPhase4/Policies", "TestPhase4/Again", "TestPhase4Matrix"}

// repeats is 1 for such a unit, else 0.
func repeats(u unit) int {
	if slices.ContainsFunc(repeating, func(test string) bool { return u.Test == test || strings.HasPrefix(u.Test, test+"/") }) {
		return 1
	}
	return 0
}

// order is the units, those first that find most such mutants for what they cost. Quickly it is believed of a policy's mutant
// that nothing finds it but what repeats how it is written, where that was so before.
func (h *history) order(m mutant, costs map[unit]time.Duration, quick bool) []unit {
	worth := map[unit]float64{}
	for u, cost := range costs {
		p := 0.002
		switch {
		case u.Test == "TestAttributes" && m.Class == "function" && strings.HasPrefix(m.statement, "alter "):
			p = 0.9
		case !slices.Contains(home[m.Phase], u.Package):
		case m.Class == "policy" && strings.HasPrefix(u.Test, "TestPhase4Decisions/"):
			p = 0.9
		default:
			p = 0.2
		}
		// What is known of mutants that have less in common is what is expected of those that have more.
		for _, kind := range slices.Backward(m.kinds()) {
			n := h.found[kind][u]
			p = (float64(n[0]) + 2*p) / (float64(n[1]) + 2)
		}
		worth[u] = p / (0.4 + cost.Seconds())
	}
	units := slices.SortedFunc(maps.Keys(worth), func(a, b unit) int {
		switch {
		case worth[a] > worth[b]:
			return -1
		case worth[a] < worth[b]:
			return 1
		}
		return strings.Compare(a.String(), b.String())
	})
	// A policy is to be found by what it does, and by what repeats how it is written only if nothing else finds it.
	written := m.Class == "policy" || m.Class == "row level security"
	if written {
		slices.SortStableFunc(units, func(a, b unit) int { return cmp.Compare(repeats(a), repeats(b)) })
	}
	if killer, ok := h.killer[m.ID]; ok && (quick || !written || repeats(killer) == 0) {
		units = append([]unit{killer}, slices.DeleteFunc(units, func(u unit) bool { return u == killer })...)
	}
	return units
}

// journal is the results so far, a line each, so that a run that was stopped goes on.
type journal struct {
	file *os.File
	done map[string]result // by id
}

func openJournal(name string) (*journal, error) {
	j := &journal{done: map[string]result{}}
	text, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	scanner := bufio.NewScanner(strings.NewReader(string(text)))
	scanner.Buffer(nil, 1<<22)
	for scanner.Scan() {
		var r result
		if json.Unmarshal(scanner.Bytes(), &r) == nil { // the last line of a run that was killed may be half of one
			j.done[r.ID] = r
		}
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	j.file, err = os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	return j, err
}

func (j *journal) add(results []result) error {
	for _, r := range results {
		j.done[r.ID] = r
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(j.file, "%s\n", line); err != nil {
			return err
		}
	}
	return nil
}
