package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/results"
	"github.com/vital-health/tenancy/schema"
)

const box = "success-criteria/security/rls-policies-enforce-data-isolation"

func (r *report) box(id string) requirement {
	for _, q := range r.Requirements {
		if q.ID == id {
			return q
		}
	}
	return requirement{}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	t.Run("all tests pass, and all boxes that are to be proven are", func(t *testing.T) {
		t.Parallel()
		m := newRun(t)
		m.measured()
		r, _ := m.report()
		require.True(t, r.Verdict.OK, r.Verdict.Reasons)
		require.Len(t, r.Requirements, 180)
		require.Equal(t, proven, r.box(box).State)
		require.Equal(t, "TestAll", r.box(box).Tests[0].Name)
		require.Equal(t, []string{"15.99", "made up"}, []string{r.Server, r.Machine})
		require.Len(t, r.Files, 8)
		require.Regexp(t, `^Verified: 3 tests pass, and prove 1\d\d of the checklist's 180 boxes\.$`, r.Headline())
		for _, q := range r.Requirements {
			require.NotEqual(t, failed, q.State, q.ID)
			require.Equal(t, q.Kind == checklist.Manual, q.State == open && len(q.Parts) == 0, "nobody has signed anything: %s", q.ID)
		}
	})
	t.Run("a test that fails is a failure, with what it says and how to run it again, and its box is not proven", func(t *testing.T) {
		t.Parallel()
		m := newRun(t)
		m.failing("TestAttack/by_reading", box, "Bob reads it")
		r, _ := m.report()
		require.False(t, r.Verdict.OK)
		require.Contains(t, r.Verdict.Reasons, "1 test fails")
		require.Equal(t, []failure{{test{"rls_test", "TestAttack/by_reading", "failed", 0, "make test PKG=./rls_test RUN='^TestAttack$/^by_reading$'"}, "Bob reads it"}}, r.Failures)
		require.Equal(t, failed, r.box(box).State)
		require.Equal(t, failed, r.box("success-criteria/security").State, "nor is the one above it")
		var said bytes.Buffer
		r.print(&said, "index.html")
		require.Contains(t, said.String(), "failed: TestAttack: by reading\n  Bob reads it\n  again: make test PKG=./rls_test RUN='^TestAttack$/^by_reading$'\n")
	})
	t.Run("of what a test says at length, the beginning is kept", func(t *testing.T) {
		t.Parallel()
		m := newRun(t)
		m.failing("TestAttack", box, strings.Repeat("é", 1<<20))
		r, _ := m.report()
		message := r.Failures[0].Message
		require.Less(t, len(message), 25_000)
		require.True(t, utf8.ValidString(message))
		require.True(t, strings.HasSuffix(message, "é\n… (2077152 bytes more: run it again)"), message[len(message)-60:])
	})
	for name, test := range map[string]struct {
		change func(m *madeUp)
		reason string
	}{
		"a box whose test did not run is not proven": {func(m *madeUp) { m.events = newRun(m.t, box).events }, "1 box of the checklist that tests are to prove is not proven"},
		"a test that was skipped proves nothing":     {func(m *madeUp) { m.event("run", "TestB", nil); m.event("skip", "TestB", nil) }, "1 test was skipped, and proves nothing"},
		"a test that did not end is a failure":       {func(m *madeUp) { m.event("run", "TestB", nil) }, "1 test fails"},
		"a test that does not say what it is of proves nothing": {func(m *madeUp) {
			m.event("run", "TestB", nil)
			m.attribute("TestB", checklist.Attribute, box)
			m.event("pass", "TestB", nil)
		},
			"1 test says to prove boxes, and not of which SQL"},
		"a server that nobody knows": {func(m *madeUp) { m.events = m.events[4:] },
			"the results do not say on which server they are from: TestPhase4Server did not run, or failed"},
		"a test that was left out": {func(m *madeUp) {
			m.source.tests = []string{"rls_test TestAll", "rls_test TestB", "rls_test TestServer"}
		},
			"1 test was not run (rls_test TestB)"},
		"a package that was left out": {func(m *madeUp) { m.source.tests = []string{"a TestA", "b TestB", "c TestC", "d TestD", "e TestE"} },
			"5 tests were not run (a TestA, b TestB, c TestC, and 2 more)"},
		"a stage of the gate": {func(m *madeUp) {
			m.left("report/gate.json", map[string]any{"stages": []map[string]any{{"name": "review", "outcome": "failed"}}})
		}, "the gate's stage review: failed"},
		"a mutant that survives": {func(m *madeUp) {
			m.left("mutants/mutants.json", map[string]any{"count": map[string]int{"killed": 9, "survived": 1}, "results": []map[string]any{{"id": "phase4 x", "sql": "select", "status": "survived"}}})
		}, "1 mistake was made that no test has found"},
		"a mutant of which nothing is known": {func(m *madeUp) {
			m.left("mutants/mutants.json", map[string]any{"count": map[string]int{"killed": 9, "harness error": 2}, "results": []map[string]any{{"id": "phase4 x", "sql": "select", "status": "survived", "how": "harness error"}}})
		}, "2 mistakes were made of which nothing is known: the tests did not run as they should"},
		"a wait of users": {func(m *madeUp) {
			m.left("report/live.json", map[string]any{"over": []string{"phase2: slow"}, "steps": []map[string]any{{"name": "phase2", "p50": 1, "p99": 1, "max": 1}}})
		}, "over its budget while the migrations run: phase2: slow"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newRun(t)
			test.change(m)
			r, _ := m.report()
			require.False(t, r.Verdict.OK)
			require.Contains(t, r.Verdict.Reasons, test.reason)
		})
	}
	t.Run("a box above others is as good as the worst of them, and signed where people are what it rests on", func(t *testing.T) {
		t.Parallel()
		above, ok := checklist.Find("post-migration-tasks/team-training")
		require.True(t, ok)
		var signed []checklist.SignOff
		for _, below := range above.Below() {
			require.Equal(t, checklist.Manual, below.Kind)
			stateOf := func() state { return (&report{Requirements: requirements(nil, signed)}).box(above.ID).State }
			require.Equal(t, open, stateOf())
			signed = append(signed, checklist.SignOff{ID: below.ID, Who: "Alice"})
			if len(signed) == len(above.Below()) {
				require.Equal(t, signOf, stateOf())
			}
		}
	})
	t.Run("results of other SQL are refused", func(t *testing.T) {
		t.Parallel()
		m := newRun(t)
		m.attribute("TestServer", results.Schema, strings.Repeat("0", 64))
		_, _, err := m.collect()
		require.ErrorContains(t, err, "the tests ran other SQL than what is here")
	})
	t.Run("where there is no report, that of another run does not stand in its place", func(t *testing.T) {
		t.Parallel()
		m, folder := newRun(t), t.TempDir()
		m.keep()
		r, err := publish(m.source, folder, time.Now())
		require.NoError(t, err)
		require.True(t, r.Verdict.OK)
		require.FileExists(t, filepath.Join(folder, pageFile))
		m.attribute("TestServer", results.Schema, strings.Repeat("0", 64))
		m.keep()
		_, err = publish(m.source, folder, time.Now())
		require.Error(t, err)
		left, err := os.ReadDir(folder)
		require.NoError(t, err)
		require.Empty(t, left)
	})
	t.Run("results of other tests are refused", func(t *testing.T) {
		t.Parallel()
		m := newRun(t)
		m.attribute("TestServer", results.Project, strings.Repeat("0", 64))
		_, _, err := m.collect()
		require.ErrorContains(t, err, "the tests, or what they read, are not what they were when they ran")
	})
	t.Run("the tests that there are, are those of go test ./...", func(t *testing.T) {
		t.Parallel()
		tests, err := declared(root)
		require.NoError(t, err)
		require.Subset(t, tests, []string{"rls_test TestPhase4Matrix", "rls_test FuzzClaims", "phases_test/faults TestBlockers", "helpers/results TestRead"})
		for _, name := range tests {
			require.NotContains(t, name, "helpers/report ", "of another module")
			require.False(t, strings.HasSuffix(name, " TestMain"), name)
			require.NotEqual(t, "ops/monitoring TestPrometheus", name, "which make monitoring runs")
		}
	})
	t.Run("measurements of other SQL are not taken, and what is not there is named with the command that makes it", func(t *testing.T) {
		t.Parallel()
		m := newRun(t)
		m.left("mutants/mutants.json", map[string]any{"schema": "other", "count": map[string]int{"survived": 1}})
		r, _ := m.report()
		require.Nil(t, r.Mutants)
		require.True(t, r.Verdict.OK)
		require.Contains(t, r.Missing, missing{"how good the tests are", "what there is, is of other SQL", "make mutants"})
		require.Contains(t, r.Missing, missing{"latency", "no benchmark was run", "make bench PERF_ROWS=1000,100000"})
		require.Contains(t, strings.Join(r.Verdict.Warnings, "\n"), "missing: latency, because no benchmark was run; `make bench PERF_ROWS=1000,100000`")
	})
	t.Run("what the server lacks, what is not committed and what nobody has signed is said, and refuses nothing", func(t *testing.T) {
		t.Parallel()
		m := newRun(t)
		m.attribute("TestServer", results.Leaks, "PostgreSQL 15.1 shows rows")
		r, _ := m.report()
		r.Commit, r.Changed, r.Verdict = "0123456789abcdef", true, verdict{}
		manual := slices.IndexFunc(r.Requirements, func(q requirement) bool { return q.Kind == checklist.Manual })
		r.Requirements[manual].Signed = &signed{}
		r.judge()
		require.True(t, r.Verdict.OK)
		for _, want := range []string{"38 boxes that people decide are not signed off (1 signed)", "PostgreSQL 15.1 shows rows",
			"the working tree is not what was committed as 0123456789ab"} {
			require.Contains(t, r.Verdict.Warnings, want)
		}
	})
	t.Run("what passes because somebody allows more than the checklist is said", func(t *testing.T) {
		t.Parallel()
		m := newRun(t)
		m.measured()
		m.left("report/live.json", map[string]any{"rows": 1000, "rate": 100, "scale": 20, "steps": []map[string]any{{"name": "phase2", "p50": 1, "p99": 1, "max": 1}}})
		m.left("report/gate.json", map[string]any{"left_out": []string{"review", "budgets"}, "stages": []map[string]any{{"name": "tests", "outcome": "ok"}}})
		m.event("output", "BenchmarkRead", map[string]any{"Package": results.Module + "/perf_test", "Output": "BenchmarkRead/query=count/rows=1000-2\t3\t60 p95-ms\t50 budget-ms\n"})
		r, p := m.report()
		require.True(t, r.Verdict.OK, r.Verdict.Reasons)
		require.Subset(t, r.Verdict.Warnings, []string{
			"1 benchmark is slower than the checklist's budget, which PERF_BUDGET_SCALE has multiplied (Read/query=count/rows=1000-2)",
			"what users wait for was allowed to be 20 times its budget (PERF_BUDGET_SCALE)",
			"stages of the gate that were left out: review, budgets",
		})
		var page bytes.Buffer
		require.NoError(t, writePage(&page, r, p))
		require.Contains(t, page.String(), "Nothing is over 20 times its budget.")
	})
	t.Run("benchmarks that fail before they measure anything are failures, and no picture", func(t *testing.T) {
		t.Parallel()
		m := newRun(t)
		for _, e := range [][2]string{{"run", ""}, {"output", "pkg: perf_test\n"}, {"output", "BenchmarkRead\n"}, {"output", "--- FAIL: BenchmarkRead\n"}, {"fail", ""}} {
			m.event(e[0], "BenchmarkRead", map[string]any{"Package": results.Module + "/perf_test", "Output": e[1]})
		}
		r, p := m.report()
		require.Contains(t, r.Verdict.Reasons, "1 test fails")
		require.Empty(t, p.Latency)
		require.Contains(t, strings.Join(r.Verdict.Warnings, "\n"), "missing: latency, because it cannot be drawn (the benchmarks: no benchmark says rows=")
	})
	t.Run("a phase in which nobody asked anything is not drawn", func(t *testing.T) {
		t.Parallel()
		m := newRun(t)
		m.left("report/live.json", map[string]any{"rows": 1000, "rate": 100, "steps": []map[string]any{{"name": "phase1"}, {"name": "phase2", "p50": 1, "p99": 1, "max": 1}}})
		_, p := m.report()
		require.Contains(t, p.Live, "phase2")
		require.NotContains(t, p.Live, "phase1")
	})
	t.Run("deviations name tests, and what became of them", func(t *testing.T) {
		t.Parallel()
		r, _ := newRun(t).report()
		require.Greater(t, len(r.Deviations), 20)
		for _, d := range r.Deviations {
			require.NotEmpty(t, d.Prevents)
			require.True(t, len(d.Tests) > 0 || strings.HasSuffix(d.By, ".sql`"), d.By)
			for _, found := range d.Tests {
				require.Equal(t, "not run", found.Outcome, "nothing of the kind is in the made-up run: %v", found)
			}
		}
	})
}

func TestEventFiles(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, name := range []string{"b.json", "a.json", "c.log"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), nil, 0o644))
	}
	a, b := filepath.Join(folder, "a.json"), filepath.Join(folder, "b.json")
	files, err := eventFiles([]string{folder, b, folder})
	require.NoError(t, err)
	require.Equal(t, []string{a, b}, files, "each once")
	_, err = eventFiles([]string{t.TempDir()})
	require.ErrorContains(t, err, "there is nothing to report")
	_, err = eventFiles([]string{filepath.Join(folder, "none")})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestJSON(t *testing.T) {
	t.Parallel()
	m := newRun(t)
	m.measured()
	m.failing("TestAttack/by_reading", box, "Bob reads it")
	r, p := m.report()
	folder := t.TempDir()
	require.NoError(t, r.write(folder, p))
	written, err := os.ReadFile(filepath.Join(folder, "report.json"))
	require.NoError(t, err)
	t.Run("it is as schema.json describes it", func(t *testing.T) {
		compiled, err := jsonschema.NewCompiler().Compile("schema.json")
		require.NoError(t, err)
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(written))
		require.NoError(t, err)
		require.NoError(t, compiled.Validate(value))
		value.(map[string]any)["another"] = true
		require.Error(t, compiled.Validate(value), "a key that is not described is found")
	})
	t.Run("the same run makes the same bytes, and the same digest whenever it was", func(t *testing.T) {
		again, _ := m.report()
		require.NoError(t, again.write(folder, p))
		rewritten, err := os.ReadFile(filepath.Join(folder, "report.json"))
		require.NoError(t, err)
		require.Equal(t, string(written), string(rewritten))
		later, _, err := collect(m.source, time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC))
		require.NoError(t, err)
		later.Server = "16.99"
		require.NoError(t, later.stamp())
		require.NotEqual(t, r.Digest, later.Digest, "another server")
		later, _, err = collect(m.source, time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC))
		require.NoError(t, err)
		later.Measurements.Live.Rows = 7
		require.NoError(t, later.stamp())
		require.Equal(t, r.Digest, later.Digest, "another time, with other figures")
	})
}

// Setting the environment forbids parallel tests.
func TestProofOfOtherSQL(t *testing.T) {
	t.Setenv(schema.DirVariable, "/somebody's/sql")
	require.Equal(t, `SCHEMA_DIR='/somebody'\''s/sql' make test PKG=./rls_test RUN='^TestA$'`, proof(results.Test{Package: "rls_test", Name: "TestA"}).Command)
}
