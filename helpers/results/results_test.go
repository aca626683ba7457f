package results

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// written is a file of these events.
func written(t *testing.T, events ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "events.json")
	require.NoError(t, os.WriteFile(name, []byte(strings.Join(events, "\n")+"\n"), 0o644))
	return name
}

func line(action, test, more string) string {
	return `{"Action":"` + action + `","Package":"` + Module + `/rls_test","Test":"` + test + `"` + more + `}`
}

func TestBenchmarks(t *testing.T) {
	t.Parallel()
	text, err := Benchmarks(written(t, line("output", "", `,"Output":"goos: linux\n"`), line("output", "BenchmarkA", `,"Output":"=== RUN   BenchmarkA\n"`),
		line("output", "BenchmarkA/rows=1", `,"Output":"BenchmarkA/rows=1 \t"`), line("output", "TestA", `,"Output":"not this\n"`),
		line("output", "BenchmarkA/rows=1", `,"Output":"3\t1.5 p50-ms\n"`)))
	require.NoError(t, err)
	require.Equal(t, "goos: linux\nBenchmarkA/rows=1 \t3\t1.5 p50-ms\n", text)
}

func TestRead(t *testing.T) {
	t.Parallel()
	t.Run("a test with its parts, what it says of itself, and how long it takes", func(t *testing.T) {
		t.Parallel()
		tests, err := Read(written(t,
			line("start", "", ""), line("run", "TestA", ""), line("attr", "TestA", `,"Key":"checklist","Value":"one"`), line("attr", "TestA", `,"Key":"checklist","Value":"two"`),
			line("run", "TestA/its_part", ""), line("output", "TestA/its_part", `,"Output":"all is well\n"`), line("pass", "TestA/its_part", `,"Elapsed":0.5`),
			line("pass", "TestA", `,"Elapsed":1.5`), line("pass", "", "")))
		require.NoError(t, err)
		require.Equal(t, []Test{
			{"rls_test", "TestA", Passed, 1.5, map[string][]string{"checklist": {"one", "two"}}, ""},
			{"rls_test", "TestA/its_part", Passed, 0.5, map[string][]string{}, ""},
		}, tests)
		require.Empty(t, Failures(tests))
	})
	t.Run("who fails because of a part has failed, and the part is the failure", func(t *testing.T) {
		t.Parallel()
		tests, err := Read(written(t, line("run", "TestA", ""), line("run", "TestA/part", ""),
			line("output", "TestA/part", `,"Output":"    a_test.go:7: Bob reads it\n"`), line("fail", "TestA/part", ""), line("fail", "TestA", ""), line("fail", "", "")))
		require.NoError(t, err)
		require.Len(t, tests, 3)
		failed := Failures(tests)
		require.Len(t, failed, 1)
		require.Equal(t, "TestA: part", failed[0].Title())
		require.Equal(t, "Bob reads it", failed[0].Message)
		require.Equal(t, "make test PKG=./rls_test RUN='^TestA$/^part$'", failed[0].Command())
	})
	t.Run("a package that does not compile fails without a test", func(t *testing.T) {
		t.Parallel()
		built := `"ImportPath":"` + Module + `/rls_test [` + Module + `/rls_test.test]"`
		tests, err := Read(written(t, `{"Action":"build-output",`+built+`,"Output":"a.go:1: no\n"}`, `{"Action":"build-fail",`+built+`}`,
			line("start", "", ""), line("fail", "", "")))
		require.NoError(t, err)
		require.Equal(t, []Test{{Package: "rls_test", Outcome: Failed, Attributes: map[string][]string{}, Message: "a.go:1: no"}}, Failures(tests))
		require.Equal(t, "make test PKG=./rls_test", tests[0].Command())
	})
	t.Run("a process that was killed has not finished its tests", func(t *testing.T) {
		t.Parallel()
		tests, err := Read(written(t, line("start", "", ""), line("run", "TestA", ""), line("pass", "TestA", ""), line("run", "TestB", "")))
		require.NoError(t, err)
		failed := Failures(tests)
		require.Len(t, failed, 1)
		require.Equal(t, "TestB", failed[0].Name)
		require.Equal(t, Unfinished, failed[0].Outcome)
		tests, err = Read(written(t, line("start", "", ""), line("run", "TestA", ""), line("pass", "TestA", "")))
		require.NoError(t, err)
		require.Len(t, Failures(tests), 1, "nor between two tests")
	})
	t.Run("of several runs the worst counts", func(t *testing.T) {
		t.Parallel()
		bad := written(t, line("run", "TestA", ""), line("fail", "TestA", ""))
		good := written(t, line("run", "TestA", ""), line("pass", "TestA", ""))
		for _, files := range [][]string{{bad, good}, {good, bad}} {
			tests, err := Read(files...)
			require.NoError(t, err)
			require.Len(t, tests, 1)
			require.Equal(t, Failed, tests[0].Outcome)
		}
	})
	t.Run("nor does what another file says without its beginning make up for a failure", func(t *testing.T) {
		t.Parallel()
		tests, err := Read(written(t, line("run", "TestA", ""), line("fail", "TestA", "")), written(t, line("pass", "TestA", "")))
		require.NoError(t, err)
		require.Len(t, tests, 1)
		require.Equal(t, Failed, tests[0].Outcome)
	})
	t.Run("results of another module are refused", func(t *testing.T) {
		t.Parallel()
		for _, other := range []string{"example.com/other/rls_test", Module + "s/rls_test"} {
			_, err := Read(written(t, `{"Action":"run","Package":"`+other+`","Test":"TestA"}`))
			require.ErrorContains(t, err, "events.json:1 is of "+other+", and not of this module ("+Module+")")
		}
	})
	t.Run("a benchmark passes if another follows or its package does, and is unfinished if its process died", func(t *testing.T) {
		t.Parallel()
		begun := []string{line("start", "", ""), line("run", "BenchmarkA", ""), line("run", "BenchmarkA/rows=1", ""), line("run", "BenchmarkB", "")}
		outcomes := func(more ...string) (found []Outcome) {
			tests, err := Read(written(t, append(begun, more...)...))
			require.NoError(t, err)
			for _, test := range tests {
				found = append(found, test.Outcome)
			}
			return found
		}
		require.Equal(t, []Outcome{Passed, Passed, Passed}, outcomes(line("pass", "", "")))
		require.Equal(t, []Outcome{Unfinished, Passed, Passed, Unfinished}, outcomes())
		require.Equal(t, []Outcome{Failed, Passed, Passed, Unfinished}, outcomes(line("fail", "", "")))
		require.Equal(t, []Outcome{Failed, Passed, Passed, Failed, Failed, Passed}, outcomes(line("run", "BenchmarkB/rows=1", ""), line("run", "BenchmarkB/rows=2", ""),
			line("fail", "BenchmarkB/rows=1", ""), line("fail", "BenchmarkB", ""), line("fail", "", "")))
	})
	t.Run("a package without tests is none", func(t *testing.T) {
		t.Parallel()
		tests, err := Read(written(t, line("start", "", ""), line("skip", "", "")))
		require.NoError(t, err)
		require.Empty(t, tests)
	})
	t.Run("what is no event is an error, with its line", func(t *testing.T) {
		t.Parallel()
		_, err := Read(written(t, line("run", "TestA", ""), "ok rls_test"))
		require.ErrorContains(t, err, "events.json:2 is no event of go test -json")
		_, err = Read(written(t, line("run", "TestA", ""), line("pass", "TestA", "")[:40]))
		require.ErrorContains(t, err, "events.json:2 is no event of go test -json, or the file was cut off: run the tests again")
	})
}

func TestMessage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ output, want string }{
		"its own words": {"=== RUN   TestA\n    a_test.go:7: who: Alice\n          sees: all\n        what: that\n--- FAIL: TestA (0.00s)\n", "who: Alice\n  sees: all\nwhat: that"},
		"testify's, what is meant before what is found": {
			"    a_test.go:7: \n        \tError Trace:\ta_test.go:7\n        \tError:      \tNot equal: \n        \t            \texpected: 1\n        \t            \tactual  : 2\n" +
				"        \tTest:       \tTestA\n        \tMessages:   \tone row is there\n",
			"one row is there\nNot equal:\nexpected: 1\nactual  : 2"},
		"a difference, with its signs": {"    a_test.go:7: x.txt has changed\n        \n        --- written down\n        +++ found\n        -a\n        +b\n", "x.txt has changed\n--- written down\n+++ found\n-a\n+b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, message(test.output))
		})
	}
}
