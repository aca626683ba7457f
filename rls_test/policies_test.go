package rls_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// policy is a policy that must be there: permissive, and for authenticated alone.
type policy struct{ table, name, command, using, check string }

// policies is all of them.
func policies() []policy {
	const (
		changeable = `deleted_at is null and (
			created_by = (select auth.uid()) and owner_organization_id = any ((select authz.writer_organizations())::uuid[])
			or owner_organization_id = any ((select authz.admin_organizations())::uuid[]))`
		own = `deleted_at is null and user_id = (select auth.uid())
			and owner_organization_id = any ((select authz.member_organizations())::uuid[])`
		ofOwnConversation  = `conversation_id = any ((select authz.own_conversations())::uuid[])`
		administered       = `organization_id = any ((select authz.admin_organizations())::uuid[])`
		others             = administered + ` and user_id <> (select auth.uid())`
		administeredItself = `deleted_at is null and id = any ((select authz.admin_organizations())::uuid[])`
	)
	all := []policy{
		{"conversations", "users_view_own_conversations", "select", own, ""},
		{"conversations", "users_create_own_conversations", "insert", "",
			own + ` and (agent_id is null or exists (select from public.agents r where r.id = agent_id))`},
		{"conversations", "users_update_own_conversations", "update", own, own},
		{"messages", "users_view_own_messages", "select", ofOwnConversation, ""},
		{"messages", "users_create_own_messages", "insert", "", `role = 'user' and ` + ofOwnConversation},
		{"organizations", "users_view_organizations", "select",
			`deleted_at is null and id = any ((select authz.visible_organizations())::uuid[])`, ""},
		{"organizations", "admins_rename_organizations", "update", administeredItself, administeredItself},
		{"users", "users_view_colleagues", "select",
			`id = any ((select authz.colleagues())::uuid[])`, ""},
		{"user_organizations", "users_view_memberships", "select",
			`user_id = (select auth.uid()) or organization_id = any ((select authz.member_organizations())::uuid[])`, ""},
		{"user_organizations", "admins_add_memberships", "insert", "", others + ` and user_id = any ((select authz.colleagues())::uuid[])`},
		{"user_organizations", "admins_change_memberships", "update", others, others},
		{"user_organizations", "admins_remove_memberships", "delete", others, ""},
		{"audit_logs", "admins_view_audit_logs", "select", administered, ""},
	}
	for _, table := range resourceTables {
		all = append(all,
			policy{table, "users_view_accessible_" + table, "select",
				`deleted_at is null
				and audience_key = any ((select authz.audiences())::uuid[])
				and owner_organization_id <> all ((select authz.suspended_organizations())::uuid[])`, ""},
			policy{table, "users_create_" + table, "insert", "",
				`deleted_at is null
				and created_by = (select auth.uid())
				and owner_organization_id = any ((select authz.writer_organizations())::uuid[])
				and (sharing_scope = 'organization'
					or sharing_scope = 'tenant'
						and owner_organization_id = any ((select authz.admin_organizations())::uuid[])
						and owner_organization_id <> '00000000-0000-0000-0000-000000000001'
					or sharing_scope = 'platform'
						and '00000000-0000-0000-0000-000000000001' = any ((select authz.admin_organizations())::uuid[]))`},
			policy{table, "users_update_" + table, "update", changeable, changeable})
	}
	return all
}

func (p policy) sql() string {
	text := fmt.Sprintf("create policy %s on public.%s for %s to authenticated", p.name, p.table, p.command)
	if p.using != "" {
		text += " using (" + p.using + ")"
	}
	if p.check != "" {
		text += " with check (" + p.check + ")"
	}
	return text
}

// policyProblems compares the policies of public with those that must be there. The
// server prints both, so that the comparison holds for every version of it.
func policyProblems(t testing.TB, db *pgtest.DB) []string {
	t.Helper()
	tx, err := db.Owner.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	found := printedPolicies(t, tx)
	for name := range found {
		table, name, _ := strings.Cut(name, ".")
		_, err := tx.Exec(t.Context(), "drop policy "+pgx.Identifier{name}.Sanitize()+" on public."+table)
		require.NoError(t, err)
	}
	for _, p := range policies() {
		_, err := tx.Exec(t.Context(), p.sql())
		require.NoError(t, err, p.sql())
	}
	problems := difference("policy ", printedPolicies(t, tx), found)

	rows, err := db.Owner.Query(t.Context(), `
		select relname, relrowsecurity from pg_catalog.pg_class
		where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')`)
	require.NoError(t, err)
	checked := 0
	var table string
	var secure bool
	_, err = pgx.ForEachRow(rows, []any{&table, &secure}, func() error {
		checked++
		if !secure {
			problems = append(problems, "row level security is off on "+table)
		}
		return nil
	})
	require.NoError(t, err)
	require.Positive(t, checked)
	t.Logf("checked %d policies on %d tables", len(found), checked)
	return problems
}

func printedPolicies(t testing.TB, tx pgx.Tx) map[string]string {
	t.Helper()
	rows, err := tx.Query(t.Context(), `
		select tablename || '.' || policyname,
			concat_ws(' ', permissive, 'for', cmd, 'to', roles::text, 'using ' || qual, 'with check ' || with_check)
		from pg_catalog.pg_policies where schemaname = 'public'`)
	require.NoError(t, err)
	printed := map[string]string{}
	var name, text string
	_, err = pgx.ForEachRow(rows, []any{&name, &text}, func() error {
		printed[name] = text
		return nil
	})
	require.NoError(t, err)
	return printed
}

// difference says what is wanted and missing, found and not wanted, or otherwise than
// wanted.
func difference(kind string, want, found map[string]string) (problems []string) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		switch text, ok := found[name]; {
		case !ok:
			problems = append(problems, fmt.Sprintf("%s%s is missing", kind, name))
		case text != want[name]:
			problems = append(problems, fmt.Sprintf("%s%s is %s, and must be %s", kind, name, text, want[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if _, ok := want[name]; !ok {
			problems = append(problems, fmt.Sprintf("%s%s is on nobody's list: %s", kind, name, found[name]))
		}
	}
	return problems
}

// Columns of the resource tables that users write beside those that all have.
var writableColumns = map[string]string{
	"agents":              "name display_name description system_prompt tier status knowledge_domains capabilities avatar_url priority metadata",
	"knowledge_documents": "title content summary is_public metadata",
	"prompts":             "name content metadata",
	"workflows":           "name definition is_public is_template",
	"use_cases":           "code title",
	"capabilities":        "code name",
}

// privileges is who but the owner may do what, in the words of package catalog:
// nobody who has not signed in reads or writes a thing.
func privileges() map[string]string {
	want := map[string]string{
		"database to PUBLIC":                                           "CONNECT", // no TEMPORARY: a temporary table hides a real one
		"schema public to PUBLIC":                                      "USAGE",
		"schema public to anon":                                        "USAGE",
		"schema public to authenticated":                               "USAGE",
		"schema public to service_role":                                "USAGE",
		"function auth.jwt() to PUBLIC":                                "EXECUTE",
		"function auth.role() to PUBLIC":                               "EXECUTE",
		"function auth.uid() to PUBLIC":                                "EXECUTE",
		"view public.organization_stats to authenticated":              "SELECT",
		"view public.organization_stats to service_role":               "SELECT",
		"table public.audit_logs to authenticated":                     "SELECT",
		"table public.audit_logs to service_role":                      "SELECT",
		"table public.user_organizations to authenticated":             "DELETE, SELECT",
		"function public.count_tenant_agents(uuid) to service_role":    "EXECUTE",
		"function public.refresh_organization_stats() to service_role": "EXECUTE",
		"default in schema public on tables to service_role":           "DELETE, INSERT, SELECT, UPDATE",
		"default in schema public on sequences to service_role":        "SELECT, USAGE",
		"default in schema public on functions to service_role":        "EXECUTE",
	}
	for _, role := range []string{"anon", "authenticated", "service_role"} {
		want["schema auth to "+role], want["schema extensions to "+role] = "USAGE", "USAGE"
	}
	for table := range tables {
		if table != "organization_stats" && table != "audit_logs" {
			want["table public."+table+" to service_role"] = "DELETE, INSERT, SELECT, UPDATE"
		}
	}

	column := func(privilege, table, columns string) {
		for _, c := range strings.Fields(columns) {
			identity := fmt.Sprintf("column public.%s.%s to authenticated", table, c)
			if want[identity] != "" {
				privilege = want[identity] + ", " + privilege
			}
			want[identity] = privilege
		}
	}
	for table, columns := range writableColumns {
		want["table public."+table+" to authenticated"] = "SELECT"
		column("INSERT, UPDATE", table, columns+" sharing_scope updated_at")
		column("INSERT", table, "owner_organization_id created_by")
	}
	for _, table := range []string{"conversations", "messages"} {
		want["table public."+table+" to authenticated"] = "SELECT"
	}
	column("INSERT, UPDATE", "conversations", "title status")
	column("INSERT", "conversations", "owner_organization_id user_id agent_id mode metadata updated_at")
	column("INSERT", "messages", "conversation_id role content")
	column("SELECT", "organizations", "id slug organization_type parent_organization_id tenant_organization_id is_active created_at updated_at deleted_at")
	column("SELECT, UPDATE", "organizations", "name")
	column("SELECT", "users", "id email full_name created_at")
	column("INSERT, UPDATE", "user_organizations", "role is_active")
	column("INSERT", "user_organizations", "user_id organization_id")

	for _, f := range []string{"get_organization_hierarchy(uuid)", "get_organization_tenant(uuid)", "get_user_accessible_organizations(uuid)",
		"can_user_access_resource(uuid, uuid, public.sharing_scope_type)", "search_agents(uuid, text[], integer)",
		"search_knowledge_documents(uuid, text, integer)", "soft_delete(text, uuid)"} {
		want["function public."+f+" to authenticated"], want["function public."+f+" to service_role"] = "EXECUTE", "EXECUTE"
	}
	for _, table := range resourceTables {
		list := "function public.get_accessible_" + table + "(uuid, integer) to "
		want[list+"authenticated"], want[list+"service_role"] = "EXECUTE", "EXECUTE"
	}
	for _, f := range []string{"audiences()", "suspended_organizations()", "writer_organizations()", "admin_organizations()",
		"visible_organizations()", "colleagues()", "own_conversations()"} {
		want["function authz."+f+" to authenticated"] = "EXECUTE"
	}
	for _, f := range []string{"audience_key(public.sharing_scope_type, uuid, uuid)", "shared_key(uuid)", "member_organizations()", "is_privileged()",
		"may_share(public.sharing_scope_type, uuid)", "searchable(text, text)"} {
		want["function authz."+f+" to authenticated"], want["function authz."+f+" to service_role"] = "EXECUTE", "EXECUTE"
	}
	return want
}

// privilegeProblems compares who may do what with who may: on tables, views, columns,
// sequences, functions, schemas, types and the database, and on what is made later.
func privilegeProblems(t testing.TB, db *pgtest.DB) []string {
	t.Helper()
	found, checked := map[string]string{}, map[string]bool{}
	for identity, text := range phasetest.Catalog(t, db) {
		identity := strings.Replace(identity, "default acl of "+pgtest.OwnerRole, "acl default", 1)
		identity, isPrivilege := strings.CutPrefix(identity, "acl ")
		if !isPrivilege {
			continue
		}
		object, grantee, _ := strings.Cut(identity, " to ")
		checked[object] = true
		switch {
		case grantee == pgtest.OwnerRole || grantee == "pg_database_owner":
		case strings.HasPrefix(object, "type ") && grantee == "PUBLIC" && text == "USAGE": // opens nothing
		case strings.HasPrefix(object, "default on types"): // nor does this
		default:
			found[identity] = text
		}
	}
	require.NotEmpty(t, checked)
	t.Logf("checked who has privileges on %d objects", len(checked))
	return difference("the privilege on ", privileges(), found)
}

// definitionProblems is what else in the catalog the isolation rests on, and what is wrong
// with it: triggers that guard, derive and record, functions that read for others,
// foreign keys that must not take what an organization owns along, and a few indexes.
func definitionProblems(t testing.TB, db *pgtest.DB) []string {
	t.Helper()
	picture := phasetest.Catalog(t, db)
	want, found := map[string]string{}, map[string]string{}
	pick := func(identity, definition string) {
		want[identity] = definition
		if text, ok := picture[identity]; ok {
			found[identity] = strings.TrimSuffix(text, ", owner "+pgtest.OwnerRole)
		}
	}
	for _, table := range resourceTables {
		pick("trigger public."+table+".guard",
			fmt.Sprintf("CREATE TRIGGER guard BEFORE UPDATE ON public.%s FOR EACH ROW EXECUTE FUNCTION authz.guard()", table))
		pick("trigger public."+table+".guard_sharing",
			fmt.Sprintf("CREATE TRIGGER guard_sharing BEFORE UPDATE ON public.%s FOR EACH ROW WHEN (((new.sharing_scope IS DISTINCT FROM old.sharing_scope) AND (NOT authz.may_share(new.sharing_scope, new.owner_organization_id)))) EXECUTE FUNCTION authz.guard('sharing')", table))
		pick(fmt.Sprintf("constraint public.%s.fk_%[1]s_owner", table),
			"FOREIGN KEY (owner_organization_id) REFERENCES public.organizations(id) ON DELETE RESTRICT")
	}
	pick("constraint public.conversations.fk_conversations_owner",
		"FOREIGN KEY (owner_organization_id) REFERENCES public.organizations(id) ON DELETE RESTRICT")
	pick("index public.idx_agents_org_list",
		"CREATE INDEX idx_agents_org_list ON public.agents USING btree (owner_organization_id, tier, name) INCLUDE (id, display_name, sharing_scope, audience_key) WHERE ((deleted_at IS NULL) AND (status = 'active'::public.agent_status))")
	pick("index public.idx_organizations_slug",
		"CREATE UNIQUE INDEX idx_organizations_slug ON public.organizations USING btree (slug) WHERE (deleted_at IS NULL)")
	for table := range tables {
		if table == "audit_logs" || table == "organization_stats" {
			continue
		}
		class := "directory"
		if slices.Contains(resourceTables, table) {
			class = "resource"
		} else if table == "conversations" || table == "messages" {
			class = "private"
		}
		for event, rows := range map[string]string{"insert": "NEW TABLE AS new_rows", "update": "OLD TABLE AS old_rows NEW TABLE AS new_rows", "delete": "OLD TABLE AS old_rows"} {
			pick(fmt.Sprintf("trigger public.%s.audit_%s", table, event),
				fmt.Sprintf("CREATE TRIGGER audit_%s AFTER %s ON public.%s REFERENCING %s FOR EACH STATEMENT EXECUTE FUNCTION audit.record('%s')",
					event, strings.ToUpper(event), table, rows, class))
		}
	}
	problems := difference("", want, found)
	return append(problems, definerProblems(t, db)...)
}

// definers read or write what their caller may not.
var definers = []string{
	"audit.record()",
	"authz.admin_organizations()", "authz.audiences()", "authz.audiences_of(uuid)",
	"authz.colleagues()", "authz.own_conversations()", "authz.may_share(public.sharing_scope_type,uuid)", "authz.member_organizations()", "authz.organizations_of(uuid,text[])",
	"authz.suspended_organizations()", "authz.visible_organizations()", "authz.visible_organizations_of(uuid)", "authz.writer_organizations()",
	"public.can_user_access_resource(uuid,uuid,public.sharing_scope_type)", "public.search_agents(uuid,text[],integer)",
	"public.search_knowledge_documents(uuid,text,integer)",
	"public.get_organization_hierarchy(uuid)", "public.get_organization_tenant(uuid)", "public.get_user_accessible_organizations(uuid)",
	"public.refresh_organization_stats()", "public.soft_delete(text,uuid)",
	"tenancy.keep_scope_in_step()", "tenancy.place_organization()", "tenancy.resolve_owner()", "tenancy.set_audience()",
}

func definerProblems(t testing.TB, db *pgtest.DB) (problems []string) {
	t.Helper()
	want, found := map[string]string{}, map[string]string{}
	for _, f := range definers {
		want[f] = `search_path=pg_catalog, pg_temp`
	}
	for _, table := range resourceTables {
		want["public.get_accessible_"+table+"(uuid,integer)"] = `search_path=pg_catalog, pg_temp`
	}
	tx, err := db.Owner.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `set local search_path = ''`)
	require.NoError(t, err)
	rows, err := tx.Query(t.Context(), `
		select p.oid::regprocedure::text, coalesce(
			(select setting from unnest(p.proconfig) as setting where starts_with(setting, 'search_path=')), 'without a search_path')
		from pg_catalog.pg_proc p
		where p.prosecdef and p.pronamespace::regnamespace::text not in ('pg_catalog', 'information_schema', 'extensions')`)
	require.NoError(t, err)
	var name, settings string
	_, err = pgx.ForEachRow(rows, []any{&name, &settings}, func() error {
		found[name] = settings
		return nil
	})
	require.NoError(t, err)
	t.Logf("checked %d functions that run as their owner", len(found))
	return difference("security definer ", want, found)
}

func testPolicies(t *testing.T) {
	t.Parallel()
	db := secured(t)
	t.Run("they are exactly those that are on the list, and every table is secured", func(t *testing.T) {
		require.Empty(t, policyProblems(t, db))
	})
	t.Run("nobody has a privilege beyond the list", func(t *testing.T) {
		require.Empty(t, privilegeProblems(t, db))
	})
	t.Run("what they rest on is as it must be", func(t *testing.T) {
		require.Empty(t, definitionProblems(t, db))
	})
	t.Run("the API roles are members of no role, and no superusers", func(t *testing.T) {
		var unfit []string
		require.NoError(t, db.Owner.QueryRow(t.Context(), `
			select coalesce(array_agg(r.rolname::text), '{}') from pg_catalog.pg_roles r
			where r.rolname in ('anon', 'authenticated', 'service_role')
			  and (r.rolsuper or r.rolcanlogin or r.rolcreaterole or r.rolbypassrls <> (r.rolname = 'service_role')
			       or exists (select from pg_catalog.pg_auth_members m where m.member = r.oid))`).Scan(&unfit))
		require.Empty(t, unfit)
	})
	t.Run("what is made later is closed until somebody opens it", func(t *testing.T) {
		db := secured(t)
		phasetest.Exec(t, db, `create table public.later (id serial); create function public.later() returns int language sql return 1`)
		require.Equal(t, []string{
			"the privilege on function public.later() to service_role is on nobody's list: EXECUTE",
			"the privilege on sequence public.later_id_seq to service_role is on nobody's list: SELECT, USAGE",
			"the privilege on table public.later to service_role is on nobody's list: DELETE, INSERT, SELECT, UPDATE",
		}, privilegeProblems(t, db))
	})
}

func testAgain(t *testing.T) {
	t.Parallel()
	db := secured(t)
	definitions, rows := phasetest.Catalog(t, db), phasetest.Data(t, db)
	db.Migrate(t, schema.Phase4)
	require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
	require.Empty(t, catalog.Diff(rows, phasetest.Data(t, db)))
}
