package rls_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// TestPhase4Sessions is about connections that several callers share, one after
// another: what is left of one of them, what a plan that was kept knows of another, and
// what each sees while somebody else changes who he is.
func TestPhase4Sessions(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/users-cannot-see-unauthorized-data", "success-criteria/security/rls-policies-enforce-data-isolation")
	t.Run("What a transaction leaves on its connection", testEndings)
	t.Run("What stays on a connection", testRemains)
	t.Run("Through PgBouncer", testPgBouncer)
	t.Run("By a plan that is kept", testKeptPlans)
	t.Run("By parallel workers", testParallelWorkers)
	t.Run("While a membership ends", testRevocation)
	t.Run("While an organization moves", testMoves)
}

// column is the first column of what a query returns, in order.
func column(ctx context.Context, tx pgx.Tx, sql string, args ...any) ([]string, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	slices.Sort(found)
	return found, err
}

// allAgents asks for every agent, and so for those of whoever asks.
const allAgents = `select id::text from public.agents`

// keysOf is the rows of a table that a path meets, for a user, in order.
func (w world) keysOf(p path, user, table string) []string {
	found := []string{}
	for _, r := range w.rows {
		if r.table == table && p.want(w, user, r) == done {
			found = append(found, r.key)
		}
	}
	slices.Sort(found)
	return found
}

// requireReads demands that a transaction speaks for a user and reads what is his.
func requireReads(t testing.TB, tx pgx.Tx, u fixtures.User) {
	t.Helper()
	found, err := column(t.Context(), tx, allAgents)
	require.NoError(t, err)
	require.NotEmpty(t, found)
	require.Equal(t, migrated().keysOf(selecting, u.ID, "agents"), found, u.Email)
}

// requireNobodys demands that nothing in a transaction that has just begun says whose
// it is, also to who asks as a signed-in user.
func requireNobodys(t testing.TB, tx pgx.Tx) {
	t.Helper()
	var session, current, role, claims string
	require.NoError(t, tx.QueryRow(t.Context(), `select session_user, current_user, current_setting('role'), coalesce(current_setting('request.jwt.claims', true), '')`).
		Scan(&session, &current, &role, &claims))
	require.Equal(t, []string{pgtest.APIRole, pgtest.APIRole, "none", ""}, []string{session, current, role, claims})
	err := pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), allAgents)
		return err
	})
	require.Equal(t, denied, outcomeOf(err))

	_, err = tx.Exec(t.Context(), `set local role authenticated`)
	require.NoError(t, err)
	var user *string
	require.NoError(t, tx.QueryRow(t.Context(), `select auth.uid()::text`).Scan(&user))
	require.Nil(t, user)
	found, err := column(t.Context(), tx, allAgents)
	require.NoError(t, err)
	require.Empty(t, found)
}

// backend is the server process that a transaction runs in.
func backend(t testing.TB, tx pgx.Tx) (pid int) {
	t.Helper()
	require.NoError(t, tx.QueryRow(t.Context(), `select pg_backend_pid()`).Scan(&pid))
	return pid
}

// onlyConnection is a pool that has no other connection to give.
func onlyConnection(t testing.TB, db *pgtest.DB) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(db.URL(pgtest.APIRole))
	require.NoError(t, err)
	cfg.MinConns, cfg.MaxConns = 0, 1
	// As it is set by default, the end of a context closes the connection of a running statement. Here the server is asked
	// to cancel the statement, and the connection goes on.
	cfg.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Minute}
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// until returns once a query says yes. It asks as the superuser, who sees what others wait for.
func until(t testing.TB, db *pgtest.DB, query string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		var yes bool
		err := db.Superuser.QueryRow(t.Context(), query, args...).Scan(&yes)
		if err == nil && yes {
			return
		}
		require.True(t, time.Now().Before(deadline), "it never came true: %s %v, %v", query, args, err)
	}
}

// meanwhile runs f beside the test, and returns where its error will be.
func meanwhile(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// asleep is whether a server process runs pg_sleep.
const asleep = `select exists (select from pg_stat_activity where pid = $1 and wait_event = 'PgSleep')`

// testEndings ends a transaction in every way there is, and looks at what the next one
// on the connection finds. Before it ends, the user has read his rows in it.
func testEndings(t *testing.T) {
	t.Parallel()
	db := secured(t)
	pool := onlyConnection(t, db)
	failed := errors.New("the request has failed")
	const fails = `select 1 / 0`

	for what, test := range map[string]struct {
		// request makes a transaction, speaks in it once, and ends it.
		request func(t *testing.T, speak func(pgx.Tx)) error
		err     string // of the request
		closed  bool   // with the transaction the connection ends, too
	}{
		"a commit": {func(t *testing.T, speak func(pgx.Tx)) error {
			return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { speak(tx); return nil })
		}, "", false},
		"a rollback": {func(t *testing.T, speak func(pgx.Tx)) error {
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			speak(tx)
			return tx.Rollback(t.Context())
		}, "", false},
		"an error of the application": {func(t *testing.T, speak func(pgx.Tx)) error {
			return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { speak(tx); return failed })
		}, failed.Error(), false},
		"an error of a statement": {func(t *testing.T, speak func(pgx.Tx)) error {
			return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				speak(tx)
				_, err := tx.Exec(t.Context(), fails)
				return err
			})
		}, "division by zero", false},
		"an error of a statement that nobody heeds": {func(t *testing.T, speak func(pgx.Tx)) error {
			return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				speak(tx)
				_, _ = tx.Exec(t.Context(), fails)
				return nil
			})
		}, pgx.ErrTxCommitRollback.Error(), false},
		"a commit after a savepoint that was rolled back": {func(t *testing.T, speak func(pgx.Tx)) error {
			return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				speak(tx)
				require.ErrorIs(t, pgx.BeginFunc(t.Context(), tx, func(pgx.Tx) error { return failed }), failed)
				return nil
			})
		}, "", false},
		"a panic": {func(t *testing.T, speak func(pgx.Tx)) (err error) {
			defer func() { err, _ = recover().(error) }()
			return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { speak(tx); panic(failed) })
		}, failed.Error(), false},
		"the end of a statement's context": {func(t *testing.T, speak func(pgx.Tx)) error {
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			speak(tx)
			pid := backend(t, tx)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			slept := meanwhile(func() error {
				_, err := tx.Exec(ctx, `select pg_sleep(600)`)
				return err
			})
			until(t, db, asleep, pid)
			cancel()
			err = <-slept
			require.NoError(t, tx.Rollback(t.Context()))
			return err
		}, "canceling statement due to user request", false},
		"the end of the request's context": {func(t *testing.T, speak func(pgx.Tx)) error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { speak(tx); cancel(); return ctx.Err() })
		}, context.Canceled.Error(), true},
		"the connection's return, with the transaction open": {func(t *testing.T, speak func(pgx.Tx)) error {
			conn, err := pool.Acquire(t.Context())
			require.NoError(t, err)
			defer conn.Release()
			tx, err := conn.Begin(t.Context())
			require.NoError(t, err)
			speak(tx)
			return nil
		}, "", true},
	} {
		t.Run(what, func(t *testing.T) {
			var alices int
			err := test.request(t, func(tx pgx.Tx) {
				require.NoError(t, callerOf(fixtures.Alice).speak(t.Context(), tx))
				requireReads(t, tx, fixtures.Alice)
				alices = backend(t, tx)
			})
			if test.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.err)
			}
			require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				require.Equal(t, test.closed, backend(t, tx) != alices, "whether it is another connection")
				requireNobodys(t, tx)
				return nil
			}))
			require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				require.NoError(t, callerOf(fixtures.Bob).speak(t.Context(), tx))
				requireReads(t, tx, fixtures.Bob)
				return nil
			}))
		})
	}
}

// remains are the ways of speaking as somebody that outlive the transaction: the form
// of the checklist, set_config(…, false), is one. They are why the application must say
// who is calling for each transaction, and what tells the tests above that it would
// show if something stayed. Each takes the caller's role and claims.
var remains = map[string][]string{
	"SET":                  {`set role {role}`, `set request.jwt.claims = '{claims}'`},
	"set_config(…, false)": {`select set_config('role', '{role}', false), set_config('request.jwt.claims', '{claims}', false)`},
	"SET in a transaction": {`begin`, `set role {role}`, `set request.jwt.claims = '{claims}'`, `commit`},
	"SET after SET LOCAL":  {`begin`, `set local role {role}`, `set role {role}`, `set request.jwt.claims = '{claims}'`, `commit`},
}

// testRemains is what the next caller on a connection finds of one who did not speak
// for his transaction only.
func testRemains(t *testing.T) {
	t.Parallel()
	db := secured(t)
	run := func(t *testing.T, pool *pgxpool.Pool, statements ...string) (pid uint32) {
		t.Helper()
		require.NoError(t, pool.AcquireFunc(t.Context(), func(conn *pgxpool.Conn) error {
			pid = conn.Conn().PgConn().PID()
			for _, sql := range statements {
				_, err := conn.Exec(t.Context(), sql)
				require.NoError(t, err, sql)
			}
			return nil
		}))
		return pid
	}
	for what, statements := range remains {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			pool := onlyConnection(t, db)
			alices := run(t, pool, callerOf(fixtures.Alice).by(statements)...)
			require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				require.EqualValues(t, alices, backend(t, tx))
				requireReads(t, tx, fixtures.Alice)
				return nil
			}))
			require.Equal(t, alices, run(t, pool, `discard all`))
			require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				requireNobodys(t, tx)
				return nil
			}))
		})
	}
	t.Run("a cursor WITH HOLD", func(t *testing.T) {
		t.Parallel()
		pool := onlyConnection(t, db)
		run(t, pool, callerOf(fixtures.Alice).by([]string{`begin`, `set local role {role}`, `set local request.jwt.claims = '{claims}'`,
			`declare kept cursor with hold for ` + allAgents, `commit`})...)
		require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			require.NoError(t, callerOf(fixtures.Bob).speak(t.Context(), tx))
			found, err := column(t.Context(), tx, `fetch all from kept`)
			require.NoError(t, err)
			require.Equal(t, migrated().keysOf(selecting, fixtures.Alice.ID, "agents"), found)
			requireReads(t, tx, fixtures.Bob)
			return nil
		}))
	})
}
