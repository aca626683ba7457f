package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// said is what the command prints and returns, and how often it told its progress.
func said(t *testing.T, url string) (out string, steps int, err error) {
	t.Helper()
	var text strings.Builder
	err = run(t.Context(), url, &text, func(int, int, string) { steps++ }, func() {})
	return text.String(), steps, err
}

func TestVerify(t *testing.T) {
	t.Parallel()
	t.Run("a database is verified, and named", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		out, steps, _ := said(t, db.URL(pgtest.OwnerRole))
		require.Contains(t, out, "phase1, 4 verification queries; before phase 4 ")
		require.Contains(t, out, ": "+db.Name+" on ")
		require.Equal(t, 4, steps)

		_, err := db.Owner.Exec(t.Context(), `alter table public.agents disable trigger set_audience`)
		require.NoError(t, err)
		out, _, err = said(t, db.URL(pgtest.OwnerRole))
		require.EqualError(t, err, "the verification does not hold")
		require.Contains(t, out, "FAILED tables_out_of_step")
	})
	t.Run("a URL that cannot be read is not printed, nor is its password", func(t *testing.T) {
		t.Parallel()
		_, _, err := said(t, "postgres://owner:se%cret@host/db")
		require.ErrorContains(t, err, "VERIFY_DATABASE_URL cannot be read as postgres://owner@host:5432/database")
		require.NotContains(t, err.Error(), "cret")
	})
	t.Run("no database is an error that says how to name one", func(t *testing.T) {
		t.Parallel()
		_, _, err := said(t, "")
		require.EqualError(t, err, "which database? Say VERIFY_DATABASE_URL=postgres://owner@host:5432/database")
	})
}
