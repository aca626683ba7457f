package constraints_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

func testConstraints(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/schema-updated/all-constraints-in-place", "phase-3/validate-foreign-keys",
		"success-criteria/data-quality/no-null-values-in-critical-columns", "success-criteria/data-quality/hierarchy-correctly-structured",
		"success-criteria/data-quality/all-resources-owned-by-valid-organizations")
	t.Run("are those of the design, valid, and no others", testConstraintDefinitions)
	t.Run("Hierarchy", testHierarchy)
	t.Run("Owners", testOwners)
	t.Run("Who may read a row", testDerivedColumns)
	t.Run("A new parent", testNewParent)
	t.Run("Two at once", testTwoAtOnce)
}

// wantedConstraints lists the foreign keys and the checks of schema public.
func wantedConstraints() []definition {
	const (
		silently  = "deleting an organization must not delete what it owns"
		leftOver  = "of the legacy schema"
		threeOnly = "there would be more or fewer than three levels"
	)
	wanted := []definition{
		{"organizations.org_hierarchy_valid", "CHECK (((organization_type = 'platform'::public.organization_type) = (parent_organization_id IS NULL)))", threeOnly},
		{"organizations.fk_parent_organization", "FOREIGN KEY (parent_organization_id, parent_organization_type) REFERENCES public.organizations(id, organization_type) ON DELETE RESTRICT", threeOnly},
		{"organizations.organizations_parent_type_derived", "CHECK ((NOT (parent_organization_type IS DISTINCT FROM ( CASE organization_type WHEN 'organization'::public.organization_type THEN 'tenant'::text WHEN 'tenant'::public.organization_type THEN 'platform'::text ELSE NULL::text END)::public.organization_type)))", threeOnly},
		{"organizations.organizations_tenant_derived", "CHECK ((NOT (tenant_organization_id IS DISTINCT FROM CASE organization_type WHEN 'organization'::public.organization_type THEN parent_organization_id WHEN 'tenant'::public.organization_type THEN id ELSE NULL::uuid END)))", "rows would be shared with another tenant than the owner's"},
		{"organizations.organizations_id_is_no_shared_key", "CHECK ((substr((id)::text, 15, 1) <> 'f'::text))", "members of an organization with such an id read what another shares"},
		{"organizations.organizations_slug_not_empty", "CHECK ((slug <> ''::text))", "an organization would have no address"},
		{"user_organizations.user_organizations_role_valid", "CHECK ((role = ANY (ARRAY['admin'::text, 'member'::text, 'viewer'::text])))", "nobody knows what another role may do"},
		{"user_organizations.user_organizations_organization_id_fkey", "FOREIGN KEY (organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE", leftOver},
		{"user_organizations.user_organizations_user_id_fkey", "FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE", leftOver},
		{"agents.agents_tenant_id_fkey", "FOREIGN KEY (tenant_id) REFERENCES public.organizations(id) ON DELETE RESTRICT", silently},
		{"conversations.fk_conversations_owner", "FOREIGN KEY (owner_organization_id) REFERENCES public.organizations(id) ON DELETE RESTRICT", silently},
		{"conversations.conversations_agent_id_fkey", "FOREIGN KEY (agent_id) REFERENCES public.agents(id) ON DELETE SET NULL", leftOver},
		{"conversations.conversations_user_id_fkey", "FOREIGN KEY (user_id) REFERENCES public.users(id)", leftOver},
		{"messages.messages_conversation_id_fkey", "FOREIGN KEY (conversation_id) REFERENCES public.conversations(id) ON DELETE CASCADE", leftOver},
		{"audit_logs.audit_logs_action_check", "CHECK ((action = ANY (ARRAY['INSERT'::text, 'UPDATE'::text, 'DELETE'::text, 'SOFT_DELETE'::text])))", "the history would hold what nobody can read"},
	}
	for _, table := range resourceTables {
		wanted = append(wanted,
			definition{table + ".fk_" + table + "_owner", "FOREIGN KEY (owner_organization_id) REFERENCES public.organizations(id) ON DELETE RESTRICT", silently},
			definition{table + ".fk_" + table + "_owner_tenant", "FOREIGN KEY (owner_organization_id, owner_tenant_id) REFERENCES public.organizations(id, tenant_organization_id) ON UPDATE CASCADE ON DELETE RESTRICT", "rows would stay shared with the tenant that their owner has left"},
			definition{table + "." + table + "_owner_tenant_known", "CHECK (((owner_tenant_id IS NULL) = (owner_organization_id = '00000000-0000-0000-0000-000000000001'::uuid)))", "a row without a tenant escapes the key that moves it with its owner"},
			definition{table + "." + table + "_audience_key_derived", "CHECK ((NOT (audience_key IS DISTINCT FROM authz.audience_key(sharing_scope, owner_organization_id, owner_tenant_id))))", "others would read a row than its scope says"})
	}
	return wanted
}

// filled are the columns that phase 2 fills and that stay so.
func filled() []string {
	columns := []string{"organizations.organization_type", "organizations.slug", "conversations.owner_organization_id"}
	for _, table := range resourceTables {
		columns = append(columns, table+".owner_organization_id", table+".sharing_scope", table+".audience_key")
	}
	return columns
}

// constraintProblems says where a database's constraints are not those of the design.
func constraintProblems(t testing.TB, db beginner) []string {
	t.Helper()
	found := problems("constraint", wantedConstraints(), definitions(t, db, `
		select r.relname || '.' || c.conname, regexp_replace(pg_get_constraintdef(c.oid), '\s+', ' ', 'g')
		from pg_catalog.pg_constraint c
		join pg_catalog.pg_class r on r.oid = c.conrelid
		where r.relnamespace = 'public'::regnamespace and c.contype in ('c', 'f')`))

	nullable := definitions(t, db, `
		select r.relname || '.' || a.attname, (not a.attnotnull)::text
		from pg_catalog.pg_attribute a
		join pg_catalog.pg_class r on r.oid = a.attrelid
		where r.relnamespace = 'public'::regnamespace and r.relkind = 'r' and a.attnum > 0 and not a.attisdropped`)
	for _, column := range filled() {
		if nullable[column] != "false" {
			found = append(found, fmt.Sprintf("column %s may be NULL: nobody would know whose a row is, or who may read it", column))
		}
	}

	// Also in the tables that a later phase, or somebody else, has added.
	for key, action := range definitions(t, db, `
		select format('%s.%s', conrelid::regclass, conname), confdeltype::text
		from pg_catalog.pg_constraint
		where contype = 'f' and confrelid = 'public.organizations'::regclass`) {
		// Who was a member of an organization that is gone, or was to come to its tenant, is so no more.
		ends := strings.HasPrefix(key, "public.user_organizations.") || strings.HasPrefix(key, "tenancy.organization_mapping.")
		if action != "r" && !ends {
			found = append(found, fmt.Sprintf("foreign key %s is not ON DELETE RESTRICT: deleting an organization takes rows with it", key))
		}
	}
	return found
}

func testConstraintDefinitions(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	require.Empty(t, constraintProblems(t, db.Owner))

	const cascade = `alter table public.agents drop constraint fk_agents_owner, add constraint fk_agents_owner foreign key (owner_organization_id) references public.organizations (id) on delete cascade`
	for name, test := range map[string]struct{ fault, problem string }{
		"an owner's key that deletes": {cascade,
			"foreign key public.agents.fk_agents_owner is not ON DELETE RESTRICT: deleting an organization takes rows with it"},
		"and its definition": {cascade,
			"constraint agents.fk_agents_owner is FOREIGN KEY (owner_organization_id) REFERENCES public.organizations(id) ON DELETE CASCADE, " +
				"wanted is FOREIGN KEY (owner_organization_id) REFERENCES public.organizations(id) ON DELETE RESTRICT: deleting an organization must not delete what it owns"},
		"a key that deletes in a table that nobody knows": {`create table public.news (organization_id uuid constraint news_owner references public.organizations (id) on delete cascade)`,
			"foreign key public.news.news_owner is not ON DELETE RESTRICT: deleting an organization takes rows with it"},
		"a missing constraint": {`alter table public.organizations drop constraint org_hierarchy_valid`,
			"constraint organizations.org_hierarchy_valid is missing: there would be more or fewer than three levels"},
		"one that holds for new rows only": {`alter table public.user_organizations drop constraint user_organizations_role_valid, add constraint user_organizations_role_valid check (role in ('admin', 'member', 'viewer')) not valid`,
			"constraint user_organizations.user_organizations_role_valid is CHECK ((role = ANY (ARRAY['admin'::text, 'member'::text, 'viewer'::text]))) NOT VALID, " +
				"wanted is CHECK ((role = ANY (ARRAY['admin'::text, 'member'::text, 'viewer'::text]))): nobody knows what another role may do"},
		"one that nobody wants": {`alter table public.prompts add constraint prompts_owner_filled check (owner_organization_id is not null)`,
			"constraint prompts.prompts_owner_filled is there, and nobody wants it: CHECK ((owner_organization_id IS NOT NULL))"},
		"a column that may be NULL again": {`alter table public.workflows alter column sharing_scope drop not null`,
			"column workflows.sharing_scope may be NULL: nobody would know whose a row is, or who may read it"},
	} {
		t.Run("or the check finds "+name, func(t *testing.T) { finds(t, db.Owner, constraintProblems, test.fault, test.problem) })
	}
}

// attempt is a statement of the backend, which row level security does not hold, and what refuses it.
type attempt struct {
	sql string
	// refusedBy is the constraint, the unique index or, for NOT NULL, the column; "" where the statement must succeed.
	refusedBy string
}

// try runs each attempt as the backend. Where nothing refuses it, it must meet a row.
func try(t *testing.T, db *pgtest.DB, attempts map[string]attempt) {
	t.Helper()
	do(t, db, actor.Service(), func(tx pgx.Tx) {
		for name, a := range attempts {
			t.Run(name, func(t *testing.T) {
				defer savepoint(t, tx)()
				tag, err := tx.Exec(t.Context(), a.sql)
				if a.refusedBy == "" {
					require.NoError(t, err)
					require.Positive(t, tag.RowsAffected())
					return
				}
				requireRefusedBy(t, err, a.refusedBy)
			})
		}
	})
}

func requireRefusedBy(t testing.TB, err error, constraint string) {
	t.Helper()
	var refusal *pgconn.PgError
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, "23", refusal.Code[:2], "%v", err)
	require.Equal(t, constraint, refusal.ConstraintName+refusal.ColumnName, "%v", err)
}

// quoted is an organization's id as SQL.
func quoted(id string) string { return "'" + id + "'" }

func insertOrganization(level fixtures.Level, parent string) string {
	return fmt.Sprintf(`insert into public.organizations (name, slug, organization_type, parent_organization_id) values ('New', 'new', '%s', %s)`, level, parent)
}

// twin is a new tenant with an id that somebody has chosen.
func twin(id string) string {
	return fmt.Sprintf(`insert into public.organizations (id, name, slug, organization_type, parent_organization_id) values ('%s', 'Twin', 'twin', 'tenant', '%s')`, id, fixtures.PlatformID)
}

func place(organization fixtures.Organization, level fixtures.Level, parent string) string {
	return fmt.Sprintf(`update public.organizations set organization_type = '%s', parent_organization_id = %s where id = '%s'`, level, parent, organization.After.ID)
}

func testHierarchy(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-3/validate-hierarchy-constraints")
	const (
		platform, tenant, organization = fixtures.PlatformLevel, fixtures.TenantLevel, fixtures.OrganizationLevel
		parent, valid                  = "fk_parent_organization", "org_hierarchy_valid"
		root                           = "'" + fixtures.PlatformID + "'"
	)
	pharma, novartis, mayo := quoted(fixtures.Pharmaceuticals.ID), quoted(fixtures.Novartis.ID), quoted(fixtures.MayoClinic.ID)
	try(t, phase3(t), map[string]attempt{
		"an organization stands below a tenant":            {insertOrganization(organization, pharma), ""},
		"but not below another organization":               {insertOrganization(organization, novartis), parent},
		"nor below the platform":                           {insertOrganization(organization, root), parent},
		"nor below nobody":                                 {insertOrganization(organization, "null"), valid},
		"nor below somebody who is not there":              {insertOrganization(organization, quoted(fixtures.Alice.ID)), parent},
		"nor below itself":                                 {place(fixtures.Novartis, organization, novartis), parent},
		"a tenant stands below the platform":               {insertOrganization(tenant, root), ""},
		"but not below a tenant":                           {insertOrganization(tenant, pharma), parent},
		"nor below one of its own organizations":           {place(fixtures.Pharmaceuticals, tenant, novartis), parent},
		"nor below nobody, as a tenant":                    {insertOrganization(tenant, "null"), valid},
		"there is no second platform":                      {insertOrganization(platform, "null"), "idx_organizations_one_platform"},
		"and nothing stands above the first":               {place(fixtures.Platform, platform, pharma), valid},
		"an organization may move to another tenant":       {place(fixtures.Novartis, organization, quoted(fixtures.DigitalHealth.ID)), ""},
		"but not to another organization":                  {place(fixtures.Novartis, organization, mayo), parent},
		"an organization may become a tenant":              {place(fixtures.Novartis, tenant, root), ""},
		"a tenant that has organizations stays one":        {place(fixtures.Pharmaceuticals, organization, quoted(fixtures.DigitalHealth.ID)), parent},
		"the platform stays the platform":                  {place(fixtures.Platform, organization, pharma), parent},
		"an organization has a type":                       {`update public.organizations set organization_type = null where slug = 'novartis'`, "organization_type"},
		"an organization has a slug":                       {`update public.organizations set slug = null where slug = 'novartis'`, "slug"},
		"which is not empty":                               {`update public.organizations set slug = '' where slug = 'novartis'`, "organizations_slug_not_empty"},
		"nor another's":                                    {`update public.organizations set slug = 'pfizer' where slug = 'novartis'`, "idx_organizations_slug"},
		"not even that of one which is switched off":       {`update public.organizations set slug = 'sandoz-legacy' where slug = 'novartis'`, "idx_organizations_slug"},
		"but it may be a deleted one's":                    {`with gone as (update public.organizations set slug = 'pfizer', deleted_at = now() where slug = 'sandoz-legacy' returning slug) select from gone`, ""},
		"which does not come back under it":                {`insert into public.organizations (name, slug, organization_type, parent_organization_id, deleted_at) values ('Old Pfizer', 'pfizer', 'organization', ` + pharma + `, now()); update public.organizations set deleted_at = null where name = 'Old Pfizer'`, "idx_organizations_slug"},
		"no organization's id can be a key of shared rows": {`insert into public.organizations (id, name) values ('` + sharedKey(fixtures.Pharmaceuticals.ID) + `', 'Who reads what Pharmaceuticals shares')`, "organizations_id_is_no_shared_key"},
		"not even by an update":                            {`update public.organizations set id = '` + sharedKey(fixtures.PlatformID) + `' where slug = 'sandoz-legacy'`, "organizations_id_is_no_shared_key"},
		"a backend chooses an id":                          {twin("0000000a-0000-1000-8000-000000000001"), ""},
		"but none that a tenant has in another version, or they would share one audience": {twin("00000001-0000-1000-8000-000000000002"), "idx_organizations_shared_key"},
		"nor the platform":                   {twin("00000000-0000-4000-0000-000000000001"), "idx_organizations_shared_key"},
		"nor the quarantine":                 {twin("00000000-0000-4000-0000-000000000002"), "idx_organizations_shared_key"},
		"not even by an update, either":      {`update public.organizations set id = '00000001-0000-7000-8000-000000000002' where slug = 'sandoz-legacy'`, "idx_organizations_shared_key"},
		"a role is one of three":             {`update public.user_organizations set role = 'viewer' where user_id = '` + fixtures.Alice.ID + `'`, ""},
		"and not one that somebody makes up": {`update public.user_organizations set role = 'owner' where user_id = '` + fixtures.Alice.ID + `'`, "user_organizations_role_valid"},
		"nor none":                           {`update public.user_organizations set role = null where user_id = '` + fixtures.Alice.ID + `'`, "role"},
	})
}

func testOwners(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	pharma := quoted(fixtures.Pharmaceuticals.ID)
	const lonely = `(select id from public.organizations where slug = 'new')`
	do(t, db, actor.Service(), func(tx pgx.Tx) {
		for _, table := range append([]string{"conversations"}, resourceTables...) {
			t.Run("an organization is not deleted while it owns rows of "+table, func(t *testing.T) {
				defer savepoint(t, tx)()
				_, err := tx.Exec(t.Context(), insertOrganization(fixtures.OrganizationLevel, pharma))
				require.NoError(t, err)
				tag, err := tx.Exec(t.Context(), `update public.`+table+` set owner_organization_id = `+lonely+` where id = (select min(id::text)::uuid from public.`+table+`)`)
				require.NoError(t, err)
				require.EqualValues(t, 1, tag.RowsAffected())
				_, err = tx.Exec(t.Context(), `delete from public.organizations where slug = 'new'`)
				var refusal *pgconn.PgError
				require.ErrorAs(t, err, &refusal)
				require.Equal(t, table, refusal.TableName, "%v", err)
				require.Contains(t, []string{"fk_" + table + "_owner", "fk_" + table + "_owner_tenant", table + "_tenant_id_fkey"}, refusal.ConstraintName)
			})
		}
	})
	t.Run("one that owns nothing is deleted, and its memberships with it", func(t *testing.T) {
		do(t, db, actor.Service(), func(tx pgx.Tx) {
			_, err := tx.Exec(t.Context(), insertOrganization(fixtures.OrganizationLevel, pharma)+`;
				insert into public.user_organizations (user_id, organization_id) values (`+quoted(fixtures.Alice.ID)+`, `+lonely+`)`)
			require.NoError(t, err)
			const memberships = `select organization_id::text from public.user_organizations where user_id = $1 order by 1`
			require.Len(t, collect[string](t, tx, memberships, fixtures.Alice.ID), 2)
			_, err = tx.Exec(t.Context(), `delete from public.organizations where slug = 'new'`)
			require.NoError(t, err)
			require.Equal(t, []string{fixtures.Novartis.ID}, collect[string](t, tx, memberships, fixtures.Alice.ID))
		})
	})
	try(t, db, map[string]attempt{
		"a tenant is not deleted while it has organizations": {insertOrganization(fixtures.TenantLevel, quoted(fixtures.PlatformID)) + `;
			update public.organizations set parent_organization_id = ` + lonely + ` where slug = 'novartis';
			delete from public.organizations where slug = 'new'`, "fk_parent_organization"},
	})
}

// The triggers derive who may read a row. Anybody can switch them off with a setting, and gains nothing by it.
func testDerivedColumns(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/data-quality/sharing-scopes-correctly-assigned")
	db := phase3(t)
	attempts := map[string]attempt{}
	row := map[string]fixtures.Resource{}
	for _, r := range fixtures.Resources() {
		if r.After.Owner == fixtures.Novartis.ID && r.After.Scope == fixtures.OrganizationLevel {
			row[r.Table] = r
		}
	}
	require.Len(t, row, len(resourceTables))
	for _, table := range resourceTables {
		set := func(assignments string) string {
			return asBackfill + fmt.Sprintf(`update public.%s set %s where id = '%s'`, table, assignments, row[table].ID)
		}
		another, derived := "fk_"+table+"_owner_tenant", table+"_audience_key_derived"
		attempts["in "+table+" a row is written as it is"] = attempt{set(`audience_key = owner_organization_id`), ""}
		attempts["in "+table+" a private row is not shown to everybody"] = attempt{set(`audience_key = ` + quoted(sharedKey(fixtures.PlatformID))), derived}
		attempts["in "+table+" a row's audience is not another organization"] = attempt{set(`audience_key = ` + quoted(fixtures.Pfizer.ID)), derived}
		attempts["in "+table+" a row's audience is not nobody"] = attempt{set(`audience_key = null`), "audience_key"}
		attempts["in "+table+" a row is not shared with another tenant"] = attempt{set(`sharing_scope = 'tenant', owner_tenant_id = ` + quoted(fixtures.DigitalHealth.ID) + `, audience_key = ` + quoted(sharedKey(fixtures.DigitalHealth.ID))), another}
		attempts["in "+table+" a row does not lose its tenant"] = attempt{set(`owner_tenant_id = null`), table + "_owner_tenant_known"}
		attempts["in "+table+" a row does not change hands without its tenant"] = attempt{set(`owner_organization_id = ` + quoted(fixtures.MayoClinic.ID) + `, audience_key = ` + quoted(fixtures.MayoClinic.ID)), another}
		attempts["in "+table+" a row has a scope"] = attempt{set(`sharing_scope = null`), "sharing_scope"}
		attempts["in "+table+" a row has an owner"] = attempt{set(`owner_organization_id = null`), "owner_organization_id"}
	}
	attempts["the platform has no tenant to share a new row with"] = attempt{`insert into public.agents (name, owner_organization_id, sharing_scope) values ('New', ` + quoted(fixtures.PlatformID) + `, 'tenant')`, "audience_key"}
	attempts["nor one that it has"] = attempt{`update public.agents set sharing_scope = 'tenant' where owner_organization_id = ` + quoted(fixtures.PlatformID), "audience_key"}
	attempts["a conversation has an owner"] = attempt{asBackfill + `update public.conversations set owner_organization_id = null where id = ` + quoted(fixtures.BobConversation.ID), "owner_organization_id"}
	attempts["who exists"] = attempt{asBackfill + `update public.conversations set owner_organization_id = user_id where id = ` + quoted(fixtures.BobConversation.ID), "fk_conversations_owner"}
	try(t, db, attempts)

	for column, test := range map[string]struct{ sql, refusedBy string }{
		"tenant":             {`tenant_organization_id = ` + quoted(fixtures.DigitalHealth.ID), "organizations_tenant_derived"},
		"tenant, or none":    {`tenant_organization_id = null`, "organizations_tenant_derived"},
		"type of its parent": {`parent_organization_type = 'platform', parent_organization_id = ` + quoted(fixtures.PlatformID), "organizations_parent_type_derived"},
	} {
		t.Run("not even the owner of the table gives an organization another "+column, func(t *testing.T) {
			tx, err := db.Owner.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			_, err = tx.Exec(t.Context(), `alter table public.organizations disable trigger set_tenant; update public.organizations set `+test.sql+` where slug = 'novartis'`)
			requireRefusedBy(t, err, test.refusedBy)
		})
	}
}

// audience is the key under which the row is found once its owner is in this tenant.
func audience(r fixtures.Resource, tenant *string) string {
	switch r.After.Scope {
	case fixtures.PlatformLevel:
		return sharedKey(fixtures.PlatformID)
	case fixtures.TenantLevel:
		return sharedKey(*tenant)
	default:
		return r.After.Owner
	}
}

// sharedKey is the key of what a tenant or the platform shares: its id with the nibble f in place of the UUID's version.
func sharedKey(organization string) string { return organization[:14] + "f" + organization[15:] }

func testNewParent(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	var shared int
	check := func(t *testing.T, tx querier, tenant *string) {
		for _, r := range fixtures.Resources() {
			wanted := tenantOf(r.After.Owner)
			if r.After.Owner == fixtures.Novartis.ID {
				wanted = tenant
				if r.After.Scope == fixtures.TenantLevel {
					shared++
				}
			}
			is := collect[string](t, tx, `select concat(owner_tenant_id, ' ', audience_key) from public.`+r.Table+` where id = $1`, r.ID)
			want := " "
			if wanted != nil {
				want = *wanted + " "
			}
			require.Equal(t, []string{want + audience(r, wanted)}, is, r.Name)
		}
	}
	t.Run("takes the organization's rows along in the same statement, and no others", func(t *testing.T) {
		do(t, db, actor.Service(), func(tx pgx.Tx) {
			check(t, tx, &fixtures.Pharmaceuticals.ID)
			_, err := tx.Exec(t.Context(), place(fixtures.Novartis, fixtures.OrganizationLevel, quoted(fixtures.DigitalHealth.ID)))
			require.NoError(t, err)
			check(t, tx, &fixtures.DigitalHealth.ID)
		})
		require.Positive(t, shared, "Novartis must share something with its tenant")
	})
	t.Run("and so does the end of being an organization of a tenant", func(t *testing.T) {
		do(t, db, actor.Service(), func(tx pgx.Tx) {
			_, err := tx.Exec(t.Context(), place(fixtures.Novartis, fixtures.TenantLevel, quoted(fixtures.PlatformID)))
			require.NoError(t, err)
			check(t, tx, &fixtures.Novartis.ID)
		})
	})
}

// What two transactions do at once, neither of which sees what the other has done.
func testTwoAtOnce(t *testing.T) {
	t.Parallel()
	const tenants = `select owner_tenant_id::text from public.agents where name = 'Meanwhile'`
	move := place(fixtures.Novartis, fixtures.OrganizationLevel, quoted(fixtures.DigitalHealth.ID))
	agent := `insert into public.agents (name, owner_organization_id, sharing_scope) values ('Meanwhile', '` + fixtures.Novartis.ID + `', 'tenant')`
	child := insertOrganization(fixtures.OrganizationLevel, `(select id from public.organizations where name = 'Empty tenant')`)
	demote := `update public.organizations set organization_type = 'organization', parent_organization_id = '` + fixtures.Pharmaceuticals.ID + `' where name = 'Empty tenant'`
	for name, test := range map[string]struct {
		first, second string
		refusedBy     string
		tenants       []string // of the row that is written
	}{
		"a row that is written while its owner moves goes with it":                  {agent, move, "", []string{fixtures.DigitalHealth.ID}},
		"a row that is written after its owner moved is not for the tenant it left": {move, agent, "fk_agents_owner_tenant", []string{}},
		"a tenant stays one while an organization comes to it":                      {child, demote, "fk_parent_organization", []string{}},
		"no organization comes to a tenant that is none any more":                   {demote, child, "fk_parent_organization", []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := phase3(t)
			ctx := t.Context()
			_, err := db.Owner.Exec(ctx, `insert into public.organizations (name, slug, organization_type, parent_organization_id) values ('Empty tenant', 'empty', 'tenant', '`+fixtures.PlatformID+`')`)
			require.NoError(t, err)
			first, err := db.Owner.Begin(ctx)
			require.NoError(t, err)
			defer first.Rollback(ctx)
			_, err = first.Exec(ctx, test.first)
			require.NoError(t, err)

			conn := db.Connect(t, pgtest.OwnerRole)
			second := make(chan error, 1)
			go func() {
				_, err := conn.Exec(ctx, test.second)
				second <- err
			}()
			require.Eventually(t, func() bool {
				return len(collect[int](t, db.Superuser, `select 1 from pg_stat_activity where pid = $1 and wait_event_type = 'Lock'`, conn.PgConn().PID())) == 1
			}, 10*time.Second, 2*time.Millisecond, "the second must wait for the first")
			require.NoError(t, first.Commit(ctx))
			if err := <-second; test.refusedBy != "" {
				requireRefusedBy(t, err, test.refusedBy)
			} else {
				require.NoError(t, err)
			}
			require.Equal(t, test.tenants, collect[string](t, db.Owner, tenants))
		})
	}
}
