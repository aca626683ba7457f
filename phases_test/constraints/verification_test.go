package constraints_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

func testVerification(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-3/validate-all-null-values-fixed", "phase-3/validate-hierarchy-constraints", "phase-3/validate-foreign-keys",
		"phase-3/verify-phase-3-completion", "phase-3/verify-materialized-view", "phase-3/check-index-usage")
	db := phase3(t)

	// What each query is there to find.
	phasetest.Verification(t, db, schema.Phase3, map[string]string{
		"nulls": `alter table public.prompts alter column sharing_scope drop not null, alter column audience_key drop not null; ` +
			asBackfill + `update public.prompts set sharing_scope = null, audience_key = null where id = '` + fixtures.PfizerPrompt.ID + `'`,
		"hierarchy_violations": `alter table public.organizations drop constraint org_hierarchy_valid;
			update public.organizations set parent_organization_id = null where slug = 'digital-health'`,
		"orphans": `alter table public.conversations drop constraint fk_conversations_owner; ` +
			asBackfill + `update public.conversations set owner_organization_id = user_id where id = '` + fixtures.BobConversation.ID + `'`,
		"hierarchy_constraints": `alter table public.organizations drop constraint org_hierarchy_valid, add constraint org_hierarchy_valid check (
			(organization_type = 'platform') = (parent_organization_id is null)) not valid`,
		"missing_constraints":      `alter table public.workflows drop constraint workflows_audience_key_derived`,
		"columns_that_may_be_null": `alter table public.capabilities alter column owner_organization_id drop not null`,
		"keys_that_delete": `alter table public.agents drop constraint agents_tenant_id_fkey,
			add constraint agents_tenant_id_fkey foreign key (tenant_id) references public.organizations (id) on delete cascade`,
		"indexes": "",
		"missing_indexes": `drop index public.idx_agents_org_list;
			create index idx_agents_org_list on public.agents (owner_organization_id, tier, name) where deleted_at is null and status = 'active'`,
		"unindexed_foreign_keys": `drop index public.idx_conversations_agent_id`,
		"broken_hierarchies": `alter table public.organizations drop constraint org_hierarchy_valid;
			update public.organizations set parent_organization_id = null where slug = 'digital-health'`,
		"wrong_tenants": `create or replace function public.get_organization_tenant(p_organization_id uuid) returns uuid language sql as
			$$ select parent_organization_id from public.organizations where id = p_organization_id $$`,
		"organizations_of_a_user": `create or replace function authz.visible_organizations_of(p_user_id uuid) returns uuid[] language sql as
			$$ select '{}'::uuid[] $$`,
		"agents_of_a_user": "",
		"agents_shown_to_others": `create or replace function authz.audiences_of(p_user_id uuid) returns uuid[] language sql as
			$$ select array_agg(audience_key) from public.agents $$`,
		"unguarded_functions":         `alter function public.can_user_access_resource(uuid, uuid, public.sharing_scope_type) set search_path = public`,
		"statistics":                  `create or replace view public.organization_stats as select * from tenancy.organization_stats where false`,
		"statistics_can_be_made_anew": `drop index tenancy.organization_stats_organization_id`,
		"statistics_within_reach":     `grant select on tenancy.organization_stats to service_role`,
		"index_usage":                 "",
	})

	t.Run("the checks before phase 3 hold before it", func(t *testing.T) {
		f, err := schema.Verification(schema.Phase3)
		require.NoError(t, err)
		queries, err := verify.Parse(f)
		require.NoError(t, err)
		before := phase2(t)
		for i, name := range []string{"nulls", "hierarchy_violations", "orphans"} {
			require.Equal(t, name, queries[i].Name)
			result, err := verify.Run(t.Context(), before.Owner, queries[i])
			require.NoError(t, err)
			require.True(t, result.OK, "%s", result)
		}
	})
}
