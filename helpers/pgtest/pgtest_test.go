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
