package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vital-health/tenancy/schema"
)

// report prints what became of the mutants, and writes it down.
func report(build, killers string, generated int, names map[string]bool, write bool, results []result) error {
	slices.SortFunc(results, func(a, b result) int { return strings.Compare(a.ID, b.ID) })
	count := map[string]int{}
	how := map[ending]int{}
	policies := 0
	written := 0 // mutants of policies that only what repeats them has found
	for _, r := range results {
		status := r.Status
		if r.How == harness {
			status = string(harness)
		}
		count[status]++
		if status == killed {
			how[r.How]++
			if r.Class == "policy" {
				policies++
			}
			if r.Class == "policy" && repeats(unitNamed(r.By)) == 1 {
				written++
			}
		}
	}
	digest, err := schema.Digest()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(struct {
		Schema    string         `json:"schema"` // the digest of the SQL
		Generated int            `json:"generated"`
		Run       int            `json:"run"`
		Count     map[string]int `json:"count"`
		How       map[ending]int `json:"how"`
		Results   []result       `json:"results"`
	}{digest, generated, len(results), count, how, results}, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(build, "mutants.json"), text, 0o644); err != nil {
		return err
	}
	for _, r := range results {
		switch {
		case r.How == harness:
			fmt.Printf("\nharness error: %s\n%s\n%s\n", r.ID, r.By, r.Says)
		case r.Status == survived:
			fmt.Printf("\nsurvived: %s\n%s\n  missing: a test that fails when this is so: %s\n", r.ID, indent(r.SQL), r.hint())
		}
	}
	if write {
		if err := writeKillers(killers, names, results); err != nil {
			return err
		}
	}
	fmt.Printf("\nkilled by an assertion %d, by the migration's own refusal %d, by an SQL error in the migration %d, by a timeout %d; harness errors %d\n",
		how[assertion], how[refused], how[sqlError], how[timeout], count[string(harness)])
	fmt.Printf("policies: %d found by what they do, %d only by how they are written\n", policies-written, written)
	fmt.Printf("mutants: %d generated, %d run, %d killed, %d survived, %d equivalent, %d invalid\n",
		generated, len(results), count[killed], count[survived], count[equivalent], count[invalid])
	if count[survived]+count[string(harness)] > 0 {
		return errors.New("not all mutants were found")
	}
	return nil
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}
