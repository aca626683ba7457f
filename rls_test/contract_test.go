package rls_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// rule is something that holds for every object of a kind, also for those that nobody
// has told the tests of.
type rule struct {
	// objects returns what is checked, and what is wrong with it: NULL if nothing is.
	objects string
	// breaks makes something wrong, as the owner, and says is what must then be said.
	breaks, says string
}

// ours are the schemas whose functions are this project's.
const ours = `('public', 'authz', 'tenancy', 'audit')`

// rules are what must hold in the catalog. The names in brackets are those of the
// same rules in Supabase's splinter, where there are such.
var contract = map[string]rule{
	"every table of public has a class": {`
		select c.relname::text, case when t.table_name is null then format(
			'nobody has said who may read public.%s: insert it into tenancy.classified_table as resource, private, directory or evidence (in phase 1, or in the migration that makes it), write its policies (a resource gets them from phases 1 to 4, which run again), put its rows into fixtures and its rules into rls_test/model_test.go; see "Add a table" in CONTRIBUTING.md', c.relname) end
		from pg_class c left join tenancy.classified_table t on t.table_name = c.relname
		where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'f')`,
		`create table public.secrets (id uuid primary key, owner_organization_id uuid, sharing_scope public.sharing_scope_type)`,
		`nobody has said who may read public.secrets: insert it into tenancy.classified_table`},
	"every table of public has row level security [rls_disabled_in_public, policy_exists_rls_disabled]": {`
		select c.relname::text, case when not c.relrowsecurity then format('row level security is off on public.%s: alter table public.%1$s enable row level security', c.relname) end
		from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')`,
		`alter table public.prompts disable row level security`,
		`row level security is off on public.prompts`},
	"every table of public has a policy for reading [rls_enabled_no_policy]": {`
		select c.relname::text, case when not exists (select from pg_policy p where p.polrelid = c.oid and p.polcmd in ('r', '*'))
			then format('public.%s has no policy for SELECT: nobody reads it, and nobody has decided that', c.relname) end
		from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')`,
		`drop policy users_view_own_messages on public.messages`,
		`public.messages has no policy for SELECT`},
	"what the bookkeeping may leave open is what it says something by": {`
		select format('%s.%s', c.oid::regclass, a.attname), case when not a.attnotnull and format('%s.%s', c.relname, a.attname) not in (
				'journal.owner_before', 'journal.owner_after', 'journal.scope_before', 'journal.scope_after', -- there was none
				'organization_journal.before', -- the phase made the row
				'backfill_progress.finished_at') -- it goes on
			then format('%s of %s may be NULL, and nobody has said what that means', a.attname, c.oid::regclass) end
		from pg_class c join pg_attribute a on a.attrelid = c.oid
		where c.relnamespace = 'tenancy'::regnamespace and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped`,
		`alter table tenancy.undo alter column statement drop not null`,
		`statement of tenancy.undo may be NULL`},
	"policies are for signed-in users alone": {`
		select p.polname::text, case when p.polroles <> array['authenticated'::regrole::oid]
			then format('policy %s on %s is for %s', p.polname, p.polrelid::regclass, (select string_agg(case r when 0 then 'public' else r::regrole::text end, ', ') from unnest(p.polroles) r)) end
		from pg_policy p join pg_class c on c.oid = p.polrelid where c.relnamespace = 'public'::regnamespace`,
		`alter policy users_view_colleagues on public.users to public`,
		`policy users_view_colleagues on public.users is for public`},
	"no policy lets everything through [rls_policy_always_true]": {`
		select p.policyname::text, case when btrim(p.qual, '() ') in ('true', '1 = 1') or btrim(p.with_check, '() ') in ('true', '1 = 1')
			then format('policy %s on %s.%s lets everything through', p.policyname, p.schemaname, p.tablename) end
		from pg_policies p where p.schemaname = 'public'`,
		`create policy mutant on public.users for insert to authenticated with check (true)`,
		`policy mutant on public.users lets everything through`},
	"what a policy lets somebody write, it checks": {`
		select p.policyname::text, case when p.with_check is null
			then format('policy %s on %s.%s checks nothing of what is written', p.policyname, p.schemaname, p.tablename) end
		from pg_policies p where p.schemaname = 'public' and p.cmd in ('INSERT', 'UPDATE', 'ALL')`,
		`create policy mutant on public.users for update to authenticated using (id = (select auth.uid()))`,
		`policy mutant on public.users checks nothing`},
	"a policy asks who the caller is once for a statement [auth_rls_initplan]": {`
		select p.policyname::text, case when regexp_replace(concat(p.qual, p.with_check), 'SELECT (auth|authz)\.\w+\(\)', '', 'gi') ~ '(auth|authz)\.\w+\(\)'
			then format('policy %s on %s.%s asks for each row: write (select …) around the function', p.policyname, p.schemaname, p.tablename) end
		from pg_policies p where p.schemaname = 'public'`,
		`create policy mutant on public.users for select to authenticated using (id = auth.uid())`,
		`policy mutant on public.users asks for each row`},
	"a command has one policy [multiple_permissive_policies]": {`
		select format('%s %s', p.polrelid::regclass, v.cmd), case when count(*) > 1 then format('%s policies for %s stand beside each other on %s: either lets a row through that the other hides',
			count(*), v.name, p.polrelid::regclass) end
		from pg_policy p join pg_class c on c.oid = p.polrelid
		join (values ('r', 'SELECT'), ('a', 'INSERT'), ('w', 'UPDATE'), ('d', 'DELETE')) as v (cmd, name) on p.polcmd::text in (v.cmd, '*')
		where c.relnamespace = 'public'::regnamespace and p.polpermissive group by p.polrelid, v.cmd, v.name`,
		`create policy mutant on public.agents to authenticated using (deleted_at is null) with check (deleted_at is null)`,
		`2 policies for SELECT stand beside each other on public.agents`},
	"no policy believes what users write about themselves [rls_references_user_metadata]": {`
		select p.policyname::text, case when concat(p.qual, p.with_check) ~* '(user|app)_meta_?data|auth\.jwt\(|current_setting'
			then format('policy %s on %s.%s believes a claim that is not the user', p.policyname, p.schemaname, p.tablename) end
		from pg_policies p where p.schemaname = 'public'`,
		`create policy mutant on public.users for delete to authenticated using ((select auth.jwt() -> 'user_metadata' ->> 'role') = 'admin')`,
		`policy mutant on public.users believes a claim`},
	"what runs as its owner, nobody calls who has not signed in [anon_security_definer_function_executable]": {`
		select p.oid::regprocedure::text, case when has_function_privilege('anon', p.oid, 'EXECUTE')
			then format('%s runs as its owner, and anon may call it', p.oid::regprocedure) end
		from pg_proc p where p.prosecdef and p.pronamespace::regnamespace::text in ` + ours,
		`grant execute on function public.soft_delete(text, uuid) to public`,
		`public.soft_delete(text,uuid) runs as its owner, and anon may call it`},
	"a function does not look for names where its caller says [function_search_path_mutable]": {`
		select p.oid::regprocedure::text, case when p.prosqlbody is null and not exists (select from unnest(p.proconfig) as s where s = 'search_path=pg_catalog, pg_temp')
			then format('%s has no search_path of its own: set search_path = pg_catalog, pg_temp', p.oid::regprocedure) end
		from pg_proc p
		where p.pronamespace::regnamespace::text in ` + ours + `
		  and p.prokind <> 'p' -- one that commits may not have a search_path; a migration calls it, and has pinned its own
		  -- Called by procedures and triggers alone, once for a row; and the old application's, which nobody may call any more.
		  and (p.prosecdef or p.proname not in ('legacy_scope', 'find_owner', 'free_slug', 'take_slug', 'count_tenant_agents'))`,
		`create function tenancy.mutant() returns integer language plpgsql as 'begin return 1; end'`,
		`tenancy.mutant() has no search_path of its own`},
	"nothing that a caller may put first hides what the system has": {`
		select f.name, case when f.hides then format('%s hides what pg_catalog has from whoever puts its schema first, and auth.uid() with him: move it to a schema that the API roles may not use', f.name) end
		from (
			select p.oid::regprocedure::text, p.pronamespace, exists (select from pg_proc s where s.pronamespace = 'pg_catalog'::regnamespace and s.proname = p.proname and s.proargtypes = p.proargtypes)
			from pg_proc p where not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e') -- pgcrypto has a gen_random_uuid of its own
			union all
			select o.oid::regoperator::text, o.oprnamespace, exists (select from pg_operator s where s.oprnamespace = 'pg_catalog'::regnamespace and s.oprname = o.oprname)
			from pg_operator o where not exists (select from pg_depend d where d.classid = 'pg_operator'::regclass and d.objid = o.oid and d.deptype = 'e')
			union all
			select t.oid::regtype::text, t.typnamespace, exists (select from pg_type s where s.typnamespace = 'pg_catalog'::regnamespace and s.typname = t.typname)
			from pg_type t) as f (name, namespace, hides)
		where f.namespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
		  and (has_schema_privilege('authenticated', f.namespace, 'USAGE') or has_schema_privilege('anon', f.namespace, 'USAGE'))`,
		`create function extensions.current_setting(text, boolean) returns text language sql return '{}'`,
		`extensions.current_setting(text,boolean) hides what pg_catalog has`},
	"a view reads as its reader, or sees to it by itself [security_definer_view]": {`
		select c.oid::regclass::text, case when not coalesce(c.reloptions @> '{security_invoker=true}', false)
				-- It reads a materialised view, which has no policies, and filters by who reads it.
				and not (c.relname = 'organization_stats' and coalesce(c.reloptions @> '{security_barrier=true}', false) and pg_get_viewdef(c.oid) ~ 'authz.member_organizations\(\)')
			then format('view %s reads as its owner, whom no policy holds: alter view %1$s set (security_invoker = true)', c.oid::regclass) end
		from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind = 'v'`,
		`create view public.mutant as select * from public.agents`,
		`view public.mutant reads as its owner`},
	"no API role reads a materialised view or a foreign table [materialized_view_in_api, foreign_table_in_api]": {`
		select c.oid::regclass::text, case when has_any_column_privilege(r.name, c.oid, 'SELECT') and has_schema_privilege(r.name, c.relnamespace, 'USAGE')
			then format('%s reads %s, which has no policies', r.name, c.oid::regclass) end
		from pg_class c cross join (values ('anon'), ('authenticated')) as r (name) where c.relkind in ('m', 'f')`,
		`create materialized view public.mutant as select 1 as one; grant select on public.mutant to authenticated`,
		`authenticated reads public.mutant, which has no policies`},
	"every foreign key of public has an index [unindexed_foreign_keys]": {`
		select k.conname::text, case when not exists (select from pg_index i where i.indrelid = k.conrelid and i.indisvalid
				and (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey)
			then format('foreign key %s of %s has no index: deleting what it refers to reads the whole table', k.conname, k.conrelid::regclass) end
		from pg_constraint k where k.contype = 'f' and k.conparentid = 0 and k.connamespace = 'public'::regnamespace`,
		`alter table public.prompts add column mutant uuid constraint mutant references public.users`,
		`foreign key mutant of public.prompts has no index`},
	"every foreign key is validated, and deleting an organization takes nothing along": {`
		select k.conname::text, case
			when not k.convalidated then format('foreign key %s of %s is not validated', k.conname, k.conrelid::regclass)
			when k.confrelid = 'public.organizations'::regclass and k.confdeltype not in ('a', 'r') and k.conrelid <> 'public.user_organizations'::regclass
			then format('foreign key %s of %s deletes or empties rows when an organization is deleted', k.conname, k.conrelid::regclass) end
		from pg_constraint k where k.contype = 'f' and k.connamespace = 'public'::regnamespace`,
		`alter table public.prompts drop constraint fk_prompts_owner, add constraint mutant foreign key (owner_organization_id) references public.organizations on delete cascade`,
		`foreign key mutant of public.prompts deletes or empties rows`},
	"every constraint and index is valid": {`
		select n.name, n.problem from (
			select i.indexrelid::regclass::text as name, case when not i.indisvalid or not i.indisready then format('index %s is not valid: drop it, and run phase 3 again', i.indexrelid::regclass) end as problem
			from pg_index i join pg_class c on c.oid = i.indexrelid where c.relnamespace::regnamespace::text in ` + ours + `
			union all
			select k.conname, case when not k.convalidated then format('constraint %s of %s is not validated: run phase 3 again', k.conname, k.conrelid::regclass) end
			from pg_constraint k where k.connamespace::regnamespace::text in ` + ours + `) as n`,
		`alter table public.prompts add constraint mutant check (name <> '') not valid`,
		`constraint mutant of public.prompts is not validated`},
	"no index is there twice [duplicate_index]": {`
		select min(i.indexrelid::regclass::text), case when count(*) > 1 then format('%s are the same index', string_agg(i.indexrelid::regclass::text, ' and ' order by i.indexrelid::regclass::text)) end
		from pg_index i join pg_class c on c.oid = i.indexrelid where c.relnamespace::regnamespace::text in ` + ours + `
		group by i.indrelid, regexp_replace(pg_get_indexdef(i.indexrelid), 'INDEX \S+ ON', 'INDEX ON')`,
		`create index mutant on public.conversations (user_id)`,
		`public.conversations_user_id_idx and public.mutant are the same index`},
	"every table has a primary key [no_primary_key]": {`
		select c.oid::regclass::text, case when not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary) then format('%s has no primary key', c.oid::regclass) end
		from pg_class c where c.relnamespace::regnamespace::text in ` + ours + ` and c.relkind in ('r', 'p')`,
		`create table tenancy.mutant (id integer)`,
		`tenancy.mutant has no primary key`},
	"every change of a classified table is recorded": {`
		select t.table_name || ' ' || e.event, case when not exists (select from pg_trigger g where g.tgrelid = to_regclass('public.' || t.table_name)
				and g.tgfoid = 'audit.record()'::regprocedure and g.tgenabled = 'O' and g.tgtype & e.bit > 0 and g.tgtype & 1 = 0)
			then format('nobody writes down an %s of public.%s', e.event, t.table_name) end
		from tenancy.classified_table t cross join (values ('insert', 4), ('delete', 8), ('update', 16)) as e (event, bit)
		where t.class <> 'evidence' and to_regclass('public.' || t.table_name) is not null`,
		`alter table public.users disable trigger audit_update`,
		`nobody writes down an update of public.users`},
	"an API role owns nothing": {`
		select o.name, case when r.rolname is not null then format('%s belongs to %s, or to a role that it may become', o.name, r.rolname) end
		from (
			select c.oid::regclass::text, c.relowner from pg_class c where c.relnamespace::regnamespace::text in ` + ours + `
			union all select p.oid::regprocedure::text, p.proowner from pg_proc p where p.pronamespace::regnamespace::text in ` + ours + `
			union all select n.nspname, n.nspowner from pg_namespace n
			union all select d.datname, d.datdba from pg_database d where d.datname = current_database()) as o (name, owner)
		left join pg_roles r on r.rolname in ('anon', 'authenticated', 'service_role', 'authenticator', '` + pgtest.APIRole + `', '` + pgtest.ServiceRole + `')
			and pg_has_role(r.oid, o.owner, 'MEMBER')`,
		`alter function public.count_tenant_agents(uuid) owner to service_role`,
		`public.count_tenant_agents(uuid) belongs to service_role`},
	"an API role becomes no owner": {`
		select r.rolname || ' ' || o.rolname, case when pg_has_role(r.oid, o.oid, 'MEMBER') then format('%s may become %s, whom no policy holds: revoke %2$s from %1$s', r.rolname, o.rolname) end
		from pg_roles r cross join (
			select distinct w.oid, w.rolname from pg_class c join pg_roles w on w.oid = c.relowner where c.relnamespace::regnamespace::text in ` + ours + `) as o
		where r.rolname in ('anon', 'authenticated', 'service_role', 'authenticator', '` + pgtest.APIRole + `', '` + pgtest.ServiceRole + `')`,
		`grant ` + pgtest.OwnerRole + ` to authenticated`,
		`authenticated may become ` + pgtest.OwnerRole},
	"no API role makes temporary objects": {`
		select r.name, case when has_database_privilege(r.name, current_database(), 'TEMPORARY, CREATE') then format('%s may make temporary tables or schemas, which hide real ones: revoke temporary, create on database … from it and from public', r.name) end
		from (values ('anon'), ('authenticated'), ('service_role')) as r (name)`,
		`do $$ begin execute format('grant temporary on database %I to public', current_database()); end $$`,
		`anon may make temporary tables`},
	"no column holds what an upgrade cannot take along [unsupported_reg_types]": {`
		select c.oid::regclass || '.' || a.attname, case when a.atttypid::regtype::text in ('regcollation', 'regconfig', 'regdictionary', 'regnamespace', 'regoper', 'regoperator', 'regproc', 'regprocedure')
			then format('%s.%s is a %s, which pg_upgrade refuses: keep the name as text', c.oid::regclass, a.attname, a.atttypid::regtype) end
		from pg_attribute a join pg_class c on c.oid = a.attrelid
		where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p', 'm') and c.relnamespace::regnamespace::text in ` + ours,
		`alter table tenancy.classified_table add column mutant regprocedure`,
		`tenancy.classified_table.mutant is a regprocedure`},
	"no view shows who can sign in [auth_users_exposed]": {`
		select c.oid::regclass::text, case when exists (
				select from pg_rewrite w join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid join pg_class u on u.oid = d.refobjid
				where w.ev_class = c.oid and d.refclassid = 'pg_class'::regclass and u.relnamespace = 'auth'::regnamespace)
			then format('view %s reads a table of auth: read public.users', c.oid::regclass) end
		from pg_class c where c.relnamespace::regnamespace::text in ` + ours + ` and c.relkind in ('v', 'm')`,
		`create table auth.users (id uuid); create view public.mutant as select * from auth.users`,
		`view public.mutant reads a table of auth`},
	"every extension is of the version that the server has [extension_versions_outdated]": {`
		select e.extname::text, case when e.extversion <> a.default_version then format('extension %s is %s, and there is %s: alter extension %1$s update', e.extname, e.extversion, a.default_version) end
		from pg_extension e join pg_available_extensions a on a.name = e.extname`,
		`update pg_extension set extversion = '0.1' where extname = 'pgcrypto'`,
		`extension pgcrypto is 0.1`},
	"no API role makes anything [and no extension is in public: extension_in_public]": {`
		select r.name || ' ' || n.nspname, case when has_schema_privilege(r.name, n.oid, 'CREATE') then format('%s may make objects in schema %s', r.name, n.nspname)
			when exists (select from pg_extension e where e.extnamespace = n.oid and n.nspname = 'public') then 'an extension is in schema public' end
		from pg_namespace n cross join (values ('anon'), ('authenticated'), ('service_role')) as r (name)
		where n.nspname !~ '^pg_(toast|temp)'`,
		`grant create on schema extensions to authenticated`,
		`authenticated may make objects in schema extensions`},
	"a sequence is not a user's to read": {`
		select c.oid::regclass::text || ' ' || r.name, case when has_sequence_privilege(r.name, c.oid, 'USAGE, SELECT, UPDATE') then format('%s may use %s, which tells how much everybody writes', r.name, c.oid::regclass) end
		from pg_class c cross join (values ('anon'), ('authenticated')) as r (name) where c.relkind = 'S' and c.relnamespace::regnamespace::text in ` + ours,
		`grant usage on sequence public.audit_logs_id_seq to authenticated`,
		`authenticated may use public.audit_logs_id_seq`},
}

// TestPhase4Contract checks the rules on whatever there is in the catalog, and that
// each finds what it is there to find.
func TestPhase4Contract(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/rls-policies-enforce-data-isolation", "phase-4/review-current-rls-policies")
	db := secured(t)
	for name, r := range contract {
		t.Run(name, func(t *testing.T) {
			tx, err := db.Superuser.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			_, err = tx.Exec(t.Context(), `set local search_path = pg_catalog`)
			require.NoError(t, err)

			problems := r.problems(t, tx)
			if len(problems) > 0 {
				t.Fatal(strings.Join(problems, "\n"))
			}

			_, err = tx.Exec(t.Context(), r.breaks, pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err, r.breaks)
			problems = r.problems(t, tx)
			require.NotEmpty(t, problems, "it does not find what it is there to find: %s", r.breaks)
			require.Contains(t, strings.Join(problems, "\n"), r.says)
		})
	}
}

// Nobody compares a table with the model that the tests do not know.
func TestPhase4KnownTables(t *testing.T) {
	t.Parallel()
	rows, err := secured(t).Owner.Query(t.Context(), `select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')`)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	for _, known := range [][]string{slices.Collect(maps.Keys(tables)), slices.Collect(maps.Keys(allowed))} {
		require.ElementsMatch(t, known, found, "tables and allowed, in rls_test, say what there is in public: see \"Add a table\" in CONTRIBUTING.md")
	}
}

// TestPhase4NewTable is a table that a later migration makes, and forgets to protect.
func TestPhase4NewTable(t *testing.T) {
	t.Parallel()
	db := secured(t)
	tx, err := db.Owner.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `create table public.secrets (id uuid primary key, owner_organization_id uuid, sharing_scope public.sharing_scope_type)`)
	require.NoError(t, err)
	var said []string
	for _, r := range contract {
		said = append(said, r.problems(t, tx)...)
	}
	text := strings.Join(said, "\n")
	for _, want := range []string{
		"nobody has said who may read public.secrets: insert it into tenancy.classified_table as resource, private, directory or evidence",
		"alter table public.secrets enable row level security",
		"public.secrets has no policy for SELECT",
	} {
		require.Contains(t, text, want)
	}
	require.Len(t, said, 3)
}

func (r rule) problems(t testing.TB, tx pgx.Tx) (problems []string) {
	t.Helper()
	rows, err := tx.Query(t.Context(), r.objects)
	require.NoError(t, err, r.objects)
	checked := 0
	var object string
	var problem *string
	_, err = pgx.ForEachRow(rows, []any{&object, &problem}, func() error {
		checked++
		if problem != nil {
			problems = append(problems, *problem)
		}
		return nil
	})
	require.NoError(t, err, r.objects)
	require.Positive(t, checked, "there is nothing to check, which proves nothing")
	t.Logf("checked %d objects", checked)
	return problems
}
