package rls_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/failing"
	"github.com/vital-health/tenancy/schema"
)

// TestAssertions is about what the tests of this package rest on: it fails when it should. That comparisons with the model
// do, TestPhase4Controls and TestPhase4Mutants show.
func TestAssertions(t *testing.T) {
	t.Parallel()
	t.Run("a verdict is nothing without decisions, and fails with each problem", func(t *testing.T) {
		t.Parallel()
		require.Contains(t, failing.Test(t, func(t testing.TB) { verdict{}.require(t) })[0], "nothing was compared")
		var problems []string
		for i := range 7 {
			problems = append(problems, fmt.Sprintf("problem %d", i))
		}
		// Not by way of require, which counts what the tests of this run came to.
		said := verdict{decisions: 9, problems: problems}.text()
		require.Contains(t, said, "7 of 9 decisions are not the model's")
		require.Contains(t, said, "problem 4")
		require.NotContains(t, said, "problem 5")
		require.Empty(t, verdict{decisions: 9}.text())
	})
	t.Run("ways of saying no are told apart", func(t *testing.T) {
		t.Parallel()
		refused := func(code, message string) error {
			return &pgconn.PgError{Severity: "ERROR", Code: code, Message: message}
		}
		for want, err := range map[outcome]error{
			done:                                     nil,
			denied:                                   refused("42501", "permission denied for table agents"),
			rejected:                                 refused("42501", `new row violates row-level security policy for table "agents"`),
			guarded:                                  refused("42501", "created_by cannot be changed"),
			"ERROR: something else (SQLSTATE 42501)": refused("42501", "something else"),
			"ERROR: permission denied for table agents (SQLSTATE 42P01)": refused("42P01", "permission denied for table agents"),
		} {
			require.Equal(t, want, outcomeOf(err))
		}
		require.NotEqual(t, denied, outcomeOf(pgx.ErrNoRows))
	})
	t.Run("a step that ends otherwise is a sentence", func(t *testing.T) {
		t.Parallel()
		for want, found := range map[string]struct {
			as        actor.Actor
			want, got outcome
		}{
			"An attack succeeds: it\nalice@novartis.com may do this, and it must be rejected:\nselect": {as(fixtures.Alice), rejected, done},
			"What is allowed fails: it\nthe backend may not do this: denied\nselect":                   {actor.Service(), done, denied},
			"it\nfor who has not signed in this ends as filtered, and must be denied:\nselect":         {actor.Anonymous(), denied, filtered},
			"": {as(fixtures.Bob), guarded, guarded},
		} {
			require.Equal(t, want, step{as: found.as, sql: "select", want: found.want}.problem("it", found.got))
		}
	})
	t.Run("a list and what is found differ in three ways", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, []string{"a x is missing", "a y is 2, and must be 1", "a z is on nobody's list: 3"},
			difference("a ", map[string]string{"x": "1", "y": "1", "same": "1"}, map[string]string{"y": "2", "z": "3", "same": "1"}))
	})
	t.Run("a table without rows proves nothing", func(t *testing.T) {
		t.Parallel()
		w := migrated().withHistory(t, secured(t))
		require.Empty(t, failing.Test(t, func(t testing.TB) { w.requireAllTables(t) }))
		var fewer []row
		for _, r := range w.rows {
			if r.table != "prompts" {
				fewer = append(fewer, r)
			}
		}
		w.rows = fewer
		require.Contains(t, failing.Test(t, func(t testing.TB) { w.requireAllTables(t) })[0], "every table has rows")
	})
	t.Run("what a phase gives and takes is written down", func(t *testing.T) {
		t.Parallel()
		before := matrix{rows: map[string][]string{"agents": {"A"}}, allowed: map[string]map[verb][]string{"agents A": {read: {"a@x", "b@x"}}}}
		after := matrix{rows: before.rows, allowed: map[string]map[verb][]string{"agents A": {read: {"b@x", "c@x"}}}}
		require.Contains(t, phaseDifference(schema.Phase3, before, after), "\nagents\n  A\n    + reads    c@x\n    - reads    a@x\n")
		require.Contains(t, phaseDifference(schema.Phase3, before, before), "\nNothing.\n")
		after.privileges = map[string]string{"table public.agents to anon": "SELECT"}
		require.Contains(t, phaseDifference(schema.Phase3, before, after), "\n  + table public.agents to anon: SELECT\n")
	})
}
