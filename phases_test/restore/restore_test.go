package restore_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// The backup holds everything: definitions, owners, grants, rows, numbers that were given out, large objects.
func TestRestoreBackup(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "pre-implementation/backup-production-database/backup-restoration-tested-in-staging")
	p := newProduction(t)
	before := take(t, p.DB)
	path := p.backup(t)
	if p.kept != nil {
		same(t, before, take(t, pgtest.NewFrom(t, p.kept.Origin(), schema.Legacy)))
		return
	}
	checklist.Proves(t, "pre-implementation/backup-production-database/full-database-dump-created", "production-deployment/final-backup")
	require.Contains(t, before.all, "number of storage.invoice_number")
	require.Contains(t, before.all, "rows of public.agents")

	t.Run("an empty database gets all of it but what is said of the database itself", func(t *testing.T) {
		staging := pgtest.Empty(t)
		said, err := run(t, p.restorer, "-d", staging.URL(""), "--exit-on-error", path)
		require.NoError(t, err, said)
		after := take(t, staging)
		same(t, before, after)
		lost := catalog.Diff(before.ofDatabase, after.ofDatabase)
		require.Contains(t, lost, "- database setting statement_timeout", "that takes pg_restore -C")
		require.Contains(t, lost, "- acl database to service_role", "that takes pg_restore -C")
	})
	t.Run("what is not the same is found", func(t *testing.T) {
		for _, change := range []string{
			`select nextval('storage.invoice_number')`,
			`select lo_put((select file from storage.files limit 1), 0, 'x')`,
			`do $$ begin execute format('revoke select on large object %s from service_role', (select file from storage.files limit 1)); end $$`,
			`update public.agents set priority = priority + 1 where name = 'Novartis RA Agent'`,
			`revoke select (id) on storage.files from authenticated`,
			`alter table public.prompts owner to current_user`,
		} {
			_, err := p.Superuser.Exec(t.Context(), change)
			require.NoError(t, err, change)
			after := take(t, p.DB)
			require.NotEmpty(t, catalog.Diff(before.all, after.all), change)
			before = after
		}
	})
}

// After the whole rollout, and after people have worked with it: the plan of the checklist, in the order of
// docs/recovery.md.
func TestRestoreEmergency(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "rollback-procedures/restore-from-backup", "rollback-procedures/emergency-rollback-plan", "phase-2/restore-from-backup-if-needed")
	p := newProduction(t)
	before := take(t, p.DB)
	path := p.backup(t)
	p.deploy(t)
	require.NoError(t, actor.Service().Do(t, p.DB, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `insert into public.agents (owner_organization_id, name, sharing_scope) select id, 'Written since', 'tenant' from public.organizations
			where organization_type = 'organization' order by id limit 1`)
		require.NoError(t, err)
		return tx.Commit(t.Context())
	}))
	require.NotEmpty(t, catalog.Diff(before.all, take(t, p.DB).all))
	if p.kept != nil {
		restored := &production{DB: pgtest.NewFrom(t, p.kept.Origin(), schema.Legacy), kept: p.kept}
		same(t, before, take(t, restored.DB))
		restored.oldApplication(t)
		return
	}

	// The database that failed is kept under another name: pgtest's, so that it goes when the test ends.
	failed, name := pgtest.Empty(t), p.Name
	admin := pgtest.Empty(t)
	said, err := run(t, p.restorer, "-C", "-d", admin.URL(""), path)
	require.Error(t, err, "a database is never restored over another: %s", said)
	require.Contains(t, said, "already exists")

	_, err = admin.Superuser.Exec(t.Context(), "drop database "+pgx.Identifier{failed.Name}.Sanitize()+" with (force)")
	require.NoError(t, err)
	p.stop(t, admin)
	rename(t, admin, name, failed.Name)
	said, err = run(t, p.restorer, "-C", "-d", admin.URL(""), "--exit-on-error", path)
	require.NoError(t, err, said)

	after := take(t, p.DB)
	same(t, before, after)
	require.Empty(t, catalog.Diff(before.ofDatabase, after.ofDatabase))
	p.oldApplication(t)

	count := func(db *pgtest.DB) (n int) {
		require.NoError(t, db.Superuser.QueryRow(t.Context(), `select count(*) from public.agents where name = 'Written since'`).Scan(&n))
		return n
	}
	require.Equal(t, 0, count(p.DB), "what was written since the backup is lost")
	_, err = admin.Superuser.Exec(t.Context(), "alter database "+pgx.Identifier{failed.Name}.Sanitize()+" allow_connections true")
	require.NoError(t, err)
	require.Equal(t, 1, count(failed), "but not gone: the failed database is there to take it from")
}

// stop is the first step: nobody connects any more, and who is there, ends.
func (p *production) stop(t *testing.T, admin *pgtest.DB) {
	t.Helper()
	_, err := admin.Superuser.Exec(t.Context(), "alter database "+pgx.Identifier{p.Name}.Sanitize()+" allow_connections false")
	require.NoError(t, err)
	p.Owner.Reset()
	p.Superuser.Reset()
	for left := 1; left > 0; {
		require.NoError(t, admin.Superuser.QueryRow(t.Context(), `select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = $1`, p.Name).Scan(&left))
	}
}

// The checklist restores with -c, over the database that was migrated: that does not bring it back.
func TestRestoreOver(t *testing.T) {
	t.Parallel()
	p := newProduction(t)
	if p.kept != nil {
		t.Log("the backup that is kept is of another database")
		return
	}
	before := take(t, p.DB)
	path := p.backup(t)
	p.deploy(t)
	said, err := run(t, p.restorer, "-c", "-d", p.URL(""), path)
	require.Error(t, err, "pg_restore says that it has ignored errors")
	require.Contains(t, said, "cannot drop table public.organizations because other objects depend on it")
	require.NotEmpty(t, catalog.Diff(before.all, take(t, p.DB).all))
}

// The other way back: by the rollbacks, which lose nothing that either application wrote into legacy columns, and exactly
// what docs/recovery.md says beyond that.
func TestRestoreForward(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "rollback-procedures/emergency-rollback-plan", "rollback-procedures/rollback-phase-1")
	db := pgtest.New(t, schema.Phase4, fixtures.World()...)
	legacy := pgtest.New(t, schema.Legacy, fixtures.World()...)
	for _, sql := range []string{
		`insert into public.agents (owner_organization_id, created_by, name, sharing_scope) values ('` + fixtures.Novartis.ID + `', '` + fixtures.Adam.ID + `', 'Shared since', 'tenant')`,
		`insert into public.agents (owner_organization_id, created_by, name) values ('` + fixtures.Novartis.ID + `', '` + fixtures.Adam.ID + `', 'Deleted since')`,
		`select public.soft_delete('agents', id) from public.agents where name = 'Deleted since'`,
	} {
		require.NoError(t, actor.User(fixtures.Adam.ID).Do(t, db, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), sql)
			require.NoError(t, err, sql)
			return tx.Commit(t.Context())
		}))
	}
	var audited int
	require.NoError(t, db.Superuser.QueryRow(t.Context(), `select count(*) from public.audit_logs`).Scan(&audited))
	require.Positive(t, audited)
	require.NotContains(t, phasetest.VisibleAgents(t, db, fixtures.Adam), "Deleted since")

	db.Rollback(t, schema.Phase4)
	file, err := schema.Rollback(schema.Phase3)
	require.NoError(t, err)
	phasetest.Refuses(t, db, file, "public.audit_logs has a history, and this rollback drops it")
	file.SQL = "set tenancy.discard_audit_logs = 'yes';\n" + file.SQL
	_, err = db.Run(t, file)
	require.NoError(t, err)
	db.Rollback(t, schema.Phase2)
	db.Rollback(t, schema.Phase1)

	require.Empty(t, catalog.Diff(phasetest.Catalog(t, legacy), phasetest.Catalog(t, db)), "the definitions are the legacy ones")
	require.NotContains(t, phasetest.Catalog(t, db), "table public.audit_logs", "the audit history is lost")
	phasetest.OldApplicationAtOnce(t, db)
	var shared string
	require.NoError(t, db.Owner.QueryRow(t.Context(), `select tenant_id::text || ' ' || metadata::text from public.agents where name = 'Shared since'`).Scan(&shared))
	require.Equal(t, fixtures.Novartis.ID+" {}", shared, "who owns a row is kept; with whom it was shared since, is lost")
	require.Contains(t, phasetest.VisibleAgents(t, db, fixtures.Adam), "Deleted since", "what was deleted since is back")
}
