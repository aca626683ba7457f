package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/results"
	"github.com/vital-health/tenancy/schema"
)

// source is where the evidence comes from.
type source struct {
	root   string   // the project
	build  string   // what make leaves
	events []string // files of what go test -json wrote
	tests  []string // that there are, by "package name"
}

// pictures are what the page shows and the JSON does not.
type pictures struct {
	Hierarchy template.HTML
	Latency   []picture
	Live      template.HTML
}

type picture struct {
	Name, Title string
	SVG         template.HTML
}

// stage is one of make gate.
type stage struct {
	Name    string   `json:"name"`
	Outcome string   `json:"outcome"`
	Seconds float64  `json:"seconds"`
	Command string   `json:"command"`
	Said    []string `json:"said,omitempty"`
}

// collect takes in everything, and judges it.
func collect(s source, now time.Time) (r *report, p *pictures, err error) {
	r, p = &report{Format: 1, Generated: now.UTC().Truncate(time.Second), SchemaDir: os.Getenv(schema.DirVariable)}, &pictures{}
	r.Verdict.Reasons, r.Verdict.Warnings = []string{}, []string{}
	r.Tests, r.Failures, r.NotRun, r.Missing = []pkg{}, []failure{}, []string{}, []missing{}
	if err := r.ofSchema(); err != nil {
		return nil, nil, err
	}
	if r.Project, err = results.Digest(s.root); err != nil {
		return nil, nil, err
	}
	if err := r.ofGit(s.root); err != nil {
		return nil, nil, err
	}
	tests, err := results.Read(s.events...)
	if err != nil {
		return nil, nil, err
	}
	if err := r.ofTests(tests, s.tests); err != nil {
		return nil, nil, err
	}
	signOffs, err := checklist.ReadSignOffs(s.root)
	if err != nil {
		return nil, nil, err
	}
	r.Requirements = requirements(tests, signOffs)
	if r.Access, err = access(s.root); err != nil {
		return nil, nil, err
	}
	if r.Changes, err = changes(); err != nil {
		return nil, nil, err
	}
	if r.Deviations, err = deviations(s.root, tests); err != nil {
		return nil, nil, err
	}
	if err := r.measure(s, p); err != nil {
		return nil, nil, err
	}
	var gate struct {
		Stages  []stage  `json:"stages"`
		LeftOut []string `json:"left_out"`
	}
	why, err := ofThese(filepath.Join(s.build, "report", "gate.json"), r.Schema, &gate)
	if err != nil {
		return nil, nil, err
	}
	if r.Stages, r.LeftOut = gate.Stages, gate.LeftOut; why != "" {
		r.Stages, r.Missing = []stage{}, append(r.Missing, missing{"the gate's verdict", why, "make gate"})
	}
	if p.Hierarchy, err = hierarchy(); err != nil {
		return nil, nil, err
	}
	r.judge()
	return r, p, r.stamp()
}

// ofSchema says which SQL it is about.
func (r *report) ofSchema() (err error) {
	if r.Schema, err = schema.Digest(); err != nil {
		return err
	}
	for _, passage := range schema.Journey() {
		f, err := passage.File()
		if err != nil {
			return err
		}
		sum := sha256.Sum256([]byte(f.SQL))
		r.Files = append(r.Files, file{f.Path, hex.EncodeToString(sum[:])})
	}
	return nil
}

// ofGit says which commit it is. A copy of the project without its history has none.
func (r *report) ofGit(root string) error {
	git := func(args ...string) (string, error) {
		out, err := exec.Command("git", append([]string{"-C", root}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	var err error
	if r.Commit, err = git("rev-parse", "HEAD"); err != nil {
		r.Missing = append(r.Missing, missing{"the commit", "this is no git repository, or git is not there", "git rev-parse HEAD"})
		return nil
	}
	changed, err := git("status", "--porcelain")
	if err != nil {
		return fmt.Errorf("git status: %w", err)
	}
	r.Changed = changed != ""
	return nil
}

// ofTests says what became of the tests, and on what they ran. Results of other SQL, or other tests, are refused.
func (r *report) ofTests(tests []results.Test, all []string) error {
	packages := map[string]*pkg{}
	said := map[string][]string{}
	ran := map[string]bool{}
	silent := 0
	for _, t := range tests {
		ran[t.Package+" "+t.Name] = true
		p := packages[t.Package]
		if p == nil {
			p = &pkg{Name: t.Package}
			packages[t.Package] = p
		}
		switch t.Outcome {
		case results.Passed:
			p.Passed++
		case results.Skipped:
			p.Skipped++
		default:
			p.Failed++
		}
		if !strings.Contains(t.Name, "/") {
			p.Seconds += t.Seconds
		}
		for key, values := range t.Attributes {
			for _, value := range values {
				if !slices.Contains(said[key], value) {
					said[key] = append(said[key], value)
				}
			}
		}
		if len(t.Attributes[checklist.Attribute]) > 0 && (t.Attributes[results.Schema] == nil || t.Attributes[results.Project] == nil) {
			silent++
		}
	}
	for _, p := range packages {
		r.Tests = append(r.Tests, *p)
	}
	slices.SortFunc(r.Tests, func(a, b pkg) int { return strings.Compare(a.Name, b.Name) })
	for _, t := range results.Failures(tests) {
		r.Failures = append(r.Failures, failure{proof(t), beginning(t.Message)})
	}
	if slices.ContainsFunc(said[results.Schema], func(digest string) bool { return digest != r.Schema }) {
		return errors.New("the tests ran other SQL than what is here: run them again (SCHEMA_DIR as it was then), or report there")
	}
	if slices.ContainsFunc(said[results.Project], func(digest string) bool { return digest != r.Project }) {
		return errors.New("the tests, or what they read, are not what they were when they ran: run them again, or report there")
	}
	if silent > 0 {
		r.because("%s to prove boxes, and not of which SQL", count(silent, "test says", "tests say"))
	}
	if len(said[results.Server]) == 0 {
		r.because("the results do not say on which server they are from: TestPhase4Server did not run, or failed")
	}
	for _, name := range all {
		if !ran[name] {
			r.NotRun = append(r.NotRun, name)
		}
	}
	if n := len(r.NotRun); n > 0 {
		r.because("%s not run (%s)", count(n, "test was", "tests were"), some(r.NotRun, 3))
	}
	for key, into := range map[string]*string{results.Server: &r.Server, results.Machine: &r.Machine, results.Leaks: &r.Leaks} {
		*into = strings.Join(said[key], "; ")
	}
	return nil
}

// longest is how many bytes of what a test says are kept: a page is to be read.
const longest = 20_000

// beginning is the beginning of a text that is too long.
func beginning(text string) string {
	if len(text) <= longest {
		return text
	}
	return fmt.Sprintf("%s\n… (%d bytes more: run it again)", strings.ToValidUTF8(text[:longest], ""), len(text)-longest)
}

// The files that are written.
const (
	pageFile = "index.html"
	dataFile = "report.json"
)

// write writes the two files, each one whole or not at all.
func (r *report) write(folder string, p *pictures) error {
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	var html bytes.Buffer
	if err := writePage(&html, r, p); err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for name, content := range map[string][]byte{dataFile: append(text, '\n'), pageFile: html.Bytes()} {
		name = filepath.Join(folder, name)
		if err := os.WriteFile(name+".new", content, 0o644); err != nil {
			return err
		}
		if err := os.Rename(name+".new", name); err != nil {
			return err
		}
	}
	return nil
}

// print says the verdict, and where to read on.
func (r *report) print(w io.Writer, page string) {
	for _, f := range r.Failures {
		fmt.Fprintf(w, "failed: %s\n  %s\n  again: %s\n", title(f.Test), strings.ReplaceAll(f.Message, "\n", "\n  "), f.Test.Command)
	}
	for _, reason := range r.Verdict.Reasons {
		fmt.Fprintln(w, "not verified:", reason)
	}
	for _, warning := range r.Verdict.Warnings {
		fmt.Fprintln(w, "note:", warning)
	}
	fmt.Fprintf(w, "%s\nreport: %s\n", r.Headline(), page)
}

// Headline is the verdict in a sentence.
func (r *report) Headline() string {
	if r.Verdict.OK {
		tests, boxes := 0, 0
		for _, p := range r.Tests {
			tests += p.Passed
		}
		for _, q := range r.Requirements {
			if q.State == proven {
				boxes++
			}
		}
		return fmt.Sprintf("Verified: %d tests pass, and prove %d of the checklist's %d boxes.", tests, boxes, len(r.Requirements))
	}
	return fmt.Sprintf("Not verified: %s.", strings.Join(r.Verdict.Reasons, "; "))
}
