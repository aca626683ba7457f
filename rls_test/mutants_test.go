package rls_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// victims has for each table of public somebody who reads something that is not for
// him, once nothing holds him back: an administrator does not read his people's
// conversations, a neighbour in the tenant nothing that is private.
var victims = map[string]string{
	"agents":              `bob@pfizer.com reads agents "Novartis RA Agent" of Novartis (organization scope)`,
	"knowledge_documents": `bob@pfizer.com reads knowledge_documents "Novartis submission plan" of Novartis (organization scope)`,
	"prompts":             `alice@novartis.com reads prompts "Pfizer trial prompt" of Pfizer (organization scope)`,
	"workflows":           `carol@mayo.edu reads workflows "Novartis submission" of Novartis (organization scope)`,
	"use_cases":           `alice@novartis.com reads use_cases "Trial start at Pfizer" of Pfizer (organization scope)`,
	"capabilities":        `eve@novartis.com reads capabilities "Labelling at Novartis" of Novartis (organization scope)`,
	"conversations":       `adam@novartis.com reads conversations "Alice asks about labels" of Novartis by alice@novartis.com`,
	"messages":            `root@vital.example reads messages "Which label applies?" of Novartis by alice@novartis.com`,
	"organizations":       `alice@novartis.com reads organizations "Pfizer" of Pfizer`,
	"users":               `alice@novartis.com reads users "bob@pfizer.com"`,
	"user_organizations":  `alice@novartis.com reads user_organizations "bob@pfizer.com" of Pfizer`,
	"audit_logs":          `paula@pfizer.com reads audit_logs "UPDATE agents ` + fixtures.NovartisAgent.ID + `" of Novartis`,
}

// problems is what one of the checks says of a database.
type problems func(testing.TB, *pgtest.DB) []string

func ofWorld(check func(testing.TB, *pgtest.DB, world) verdict) problems {
	return func(t testing.TB, db *pgtest.DB) []string { return check(t, db, migrated()).problems }
}

func along(w world, check func(testing.TB, *pgtest.DB, world, []fixtures.User, []path) verdict, paths ...path) problems {
	return func(t testing.TB, db *pgtest.DB) []string { return check(t, db, w, fixtures.Users, paths).problems }
}

func byEverybody(w world, check comparison) problems {
	return func(t testing.TB, db *pgtest.DB) []string { return check(t, db, w, fixtures.Users).problems }
}

// withAgents is the world with agents for its only rows: a mutant of theirs is found
// there in a tenth of the time.
func withAgents() world {
	w := migrated()
	w.rows = slices.DeleteFunc(w.rows, func(r row) bool { return r.table != "agents" })
	return w
}

var (
	whenReading   = ofWorld(leaks)
	whenInserting = along(withAgents(), insertingFor(world.near), insertions[0])
	whenChanging  = along(migrated(), compare, named("UPDATE without WHERE"), named("UPDATE RETURNING"))
	whenSharing   = byEverybody(withAgents(), sharing)
	whenDeleting  = byEverybody(withAgents(), deleting)
	byChecklist   = byEverybody(migrated(), second)
)

// named is the path of this name.
func named(name string) path {
	return paths[slices.IndexFunc(paths, func(p path) bool { return p.name == name })]
}

// mutant is something that somebody has broken.
type mutant struct {
	breaks func(t testing.TB, db *pgtest.DB)
	says   string // the beginning of the sentence that must say so
}

// batch is mutants of one database and the check that must find each.
type batch struct {
	check   problems
	mutants map[string]mutant
}

// together is mutants of which each alone can make its sentence true, so that one
// database does for all.
func together(check problems, mutants map[string]mutant) []batch {
	return []batch{{check, mutants}}
}

// alone is mutants that need a database each, because one could hide another.
func alone(check problems, mutants map[string]mutant) (batches []batch) {
	for name, m := range mutants {
		batches = append(batches, batch{check, map[string]mutant{name: m}})
	}
	return batches
}

// statement breaks a database with SQL, as the owner of its tables.
func statement(sql string) func(testing.TB, *pgtest.DB) {
	return func(t testing.TB, db *pgtest.DB) {
		t.Helper()
		_, err := db.Owner.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err, sql)
	}
}

// without takes a piece out of the text of a function.
func without(function, piece string) func(testing.TB, *pgtest.DB) {
	return instead(function, piece, "")
}

// instead puts another piece into the text of a function.
func instead(function, piece, other string) func(testing.TB, *pgtest.DB) {
	return func(t testing.TB, db *pgtest.DB) {
		t.Helper()
		var text string
		require.NoError(t, db.Owner.QueryRow(t.Context(), `select pg_get_functiondef($1::text::regprocedure)`, function).Scan(&text))
		require.Contains(t, text, piece, "there is nothing to break")
		statement(strings.ReplaceAll(text, piece, other))(t, db)
	}
}

// policyWithout takes a piece out of the condition of a policy.
func policyWithout(table, name, piece string) func(testing.TB, *pgtest.DB) {
	return func(t testing.TB, db *pgtest.DB) {
		t.Helper()
		for _, p := range policies() {
			if p.table == table && p.name == name {
				require.Contains(t, p.using+p.check, piece, "there is nothing to break")
				p.using, p.check = strings.ReplaceAll(p.using, piece, "true"), strings.ReplaceAll(p.check, piece, "true")
				statement(fmt.Sprintf("drop policy %s on public.%s; %s", name, table, p.sql()))(t, db)
			}
		}
	}
}

func mutants() []batch {
	return slices.Concat(
		together(whenReading, map[string]mutant{
			"former members belong to the audience": {without("authz.audiences_of(uuid)", "and uo.is_active "),
				`eve@novartis.com reads agents "Novartis RA Agent" of Novartis (organization scope)`},
			"former members see the organization": {without("authz.visible_organizations_of(uuid)", "and uo.is_active "),
				`eve@novartis.com reads organizations "Novartis" of Novartis`},
			"former members are colleagues": {without("authz.colleagues()", "uo.is_active and "),
				`alice@novartis.com reads users "eve@novartis.com"`},
			"statistics are everybody's": {statement(`create or replace view public.organization_stats as select s.* from tenancy.organization_stats s`),
				`bob@pfizer.com reads organization_stats "Novartis" of Novartis`},
			"who has not signed in reads what everybody reads": {statement(`
			grant select on public.agents to anon;
			create policy mutant on public.agents for select to anon using (sharing_scope = 'platform')`),
				`somebody who has not signed in reads agents "Novartis agent for everybody" of Novartis (platform scope): policies mutant, users_view_accessible_agents`},
			"deleted rows are read": {policyWithout("agents", "users_view_accessible_agents", "deleted_at is null"),
				`alice@novartis.com reads agents "Deleted Novartis agent" of Novartis (organization scope), which is deleted`},
			"deleted conversations are read": {policyWithout("conversations", "users_view_own_conversations", "deleted_at is null"),
				`alice@novartis.com reads conversations "Alice thought better of it" of Novartis by alice@novartis.com, which is deleted`},
			"messages of deleted conversations are read": {without("authz.own_conversations()", "deleted_at is null\n         and "),
				`alice@novartis.com reads messages "Forget that I asked." of Novartis by alice@novartis.com, which is deleted`},
		}),
		together(whenReading, map[string]mutant{
			"everybody is the backend": {instead("authz.is_privileged()", "pg_has_role(r.oid, c.relowner, 'USAGE'::text)", "true"),
				`bob@pfizer.com reads organization_stats "Novartis" of Novartis`},
			"rows of owners that are switched off are read": {policyWithout("agents", "users_view_accessible_agents",
				"owner_organization_id <> all ((select authz.suspended_organizations())::uuid[])"),
				`bob@pfizer.com reads agents "Sandoz agent for everybody" of Sandoz Legacy (platform scope)`},
			"a tenant's organizations see each other": {instead("authz.visible_organizations_of(uuid)", "(o.tenant_organization_id)",
				"(o.tenant_organization_id), ((select min(x.id::text)::uuid from public.organizations x where x.parent_organization_id = o.tenant_organization_id and x.id <> o.id))"),
				`bob@pfizer.com reads organizations "Novartis" of Novartis`},
			"conversations are their organization's": {policyWithout("conversations", "users_view_own_conversations", "user_id = (select auth.uid())"),
				victims["conversations"]},
		}),
		alone(whenReading, map[string]mutant{
			"former members are members": {without("authz.organizations_of(uuid,text[])", "and uo.is_active "),
				`eve@novartis.com reads conversations "Eve asked before she left" of Novartis by eve@novartis.com`},
			"every role is an admin's": {without("authz.organizations_of(uuid,text[])", "and uo.role = any (p_roles)"),
				`alice@novartis.com reads audit_logs "UPDATE agents ` + fixtures.NovartisAgent.ID + `" of Novartis`},
			"organizations that are switched off are live": {statement(`
			create or replace view authz.live_organization as
			select id, name, slug, organization_type, parent_organization_id, tenant_organization_id from public.organizations`),
				`sam@sandoz.example reads organizations "Sandoz Legacy" of Sandoz Legacy`},
			"what is private to a tenant has the key of what it shares": {statement(`
			create or replace function authz.shared_key(p_organization_id uuid) returns uuid
			language sql immutable parallel safe return p_organization_id;
			update public.agents set audience_key = owner_tenant_id where sharing_scope = 'tenant'`),
				`alice@novartis.com reads agents "Agent of the tenant itself" of Pharmaceuticals (organization scope)`},
			"whoever reads what the tenant shares reads what is private in it": {instead("authz.audiences_of(uuid)",
				"(values (o.id),", "(select x.id from public.organizations x where x.tenant_organization_id = o.tenant_organization_id union values"),
				`bob@pfizer.com reads agents "Novartis RA Agent" of Novartis (organization scope)`},
			"nobody is a tenant's": {instead("authz.audiences_of(uuid)", "authz.shared_key(o.tenant_organization_id)", "o.id"),
				`alice@novartis.com does not see agents "Pharma-wide Agent" of Pfizer (tenant scope)`},
			"nobody reads anything": {statement(`drop policy users_view_accessible_agents on public.agents`),
				`alice@novartis.com does not see agents "Novartis RA Agent" of Novartis (organization scope): no policy`},
		}),
		alone(byChecklist, map[string]mutant{
			"nobody is a tenant's, as the checklist has it": {instead("authz.audiences_of(uuid)", "authz.shared_key(o.tenant_organization_id)", "o.id"),
				`alice@novartis.com reads agents "Pharma-wide Agent" of Pfizer (tenant scope) by the checklist's policies, and not by ours`},
			"former members are members, as the checklist has them not": {without("authz.organizations_of(uuid,text[])", "and uo.is_active "),
				`eve@novartis.com inserts agents "New" of Novartis (organization scope) as made by eve@novartis.com by our policies, and not by the checklist's`},
			"members change what others made, as the checklist has it not": {instead("authz.admin_organizations()", "{admin}", "{admin,member}"),
				`alice@novartis.com changes agents "Agent of a former member" of Novartis (organization scope) by our policies, and not by the checklist's`},
		}),
		together(whenInserting, map[string]mutant{
			"former members write": {without("authz.organizations_of(uuid,text[])", "and uo.is_active "),
				`eve@novartis.com inserts agents "New" of Novartis (organization scope)`},
			"viewers write": {instead("authz.writer_organizations()", "{admin,member}", "{admin,member,viewer}"),
				`vera@novartis.com inserts agents "New" of Novartis (organization scope)`},
			"a member inserts as somebody else": {policyWithout("agents", "users_create_agents", "created_by = (select auth.uid())"),
				`alice@novartis.com inserts agents "New" of Novartis (organization scope) as made by adam@novartis.com`},
			"an admin lets in whom he does not know": {policyWithout("user_organizations", "admins_add_memberships", "user_id = any ((select authz.colleagues())::uuid[])"),
				`adam@novartis.com inserts user_organizations "bob@pfizer.com" of Novartis`},
		}),
		alone(whenInserting, map[string]mutant{
			"members share with everybody": {policyWithout("agents", "users_create_agents", "'00000000-0000-0000-0000-000000000001' = any ((select authz.admin_organizations())::uuid[])"),
				`alice@novartis.com inserts agents "New" of Novartis (platform scope) as made by alice@novartis.com`},
			"an insert is not checked": {statement(`alter policy users_create_agents on public.agents with check (true)`),
				`alice@novartis.com inserts agents "New" of Pfizer (organization scope) as made by alice@novartis.com`},
		}),
		together(whenChanging, map[string]mutant{
			"former members change what they made": {without("authz.organizations_of(uuid,text[])", "and uo.is_active "),
				`eve@novartis.com changes 1 rows of agents by UPDATE without WHERE, and may do so with 0`},
			"an update is not narrowed": {statement(`alter policy users_update_use_cases on public.use_cases using (true) with check (true)`),
				`nobody@example.com changes 8 rows of use_cases by UPDATE without WHERE, and may do so with 0`},
			"whoever made a row changes it": {statement(`alter policy users_update_knowledge_documents on public.knowledge_documents using (created_by = (select auth.uid())) with check (true)`),
				`vera@novartis.com changes knowledge_documents "Novartis guide for the tenant" of Novartis (tenant scope)`},
		}),
		alone(whenSharing, map[string]mutant{
			"members make it everybody's": {instead("authz.may_share(public.sharing_scope_type,uuid)", "= any (authz.admin_organizations())\n        end", "is not null\n        end"),
				`alice@novartis.com changes agents "Novartis RA Agent" of Novartis (organization scope)`},
			"sharing is not guarded": {statement(`drop trigger guard_sharing on public.agents`),
				`alice@novartis.com changes agents "Novartis RA Agent" of Novartis (organization scope): policies users_update_agents`},
			"a tenant's row is anybody's to share": {without("authz.may_share(public.sharing_scope_type,uuid)", "p_owner = any (authz.admin_organizations())\n                and "),
				`alice@novartis.com changes agents "Novartis RA Agent" of Novartis`},
		}),
		alone(whenDeleting, map[string]mutant{
			"whoever reads a row deletes it": {instead("public.soft_delete(text,uuid)", "r.created_by = auth.uid() and", "true and"),
				`alice@novartis.com changes agents "Agent of a former member" of Novartis (organization scope)`},
		}),
		together(privilegeProblems, map[string]mutant{
			"who has not signed in may call a helper": {statement(`grant execute on function authz.audiences_of(uuid) to anon`),
				`the privilege on function authz.audiences_of(uuid) to anon is on nobody's list: EXECUTE`},
			"everybody may call a helper": {statement(`grant execute on function authz.organizations_of(uuid, text[]) to public`),
				`the privilege on function authz.organizations_of(uuid, text[]) to PUBLIC is on nobody's list: EXECUTE`},
			"users read everybody's statistics": {statement(`
			grant usage on schema tenancy to authenticated; grant select on tenancy.organization_stats to authenticated`),
				`the privilege on matview tenancy.organization_stats to authenticated is on nobody's list: SELECT`},
			"users truncate": {statement(`grant truncate on public.agents to authenticated`),
				`the privilege on table public.agents to authenticated is SELECT, TRUNCATE, and must be SELECT`},
			"users write who reads a row": {statement(`grant update (audience_key) on public.prompts to authenticated`),
				`the privilege on column public.prompts.audience_key to authenticated is on nobody's list: UPDATE`},
			"users read settings": {statement(`grant select (settings) on public.organizations to authenticated`),
				`the privilege on column public.organizations.settings to authenticated is on nobody's list: SELECT`},
			"the backend rewrites history": {statement(`grant delete on public.audit_logs to service_role`),
				`the privilege on table public.audit_logs to service_role is DELETE, SELECT, and must be SELECT`},
			"users make functions": {func(t testing.TB, db *pgtest.DB) {
				_, err := db.Superuser.Exec(t.Context(), `grant create on schema public to authenticated`)
				require.NoError(t, err)
			},
				`the privilege on schema public to authenticated is CREATE, USAGE, and must be USAGE`},
			"tables of tomorrow are open": {statement(`alter default privileges in schema public grant select on tables to anon`),
				`the privilege on default in schema public on tables to anon is on nobody's list: SELECT`},
			"functions of tomorrow are open": {statement(`alter default privileges grant execute on functions to public; create function public.tomorrow() returns int language sql return 1`),
				`the privilege on function public.tomorrow() to PUBLIC is on nobody's list: EXECUTE`},
			"temporary tables hide real ones": {func(t testing.TB, db *pgtest.DB) {
				statement(fmt.Sprintf("grant temporary on database %s to public", db.Name))(t, db)
			},
				`the privilege on database to PUBLIC is CONNECT, TEMPORARY, and must be CONNECT`},
		}),
		together(definitionProblems, map[string]mutant{
			"a helper looks where its caller says": {statement(`alter function authz.audiences_of(uuid) reset search_path`),
				`security definer authz.audiences_of(uuid) is without a search_path, and must be search_path=pg_catalog, pg_temp`},
			"a helper runs as its caller": {statement(`alter function authz.suspended_organizations() security invoker`),
				`security definer authz.suspended_organizations() is missing`},
			"another function runs as its owner": {statement(`
			create function public.everything() returns setof public.agents language sql security definer set search_path = '' as 'select * from public.agents'`),
				`security definer public.everything() is on nobody's list`},
			"deleting an organization deletes its agents": {statement(`
			alter table public.agents drop constraint fk_agents_owner,
				add constraint fk_agents_owner foreign key (owner_organization_id) references public.organizations (id) on delete cascade`),
				`constraint public.agents.fk_agents_owner is FOREIGN KEY (owner_organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE, and must be`},
			"the list of an organization's agents has another index": {statement(`
			drop index public.idx_agents_org_list; create index idx_agents_org_list on public.agents (owner_organization_id)`),
				`index public.idx_agents_org_list is CREATE INDEX idx_agents_org_list ON public.agents USING btree (owner_organization_id), and must be`},
			"two organizations have one slug": {statement(`
			drop index public.idx_organizations_slug; create index idx_organizations_slug on public.organizations (slug) where deleted_at is null`),
				`index public.idx_organizations_slug is CREATE INDEX idx_organizations_slug ON public.organizations USING btree (slug) WHERE (deleted_at IS NULL), and must be CREATE UNIQUE INDEX`},
			"what a row was made as is not guarded": {statement(`drop trigger guard on public.workflows`),
				`trigger public.workflows.guard is missing`},
			"the guard is asleep": {statement(`alter table public.prompts disable trigger guard`),
				`trigger public.prompts.guard is CREATE TRIGGER guard BEFORE UPDATE ON public.prompts FOR EACH ROW EXECUTE FUNCTION authz.guard()`},
			"a table is changed without a record": {statement(`drop trigger audit_delete on public.user_organizations`),
				`trigger public.user_organizations.audit_delete is missing`},
		}),
		together(definitionProblems, map[string]mutant{
			"the list of an organization's agents has no index": {statement(`drop index public.idx_agents_org_list`),
				`index public.idx_agents_org_list is missing`},
		}),
		together(policyProblems, map[string]mutant{
			"a policy is for everybody": {statement(`alter policy users_view_accessible_agents on public.agents to public`),
				`policy agents.users_view_accessible_agents is PERMISSIVE for SELECT to {public}`},
			"a new table is open": {statement(`create table public.later (id int)`),
				`row level security is off on later`},
		}),
		together(whenReading, everyTable("alter table public.%s disable row level security", "row level security is off on ", "row level security is off")),
		together(whenReading, everyTable("create policy mutant on public.%s using (true)", "a policy shows everybody everything of ", "policies ")),
	)
}

// everyTable breaks every table in the same way, with a victim of each.
func everyTable(sql, name, says string) map[string]mutant {
	all := map[string]mutant{}
	for table, victim := range victims {
		all[name+table] = mutant{statement(fmt.Sprintf(sql, table)), victim + ": " + says}
	}
	return all
}

func TestPhase4Mutants(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/rls-policies-enforce-data-isolation", "pre-implementation/test-scenarios-defined/data-isolation-tests-written")
	t.Run("every table has its mutants", func(t *testing.T) {
		var base []string
		for table := range tables {
			if table != "organization_stats" {
				base = append(base, table)
			}
		}
		require.ElementsMatch(t, base, slices.Collect(maps.Keys(victims)))
	})
	for _, b := range mutants() {
		names := slices.Sorted(maps.Keys(b.mutants))
		title := names[0]
		if len(names) > 1 {
			title += fmt.Sprintf(", and %d more", len(names)-1)
		}
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			db := secured(t)
			for _, name := range names {
				b.mutants[name].breaks(t, db)
			}
			found := b.check(t, db)
			for _, name := range names {
				says := b.mutants[name].says
				require.True(t, slices.ContainsFunc(found, func(sentence string) bool { return strings.HasPrefix(sentence, says) }),
					"%s, and nobody says: %s\nbut:\n%s", name, says, strings.Join(found, "\n"))
			}
		})
	}
}
