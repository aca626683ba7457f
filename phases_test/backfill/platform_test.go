package backfill_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

func testPlatform(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	phasetest.Exec(t, db, `create schema billing`)
	phasetest.Exec(t, db, `create table billing.invoices (number integer primary key, payer uuid references public.organizations on delete cascade, audience_key integer, slug varchar(5))`)
	phasetest.Exec(t, db, `insert into billing.invoices values (1, $1), (2, $2)`, fixtures.Platform.ID, fixtures.Pfizer.ID)
	// Indexes that another row with the platform's values does not offend.
	phasetest.Exec(t, db, `create unique index on public.organizations (domain)`)
	phasetest.Exec(t, db, `create unique index on public.organizations (name) where tenant_type = 'standard'`)
	phasetest.Exec(t, db, `create index on public.organizations (name)`)
	phasetest.Exec(t, db, `update public.organizations set domain = id || '.example' where id <> $1`, fixtures.Platform.ID)
	phasetest.Exec(t, db, `update public.organizations set is_active = is_active where id = $1`, fixtures.Platform.ID) // the last to be read
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
		phasetest.Exec(t, db, `insert into public.organizations (id, name, tenant_type, domain) values ($1, 'VITAL', 'system', 'vital.example')`, fixtures.PlatformID)
		phasetest.Exec(t, db, `create unique index on public.organizations (domain)`)
		db.Migrate(t, schema.Phase2)
		require.Equal(t, place{Name: "VITAL", Type: "platform", Slug: "vital-platform", Active: true}, places(t, db)[fixtures.PlatformID])
		require.Equal(t, []int{0}, query[int](t, db, `select count(*) from tenancy.moved_organization`))
	})
	t.Run("who says the old id while it moves means the new one", func(t *testing.T) {
		t.Parallel()
		migration, err := schema.Migration(schema.Phase2)
		require.NoError(t, err)
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		locker, _, done := meet(t, db, migration, killings["while the platform moves"].lock)
		phasetest.Exec(t, db, `insert into public.prompts (name, tenant_id) values ('Meanwhile', $1)`, fixtures.Platform.ID)
		require.Equal(t, derive(fixtures.PlatformID, fixtures.OrganizationLevel), rows(t, db)["prompts Meanwhile"])
		_, err = locker.Exec(t.Context(), `rollback`)
		require.NoError(t, err)
		require.NoError(t, <-done)
	})
	t.Run("where there is no platform one is made", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1)
		db.Migrate(t, schema.Phase2)
		require.Equal(t, place{Name: fixtures.Platform.Name, Type: "platform", Slug: "vital-platform", Active: true}, places(t, db)[fixtures.PlatformID])
	})
}
