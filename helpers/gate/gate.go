package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vital-health/tenancy/helpers/results"
	"github.com/vital-health/tenancy/schema"
)

// differences is the folder of the report in which tests leave what they found otherwise than declared.
const differences = "differences"

// eventsFolder is the folder of the report in which stages that run tests leave what go test -json wrote.
const eventsFolder = "events"

// gate is a run.
type gate struct {
	ctx    context.Context
	report string
	out    io.Writer
	env    []string

	Stages  []result
	leftOut []string // stages that nobody asked for
	broken  string   // why the migrations do not run
	attacks []string
}

// result is what became of a stage.
type result struct {
	Name    string   `json:"name"`
	Outcome string   `json:"outcome"` // "ok", "failed", "not run"
	Seconds float64  `json:"seconds"`
	Command string   `json:"command"`        // that runs it alone
	Said    []string `json:"said,omitempty"` // the first of what is wrong
	More    int      `json:"more,omitempty"` // how much else is
	Log     string   `json:"log,omitempty"`

	stage stage
}

// attack begins the message of a test that tried something and got away with it.
const attack = "An attack succeeds: "

// shown is how many things that are wrong with a stage stand in the table; the log has all.
const shown = 12

// clear takes away what the gate before has left.
func (g *gate) clear() error {
	for _, s := range stages("", "") {
		for _, name := range []string{s.Name + ".log", "junit-" + s.Name + ".xml"} {
			if err := os.RemoveAll(filepath.Join(g.report, name)); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{differences, eventsFolder, "access.diff", "gate.json", "sql-review.sarif", "locks.sarif"} {
		if err := os.RemoveAll(filepath.Join(g.report, name)); err != nil {
			return err
		}
	}
	return errors.Join(os.MkdirAll(filepath.Join(g.report, differences), 0o755), os.MkdirAll(filepath.Join(g.report, eventsFolder), 0o755))
}

// leave notes which stages are not among the chosen.
func (g *gate) leave(all, chosen []stage) {
	for _, s := range all {
		if !slices.ContainsFunc(chosen, func(c stage) bool { return c.Name == s.Name }) {
			g.leftOut = append(g.leftOut, s.Name)
		}
	}
}

// stage runs one.
func (g *gate) stage(s stage) error {
	r := result{Name: s.Name, Command: s.alone(), stage: s}
	if s.databases && g.broken != "" {
		r.Outcome, r.Said = "not run", []string{"the migrations do not run: " + g.broken}
		g.Stages = append(g.Stages, r)
		return nil
	}
	r.Log = filepath.Join(g.report, s.Name+".log")
	log, err := os.Create(r.Log)
	if err != nil {
		return err
	}
	defer log.Close()
	events := filepath.Join(g.report, eventsFolder, s.Name+".json")
	fmt.Fprintf(g.out, "gate: %s, %s …\n", s.Name, s.does)
	began := time.Now()
	command := exec.CommandContext(g.ctx, "make", append([]string{"--no-print-directory"}, s.make...)...)
	command.Env = append(slices.Clone(g.env), "MAKEFLAGS=", // of the make that runs the gate: what it was told is in the environment

		"GOTESTSUM_JSONFILE="+events, "GOTESTSUM_JUNITFILE="+filepath.Join(g.report, "junit-"+s.Name+".xml"))
	command.Stdout, command.Stderr = log, log
	// Who interrupts the gate interrupts what it has started.
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = 30 * time.Second
	err = command.Run()
	r.Seconds = time.Since(began).Seconds()
	if g.ctx.Err() != nil {
		return g.ctx.Err()
	}
	r.Outcome = "ok"
	if err != nil {
		r.Outcome = "failed"
		if _, exited := errors.AsType[*exec.ExitError](err); !exited {
			return err
		}
		if err := g.explain(&r, events); err != nil {
			return err
		}
	}
	fmt.Fprintf(g.out, "gate: %s %s, %.0f s\n", s.Name, r.Outcome, r.Seconds)
	g.Stages = append(g.Stages, r)
	return nil
}

// explain finds out what a stage has said.
func (g *gate) explain(r *result, events string) error {
	log, err := os.ReadFile(r.Log)
	if err != nil {
		return err
	}
	tests, err := results.Read(events)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // there is none where no test ran
		return err
	}
	failures := results.Failures(tests)
	var said []string
	for _, f := range failures {
		if what, succeeds := strings.CutPrefix(f.Message, attack); succeeds {
			g.attacks = append(g.attacks, what)
			continue
		}
		said = append(said, strings.TrimSuffix(f.Title()+"\n"+f.Message, "\n"))
		if _, why, ok := strings.Cut(f.Message, " does not run: "); ok && r.Name == "locks" {
			g.broken = strings.SplitN(why, "\n", 2)[0]
			said, r.stage.todo = []string{why}, "Mend the file at that line."
			break
		}
	}
	if len(failures) == 0 {
		said = lastLines(string(log), shown)
	}
	r.Said, r.More = said[:min(len(said), shown)], max(0, len(said)-shown)
	return nil
}

// lastLines are the last lines of a log that say something.
func lastLines(log string, n int) (lines []string) {
	for line := range strings.Lines(log) {
		line = strings.TrimRight(line, "\n")
		if strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "make") && !strings.HasPrefix(line, "exit status ") {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-n):]
}

// verdict prints what became of the stages, writes it for machines, and says whether all is well.
func (g *gate) verdict(folder string) (ok bool, err error) {
	ok = true
	for _, r := range g.Stages {
		ok = ok && r.Outcome == "ok"
	}
	access, err := g.accessDifference()
	if err != nil {
		return false, err
	}
	g.print(ok, access)
	digest, err := schema.Digest()
	if err != nil {
		return false, err
	}
	out, err := json.MarshalIndent(struct {
		OK        bool     `json:"ok"`
		Schema    string   `json:"schema"` // the digest of the SQL
		SchemaDir string   `json:"schema_dir,omitempty"`
		Stages    []result `json:"stages"`
		LeftOut   []string `json:"left_out,omitempty"` // stages that nobody asked for
		Attacks   []string `json:"attacks,omitempty"`
	}{ok, digest, folder, g.Stages, g.leftOut, g.attacks}, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(g.report, "gate.json"), append(out, '\n'), 0o644)
	}
	if err == nil {
		err = g.moveSARIF()
	}
	return ok, err
}

// moveSARIF puts what the tests left for code hosts beside the rest of it.
func (g *gate) moveSARIF() error {
	err := os.Rename(filepath.Join(g.report, differences, "locks.sarif"), filepath.Join(g.report, "locks.sarif"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// accessDifference is who may do what after each phase otherwise than declared; it is kept for whoever comments a change.
func (g *gate) accessDifference() (string, error) {
	var text strings.Builder
	for _, phase := range schema.Phases() {
		f, err := schema.Migration(phase)
		if err != nil {
			return "", err
		}
		names, err := filepath.Glob(filepath.Join(g.report, differences, "*access_"+phase.String()+".txt.diff"))
		if err != nil {
			return "", err
		}
		for _, name := range names {
			diff, err := os.ReadFile(name)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&text, "after %s (%s):\n%s\n", phase, f.Origin, net(string(diff)))
		}
	}
	if text.Len() == 0 {
		return "", nil
	}
	return text.String(), os.WriteFile(filepath.Join(g.report, "access.diff"), []byte(text.String()), 0o644)
}

// print is the verdict for people.
func (g *gate) print(ok bool, access string) {
	say := func(format string, args ...any) { fmt.Fprintf(g.out, format+"\n", args...) }
	say("")
	for _, r := range g.Stages {
		if r.Outcome == "ok" {
			continue
		}
		say("== %s %s: %s", r.Name, r.Outcome, r.stage.does)
		if r.Name == "access" && access != "" {
			say("%s", indented(firstLines(access, 60)))
		} else {
			for _, said := range r.Said {
				say("%s", indented(firstLines(said, 9)))
			}
		}
		if r.More > 0 {
			say("  … and %d more", r.More)
		}
		if r.Outcome == "failed" {
			say("  what to do: %s\n  all of it:  %s\n  again:      %s", r.stage.todo, r.Log, r.Command)
		}
		say("")
	}
	if len(g.attacks) > 0 {
		say("== attacks that succeed: %d", len(g.attacks))
		for _, a := range g.attacks {
			say("%s", indented(a))
		}
		say("")
	}
	say("%-8s  %-8s  %7s  %s", "stage", "outcome", "seconds", "alone")
	for _, r := range g.Stages {
		say("%-8s  %-8s  %7.1f  %s", r.Name, r.Outcome, r.Seconds, r.Command)
	}
	switch {
	case !ok:
		say("\nverdict: REFUSED")
	case len(g.leftOut) > 0:
		say("\nverdict: passed, but for what was left out: %s", strings.Join(g.leftOut, ", "))
	default:
		say("\nverdict: passed")
	}
}

func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ")
}

func firstLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) <= n {
		return strings.Join(lines, "\n")
	}
	return strings.Join(append(lines[:n:n], fmt.Sprintf("… (%d more lines)", len(lines)-n)), "\n")
}
