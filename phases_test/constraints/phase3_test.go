package constraints_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

func TestPhase3(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-3/run-phase-3-migration-in-staging", "phase-3/verify-phase-3-completion")
	t.Run("Refusals", testRefusals)
	t.Run("Constraints", testConstraints)
	t.Run("Indexes", testIndexes)
	t.Run("Functions", testFunctions)
	t.Run("Statistics", testStatistics)
	t.Run("Audit", testAudit)
	t.Run("Partitions", testPartitions)
	t.Run("Verification queries", testVerification)
	t.Run("The old application", testOldApplication)
	t.Run("Again", testAgain)
	t.Run("Killed", testKilled)
	t.Run("Nobody waits", testNobodyWaits)
	t.Run("NOT NULL reads no row", testNotNull)
	t.Run("Another legacy schema", testVariants)
}

// resourceTables are the tables whose rows have an owner and are shared.
var resourceTables = []string{"agents", "knowledge_documents", "prompts", "workflows", "use_cases", "capabilities"}

func phase3(t testing.TB) *pgtest.DB {
	t.Helper()
	return pgtest.New(t, schema.Phase3, fixtures.World()...)
}

func phase2(t testing.TB) *pgtest.DB {
	t.Helper()
	return pgtest.New(t, schema.Phase2, fixtures.World()...)
}

func testOldApplication(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	phasetest.OldApplication(t, db)
	t.Run("shows everybody the agents that it showed before the rollout", func(t *testing.T) {
		legacy := pgtest.New(t, schema.Legacy, fixtures.World()...)
		before, after := visibleAgents(t, legacy), visibleAgents(t, db)
		require.Equal(t, before, after)
		require.NotContains(t, after[fixtures.Alice.Name], fixtures.PfizerAgent.Name)
		require.Contains(t, after[fixtures.Bob.Name], fixtures.PfizerAgent.Name)
	})
}

// visibleAgents are the names that row level security shows to each user.
func visibleAgents(t *testing.T, db *pgtest.DB) map[string][]string {
	t.Helper()
	names := map[string][]string{}
	eachUser(t, db, func(tx pgx.Tx, user fixtures.User) {
		names[user.Name] = collect[string](t, tx, `select name from public.agents order by name`)
	})
	return names
}

func testAgain(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	const counted = "tenancy.refreshed_statistics.refreshed_at" // anew
	definitions, rows := phasetest.Catalog(t, db), phasetest.Data(t, db, counted)
	db.Migrate(t, schema.Phase3)
	require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)), "a second run leaves the definitions alone")
	require.Empty(t, catalog.Diff(rows, phasetest.Data(t, db, counted)), "a second run leaves the rows alone")
}

// Run again after it was killed, the migration makes the same as one that nobody disturbed.
func testKilled(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-3/run-phase-3-migration-in-staging")
	undisturbed := phase3(t)
	definitions, rows := phasetest.Catalog(t, undisturbed), bookkept(t, undisturbed)
	same := func(t *testing.T, db *pgtest.DB) {
		t.Helper()
		db.Migrate(t, schema.Phase3)
		require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
		require.Empty(t, catalog.Diff(rows, bookkept(t, db)))
	}

	t.Run("while it makes an index", func(t *testing.T) {
		t.Parallel()
		db := phase2(t)
		writer := hold(t, db, `update public.agents set name = name where id = $1`, fixtures.NovartisAgent.ID)
		migration := start(t, db)
		migration.waitsFor(t, writer)
		migration.kill(t)
		writer.release(t)
		require.Equal(t, []string{"idx_agents_accessible"}, collect[string](t, db.Owner,
			`select indexrelid::regclass::text from pg_index where not indisvalid`), "the kill leaves an index half-built")
		same(t, db)
	})
	t.Run("while it adds a constraint", func(t *testing.T) {
		t.Parallel()
		db := phase2(t)
		// Whoever reads is in the way of a new check, and of nothing before the last table's.
		reader := hold(t, db, `lock table public.workflows in access share mode`)
		migration := start(t, db)
		migration.waitsFor(t, reader)
		migration.kill(t)
		reader.release(t)
		require.Equal(t, []string{"fk_agents_owner"}, collect[string](t, db.Owner,
			`select conname::text from pg_constraint where conname in ('fk_agents_owner', 'workflows_audience_key_derived')`), "the kill leaves half of the constraints")
		same(t, db)
	})
	t.Run("between two steps for one constraint", func(t *testing.T) {
		t.Parallel()
		db := phase3(t)
		phasetest.Exec(t, db, `
			delete from tenancy.completed_phase where phase = 3;
			-- The legacy key is replaced, and its rows have not been looked at.
			alter table public.agents drop constraint agents_tenant_id_fkey,
				add constraint agents_tenant_id_fkey foreign key (tenant_id) references public.organizations (id) on delete restrict not valid;
			alter table public.prompts drop constraint fk_prompts_owner,
				add constraint fk_prompts_owner foreign key (owner_organization_id) references public.organizations (id) on delete restrict not valid;
			-- What lets SET NOT NULL pass is there, and NOT NULL is not.
			delete from tenancy.undo where statement = 'alter table public.prompts alter column sharing_scope drop not null';
			alter table public.prompts alter column sharing_scope drop not null,
				add constraint prompts_sharing_scope_filled check (sharing_scope is not null) not valid`)
		require.Len(t, constraintProblems(t, db.Owner), 4)
		same(t, db)
	})
}

// bookkept is the data without what differs between two runs: when, and numbers that were given away.
func bookkept(t testing.TB, db *pgtest.DB) catalog.Data {
	t.Helper()
	return phasetest.Data(t, db, "tenancy.completed_phase.completed_at", "tenancy.refreshed_statistics.refreshed_at", "tenancy.undo.id",
		"tenancy.backfill_progress", "tenancy.organization_journal")
}

// Somebody who is in the way makes the migration wait, and nobody else.
func testNobodyWaits(t *testing.T) {
	t.Parallel()
	for name, does := range map[string]string{
		"behind a transaction that writes": `update public.workflows set name = name where id = '` + fixtures.NovartisWorkflow.ID + `'`,
		"behind a transaction that reads":  `lock table public.workflows in access share mode`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := phase2(t)
			blocker := hold(t, db, does)
			migration := start(t, db)
			migration.waitsFor(t, blocker)

			// Longer than two of the migration's attempts. The limit is well above its lock_timeout: machines are busy.
			client := db.Connect(t, pgtest.OwnerRole)
			_, err := client.Exec(t.Context(), `set statement_timeout = '1s'`)
			require.NoError(t, err)
			for began := time.Now(); time.Since(began) < 700*time.Millisecond; time.Sleep(5 * time.Millisecond) {
				_, err := client.Exec(t.Context(), `update public.workflows set name = name where id = $1`, fixtures.PfizerWorkflow.ID)
				require.NoError(t, err, "the application waits for a migration that waits itself")
			}
			require.True(t, migration.running(), "the migration must wait all the time, or it is in nobody's way")
			blocker.release(t)
			require.NoError(t, <-migration.done, "it finishes once the other one has")
			require.Empty(t, constraintProblems(t, db.Owner))
		})
	}
}

// The server says itself whether it has to read a table for NOT NULL, under a lock that
// nobody gets past.
func testNotNull(t *testing.T) {
	t.Parallel()
	db := phase2(t)
	f, err := schema.Migration(schema.Phase3)
	require.NoError(t, err)
	f.SQL = strings.Replace(f.SQL, "set client_min_messages = warning;", "set client_min_messages = debug1;", 1)
	log, err := db.Run(t, f)
	require.NoError(t, err)
	var said []string
	for _, step := range log.Steps {
		said = append(said, step.Notices...)
	}
	for table, columns := range map[string][]string{
		"organizations": {"organization_type", "slug"},
		"agents":        {"owner_organization_id", "sharing_scope", "audience_key"},
		"conversations": {"owner_organization_id"},
	} {
		for _, column := range columns {
			require.Contains(t, said, fmt.Sprintf(`DEBUG: existing constraints on column "%s.%s" are sufficient to prove that it does not contain nulls`, table, column))
		}
	}
}

// testVariants is phase 3 on a production database that differs from the baseline.
func testVariants(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	phasetest.Exec(t, db, `
		drop table public.prompts, public.capabilities, public.knowledge_documents;
		create schema archive;
		create table archive.agents (like public.agents);
		create table archive.idx_agents_owner (id integer);
		alter table public.organizations add column slug varchar(60), add column updated_at timestamptz;
		alter table public.workflows rename column tenant_id to owner_organization_id;
		alter table public.workflows add foreign key (owner_organization_id) references public.organizations (id) on delete cascade`)
	db.Migrate(t, schema.Phase1)
	db.Migrate(t, schema.Phase2)
	definitions, rows := phasetest.Catalog(t, db), phasetest.Data(t, db)
	db.Migrate(t, schema.Phase3)
	t.Run("all that is missing is of the tables that are missing", func(t *testing.T) {
		// A shorter slug is compared as a text.
		for _, problem := range append(constraintProblems(t, db.Owner), indexProblems(t, db.Owner)...) {
			require.Regexp(t, `^(constraint|index|column) \S*(prompts|capabilities|knowledge_documents)\S* (is missing|may be NULL)|^constraint organizations\.organizations_slug_not_empty is CHECK \(\(\(slug\)::text <> ''::text\)\),`, problem)
		}
	})
	t.Run("what has the same name elsewhere is left alone", func(t *testing.T) {
		after := phasetest.Catalog(t, db)
		var checked int
		for name, definition := range definitions {
			if strings.Contains(name, "archive") {
				require.Equal(t, definition, after[name], name)
				checked++
			}
		}
		require.Positive(t, checked)
	})
	t.Run("and the rollback leads back to phase 2", func(t *testing.T) {
		db.Rollback(t, schema.Phase3)
		require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
		require.Empty(t, catalog.Diff(rows, phasetest.Data(t, db)))
	})
}

// migration is a migration to phase 3 that is under way.
type migration struct {
	db   *pgtest.DB
	pid  uint32
	done chan error
}

func start(t testing.TB, db *pgtest.DB) migration {
	t.Helper()
	f, err := schema.Migration(schema.Phase3)
	require.NoError(t, err)
	conn := db.Connect(t, pgtest.OwnerRole)
	m := migration{db, conn.PgConn().PID(), make(chan error, 1)}
	go func() {
		_, err := script.Run(t.Context(), conn, f)
		m.done <- err
	}()
	return m
}

// waitsFor returns once the migration waits for what somebody holds.
func (m migration) waitsFor(t testing.TB, other holder) {
	t.Helper()
	m.until(t, `select $2 = any (pg_blocking_pids($1))`, m.pid, other.pid)
}

// kill ends the migration's session, and returns once it is gone.
func (m migration) kill(t testing.TB) {
	t.Helper()
	_, err := m.db.Superuser.Exec(t.Context(), `select pg_terminate_backend($1)`, m.pid)
	require.NoError(t, err)
	require.Error(t, <-m.done)
	m.until(t, `select not exists (select from pg_stat_activity where pid = $1)`, m.pid)
}

func (m migration) running() bool { return len(m.done) == 0 }

func (m migration) until(t testing.TB, condition string, args ...any) {
	t.Helper()
	require.Eventually(t, func() bool {
		var holds bool
		return m.db.Superuser.QueryRow(t.Context(), condition, args...).Scan(&holds) == nil && holds
	}, 20*time.Second, 5*time.Millisecond, "%s (the migration is running: %t)", condition, m.running())
}

// holder is a transaction that stays open until it is released.
type holder struct {
	tx  pgx.Tx
	pid uint32
}

// hold runs a statement in a transaction of its own.
func hold(t testing.TB, db *pgtest.DB, sql string, args ...any) holder {
	t.Helper()
	conn := db.Connect(t, pgtest.OwnerRole)
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
	return holder{tx, conn.PgConn().PID()}
}

func (h holder) release(t testing.TB) {
	t.Helper()
	require.NoError(t, h.tx.Rollback(t.Context()))
}

// do runs f as an actor.
func do(t testing.TB, db *pgtest.DB, as actor.Actor, f func(tx pgx.Tx)) {
	t.Helper()
	require.NoError(t, as.Do(t, db, func(tx pgx.Tx) error {
		f(tx)
		return nil
	}))
}

// eachUser runs f as each user in turn, in one transaction whose claims change: a session for each would take longer.
func eachUser(t testing.TB, db *pgtest.DB, f func(tx pgx.Tx, user fixtures.User)) {
	t.Helper()
	do(t, db, actor.User(fixtures.Nobody.ID), func(tx pgx.Tx) {
		for _, user := range fixtures.Users {
			_, err := tx.Exec(t.Context(), `select set_config('request.jwt.claims', json_build_object('role', 'authenticated', 'sub', $1::text)::text, true)`, user.ID)
			require.NoError(t, err)
			f(tx, user)
		}
	})
}

// savepoint lets what follows in a transaction fail, or be undone.
func savepoint(t testing.TB, tx pgx.Tx) (rollback func()) {
	t.Helper()
	_, err := tx.Exec(t.Context(), `savepoint here`)
	require.NoError(t, err)
	return func() {
		t.Helper()
		_, err := tx.Exec(t.Context(), `rollback to savepoint here`)
		require.NoError(t, err)
	}
}

// querier and beginner are a pool, a connection or a transaction.
type (
	querier interface {
		Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	}
	beginner interface {
		querier
		Begin(ctx context.Context) (pgx.Tx, error)
	}
)

// collect returns the only column of a query.
func collect[T any](t testing.TB, db querier, sql string, args ...any) []T {
	t.Helper()
	rows, err := db.Query(t.Context(), sql, args...)
	require.NoError(t, err, sql)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err, sql)
	return values
}

// refused asserts that a statement fails with one of these SQLSTATEs. It takes the transaction along.
func refused(t testing.TB, tx pgx.Tx, sql string, args []any, codes ...string) *pgconn.PgError {
	t.Helper()
	_, err := tx.Exec(t.Context(), sql, args...)
	var refusal *pgconn.PgError
	require.True(t, errors.As(err, &refusal), "%s: %v", sql, err)
	require.True(t, slices.Contains(codes, refusal.Code), "%s: %v, want %v", sql, err, codes)
	return refusal
}
