package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/vital-health/tenancy/helpers/results"
)

// packages hold the tests that look at migrated databases, those that find most first.
var packages = []string{
	"rls_test", "phases_test/constraints", "phases_test/schema", "phases_test/backfill", "phases_test/rollback",
	"phases_test/messy", "perf_test", "phases_test/dump", "helpers/why", "helpers/verify", "fixtures", "phases_test/faults",
}

// suite is the project's tests, compiled once.
type suite struct {
	root   string                 // of the project
	bin    string                 // where the programs are
	digest string                 // of all of them
	cost   map[unit]time.Duration // of each unit, without a mistake
}

// unit is tests that run together: one of a package with its subtests, or, with no name, all of them.
type unit struct {
	Package string
	Test    string // "TestPhase4/Policies"
}

func (u unit) String() string {
	if u.Test == "" {
		return u.Package
	}
	return u.Package + " " + u.Test
}

// command is how somebody runs it.
func (u unit) command() string { return results.Test{Package: u.Package, Name: u.Test}.Command() }

// whole is the unit that one is a part of, where that has not been measured.
func (u unit) whole() unit {
	parts := strings.Split(u.Test, "/")
	u.Test = strings.Join(parts[:min(2, len(parts))], "/")
	return u
}

// finest is the part of a unit, three levels deep at most, that failed first.
func (u unit) finest(text string) unit {
	for _, match := range testFailed.FindAllStringSubmatch(text, -1) {
		if (u.Test == "" || strings.HasPrefix(match[1], u.Test+"/")) && strings.Count(match[1], "/") <= 2 {
			u.Test = match[1]
		}
	}
	return u
}

func (u unit) pattern() string {
	var parts []string
	for part := range strings.SplitSeq(u.Test, "/") {
		parts = append(parts, "^"+regexp.QuoteMeta(part)+"$")
	}
	return strings.Join(parts, "/")
}

// compile builds the test programs.
func compile(ctx context.Context, root, bin string) (*suite, error) {
	s := &suite{root: root, bin: bin}
	sum := sha256.New()
	for _, pkg := range packages {
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", s.program(pkg), "./"+pkg)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("compile the tests of %s: %w\n%s", pkg, err, out)
		}
		program, err := os.ReadFile(s.program(pkg))
		if err != nil {
			return nil, err
		}
		sum.Write(program)
	}
	s.digest = fmt.Sprintf("%x", sum.Sum(nil))[:16]
	return s, nil
}

func (s *suite) program(pkg string) string {
	return filepath.Join(s.bin, strings.ReplaceAll(pkg, "/", "-")+".test")
}

// ending is how a run of tests ended.
type ending string

const (
	passed    ending = "passed"
	absent    ending = "absent"    // there is no such test
	assertion ending = "assertion" // a test says what is wrong
	refused   ending = "refused"   // the migration refuses itself
	sqlError  ending = "SQL error" // the migration fails
	timeout   ending = "timeout"
	harness   ending = "harness error" // nothing is known: the tests did not run as they should
)

// Tests that break something themselves, and would say that it is broken already.
const breaking = `TestPhase4Mutants|TestPhase4NewTable|TestPhase4Controls|TestDumpFaults|TestPhase4Arguments/functions_that_are_broken`

var breaks = regexp.MustCompile(breaking)

// limit is how long a unit may take before it is said to go round in circles: far longer than without a mistake, also
// where others use the machine. All of a package takes less than a minute and a half.
func (s *suite) limit(u unit) time.Duration {
	if u.Test == "" {
		return 5 * time.Minute
	}
	return 10*time.Second + 5*max(s.cost[s.measured(u)], unmeasured)
}

// measured is the unit that one is a part of, if it is one.
func (s *suite) measured(u unit) unit {
	for whole := u; ; {
		if _, ok := s.cost[whole]; ok {
			return whole
		}
		end := strings.LastIndex(whole.Test, "/")
		if end < 0 {
			return u
		}
		whole.Test = whole.Test[:end]
	}
}

// The migration's own error, where it is what a test failed with.
var ofMigration = regexp.MustCompile(`/migrations/\S+\.sql:\d+: .*\(SQLSTATE (\w+)\)`)

// run runs tests with the migrations in a folder, or, for "", with ours.
func (s *suite) run(ctx context.Context, u unit, folder string) (ending, string) {
	args := []string{"-test.failfast", "-test.skip=" + breaking, "-test.timeout=" + s.limit(u).String()}
	if u.Test != "" {
		args = append(args, "-test.run="+u.pattern())
	}
	cmd := exec.CommandContext(ctx, s.program(u.Package), args...)
	cmd.Dir = filepath.Join(s.root, u.Package)
	// That something is found is enough: nobody reads the shortest way to it.
	cmd.Env = append(os.Environ(), "SCHEMA_DIR="+folder, "RAPID_NOFAILFILE=1", "RAPID_SHRINKTIME=0s")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	text := out.String()
	var exit *exec.ExitError
	switch {
	case err == nil && strings.Contains(text, "testing: warning: no tests to run"):
		return absent, text
	case err == nil:
		return passed, text
	case strings.Contains(text, "panic: test timed out"):
		return timeout, text
	case !errors.As(err, &exit), strings.Contains(text, "panic: "), !strings.Contains(text, "--- FAIL"):
		return harness, text
	}
	if found := ofMigration.FindStringSubmatch(text); found != nil && folder != "" && strings.Contains(text, folder) {
		if found[1] == "P0001" || found[1] == "55000" || found[1] == "23514" {
			return refused, text
		}
		return sqlError, text
	}
	return assertion, text
}

// A test that takes no longer is one unit with its subtests.
const together = 2 * time.Second

// Few take longer. What Go says of a test is without its parallel parts.
const unmeasured = 4 * time.Second

var testFailed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+) \(`)

var testEnded = regexp.MustCompile(`(?m)^\s*--- PASS: (\S+) \(([\d.]+)s\)$`)

// units runs all tests, of which every one must pass, and says how long each takes.
func (s *suite) units(ctx context.Context, progress func(pkg string)) (map[unit]time.Duration, error) {
	found := map[unit]time.Duration{}
	for _, pkg := range packages {
		progress(pkg)
		cmd := exec.CommandContext(ctx, s.program(pkg), "-test.v", "-test.timeout=20m")
		cmd.Dir = filepath.Join(s.root, pkg)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("the tests of %s fail without a mistake in the migrations: %w\n%s", pkg, err, tail(string(out), 4000))
		}
		took := map[string]time.Duration{}
		whole := map[string]time.Duration{} // of a test with its subtests
		for _, match := range testEnded.FindAllStringSubmatch(string(out), -1) {
			seconds, _ := strconv.ParseFloat(match[2], 64)
			if parent, _, ok := strings.Cut(match[1], "/"); strings.Count(match[1], "/") < 2 && !breaks.MatchString(match[1]) {
				took[match[1]] = time.Duration(seconds * float64(time.Second))
				if ok {
					whole[parent] += took[match[1]]
				}
			}
		}
		for test, d := range took {
			parent, _, sub := strings.Cut(test, "/")
			switch {
			case !sub && whole[test] <= together:
				found[unit{pkg, test}] = max(d, whole[test])
			case sub && whole[parent] > together:
				found[unit{pkg, test}] = d
			}
		}
	}
	return found, nil
}

func tail(text string, n int) string {
	if len(text) > n {
		text = "…" + text[len(text)-n:]
	}
	return text
}
