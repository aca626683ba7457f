package constraints_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

func TestRollbackPhase3(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "pre-implementation/migration-scripts-reviewed/rollback-scripts-prepared", "pre-implementation/test-scenarios-defined/rollback-procedure-tested")
	t.Run("Down and up", testDownAndUp)
	t.Run("Half-way down, and up", testUpFromHalfway)
	t.Run("What was there before stays", testStays)
	t.Run("Refusals", testRollbackRefusals)
}

func testDownAndUp(t *testing.T) {
	t.Parallel()
	db := phase2(t)
	definitions, rows := phasetest.Catalog(t, db), phasetest.Data(t, db)
	db.Migrate(t, schema.Phase3)
	migrated, data := phasetest.Catalog(t, db), bookkept(t, db)
	require.NotEmpty(t, catalog.Diff(definitions, migrated))

	db.Rollback(t, schema.Phase3)
	t.Run("the catalog is that of phase 2 again", func(t *testing.T) {
		require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
	})
	t.Run("the data is that of phase 2 again", func(t *testing.T) {
		require.Empty(t, catalog.Diff(rows, phasetest.Data(t, db)))
	})
	t.Run("a second rollback finds nothing to do", func(t *testing.T) {
		f, err := schema.Rollback(schema.Phase3)
		require.NoError(t, err)
		log, err := db.Run(t, f)
		require.NoError(t, err)
		require.Contains(t, notices(log), "NOTICE: phase 3 is not there: nothing to take back")
		require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
		require.Empty(t, catalog.Diff(rows, phasetest.Data(t, db)))
	})
	t.Run("the old application works", func(t *testing.T) { phasetest.OldApplication(t, db) })
	t.Run("up again is what it was the first time", func(t *testing.T) {
		db.Migrate(t, schema.Phase3)
		require.Empty(t, catalog.Diff(migrated, phasetest.Catalog(t, db)))
		require.Empty(t, catalog.Diff(data, bookkept(t, db)))
		require.Empty(t, constraintProblems(t, db.Owner))
		require.Empty(t, indexProblems(t, db.Owner))
	})
}

// A rollback that is killed between a legacy key's return and its validation leaves the
// latter to be done, and the key not valid.
func testUpFromHalfway(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	migrated, data := phasetest.Catalog(t, db), bookkept(t, db)
	phasetest.Exec(t, db, `
		do $$
		declare
			step record;
		begin
			delete from tenancy.completed_phase where phase = 3;
			select * into strict step from tenancy.undo where statement like '%add constraint agents_tenant_id_fkey%';
			execute step.statement;
			delete from tenancy.undo where id = step.id;
		end
		$$`)
	require.NotEmpty(t, catalog.Diff(migrated, phasetest.Catalog(t, db)))
	db.Migrate(t, schema.Phase3)
	require.Empty(t, catalog.Diff(migrated, phasetest.Catalog(t, db)))
	require.Empty(t, catalog.Diff(data, bookkept(t, db)))
}

func notices(log *script.Log) (all []string) {
	for _, step := range log.Steps {
		all = append(all, step.Notices...)
	}
	return all
}

func testStays(t *testing.T) {
	t.Parallel()
	t.Run("an index of the same shape, NOT NULL, and keys that delete or forget", func(t *testing.T) {
		t.Parallel()
		db := phase2(t)
		phasetest.Exec(t, db, `
			create index idx_conversations_owner on public.conversations (owner_organization_id);
			alter table public.organizations alter column slug set not null;
			alter table public.prompts add constraint prompts_owner foreign key (owner_organization_id) references public.organizations (id) on delete cascade;
			alter table public.conversations add constraint conversations_tenant foreign key (tenant_id) references public.organizations (id) on delete set null`)
		definitions, rows := phasetest.Catalog(t, db), phasetest.Data(t, db)
		db.Migrate(t, schema.Phase3)
		require.Equal(t, []string{
			"constraint conversations.conversations_tenant is there, and nobody wants it: FOREIGN KEY (tenant_id) REFERENCES public.organizations(id) ON DELETE RESTRICT",
		}, constraintProblems(t, db.Owner), "one key stands on each owner; one on a tenant neither deletes nor forgets any more")
		db.Rollback(t, schema.Phase3)
		require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
		require.Empty(t, catalog.Diff(rows, phasetest.Data(t, db)))
	})
	t.Run("and nobody waits who reads the audit log, behind a report on it", func(t *testing.T) {
		t.Parallel()
		db := phase3(t)
		hold(t, db, `lock table public.audit_logs in access share mode`)
		f, err := schema.Rollback(schema.Phase3)
		require.NoError(t, err)
		rollback := db.Connect(t, pgtest.OwnerRole)
		done := make(chan error, 1)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() {
			_, err := script.Run(ctx, rollback, f)
			done <- err
		}()
		// It steps aside again and again.
		for tries := 0; tries < 3; time.Sleep(time.Millisecond) {
			waits := func() (waits bool) {
				require.NoError(t, db.Superuser.QueryRow(t.Context(), `select cardinality(pg_blocking_pids($1::int)) > 0`, rollback.PgConn().PID()).Scan(&waits))
				return waits
			}
			if !waits() {
				require.Empty(t, done, "it has met nobody")
				continue
			}
			for began := time.Now(); waits(); time.Sleep(time.Millisecond) {
				require.Less(t, time.Since(began), 2*time.Second, "it waits, and everybody behind it")
			}
			tries++
		}
	})
	t.Run("half a phase 3 is taken back, too", func(t *testing.T) {
		t.Parallel()
		db := phase2(t)
		definitions, rows := phasetest.Catalog(t, db), phasetest.Data(t, db)
		reader := hold(t, db, `lock table public.workflows in access share mode`)
		migration := start(t, db)
		migration.waitsFor(t, reader)
		migration.kill(t)
		reader.release(t)
		db.Rollback(t, schema.Phase3)
		require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
		require.Empty(t, catalog.Diff(rows, phasetest.Data(t, db)))
	})
}

func testRollbackRefusals(t *testing.T) {
	t.Parallel()
	f, err := schema.Rollback(schema.Phase3)
	require.NoError(t, err)
	t.Run("while phase 4 is complete", func(t *testing.T) {
		t.Parallel()
		phasetest.Refuses(t, pgtest.New(t, schema.Phase4, fixtures.World()...), f, "phase 4 is complete: roll it back before phase 3")
	})
	t.Run("while another migration is running", func(t *testing.T) {
		t.Parallel()
		db := phase3(t)
		hold(t, db, `select pg_advisory_xact_lock(hashtextextended('tenancy.migration', 0))`)
		phasetest.Refuses(t, db, f, "another migration of this database is running")
	})
	t.Run("while there is a history, unless it is told to drop it", func(t *testing.T) {
		t.Parallel()
		db := phase2(t)
		definitions := phasetest.Catalog(t, db)
		db.Migrate(t, schema.Phase3)
		phasetest.Exec(t, db, `insert into public.audit_logs (actor_role, action, resource_type) values ('service_role', 'UPDATE', 'agents')`)
		phasetest.Refuses(t, db, f, "public.audit_logs has a history, and this rollback drops it")
		// Also while it is in a month that was detached, and not exported yet.
		phasetest.Exec(t, db, `
			update public.audit_logs set created_at = now() - interval '8 years';
			select audit.make_partitions(1)`)
		phasetest.Exec(t, db, `call audit.detach_partitions()`)
		require.Equal(t, []int{0}, collect[int](t, db.Owner, `select count(*) from public.audit_logs`))
		phasetest.Refuses(t, db, f, "public.audit_logs has a history, and this rollback drops it")

		// As PGOPTIONS='-c tenancy.discard_audit_logs=…' does.
		rollBack := func(said string) error {
			cfg := db.Config(t, pgtest.OwnerRole)
			cfg.RuntimeParams["options"] = "-c tenancy.discard_audit_logs=" + said
			conn, err := script.Connect(t.Context(), cfg)
			require.NoError(t, err)
			defer conn.Close(context.WithoutCancel(t.Context()))
			_, err = script.Run(t.Context(), conn, f)
			return err
		}
		require.ErrorContains(t, rollBack("no"), "public.audit_logs has a history, and this rollback drops it")
		require.NoError(t, rollBack("yes"))
		require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
	})
}
