package backfill_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
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
	t.Run("Both generations", testBothGenerations)
	t.Run("Where an organization belongs", testPlaces)
	t.Run("Slugs", testSlugs)
	t.Run("Whose a row is", testOwners)
	t.Run("Other databases", testVariants)
	t.Run("Again", testAgain)
	t.Run("Corrections", testCorrections)
	t.Run("Killed", testKilled)
	t.Run("Writers meanwhile", testWriters)
	t.Run("Refusals", testRefusals)
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

func testBothGenerations(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)
	old := fixtures.Platform.ID // which the old application may still send
	novartis, pfizer, mayo := fixtures.Novartis.ID, fixtures.Pfizer.ID, fixtures.MayoClinic.ID
	const private, tenant, platform = fixtures.OrganizationLevel, fixtures.TenantLevel, fixtures.PlatformLevel

	require.NoError(t, actor.Service().Do(t, db, func(tx pgx.Tx) error {
		for name, test := range map[string]struct {
			sql      string
			args     []any
			want     row
			tenantID string
		}{
			"old: an agent of Novartis": {
				`insert into public.agents (name, tenant_id) values ('x', $1)`, []any{novartis}, derive(novartis, private), novartis},
			"old: an agent of the platform by the id that it had": {
				`insert into public.agents (name, tenant_id) values ('x', $1)`, []any{old}, derive(fixtures.PlatformID, private), fixtures.PlatformID},
			"old: a public agent": {
				`insert into public.agents (name, tenant_id, metadata) values ('x', $1, '{"is_public": "True"}')`, []any{novartis}, derive(novartis, platform), novartis},
			"old: an agent that is shared with the tenant": {
				`insert into public.agents (name, tenant_id, metadata) values ('x', $1, '{"is_tenant_shared": true}')`, []any{mayo}, derive(mayo, tenant), mayo},
			"old: a shared agent of the platform, which has no tenant": {
				`insert into public.agents (name, tenant_id, metadata) values ('x', $1, '{"is_tenant_shared": true}')`, []any{old}, derive(fixtures.PlatformID, private), fixtures.PlatformID},
			"old: a public document by a column": {
				`insert into public.knowledge_documents (title, tenant_id, is_public) values ('x', $1, true)`, []any{pfizer}, derive(pfizer, platform), pfizer},
			"old: a prompt without an owner, by somebody of one organization": {
				`insert into public.prompts (name, created_by) values ('x', $1)`, []any{fixtures.Bob.ID}, derive(pfizer, private), ""},
			"old: a prompt without an owner, by somebody of two": {
				`insert into public.prompts (name, created_by) values ('x', $1)`, []any{fixtures.Dana.ID}, derive(fixtures.QuarantineOrganizationID, private), ""},
			"old: a prompt without an owner, by the platform's admin": {
				`insert into public.prompts (name, created_by) values ('x', $1)`, []any{fixtures.Root.ID}, derive(fixtures.QuarantineOrganizationID, private), ""},
			"old: a public use case of nobody": {
				`insert into public.use_cases (title) values ('x')`, nil, derive(fixtures.QuarantineOrganizationID, private), ""},
			"old: a workflow of an organization that is gone": {
				`insert into public.workflows (name, tenant_id, created_by) values ('x', gen_random_uuid(), $1)`, []any{fixtures.Kim.ID}, derive(fixtures.KaiserPermanente.ID, private), "something else"},
			"old: an agent that moves to Pfizer, shared with the tenant of Mayo Clinic before": {
				`update public.agents set tenant_id = $1 where id = $2`, []any{pfizer, fixtures.MayoAgent.ID}, derive(pfizer, tenant), pfizer},
			"old: a shared agent that moves to the platform, by the id that it had": {
				`update public.agents set tenant_id = $1 where id = $2`, []any{old, fixtures.MayoAgent.ID}, derive(fixtures.PlatformID, private), fixtures.PlatformID},
			"old: an agent that loses its owner, and still has its creator": {
				`update public.agents set tenant_id = null where id = $1`, []any{fixtures.PfizerAgent.ID}, derive(pfizer, private), ""},
			"old: an agent that becomes public": {
				`update public.agents set metadata = '{"is_public": true}' where id = $1`, []any{fixtures.PfizerAgent.ID}, derive(pfizer, platform), pfizer},
			"old: an agent that is public no more": {
				`update public.agents set metadata = '{}' where id = $1`, []any{fixtures.PfizerPublicAgent.ID}, derive(pfizer, private), pfizer},
			"old: a rename leaves a row that had to be given an owner alone": {
				`update public.knowledge_documents set title = 'y' where id = $1`, []any{fixtures.DanglingDocument.ID}, derive(mayo, private), *fixtures.DanglingDocument.TenantID},
			"new: an agent of the tenant itself, private": {
				`insert into public.agents (name, owner_organization_id) values ('x', $1)`, []any{fixtures.Pharmaceuticals.ID},
				derive(fixtures.Pharmaceuticals.ID, private), fixtures.Pharmaceuticals.ID},
			"new: an agent of the tenant, for its organizations": {
				`insert into public.agents (name, owner_organization_id, sharing_scope) values ('x', $1, 'tenant')`, []any{fixtures.Pharmaceuticals.ID},
				derive(fixtures.Pharmaceuticals.ID, tenant), fixtures.Pharmaceuticals.ID},
			"new: a capability for everybody": {
				`insert into public.capabilities (name, owner_organization_id, sharing_scope) values ('x', $1, 'platform')`, []any{novartis}, derive(novartis, platform), novartis},
			"new: an agent that moves to another tenant": {
				`update public.agents set owner_organization_id = $1 where id = $2`, []any{novartis, fixtures.MayoAgent.ID}, derive(novartis, tenant), novartis},
			"new: an agent that is shared": {
				`update public.agents set sharing_scope = 'tenant' where id = $1`, []any{fixtures.PfizerAgent.ID}, derive(pfizer, tenant), pfizer},
			"new: an owner that does not exist": {
				`insert into public.prompts (name, owner_organization_id, created_by) values ('x', gen_random_uuid(), $1)`, []any{fixtures.Kim.ID}, derive(fixtures.KaiserPermanente.ID, private), "something else"},
			"forged: an audience": {
				`insert into public.agents (name, owner_organization_id, audience_key, owner_tenant_id) values ('x', $1, $2, $2)`, []any{pfizer, novartis}, derive(pfizer, private), pfizer},
			"forged: an audience that is there": {
				`update public.agents set audience_key = $1 where id = $2`, []any{novartis, fixtures.PfizerAgent.ID}, derive(pfizer, private), pfizer},
		} {
			t.Run(name, func(t *testing.T) {
				got, tenantID := write(t, tx, test.sql+` returning owner_organization_id::text, sharing_scope::text, owner_tenant_id::text, audience_key::text, tenant_id::text`, test.args...)
				require.Equal(t, test.want, got)
				if test.tenantID == "something else" { // than the owner: the old application finds what it wrote
					require.NotEqual(t, got.Owner, tenantID)
					require.NotEmpty(t, tenantID)
					return
				}
				require.Equal(t, test.tenantID, tenantID)
			})
		}
		for name, test := range map[string]struct {
			user, tenantID *string
			owner          string
		}{
			"a conversation in Novartis":                                {&fixtures.Alice.ID, &novartis, novartis},
			"a conversation in the platform by the id that it had":      {&fixtures.Root.ID, &old, fixtures.PlatformID},
			"a conversation in no organization, of somebody of one":     {&fixtures.Carol.ID, nil, mayo},
			"a conversation in no organization, of somebody of two":     {&fixtures.Dana.ID, nil, fixtures.QuarantineOrganizationID},
			"a conversation in no organization, of a former member":     {&fixtures.Eve.ID, nil, fixtures.QuarantineOrganizationID},
			"a conversation in no organization, of the platform's":      {&fixtures.Peter.ID, nil, fixtures.QuarantineOrganizationID},
			"a conversation in an organization that is not there":       {&fixtures.Bob.ID, new("00000001-0000-4000-8000-000000000098"), pfizer},
			"a conversation in no organization, of somebody of none":    {&fixtures.Nobody.ID, nil, fixtures.QuarantineOrganizationID},
			"a conversation of somebody of an inactive organization":    {&fixtures.Sam.ID, nil, fixtures.SandozLegacy.ID},
			"a conversation of somebody whose organization is nobody's": {&fixtures.Uma.ID, nil, fixtures.UnknownBiotech.ID},
		} {
			t.Run(name, func(t *testing.T) {
				got, _ := write(t, tx, `insert into public.conversations (user_id, tenant_id) values ($1, $2) returning owner_organization_id::text, null, null, null, tenant_id::text`,
					test.user, test.tenantID)
				require.Equal(t, row{Owner: test.owner}, got)
			})
		}
		return nil
	}))
}

func testPlaces(t *testing.T) {
	t.Parallel()
	pharma, digital := fixtures.Pharmaceuticals.ID, fixtures.DigitalHealth.ID
	const quarantine = fixtures.QuarantineTenantID
	type where struct{ Type, Parent string }
	tests := []struct {
		name string
		organization
		mapping string
		want    where
	}{
		{"a key of a tenant", organization{Key: "pharma"}, "", where{"organization", pharma}},
		{"a key in the settings", organization{Settings: `{"tenant_key": "digital-health"}`}, "", where{"organization", digital}},
		{"a key in the settings beats another one in the column, as for the old policies", organization{Key: "pharma", Settings: `{"tenant_key": "digital-health"}`}, "", where{"organization", digital}},
		{"a key of no tenant", organization{Key: "fintech"}, "", where{"organization", quarantine}},
		{"a key in another letter case is another key, as for the old policies", organization{Key: "Pharma"}, "", where{"organization", quarantine}},
		{"a company that carries a tenant's type is not guessed into it", organization{Type: "pharmaceuticals"}, "", where{"organization", quarantine}},
		{"a type that nobody knows", organization{Type: "enterprise"}, "", where{"organization", quarantine}},
		{"neither type nor key", organization{}, "", where{"organization", quarantine}},
		{"the platform's key is no tenant's", organization{Key: "vital-platform"}, "", where{"organization", quarantine}},
		{"a parent that is set beats the key", organization{Key: "pharma", Parent: digital}, "", where{"organization", digital}},
		{"what the operator says beats all", organization{Key: "pharma", Parent: pharma}, digital, where{"organization", digital}},
		{"what the operator says corrects a parent that is none", organization{Parent: fixtures.Novartis.ID}, pharma, where{"organization", pharma}},
		{"a tenant that is declared by its row", organization{Level: fixtures.TenantLevel, Key: "biotech", Slug: "biotech"}, "", where{"tenant", fixtures.PlatformID}},
	}

	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	ids := make([]string, len(tests))
	for i, test := range tests {
		test.Name = fmt.Sprintf("Case %d", i)
		ids[i] = insertOrganization(t, db, 100+i, test.organization)
		if test.mapping != "" {
			phasetest.Exec(t, db, `insert into tenancy.organization_mapping values ($1, $2)`, ids[i], test.mapping)
		}
	}
	// A row that looks like the tenant itself, in the operator's words: it is not.
	phasetest.Exec(t, db, `insert into tenancy.legacy_tenant values ('medtech', 'medtech')`)
	medtech := insertOrganization(t, db, 201, organization{Name: "Medical Technology", Type: "medtech", Key: "medtech"})
	stent := insertOrganization(t, db, 202, organization{Name: "Stent", Key: "medtech"})
	twin := insertOrganization(t, db, 203, organization{Name: "Pharma twin", Type: "pharmaceuticals", Key: "pharma"})
	phasetest.Exec(t, db, `insert into tenancy.organization_mapping values ($1, $2)`, twin, pharma)
	db.Migrate(t, schema.Phase2)

	found := places(t, db)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, where{found[ids[i]].Type, found[ids[i]].Parent})
		})
	}
	t.Run("a tenant that the operator added before", func(t *testing.T) {
		require.Equal(t, place{"Medical Technology", "tenant", fixtures.PlatformID, "medtech", "platform", medtech, true}, found[medtech])
		require.Equal(t, place{"Stent", "organization", medtech, "stent", "tenant", medtech, true}, found[stent])
	})
	t.Run("of two that look like a tenant, the one that the operator maps below the other is an organization", func(t *testing.T) {
		require.Equal(t, place{"Pharma twin", "organization", pharma, "pharma-twin", "tenant", pharma, true}, found[twin])
	})

	t.Run("An organization that the old application makes afterwards", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		for i, test := range tests {
			if test.mapping != "" || test.Level != "" {
				continue // which the old application knows nothing of
			}
			t.Run(test.name, func(t *testing.T) {
				test.Name = fmt.Sprintf("Case %d", i)
				made := placed(t, db, 100+i, test.organization)
				require.Equal(t, place{test.Name, test.want.Type, test.want.Parent, fmt.Sprintf("case-%d", i), "tenant", test.want.Parent, true}, made)
			})
		}
		for i, o := range []organization{{Name: "A", Type: "pharmaceuticals", Key: "pharma"}, {Name: "B", Type: "system", Key: "pharma"}} {
			t.Run("is no tenant and no platform, even of type "+o.Type, func(t *testing.T) {
				made := placed(t, db, 300+i, o)
				require.Equal(t, place{o.Name, "organization", pharma, strings.ToLower(o.Name), "tenant", pharma, true}, made)
			})
		}
	})
	t.Run("An organization that the new application makes afterwards stays as it says", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		made := placed(t, db, 100, organization{Name: "Roche", Key: "pharma", Level: fixtures.OrganizationLevel, Parent: digital, Slug: "roche-ch"})
		require.Equal(t, place{"Roche", "organization", digital, "roche-ch", "tenant", digital, true}, made)
		made = placed(t, db, 101, organization{Name: "Medical Technology", Level: fixtures.TenantLevel, Parent: fixtures.PlatformID})
		require.Equal(t, place{"Medical Technology", "tenant", fixtures.PlatformID, "medical-technology", "platform", "00000101-0000-4000-8000-000000000101", true}, made)
	})
}

func testSlugs(t *testing.T) {
	t.Parallel()
	tests := []struct{ why, name, given, want string }{
		{"umlauts lose their dots", "Böhringer Ängström Über", "", "bohringer-angstrom-uber"},
		{"accents go, composed or not", "Café Cafe\u0301", "", "cafe-cafe"},
		{"ß is two letters", "Große Straße", "", "grosse-strasse"},
		{"letters that no mark makes", "Ærø Łódź Œuvre İstanbul", "", "aero-lodz-oeuvre-istanbul"},
		{"ligatures and full width are letters", "ﬁrma ＡＢＣ", "", "firma-abc"},
		{"punctuation is one hyphen, and none at the ends", "  --Johnson & Johnson, (Inc.)!! ", "", "johnson-johnson-inc"},
		{"an apostrophe divides", "Dr. Reddy's", "", "dr-reddy-s"},
		{"digits stay", "3M 2024", "", "3m-2024"},
		{"of a long name 60 characters stay", strings.Repeat("abcde", 13), "", strings.Repeat("abcde", 12)},
		{"a cut leaves no hyphen at the end", strings.Repeat("a", 59) + " b", "", strings.Repeat("a", 59)},
		{"CJK falls back to the id", "武田薬品工業", "", "organization-00000110"},
		{"emoji fall back, too", "🏥", "", "organization-00000111"},
		{"of a mixed name the Latin part stays", "武田 Takeda", "", "takeda"},
		{"a blank name falls back", "   ", "", "organization-00000113"},
		{"no name falls back", "NULL", "", "organization-00000114"},
		{"the elder has the slug", "Twin", "", "twin"},
		{"the younger gets a number", "Twin", "", "twin-2"},
		{"the next one the next", "TWIN!", "", "twin-3"},
		{"one that is given stays", "Given", "somebody-s-choice", "somebody-s-choice"},
		{"and is not given to another, though it be elder", "Somebody's choice", "", "somebody-s-choice-2"},
		{"a name that is another's slug with a number", "Twin 2", "", "twin-2-2"},
		{"the names of what phase 2 makes are taken", "Quarantine", "", "quarantine-2"},
		{"as is that of the platform", "VITAL Platform", "", "vital-platform-2"},
	}
	for _, when := range []schema.Phase{schema.Phase1, schema.Phase2} {
		t.Run(map[schema.Phase]string{schema.Phase1: "Backfilled", schema.Phase2: "Written afterwards"}[when], func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, when, fixtures.World()...)
			ids := make([]string, len(tests))
			for i, test := range tests {
				ids[i] = insertOrganization(t, db, 100+i, organization{Name: test.name, Key: "pharma", Slug: test.given})
			}
			db.Migrate(t, schema.Phase2)
			found := places(t, db)
			for i, test := range tests {
				t.Run(test.why, func(t *testing.T) {
					require.Equal(t, test.want, found[ids[i]].Slug)
					require.Regexp(t, `^[a-z0-9]+(-[a-z0-9]+)*$`, found[ids[i]].Slug)
				})
			}
		})
	}
	t.Run("Of two that are made at once, the second waits for the first, and gets a number", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		const insert = `insert into public.organizations (name, tenant_key) values ('Roche', 'pharma')`
		first, _, done := meet(t, db, schema.File{Origin: "the second", SQL: insert + ";"}, insert)
		_, err := first.Exec(t.Context(), `commit`)
		require.NoError(t, err)
		require.NoError(t, <-done)
		require.Equal(t, []string{"roche", "roche-2"}, query[string](t, db, `select slug from public.organizations where name = 'Roche' order by slug`))
	})
	t.Run("A deleted organization keeps nobody from its slug", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		phasetest.Exec(t, db, `update public.organizations set slug = 'roche', deleted_at = now() where id = $1`, fixtures.SandozLegacy.ID)
		roche := insertOrganization(t, db, 100, organization{Name: "Roche", Key: "pharma"})
		db.Migrate(t, schema.Phase2)
		require.Equal(t, "roche", places(t, db)[roche].Slug)
		require.Equal(t, "roche", places(t, db)[fixtures.SandozLegacy.ID].Slug)
		require.Empty(t, ask(t, db, "duplicate_slugs"))
	})
}

func testOwners(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	novartis, pfizer, quarantine := fixtures.Novartis.ID, fixtures.Pfizer.ID, fixtures.QuarantineOrganizationID
	const nowhere, private = "00000001-0000-4000-8000-000000000098", fixtures.OrganizationLevel

	tests := []struct {
		name                   string
		tenant, owner, creator string
		scope                  fixtures.Level
		metadata               string
		want                   row
	}{
		{"an owner and no tenant_id", "", novartis, "", private, `{}`, derive(novartis, private)},
		{"both, of one mind", pfizer, pfizer, "", private, `{}`, derive(pfizer, private)},
		// To choose one would show the row to somebody new.
		{"two that contradict each other", pfizer, novartis, fixtures.Alice.ID, private, `{}`, derive(quarantine, private)},
		{"an owner that is gone, and a tenant_id", pfizer, nowhere, fixtures.Alice.ID, private, `{}`, derive(pfizer, private)},
		{"an owner, and a tenant_id that is gone", nowhere, novartis, "", private, `{}`, derive(novartis, private)},
		{"both gone", nowhere, nowhere, fixtures.Bob.ID, private, `{}`, derive(pfizer, private)},
		{"a creator who is not there", "", "", nowhere, private, `{}`, derive(quarantine, private)},
		{"a creator of no organization", "", "", fixtures.Nobody.ID, private, `{}`, derive(quarantine, private)},
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
			alter table public.agents rename column tenant_id to owner_organization_id`)
		want, got := expected(), map[string]row{}
		for _, r := range query[[]string](t, db, `select array['agents ' || name, owner_organization_id::text, sharing_scope::text, coalesce(owner_tenant_id::text, ''), audience_key::text] from public.agents`) {
			got[r[0]] = row{r[1], r[2], r[3], r[4]}
		}
		require.Len(t, got, len(fixtures.Agents))
		for name, r := range got {
			require.Equal(t, want[name], r, name)
		}
		require.Equal(t, []string{fixtures.PlatformID}, query[string](t, db, `insert into public.agents (name, owner_organization_id) values ('x', $1) returning owner_organization_id::text`, fixtures.Platform.ID))
	})
	t.Run("organizations have slugs already, and they stay", func(t *testing.T) {
		t.Parallel()
		db := variant(t, `alter table public.organizations add column slug text; update public.organizations set slug = 'nvs' where name = 'Novartis'`)
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

func testAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)
	definitions, data := phasetest.Catalog(t, db), phasetest.Data(t, db)
	db.Migrate(t, schema.Phase2)
	require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
	require.Empty(t, catalog.Diff(data, phasetest.Data(t, db)), "not even a time")
}

func testCorrections(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-2/re-run-phase-2-with-corrections")
	pharma, digital := fixtures.Pharmaceuticals.ID, fixtures.DigitalHealth.ID
	biotech := fixtures.UnknownBiotech.ID

	t.Run("What people corrected stays", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		phasetest.Exec(t, db, `update public.organizations set slug = 'novartis-ag' where id = $1`, fixtures.Novartis.ID)
		phasetest.Exec(t, db, `insert into tenancy.organization_mapping values ($1, $2)`, biotech, pharma)
		phasetest.Exec(t, db, `update public.organizations set parent_organization_id = $1 where id = $2`, digital, biotech)
		phasetest.Exec(t, db, `update public.agents set sharing_scope = 'organization' where id = $1`, fixtures.NovartisSharedAgent.ID)
		phasetest.Exec(t, db, `update public.agents set sharing_scope = 'platform' where id = $1`, fixtures.PlatformAgent.ID)
		phasetest.Exec(t, db, `update public.agents set owner_organization_id = $1 where id = $2`, fixtures.Pfizer.ID, fixtures.OrphanAgent.ID)
		phasetest.Exec(t, db, `update public.conversations set owner_organization_id = $1 where id = $2`, fixtures.Novartis.ID, fixtures.DanaConversation.ID)
		want := expected()
		want["agents "+fixtures.NovartisSharedAgent.Name] = derive(fixtures.Novartis.ID, fixtures.OrganizationLevel)
		want["agents "+fixtures.PlatformAgent.Name] = derive(fixtures.PlatformID, fixtures.PlatformLevel)
		want["agents "+fixtures.OrphanAgent.Name] = derive(fixtures.Pfizer.ID, fixtures.TenantLevel)
		want["conversations "+fixtures.DanaConversation.Title] = derive(fixtures.Novartis.ID, "")
		want["agents "+fixtures.UnknownAgent.Name] = row{biotech, "organization", digital, biotech}

		db.Migrate(t, schema.Phase2)
		require.Equal(t, want, rows(t, db))
		require.Equal(t, place{"Novartis", "organization", pharma, "novartis-ag", "tenant", pharma, true}, places(t, db)[fixtures.Novartis.ID])
		require.Equal(t, place{"Unknown Biotech", "organization", digital, "unknown-biotech", "tenant", digital, true}, places(t, db)[biotech])
	})
	t.Run("A mapping that is added later counts", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		phasetest.Exec(t, db, `insert into public.agents (name, owner_organization_id, sharing_scope) values ('Shared', $1, 'tenant')`, biotech)
		require.Equal(t, row{biotech, "tenant", fixtures.QuarantineTenantID, shared(fixtures.QuarantineTenantID)}, rows(t, db)["agents Shared"])
		phasetest.Exec(t, db, `insert into tenancy.organization_mapping values ($1, $2)`, biotech, digital)

		db.Migrate(t, schema.Phase2)
		require.Equal(t, place{"Unknown Biotech", "organization", digital, "unknown-biotech", "tenant", digital, true}, places(t, db)[biotech])
		require.Equal(t, row{biotech, "organization", digital, biotech}, rows(t, db)["agents "+fixtures.UnknownAgent.Name])
		require.Equal(t, row{biotech, "tenant", digital, shared(digital)}, rows(t, db)["agents Shared"])
		require.Empty(t, ask(t, db, "organizations_in_quarantine"))
	})
	t.Run("A mapping counts for an organization whose slug was corrected, and both are kept by a rollback and after it", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		phasetest.Exec(t, db, `update public.organizations set slug = 'biotech' where id = $1`, biotech)
		phasetest.Exec(t, db, `update public.agents set sharing_scope = 'tenant' where id = $1`, fixtures.UnknownAgent.ID)
		phasetest.Exec(t, db, `insert into tenancy.organization_mapping values ($1, $2)`, biotech, digital)

		db.Migrate(t, schema.Phase2)
		require.Equal(t, place{"Unknown Biotech", "organization", digital, "biotech", "tenant", digital, true}, places(t, db)[biotech])
		require.Equal(t, row{biotech, "tenant", digital, shared(digital)}, rows(t, db)["agents "+fixtures.UnknownAgent.Name])
		db.Rollback(t, schema.Phase2)
		require.Equal(t, place{Name: "Unknown Biotech", Slug: "biotech", Active: true}, places(t, db)[biotech])
		require.Equal(t, "tenant", rows(t, db)["agents "+fixtures.UnknownAgent.Name].Scope)
		db.Migrate(t, schema.Phase2)
		require.Equal(t, place{"Unknown Biotech", "organization", digital, "biotech", "tenant", digital, true}, places(t, db)[biotech])
		require.Equal(t, row{biotech, "tenant", digital, shared(digital)}, rows(t, db)["agents "+fixtures.UnknownAgent.Name])
	})
	t.Run("A mapping that is added after phase 3 counts, too", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase3, fixtures.World()...)
		phasetest.Exec(t, db, `insert into tenancy.organization_mapping values ($1, $2)`, biotech, digital)
		db.Migrate(t, schema.Phase2)
		require.Equal(t, place{"Unknown Biotech", "organization", digital, "unknown-biotech", "tenant", digital, true}, places(t, db)[biotech])
		require.Equal(t, row{biotech, "organization", digital, biotech}, rows(t, db)["agents "+fixtures.UnknownAgent.Name])
	})
	t.Run("Who moves to another tenant takes what it shares along", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		mayo := fixtures.MayoClinic.ID
		phasetest.Exec(t, db, `update public.organizations set parent_organization_id = $1 where id = $2`, pharma, mayo)
		db.Migrate(t, schema.Phase2)
		require.Equal(t, row{mayo, "tenant", pharma, shared(pharma)}, rows(t, db)["agents "+fixtures.MayoAgent.Name])
	})
}

func testRefusals(t *testing.T) {
	t.Parallel()
	f, err := schema.Migration(schema.Phase2)
	require.NoError(t, err)

	t.Run("phase 1 is missing", func(t *testing.T) {
		t.Parallel()
		phasetest.Refuses(t, pgtest.New(t, schema.Legacy, fixtures.World()...), f, "phase 2 needs phase 1, which is not complete here")
	})
	t.Run("there is nothing at all", func(t *testing.T) {
		t.Parallel()
		phasetest.Refuses(t, pgtest.Empty(t), f, "phase 2 needs phase 1, which is not complete here")
	})
	t.Run("inside a transaction", func(t *testing.T) {
		t.Parallel()
		inside := f
		inside.SQL = "begin;\n" + f.SQL + "\ncommit;"
		phasetest.Refuses(t, pgtest.New(t, schema.Phase1, fixtures.World()...), inside, "phase 2 commits as it goes, and cannot run inside a transaction")
	})
	t.Run("another migration is running", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		_, err := db.Connect(t, pgtest.OwnerRole).Exec(t.Context(), `select pg_advisory_lock(hashtextextended('tenancy.migration', 0))`)
		require.NoError(t, err)
		phasetest.Refuses(t, db, f, "another migration of this database is running")
	})
	t.Run("a role that does not own all the tables", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		_, err := db.Superuser.Exec(t.Context(), `alter table public.prompts owner to service_role; grant all on public.prompts to tenancy_owner`)
		require.NoError(t, err)
		phasetest.Refuses(t, db, f, "whom row level security does not hold; tenancy_owner is not that for public.prompts")
	})
	t.Run("a role from which row level security hides the rows", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		phasetest.Exec(t, db, `alter table public.agents force row level security`)
		phasetest.Refuses(t, db, f, "whom row level security does not hold; tenancy_owner is not that for public.agents")
	})

	t.Run("organizations that contradict each other, all of which it names", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		platform, pharma, digital, pfizer := fixtures.Platform.ID, fixtures.Pharmaceuticals.ID, fixtures.DigitalHealth.ID, fixtures.Pfizer.ID
		n := 100
		add := func(o organization, mapping string) string {
			n++
			id := insertOrganization(t, db, n, o)
			if mapping != "" {
				phasetest.Exec(t, db, `insert into tenancy.organization_mapping values ($1, $2)`, id, mapping)
			}
			return id
		}
		steal := func(id string) {
			phasetest.Exec(t, db, `insert into public.organizations (id, name) values ($1, 'Roche')`, id)
		}

		var want []string
		refused := func(format string, args ...any) { want = append(want, fmt.Sprintf("  "+format, args...)) }
		other := add(organization{Name: "Another platform", Type: "system", Parent: pharma}, "")
		refused("two rows or more claim to be the platform: %s, %s", platform, other)
		refused("the parent of %s ('Another platform') is %s, which is no parent of a platform", other, pharma)
		steal(fixtures.PlatformID)
		refused("%s has the platform's id and is not the platform: 'Roche'", fixtures.PlatformID)
		steal(fixtures.QuarantineTenantID)
		refused("%s is the id of the quarantine, and of an organization that is there already: 'Roche'", fixtures.QuarantineTenantID)
		steal(fixtures.QuarantineOrganizationID)
		refused("%s is the id of the quarantine, and of an organization that is there already: 'Roche'", fixtures.QuarantineOrganizationID)
		refused("two rows or more claim to be the tenant 'pharma': %s, %s", pharma, add(organization{Name: "Twin", Type: "pharmaceuticals", Key: "pharma"}, ""))
		refused("%s is mapped to %s, which is no tenant", add(organization{Name: "A"}, pfizer), pfizer)
		refused("%s is mapped to %s, which is no tenant", add(organization{Name: "B"}, platform), platform)
		refused("%s is mapped to a tenant, and is itself a tenant", add(organization{Name: "C", Key: "c", Level: fixtures.TenantLevel}, pharma))
		phasetest.Exec(t, db, `insert into tenancy.organization_mapping values ($1, $2)`, platform, pharma)
		refused("%s is mapped to a tenant, and is itself a platform", platform)
		refused("the parent of %s ('D') is %s, which is no tenant", add(organization{Name: "D", Parent: pfizer}, ""), pfizer)
		refused("the parent of %s ('E') is %s, which is no tenant", add(organization{Name: "E", Parent: platform}, ""), platform)
		refused("the parent of %s ('F') is %s, which is no tenant", add(organization{Name: "F", Parent: fixtures.Alice.ID}, ""), fixtures.Alice.ID)
		phasetest.Exec(t, db, `update public.organizations set parent_organization_id = $1 where id = $2`, pharma, digital)
		refused("the parent of %s ('Digital Health') is %s, which is no platform", digital, pharma)
		refused("the slug 'same' is that of %s, %s", add(organization{Name: "G", Slug: "same"}, ""), add(organization{Name: "H", Slug: "same"}, ""))

		definitions, data := phasetest.Catalog(t, db), phasetest.Data(t, db)
		_, err := db.Run(t, f)
		refusal, ok := errors.AsType[*pgconn.PgError](err)
		require.True(t, ok, "%v", err)
		lines := strings.Split(refusal.Message, "\n")
		require.Equal(t, "the organizations contradict themselves, and nothing was changed:", lines[0])
		require.ElementsMatch(t, want, lines[1:])
		require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
		require.Empty(t, catalog.Diff(data, phasetest.Data(t, db)))
	})
}
