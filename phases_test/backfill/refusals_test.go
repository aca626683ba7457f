package backfill_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

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
	t.Run("phase 1 is not complete", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		phasetest.Exec(t, db, `delete from tenancy.completed_phase where phase = 1`)
		phasetest.Refuses(t, db, f, "phase 2 needs phase 1, which is not complete here")
	})
	t.Run("phase 4 is complete", func(t *testing.T) {
		t.Parallel()
		phasetest.Refuses(t, pgtest.New(t, schema.Phase4, fixtures.World()...), f,
			"phase 4 is complete, and phase 2 would bring back the triggers for the old application")
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
		// It does not wait for it; if it did, not as long as it likes.
		_, err := db.Superuser.Exec(t.Context(), `do $$ begin execute format('alter database %I set lock_timeout = ''2s''', current_database()); end $$`)
		require.NoError(t, err)
		_, err = db.Connect(t, pgtest.OwnerRole).Exec(t.Context(), `select pg_advisory_lock(hashtextextended('tenancy.migration', 0))`)
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

	// The platform that it moved before is one and the same, and what another brings must not become the platform's.
	t.Run("another platform, and a slug that two have, since it ran before", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		other := insertOrganization(t, db, 100, organization{Name: "Another platform", Level: fixtures.PlatformLevel, Slug: "vital-platform"})
		phasetest.Refuses(t, db, f, fmt.Sprintf("two rows or more claim to be the platform: %s, %s", fixtures.PlatformID, other))
		phasetest.Refuses(t, db, f, fmt.Sprintf("the slug 'vital-platform' is that of %s, %s", fixtures.PlatformID, other))
	})
	t.Run("a live tenant that has the quarantine's id, and a former organization that has it", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		want := fmt.Sprintf("%s is the id of the quarantine, and of an organization that is there already: 'Roche'", fixtures.QuarantineTenantID)
		phasetest.Exec(t, db, `insert into public.organizations (id, name, organization_type) values ($1, 'Roche', 'tenant')`, fixtures.QuarantineTenantID)
		phasetest.Refuses(t, db, f, want)
		phasetest.Exec(t, db, `update public.organizations set organization_type = null, is_active = false where name = 'Roche'`)
		phasetest.Refuses(t, db, f, want)
	})
	t.Run("a column that is too short for the slug of a name that has none", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		phasetest.Exec(t, db, `alter table public.organizations add column slug varchar(40)`)
		phasetest.Exec(t, db, `insert into public.organizations (name, slug) values (repeat('a', 45), null), (repeat('b', 50), 'b')`)
		db.Migrate(t, schema.Phase1)
		number := len(fmt.Sprintf("-%d", len(fixtures.Organizations)+1))
		phasetest.Refuses(t, db, f, fmt.Sprintf("a slug may take %d characters, and public.organizations.slug is character varying(40)", 45+number))
	})
	// It is copied before the old one goes.
	t.Run("a platform whose row there cannot be twice", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		phasetest.Exec(t, db, `update public.organizations set domain = 'vital.example', slug = 'vital' where id = $1`, fixtures.Platform.ID)
		for name, index := range map[string]string{
			"one_domain_each":      `(domain)`,
			"one_domain_each_live": `(domain) where deleted_at is null`,
			"one_slug_each":        `(slug)`,
		} {
			phasetest.Exec(t, db, `create unique index `+name+` on public.organizations `+index)
			phasetest.Refuses(t, db, f, `the organizations that phase 2 makes, among them a copy of the platform, cannot be made: `+
				`duplicate key value violates unique constraint "`+name+`"`)
			phasetest.Exec(t, db, `drop index public.`+name)
		}
	})
	t.Run("an id that is one of phase 2's own but for the version", func(t *testing.T) {
		t.Parallel()
		for _, own := range []string{fixtures.PlatformID, fixtures.QuarantineTenantID, fixtures.QuarantineOrganizationID} {
			db := pgtest.New(t, schema.Phase1, fixtures.World()...)
			twin := own[:14] + "4" + own[15:]
			phasetest.Exec(t, db, `insert into public.organizations (id, name) values ($1, 'Roche')`, twin)
			phasetest.Refuses(t, db, f, own+", "+twin+" differ in the version of the UUID alone: one would read what the other shares")
		}
	})
	t.Run("but not that of the platform, which gets phase 2's", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1)
		phasetest.Exec(t, db, `insert into public.organizations (id, name, tenant_type) values ('00000000-0000-4000-0000-000000000001', 'VITAL', 'system')`)
		db.Migrate(t, schema.Phase2)
		db.Migrate(t, schema.Phase3)
		require.Equal(t, []string{fixtures.PlatformID}, query[string](t, db, `select id::text from public.organizations where organization_type = 'platform'`))
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

		const shares = "0000000c-0000-f000-8000-000000000001"
		steal(shares)
		refused("%s is an id that stands for what an organization shares: 'Roche'", shares)

		const twin, version = "0000000c-0000-4000-8000-000000000002", "0000000c-0000-1000-8000-000000000002"
		steal(twin)
		steal(version)
		refused("%s, %s differ in the version of the UUID alone: one would read what the other shares", version, twin)

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
