package backfill_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/script"
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
	t.Run("Verification queries on many rows", testVerificationOfManyRows)
	t.Run("Report", testReport)
	t.Run("Everything is described", testDescribed)
	t.Run("The old application", testOldApplication)
	t.Run("Both generations", testBothGenerations)
	t.Run("Where an organization belongs", testPlaces)
	t.Run("Slugs", testSlugs)
	t.Run("Whose a row is", testOwners)
	t.Run("Batches", testBatches)
	t.Run("Other databases", testVariants)
	t.Run("Again", testAgain)
	t.Run("Corrections", testCorrections)
	t.Run("Killed", testKilled)
	t.Run("Writers meanwhile", testWriters)
	t.Run("Rows that move", testMovedRows)
	t.Run("Behind a vacuum", testBehindVacuum)
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
	phasetest.Exec(t, db, `alter table public.organizations add column fax text`)
	phasetest.Exec(t, db, `alter table public.organizations drop column fax, add column number integer generated always as identity, add column code varchar(5),
		add column initial text generated always as (left(name, 1)) stored`)
	before := untouchable(t, db)
	migration, err := schema.Migration(schema.Phase2)
	require.NoError(t, err)
	conn := db.Connect(t, pgtest.OwnerRole)
	session := func() (settings, locks string) {
		require.NoError(t, conn.QueryRow(t.Context(), `
			select (select coalesce(string_agg(name || ' = ' || setting, ', ' order by name), 'none') from pg_settings where source = 'session'),
				(select coalesce(string_agg(mode, ', '), 'none') from pg_locks where pid = pg_backend_pid() and locktype = 'advisory')`).Scan(&settings, &locks))
		return settings, locks
	}
	settings, locks := session()
	_, err = script.Run(t.Context(), conn, migration)
	require.NoError(t, err)
	t.Run("nor is the session that ran it other than it was", func(t *testing.T) {
		settingsAfter, locksAfter := session()
		require.Equal(t, []string{settings, locks}, []string{settingsAfter, locksAfter})
	})
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

func testVerification(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-2/verify-phase-2-completion", "phase-2/run-verification-queries")
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
		"ids_of_what_is_shared":              `insert into public.organizations (id, name) values ('00000001-0000-1000-8000-000000000002', 'Another')`,
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
	zeta := insertOrganization(t, db, 100, organization{Name: "Zeta Biotech"})
	f, err := schema.Migration(schema.Phase2)
	require.NoError(t, err)
	log, err := db.Run(t, f)
	require.NoError(t, err)
	var notices []string
	for _, step := range log.Steps {
		notices = append(notices, step.Notices...)
	}

	want := []string{
		"NOTICE: in quarantine, because nothing says which tenant it belongs to: organization " + fixtures.UnknownBiotech.ID + " (Unknown Biotech)",
		"NOTICE: in quarantine, because nothing says which tenant it belongs to: organization " + zeta + " (Zeta Biotech)",
	}
	quarantined, private := owned(fixtures.QuarantineOrganizationID, ""), owned(fixtures.PlatformID, fixtures.OrganizationLevel)
	for _, table := range slices.Sorted(slices.Values(tables())) {
		if n := quarantined[table]; n > 0 {
			want = append(want, fmt.Sprintf("NOTICE: in quarantine, because nothing says whose they are: %d rows of %s", n, table))
		}
		if n := private[table]; n > 0 {
			want = append(want, fmt.Sprintf("NOTICE: private to the platform's own members, because they were not shown to everybody before: %d rows of %s", n, table))
		}
	}
	require.Equal(t, want, notices)
	t.Run("and nothing where there is nothing to look at", func(t *testing.T) {
		log, err := pgtest.New(t, schema.Phase1).Run(t, f)
		require.NoError(t, err)
		for _, step := range log.Steps {
			require.Empty(t, step.Notices)
		}
	})
}

// Somebody who finds them in production must not have to guess what they are for.
func testDescribed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase2)
	require.Empty(t, query[string](t, db, `
		select c.oid::regclass::text from pg_class c where c.relnamespace = 'tenancy'::regnamespace and c.relkind = 'r' and obj_description(c.oid, 'pg_class') is null
		union all
		select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'tenancy'::regnamespace and obj_description(p.oid, 'pg_proc') is null`))
}

func testAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)
	definitions, data := phasetest.Catalog(t, db), phasetest.Data(t, db)
	db.Migrate(t, schema.Phase2)
	require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
	require.Empty(t, catalog.Diff(data, phasetest.Data(t, db)), "not even a time")
}
