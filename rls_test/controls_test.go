package rls_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
)

// TestPhase4Controls makes sure that the tests of this package would notice if nothing
// protected anything, or if they asked as somebody who sees everything anyway.
func TestPhase4Controls(t *testing.T) {
	t.Parallel()
	// Of each table: somebody does what he may not, or may not what he does.
	requireSaid := func(t *testing.T, v verdict, does string) {
		t.Helper()
		for table := range victims {
			require.True(t, slices.ContainsFunc(v.problems, func(problem string) bool { return strings.Contains(problem, does+table+" ") }),
				"nobody says of %s that anybody %s it", table, does)
		}
	}
	t.Run("without policies", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		statement(`do $$ declare p record; begin
			for p in select * from pg_policies where schemaname = 'public' loop
				execute format('drop policy %I on public.%I', p.policyname, p.tablename);
			end loop; end $$`)(t, db)
		requireSaid(t, leaks(t, db, migrated()), " does not see ")
	})
	t.Run("as a role that bypasses row level security", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		tx, err := db.Superuser.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context()) // the role is everybody's on this server, and only here is it another
		_, err = tx.Exec(t.Context(), `alter role authenticated bypassrls`)
		require.NoError(t, err)
		requireSaid(t, leaksIn(t, db, migrated().withHistory(t, db), tx, fixtures.Users), " reads ")
	})
	t.Run("as the role that does not, in the same way", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		tx, err := db.Superuser.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		leaksIn(t, db, migrated().withHistory(t, db), tx, fixtures.Users).require(t)
	})
	t.Run("along every path, of what the model says otherwise", func(t *testing.T) {
		t.Parallel()
		db, w := secured(t), migrated()
		for i, m := range w.memberships {
			if m.UserID == fixtures.Eve.ID || m.UserID == fixtures.Vera.ID {
				w.memberships[i].Role, w.memberships[i].Active = "admin", true
			}
		}
		for _, p := range paths {
			require.NotEmpty(t, compare(t, db, w, []fixtures.User{fixtures.Eve, fixtures.Vera}, []path{p}).problems, p.name)
		}
		for _, p := range insertions {
			require.NotEmpty(t, insertingFor(world.near)(t, db, w, []fixtures.User{fixtures.Eve}, []path{p}).problems, p.name)
		}
	})
}
