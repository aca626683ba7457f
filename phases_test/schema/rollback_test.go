package schema_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/script"
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
	t.Run("a vacuum of what it drops is waited for, and nobody waits behind", testVacuumOfOwnTables)
}

// An autovacuum is asked to give way after a second, which is ten times as long as the rollback waits for anything once it
// has the application's tables.
func testVacuumOfOwnTables(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	rows, err := db.Owner.Query(t.Context(),
		`select relname from pg_class where relnamespace = 'tenancy'::regnamespace and relkind = 'r' order by relname`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Subset(t, tables, []string{"undo", "organization_mapping"})

	vacuums := map[int]*pgx.Conn{}
	for _, table := range tables {
		other := db.Connect(t, pgtest.OwnerRole)
		_, err := other.Exec(t.Context(), "begin; lock table tenancy."+table+" in share update exclusive mode")
		require.NoError(t, err)
		vacuums[int(other.PgConn().PID())] = other
	}
	f, err := schema.Rollback(schema.Phase1)
	require.NoError(t, err)
	rollback, done := db.Connect(t, pgtest.OwnerRole), make(chan error, 1)
	go func() {
		_, err := script.Run(t.Context(), rollback, f)
		done <- err
	}()
	for len(vacuums) > 0 {
		pid := 0
		for began := time.Now(); pid == 0; time.Sleep(time.Millisecond) {
			require.Empty(t, done, "it has ended before %d of %d vacuums", len(vacuums), len(tables))
			require.Less(t, time.Since(began), time.Minute, "it waits for none of %d vacuums", len(vacuums))
			require.NoError(t, db.Superuser.QueryRow(t.Context(), `select coalesce((pg_blocking_pids($1::int))[1], 0)`, rollback.PgConn().PID()).Scan(&pid))
		}
		time.Sleep(150 * time.Millisecond)
		_, err := db.Owner.Exec(t.Context(), `begin; set local lock_timeout = '1ms';
			update public.agents set name = name; select from tenancy.completed_phase, tenancy.undo; commit`)
		require.NoError(t, err, "somebody waits behind it")
		_, err = vacuums[pid].Exec(t.Context(), "commit")
		require.NoError(t, err)
		delete(vacuums, pid)
	}
	require.NoError(t, <-done)
	t.Run("but nothing is waited for without end", func(t *testing.T) {
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		_, err := db.Connect(t, pgtest.OwnerRole).Exec(t.Context(), "begin; lock table tenancy.undo in share mode")
		require.NoError(t, err)
		phasetest.Refuses(t, db, f, "canceling statement due to lock timeout")
	})
}
