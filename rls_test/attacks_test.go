package rls_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// TestPhase4Attacks tries what holes in other texts of these policies let through. Beside
// each attempt stands the same one by somebody who may, or it would prove nothing.
func TestPhase4Attacks(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/users-cannot-see-unauthorized-data", "success-criteria/security/no-sql-injection-vulnerabilities")
	t.Run("By writing", testAttacksByWriting)
	t.Run("Under an old policy", testOldPolicies)
	t.Run("By asking about others", testAskingAboutOthers)
	t.Run("Around the policies", testAroundPolicies)
	t.Run("By hiding names", testHidingNames)
	t.Run("By NULL", testNull)
	t.Run("By asking what exists", testOracles)
	t.Run("By making the database talk", testTalking)
	t.Run("In somebody else's session", testSessions)
	t.Run("With forged claims", testForgedClaims)
}

func testAttacksByWriting(t *testing.T) {
	t.Parallel()
	db := secured(t)
	alice, adam, paula, root := as(fixtures.Alice), as(fixtures.Adam), as(fixtures.Paula), as(fixtures.Root)
	const (
		organization = fixtures.OrganizationLevel
		tenant       = fixtures.TenantLevel
		platform     = fixtures.PlatformLevel
	)
	moved := `owner_organization_id = '` + fixtures.Pfizer.ID + `'`
	joins := func(user fixtures.User, o fixtures.Organization) string {
		return fmt.Sprintf(`insert into public.user_organizations (user_id, organization_id, role) values ('%s', '%s', 'admin')`, user.ID, o.ID)
	}
	founds := func(id string) string {
		return fmt.Sprintf(`insert into public.organizations (id, name, slug, organization_type, parent_organization_id) values ('%s', 'New', 'new', 'tenant', '%s')`, id, fixtures.PlatformID)
	}
	all := map[string]step{}
	for attack, steps := range map[string]map[string]step{
		"sharing on insert": {
			"a member does not share with the tenant": {alice, insertAgent(fixtures.Novartis.ID, tenant, fixtures.Alice.ID), rejected},
			"an admin does":                            {adam, insertAgent(fixtures.Novartis.ID, tenant, fixtures.Adam.ID), done},
			"an admin does not share with everybody":   {adam, insertAgent(fixtures.Novartis.ID, platform, fixtures.Adam.ID), rejected},
			"the platform's admin does":                {root, insertAgent(fixtures.PlatformID, platform, fixtures.Root.ID), done},
			"the platform's member does not":           {as(fixtures.Peter), insertAgent(fixtures.PlatformID, platform, fixtures.Peter.ID), rejected},
			"nobody shares with the platform's tenant": {root, insertAgent(fixtures.PlatformID, tenant, fixtures.Root.ID), rejected},
			"an admin elsewhere is a viewer here":      {as(fixtures.Max), insertAgent(fixtures.Pfizer.ID, organization, fixtures.Max.ID), rejected},
			"and an admin there":                       {as(fixtures.Max), insertAgent(fixtures.Novartis.ID, tenant, fixtures.Max.ID), done},
			"the flags of the old application share nothing": {alice, fmt.Sprintf(`
				with new as (insert into public.agents (name, owner_organization_id, created_by, metadata) values ('New', '%s', '%s', '{"is_public": true, "is_tenant_shared": true}') returning sharing_scope)
				select from new where sharing_scope = 'organization'`, fixtures.Novartis.ID, fixtures.Alice.ID), done},
		},
		"sharing on update": {
			"a member does not share what he made":     {alice, updateAgent(fixtures.NovartisAgent, `sharing_scope = 'tenant'`), guarded},
			"an admin does":                            {adam, updateAgent(fixtures.NovartisAgent, `sharing_scope = 'tenant'`), done},
			"an admin does not share with everybody":   {adam, updateAgent(fixtures.NovartisAgent, `sharing_scope = 'platform'`), guarded},
			"the platform's admin does":                {root, updateAgent(fixtures.PlatformAgent, `sharing_scope = 'platform'`), done},
			"a member takes back what somebody shared": {as(fixtures.Bob), updateAgent(fixtures.PfizerPublicAgent, `sharing_scope = 'organization'`), done},
			"a flag in metadata shares nothing":        {alice, updateAgent(fixtures.NovartisAgent, `metadata = '{"is_public": true}'`), done},
			"no trigger is put to sleep": {alice, fmt.Sprintf(`
				do $$ begin
					perform set_config('tenancy.backfill', 'on', true);
					update public.agents set sharing_scope = 'organization' where id = '%s';
					update public.agents set sharing_scope = 'platform' where id = '%[1]s';
				end $$`, fixtures.NovartisAgent.ID), guarded},
		},
		"moving a row": {
			"a member does not move what he made":             {alice, updateAgent(fixtures.NovartisAgent, moved), denied},
			"nor without saying which":                        {alice, `update public.agents set ` + moved, denied},
			"an admin does not":                               {adam, `update public.agents set ` + moved, denied},
			"an admin of one and viewer of the other neither": {as(fixtures.Max), `update public.agents set ` + moved, denied},
			"the backend does":                                {actor.Service(), updateAgent(fixtures.NovartisAgent, moved), done},
			"an admin changes the rest":                       {adam, updateAgent(fixtures.NovartisAgent, `name = 'New'`), done},
		},
		"writing as a former member": {
			"what he made is not his to change any more": {as(fixtures.Eve), updateAgent(fixtures.EveAgent, `name = 'Mine'`), filtered},
			"also where no WHERE asks to read it":        {as(fixtures.Eve), `update public.agents set name = 'Mine'`, filtered},
			"nor to delete":                              {as(fixtures.Eve), `delete from public.agents`, denied},
			"an admin changes it":                        {adam, updateAgent(fixtures.EveAgent, `name = 'Ours'`), done},
			"a member changes what he made":              {alice, updateAgent(fixtures.NovartisAgent, `name = 'Mine'`), done},
		},
		"writing as a viewer": {
			"he does not insert":             {as(fixtures.Vera), insertAgent(fixtures.Novartis.ID, organization, fixtures.Vera.ID), rejected},
			"nor change what he made before": {as(fixtures.Vera), updateAgent(fixtures.VeraAgent, `name = 'Mine'`), filtered},
			"a member inserts":               {alice, insertAgent(fixtures.Novartis.ID, organization, fixtures.Alice.ID), done},
			"an admin changes what he made":  {adam, updateAgent(fixtures.VeraAgent, `name = 'Ours'`), done},
		},
		"writing as somebody else": {
			"a member inserts nothing as another": {alice, insertAgent(fixtures.Novartis.ID, organization, fixtures.Adam.ID), rejected},
			"nor as nobody":                       {alice, fmt.Sprintf(`insert into public.agents (name, owner_organization_id) values ('New', '%s')`, fixtures.Novartis.ID), rejected},
			"nor for nobody":                      {alice, fmt.Sprintf(`insert into public.agents (name, created_by) values ('New', '%s')`, fixtures.Alice.ID), rejected},
			"but as himself":                      {alice, insertAgent(fixtures.Novartis.ID, organization, fixtures.Alice.ID), done},
			"he does not become the creator":      {alice, updateAgent(fixtures.NovartisSharedAgent, `created_by = '`+fixtures.Alice.ID+`'`), denied},
		},
		"deleting": {
			"a member deletes what he made":        {alice, softDelete("agents", fixtures.NovartisAgent.ID), done},
			"not by an update":                     {alice, updateAgent(fixtures.NovartisAgent, `deleted_at = now()`), denied},
			"what is not his is not there for him": {alice, softDelete("agents", fixtures.PfizerAgent.ID), outcome("ERROR: no such row of agents, or not yours to delete: " + fixtures.PfizerAgent.ID + " (SQLSTATE P0002)")},
			"nor what he reads":                    {alice, softDelete("agents", fixtures.PharmaAgent.ID), outcome("ERROR: no such row of agents, or not yours to delete: " + fixtures.PharmaAgent.ID + " (SQLSTATE P0002)")},
			"an admin there deletes it":            {paula, softDelete("agents", fixtures.PharmaAgent.ID), done},
			"nothing but resources":                {root, softDelete("organizations", fixtures.Pfizer.ID), `ERROR: there is no resource type 'organizations' (SQLSTATE 22023)`},
			"a table's name is no SQL":             {root, `select public.soft_delete('agents; drop table public.agents', '` + fixtures.PfizerAgent.ID + `')`, `ERROR: there is no resource type 'agents; drop table public.agents' (SQLSTATE 22023)`},
			"nobody who has not signed in":         {actor.Anonymous(), softDelete("agents", fixtures.NovartisAgent.ID), denied},
		},
		"making oneself an admin": {
			"of Pfizer, from nowhere":   {as(fixtures.Nobody), joins(fixtures.Nobody, fixtures.Pfizer), rejected},
			"of Pfizer, from Novartis":  {adam, joins(fixtures.Adam, fixtures.Pfizer), rejected},
			"of the platform":           {as(fixtures.Peter), `update public.user_organizations set role = 'admin'`, filtered},
			"the backend makes him one": {actor.Service(), joins(fixtures.Nobody, fixtures.Pfizer), done},
		},
		"reading what a tenant shares, from one of a chosen id": {
			"which is the tenant's but for the version": {actor.Service(), founds("00000001-0000-1000-8000-000000000002"), `ERROR: duplicate key value violates unique constraint "idx_organizations_shared_key" (SQLSTATE 23505)`},
			"which is the platform's but for it":        {actor.Service(), founds("00000000-0000-4000-0000-000000000001"), `ERROR: duplicate key value violates unique constraint "idx_organizations_shared_key" (SQLSTATE 23505)`},
			"which stands for what the tenant shares":   {actor.Service(), founds("00000001-0000-f000-8000-000000000002"), `ERROR: new row for relation "organizations" violates check constraint "organizations_id_is_no_shared_key" (SQLSTATE 23514)`},
			"which is nobody's":                         {actor.Service(), founds("00000009-0000-1000-8000-000000000002"), done},
		},
		"reading a stranger's address, by letting him in": {
			"whose id stands on a row that is shared": {paula, fmt.Sprintf(`
				insert into public.user_organizations (user_id, organization_id, role)
				select created_by, '%s', 'viewer' from public.agents where id = '%s'`, fixtures.Pfizer.ID, fixtures.NovartisSharedAgent.ID), rejected},
			"as one who has left already": {paula, fmt.Sprintf(`
				insert into public.user_organizations (user_id, organization_id, is_active) values ('%s', '%s', false)`, fixtures.Adam.ID, fixtures.Pfizer.ID), rejected},
			"in somebody else's place":      {paula, `update public.user_organizations set user_id = '` + fixtures.Adam.ID + `'`, denied},
			"of an organization of hers":    {as(fixtures.Tess), joins(fixtures.Adam, fixtures.Pharmaceuticals), rejected},
			"whom there is not":             {paula, joins(fixtures.User{ID: "99999999-0000-4000-8000-000000000099"}, fixtures.Pfizer), rejected},
			"whom she knows from elsewhere": {as(fixtures.Max), joins(fixtures.Bob, fixtures.Novartis), done},
		},
	} {
		for what, s := range steps {
			all[attack+": "+what] = s
		}
	}
	check(t, db, all)
}

// testOldPolicies is about the policies of the old application, of which one is in
// nobody's document: by it former members go on reading and writing.
func testOldPolicies(t *testing.T) {
	t.Parallel()
	read := `select from public.agents where id = '` + fixtures.NovartisAgent.ID + `'`
	write := updateAgent(fixtures.EveAgent, `name = 'Mine'`)
	check(t, pgtest.New(t, schema.Phase3, fixtures.World()...), map[string]step{
		"before phase 4, a former member reads":  {as(fixtures.Eve), read, done},
		"before phase 4, a former member writes": {as(fixtures.Eve), write, done},
	})
	check(t, secured(t), map[string]step{
		"after it, a former member reads nothing":  {as(fixtures.Eve), read, filtered},
		"after it, a former member writes nothing": {as(fixtures.Eve), write, filtered},
		"after it, a member reads":                 {as(fixtures.Alice), read, done},
	})
}

const aboutOthers = outcome("ERROR: p_user_id must be the calling user (SQLSTATE 42501)")

func testAskingAboutOthers(t *testing.T) {
	t.Parallel()
	steps := map[string]step{}
	for call, answers := range map[string]string{
		"get_accessible_agents":             `select * from public.get_accessible_agents(%s)`,
		"get_accessible_prompts":            `select * from public.get_accessible_prompts(%s)`,
		"get_accessible_agents (first one)": `select * from public.get_accessible_agents(%s, 1)`,
		"search_agents":                     `select * from public.search_agents(%s, '{}')`,
		"search_knowledge_documents":        `select * from public.search_knowledge_documents(%s, 'novartis or pfizer or guide')`,
		"get_user_accessible_organizations": `select * from public.get_user_accessible_organizations(%s)`,
		"can_user_access_resource":          `select public.can_user_access_resource(%s, '` + fixtures.Pfizer.ID + `', 'organization')`,
	} {
		of := func(user string) string { return fmt.Sprintf(answers, user) }
		alice, bob := "'"+fixtures.Alice.ID+"'", "'"+fixtures.Bob.ID+"'"
		steps[call+": about oneself"] = step{as(fixtures.Alice), of(alice), done}
		steps[call+": about somebody else"] = step{as(fixtures.Alice), of(bob), aboutOthers}
		steps[call+": about nobody"] = step{as(fixtures.Alice), of("null"), aboutOthers}
		steps[call+": as an admin of his"] = step{as(fixtures.Paula), of(bob), aboutOthers}
		steps[call+": as the platform's admin"] = step{as(fixtures.Root), of(bob), aboutOthers}
		steps[call+": as who has not signed in"] = step{actor.Anonymous(), of(bob), denied}
		steps[call+": as the backend"] = step{actor.Service(), of(bob), done}
	}
	const hierarchy, tenantOf = `select from public.get_organization_hierarchy('%s')`, `select from (select public.get_organization_tenant('%s') as id) as t where id is not null`
	for call, sql := range map[string]string{"get_organization_hierarchy": hierarchy, "get_organization_tenant": tenantOf} {
		steps[call+": of one's own organization"] = step{as(fixtures.Alice), fmt.Sprintf(sql, fixtures.Novartis.ID), done}
		steps[call+": of another"] = step{as(fixtures.Alice), fmt.Sprintf(sql, fixtures.Pfizer.ID), filtered}
		steps[call+": of a former one"] = step{as(fixtures.Eve), fmt.Sprintf(sql, fixtures.Novartis.ID), filtered}
		steps[call+": as who has not signed in"] = step{actor.Anonymous(), fmt.Sprintf(sql, fixtures.Novartis.ID), denied}
		steps[call+": as the backend"] = step{actor.Service(), fmt.Sprintf(sql, fixtures.Pfizer.ID), done}
	}
	for _, helper := range []string{"audiences_of('" + fixtures.Bob.ID + "')", "organizations_of('" + fixtures.Bob.ID + "', '{admin,member}')", "visible_organizations_of('" + fixtures.Bob.ID + "')", "audiences()", "suspended_organizations()"} {
		steps["authz."+helper+" by its name"] = step{as(fixtures.Alice), `select authz.` + helper, denied}
	}
	db := secured(t)
	check(t, db, steps)
	t.Run("a list shows what the table shows, and of agents what is active", func(t *testing.T) {
		var answers []string
		for _, table := range resourceTables {
			id, condition := "id", ""
			if table == "agents" {
				id, condition = "agent_id", "where status = 'active'"
			}
			answers = append(answers,
				fmt.Sprintf(`select 'all', %[2]s::text from public.get_accessible_%[1]s(auth.uid())`, table, id),
				fmt.Sprintf(`select 'page', %[2]s::text from public.get_accessible_%[1]s(auth.uid(), 1000)`, table, id),
				fmt.Sprintf(`select 'table', id::text from public.%s %s`, table, condition))
		}
		forEach(t, db, fixtures.Users, func(tx pgx.Tx, u fixtures.User) {
			reads, err := readRows(t, tx, strings.Join(answers, " union all "))
			require.NoError(t, err)
			require.NotEmpty(t, reads["table"])
			require.ElementsMatch(t, reads["table"], reads["all"], u.Email)
			require.ElementsMatch(t, reads["table"], reads["page"], u.Email)
		})
	})
}

func testAroundPolicies(t *testing.T) {
	t.Parallel()
	db := secured(t)
	steps := map[string]step{
		"the materialised view":                    {as(fixtures.Alice), `select from tenancy.organization_stats`, denied},
		"the materialised view as the backend":     {actor.Service(), `select from tenancy.organization_stats`, denied},
		"the view in front of it":                  {as(fixtures.Alice), `select from public.organization_stats`, done},
		"the view in front of it about others":     {as(fixtures.Alice), `select from public.organization_stats where organization_id = '` + fixtures.Pfizer.ID + `'`, filtered},
		"the view in front of it as the backend":   {actor.Service(), `select from public.organization_stats where organization_id = '` + fixtures.Pfizer.ID + `'`, done},
		"the bookkeeping":                          {as(fixtures.Alice), `select from tenancy.organization_mapping`, denied},
		"the bookkeeping as the backend":           {actor.Service(), `select from tenancy.classified_table`, denied},
		"a partition of the audit log":             {as(fixtures.Adam), `select from audit.audit_logs_default`, denied},
		"the audit log itself":                     {as(fixtures.Adam), `select from public.audit_logs`, done},
		"the size of the statistics of columns":    {as(fixtures.Alice), `select from pg_catalog.pg_statistic`, denied},
		"refreshing the statistics":                {as(fixtures.Alice), `select public.refresh_organization_stats()`, denied},
		"refreshing the statistics as the backend": {actor.Service(), `select public.refresh_organization_stats()`, done},
		"a function of the old application":        {as(fixtures.Alice), `select public.count_tenant_agents('` + fixtures.Pfizer.ID + `')`, denied},
		"switching row level security off":         {as(fixtures.Alice), `do $$ begin perform set_config('row_security', 'off', true); perform from public.agents; end $$`, `ERROR: query would be affected by row-level security policy for table "agents" (SQLSTATE 42501)`},
		"leaving it on":                            {as(fixtures.Alice), `do $$ begin perform set_config('row_security', 'on', true); perform from public.agents; end $$`, filtered},
	}
	for table := range tables {
		if table == "organization_stats" {
			continue
		}
		for name, who := range map[string]actor.Actor{"a stranger": actor.Anonymous(), "a member": as(fixtures.Alice), "the platform's admin": as(fixtures.Root), "the backend": actor.Service()} {
			steps[name+" truncates "+table] = step{who, `truncate public.` + table + ` cascade`, denied}
		}
	}
	check(t, db, steps)
	t.Run("every command reads the same", func(t *testing.T) {
		steps := map[string]step{}
		for command, sql := range map[string]string{
			"select":            `select from public.agents where id = '%s'`,
			"select for share":  `select from public.agents where id = '%s' for share`,
			"with":              `with a as materialized (select id from public.agents) select from a where id = '%s'`,
			"exists":            `select where exists (select from public.agents where id = '%s')`,
			"update returning":  `update public.agents set updated_at = now() where id = '%s' returning id`,
			"update from":       `update public.conversations c set title = a.name from public.agents a where c.agent_id is not null and a.id = '%s'`,
			"insert select":     `insert into public.agents (name, owner_organization_id, created_by) select name, '` + fixtures.Novartis.ID + `', '` + fixtures.Alice.ID + `' from public.agents where id = '%s'`,
			"merge":             `merge into public.agents a using (values ('%s'::uuid)) as v (id) on a.id = v.id when matched then update set updated_at = now()`,
			"table sample":      `select from public.agents tablesample system (100) where id = '%s'`,
			"by who may see it": `select from public.agents where audience_key = owner_organization_id and id = '%s'`,
		} {
			steps[command+" meets one's own"] = step{as(fixtures.Alice), fmt.Sprintf(sql, fixtures.NovartisAgent.ID), done}
			steps[command+" does not meet another's"] = step{as(fixtures.Alice), fmt.Sprintf(sql, fixtures.PfizerAgent.ID), filtered}
		}
		check(t, db, steps)
	})
	t.Run("a view of the owner's that was there before reads as its caller", func(t *testing.T) {
		db := pgtest.New(t, schema.Phase3, fixtures.World()...)
		statement(`create view public.all_agents as select * from public.agents`)(t, db)
		read := `select from public.all_agents where id = '` + fixtures.NovartisAgent.ID + `'`
		check(t, db, map[string]step{"before phase 4 it shows everything": {as(fixtures.Bob), read, done}})
		db.Migrate(t, schema.Phase4)
		check(t, db, map[string]step{"after it, it is closed": {as(fixtures.Bob), read, denied}})
		statement(`grant select on public.all_agents to authenticated`)(t, db)
		check(t, db, map[string]step{
			"opened, it shows what its caller sees": {as(fixtures.Bob), read, filtered},
			"and to who may all the same":           {as(fixtures.Alice), read, done},
		})
	})
	t.Run("nobody empties a table of tomorrow", func(t *testing.T) {
		db := secured(t)
		statement(`create table public.later (id int)`)(t, db)
		check(t, db, map[string]step{
			"a member reads it":     {as(fixtures.Alice), `select from public.later`, denied},
			"the backend empties":   {actor.Service(), `truncate public.later`, denied},
			"the backend writes it": {actor.Service(), `insert into public.later values (1)`, done},
		})
	})
}

// testHidingNames puts other objects where a helper would find them first.
func testHidingNames(t *testing.T) {
	t.Parallel()
	db := secured(t)
	check(t, db, map[string]step{
		"no temporary table":                {as(fixtures.Alice), `create temporary table user_organizations (user_id uuid, organization_id uuid)`, `ERROR: permission denied to create temporary tables in database "` + outcome(db.Name) + `" (SQLSTATE 42501)`},
		"nor by who has not signed in":      {actor.Anonymous(), `create temporary table agents (id uuid)`, `ERROR: permission denied to create temporary tables in database "` + outcome(db.Name) + `" (SQLSTATE 42501)`},
		"nor by the backend":                {actor.Service(), `create temporary table agents (id uuid)`, `ERROR: permission denied to create temporary tables in database "` + outcome(db.Name) + `" (SQLSTATE 42501)`},
		"no function in public":             {as(fixtures.Alice), `create function public.coalesce_(a uuid) returns uuid language sql return a`, denied},
		"no function in a temporary schema": {as(fixtures.Alice), `create function pg_temp.uid() returns uuid language sql return null::uuid`, `ERROR: permission denied to create temporary tables in database "` + outcome(db.Name) + `" (SQLSTATE 42501)`},
		"no schema":                         {as(fixtures.Alice), `create schema mine`, denied},
		"nor by the backend in public":      {actor.Service(), `create table public.mine (id int)`, denied},
	})
	t.Run("what somebody has put into another schema is not found", func(t *testing.T) {
		db, w := secured(t), migrated()
		// Somebody who may make a schema has made traps in it, for every name that a helper uses.
		statement(`
			create schema trap;
			create function trap.uid() returns uuid language sql return '`+fixtures.Root.ID+`'::uuid;
			create table trap.user_organizations as select * from public.user_organizations with no data;
			insert into trap.user_organizations select gen_random_uuid(), u.id, o.id, 'admin', true, now() from public.users u, public.organizations o;
			create function trap.always(uuid, uuid) returns boolean language sql return true;
			create operator trap.= (leftarg = uuid, rightarg = uuid, function = trap.always);
			grant usage on schema trap to authenticated; grant select on all tables in schema trap to authenticated;
			grant execute on all functions in schema trap to authenticated`)(t, db)
		require.NoError(t, as(fixtures.Eve).Do(t, db, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `set local search_path = trap, public, pg_catalog`)
			require.NoError(t, err)
			var fooled bool
			require.NoError(t, tx.QueryRow(t.Context(), `select gen_random_uuid() = gen_random_uuid()`).Scan(&fooled))
			require.True(t, fooled, "the trap works on who walks into it")
			reads, failures := readAll(t, tx)
			require.Empty(t, failures)
			for _, r := range w.rows {
				if r.table == "agents" {
					require.Equal(t, w.mayRead(fixtures.Eve.ID, r), slices.Contains(reads["agents"], r.key), r.name)
				}
			}
			require.Equal(t, aboutOthers, attempt(t, tx, `select * from public.get_accessible_agents('`+fixtures.Bob.ID+`')`))
			return nil
		}))
	})
}

func testNull(t *testing.T) {
	t.Parallel()
	db := secured(t)
	access := func(owner, scope string) string {
		return fmt.Sprintf(`select public.can_user_access_resource('%s', %s, %s)`, fixtures.Alice.ID, owner, scope)
	}
	novartis := "'" + fixtures.Novartis.ID + "'"
	questions := map[string]struct {
		sql  string
		want bool
	}{
		"her own organization's":                   {access(novartis, "'organization'"), true},
		"no owner":                                 {access("null", "'organization'"), false},
		"no owner, shared with everybody":          {access("null", "'platform'"), false},
		"no scope":                                 {access(novartis, "null"), false},
		"an owner that there is not":               {access("'99999999-0000-4000-8000-000000000099'", "'platform'"), false},
		"the platform, which has no tenant":        {access("'"+fixtures.PlatformID+"'", "'tenant'"), false},
		"her tenant, by an organization in it":     {access("'"+fixtures.Pfizer.ID+"'", "'tenant'"), true},
		"a suspended organization, with everybody": {access("'"+fixtures.SandozLegacy.ID+"'", "'platform'"), false},
	}
	require.NoError(t, as(fixtures.Alice).Do(t, db, func(tx pgx.Tx) error {
		for what, test := range questions {
			t.Run(what, func(t *testing.T) {
				var access *bool
				require.NoError(t, tx.QueryRow(t.Context(), test.sql).Scan(&access))
				require.Equal(t, &test.want, access, "never NULL")
			})
		}
		return nil
	}))
	// Peter and Root belong to the platform alone: they have no tenant, as the platform's
	// rows. Bob does not see Novartis, and reads what it shares with their tenant: a
	// tenant is found though its user does not see the row that says so.
	agent := func(r fixtures.Resource) string { return `select from public.agents where id = '` + r.ID + `'` }
	check(t, db, map[string]step{
		"one of the platform reads nothing that a tenant shares": {as(fixtures.Peter), `select from public.agents where sharing_scope = 'tenant'`, filtered},
		"one of a tenant does":                   {as(fixtures.Tom), `select from public.agents where sharing_scope = 'tenant'`, done},
		"a neighbour's organization is not seen": {as(fixtures.Bob), `select from public.organizations where id = ` + novartis, filtered},
		"what it shares is":                      {as(fixtures.Bob), agent(fixtures.NovartisSharedAgent), done},
		"what it does not share is not":          {as(fixtures.Bob), agent(fixtures.NovartisAgent), filtered},
		"one's own organization is":              {as(fixtures.Alice), `select from public.organizations where id = ` + novartis, done},
	})
}
