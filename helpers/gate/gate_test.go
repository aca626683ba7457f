package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/results"
)

// newGate is one whose stages are targets of a Makefile that a test writes, in the folder that it runs in.
func newGate(t *testing.T, makefile string) (*gate, *bytes.Buffer) {
	t.Helper()
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("Makefile", []byte(makefile), 0o644))
	out := &bytes.Buffer{}
	g := &gate{ctx: t.Context(), report: t.TempDir(), out: out, env: os.Environ()}
	require.NoError(t, g.clear())
	return g, out
}

// events is what go test -json says of a test that fails, as a command of a Makefile.
func events(t *testing.T, test string, output ...string) string {
	t.Helper()
	var all strings.Builder
	say := func(event map[string]string) {
		line, err := json.Marshal(event)
		require.NoError(t, err)
		all.Write(append(line, '\n'))
	}
	for _, line := range output {
		say(map[string]string{"Action": "output", "Package": results.Module + "/p", "Test": test, "Output": line + "\n"})
	}
	for name := test; ; name = name[:strings.LastIndex(name, "/")] {
		say(map[string]string{"Action": "fail", "Package": results.Module + "/p", "Test": name})
		if !strings.Contains(name, "/") {
			break
		}
	}
	say(map[string]string{"Action": "fail", "Package": results.Module + "/p"})
	file := filepath.Join(t.TempDir(), "events")
	require.NoError(t, os.WriteFile(file, []byte(all.String()), 0o644))
	return "cp " + file + " $(GOTESTSUM_JSONFILE); exit 1"
}

// Changing the folder forbids parallel tests.
func TestGate(t *testing.T) {
	t.Run("every stage runs, and one that fails decides", func(t *testing.T) {
		g, out := newGate(t, "good:\n\t@echo fine\nbad:\n\t@echo wrong, in line 7; exit 3\n")
		for _, name := range []string{"good", "bad", "good"} {
			require.NoError(t, g.stage(stage{Name: name, make: []string{name}, todo: "Mend it."}))
		}
		ok, err := g.verdict("/folder")
		require.NoError(t, err)
		require.False(t, ok)
		for _, said := range []string{"== bad failed", "wrong, in line 7", "what to do: Mend it.", "again:      make bad", "verdict: REFUSED"} {
			require.Contains(t, out.String(), said)
		}
		var written struct {
			OK        bool
			SchemaDir string `json:"schema_dir"`
			Stages    []result
		}
		text, err := os.ReadFile(filepath.Join(g.report, "gate.json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &written))
		require.False(t, written.OK)
		require.Equal(t, "/folder", written.SchemaDir)
		require.Len(t, written.Stages, 3)
		require.Equal(t, []string{"wrong, in line 7"}, written.Stages[1].Said)
	})
	t.Run("it passes if all pass", func(t *testing.T) {
		g, out := newGate(t, "good:\n\t@true\n")
		require.NoError(t, g.stage(stage{Name: "good", make: []string{"good"}}))
		ok, err := g.verdict("")
		require.NoError(t, err)
		require.True(t, ok)
		require.True(t, strings.HasSuffix(out.String(), "\nverdict: passed\n"))
	})
	t.Run("what was left out is said, for people and for machines", func(t *testing.T) {
		g, out := newGate(t, "good:\n\t@true\n")
		good := stage{Name: "good", make: []string{"good"}}
		g.leave([]stage{{Name: "review"}, good, {Name: "tests"}}, []stage{good})
		require.NoError(t, g.stage(good))
		ok, err := g.verdict("")
		require.NoError(t, err)
		require.True(t, ok)
		require.Contains(t, out.String(), "verdict: passed, but for what was left out: review, tests\n")
		var written struct {
			LeftOut []string `json:"left_out"`
		}
		text, err := os.ReadFile(filepath.Join(g.report, "gate.json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &written))
		require.Equal(t, []string{"review", "tests"}, written.LeftOut)
	})
	t.Run("what was attacked with success is listed", func(t *testing.T) {
		g, out := newGate(t, "tests:\n\t@"+events(t, "TestA/by_writing/a_viewer_inserts", "    x_test.go:12: An attack succeeds: a viewer inserts", "        insert into agents")+"\n")
		require.NoError(t, g.stage(stage{Name: "tests", make: []string{"tests"}}))
		ok, err := g.verdict("")
		require.NoError(t, err)
		require.False(t, ok)
		require.Contains(t, out.String(), "== attacks that succeed: 1\n  a viewer inserts\n  insert into agents\n")
	})
	t.Run("a test that fails is a sentence, and what it said", func(t *testing.T) {
		g, out := newGate(t, "tests:\n\t@"+events(t, "TestA/by_reading/Bob", "    x_test.go:12: Bob reads all")+"\n")
		require.NoError(t, g.stage(stage{Name: "tests", make: []string{"tests"}}))
		ok, err := g.verdict("")
		require.NoError(t, err)
		require.False(t, ok)
		require.Contains(t, out.String(), "TestA: by reading: Bob\n  Bob reads all\n")
	})
	t.Run("migrations that do not run say so once", func(t *testing.T) {
		g, out := newGate(t, "locks:\n\t@"+events(t, "TestL", "    x_test.go:12: phase1 does not run: x.sql:7: no such table")+"\nnever:\n\t@touch ran\ncode:\n\t@true\n")
		require.NoError(t, g.stage(stage{Name: "locks", make: []string{"locks"}}))
		require.NoError(t, g.stage(stage{Name: "never", make: []string{"never"}, databases: true}))
		require.NoError(t, g.stage(stage{Name: "code", make: []string{"code"}}))
		ok, err := g.verdict("")
		require.NoError(t, err)
		require.False(t, ok)
		require.NoFileExists(t, "ran")
		require.Contains(t, out.String(), "== never not run: \n  the migrations do not run: x.sql:7: no such table\n")
		require.Regexp(t, `(?m)^code +ok`, out.String())
	})
	t.Run("a stage that is not there is an error", func(t *testing.T) {
		_, err := choose(stages("", ""), "review,acces")
		require.EqualError(t, err, `there is no stage "acces": there are lint, review, locks, access, plans, tests, budgets`)
		chosen, err := choose(stages("", ""), "access, review")
		require.NoError(t, err)
		require.Len(t, chosen, 2)
	})
}

func TestNet(t *testing.T) {
	t.Parallel()
	require.Equal(t, `  agents
    His
      + reads    eve@novartis.com
      - reads    bob@pfizer.com
  users
    Mine
      + changes  everybody who signs in
  privileges
    + table public.agents to anon: SELECT
    - row level security on public.agents: enabled
`, net(`  agents
    His
-     + reads    alice@novartis.com, bob@pfizer.com
+     + reads    alice@novartis.com, eve@novartis.com
  users
    Mine
-     - changes  everybody, signed in or not
+     - changes  somebody who has not signed in
  privileges
+   + table public.agents to anon: SELECT
-   + row level security on public.agents: enabled
`))
}
