package perf_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// mutated makes plans bad, one after the other, and asks whether it is noticed.
func mutated(t *testing.T, db *pgtest.DB, known map[fixtures.User]facts) {
	const (
		list   = "the agents of an organization"
		policy = `alter policy users_view_accessible_agents on public.agents using (deleted_at is null
			and audience_key = any ((select authz.audiences())::uuid[]) and owner_organization_id <> all (authz.suspended_organizations()))`
		volatile = `alter function authz.audiences() volatile;
			alter policy users_view_accessible_agents on public.agents using (deleted_at is null and audience_key = any (authz.audiences()))`
		listed = `drop index public.idx_agents_org_list;
			create index idx_agents_org_list on public.agents (owner_organization_id, tier, name) include (%s)
			where deleted_at is null and status = 'active'`
		whole = `create or replace function public.get_accessible_agents(p_user_id uuid, p_limit integer default null)
			returns table (agent_id uuid, agent_name text, agent_display_name text, tier public.agent_tier,
				sharing_scope public.sharing_scope_type, owner_organization_id uuid, access_reason text)
			language plpgsql stable security definer set search_path = ''
			as $$ begin return query
				select a.id, a.name::text, a.display_name::text, a.tier, a.sharing_scope, a.owner_organization_id, null
				from public.agents a
				where a.audience_key = any ((select authz.audiences_of(p_user_id))::uuid[]) and a.deleted_at is null and a.status = 'active'
				order by a.priority desc, a.tier, a.name
				limit p_limit; end $$`
	)
	for name, m := range map[string]struct {
		query    string
		mutation string
		caller   fixtures.User // Alice unless given
		want     string        // is said
	}{
		"an index is dropped": {
			query: list, mutation: `drop index public.idx_agents_org_list`, want: "it does not use idx_agents_org_list",
		},
		"the list's index lacks a column": {
			query: list, mutation: fmt.Sprintf(listed, "id, sharing_scope, audience_key"),
			want: "it does not use idx_agents_org_list",
		},
		"the list's index lacks what the policy asks": {
			query: list, mutation: fmt.Sprintf(listed, "id, display_name, sharing_scope"),
			want: "it does not use idx_agents_org_list",
		},
		"a count's index lacks what the policy asks": {
			query: "how many prompts", mutation: `drop index public.idx_prompts_audience;
				create index idx_prompts_audience on public.prompts (audience_key, created_at desc) where deleted_at is null`,
			want: "idx_prompts_audience does not have all columns",
		},
		"no index is left": {
			query: "how many prompts", mutation: `drop index public.idx_prompts_audience, public.idx_prompts_owner`,
			want: "it reads the whole table prompts",
		},
		"a policy asks for each row": {
			query: "how many agents", mutation: policy, want: "it calls authz.suspended_organizations()",
		},
		"a list has an index that anybody's rows are in": {
			query: "the first agents", mutation: `create index on public.agents (priority desc, name) where deleted_at is null`,
			caller: fixtures.Nobody, want: "it does not use idx_agents_audience",
		},
		"a list is sorted as a whole": {
			query: "the first accessible agents", mutation: whole, want: "it touches",
		},
		"a policy asks a volatile helper, for each row": {
			query: list, mutation: volatile, want: "it calls authz.audiences()",
		},
	} {
		t.Run(name, func(t *testing.T) {
			caller := cmp.Or(m.caller, fixtures.Alice)
			s := begin(t, db, condition{name: "with a fault", of: settled, caller: caller}, known[caller])
			_, err := s.tx.Exec(t.Context(), m.mutation, pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err)
			all := plans()
			i := slices.IndexFunc(all, func(p plan) bool { return p.name == m.query })
			require.GreaterOrEqual(t, i, 0)
			got := s.execute(t, all[i])
			faults := all[i].faults(got, true)
			require.Contains(t, strings.Join(faults, "\n"), m.want, "%s", got.plan)
		})
	}
}
