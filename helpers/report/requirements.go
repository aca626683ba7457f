package main

import (
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/results"
	"github.com/vital-health/tenancy/schema"
)

// requirement is a box of the checklist, and what is known of it.
type requirement struct {
	ID      string         `json:"id"`
	Section string         `json:"section"`
	Text    string         `json:"text"`
	Kind    checklist.Kind `json:"kind"`
	State   state          `json:"state"`
	Tests   []test         `json:"tests,omitempty"` // that prove it
	Signed  *signed        `json:"signed,omitempty"`
	Parts   []string       `json:"parts,omitempty"` // the ids of the boxes below it, which decide
}

// state is what became of a box.
type state string

const (
	proven state = "proven" // by tests that pass
	signOf state = "signed" // by somebody
	open   state = "open"   // nobody has signed it, or one below it
	failed state = "failed" // no test proves it, or one does not pass
)

// states are all, from best to worst: a box above others is as good as the worst of them.
var states = []state{proven, signOf, open, failed}

type signed struct {
	Who      string `json:"who"`
	Role     string `json:"role"`
	Date     string `json:"date"`
	Evidence string `json:"evidence"`
}

// proof is a test as evidence. Its command runs it with the same SQL.
func proof(t results.Test) test {
	command := t.Command()
	if dir := os.Getenv(schema.DirVariable); dir != "" {
		command = schema.DirVariable + "='" + strings.ReplaceAll(dir, "'", `'\''`) + "' " + command
	}
	return test{Package: t.Package, Name: t.Name, Outcome: string(t.Outcome), Seconds: t.Seconds, Command: command}
}

// requirements says of each box what tests and people say of it.
func requirements(tests []results.Test, signOffs []checklist.SignOff) (all []requirement) {
	proofs := map[string][]test{}
	for _, t := range tests {
		for _, id := range t.Attributes[checklist.Attribute] {
			proofs[id] = append(proofs[id], proof(t))
		}
	}
	signedBy := map[string]checklist.SignOff{}
	for _, s := range signOffs {
		signedBy[s.ID] = s
	}
	at := map[string]int{}
	for i, box := range checklist.Boxes() {
		q := requirement{ID: box.ID, Section: box.Section, Text: box.Text, Kind: box.Kind, Tests: proofs[box.ID]}
		switch box.Kind {
		case checklist.Automated:
			q.State = proven
			if len(q.Tests) == 0 {
				q.State = failed
			}
			for _, t := range q.Tests {
				if t.Outcome != string(results.Passed) {
					q.State = failed
				}
			}
		case checklist.Manual:
			q.State = open
			if s := signedBy[box.ID]; s.Signed() {
				q.State = signOf
				q.Signed = &signed{s.Who, s.Role, s.Date.Format(time.DateOnly), s.Evidence}
			}
		}
		at[box.ID] = i
		all = append(all, q)
	}
	// A box below another one comes after it.
	for i, box := range slices.Backward(checklist.Boxes()) {
		if box.Kind != checklist.Parts {
			continue
		}
		q := &all[i]
		q.State = proven
		for _, part := range box.Below() {
			q.Parts = append(q.Parts, part.ID)
			if state := all[at[part.ID]].State; slices.Index(states, state) > slices.Index(states, q.State) {
				q.State = state
			}
		}
	}
	return all
}
