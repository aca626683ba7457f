package schema_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

func TestRollbackPhase1(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "rollback-procedures/rollback-phase-1", "phase-1/if-issues-found-execute-phase-1-rollback-script",
		"phase-1/application-tested-after-rollback")
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	legacy, data := phasetest.Catalog(t, db), phasetest.Data(t, db)
	db.Migrate(t, schema.Phase1)
	migrated := phasetest.Catalog(t, db)
	require.NotEmpty(t, catalog.Diff(legacy, migrated))

	db.Rollback(t, schema.Phase1)
	t.Run("the catalog is the legacy one again", func(t *testing.T) {
		require.Empty(t, catalog.Diff(legacy, phasetest.Catalog(t, db)))
	})
	t.Run("the data is the legacy data again", func(t *testing.T) {
		require.Empty(t, catalog.Diff(data, phasetest.Data(t, db)))
	})
	t.Run("the old application works", func(t *testing.T) { phasetest.OldApplication(t, db) })
	t.Run("a second rollback finds nothing to do", func(t *testing.T) {
		db.Rollback(t, schema.Phase1)
		require.Empty(t, catalog.Diff(legacy, phasetest.Catalog(t, db)))
	})
	t.Run("up again is what it was the first time", func(t *testing.T) {
		db.Migrate(t, schema.Phase1)
		require.Empty(t, catalog.Diff(migrated, phasetest.Catalog(t, db)))
	})
	t.Run("an enum that was there before stays", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		phasetest.Exec(t, db, `create type public.organization_type as enum ('platform', 'tenant', 'organization')`)
		before := phasetest.Catalog(t, db)
		db.Migrate(t, schema.Phase1)
		db.Rollback(t, schema.Phase1)
		require.Empty(t, catalog.Diff(before, phasetest.Catalog(t, db)))
	})
	t.Run("a column that was there before stays", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		phasetest.Exec(t, db, `alter table public.organizations add column slug varchar(60); update public.organizations set slug = 'kept' where name = 'Novartis'`)
		before, data := phasetest.Catalog(t, db), phasetest.Data(t, db)
		db.Migrate(t, schema.Phase1)
		db.Rollback(t, schema.Phase1)
		require.Empty(t, catalog.Diff(before, phasetest.Catalog(t, db)))
		require.Empty(t, catalog.Diff(data, phasetest.Data(t, db)))
	})
}
