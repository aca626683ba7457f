package schema_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// noWaiting makes a database in which nobody sleeps, and a lock is waited for one millisecond: both say for how long they
// would have, so that five minutes pass in one second. The server finds its own functions by their number, not by pg_proc:
// to put others in their place, they have to make way.
const noWaiting = `
	alter function pg_catalog.pg_sleep(double precision) rename to real_pg_sleep;
	create function pg_catalog.pg_sleep(double precision) returns void language plpgsql as $$
	begin
	    raise notice 'sleeps %', $1;
	end $$;
	alter function pg_catalog.set_config(text, text, boolean) rename to real_set_config;
	create function pg_catalog.set_config(text, text, boolean) returns text language plpgsql as $$
	begin
	    if $1 <> 'lock_timeout' then
	        raise notice '% is %', $1, $2;
	        return pg_catalog.real_set_config($1, $2, $3);
	    end if;
	    raise notice 'waits for a lock %, and has %', $2, (
	        select coalesce(array_agg(c.relname), '{}')
	        from pg_catalog.pg_locks l join pg_catalog.pg_class c on c.oid = l.relation and c.relnamespace = 'public'::regnamespace
	        where l.pid = pg_catalog.pg_backend_pid() and l.mode = 'AccessExclusiveLock' and c.relkind in ('r', 'p'));
	    return pg_catalog.real_set_config($1, case $2 when '0' then '0' else '1ms' end, $3);
	end $$`

// migration is a session of the owner's that writes down what it hears.
type migration struct {
	conn  *pgx.Conn
	heard []string
	hears func()
}

func (m *migration) sleeps() (seconds []string) {
	for _, notice := range m.heard {
		if s, ok := strings.CutPrefix(notice, "sleeps "); ok {
			seconds = append(seconds, s)
		}
	}
	return seconds
}

// leavesAfter lets somebody leave when the migration has slept as often. It does not wait for that, and may sleep more often
// meanwhile.
func (m *migration) leavesAfter(sleeps int, leave func()) {
	m.hears = func() {
		if len(m.sleeps()) == sleeps {
			m.hears = func() {}
			leave()
		}
	}
}

// call runs a statement, for less than twenty seconds.
func (m *migration) call(t *testing.T, sql string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	m.heard = nil
	_, err := m.conn.Exec(ctx, sql)
	require.NoError(t, ctx.Err(), "it does not end: %v", m.heard[max(0, len(m.heard)-10):])
	return err
}

// between is a database between two phases, a migration of it that does not wait, and somebody else who uses it.
func between(t *testing.T, phase schema.Phase) (m *migration, other *pgx.Conn) {
	t.Helper()
	db := pgtest.New(t, phase, fixtures.World()...)
	_, err := db.Superuser.Exec(t.Context(), noWaiting)
	require.NoError(t, err)
	m = &migration{hears: func() {}}
	cfg := db.Config(t, pgtest.OwnerRole)
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		m.heard = append(m.heard, n.Message)
		m.hears()
	}
	m.conn, err = script.Connect(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.conn.Close(context.WithoutCancel(t.Context())) })
	return m, db.Connect(t, pgtest.OwnerRole)
}

// hold lets somebody have agents, until the function that is returned is called.
func hold(t *testing.T, other *pgx.Conn, mode string) (leave func()) {
	t.Helper()
	_, err := other.Exec(t.Context(), fmt.Sprintf("begin; lock table public.agents in %s mode", mode))
	require.NoError(t, err)
	return func() {
		_, err := other.Exec(t.Context(), "rollback")
		require.NoError(t, err)
	}
}

func requireLockNotAvailable(t *testing.T, err error) {
	t.Helper()
	var refusal *pgconn.PgError
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, "55P03", refusal.Code, "%v", err)
}

// steppingAside is for how many seconds somebody steps aside after each but the last of 300 attempts: longer each time, up to
// one.
const steppingAside = "0.05 0.1 0.15 0.2 0.25 0.3 0.35 0.4 0.45 0.5 0.55 0.6 0.65 0.7 0.75 0.8 0.85 0.9 0.95 280×1"

// inARow says a hundred times the same as 100×.
func inARow(values []string) string {
	var said []string
	for len(values) > 0 {
		times := 1
		for times < len(values) && values[times] == values[0] {
			times++
		}
		if times > 1 {
			said = append(said, fmt.Sprintf("%d×%s", times, values[0]))
		} else {
			said = append(said, values[0])
		}
		values = values[times:]
	}
	return strings.Join(said, " ")
}

// TestWaiting is how a migration waits for what others use: a moment at a time, so that nobody waits for long behind it.
func TestWaiting(t *testing.T) {
	t.Parallel()
	t.Run("For all tables", testLockTables)
	t.Run("For what a statement needs", testPatiently)
}

func testLockTables(t *testing.T) {
	t.Parallel()
	m, other := between(t, schema.Phase3)
	const lock = `call tenancy.lock_tables()`

	t.Run("those that others refer to come last", func(t *testing.T) {
		require.NoError(t, m.call(t, lock))
		first := slices.IndexFunc(m.heard, func(notice string) bool { return strings.HasPrefix(notice, "waits") })
		require.Contains(t, m.heard[first], ", and has {}", "the first is not waited for without end either")
		var order, before []string
		for _, notice := range m.heard {
			_, held, _ := strings.Cut(notice, ", and has {")
			now := strings.Split(strings.TrimSuffix(held, "}"), ",")
			for _, table := range now {
				if table != "" && !slices.Contains(before, table) {
					order = append(order, table)
				}
			}
			before = now
		}
		require.Equal(t, []string{"messages", "conversations", "workflows", "use_cases", "prompts", "knowledge_documents",
			"capabilities", "agents", "users", "user_organizations", "organizations", "audit_logs"}, order)
	})
	t.Run("behind a reader it steps aside, for five minutes", func(t *testing.T) {
		defer hold(t, other, "access share")()
		requireLockNotAvailable(t, m.call(t, lock))
		require.Equal(t, steppingAside, inARow(m.sleeps()))

		// All locks of an attempt together have a tenth of a second.
		longest := 0
		for _, notice := range m.heard {
			var ms int
			if _, err := fmt.Sscanf(notice, "waits for a lock %dms", &ms); err == nil {
				longest = max(longest, ms)
			}
		}
		require.LessOrEqual(t, longest, 100)
		require.Greater(t, longest, 50)
	})
	// For ten seconds it looks whether the table is free, then it tries.
	t.Run("behind a vacuum it does not queue", func(t *testing.T) {
		m.leavesAfter(250, hold(t, other, "share update exclusive"))
		require.NoError(t, m.call(t, lock))
		require.Equal(t, "100×0.1 0.05 149×0.1", inARow(m.sleeps()[:250]))
	})
	t.Run("and for the rest of the transaction nothing is waited for longer than that", func(t *testing.T) {
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		_, err := db.Owner.Exec(t.Context(), "set lock_timeout = '7s'")
		require.NoError(t, err)
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), lock)
		require.NoError(t, err)
		requireSetting(t, tx, "lock_timeout", "100ms")
		require.NoError(t, tx.Commit(t.Context()))
		requireSetting(t, db.Owner, "lock_timeout", "7s")
	})
}

func testPatiently(t *testing.T) {
	t.Parallel()
	m, other := between(t, schema.Phase1)
	const lock = `call tenancy.patiently('lock table public.agents in access exclusive mode')`

	t.Run("the statements run as the backfill does, and with a short patience", func(t *testing.T) {
		require.NoError(t, m.call(t, `call tenancy.patiently('do $$ begin raise notice ''runs''; end $$')`))
		require.Equal(t, []string{"waits for a lock 100ms, and has {}", "tenancy.backfill is on", "runs"}, m.heard)
		requireSetting(t, m.conn, "lock_timeout", "0")
		requireSetting(t, m.conn, "tenancy.backfill", "")
	})
	t.Run("behind a reader they step aside, for five minutes", func(t *testing.T) {
		defer hold(t, other, "access share")()
		requireLockNotAvailable(t, m.call(t, lock))
		require.Equal(t, steppingAside, inARow(m.sleeps()))
	})
	// They have tried before they look; from then on they look for ten seconds before each attempt.
	t.Run("behind a vacuum they do not queue again", func(t *testing.T) {
		m.leavesAfter(250, hold(t, other, "share update exclusive"))
		require.NoError(t, m.call(t, lock))
		require.Equal(t, "0.05 201×0.1 0.15 47×0.1", inARow(m.sleeps()[:250]))
	})
}

// requireSetting looks at a setting: "" is one that nobody has set.
func requireSetting(t *testing.T, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, name, want string) {
	t.Helper()
	var got string
	require.NoError(t, db.QueryRow(t.Context(), `select coalesce(current_setting($1, true), '')`, name).Scan(&got))
	require.Equal(t, want, got, name)
}
