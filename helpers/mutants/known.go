package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// table reads the lines of a file whose columns are separated by tabs. # begins a comment.
func table(name string, columns int) (rows [][]string, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		row := strings.Split(line, "\t")
		if len(row) != columns {
			return nil, fmt.Errorf("%s:%d: want %d columns, separated by tabs", name, i+1, columns)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// readEquivalents is the mutants that are no mistakes, and why. One that is not made any more must go from the file.
func readEquivalents(name string, all []mutant) (map[string]string, error) {
	rows, err := table(name, 2)
	if err != nil {
		return nil, err
	}
	known := map[string]string{}
	for _, row := range rows {
		if !slices.ContainsFunc(all, func(m mutant) bool { return m.ID == row[0] }) {
			return nil, fmt.Errorf("%s names a mutant that there is not, take it out: %s", name, row[0])
		}
		if row[1] == "" {
			return nil, fmt.Errorf("%s does not say why this is no mistake: %s", name, row[0])
		}
		known[row[0]] = row[1]
	}
	return known, nil
}

func unitNamed(text string) unit {
	pkg, test, _ := strings.Cut(text, " ")
	return unit{pkg, test}
}

// read is what is known of the tests: which found which mutants in a run before, and, unless that does for a sample,
// how long each takes.
func (h *history) read(ctx context.Context, s *suite, killers, measured string, sample bool) error {
	s.cost = map[unit]time.Duration{}
	h.killer, h.found = map[string]unit{}, map[string]map[unit][2]int{}
	rows, err := table(killers, 2)
	if err != nil {
		return err
	}
	for _, row := range rows {
		h.killer[row[0]] = unitNamed(row[1])
	}
	if sample && len(rows) > 0 {
		for _, u := range h.killer {
			s.cost[u.whole()] = unmeasured
		}
		return nil
	}
	rows, err = table(measured, 2)
	if errors.Is(err, fs.ErrNotExist) {
		costs, err := s.units(ctx, func(pkg string) { fmt.Fprintf(os.Stderr, "all tests must pass first: %s\n", pkg) })
		if err != nil {
			return err
		}
		var text strings.Builder
		for u, cost := range costs {
			fmt.Fprintf(&text, "%s\t%s\n", u, cost)
			rows = append(rows, []string{u.String(), cost.String()})
		}
		if err := os.WriteFile(measured, []byte(text.String()), 0o644); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	for _, row := range rows {
		if s.cost[unitNamed(row[0])], err = time.ParseDuration(row[1]); err != nil {
			return fmt.Errorf("%s: %w", measured, err)
		}
	}
	return nil
}

// writeKillers writes down which test found which mutant: it is tried first the next time. Of mutants that were not run,
// what was known stays.
func writeKillers(name string, names map[string]bool, results []result) error {
	known, err := table(name, 2)
	if err != nil {
		return err
	}
	killer := map[string]string{}
	for _, row := range known {
		if names[row[0]] {
			killer[row[0]] = row[1]
		}
	}
	for _, r := range results {
		delete(killer, r.ID)
		if r.Status == killed {
			killer[r.ID] = r.By
		}
	}
	var text strings.Builder
	text.WriteString("# Which test finds which mutant. make mutants writes this file, unless it is given a sample; it is tried first the next time.\n")
	for _, id := range slices.Sorted(maps.Keys(killer)) {
		fmt.Fprintf(&text, "%s\t%s\n", id, killer[id])
	}
	return os.WriteFile(name, []byte(text.String()), 0o644)
}

// hint is which test is missing where a mutant survives.
func (m mutant) hint() string {
	where := map[string]string{
		"policy": "rls_test, who may do what", "row level security": "rls_test", "function": "rls_test or phases_test/constraints",
		"privilege": "rls_test/contract_test.go", "trigger": "phases_test/schema or rls_test", "constraint": "phases_test/constraints",
		"index": "perf_test/plans_test.go", "column": "phases_test/schema or phases_test/constraints", "view": "phases_test/constraints",
		"partition": "rls_test", "logic": "phases_test/backfill",
	}[m.Class]
	return where
}
