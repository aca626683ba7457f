package preflight_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/preflight"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// problem is something wrong, and the check that must find it.
type problem struct {
	name, check string
	verdict     string
	sql         string   // of a superuser, who then becomes the owner
	replaced    []string // of the queries' text, what a test cannot make of a server, by what it would say then
}

var problems = []problem{
	{"an extension that is older than the server's", "extensions", verify.Warned, `update pg_extension set extversion = '1.0' where extname = 'pgcrypto'`, nil},
	{"a publication that would not get the new columns", "publications", verify.Warned, `create publication p for table public.agents`, nil},
	{"a slot that nobody reads", "replication_slots", verify.Failed, ``,
		[]string{"pg_catalog.pg_replication_slots s", "(values ('gone'::name, 'logical', false)) as s (slot_name, slot_type, active)"}},
	{"an archive that takes nothing any more", "archiver", verify.Failed, ``,
		[]string{"pg_catalog.pg_stat_archiver a", "(values (now(), now() - interval '1 day', '00001', 7)) as a (last_failed_time, last_archived_time, last_failed_wal, archived_count)"}},
	{"a standby", "role_of_server", verify.Failed, ``, []string{"pg_is_in_recovery()", "true"}},
	{"autovacuum switched off", "autovacuum", verify.Failed, ``, []string{"s.reset_val = 'on', 'fail', 'set it on: phase 2", "false, 'fail', 'set it on: phase 2"}},
	{"another encoding", "encoding", verify.Failed, ``, []string{"d.encoding = pg", "8 = pg"}},
	{"a collation of another version", "collation_version", verify.Warned, `update pg_database set datcollversion = '0' where datname = current_database()`, nil},

	{"a service_role that row level security holds", "api_roles", verify.Failed, `alter role service_role nobypassrls`, nil},
	{"a user who may become the owner", "api_roles", verify.Failed, `create role tenancy_bridge; grant tenancy_owner to tenancy_bridge; grant tenancy_bridge to authenticated`, nil},
	{"a user who has what another role has", "api_roles", verify.Failed, `create role tenancy_bridge; grant tenancy_bridge to authenticated`, nil},
	{"a table of somebody else", "owner", verify.Failed, `create role tenancy_else; grant all on schema public to tenancy_else; alter table public.messages owner to tenancy_else`, nil},
	{"a database of somebody else", "owner", verify.Failed, `create role tenancy_else; do $$ begin execute format('alter database %I owner to tenancy_else', current_database()); end $$; grant all on schema public to tenancy_owner`, nil},
	{"a role of the pool whose statements never end", "role_settings", verify.Warned, `create role tenancy_pool login; grant authenticated to tenancy_pool; alter role tenancy_pool set statement_timeout = 0`, nil},

	{"a table that autovacuum leaves alone", "vacuum_settings", verify.Warned, `alter table public.agents set (autovacuum_enabled = false)`, nil},
	{"a table that is due for a vacuum against wraparound", "wraparound", verify.Warned, `update pg_class set relfrozenxid = '3' where relname = 'agents'`,
		[]string{"current_setting('autovacuum_freeze_max_age')", "'1'"}},
	{"a transaction that waits for a second phase", "prepared_transactions", verify.Failed, ``,
		[]string{"pg_catalog.pg_prepared_xacts", "(values ('x', 'somebody', now(), current_database())) as p (gid, owner, prepared, database)"}},

	{"phase 2 killed on its way", "phases", verify.Warned, `set local role tenancy_owner; create schema tenancy; create schema authz; create table tenancy.journal (); create table tenancy.undo ();
		create table tenancy.completed_phase (phase integer); insert into tenancy.completed_phase values (1); create table tenancy.organization_journal ()`, nil},
	{"a table that is missing and must not", "missing_tables", verify.Failed, `drop table public.messages`, nil},
	{"a table that is missing and may", "missing_tables", verify.Warned, `drop table public.prompts`, nil},
	{"a database without auth.uid()", "caller", verify.Failed, `drop function auth.uid() cascade`, nil},
	{"a schema of a name that phase 1 gives", "names_taken", verify.Failed, `set local role tenancy_owner; create schema tenancy`, nil},
	{"a schema of a name that phase 3 gives", "names_taken", verify.Failed, `create schema audit`, nil},
	{"a type of a name that phase 1 gives", "names_taken", verify.Failed, `create type public.sharing_scope_type as enum ('private', 'public')`, nil},
	{"a column of another type", "names_taken", verify.Failed, `alter table public.agents add sharing_scope text`, nil},
	{"a trigger that phase 1 would replace", "names_taken", verify.Failed, `create trigger set_tenant before insert on public.organizations for each row execute function suppress_redundant_updates_trigger()`, nil},
	{"a function that phase 3 refuses", "names_taken", verify.Failed, `set local role tenancy_owner; create function public.get_accessible_agents(text) returns text return $1`, nil},
	{"an index that phase 3 refuses", "names_taken", verify.Failed, `create index idx_agents_org_list on public.agents (name)`, nil},
	{"a table whose readers nobody has named", "unclassified_tables", verify.Warned, `set local role tenancy_owner; create table public.invoices (id uuid primary key)`, nil},
	{"an index that tells what others have", "unique_indexes", verify.Failed, `create unique index agents_name on public.agents (name)`, nil},
	{"an exclusion that tells it", "unique_indexes", verify.Failed, `alter table public.workflows add constraint own_name exclude (name with =)`, nil},
	{"an index that was never finished", "invalid_indexes", verify.Warned, `update pg_index set indisvalid = false where indexrelid = 'public.agents_tenant_id_idx'::regclass`, nil},
	{"a function that the owner cannot close", "foreign_objects", verify.Failed, `create role tenancy_else; grant all on schema public to tenancy_else;
		set local role tenancy_else; create function public.theirs() returns integer return 1; reset role`, nil},
	{"a view around row level security", "ways_around", verify.Warned, `create schema reports; grant usage on schema reports to authenticated; create view reports.all_agents as select * from public.agents; grant select on reports.all_agents to authenticated`, nil},
	{"a function around row level security", "ways_around", verify.Warned, `set local role tenancy_owner; create schema reports; grant usage on schema reports to authenticated;
		create function reports.all_agents() returns setof text security definer language sql as 'select name from public.agents'`, nil},
	{"a view that deletes around row level security", "ways_around", verify.Warned, `create schema reports; grant usage on schema reports to authenticated; create view reports.all_agents as select * from public.agents; grant delete on reports.all_agents to authenticated; alter view reports.all_agents owner to tenancy_owner`, nil},
	{"a function of the backend around row level security", "ways_around", verify.Warned, `create schema reports authorization service_role; grant usage on schema reports to authenticated; set local role service_role;
		create function reports.all_agents() returns setof text security definer language sql as 'select name from public.agents'; reset role`, nil},
	{"a trigger of somebody else", "foreign_triggers", verify.Warned, `create schema theirs authorization service_role; set local role service_role;
		create function theirs.spy() returns trigger language plpgsql as 'begin return new; end';
		create trigger spy before insert on public.messages for each row execute function theirs.spy(); reset role`, nil},
	{"a policy for a role that phase 4 forgets", "policies", verify.Warned, `create role tenancy_analyst; create policy analysts on public.agents for select to tenancy_analyst using (true)`, nil},

	{"two platforms", "organizations", verify.Failed, `insert into public.organizations (name, tenant_type) values ('Another', 'system')`, nil},
	{"two tenants of one key", "organizations", verify.Failed, `insert into public.organizations (name, tenant_type, tenant_key) values ('Another', 'pharmaceuticals', 'pharma')`, nil},
	{"an id that stands for what an organization shares", "organizations", verify.Failed, `insert into public.organizations (id, name, tenant_key) values ('0000000c-0000-f000-8000-000000000001', 'Roche', 'pharma')`, nil},
	{"ids that stand for the same", "organizations", verify.Failed, `insert into public.organizations (id, name, tenant_key) values
		('0000000c-0000-4000-8000-000000000001', 'Roche', 'pharma'), ('0000000c-0000-1000-8000-000000000001', 'Bayer', 'pharma')`, nil},
	{"an id that stands for the same as the platform's to be", "organizations", verify.Failed, `insert into public.organizations (id, name, tenant_key) values ('00000000-0000-4000-0000-000000000001', 'Roche', 'pharma')`, nil},
	{"as the quarantine's", "organizations", verify.Failed, `insert into public.organizations (id, name, tenant_key) values ('00000000-0000-4000-0000-000000000002', 'Roche', 'pharma')`, nil},
	{"as that of the organization in it", "organizations", verify.Failed, `insert into public.organizations (id, name, tenant_key) values ('00000000-0000-4000-0000-000000000003', 'Roche', 'pharma')`, nil},
	{"an organization that no tenant is found for", "organizations_without_a_tenant", verify.Warned, `insert into public.organizations (name, tenant_key) values ('Unknown', 'biotech')`, nil},
	{"an organization without a name", "organizations_without_a_name", verify.Warned, `insert into public.organizations (tenant_key) values ('pharma')`, nil},
	{"a row whose organization is gone", "rows_without_an_organization", verify.Warned, `update public.conversations set tenant_id = null;
		insert into public.prompts (name, tenant_id) values ('Orphan', '99999999-0000-4000-8000-000000000001')`, nil},
}

func TestPreflightProblems(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "pre-implementation/access-permissions/database-admin-credentials-available", "pre-implementation/access-permissions/rls-policies-can-be-modified",
		"pre-implementation/access-permissions/ability-to-create-functions-and-triggers", "pre-implementation/access-permissions/service-role-access-confirmed",
		"phase-2/review-current-tenant-type-distribution", "phase-4/review-current-rls-policies")
	db, all := orderly(t), queries(t)
	conn := db.Connect(t, "")
	require.GreaterOrEqual(t, len(problems), 15)
	for _, p := range problems {
		t.Run(p.name, func(t *testing.T) {
			tx := begin(t, conn)
			_, err := tx.Exec(t.Context(), p.sql)
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), "set local role "+pgtest.OwnerRole)
			require.NoError(t, err)
			report := ask(t, tx, all, p.replaced...)
			want := []string{p.check}
			if slices.Contains(ofServer(t, db), p.check) {
				want = nil
			}
			require.Equal(t, want, found(t, db, report))
			for _, c := range report {
				if c.Name == p.check {
					require.Equal(t, p.verdict, c.Verdict, c)
				}
			}
		})
	}
}

// What a session is given is said when it begins.
func TestPreflightSettings(t *testing.T) {
	t.Parallel()
	db := orderly(t)
	want := []string{"idle_in_transaction_session_timeout", "jit", "random_page_cost", "role_of_server", "role_settings", "row_security", "track_activities", "track_counts"}
	settings := []string{"random_page_cost = 4", "jit = on", "idle_in_transaction_session_timeout = 0", "statement_timeout = 0", "row_security = off",
		"track_activities = off", "track_counts = off", "default_transaction_read_only = on"}
	var version int
	require.NoError(t, db.Owner.QueryRow(t.Context(), `select current_setting('server_version_num')::integer / 10000`).Scan(&version))
	if version >= 17 {
		want, settings = append(want, "transaction_timeout"), append(settings, "transaction_timeout = '1h'")
	}
	configure(t, db, settings...)
	conn := db.Connect(t, pgtest.OwnerRole)
	d, err := preflight.Examine(t.Context(), conn)
	require.NoError(t, err)
	require.ElementsMatch(t, want, found(t, db, d.Report), d)
}

// How many connections are taken, the other tests decide.
func TestPreflightConnections(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy)
	for limit, verdict := range map[string]string{"'4'": verify.Failed, "'100000'": verify.Passed} {
		for _, c := range ask(t, begin(t, db.Connect(t, pgtest.OwnerRole)), queries(t), "current_setting('max_connections')", limit) {
			if c.Name == connections {
				require.Equal(t, verdict, c.Verdict, c)
			}
		}
	}
}

// Other sessions are in the way.
func TestPreflightSessions(t *testing.T) {
	t.Parallel()
	db := orderly(t)
	other := begin(t, db.Connect(t, pgtest.OwnerRole))
	_, err := other.Exec(t.Context(), `lock table public.agents in share update exclusive mode; select pg_advisory_xact_lock(hashtextextended('tenancy.migration', 0))`)
	require.NoError(t, err)

	d := examine(t, db)
	require.Equal(t, []string{"tables_in_use", "next_phase"}, found(t, db, d.Report), d)
	require.Contains(t, d.String(), "phase1 refuses: another migration of this database is running")

	tx := begin(t, db.Connect(t, pgtest.OwnerRole))
	require.Equal(t, []string{"long_transactions", "tables_in_use"}, found(t, db, ask(t, tx, queries(t), "interval '1 minute'", "interval '0'")))
}

func TestPreflightBloat(t *testing.T) {
	t.Parallel()
	db := orderly(t)
	conn := db.Connect(t, pgtest.OwnerRole)
	// What a session counts reaches the others when it says so; and nobody is to clear up before they look.
	_, err := conn.Exec(t.Context(), `alter table public.users set (autovacuum_enabled = false);
		insert into public.users (email) select n || '@bulk.example' from generate_series(1, 1500) as n; 
		delete from public.users where email like '%@bulk.example'; select pg_stat_force_next_flush()`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `select 1`)
	require.NoError(t, err)
	require.Equal(t, []string{"bloat", "vacuum_settings"}, found(t, db, ask(t, begin(t, db.Connect(t, pgtest.OwnerRole)), queries(t))))
}

// What a phase refuses, preflight says before it: while there is time, and the phase before has not run.
func TestPreflightRefusals(t *testing.T) {
	t.Parallel()
	for _, p := range []struct {
		check string
		next  schema.Phase // the phase that refuses
		sql   string
	}{
		{"names_taken", schema.Phase1, `create schema tenancy authorization tenancy_owner`},
		{"names_taken", schema.Phase3, `create function public.get_accessible_agents(text) returns text return $1`},
		{"unique_indexes", schema.Phase4, `create unique index agents_name on public.agents (name)`},
		{"foreign_objects", schema.Phase4, `create view public.theirs as select 1 as n; alter view public.theirs owner to service_role`},
		{"ways_around", schema.Phase4, `create schema reports; grant usage on schema reports to authenticated; create view reports.all_agents as select * from public.agents;
			grant select on reports.all_agents to authenticated; alter view reports.all_agents owner to tenancy_owner`},
		{"foreign_triggers", schema.Phase4, `create schema theirs authorization service_role; grant usage on schema theirs to tenancy_owner; set local role service_role;
			create function theirs.spy() returns trigger language plpgsql as 'begin return new; end';
			create trigger spy before insert on public.messages for each row execute function theirs.spy()`},
		{"unclassified_tables", schema.Phase4, `create table public.invoices (id uuid primary key); alter table public.invoices owner to tenancy_owner`},
	} {
		t.Run(fmt.Sprintf("%s, by %s: %s", p.check, p.next, p.sql), func(t *testing.T) {
			t.Parallel()
			db := world(t, p.next-1)
			_, err := db.Superuser.Exec(t.Context(), p.sql)
			require.NoError(t, err)
			d := examine(t, db)
			require.Contains(t, found(t, db, d.Report), p.check, d)
			require.Contains(t, found(t, db, d.Report), "next_phase", d)
		})
	}
	t.Run("organizations, by phase 2", func(t *testing.T) {
		t.Parallel()
		db := world(t, schema.Phase1)
		phasetest.Exec(t, db, `insert into public.organizations (name, tenant_type) values ('Another', 'system')`)
		require.Contains(t, found(t, db, examine(t, db).Report), "organizations")
		phasetest.RefusesMigration(t, db, schema.Phase2, "two rows or more claim to be the platform")
	})
}
