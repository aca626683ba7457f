package live_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/live"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

func silent(int, int, string) {}

// verified is the report, without what is the tests' server's: it may be older than the fixes.
func verified(t *testing.T, db *pgtest.DB, role string) *live.Report {
	t.Helper()
	r, err := live.Verify(t.Context(), db.Config(t, role), silent)
	require.NoError(t, err)
	if r.Server != "" {
		require.False(t, r.OK())
		require.Contains(t, r.String(), "FAILED server_version ")
		r.Server = ""
	}
	require.Equal(t, len(r.Failures) == 0, r.OK())
	return r
}

func world(t *testing.T, phase schema.Phase) *pgtest.DB {
	t.Helper()
	return pgtest.New(t, phase, fixtures.World()...)
}

func TestLive(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "production-deployment/update-rls-policies/test-with-real-user-accounts", "production-deployment/update-rls-policies/verify-data-isolation",
		"production-deployment/verify-data-isolation", "production-deployment/verify-data-isolation/spot-check-novartis-user-cannot-see-pfizer-data",
		"production-deployment/verify-data-isolation/spot-check-tenant-wide-resources-visible",
		"production-deployment/verify-data-isolation/spot-check-platform-wide-resources-visible-to-all",
		"production-deployment/verify-phase-1-in-production/run-verification-queries")
	t.Run("all holds after phase 4, is said in a line, and nothing is written", func(t *testing.T) {
		t.Parallel()
		checklist.Proves(t, "success-criteria/schema-updated", "success-criteria/data-quality")
		db := world(t, schema.Phase4)
		before := phasetest.Take(t, db)
		r := verified(t, db, pgtest.OperatorRole)
		require.Regexp(t, `^ok: phase4, \d\d verification queries, \d{4} decisions about what \d\d users may read$`, r.String())
		require.GreaterOrEqual(t, r.Users, 15)
		before.Same(t, db)
	})
	for _, phase := range []schema.Phase{schema.Phase1, schema.Phase2, schema.Phase3} {
		t.Run(fmt.Sprintf("%s is verified as far as it goes", phase), func(t *testing.T) {
			t.Parallel()
			r := verified(t, world(t, phase), pgtest.OwnerRole)
			require.Regexp(t, fmt.Sprintf(`^ok: %s, \d+ verification queries; before phase 4 row level security keeps nobody apart`, phase), r.String())
		})
	}
	t.Run("a query that does not hold is told with its rows", func(t *testing.T) {
		t.Parallel()
		db := world(t, schema.Phase2)
		phasetest.Exec(t, db, `update public.organizations set slug = '' where name = 'Novartis'`)
		text := verified(t, db, pgtest.OwnerRole).String()
		require.Contains(t, text, "FAILED nulls_in_organizations (schema/verify/phase2.sql:")
		require.Contains(t, text, fixtures.Novartis.ID)
		require.Contains(t, text, "FAILED in 1 points, which are above: phase2")
	})
	for name, c := range map[string]struct{ role, want string }{
		"cannot become a user":           {pgtest.OwnerRole, "the login may not become anon, authenticated, and so cannot read as a user"},
		"is held by the policies itself": {pgtest.APIRole, "permission denied for schema tenancy"},
	} {
		t.Run("a login that "+name+" is refused", func(t *testing.T) {
			t.Parallel()
			_, err := live.Verify(t.Context(), world(t, schema.Phase4).Config(t, c.role), silent)
			require.ErrorContains(t, err, c.want)
		})
	}
	t.Run("of a legacy database there is nothing to verify", func(t *testing.T) {
		t.Parallel()
		_, err := live.Verify(t.Context(), world(t, schema.Legacy).Config(t, pgtest.OwnerRole), silent)
		require.ErrorContains(t, err, "no phase is complete in the database ")
		require.ErrorContains(t, err, "make preflight")
	})
}

// What is wrong is found by reading, whatever the catalog says.
func TestLiveLeaks(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/users-cannot-see-unauthorized-data")
	const reads, misses = "FAILED: users READ WHAT THEY MAY NOT, ", "FAILED: users do not read what they may, "
	for name, c := range map[string]struct {
		sql  string
		want []string
	}{
		"a policy beside the list": {`create policy p on public.agents to authenticated using (true)`,
			[]string{reads, "policies_missing_or_beyond_the_list", "why: yes: SELECT of public.agents", "true   policy p for ALL"}},
		"a table without row level security": {`alter table public.messages disable row level security`, []string{reads, ": messages "}},
		"what may be read by who has not signed in": {`grant usage on schema public, auth to anon; grant select on public.prompts to anon; create policy p on public.prompts to anon using (true)`,
			[]string{reads, "who has not signed in: prompts "}},
		"a helper that takes former members for members": {`create or replace function authz.audiences() returns uuid[] language sql stable security definer set search_path = ''
				as 'select array_agg(organization_id) from public.user_organizations where user_id = auth.uid()'`,
			[]string{reads, ", once", misses}},
		"a key that somebody has moved": {`alter table public.agents drop constraint agents_audience_key_derived; set session_replication_role = replica; update public.agents set audience_key = '` + fixtures.Pfizer.ID + `' where name = 'Novartis RA Agent'`,
			[]string{reads, misses, "adam@novartis.com (admin of Novartis): agents ", ", of Novartis, scope organization", "paula@pfizer.com (admin of Pfizer): agents "}},
		"a policy that is gone": {`drop policy users_view_own_conversations on public.conversations`, []string{misses, ": conversations "}},
		"memberships that all may see": {`drop policy users_view_memberships on public.user_organizations; create policy users_view_memberships on public.user_organizations for select to authenticated using (id is not null)`,
			[]string{reads, ": user_organizations "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := world(t, schema.Phase4)
			_, err := db.Superuser.Exec(t.Context(), c.sql, pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err)
			text := verified(t, db, pgtest.OperatorRole).String()
			for _, want := range c.want {
				require.Contains(t, text, want)
			}
			require.Contains(t, text, "\n\nFAILED in ")
		})
	}
}

// Of a large table some rows are compared, of each organization whose users are asked.
func TestLiveSamples(t *testing.T) {
	t.Parallel()
	db := world(t, schema.Phase4)
	// A trigger would write an audit log as large.
	_, err := db.Superuser.Exec(t.Context(), `set session_replication_role = replica;
		insert into public.prompts (tenant_id, owner_organization_id, owner_tenant_id, sharing_scope, audience_key, name, content)
		select o.id, o.id, o.parent_organization_id, 'organization', o.id, 'Bulk ' || n, repeat('x', 1800)
		from public.organizations o, generate_series(1, 5000) as n where o.id = '`+fixtures.Pfizer.ID+`'`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	r := verified(t, db, pgtest.OperatorRole)
	require.Empty(t, r.Failures, r)
	require.Less(t, r.Decisions, 5000*r.Users)
	require.Greater(t, r.Decisions, 2000*r.Users)

	phasetest.Exec(t, db, `create policy p on public.prompts to authenticated using (name like 'Bulk %')`)
	require.Contains(t, verified(t, db, pgtest.OperatorRole).String(), "FAILED: users READ WHAT THEY MAY NOT, ")
}
