package backfill_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

func testRows(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-2/run-verification-queries", "production-deployment/verify-phase-2-in-production/no-null-values-remain",
		"production-deployment/verify-phase-2-in-production/verify-data-backfill", "success-criteria/data-quality/no-null-values-in-critical-columns",
		"success-criteria/data-quality/sharing-scopes-correctly-assigned", "success-criteria/data-quality/all-resources-owned-by-valid-organizations")
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)
	require.Equal(t, expected(), rows(t, db))
	for _, table := range tables() {
		require.Equal(t, query[int](t, db, `select count(*) from public.`+table),
			query[int](t, db, `select rows_changed from tenancy.backfill_progress where table_name = $1 and finished_at >= started_at`, table), table)
	}
}

// Rows that name an owner, in transactions of so many, and then the others; and those of a run before once more, when
// somebody has emptied them.
func testBatches(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)
	phasetest.Exec(t, db, `begin; set local tenancy.backfill = 'on';
		update public.prompts set owner_organization_id = null, sharing_scope = null, owner_tenant_id = null, audience_key = null; commit`)
	phasetest.Exec(t, db, `update tenancy.backfill_progress set finished_at = null where table_name = 'agents'`)
	phasetest.Exec(t, db, `call tenancy.backfill('prompts', 1)`)
	require.Equal(t, []string{"agents"}, query[string](t, db, `select table_name from tenancy.backfill_progress where finished_at is null`))
	require.Equal(t, expected(), rows(t, db))
	others := owned(fixtures.QuarantineOrganizationID, "")["prompts"] + 1 // that of an organization that is gone
	require.Equal(t, []int{len(fixtures.Prompts) - others + 1}, query[int](t, db, `select count(distinct xmin::text) from public.prompts`))
}

func testOwners(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	novartis, pfizer, quarantine := fixtures.Novartis.ID, fixtures.Pfizer.ID, fixtures.QuarantineOrganizationID
	const nowhere, private = "00000001-0000-4000-8000-000000000098", fixtures.OrganizationLevel
	const moved = "00000002-0000-4000-8000-000000000098"
	phasetest.Exec(t, db, `insert into public.users (id, email) values ($1, 'moved@pfizer.com')`, moved)
	phasetest.Exec(t, db, `insert into public.user_organizations (user_id, organization_id, is_active) values ($1, $2, false), ($1, $3, true)`, moved, novartis, pfizer)
	// Where no foreign key takes memberships along with their organization.
	phasetest.Exec(t, db, `alter table public.user_organizations drop constraint user_organizations_organization_id_fkey`)
	phasetest.Exec(t, db, `insert into public.user_organizations (user_id, organization_id) values ($1, $2)`, fixtures.Carol.ID, nowhere)

	tests := []struct {
		name                   string
		tenant, owner, creator string
		scope                  fixtures.Level
		metadata               string
		want                   row
	}{
		{"a tenant_id, and a scope that somebody has given since phase 1", novartis, "", "", fixtures.TenantLevel, `{}`, derive(novartis, fixtures.TenantLevel)},
		{"an owner and no tenant_id", "", novartis, "", private, `{}`, derive(novartis, private)},
		{"both, of one mind", pfizer, pfizer, "", private, `{}`, derive(pfizer, private)},
		// To choose one would show the row to somebody new.
		{"two that contradict each other", pfizer, novartis, fixtures.Alice.ID, private, `{}`, derive(quarantine, private)},
		{"an owner that is gone, and a tenant_id", pfizer, nowhere, fixtures.Alice.ID, private, `{}`, derive(pfizer, private)},
		{"an owner, and a tenant_id that is gone", nowhere, novartis, "", private, `{}`, derive(novartis, private)},
		{"both gone", nowhere, nowhere, fixtures.Bob.ID, private, `{}`, derive(pfizer, private)},
		{"a creator who is not there", "", "", nowhere, private, `{}`, derive(quarantine, private)},
		{"a creator of no organization", "", "", fixtures.Nobody.ID, private, `{}`, derive(quarantine, private)},
		{"a creator who made it before he came from elsewhere, or after", "", "", moved, private, `{}`, derive(quarantine, private)},
		{"a creator who came from an organization that is gone", "", "", fixtures.Carol.ID, private, `{}`, derive(quarantine, private)},
		{"a scope that is given stands", novartis, novartis, "", fixtures.TenantLevel, `{}`, derive(novartis, fixtures.TenantLevel)},
		{"a scope that is given stands against a flag", novartis, novartis, "", private, `{"is_public": true}`, derive(novartis, private)},
		{"a scope that the platform cannot have is narrowed", fixtures.Platform.ID, fixtures.Platform.ID, "", fixtures.TenantLevel, `{}`, derive(fixtures.PlatformID, private)},
		{"a public flag that is an array", novartis, "", "", "", `{"is_public": [true]}`, derive(novartis, private)},
		{"a public flag that is a number", novartis, "", "", "", `{"is_public": 1}`, derive(novartis, private)},
		{"a public flag with a blank", novartis, "", "", "", `{"is_public": " true"}`, derive(novartis, private)},
		{"a public flag in another place", novartis, "", "", "", `{"sharing": {"is_public": true}}`, derive(novartis, private)},
		{"metadata that is no object", novartis, "", "", "", `["is_public"]`, derive(novartis, private)},
	}
	for i, test := range tests {
		// What no trigger had a hand in.
		phasetest.Exec(t, db, `begin; set local tenancy.backfill = 'on';`+fmt.Sprintf(
			`insert into public.prompts (name, tenant_id, owner_organization_id, created_by, sharing_scope, metadata)
			 values ('Case %d', nullif('%s', '')::uuid, nullif('%s', '')::uuid, nullif('%s', '')::uuid, nullif('%s', '')::public.sharing_scope_type, '%s'); commit`,
			i, test.tenant, test.owner, test.creator, test.scope, test.metadata))
	}
	// A flag in a column and in metadata: both must say so.
	for name, values := range map[string]string{
		"true, and true":      `true, '{"is_public": "True"}'`,
		"true, and unsaid":    `true, '{}'`,
		"unsaid, and true":    `null, '{"is_public": true}'`,
		"true, and false":     `true, '{"is_public": false}'`,
		"false, and true":     `false, '{"is_public": true}'`,
		"unsaid, and unsaid":  `null, '{}'`,
		"true, and something": `true, '{"is_public": "perhaps"}'`,
	} {
		phasetest.Exec(t, db, `begin; set local tenancy.backfill = 'on';`+fmt.Sprintf(
			`insert into public.knowledge_documents (title, tenant_id, sharing_scope, is_public, metadata) values ('%s', '%s', null, %s); commit`, name, novartis, values))
	}
	db.Migrate(t, schema.Phase2)

	found := rows(t, db)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) { require.Equal(t, test.want, found[fmt.Sprintf("prompts Case %d", i)]) })
	}
	for name, scope := range map[string]fixtures.Level{
		"true, and true":      fixtures.PlatformLevel,
		"true, and unsaid":    fixtures.PlatformLevel,
		"unsaid, and true":    fixtures.PlatformLevel,
		"true, and false":     private,
		"false, and true":     private,
		"unsaid, and unsaid":  private,
		"true, and something": private,
	} {
		t.Run("public in the column, and in metadata: "+name, func(t *testing.T) {
			require.Equal(t, derive(novartis, scope), found["knowledge_documents "+name])
		})
	}
}

func testVariants(t *testing.T) {
	t.Parallel()
	t.Run("an optional table is missing", func(t *testing.T) {
		t.Parallel()
		db := variant(t, `drop table public.prompts, public.workflows`)
		require.Empty(t, query[string](t, db, `select title from public.use_cases where owner_organization_id is null or audience_key is null`))
		db.Rollback(t, schema.Phase2)
	})
	t.Run("agents name their owner in owner_organization_id, and nowhere else", func(t *testing.T) {
		t.Parallel()
		db := variant(t, `
			drop function public.count_tenant_agents; drop policy users_view_tenant_agents on public.agents; drop policy tmp_team_access on public.agents;
			alter table public.agents rename column tenant_id to owner_organization_id;
			alter table public.conversations rename column tenant_id to owner_organization_id`)
		want, got := expected(), map[string]row{}
		for _, r := range query[[]string](t, db, `select array['agents ' || name, owner_organization_id::text, sharing_scope::text, coalesce(owner_tenant_id::text, ''), audience_key::text] from public.agents`) {
			got[r[0]] = row{r[1], r[2], r[3], r[4]}
		}
		require.Len(t, got, len(fixtures.Agents))
		for name, r := range got {
			require.Equal(t, want[name], r, name)
		}
		for _, c := range fixtures.Conversations {
			require.Equal(t, []string{c.After.Owner}, query[string](t, db, `select owner_organization_id::text from public.conversations where id = $1`, c.ID), c.Title)
		}
		require.Equal(t, []string{fixtures.PlatformID}, query[string](t, db, `insert into public.agents (name, owner_organization_id) values ('x', $1) returning owner_organization_id::text`, fixtures.Platform.ID))
	})
	t.Run("conversations name their owner in both columns, and some name two", func(t *testing.T) {
		t.Parallel()
		db := variant(t, fmt.Sprintf(`
			alter table public.conversations add column owner_organization_id uuid;
			update public.conversations set owner_organization_id = tenant_id;
			update public.conversations set owner_organization_id = '%s' where id = '%s'`, fixtures.Pfizer.ID, fixtures.AliceConversation.ID))
		const owner = `select owner_organization_id::text from public.conversations where id = $1`
		require.Equal(t, []string{fixtures.QuarantineOrganizationID}, query[string](t, db, owner, fixtures.AliceConversation.ID))
		require.Equal(t, []string{fixtures.Pfizer.ID}, query[string](t, db, owner, fixtures.BobConversation.ID))
		before := query[string](t, db, `select c::text from public.conversations c order by 1`)
		db.Migrate(t, schema.Phase2)
		require.Equal(t, before, query[string](t, db, `select c::text from public.conversations c order by 1`), "a second run changes nothing")
		db.Rollback(t, schema.Phase2)
		require.Equal(t, []string{fixtures.Pfizer.ID}, query[string](t, db, owner, fixtures.AliceConversation.ID))
	})
	// To choose one of the two would show the row to somebody new, whatever was said of it since phase 1.
	t.Run("agents name their owner in both columns, and one whose scope has been said since names two", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		phasetest.Exec(t, db, `alter table public.agents add column owner_organization_id uuid`)
		phasetest.Exec(t, db, `update public.agents set owner_organization_id = case when id = $1 then $2 else tenant_id end`, fixtures.NovartisAgent.ID, fixtures.Platform.ID)
		db.Migrate(t, schema.Phase1)
		phasetest.Exec(t, db, `update public.agents set sharing_scope = 'organization' where id = $1`, fixtures.NovartisAgent.ID)
		db.Migrate(t, schema.Phase2)
		want := expected()
		want["agents "+fixtures.NovartisAgent.Name] = derive(fixtures.QuarantineOrganizationID, fixtures.OrganizationLevel)
		require.Equal(t, want, rows(t, db))
	})
	t.Run("organizations have slugs already, as long as they must be able to be, and they stay", func(t *testing.T) {
		t.Parallel()
		db := variant(t, `alter table public.organizations add column slug varchar(23); update public.organizations set slug = 'nvs' where name = 'Novartis'`)
		require.Equal(t, "nvs", places(t, db)[fixtures.Novartis.ID].Slug)
		require.Equal(t, "pfizer", places(t, db)[fixtures.Pfizer.ID].Slug)
	})
	t.Run("a table of the same name in another schema is none of ours", func(t *testing.T) {
		t.Parallel()
		const all = `select a::text from archive.agents a order by 1`
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		phasetest.Exec(t, db, `create schema archive; create table archive.agents as select * from public.agents`)
		before := query[string](t, db, all)
		require.Len(t, before, len(fixtures.Agents))
		db.Migrate(t, schema.Phase2)
		require.Equal(t, before, query[string](t, db, all))
	})
	t.Run("nothing but tables", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2)
		require.Equal(t, map[string]place{
			fixtures.PlatformID:               {fixtures.Platform.Name, "platform", "", "vital-platform", "", "", true},
			fixtures.QuarantineTenantID:       {fixtures.QuarantineTenantName, "tenant", fixtures.PlatformID, "quarantine", "platform", fixtures.QuarantineTenantID, false},
			fixtures.QuarantineOrganizationID: {fixtures.QuarantineOrganizationName, "organization", fixtures.QuarantineTenantID, "unassigned", "tenant", fixtures.QuarantineTenantID, true},
		}, places(t, db))
	})
}

// variant is another legacy database, after phase 2.
func variant(t *testing.T, change string) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	phasetest.Exec(t, db, change)
	db.Migrate(t, schema.Phase1)
	db.Migrate(t, schema.Phase2)
	return db
}
