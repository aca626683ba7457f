package rls_test

import (
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/golden"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// TestPhase4Scenarios runs the files in testdata/scenarios, each on a database of its
// own: who sends what, and what comes of it. How to write one: template.txt there.
func TestPhase4Scenarios(t *testing.T) {
	t.Parallel()
	if golden.Updating() {
		require.NoError(t, flag.Set("rewrite", "true"))
	}
	files, err := filepath.Glob("testdata/scenarios/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var ran atomic.Int64
	if asked := flag.Lookup("test.run").Value.String(); strings.Contains(asked, "Scenarios") {
		t.Cleanup(func() { require.Positive(t, ran.Load(), "no file in testdata/scenarios has a name like %s", asked) })
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			ran.Add(1)
			t.Parallel()
			s := scenario{phase: schema.Phase4}
			datadriven.RunTest(t, file, s.run)
			require.NotNil(t, s.db, "nobody says anything")
		})
	}
}

// scenario is a file that is being run.
type scenario struct {
	phase schema.Phase
	db    *pgtest.DB
}

func (s *scenario) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	if len(d.CmdArgs) != 1 || len(d.CmdArgs[0].Vals) != 0 {
		d.Fatalf(t, "want one word after %q", d.Cmd)
	}
	word := d.CmdArgs[0].Key
	switch d.Cmd {
	case "phase":
		require.Nil(t, s.db, "%s: the phase comes first", d.Pos)
		phase, err := schema.ParsePhase(word)
		require.NoError(t, err, d.Pos)
		s.phase = phase
		return ""
	case "as":
		if s.db == nil {
			s.db = pgtest.New(t, s.phase, fixtures.World()...)
		}
		return s.as(t, d, word)
	}
	d.Fatalf(t, "there is no command %q: want as or phase", d.Cmd)
	return ""
}

// as sends a request as somebody, in a transaction like PostgREST's, and says what
// the server answers to its last statement.
func (s *scenario) as(t *testing.T, d *datadriven.TestData, who string) string {
	t.Helper()
	login, as := pgtest.APIRole, caller{role: "anon"}
	switch who {
	case "owner":
		login, as = pgtest.OwnerRole, caller{role: pgtest.OwnerRole}
	case "backend":
		login, as = pgtest.ServiceRole, caller{role: "service_role"}
	case "anonymous":
	default:
		i := slices.IndexFunc(fixtures.Users, func(u fixtures.User) bool { return u.Email == who })
		if i < 0 {
			d.Fatalf(t, "nobody has the address %s; there are also owner, backend and anonymous", who)
		}
		as = callerOf(fixtures.Users[i])
	}
	conn := s.db.Connect(t, login)
	defer conn.Close(t.Context())
	var answer string
	err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		require.NoError(t, as.speak(t.Context(), tx))
		results, err := tx.Conn().PgConn().Exec(t.Context(), withIDs(t, d)).ReadAll()
		if err != nil {
			return err
		}
		answer = answerOf(results[len(results)-1])
		return nil
	})
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) {
		return fmt.Sprintf("ERROR %s: %s\n", refusal.Code, strings.ReplaceAll(refusal.Message, s.db.Name, "(this one)"))
	}
	require.NoError(t, err, d.Pos)
	return answer
}

// answerOf is rows, one in a line, or what a statement without rows did.
func answerOf(result *pgconn.Result) string {
	if len(result.Rows) == 0 {
		if result.CommandTag.Select() {
			return "(no rows)\n"
		}
		return result.CommandTag.String() + "\n"
	}
	var lines strings.Builder
	for _, row := range result.Rows {
		values := make([]string, len(row))
		for i, value := range row {
			switch values[i] = string(value); {
			case value == nil:
				values[i] = "NULL"
			case values[i] == "":
				values[i] = "''" // a void, too
			}
		}
		lines.WriteString(strings.Join(values, " | ") + "\n")
	}
	return lines.String()
}

var placeholder = regexp.MustCompile(`\{[^{}"]+\}`)

// withIDs is the SQL of a request with {names} replaced by what they are the id of.
func withIDs(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	return placeholder.ReplaceAllStringFunc(d.Input, func(name string) string {
		found := fixtures.IDs(strings.Trim(name, "{}"))
		if len(found) != 1 {
			d.Fatalf(t, "%s names %d things of the world, and must name one", name, len(found))
		}
		return "'" + found[0] + "'"
	})
}
