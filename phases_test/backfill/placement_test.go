package backfill_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

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
		{"one that has no key", organization{Level: fixtures.TenantLevel}, "", where{"tenant", fixtures.PlatformID}},
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
	keyless := insertOrganization(t, db, 204, organization{Name: "Diagnostics", Level: fixtures.TenantLevel})
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
	t.Run("another tenant that has no key, which its name stands in for", func(t *testing.T) {
		require.Equal(t, place{"Diagnostics", "tenant", fixtures.PlatformID, "diagnostics", "platform", keyless, true}, found[keyless])
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
	t.Run("The key in a tenant's settings beats that in its column, as for the old policies", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		phasetest.Exec(t, db, `update public.organizations set settings = '{"tenant_key": "pharma-hq"}' where id = $1`, pharma)
		old := insertOrganization(t, db, 100, organization{Name: "By the old key", Key: "pharma"})
		new := insertOrganization(t, db, 101, organization{Name: "By the new key", Key: "pharma-hq"})
		db.Migrate(t, schema.Phase2)
		found := places(t, db)
		require.Equal(t, quarantine, found[old].Parent)
		require.Equal(t, pharma, found[new].Parent)
	})
	t.Run("An organization that the new application makes afterwards stays as it says", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		made := placed(t, db, 100, organization{Name: "Roche", Key: "pharma", Level: fixtures.OrganizationLevel, Parent: digital, Slug: "roche-ch"})
		require.Equal(t, place{"Roche", "organization", digital, "roche-ch", "tenant", digital, true}, made)
		require.Equal(t, []int{0}, query[int](t, db, `select count(*) from tenancy.organization_journal where after ->> 'slug' = 'roche-ch'`),
			"what phase 2 has no part in its rollback does not ask about")
		made = placed(t, db, 101, organization{Name: "Medical Technology", Level: fixtures.TenantLevel, Parent: fixtures.PlatformID})
		require.Equal(t, place{"Medical Technology", "tenant", fixtures.PlatformID, "medical-technology", "platform", "00000101-0000-4000-8000-000000000101", true}, made)
	})
}

func testSlugs(t *testing.T) {
	t.Parallel()
	pharma := fixtures.Pharmaceuticals.ID
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
			if when == schema.Phase1 {
				db.Migrate(t, schema.Phase2)
			}
			found := places(t, db)
			for i, test := range tests {
				t.Run(test.why, func(t *testing.T) {
					require.Equal(t, pharma, found[ids[i]].Parent)
					require.Equal(t, test.want, found[ids[i]].Slug)
					require.Regexp(t, `^[a-z0-9]+(-[a-z0-9]+)*$`, found[ids[i]].Slug)
				})
			}
		})
	}
	t.Run("A thousand of one name, some of which have a number already", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		phasetest.Exec(t, db, `insert into public.organizations (name, slug) select 'Taken', 'personal-' || n from generate_series(10, 1000, 10) n`)
		phasetest.Exec(t, db, `insert into public.organizations (name, tenant_key) select 'Personal', 'pharma' from generate_series(1, 1000)`)
		db.Migrate(t, schema.Phase2)
		require.Equal(t, []int{1100}, query[int](t, db, `select count(distinct slug)::int from public.organizations where slug ~ '^personal(-\d+)?$'`))
		require.Equal(t, []int{100}, query[int](t, db, `select count(*)::int from public.organizations where name = 'Taken' and slug ~ '^personal-\d+0$'`))
	})
	t.Run("Of two that are made at once, the second waits for the first, and gets a number", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		const insert = `insert into public.organizations (name, tenant_key) values ('Roche', 'pharma')`
		first, _, done := meet(t, db, schema.File{Origin: "the second", SQL: insert + ";"}, insert)
		_, err := first.Exec(t.Context(), `commit`)
		require.NoError(t, err)
		require.NoError(t, <-done)
		slugs := func() []string {
			return query[string](t, db, `select slug from public.organizations where name = 'Roche' order by slug`)
		}
		require.Equal(t, []string{"roche", "roche-2"}, slugs())

		// Nor do one that is made and one that is placed, by another run, get the same.
		migration, err := schema.Migration(schema.Phase2)
		require.NoError(t, err)
		phasetest.Exec(t, db, `update public.organizations set slug = '' where slug = 'roche-2'`)
		first, _, done = meet(t, db, migration, insert)
		_, err = first.Exec(t.Context(), `commit`)
		require.NoError(t, err)
		require.NoError(t, <-done)
		require.Equal(t, []string{"roche", "roche-2", "roche-3"}, slugs())
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

		phasetest.Exec(t, db, `update public.organizations set deleted_at = now() where id = $1`, roche)
		again := insertOrganization(t, db, 101, organization{Name: "Roche", Key: "pharma"})
		require.Equal(t, "roche", places(t, db)[again].Slug)
		phasetest.Exec(t, db, `update public.organizations set slug = '' where id = $1`, again)
		db.Migrate(t, schema.Phase2)
		require.Equal(t, "roche", places(t, db)[again].Slug)
	})
	t.Run("An organization that is written once more, should it be there, keeps its own", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		phasetest.Exec(t, db, `insert into public.organizations (id, name) values ($1, 'Novartis') on conflict (id) do update set slug = excluded.slug`, fixtures.Novartis.ID)
		require.Equal(t, "novartis", places(t, db)[fixtures.Novartis.ID].Slug)
		db.Rollback(t, schema.Phase2)
		require.Equal(t, place{Name: "Novartis", Active: true}, places(t, db)[fixtures.Novartis.ID])
	})
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
	t.Run("What was given to somebody else stays, though the organization that it names comes after all", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		phasetest.Exec(t, db, `insert into public.organizations (id, name) values ($1, 'Not gone')`, fixtures.DanglingDocument.TenantID)
		db.Migrate(t, schema.Phase2)
		require.Equal(t, expected(), rows(t, db))
	})
	t.Run("What somebody corrects while it runs stays, too", func(t *testing.T) {
		t.Parallel()
		migration, err := schema.Migration(schema.Phase2)
		require.NoError(t, err)
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		writer, _, done := meet(t, db, migration, killings["while the organizations are placed"].lock)
		roche := insertOrganization(t, db, 100, organization{Name: "Roche", Key: "pharma"}) // before its tenant is one
		_, err = writer.Exec(t.Context(), `update public.organizations set slug = 'novartis-ag' where name = 'Novartis'; commit`)
		require.NoError(t, err)
		require.NoError(t, <-done)
		require.Equal(t, "novartis-ag", places(t, db)[fixtures.Novartis.ID].Slug)
		require.Equal(t, pharma, places(t, db)[roche].Parent)
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
	t.Run("Who moves to another tenant takes what it shares along, and what somebody has emptied is filled again", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		mayo, pfizer := fixtures.MayoClinic.ID, fixtures.Pfizer.ID
		phasetest.Exec(t, db, `update public.organizations set parent_organization_id = $1, slug = '' where id = $2`, pharma, mayo)
		phasetest.Exec(t, db, `update public.organizations set organization_type = null where id = $1`, pfizer)
		db.Migrate(t, schema.Phase2)
		require.Equal(t, place{"Mayo Clinic", "organization", pharma, "mayo-clinic", "tenant", pharma, true}, places(t, db)[mayo])
		require.Equal(t, place{"Pfizer", "organization", pharma, "pfizer", "tenant", pharma, true}, places(t, db)[pfizer])
		require.Equal(t, row{mayo, "tenant", pharma, shared(pharma)}, rows(t, db)["agents "+fixtures.MayoAgent.Name])
	})
}
