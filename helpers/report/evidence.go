package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/vital-health/tenancy/helpers/checklist"
)

// report is the evidence. Its JSON is described by schema.json; whoever changes one changes the other.
type report struct {
	Format       int           `json:"format"` // of this: 1
	Digest       string        `json:"digest"` // SHA-256 of all but what is a time: generated, seconds, measurements
	Generated    time.Time     `json:"generated"`
	Verdict      verdict       `json:"verdict"`
	Commit       string        `json:"commit"`            // of the project; "" where it is not in git
	Changed      bool          `json:"changed,omitempty"` // since that commit, in the working tree
	Schema       string        `json:"schema"`            // the digest of the SQL, which the results are of, too
	Project      string        `json:"project"`           // the digest of the tests, as they are and as they ran
	SchemaDir    string        `json:"schema_dir,omitempty"`
	Files        []file        `json:"files"`
	Server       string        `json:"server"`          // its version
	Leaks        string        `json:"leaks,omitempty"` // of hidden rows, which a later minor version of the server mends
	Machine      string        `json:"machine"`         // that the tests ran on
	Tests        []pkg         `json:"tests"`
	Failures     []failure     `json:"failures"`
	NotRun       []string      `json:"not_run"` // tests of which no result speaks: "package name"
	Stages       []stage       `json:"stages"`  // of make gate
	LeftOut      []string      `json:"left_out,omitempty"`
	Requirements []requirement `json:"requirements"`
	Access       []table       `json:"access"`
	Changes      []change      `json:"changes"` // of access
	Mutants      *mutants      `json:"mutants,omitempty"`
	Deviations   []deviation   `json:"deviations"`
	Missing      []missing     `json:"missing"`
	Measurements measurements  `json:"measurements"`
}

type verdict struct {
	OK       bool     `json:"ok"`
	Reasons  []string `json:"reasons"`  // why it is not
	Warnings []string `json:"warnings"` // what to know besides
}

type file struct {
	Path   string `json:"path"` // below schema/
	SHA256 string `json:"sha256"`
}

// pkg is a package of tests.
type pkg struct {
	Name    string  `json:"name"`
	Passed  int     `json:"passed"`
	Failed  int     `json:"failed"`
	Skipped int     `json:"skipped"`
	Seconds float64 `json:"seconds"` // of its tests together, which run beside one another
}

// test is one that proves something.
type test struct {
	Package string  `json:"package"`
	Name    string  `json:"name"`
	Outcome string  `json:"outcome"`
	Seconds float64 `json:"seconds"`
	Command string  `json:"command"` // that runs it again
}

type failure struct {
	Test    test   `json:"test"`
	Message string `json:"message"`
}

// missing is what could be in the report and is not.
type missing struct {
	What    string `json:"what"`
	Why     string `json:"why"`
	Command string `json:"command"` // that makes it
}

// stamp writes the digest.
func (r *report) stamp() error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var all any
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	for _, time := range []string{"digest", "generated", "measurements", "seconds"} {
		forget(all, time)
	}
	sum := sha256.New()
	encoder := json.NewEncoder(sum)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(all); err != nil { // keys sorted, and a line feed
		return err
	}
	r.Digest = hex.EncodeToString(sum.Sum(nil))
	return nil
}

// forget deletes a key wherever it is.
func forget(value any, key string) {
	switch v := value.(type) {
	case map[string]any:
		delete(v, key)
		for _, inner := range v {
			forget(inner, key)
		}
	case []any:
		for _, inner := range v {
			forget(inner, key)
		}
	}
}

// because is a reason for which the evidence is not that all holds.
func (r *report) because(format string, args ...any) {
	r.Verdict.Reasons = append(r.Verdict.Reasons, fmt.Sprintf(format, args...))
}

// judge says whether the evidence is that all holds, and if not, why.
func (r *report) judge() {
	warn := func(format string, args ...any) {
		r.Verdict.Warnings = append(r.Verdict.Warnings, fmt.Sprintf(format, args...))
	}
	passed, skipped := 0, 0
	for _, p := range r.Tests {
		passed, skipped = passed+p.Passed, skipped+p.Skipped
	}
	if n := len(r.Failures); n > 0 {
		r.because("%s", count(n, "test fails", "tests fail"))
	}
	if skipped > 0 {
		r.because("%s skipped, and proves nothing", count(skipped, "test was", "tests were"))
	}
	if passed == 0 {
		r.because("no test has passed")
	}
	unproven, signed, unsigned := 0, 0, 0
	for _, q := range r.Requirements {
		switch {
		case q.Kind == checklist.Automated && q.State == failed:
			unproven++
		case q.Kind == checklist.Manual && q.Signed != nil:
			signed++
		case q.Kind == checklist.Manual:
			unsigned++
		}
	}
	if unproven > 0 {
		r.because("%s of the checklist that tests are to prove %s not proven", count(unproven, "box", "boxes"), are(unproven))
	}
	for _, s := range r.Stages {
		if s.Outcome != "ok" {
			r.because("the gate's stage %s: %s", s.Name, s.Outcome)
		}
	}
	if r.Mutants != nil && r.Mutants.Survived > 0 {
		r.because("%s that no test has found", count(r.Mutants.Survived, "mistake was made", "mistakes were made"))
	}
	if r.Mutants != nil && r.Mutants.Unknown > 0 {
		r.because("%s of which nothing is known: the tests did not run as they should",
			count(r.Mutants.Unknown, "mistake was made", "mistakes were made"))
	}
	for _, over := range r.Measurements.liveOver() {
		r.because("over its budget while the migrations run: %s", over)
	}
	r.Verdict.OK = len(r.Verdict.Reasons) == 0

	if unsigned > 0 {
		warn("%s not signed off (%d signed)", count(unsigned, "box that people decide is", "boxes that people decide are"), signed)
	}
	if r.Leaks != "" {
		warn("%s", r.Leaks)
	}
	if r.Changed {
		warn("the working tree is not what was committed as %s", short(r.Commit))
	}
	if r.SchemaDir != "" {
		warn("the SQL is that of a folder (SCHEMA_DIR), where it differs from the project's own")
	}
	if slow := r.Measurements.slow(); len(slow) > 0 {
		warn("%s slower than the checklist's budget, which PERF_BUDGET_SCALE has multiplied (%s)",
			count(len(slow), "benchmark is", "benchmarks are"), some(slow, 3))
	}
	if l := r.Measurements.Live; l != nil && l.Scale > 1 {
		warn("what users wait for was allowed to be %g times its budget (PERF_BUDGET_SCALE)", l.Scale)
	}
	if len(r.LeftOut) > 0 {
		warn("stages of the gate that were left out: %s", strings.Join(r.LeftOut, ", "))
	}
	for _, m := range r.Missing {
		warn("missing: %s, because %s; `%s`", m.What, m.Why, m.Command)
	}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func are(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// some are the first of names, and how many more there are.
func some(names []string, n int) string {
	if more := len(names) - n; more > 0 {
		return fmt.Sprintf("%s, and %d more", strings.Join(names[:n], ", "), more)
	}
	return strings.Join(names, ", ")
}

func short(commit string) string { return commit[:min(len(commit), 12)] }
