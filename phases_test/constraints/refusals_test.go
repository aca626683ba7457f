package constraints_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// asBackfill lets the statements after it write what triggers would derive.
const asBackfill = `select set_config('tenancy.backfill', 'on', true);`

func testRefusals(t *testing.T) {
	t.Parallel()
	t.Run("Dirty data", testDirtyData)
	t.Run("phase 2 is missing", func(t *testing.T) {
		t.Parallel()
		phasetest.RefusesMigration(t, pgtest.New(t, schema.Phase1, fixtures.World()...), schema.Phase3, "phase 3 needs phase 2, which is not complete here")
	})
	t.Run("phase 4 is complete, and its privileges would go", func(t *testing.T) {
		t.Parallel()
		phasetest.RefusesMigration(t, pgtest.New(t, schema.Phase4, fixtures.World()...), schema.Phase3, "phase 4 is complete, and phase 3 would take back privileges that it gave")
	})

	t.Run("a role that does not own a table", func(t *testing.T) {
		t.Parallel()
		db := phase2(t)
		_, err := db.Superuser.Exec(t.Context(), `alter table public.prompts owner to service_role`)
		require.NoError(t, err)
		phasetest.RefusesMigration(t, db, schema.Phase3, "phase 3 must run as the owner of the tables, whom row level security does not hold; tenancy_owner is not that for public.prompts")
	})

	// One after the other, each mended before the next.
	db := phase2(t)
	before := phasetest.Catalog(t, db)
	for _, test := range []struct{ name, obstacle, message, mend string }{
		{"phase 2 has begun and not ended", `delete from tenancy.completed_phase where phase = 2`,
			"phase 3 needs phase 2, which is not complete here",
			`insert into tenancy.completed_phase (phase) values (2)`},
		{"an owner from whom row level security hides rows", `alter table public.agents force row level security`,
			"tenancy_owner is not that for public.agents",
			`alter table public.agents no force row level security`},
		{"names of functions, tables, views and schemas that are taken", `
			create function public.get_accessible_agents(integer) returns integer language sql return 1;
			create table public.audit_logs (id integer);
			create view public.organization_stats as select 1 as n;
			create schema audit`,
			"they are there already: public.audit_logs, public.get_accessible_agents(integer), public.organization_stats, schema audit",
			`drop function public.get_accessible_agents(integer);
			drop table public.audit_logs;
			drop view public.organization_stats;
			drop schema audit`},
		{"the name of an index that one of another shape has", `create index idx_agents_org_list on public.agents (owner_organization_id)`,
			"there is another idx_agents_org_list already: CREATE INDEX idx_agents_org_list ON public.agents USING btree (owner_organization_id)",
			`drop index public.idx_agents_org_list`},
		{"the name of an index that something else has", `create sequence public.idx_prompts_owner`,
			"there is another idx_prompts_owner already: not an index",
			`drop sequence public.idx_prompts_owner`},
		{"the name of a constraint that is taken", `alter table public.workflows add constraint fk_workflows_owner foreign key (owner_organization_id) references public.organizations (id) on delete cascade`,
			"there is another constraint fk_workflows_owner of public.workflows already: FOREIGN KEY (owner_organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE",
			`alter table public.workflows drop constraint fk_workflows_owner`},
	} {
		t.Run(test.name, func(t *testing.T) {
			phasetest.Exec(t, db, test.obstacle)
			phasetest.RefusesMigration(t, db, schema.Phase3, test.message)
			phasetest.Exec(t, db, test.mend)
		})
	}
	t.Run("another migration is running", func(t *testing.T) {
		other := hold(t, db, `select pg_advisory_xact_lock(hashtextextended('tenancy.migration', 0))`)
		phasetest.RefusesMigration(t, db, schema.Phase3, "another migration of this database is running")
		other.release(t)
	})
	t.Run("and once nothing is in the way it runs", func(t *testing.T) {
		require.Empty(t, catalog.Diff(before, phasetest.Catalog(t, db)))
		db.Migrate(t, schema.Phase3)
		require.Empty(t, constraintProblems(t, db.Owner))
		require.Empty(t, indexProblems(t, db.Owner))
	})
}

func testDirtyData(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-3/validate-all-null-values-fixed", "phase-3/validate-hierarchy-constraints", "phase-3/validate-foreign-keys")
	f, err := schema.Migration(schema.Phase3)
	require.NoError(t, err)
	db := phase2(t)
	definitions := phasetest.Catalog(t, db)
	// One after the other: the dirt stays.
	tests := []struct{ name, dirt, message string }{
		{"rows without an owner", asBackfill + `update public.prompts set owner_organization_id = null where id = '` + fixtures.PfizerPrompt.ID + `'`,
			"1 rows of prompts without an owner that exists"},
		{"rows of an owner that is gone", asBackfill + `update public.conversations set owner_organization_id = '` + fixtures.Alice.ID + `' where id in ('` + fixtures.BobConversation.ID + `', '` + fixtures.TessConversation.ID + `')`,
			"2 rows of conversations without an owner that exists"},
		{"rows without a scope", asBackfill + `update public.capabilities set sharing_scope = null where id = '` + fixtures.MayoCapability.ID + `'`,
			"1 rows of capabilities without a scope, or not shared as their scope says"},
		{"rows that others may read than their scope says", asBackfill + `update public.knowledge_documents set audience_key = '` + sharedKey(fixtures.PlatformID) + `' where id = '` + fixtures.PfizerDocument.ID + `'`,
			"1 rows of knowledge_documents without a scope, or not shared as their scope says"},
		{"rows whose tenant is not their owner's", asBackfill + `update public.workflows set owner_tenant_id = '` + fixtures.DigitalHealth.ID + `' where id = '` + fixtures.PfizerWorkflow.ID + `'`,
			"1 rows of workflows without a scope, or not shared as their scope says"},
		{"a membership with a role that nobody knows", `update public.user_organizations set role = 'owner' where user_id = '` + fixtures.Alice.ID + `'`,
			"1 memberships with a role that is none of admin, member, viewer"},
		{"an organization whose id stands for what another shares", twin("0000000a-0000-f000-8000-000000000001"),
			"1 organizations whose id stands for what another shares"},
		{"an organization that would share with another what each shares with its own", strings.ReplaceAll(twin("00000001-0000-1000-8000-000000000002"), "'twin'", "'other-twin'"),
			"1 organizations whose id is another's but for the version of the UUID"},
		{"an organization with an empty slug", `update public.organizations set slug = '' where slug = 'mayo-clinic'`,
			"1 organizations without a slug"},
		{"two live organizations with one slug", `update public.organizations set slug = 'pfizer' where slug = 'sandoz-legacy'`,
			"1 slugs that two live organizations have"},
		{"an organization below another", `update public.organizations set parent_organization_id = '` + fixtures.Pfizer.ID + `' where slug = 'novartis'`,
			"1 organizations whose parent is not one level above them"},
		{"an organization without a type", `update public.organizations set organization_type = null where slug = 'kaiser-permanente'`,
			"1 organizations without a type"},
		{"a platform with a parent", `update public.organizations set parent_organization_id = '` + fixtures.Pharmaceuticals.ID + `' where slug = 'vital-platform'`,
			"1 platforms with a parent, or others without one"},
		{"a second platform", `update public.organizations set organization_type = 'platform', parent_organization_id = null where slug = 'digital-health'`,
			"1 platforms beyond the one"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			phasetest.Exec(t, db, test.dirt)
			rows := phasetest.Data(t, db)
			require.Contains(t, problemsOf(t, db, f), test.message)
			require.Empty(t, catalog.Diff(rows, phasetest.Data(t, db)))
		})
	}
	t.Run("all of it at once, of which each is named, and nothing is applied", func(t *testing.T) {
		all := strings.Join(problemsOf(t, db, f), "\n")
		for _, test := range tests {
			// How many depends on what else is wrong with a row.
			require.Contains(t, all, test.message[2:])
		}
		require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
	})
	t.Run("an organization gets another id, as phase 2's verification says, and takes its rows with it", func(t *testing.T) {
		t.Parallel()
		const chosen, another, member = "00000001-0000-1000-8000-000000000002", "0000000a-0000-4000-8000-000000000001", "0000000a-0000-4000-8000-000000000002"
		db := phase2(t)
		phasetest.Exec(t, db, twin(chosen)+`;
			insert into public.organizations (id, name, slug, organization_type, parent_organization_id) values ('`+member+`', 'Roche', 'roche', 'organization', '`+chosen+`');
			insert into public.user_organizations (user_id, organization_id) values ('`+fixtures.Nobody.ID+`', '`+chosen+`');
			insert into public.agents (name, owner_organization_id, sharing_scope) values ('Of the twin', '`+chosen+`', 'organization'), ('From the twin', '`+chosen+`', 'tenant'), ('From Roche', '`+member+`', 'tenant')`)
		require.Equal(t, []string{"1 organizations whose id is another's but for the version of the UUID"}, problemsOf(t, db, f))
		_, err := db.Owner.Exec(t.Context(), `call tenancy.move_organization('`+chosen+`', '`+another+`')`)
		require.NoError(t, err)
		db.Migrate(t, schema.Phase2)
		db.Migrate(t, schema.Phase3)
		names := func(user fixtures.User) []string {
			rows, err := db.Owner.Query(t.Context(), `select agent_name from public.get_accessible_agents($1) where agent_name ~ 'Roche|twin|Pharma-wide' order by 1`, user.ID)
			require.NoError(t, err)
			found, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err)
			return found
		}
		require.Equal(t, []string{"From Roche", "From the twin", "Of the twin"}, names(fixtures.Nobody))
		require.Equal(t, []string{"Pharma-wide Agent"}, names(fixtures.Tess))
	})
	t.Run("a deleted organization's slug is nobody's", func(t *testing.T) {
		t.Parallel()
		db := phase2(t)
		phasetest.Exec(t, db, `update public.organizations set slug = 'pfizer', deleted_at = now() where slug = 'sandoz-legacy'`)
		db.Migrate(t, schema.Phase3)
	})
}

// problemsOf runs a migration that must refuse the data, and returns what it says is wrong with it.
func problemsOf(t *testing.T, db *pgtest.DB, f schema.File) []string {
	t.Helper()
	_, err := db.Run(t, f)
	var refusal *pgconn.PgError
	require.ErrorAs(t, err, &refusal)
	problems, ok := strings.CutPrefix(refusal.Message, "the data is not ready for constraints:\n  ")
	require.True(t, ok, "%v", err)
	return strings.Split(problems, "\n  ")
}
