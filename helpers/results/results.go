// Package results reads what go test -json wrote (its events: go doc test2json).
package results

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Module is the path of this module, which begins those of its packages.
const Module = "github.com/vital-health/tenancy"

// The keys of what tests say as attributes: the first three, one for all of them; the last two, each that proves something.
const (
	Server  = "server"  // its version
	Leaks   = "leaks"   // of rows that policies hide, which a later minor version of the server mends; if there are any
	Machine = "machine" // that they ran on
	Schema  = "schema"  // the digest of the SQL that they ran
	Project = "project" // the digest of the tests ([Digest])
)

// Outcome is what became of a test, from best to worst.
type Outcome string

// A test that began and did not end was killed, with its process.
const (
	Passed     Outcome = "passed"
	Skipped    Outcome = "skipped"
	Failed     Outcome = "failed"
	Unfinished Outcome = "unfinished"
)

var worse = []Outcome{Passed, Skipped, Failed, Unfinished}

// Test is a test, or a part of one.
type Test struct {
	Package    string              // its path below the module: "rls_test"
	Name       string              // "TestPhase4/Policies"; "" is the package, where it failed without a test
	Outcome    Outcome             // the worst, if it ran more than once
	Seconds    float64             // with its parts; of the last run
	Attributes map[string][]string // what it says of itself ([testing.T.Attr]), by key
	Message    string              // what a test that did not pass said, without what is about Go
}

// Title is the test's name as a sentence.
func (t Test) Title() string {
	if t.Name == "" {
		return t.Package
	}
	return strings.ReplaceAll(strings.ReplaceAll(t.Name, "_", " "), "/", ": ")
}

// Command runs it again, alone.
func (t Test) Command() string {
	command := "make test PKG=./" + t.Package
	if t.Name == "" {
		return command
	}
	var parts []string
	for part := range strings.SplitSeq(t.Name, "/") {
		parts = append(parts, "^"+regexp.QuoteMeta(part)+"$")
	}
	return command + " RUN='" + strings.ReplaceAll(strings.Join(parts, "/"), "'", `'\''`) + "'"
}

// Read reads files of events, and returns the tests in the order of their packages and names. Of a package there is a test
// without a name if it failed without one: it does not compile, or its process was killed.
func Read(files ...string) ([]Test, error) {
	r := reader{tests: map[key]*Test{}, output: map[key]*strings.Builder{}}
	for _, name := range files {
		if err := r.read(name); err != nil {
			return nil, err
		}
	}
	var all []Test
	for k, t := range r.tests {
		if t.Outcome == "" {
			t.Outcome = Unfinished // it said something, and not even that it began
		}
		if k.test == "" && (t.Outcome == Passed || t.Outcome == Skipped) {
			continue // Skipped is a package without tests
		}
		if said := r.output[k]; said != nil && t.Outcome != Passed {
			t.Message = message(said.String())
		}
		all = append(all, *t)
	}
	slices.SortFunc(all, func(a, b Test) int {
		if order := strings.Compare(a.Package, b.Package); order != 0 {
			return order
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all, nil
}

// Benchmarks returns what benchmarks printed, as go test without -json would have (its format:
// https://go.dev/design/14313-benchmark-format).
func Benchmarks(files ...string) (string, error) {
	var text strings.Builder
	for _, name := range files {
		err := each(name, func(e event) {
			if e.Action == "output" && (strings.HasPrefix(e.Test, "Benchmark") || e.Test == "") && !strings.HasPrefix(e.Output, "=== ") {
				text.WriteString(e.Output)
			}
		})
		if err != nil {
			return "", err
		}
	}
	return text.String(), nil
}

// Failures returns the tests that failed by themselves, and not because of a part of theirs.
func Failures(tests []Test) (failed []Test) {
	for _, t := range tests {
		if t.Outcome == Failed || t.Outcome == Unfinished {
			failed = append(failed, t)
		}
	}
	return slices.DeleteFunc(slices.Clone(failed), func(t Test) bool {
		return slices.ContainsFunc(failed, func(part Test) bool {
			return part.Package == t.Package && part.Name != t.Name && (t.Name == "" || strings.HasPrefix(part.Name, t.Name+"/"))
		})
	})
}

type key struct{ pkg, test string }

type reader struct {
	tests  map[key]*Test
	output map[key]*strings.Builder
}

// event is a line of the file.
type event struct {
	Action, Package, Test, Output, ImportPath, Key, Value string
	Elapsed                                               float64
}

// each calls f with each event of a file.
func each(name string, f func(event)) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<20)
	for n := 1; lines.Scan(); n++ {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("%s:%d is no event of go test -json, or the file was cut off: run the tests again: %w", name, n, err)
		}
		if e.Package != "" && e.Package != Module && !strings.HasPrefix(e.Package, Module+"/") {
			return fmt.Errorf("%s:%d is of %s, and not of this module (%s)", name, n, e.Package, Module)
		}
		f(e)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

func (r *reader) read(name string) error {
	before := map[key]Outcome{} // what became of a test until now: in another file, or in this one
	bench := map[string][]key{} // by package: benchmarks that have begun; that they have ended, nothing says but what comes next
	return each(name, func(e event) {
		switch e.Action {
		case "build-output":
			e.Package, _, _ = strings.Cut(e.ImportPath, " ")
		case "build-fail":
			return // the package whose tests it stops says so, too
		}
		k := key{strings.TrimPrefix(strings.TrimPrefix(e.Package, Module), "/"), e.Test}
		if r.tests[k] == nil {
			r.tests[k] = &Test{Package: k.pkg, Name: k.test, Attributes: map[string][]string{}}
		}
		t := r.tests[k]
		if _, seen := before[k]; !seen {
			before[k] = t.Outcome
		}
		ended := func(o Outcome) {
			t.Seconds = e.Elapsed
			t.Outcome = worst(before[k], o)
		}
		switch e.Action {
		case "run", "start":
			if strings.HasPrefix(k.test, "Benchmark") {
				if !strings.Contains(k.test, "/") {
					r.pass(bench[k.pkg], before)
					bench[k.pkg] = nil
				}
				bench[k.pkg] = append(bench[k.pkg], k)
			}
			before[k], t.Outcome = t.Outcome, Unfinished
		case "output", "build-output":
			if r.output[k] == nil {
				r.output[k] = &strings.Builder{}
			}
			r.output[k].WriteString(e.Output)
		case "attr":
			if !slices.Contains(t.Attributes[e.Key], e.Value) {
				t.Attributes[e.Key] = append(t.Attributes[e.Key], e.Value)
			}
		case "pass":
			ended(Passed)
		case "skip":
			ended(Skipped)
		case "fail":
			ended(Failed)
		}
		if k.test == "" && (e.Action == "pass" || e.Action == "fail" && r.anyFailed(bench[k.pkg])) {
			r.pass(bench[k.pkg], before)
		}
	})
}

// pass says that benchmarks have ended that have not failed.
func (r *reader) pass(benchmarks []key, before map[key]Outcome) {
	for _, k := range benchmarks {
		if t := r.tests[k]; t.Outcome == Unfinished {
			t.Outcome = worst(before[k], Passed)
		}
	}
}

func (r *reader) anyFailed(benchmarks []key) bool {
	return slices.ContainsFunc(benchmarks, func(k key) bool { return r.tests[k].Outcome == Failed })
}

func worst(a, b Outcome) Outcome {
	if slices.Index(worse, a) > slices.Index(worse, b) {
		return a
	}
	return b
}
