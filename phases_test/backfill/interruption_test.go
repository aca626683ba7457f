package backfill_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// twoBatches is more documents than the backfill fills in one transaction, and a platform whose slug two rows have in the
// midst of its move.
var twoBatches = append(fixtures.World(), pgtest.Seed{Name: "documents for two batches", SQL: `
	alter table public.organizations add column slug text;
	insert into public.knowledge_documents (id, title, tenant_id)
	select ('00000100-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'Document ' || n, '` + fixtures.Novartis.ID + `'
	from generate_series(1, 5200) as n;
	update public.organizations set slug = 'vital' where tenant_type = 'system';`})

// Where a run is killed: it waits for a row that somebody has locked there, and half
// says what is done by then and what is not.
var killings = map[string]struct{ lock, half string }{
	"while the platform moves": {
		`select from public.user_organizations where user_id = '` + fixtures.Root.ID + `' for update`,
		`select count(*) = 2 from public.organizations where tenant_type = 'system'`},
	"while the organizations are placed": {
		`select from public.organizations where name = 'Novartis' for update`,
		`select count(*) = 1 and not exists (select from public.organizations where slug = 'pfizer') from public.organizations where tenant_type = 'system'`},
	"between two batches": {
		`select from public.knowledge_documents where title = 'Document 5200' for update`,
		`select bool_or(owner_organization_id is null) and count(owner_organization_id) > 1000 from public.knowledge_documents`},
	"in the last table": {
		`select from public.workflows where name = 'Kaiser referral template' for update`,
		`select bool_or(owner_organization_id is null) and not exists (select from public.use_cases where owner_organization_id is null) from public.workflows`},
}

func testKilled(t *testing.T) {
	t.Parallel()
	migration, err := schema.Migration(schema.Phase2)
	require.NoError(t, err)
	before := phasetest.Take(t, pgtest.New(t, schema.Phase1, twoBatches...))
	undisturbed := phasetest.Take(t, pgtest.New(t, schema.Phase2, twoBatches...))

	for name, killing := range killings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, schema.Phase1, twoBatches...)
			t.Run("and rolled back, it has done nothing", func(t *testing.T) {
				kill(t, db, migration, killing.lock)
				require.Equal(t, []bool{true}, query[bool](t, db, killing.half), "killed elsewhere than the test means to")
				db.Rollback(t, schema.Phase2)
				before.Same(t, db)
			})
			t.Run("and run again, it has done what an undisturbed run does", func(t *testing.T) {
				kill(t, db, migration, killing.lock)
				db.Migrate(t, schema.Phase2)
				undisturbed.Same(t, db)
			})
		})
	}
}

// Each changes a row that the backfill waits for, and is done before it goes on.
func testWriters(t *testing.T) {
	t.Parallel()
	migration, err := schema.Migration(schema.Phase2)
	require.NoError(t, err)
	novartis, pfizer, old := fixtures.Novartis.ID, fixtures.Pfizer.ID, fixtures.Platform.ID

	const roche = "00000500-0000-4000-8000-000000000500"
	locked := func(table string, r fixtures.Resource) string {
		return `select from public.` + table + ` where id = '` + r.ID + `' for update; `
	}
	for name, test := range map[string]struct {
		begun, then string // before the backfill comes, and while it waits
		want        map[string]row
		joined      int // members that the platform has got
	}{
		"changes rows that are being filled": {
			locked("agents", fixtures.NovartisAgent) + locked("agents", fixtures.PharmaAgent) + locked("agents", fixtures.MayoAgent) +
				locked("knowledge_documents", fixtures.DanglingDocument) + locked("prompts", fixtures.PfizerPrompt),
			`update public.agents set name = 'Public now', metadata = '{"is_public": true}' where id = '` + fixtures.NovartisAgent.ID + `';
			 update public.agents set metadata = '{}' where id = '` + fixtures.PharmaAgent.ID + `';
			 update public.agents set tenant_id = '` + novartis + `' where id = '` + fixtures.MayoAgent.ID + `';
			 update public.knowledge_documents set title = 'Renamed' where id = '` + fixtures.DanglingDocument.ID + `';
			 delete from public.prompts where id = '` + fixtures.PfizerPrompt.ID + `'`,
			map[string]row{
				"agents Public now":                     derive(novartis, fixtures.PlatformLevel),
				"agents " + fixtures.PharmaAgent.Name:   derive(pfizer, fixtures.OrganizationLevel),
				"agents " + fixtures.MayoAgent.Name:     derive(novartis, fixtures.TenantLevel),
				"knowledge_documents Renamed":           derive(fixtures.MayoClinic.ID, fixtures.OrganizationLevel),
				"prompts " + fixtures.PfizerPrompt.Name: {},
			}, 0},
		"has made rows, and not committed them yet": {
			`insert into public.prompts (name, created_by) values ('Late', '` + fixtures.Bob.ID + `');
			 insert into public.agents (name, tenant_id, metadata) values ('Late', '` + old + `', '{"is_public": "true"}');
			 insert into public.conversations (title, user_id) values ('Late', '` + fixtures.Carol.ID + `')`,
			``,
			map[string]row{
				"prompts Late":       derive(pfizer, fixtures.OrganizationLevel),
				"agents Late":        derive(fixtures.PlatformID, fixtures.PlatformLevel),
				"conversations Late": derive(fixtures.MayoClinic.ID, ""),
			}, 0},
		"has made an organization, and then writes for it": {
			`insert into public.organizations (id, name, tenant_key) values ('` + roche + `', 'Roche', 'pharma')`,
			`insert into public.prompts (name, tenant_id, metadata) values ('Of Roche', '` + roche + `', '{"is_tenant_shared": true}')`,
			map[string]row{"prompts Of Roche": {roche, "tenant", fixtures.Pharmaceuticals.ID, shared(fixtures.Pharmaceuticals.ID)}}, 0},
		"has let somebody into the platform, who then writes for it": {
			`insert into public.user_organizations (user_id, organization_id) values ('` + fixtures.Nobody.ID + `', '` + old + `')`,
			`insert into public.agents (name, tenant_id) values ('By the new member', '` + old + `')`,
			map[string]row{"agents By the new member": derive(fixtures.PlatformID, fixtures.OrganizationLevel)}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, schema.Phase1, fixtures.World()...)
			writer, _, done := meet(t, db, migration, test.begun)
			// Longer than it waits for a lock: what it has not committed it does again.
			_, err := writer.Exec(t.Context(), `select pg_sleep(0.15); `+test.then+`; commit`)
			require.NoError(t, err)
			require.NoError(t, <-done)

			found := rows(t, db)
			for name, want := range test.want {
				require.Equal(t, want, found[name], name)
			}
			for _, q := range []string{"nulls_in_rows", "dangling_owners", "derived_columns"} {
				for _, counted := range ask(t, db, q) {
					require.Equal(t, "0", counted[1], "%s of %s", q, counted[0])
				}
			}
			require.Empty(t, ask(t, db, "nulls_in_organizations"))
			require.Equal(t, []int{len(tables())}, query[int](t, db, `select count(finished_at) from tenancy.backfill_progress`))
			require.Equal(t, []int{2 + test.joined}, query[int](t, db, `select count(*) from public.user_organizations where organization_id = $1`, fixtures.PlatformID),
				"Root, Peter, and who has joined them")
		})
	}
}

// A row that the application changes may come to lie where the backfill does not look
// any more: where it has been, or beyond the end that the table had.
func testMovedRows(t *testing.T) {
	t.Parallel()
	migration, err := schema.Migration(schema.Phase2)
	require.NoError(t, err)
	// Four to a page: more pages than the backfill takes at a time, which is 2048.
	insert := func(from, to int) string {
		return fmt.Sprintf(`insert into public.knowledge_documents (title, tenant_id, content)
			select 'Document ' || n, '%s', repeat('x', 1850) from generate_series(%d, %d) as n;`, fixtures.Novartis.ID, from, to)
	}
	db := pgtest.New(t, schema.Phase1, append(fixtures.World(), pgtest.Seed{Name: "documents on 2250 pages", SQL: insert(1, 9000)})...)
	const unfilled = ` from public.knowledge_documents where owner_organization_id is null`

	writer, _, done := meet(t, db, migration, `select from public.knowledge_documents where title = 'Document 9000' for update`)
	require.Equal(t, []int{0}, query[int](t, db, `select count(*)`+unfilled+` and (ctid::text::point)[0] < 2048`), "one stretch after the other")
	var rows, there int
	// What is new comes after the second stretch, and what is changed finds room there.
	for _, sql := range []string{insert(9001, 18000), `update public.knowledge_documents set summary = 'Moved' where owner_organization_id is null`} {
		_, err = writer.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	require.NoError(t, writer.QueryRow(t.Context(), `select count(*), count(*) filter (where (ctid::text::point)[0] between 2048 and 4095)`+unfilled).Scan(&rows, &there))
	require.Greater(t, rows-there, 100, "the backfill has not filled them, and is elsewhere")
	_, err = writer.Exec(t.Context(), `commit`)
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.Equal(t, []int{0}, query[int](t, db, `select count(*)`+unfilled))

	t.Run("every 100,000 rows it says how far it is, once", func(t *testing.T) {
		for filled, want := range map[int][]string{99_999: nil, 100_000: {"NOTICE: knowledge_documents: 100000 rows"}} {
			phasetest.Exec(t, db, `update tenancy.backfill_progress set rows_changed = $1 where table_name = 'knowledge_documents'`, filled)
			log, err := db.Run(t, schema.File{Origin: "the table again", SQL: `call tenancy.backfill('knowledge_documents');`})
			require.NoError(t, err)
			require.Equal(t, want, log.Steps[0].Notices)
		}
	})
	t.Run("it lets go of the table after every stretch, though it finds nothing to do", func(t *testing.T) {
		conn := db.Connect(t, pgtest.OwnerRole)
		committed := func() (n int) {
			_, err := conn.Exec(t.Context(), `select pg_stat_force_next_flush()`)
			require.NoError(t, err)
			require.NoError(t, conn.QueryRow(t.Context(), `select xact_commit from pg_stat_database where datname = current_database()`).Scan(&n))
			return n
		}
		stretches := query[int](t, db, `select 1 + ceil(pg_relation_size('public.knowledge_documents') / 8192 / 2048.0)::int`)[0]
		const around = 5 // its own first and last, and what it takes to ask
		before := committed()
		_, err := conn.Exec(t.Context(), `call tenancy.backfill('knowledge_documents')`)
		require.NoError(t, err)
		require.GreaterOrEqual(t, committed()-before, stretches+around)
	})
}

// A vacuum has its table for as long as it takes. To wait for it in the queue, even for
// a moment at a time, would stop everybody who comes after, all that time.
func testBehindVacuum(t *testing.T) {
	t.Parallel()
	migration, err := schema.Migration(schema.Phase2)
	require.NoError(t, err)
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	vacuum, _, done := meet(t, db, migration, `lock table public.workflows in share update exclusive mode`)
	queued := 0
	const looks = 150
	for range looks {
		if query[bool](t, db, `select exists (select from pg_locks where relation = 'public.workflows'::regclass and not granted)`)[0] {
			queued++
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.Less(t, queued, looks/3, "it waits for the vacuum beside the queue, and not in it")
	require.Empty(t, done, "it waits all the time")
	_, err = vacuum.Exec(t.Context(), `commit`)
	require.NoError(t, err)
	require.NoError(t, <-done, "it goes on once the vacuum is over")
}

// kill runs a file as far as a row that somebody has locked, and ends its session there.
func kill(t *testing.T, db *pgtest.DB, f schema.File, lock string) {
	t.Helper()
	locker, pid, done := meet(t, db, f, lock)
	_, err := db.Superuser.Exec(t.Context(), `select pg_terminate_backend($1)`, pid)
	require.NoError(t, err)
	require.ErrorContains(t, <-done, "terminating connection due to administrator command")
	_, err = locker.Exec(t.Context(), `rollback`)
	require.NoError(t, err)
	// What the session held is free when it is gone.
	require.Eventually(t, func() bool {
		return query[int](t, db, `select count(*) from pg_stat_activity where pid = $1`, pid)[0] == 0
	}, 10*time.Second, 5*time.Millisecond)
}

// meet runs a file as far as something that another session, in a transaction of
// its own, has locked. It returns that session, the process of the one that waits,
// and where its end will be told.
func meet(t *testing.T, db *pgtest.DB, f schema.File, lock string) (locker *pgx.Conn, pid uint32, done chan error) {
	t.Helper()
	locker, runner := db.Connect(t, pgtest.OwnerRole), db.Connect(t, pgtest.OwnerRole)
	_, err := locker.Exec(t.Context(), `begin; `+lock)
	require.NoError(t, err)
	pid, done = runner.PgConn().PID(), make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	go func() {
		_, err := script.Run(ctx, runner, f)
		done <- err
	}()
	await(t, db, pid, locker, done)
	return locker, pid, done
}

// await returns when the process waits for what the session has locked.
func await(t *testing.T, db *pgtest.DB, pid uint32, locker *pgx.Conn, done chan error) {
	t.Helper()
	require.Eventually(t, func() bool {
		select {
		case err := <-done:
			done <- err
			t.Errorf("the file met no lock, and ended: %v", err)
			return true
		default:
		}
		return query[bool](t, db, `select $1::int = any (pg_blocking_pids($2))`, locker.PgConn().PID(), pid)[0]
	}, 20*time.Second, 5*time.Millisecond)
}
