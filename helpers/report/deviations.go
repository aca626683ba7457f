package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vital-health/tenancy/helpers/results"
)

// deviation is where we ship what the checklist means and not what it says. Its texts are Markdown.
type deviation struct {
	Says     string `json:"says"` // the checklist
	Ships    string `json:"ships"`
	Prevents string `json:"prevents"`
	By       string `json:"by"` // what proves it, in words
	Tests    []test `json:"tests"`
}

var (
	cells = regexp.MustCompile(`\s*\|\s*`)
	named = regexp.MustCompile("`(Test[^`]*)`")
	place = regexp.MustCompile("`([a-z_]+(?:/[a-z_]+)*)`: ((?:`Test[^`]+`(?:, | and )?)+)")
)

// deviations reads the table of docs/deviations.md. A test that it names and that did not run is a proof that is missing.
func deviations(root string, tests []results.Test) (all []deviation, err error) {
	name := filepath.Join(root, "docs", "deviations.md")
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	ran := map[string]results.Test{}
	for _, t := range tests {
		ran[t.Package+" "+t.Name] = t
	}
	const bar = "\x00"
	for i, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| checklist says ") {
			continue
		}
		row := cells.Split(strings.Trim(strings.ReplaceAll(line, `\|`, bar), "| "), -1)
		if len(row) != 4 {
			return nil, fmt.Errorf("%s:%d: want four columns: what the checklist says, what we ship, what that prevents, what proves it", name, i+1)
		}
		for i := range row {
			row[i] = strings.ReplaceAll(row[i], bar, "|")
		}
		d := deviation{Says: row[0], Ships: row[1], Prevents: row[2], By: row[3], Tests: []test{}}
		for _, found := range place.FindAllStringSubmatch(row[3], -1) {
			for _, each := range named.FindAllStringSubmatch(found[2], -1) {
				t, ok := ran[found[1]+" "+strings.ReplaceAll(each[1], " ", "_")]
				if !ok {
					t = results.Test{Package: found[1], Name: strings.ReplaceAll(each[1], " ", "_"), Outcome: "not run"}
				}
				d.Tests = append(d.Tests, proof(t))
			}
		}
		all = append(all, d)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no table of deviations", name)
	}
	return all, nil
}
