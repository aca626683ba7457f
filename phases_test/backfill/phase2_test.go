package backfill_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

func TestPhase2(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-2/run-phase-2-migration-in-staging")
	t.Run("Before", testBefore)
	t.Run("Organizations", testOrganizations)
	t.Run("Rows", testRows)
	t.Run("What is not backfilled", testUntouched)
	t.Run("The platform's new id", testPlatform)
	t.Run("Nobody sees more", testVisibility)
	t.Run("Verification queries", testVerification)
	t.Run("Report", testReport)
	t.Run("The old application", testOldApplication)
}

func testBefore(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-2/verify-data-quality", "phase-2/review-current-tenant-type-distribution")
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)

	t.Run("organizations without a name are listed", func(t *testing.T) {
		require.Empty(t, ask(t, db, "organizations_without_a_name"))
		phasetest.Exec(t, db, `update public.organizations set name = ' ' where id = $1`, fixtures.UnknownBiotech.ID)
		found := ask(t, db, "organizations_without_a_name")
		require.Len(t, found, 1)
		require.Equal(t, fixtures.UnknownBiotech.ID, found[0][0])
	})
	t.Run("rows that name no organization are counted, table by table", func(t *testing.T) {
		want := map[string]int{}
		lost := func(table string, tenant *string) {
			known := slices.ContainsFunc(fixtures.Organizations, func(o fixtures.Organization) bool { return tenant != nil && o.ID == *tenant })
			if !known {
				want[table]++
			}
		}
		for _, r := range fixtures.Resources() {
			lost(r.Table, r.TenantID)
		}
		for _, c := range fixtures.Conversations {
			lost("conversations", c.TenantID)
		}
		require.Len(t, want, len(tables()), "a table without such a row proves nothing")
		require.Equal(t, counts(want), ask(t, db, "rows_without_an_organization"))
	})
	t.Run("tenant types are counted with the keys that tell a tenant from a company of that type", func(t *testing.T) {
		require.Equal(t, [][]string{
			{"digital_health", "2", "{digital-health,NULL}"},
			{"pharmaceuticals", "2", "{pfizer,pharma}"},
			{"standard", "4", "{digital-health,pharma,NULL}"},
			{"system", "1", "{vital-platform}"},
		}, ask(t, db, "tenant_types"))
	})
}

// place is an organization's place with what is derived from it, by its columns.
type place struct {
	Name, Type, Parent, Slug string
	ParentType, Tenant       string
	Active                   bool
}

func testOrganizations(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-2/verify-phase-2-completion", "phase-2/verify-platform-organization", "phase-2/verify-tenant-organizations",
		"phase-2/verify-child-organizations", "production-deployment/verify-phase-2-in-production/hierarchy-looks-correct",
		"success-criteria/data-quality/hierarchy-correctly-structured")
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)

	legacy := map[string]fixtures.Organization{
		fixtures.QuarantineTenantID:       {Name: fixtures.QuarantineTenantName, Active: false},
		fixtures.QuarantineOrganizationID: {Name: fixtures.QuarantineOrganizationName, Active: true},
	}
	for _, o := range fixtures.Organizations {
		legacy[o.After.ID] = o
	}
	want := map[string]place{}
	for _, p := range fixtures.Hierarchy() {
		parent, parentType := "", ""
		switch p.Type {
		case fixtures.TenantLevel:
			parent, parentType = *p.Parent, "platform"
		case fixtures.OrganizationLevel:
			parent, parentType = *p.Parent, "tenant"
		}
		want[p.ID] = place{legacy[p.ID].Name, string(p.Type), parent, p.Slug, parentType, tenantOf(p.ID), legacy[p.ID].Active}
	}
	require.Len(t, want, len(fixtures.Organizations)+2)
	require.Equal(t, want, places(t, db))
}

func testRows(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-2/run-verification-queries", "production-deployment/verify-phase-2-in-production/no-null-values-remain",
		"production-deployment/verify-phase-2-in-production/verify-data-backfill", "success-criteria/data-quality/no-null-values-in-critical-columns",
		"success-criteria/data-quality/sharing-scopes-correctly-assigned", "success-criteria/data-quality/all-resources-owned-by-valid-organizations")
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)
	require.Equal(t, expected(), rows(t, db))
}

// What phase 2 may write, by table.
var written = map[string][]string{
	"organizations":       {"organization_type", "parent_organization_id", "slug", "parent_organization_type", "tenant_organization_id"},
	"agents":              {"owner_organization_id", "sharing_scope", "owner_tenant_id", "audience_key"},
	"knowledge_documents": {"owner_organization_id", "sharing_scope", "owner_tenant_id", "audience_key"},
	"prompts":             {"owner_organization_id", "sharing_scope", "owner_tenant_id", "audience_key"},
	"workflows":           {"owner_organization_id", "sharing_scope", "owner_tenant_id", "audience_key"},
	"use_cases":           {"owner_organization_id", "sharing_scope", "owner_tenant_id", "audience_key"},
	"capabilities":        {"owner_organization_id", "sharing_scope", "owner_tenant_id", "audience_key"},
	"conversations":       {"owner_organization_id"},
	"users":               {},
	"user_organizations":  {},
	"messages":            {},
}

func testUntouched(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	before := untouchable(t, db)
	db.Migrate(t, schema.Phase2)
	after := untouchable(t, db)
	for table := range written {
		t.Run("of "+table+" everything else is as it was, save for the platform's id", func(t *testing.T) {
			require.NotEmpty(t, before[table])
			var want []string
			for _, row := range before[table] {
				want = append(want, strings.ReplaceAll(row, fixtures.Platform.ID, fixtures.PlatformID))
			}
			require.ElementsMatch(t, want, after[table])
		})
	}
}

// untouchable is the rows of all tables, without what phase 2 writes and makes.
func untouchable(t *testing.T, db *pgtest.DB) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for table, columns := range written {
		found[table] = query[string](t, db, fmt.Sprintf(
			`select (to_jsonb(r) - $1::text[])::text from public.%s r where r.id not in ('%s', '%s')`,
			table, fixtures.QuarantineTenantID, fixtures.QuarantineOrganizationID), columns)
	}
	return found
}

func testPlatform(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	phasetest.Exec(t, db, `create schema billing`)
	phasetest.Exec(t, db, `create table billing.invoices (number integer primary key, payer uuid references public.organizations on delete cascade)`)
	phasetest.Exec(t, db, `insert into billing.invoices values (1, $1), (2, $2)`, fixtures.Platform.ID, fixtures.Pfizer.ID)
	phasetest.Exec(t, db, `insert into public.agents (name, tenant_id) values ('Between the phases', $1)`, fixtures.Platform.ID)
	phasetest.Exec(t, db, `insert into public.conversations (user_id, tenant_id) values ($1, $2)`, fixtures.Root.ID, fixtures.Platform.ID)
	db.Migrate(t, schema.Phase2)

	t.Run("what nobody told the migration of, but a foreign key, follows", func(t *testing.T) {
		require.Equal(t, []string{"1 " + fixtures.PlatformID, "2 " + fixtures.Pfizer.ID},
			query[string](t, db, `select number || ' ' || payer from billing.invoices order by number`))
	})
	t.Run("what was written after phase 1 follows with its owner and its audience", func(t *testing.T) {
		require.Equal(t, derive(fixtures.PlatformID, fixtures.OrganizationLevel), rows(t, db)["agents Between the phases"])
	})
	t.Run("nothing says the old id any more", func(t *testing.T) {
		for table := range written {
			require.Empty(t, query[string](t, db, fmt.Sprintf(`select r::text from public.%s r where r::text like '%%%s%%'`, table, fixtures.Platform.ID)), table)
		}
	})
	t.Run("a platform that has the id already is not moved", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1)
		phasetest.Exec(t, db, `insert into public.organizations (id, name, tenant_type) values ($1, 'VITAL', 'system')`, fixtures.PlatformID)
		db.Migrate(t, schema.Phase2)
		require.Equal(t, place{Name: "VITAL", Type: "platform", Slug: "vital-platform", Active: true}, places(t, db)[fixtures.PlatformID])
		require.Equal(t, []int{0}, query[int](t, db, `select count(*) from tenancy.moved_organization`))
	})
	t.Run("where there is no platform one is made", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1)
		db.Migrate(t, schema.Phase2)
		require.Equal(t, place{Name: fixtures.Platform.Name, Type: "platform", Slug: "vital-platform", Active: true}, places(t, db)[fixtures.PlatformID])
	})
}

func testVisibility(t *testing.T) {
	t.Parallel()
	legacy := pgtest.New(t, schema.Legacy, fixtures.World()...)
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)
	audience := map[string]string{}
	for name, row := range rows(t, db) {
		audience[name] = row.Audience
	}

	for _, user := range fixtures.Users {
		t.Run(user.Name, func(t *testing.T) {
			t.Parallel()
			before, after := visible(t, legacy, user), visible(t, db, user)
			made := []string{"organizations " + fixtures.QuarantineOrganizationName, "organizations " + fixtures.QuarantineTenantName}
			require.Equal(t, before, slices.DeleteFunc(after, func(row string) bool { return slices.Contains(made, row) }),
				"until phase 4 the old policies rule, and show what they showed")

			// What phase 4 will show by the audience that phase 2 has given.
			mine := []string{shared(fixtures.PlatformID)}
			for _, m := range fixtures.Memberships {
				if m.UserID == user.ID && m.Active && live(m.OrganizationID) {
					organization := fixtures.AfterID(m.OrganizationID)
					mine = append(mine, organization)
					if tenant := tenantOf(organization); tenant != "" {
						mine = append(mine, shared(tenant))
					}
				}
			}
			offered := 0
			for _, agent := range fixtures.Agents {
				// A row that had no owner is new to the members of the one that it has got: that is what an owner is for.
				if name := "agents " + agent.Name; agent.TenantID != nil && slices.Contains(mine, audience[name]) {
					require.True(t, slices.Contains(before, name), "%s would see %q, which the old policies hide", user.Name, agent.Name)
					offered++
				}
			}
			require.Positive(t, offered, "everybody sees what is shared with everybody")
		})
	}
	t.Run("Bob of Pfizer sees an agent of Pfizer, and Alice of Novartis does not", func(t *testing.T) {
		require.Contains(t, visible(t, db, fixtures.Bob), "agents "+fixtures.PfizerAgent.Name)
		require.NotContains(t, visible(t, db, fixtures.Alice), "agents "+fixtures.PfizerAgent.Name)
	})
}

// live says whether a legacy organization, and its tenant, are active.
func live(organization string) bool {
	return slices.ContainsFunc(fixtures.Organizations, func(o fixtures.Organization) bool {
		return o.ID == organization && o.Active && tenantOf(o.After.ID) != fixtures.QuarantineTenantID
	})
}

// visible is the rows of all tables that a user reads, by what does not change.
func visible(t *testing.T, db *pgtest.DB, user fixtures.User) (names []string) {
	t.Helper()
	var selects []string
	for _, table := range tables() {
		selects = append(selects, fmt.Sprintf(`select '%s ' || %s from public.%[1]s`, table, nameColumn(table)))
	}
	selects = append(selects,
		`select 'organizations ' || name from public.organizations`,
		`select 'users ' || email from public.users`,
		`select 'user_organizations ' || id from public.user_organizations`,
		`select 'messages ' || id from public.messages`)
	require.NoError(t, actor.User(user.ID).Do(t, db, func(tx pgx.Tx) error {
		rows, err := tx.Query(t.Context(), strings.Join(selects, " union all ")+" order by 1")
		require.NoError(t, err)
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	}))
	return names
}

func testVerification(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-2/verify-phase-2-completion", "phase-2/run-verification-queries", "production-deployment/verify-phase-2-in-production")
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)
	// As phase 2 left it if a trigger or a batch were broken: the triggers would mend it.
	const broken = `set local tenancy.backfill = 'on'; `

	phasetest.Verification(t, db, schema.Phase2, map[string]string{
		"organizations_without_a_name":       "",
		"rows_without_an_organization":       "",
		"tenant_types":                       "",
		"hierarchy":                          "",
		"scopes":                             "",
		"nulls_in_rows":                      broken + `update public.conversations set owner_organization_id = null where title like 'Alice asks%'`,
		"nulls_in_organizations":             `update public.organizations set slug = '' where name = 'Pfizer'`,
		"agents_by_organization":             "",
		"duplicate_slugs":                    `update public.organizations set slug = 'pfizer' where name = 'Novartis'`,
		"platform_organization":              `insert into public.organizations (name, organization_type, slug) values ('Another', 'platform', 'another')`,
		"tenant_organizations":               `update public.organizations set organization_type = 'organization' where slug in ('pharma', 'digital-health')`,
		"tenants_not_below_the_platform":     `update public.organizations set parent_organization_id = null where slug = 'pharma'`,
		"child_organizations":                "",
		"children_whose_parent_is_no_tenant": `update public.organizations set parent_organization_id = gen_random_uuid() where slug = 'pfizer'`,
		"dangling_owners":                    broken + `update public.capabilities set owner_organization_id = gen_random_uuid() where code = 'CAP-PFE-1'`,
		"derived_columns":                    broken + `update public.agents set audience_key = '` + shared(fixtures.Pharmaceuticals.ID) + `' where name = 'Agent of the tenant itself'`,
		"organizations_in_quarantine":        "",
		"rows_in_quarantine":                 "",
		"private_rows_of_the_platform":       "",
	})
	t.Run("what somebody should look at is listed", func(t *testing.T) {
		checklist.Proves(t, "phase-2/if-data-looks-incorrect-document-issues")
		require.Equal(t, counts(owned(fixtures.QuarantineOrganizationID, "")), ask(t, db, "rows_in_quarantine"))
		require.Equal(t, counts(owned(fixtures.PlatformID, fixtures.OrganizationLevel)), slices.Insert(ask(t, db, "private_rows_of_the_platform"), 2, []string{"conversations", "0"}))
		found := ask(t, db, "organizations_in_quarantine")
		require.Len(t, found, 1)
		require.Equal(t, fixtures.UnknownBiotech.ID, found[0][0])
	})
}

func testReport(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-2/if-data-looks-incorrect-document-issues", "production-deployment/verify-phase-2-in-production/check-migration-log")
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	f, err := schema.Migration(schema.Phase2)
	require.NoError(t, err)
	log, err := db.Run(t, f)
	require.NoError(t, err)
	var notices []string
	for _, step := range log.Steps {
		notices = append(notices, step.Notices...)
	}

	want := []string{"NOTICE: in quarantine, because nothing says which tenant it belongs to: organization " + fixtures.UnknownBiotech.ID + " (Unknown Biotech)"}
	for table, n := range owned(fixtures.QuarantineOrganizationID, "") {
		want = append(want, fmt.Sprintf("NOTICE: in quarantine, because nothing says whose they are: %d rows of %s", n, table))
	}
	for table, n := range owned(fixtures.PlatformID, fixtures.OrganizationLevel) {
		want = append(want, fmt.Sprintf("NOTICE: private to the platform's own members, because they were not shown to everybody before: %d rows of %s", n, table))
	}
	require.ElementsMatch(t, want, notices)
}

func testOldApplication(t *testing.T) {
	t.Parallel()
	phasetest.OldApplication(t, pgtest.New(t, schema.Phase2, fixtures.World()...))
}

// What a test knows of the world ----------------------------------------------------

// row is whose a row is, with whom it is shared, and who may read it therefore.
type row struct{ Owner, Scope, Tenant, Audience string }

// derive computes by hand what the database derives from an owner and a scope; a
// conversation has no scope, and nothing is derived.
func derive(owner string, scope fixtures.Level) row {
	tenant := tenantOf(owner)
	switch scope {
	case fixtures.PlatformLevel:
		return row{owner, string(scope), tenant, shared(fixtures.PlatformID)}
	case fixtures.TenantLevel:
		return row{owner, string(scope), tenant, shared(tenant)}
	case fixtures.OrganizationLevel:
		return row{owner, string(scope), tenant, owner}
	default:
		return row{Owner: owner}
	}
}

// shared is the audience of what an organization shares: its id, with an f where a
// UUID has its version.
func shared(organization string) string { return organization[:14] + "f" + organization[15:] }

// tenantOf is the tenant of an organization, "" for the platform.
func tenantOf(organization string) string {
	for _, p := range fixtures.Hierarchy() {
		switch {
		case p.ID == organization && p.Type == fixtures.TenantLevel:
			return p.ID
		case p.ID == organization && p.Type == fixtures.OrganizationLevel:
			return *p.Parent
		}
	}
	return ""
}

// expected is every row of the world after phase 2, by its table and name.
func expected() map[string]row {
	all := map[string]row{}
	for _, r := range fixtures.Resources() {
		all[r.Table+" "+r.Name] = derive(r.After.Owner, r.After.Scope)
	}
	for _, c := range fixtures.Conversations {
		all["conversations "+c.Title] = derive(c.After.Owner, "")
	}
	return all
}

// owned counts the rows of an owner and a scope after phase 2, by table. Without a
// scope it counts conversations, too.
func owned(owner string, scope fixtures.Level) map[string]int {
	n := map[string]int{}
	for name, r := range expected() {
		if r.Owner == owner && (scope == "" || r.Scope == string(scope)) {
			table, _, _ := strings.Cut(name, " ")
			n[table]++
		}
	}
	return n
}

// tables lists the tables whose rows have an owner.
func tables() []string {
	names := []string{"conversations"}
	for _, r := range fixtures.Resources() {
		if !slices.Contains(names, r.Table) {
			names = append(names, r.Table)
		}
	}
	return names
}

func nameColumn(table string) string {
	if table == "conversations" {
		return "title"
	}
	return fixtures.Resource{Table: table}.NameColumn()
}

// What a test asks of a database ----------------------------------------------------

// rows is every row that has an owner, by its table and name.
func rows(t *testing.T, db *pgtest.DB) map[string]row {
	t.Helper()
	all := map[string]row{}
	for _, table := range tables() {
		derived := "sharing_scope, owner_tenant_id, audience_key"
		if table == "conversations" {
			derived = "null, null, null"
		}
		found, err := db.Owner.Query(t.Context(), fmt.Sprintf(
			`select concat('%s ', %s), array(select coalesce(v, '') from unnest(array[owner_organization_id::text, %s]::text[]) v) from public.%[1]s`,
			table, nameColumn(table), derived))
		require.NoError(t, err)
		var name string
		var v []string
		_, err = pgx.ForEachRow(found, []any{&name, &v}, func() error {
			require.NotContains(t, all, name)
			all[name] = row{v[0], v[1], v[2], v[3]}
			return nil
		})
		require.NoError(t, err)
	}
	return all
}

// places is every organization's place, by its id.
func places(t *testing.T, db *pgtest.DB) map[string]place {
	t.Helper()
	found, err := db.Owner.Query(t.Context(), `
		select id::text, coalesce(name, ''), coalesce(organization_type::text, ''), coalesce(parent_organization_id::text, ''), coalesce(slug, ''),
			coalesce(parent_organization_type::text, ''), coalesce(tenant_organization_id::text, ''), is_active
		from public.organizations`)
	require.NoError(t, err)
	all := map[string]place{}
	var id string
	var p place
	_, err = pgx.ForEachRow(found, []any{&id, &p.Name, &p.Type, &p.Parent, &p.Slug, &p.ParentType, &p.Tenant, &p.Active}, func() error {
		all[id] = p
		return nil
	})
	require.NoError(t, err)
	return all
}

// ask runs a verification query and returns its rows.
func ask(t *testing.T, db *pgtest.DB, name string) [][]string {
	t.Helper()
	f, err := schema.Verification(schema.Phase2)
	require.NoError(t, err)
	queries, err := verify.Parse(f)
	require.NoError(t, err)
	for _, q := range queries {
		if q.Name == name {
			result, err := verify.Run(t.Context(), db.Owner, q)
			require.NoError(t, err)
			return result.Rows
		}
	}
	require.Fail(t, "no such query", name)
	return nil
}

// counts is what a verification query that counts by table returns.
func counts(n map[string]int) (rows [][]string) {
	for _, table := range slices.Sorted(slices.Values(tables())) {
		rows = append(rows, []string{table, fmt.Sprint(n[table])})
	}
	return rows
}

func query[T any](t *testing.T, db *pgtest.DB, sql string, args ...any) []T {
	t.Helper()
	rows, err := db.Owner.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err)
	return found
}

var _ = catalog.Diff[catalog.Data]
