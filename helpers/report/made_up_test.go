package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/results"
	"github.com/vital-health/tenancy/schema"
)

const root = "../.."

// madeUp is a run of tests that was never made.
type madeUp struct {
	t      *testing.T
	events []string
	source source
}

// event adds one of a test, or, without a name, of its package.
func (m *madeUp) event(action, test string, more map[string]any) {
	e := map[string]any{"Action": action, "Package": results.Module + "/rls_test", "Test": test}
	for key, value := range more {
		e[key] = value
	}
	text, err := json.Marshal(e)
	require.NoError(m.t, err)
	m.events = append(m.events, string(text))
}

func (m *madeUp) attribute(test, key, value string) {
	m.event("attr", test, map[string]any{"Key": key, "Value": value})
}

// newRun is one of a test that says what it ran on, and one that proves all automated boxes but those that are left out.
func newRun(t *testing.T, leftOut ...string) *madeUp {
	t.Helper()
	m := &madeUp{t: t, source: source{root: root, build: t.TempDir()}}
	m.event("run", "TestServer", nil)
	m.attribute("TestServer", results.Server, "15.99")
	m.attribute("TestServer", results.Machine, "made up")
	m.event("pass", "TestServer", map[string]any{"Elapsed": 1.25})
	m.event("run", "TestAll", nil)
	m.says("TestAll")
	for _, box := range checklist.Boxes() {
		if box.Kind == checklist.Automated && !strings.Contains(strings.Join(leftOut, " "), box.ID) {
			m.attribute("TestAll", checklist.Attribute, box.ID)
		}
	}
	m.event("pass", "TestAll", map[string]any{"Elapsed": 2.5})
	return m
}

// says has a test say what it is of, as [checklist.Proves] does.
func (m *madeUp) says(test string) {
	sql, err := schema.Digest()
	require.NoError(m.t, err)
	m.attribute(test, results.Schema, sql)
	m.attribute(test, results.Project, project())
}

// project is the digest of the tests, which are many to read.
var project = sync.OnceValue(func() string {
	digest, err := results.Digest(root)
	if err != nil {
		panic(err)
	}
	return digest
})

// failing is a test that fails, with what it says.
func (m *madeUp) failing(test, box, says string) {
	m.event("run", test, nil)
	m.says(test)
	m.attribute(test, checklist.Attribute, box)
	m.event("output", test, map[string]any{"Output": "    a_test.go:7: " + says + "\n"})
	m.event("fail", test, nil)
}

// left is a file that another target of make has left, about this SQL.
func (m *madeUp) left(name string, content map[string]any) {
	digest, err := schema.Digest()
	require.NoError(m.t, err)
	if content["schema"] == nil {
		content["schema"] = digest
	}
	text, err := json.Marshal(content)
	require.NoError(m.t, err)
	name = filepath.Join(m.source.build, name)
	require.NoError(m.t, os.MkdirAll(filepath.Dir(name), 0o755))
	require.NoError(m.t, os.WriteFile(name, text, 0o644))
}

// measured leaves all that there may be.
func (m *madeUp) measured() {
	m.left("report/live.json", map[string]any{"rows": 1000, "rate": 100, "steps": []map[string]any{
		{"name": "idle", "application": "old", "requests": 100, "p50": 1.5, "p99": 4, "max": 9}, {"name": "phase1", "application": "old", "requests": 100, "p50": 2, "p99": 5, "max": 40}}})
	m.left("mutants/mutants.json", map[string]any{"generated": 2000, "run": 3, "count": map[string]int{"killed": 3}, "results": []any{}})
	m.left("report/gate.json", map[string]any{"stages": []map[string]any{{"name": "tests", "outcome": "ok", "seconds": 3.5, "command": "make test"}}})
	perf := func(action, test, output string) {
		m.event(action, test, map[string]any{"Package": results.Module + "/perf_test", "Output": output})
	}
	perf("start", "", "")
	perf("output", "", "pkg: perf_test\n")
	perf("run", "BenchmarkRead", "")
	for rows, ms := range map[int]float64{1000: 0.5, 100000: 0.7} {
		perf("output", "BenchmarkRead", fmt.Sprintf("BenchmarkRead/query=first_page/rows=%d/tenants=2/role=member/design=tenancy-2\t3\t%g p50-ms\t%g p95-ms\t50 budget-ms\n", rows, ms, ms*2))
	}
	perf("pass", "", "")
}

// report is what becomes of it.
func (m *madeUp) report() (*report, *pictures) {
	m.t.Helper()
	r, p, err := m.collect()
	require.NoError(m.t, err)
	return r, p
}

func (m *madeUp) collect() (*report, *pictures, error) {
	m.t.Helper()
	m.keep()
	return collect(m.source, time.Date(2026, 11, 26, 14, 3, 12, 0, time.UTC))
}

// keep writes down what has happened.
func (m *madeUp) keep() {
	m.t.Helper()
	name := filepath.Join(m.source.build, "events.json")
	require.NoError(m.t, os.WriteFile(name, []byte(strings.Join(m.events, "\n")+"\n"), 0o644))
	m.source.events = []string{name}
}
