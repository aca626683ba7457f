package pgtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

func TestNew(t *testing.T) {
	t.Parallel()
	a, b := pgtest.New(t, schema.Phase1), pgtest.New(t, schema.Phase1)

	t.Run("what one test writes no other test sees", func(t *testing.T) {
		_, err := a.Owner.Exec(t.Context(), "insert into public.users (email) values ('a@example.com')")
		require.NoError(t, err)
		var inA, inB int
		require.NoError(t, a.Owner.QueryRow(t.Context(), "select count(*) from public.users").Scan(&inA))
		require.NoError(t, b.Owner.QueryRow(t.Context(), "select count(*) from public.users").Scan(&inB))
		require.Equal(t, []int{1, 0}, []int{inA, inB})
	})
	t.Run("the test roles hold no privilege that would make a denial vacuous", func(t *testing.T) {
		for _, role := range []string{pgtest.OwnerRole, pgtest.APIRole, pgtest.ServiceRole} {
			var name string
			var plain bool
			conn := a.Connect(t, role)
			require.NoError(t, conn.QueryRow(t.Context(),
				`select session_user, not (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication)
				 from pg_roles where rolname = session_user`).Scan(&name, &plain))
			require.Equal(t, role, name)
			require.True(t, plain, role)
		}
	})
	t.Run("the API role may become nobody but anon and authenticated", func(t *testing.T) {
		var roles []string
		require.NoError(t, a.Superuser.QueryRow(t.Context(),
			`select array_agg(rolname::text order by rolname) from pg_roles
			 where rolname <> 'tenancy_api' and pg_has_role('tenancy_api', oid, 'member')`).Scan(&roles))
		require.Equal(t, []string{"anon", "authenticated"}, roles)
	})
}

func TestSeed(t *testing.T) {
	t.Parallel()
	// Given in the wrong order on purpose: the phase decides, then the order.
	seeds := []pgtest.Seed{
		{Name: "later", After: schema.Phase1, SQL: "update public.organizations set slug = 'a'"},
		{Name: "legacy", SQL: "insert into public.organizations (name) values ('A')"},
		{Name: "last", After: schema.Phase1, SQL: "update public.organizations set slug = slug || 'b'"},
	}
	t.Run("a seed is loaded right after its phase", func(t *testing.T) {
		t.Parallel()
		var name, slug string
		require.NoError(t, pgtest.New(t, schema.Phase1, seeds...).Owner.QueryRow(t.Context(),
			"select name, slug from public.organizations").Scan(&name, &slug))
		require.Equal(t, []string{"A", "ab"}, []string{name, slug})
	})
	t.Run("a database of an earlier phase does without it", func(t *testing.T) {
		t.Parallel()
		var name string
		require.NoError(t, pgtest.New(t, schema.Legacy, seeds...).Owner.QueryRow(t.Context(),
			"select name from public.organizations").Scan(&name))
		require.Equal(t, "A", name)
	})
	t.Run("a phase that there is not is an error", func(t *testing.T) {
		t.Parallel()
		_, err := pgtest.Create(t.Context(), schema.Legacy, pgtest.Seed{Name: "never", After: schema.Phase4 + 1})
		require.EqualError(t, err, "seed never comes after an unknown phase phase5")
	})
}
