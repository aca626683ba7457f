package deployment_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// apply runs a file, which must work.
func apply(t *testing.T, db *pgtest.DB, f schema.File) {
	t.Helper()
	_, err := db.Run(t, f)
	require.NoError(t, err)
}

// writes is what a caller's statement comes to: "" or the SQLSTATE. Nothing of it stays.
func writes(t *testing.T, db *pgtest.DB, as actor.Actor, sql string) (code string) {
	t.Helper()
	err := as.Do(t, db, func(tx pgx.Tx) error {
		tag, err := tx.Exec(t.Context(), sql)
		if err == nil {
			require.Positive(t, tag.RowsAffected(), "the statement must meet rows, or it proves nothing: %s", sql)
		}
		return err
	})
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refusal.Code
	}
	require.NoError(t, err)
	return ""
}

const refused = "PT503" // of which PostgREST makes HTTP 503

func TestMaintenance(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "production-deployment/enable-maintenance-mode/api-endpoints-return-503-for-writes",
		"production-deployment/enable-maintenance-mode/background-jobs-paused",
		"production-deployment/disable-maintenance-mode/re-enable-api-writes", "production-deployment/disable-maintenance-mode/resume-background-jobs")
	on, off, err := schema.Maintenance()
	require.NoError(t, err)
	alice, backend := actor.User(fixtures.Alice.ID), actor.Service()
	insert := fmt.Sprintf(`insert into public.agents (tenant_id, name, created_by) values ('%s', 'New', '%s')`, fixtures.Novartis.ID, fixtures.Alice.ID)
	for _, phase := range []schema.Phase{schema.Legacy, schema.Phase4} {
		t.Run(fmt.Sprintf("in %s writes are refused, reads go on, and it goes without a trace", phase), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, phase, fixtures.World()...)
			before := phasetest.Take(t, db)
			apply(t, db, on)
			apply(t, db, on)
			author, statements := alice, map[string]string{
				"insert": insert, "update": `update public.agents set display_name = 'RA' where name = 'Novartis RA Agent'`,
				"update of all": `update public.agents set display_name = 'RA'`,
			}
			if phase == schema.Phase4 {
				author = actor.User(fixtures.Adam.ID)
				statements["insert"] = fmt.Sprintf(`insert into public.agents (owner_organization_id, name, created_by) values ('%s', 'New', '%s')`, fixtures.Novartis.ID, fixtures.Adam.ID)
				statements["a function that runs as its owner"] = fmt.Sprintf(`select public.soft_delete('agents', '%s')`, fixtures.NovartisAgent.ID)
			} else {
				statements["delete"] = `delete from public.agents where name = 'Novartis Draft Agent'`
			}
			for name, sql := range statements {
				require.Empty(t, writes(t, db, author, sql), "%s works while it is off", name)
			}
			reads := phasetest.VisibleAgents(t, db, fixtures.Alice)
			require.NotEmpty(t, reads)

			phasetest.Exec(t, db, `call maintenance.begin('the rollout')`)
			for name, sql := range statements {
				require.Equal(t, refused, writes(t, db, author, sql), name)
				if name != "a function that runs as its owner" { // the backend has no claims to ask it with
					require.Empty(t, writes(t, db, backend, sql), "%s of the backend, which is let through", name)
				}
			}
			require.Equal(t, reads, phasetest.VisibleAgents(t, db, fixtures.Alice))
			require.Equal(t, []any{true}, answer(t, db, alice, `select maintenance.jobs_paused()`))
			phasetest.Exec(t, db, `update public.agents set priority = priority`) // the owner, who runs the phases

			phasetest.Exec(t, db, `call maintenance.begin('the rollout', false)`)
			require.Equal(t, refused, writes(t, db, backend, statements["update"]))
			phasetest.Refuses(t, db, off, "maintenance mode is on")
			phasetest.Exec(t, db, `call maintenance.finish()`)
			for name, sql := range statements {
				require.Empty(t, writes(t, db, author, sql), "%s works again", name)
			}
			require.Equal(t, []any{false}, answer(t, db, backend, `select maintenance.jobs_paused()`))
			apply(t, db, off)
			apply(t, db, off)
			before.Same(t, db)
		})
	}
	t.Run("switching twice is switching once, and is written down with who and why", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		phasetest.Exec(t, db, `
			alter default privileges grant all on tables to anon, authenticated, service_role;
			alter default privileges grant all on routines to anon, authenticated, service_role`)
		apply(t, db, on)
		for range 2 {
			phasetest.Exec(t, db, `call maintenance.begin('the rollout')`)
		}
		for range 2 {
			phasetest.Exec(t, db, `call maintenance.finish()`)
		}
		rows, err := db.Owner.Query(t.Context(), `select concat_ws(' ', switched, role, reason) from maintenance.history order by at`)
		require.NoError(t, err)
		history, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.Equal(t, []string{"on tenancy_owner the rollout", "off tenancy_owner"}, history)
		for _, as := range []actor.Actor{alice, backend, actor.Anonymous()} {
			for _, sql := range []string{`call maintenance.finish()`, `call maintenance.begin('x')`, `update maintenance.state set since = null`, `select * from maintenance.history`} {
				require.Equal(t, "42501", writes(t, db, as, sql), sql)
			}
		}
	})
	t.Run("a function that runs as somebody who knows nothing of it writes when it is off, and only then", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		_, err := db.Superuser.Exec(t.Context(), `
			grant select, update on public.agents to tenancy_service;
			create function public.touch() returns void language sql security definer set search_path = ''
				as 'update public.agents set priority = priority';
			alter function public.touch() owner to tenancy_service`)
		require.NoError(t, err)
		apply(t, db, on)
		require.Empty(t, writes(t, db, alice, `select public.touch()`))
		phasetest.Exec(t, db, `call maintenance.begin('the rollout')`)
		require.Equal(t, refused, writes(t, db, alice, `select public.touch()`))
	})
	t.Run("it is on when nobody writes any more", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		apply(t, db, on)
		writer, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		_, err = writer.Exec(t.Context(), `update public.agents set priority = 1 where name = 'Novartis RA Agent'`)
		require.NoError(t, err)
		done := make(chan error, 1)
		conn := db.Connect(t, pgtest.OwnerRole)
		go func() {
			_, err := conn.Exec(t.Context(), `call maintenance.begin('the rollout')`)
			done <- err
		}()
		require.Eventually(t, func() bool {
			var paused bool
			require.NoError(t, db.Superuser.QueryRow(t.Context(), `select maintenance.jobs_paused()`).Scan(&paused))
			return paused
		}, 10*time.Second, 10*time.Millisecond)
		require.Equal(t, refused, writes(t, db, alice, insert), "who comes now is refused")
		select {
		case err := <-done:
			t.Fatalf("it waits for who writes already: %v", err)
		case <-time.After(300 * time.Millisecond):
		}
		require.NoError(t, writer.Commit(t.Context()))
		require.NoError(t, <-done)
	})
	t.Run("the phases neither need it nor mind it", func(t *testing.T) {
		t.Parallel()
		db, without := pgtest.New(t, schema.Legacy, fixtures.World()...), pgtest.New(t, schema.Phase4, fixtures.World()...)
		apply(t, db, on)
		phasetest.Exec(t, db, `call maintenance.begin('the rollout', false)`)
		for _, p := range schema.Phases() {
			db.Migrate(t, p)
			for _, seed := range fixtures.World() {
				if seed.After == p && p > schema.Legacy {
					phasetest.Exec(t, db, seed.SQL)
				}
			}
		}
		phasetest.Exec(t, db, `call maintenance.finish()`)
		apply(t, db, off)
		phasetest.Take(t, without).Same(t, db)
	})
}

// answer is the first row that a caller gets.
func answer(t *testing.T, db *pgtest.DB, as actor.Actor, sql string) (values []any) {
	t.Helper()
	require.NoError(t, as.Do(t, db, func(tx pgx.Tx) error {
		rows, err := tx.Query(t.Context(), sql)
		require.NoError(t, err)
		require.True(t, rows.Next())
		values, err = rows.Values()
		rows.Close()
		return err
	}))
	return values
}
