package rls_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

func testVerification(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-4/review-current-rls-policies", "pre-implementation/documentation-complete/rls-policies-documented")

	// What each query is there to find.
	phasetest.Verification(t, secured(t), schema.Phase4, map[string]string{
		"policies":                                         "",
		"tables_that_are_open":                             `alter table public.messages disable row level security`,
		"policies_missing_or_beyond_the_list":              `create policy tmp_team_access on public.agents to authenticated using (true)`,
		"privileges_that_go_around_policies":               `grant truncate on public.agents to service_role`,
		"functions_that_go_around_policies":                `alter function authz.audiences_of(uuid) reset search_path`,
		"views_that_go_around_policies":                    `create view public.everything as select * from public.agents`,
		"who_reads_what_is_private_to_others":              told(`p_resource_sharing_scope = 'organization'`),
		"who_misses_or_reads_wrongly_what_a_tenant_shares": told(`p_resource_sharing_scope = 'tenant'`),
		"who_is_told_otherwise_than_the_policies_say": `
			create or replace function authz.audiences_of(p_user_id uuid) returns uuid[]
			language sql stable security definer set search_path = '' return array(select id from public.organizations)`,
		"who_misses_what_everybody_reads":     `update public.organizations set is_active = false where organization_type = 'platform'`,
		"tables_that_change_without_a_record": `alter table public.prompts disable trigger audit_delete`,
		"recent_audit_events":                 "",
	})
}

// testBeside is what the verification finds that no grant says.
func testBeside(t *testing.T) {
	t.Parallel()
	f, err := schema.Verification(schema.Phase4)
	require.NoError(t, err)
	queries, err := verify.Parse(f)
	require.NoError(t, err)
	at := slices.IndexFunc(queries, func(q verify.Query) bool { return q.Name == "privileges_that_go_around_policies" })
	db := secured(t)
	for sql, want := range map[string][]string{
		`create role tenancy_bridge; grant tenancy_bridge to authenticated`: {"authenticated", "MEMBER", "role tenancy_bridge"},
		`create schema theirs authorization service_role; create function theirs.spy() returns trigger language plpgsql as 'begin return new; end';
			alter function theirs.spy() owner to service_role;
			create trigger spy before insert on public.messages for each row execute function theirs.spy()`: {"service_role", "TRIGGER", "spy on public.messages, which runs theirs.spy()"},
	} {
		probing(t, db, func(string) {}, func(tx pgx.Tx) {
			run(t, tx, `set local search_path = ''`)
			run(t, tx, sql)
			found, err := verify.Run(t.Context(), tx, queries[at])
			require.NoError(t, err)
			require.Equal(t, [][]string{want}, found.Rows)
		})
	}
}

// told replaces the function that tells who may read what.
func told(answer string) string {
	return `create or replace function public.can_user_access_resource(p_user_id uuid, p_resource_owner_org_id uuid, p_resource_sharing_scope public.sharing_scope_type)
		returns boolean language sql stable security definer set search_path = '' return ` + answer
}

// beside makes a schema that the API's roles may use, and leaves its owner in charge.
const beside = `create schema reporting authorization tenancy_owner; grant usage on schema reporting to anon, authenticated; set local role tenancy_owner;`

// testGrants is what somebody has granted beside: phase 4 takes it back, and its
// rollback gives it again.
func testGrants(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase3, fixtures.World()...)
	_, err := db.Superuser.Exec(t.Context(), `
		grant all on schema public to anon, authenticated, service_role;
		grant truncate, references, trigger on public.prompts to tenancy_api;
		grant references (id) on public.agents to tenancy_api;
		set local role tenancy_owner;
		alter default privileges grant all on tables to anon, authenticated;
		alter default privileges grant all on functions to anon;
		do $$ begin execute format('grant temporary on database %I to authenticated', current_database()); end $$`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	before := phasetest.Catalog(t, db)
	db.Migrate(t, schema.Phase4)
	require.Empty(t, privilegeProblems(t, db))
	phasetest.Exec(t, db, `create table public.later (id integer)`)
	check(t, db, map[string]step{
		"nobody reads what is made later": {as(fixtures.Alice), `select from public.later`, denied},
	})
	phasetest.Exec(t, db, `drop table public.later`)
	db.Rollback(t, schema.Phase4)
	require.Empty(t, catalog.Diff(before, phasetest.Catalog(t, db)))
}

func testRefusals(t *testing.T) {
	t.Parallel()
	for what, test := range map[string]struct {
		after   schema.Phase
		sql     string // as the superuser, before the migration
		message string
	}{
		"phase 3 is missing": {schema.Phase2, "", "phase 4 needs phase 3, which is not complete here"},
		"a table that nobody has classified": {schema.Phase3, `create table public.notes (id uuid); alter table public.notes owner to tenancy_owner`,
			"nobody has said who may read these tables of schema public: notes"},
		"a private table without rules": {schema.Phase3, `
			create table public.notes (id uuid); alter table public.notes owner to tenancy_owner;
			insert into tenancy.classified_table values ('notes', 'private')`,
			"there are no rules for these classified tables: notes"},
		"a resource that phases 1 to 3 have not made one": {schema.Phase3, `
			create table public.notes (id uuid); alter table public.notes owner to tenancy_owner;
			insert into tenancy.classified_table values ('notes', 'resource')`,
			"there are no rules for these classified tables: notes"},
		"a role that does not own a table": {schema.Phase3, `alter table public.prompts owner to service_role`,
			"phase 4 must run as the owner of the tables, and tenancy_owner does not own public.prompts"},
		"a value that nobody else may have": {schema.Phase3, `create unique index prompts_name on public.prompts (name); create unique index prompts_own_name on public.prompts (owner_organization_id, name)`,
			"by these unique indexes anybody finds out what others have: public.prompts_name"},
		"a value that excludes the like of it with others": {schema.Phase3, `alter table public.prompts add constraint prompts_name exclude (name with =)`,
			"by these unique indexes anybody finds out what others have: public.prompts_name"},
		"a view of somebody else, which phase 4 cannot close": {schema.Phase3, `
			create view public.everything as select * from public.agents; revoke all on public.everything from anon; grant select on public.everything to authenticated`,
			"somebody else owns what phase 4 must close in schema public: public.everything"},
		"a function of somebody else": {schema.Phase3, `
			create function public.everything() returns setof public.agents language sql security definer as 'select * from public.agents';
			revoke all on function public.everything() from public, anon`,
			"somebody else owns what phase 4 must close in schema public: public.everything()"},
		"a view in another schema": {schema.Phase3, beside + `
			create view reporting.agents as select * from public.agents; grant select on reporting.agents to anon;`,
			"these show API roles what row level security hides: reporting.agents"},
		"a view of a view there": {schema.Phase3, beside + `
			create view reporting.base with (security_invoker = true) as select * from public.agents;
			create view reporting.agents as select name from reporting.base; grant select on reporting.base, reporting.agents to authenticated;`,
			"these show API roles what row level security hides: reporting.agents"},
		"a materialised view there": {schema.Phase3, beside + `
			create materialized view reporting.agents as select * from public.agents; grant select on reporting.agents to authenticated;`,
			"these show API roles what row level security hides: reporting.agents"},
		"a function there, which runs as the owner": {schema.Phase3, beside + `
			create function reporting.everything() returns setof public.conversations language sql security definer as 'select * from public.conversations';`,
			"these show API roles what row level security hides: reporting.everything()"},
		"a function there, which runs as the backend": {schema.Phase3, beside + `reset role;
			create function reporting.everything() returns setof public.conversations language sql security definer as 'select * from public.conversations';
			grant create on schema reporting to service_role; alter function reporting.everything() owner to service_role;`,
			"these show API roles what row level security hides: reporting.everything()"},
		"a view there, which only deletes": {schema.Phase3, beside + `
			create view reporting.agents as select * from public.agents; grant delete on reporting.agents to authenticated;`,
			"these show API roles what row level security hides: reporting.agents"},
		"a view there, of a partition": {schema.Phase3, beside + `
			create view reporting.log as select * from audit.audit_logs_default; grant select on reporting.log to authenticated;`,
			"these show API roles what row level security hides: reporting.log"},
		"a trigger of a function that is not the owner's": {schema.Phase3, `
			create schema theirs authorization service_role; grant usage on schema theirs to tenancy_owner; set local role service_role;
			create function theirs.spy() returns trigger language plpgsql as 'begin return new; end';
			create trigger spy before insert on public.messages for each row execute function theirs.spy();`,
			"these triggers run what is not the owner's: spy on public.messages runs theirs.spy()"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, test.after, fixtures.World()...)
			_, err := db.Superuser.Exec(t.Context(), test.sql)
			require.NoError(t, err)
			phasetest.RefusesMigration(t, db, schema.Phase4, test.message)
		})
	}
	t.Run("an API role that has what another role has", func(t *testing.T) {
		t.Parallel()
		// A role is the whole server's: nobody else must see this one, and so everything is in one transaction.
		f, err := schema.Migration(schema.Phase4)
		require.NoError(t, err)
		before, after, found := strings.Cut(f.SQL, "\nbegin;\n")
		require.True(t, found)
		f.SQL = before + "\nbegin; create role tenancy_bridge; grant tenancy_bridge to authenticated; set local role tenancy_owner;\n" +
			strings.Replace(after, "\ncommit;\n", "\nrollback;\n", 1)
		conn := pgtest.New(t, schema.Phase3, fixtures.World()...).Connect(t, "")
		_, err = script.Run(t.Context(), conn, f)
		require.ErrorContains(t, err, "these are members of other roles: authenticated of tenancy_bridge")
	})
	t.Run("a database whose owner is another, so that temporary tables stay", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase3, fixtures.World()...)
		_, err := db.Superuser.Exec(t.Context(), fmt.Sprintf(`alter database %s owner to service_role; grant all on schema public to tenancy_owner`, db.Name))
		require.NoError(t, err)
		phasetest.RefusesMigration(t, db, schema.Phase4, "\n  public may create temporary tables, and tenancy_owner does not own the database")
	})
	t.Run("not what somebody has looked at, or what holds its reader to the policies", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase3, fixtures.World()...)
		_, err := db.Superuser.Exec(t.Context(), beside+`
			create view reporting.total as select count(*) from public.agents; grant select on reporting.total to authenticated;
			insert into tenancy.trusted_object values ('reporting.total', 'a number');
			create view reporting.agents with (security_invoker = true) as select * from public.agents; grant select on reporting.agents to authenticated;
			create view reporting.closed as select * from public.agents;
			reset role;
			create schema theirs authorization service_role; grant usage on schema theirs to tenancy_owner; set local role service_role;
			create function theirs.hook() returns trigger language plpgsql as 'begin return new; end';
			create trigger hook before insert on public.messages for each row execute function theirs.hook();
			reset role;
			insert into tenancy.trusted_object values ('theirs.hook()', 'a webhook');
			create function public.touch() returns trigger language plpgsql as 'begin return new; end'; alter function public.touch() owner to tenancy_owner;
			create trigger touch before update on public.messages for each row execute function public.touch();
			create trigger unchanged before update on public.messages for each row execute function suppress_redundant_updates_trigger();`)
		require.NoError(t, err)
		db.Migrate(t, schema.Phase4)
	})
	t.Run("another migration is running", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase3, fixtures.World()...)
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		_, err = tx.Exec(t.Context(), `select pg_advisory_xact_lock(hashtextextended('tenancy.migration', 0))`)
		require.NoError(t, err)
		phasetest.RefusesMigration(t, db, schema.Phase4, "another migration of this database is running")
	})
}
