package rls_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// testKeptPlans sends what is planned once as one caller after another: the rows are
// those of who asks, and not of who asked when the plan was made.
func testKeptPlans(t *testing.T) {
	t.Parallel()
	t.Run("each caller gets his own rows", func(t *testing.T) {
		t.Parallel()
		require.Empty(t, keptPlans(t, secured(t)))
	})
	t.Run("a helper whose answer is kept in the plan is found out", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		statement(`alter function authz.audiences() immutable`)(t, db)
		found := keptPlans(t, db)
		for _, sentence := range []string{"bob@pfizer.com by a query, each in a transaction", "bob@pfizer.com by a query, in one transaction", "bob@pfizer.com by a function"} {
			require.True(t, slices.ContainsFunc(found, func(problem string) bool { return strings.HasPrefix(problem, sentence) }), "nobody says: %s", sentence)
		}
	})
}

// keptPlans compares what callers get of plans that the server keeps with the model.
func keptPlans(t testing.TB, db *pgtest.DB) (problems []string) {
	t.Helper()
	w := migrated()
	statement(`
		create function public.seen() returns setof text language plpgsql stable as $$ begin return query `+allAgents+`; end $$;
		grant execute on function public.seen() to anon, authenticated, service_role`)(t, db)
	// As the superuser, who may become each of them: the backend's plan knows no policy, and must not be theirs.
	conn := db.Connect(t, "")
	_, err := conn.Exec(t.Context(), `set plan_cache_mode = force_generic_plan`)
	require.NoError(t, err)
	service := caller{role: "service_role"}
	alice, bob, nobody := callerOf(fixtures.Alice), callerOf(fixtures.Bob), callerOf(fixtures.Nobody)
	turns := []caller{service, alice, bob, callerOf(stranger), alice, service, bob, nobody, callerOf(fixtures.Root), callerOf(stranger), bob, alice, alice}

	for what, test := range map[string]struct {
		sql  string
		args []any
		path path
	}{
		"a query":    {`select id::text from public.agents where name <> $1`, []any{""}, selecting},
		"an update":  {`update public.agents set updated_at = now() where name <> $1 returning id::text`, []any{""}, named("UPDATE RETURNING")},
		"a function": {`select public.seen()`, nil, selecting},
	} {
		_, err := conn.Prepare(t.Context(), what, test.sql)
		require.NoError(t, err)
		take := func(in transactor, c caller, manner string) {
			var found []string
			err := pgx.BeginFunc(t.Context(), in, func(tx pgx.Tx) (err error) {
				require.NoError(t, c.speak(t.Context(), tx))
				found, err = column(t.Context(), tx, what, test.args...)
				return err
			})
			want, outcome := w.keysOf(test.path, c.sub, "agents"), done
			switch c.role {
			case "anon":
				outcome = denied
			case "service_role":
				want = w.keys("agents")
			}
			if got := outcomeOf(err); got != outcome || !slices.Equal(found, want) {
				problems = append(problems, fmt.Sprintf("%s by %s, %s: %s with %v, and must be %s with %v", c, what, manner, got, found, outcome, want))
			}
		}
		for _, c := range turns {
			take(conn, c, "each in a transaction")
		}
		require.NoError(t, pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			for _, c := range turns {
				take(tx, c, "in one transaction")
			}
			return nil
		}))
		var generic, custom int
		require.NoError(t, conn.QueryRow(t.Context(), `select generic_plans, custom_plans from pg_prepared_statements where name = $1`, what).Scan(&generic, &custom))
		require.Equal(t, []int{2 * len(turns), 0}, []int{generic, custom}, "the plan of %s is generic each time", what)
	}
	return problems
}

// transactor is a connection, or a transaction that makes savepoints.
type transactor interface {
	Begin(context.Context) (pgx.Tx, error)
}

// String is the caller's address, or his role.
func (c caller) String() string {
	if c.sub == "" {
		return c.role
	}
	return email(c.sub)
}

// keys is all rows of a table, in order.
func (w world) keys(table string) (found []string) {
	for _, r := range w.rows {
		if r.table == table {
			found = append(found, r.key)
		}
	}
	slices.Sort(found)
	return found
}

var launched = regexp.MustCompile(`Workers Launched: [1-9]`)

// testParallelWorkers lets other processes of the server read the rows, each of which
// says which process has read it: the policies hold there, too, and the claims arrive.
// The plan is parallel because that costs nothing; PostgreSQL's setting that forces it
// leaves a plan alone that evaluates something once, as the policies demand.
func testParallelWorkers(t *testing.T) {
	t.Parallel()
	db, w := secured(t), migrated()
	statement(`
		create function public.reader() returns int language plpgsql volatile parallel safe as 'begin return pg_catalog.pg_backend_pid(); end';
		grant execute on function public.reader() to authenticated;
		alter table public.agents set (parallel_workers = 2);
		alter table public.organizations set (parallel_workers = 2);
		alter table public.messages set (parallel_workers = 2)`)(t, db)
	const cheap = `
		select set_config(name, value, true) from (values
			('parallel_setup_cost', '0'), ('parallel_tuple_cost', '0'), ('min_parallel_table_scan_size', '0'), ('parallel_leader_participation', 'off'),
			('enable_indexscan', 'off'), ('enable_indexonlyscan', 'off'), ('enable_bitmapscan', 'off')) as s (name, value)`
	users := []fixtures.User{fixtures.Alice, fixtures.Bob, fixtures.Eve, fixtures.Tess, fixtures.Root, fixtures.Nobody}
	forEach(t, db, users, func(tx pgx.Tx, u fixtures.User) {
		leader := backend(t, tx)
		for _, table := range []string{"messages", "organizations"} {
			query := `select id::text, public.reader() from public.` + table
			// read is the rows, and the processes that have read them. The statement is planned anew each time.
			read := func(tx pgx.Tx) (keys []string, readers map[int]bool) {
				rows, err := tx.Query(t.Context(), query, pgx.QueryExecModeExec)
				require.NoError(t, err)
				keys, readers = []string{}, map[int]bool{}
				var key string
				var pid int
				_, err = pgx.ForEachRow(rows, []any{&key, &pid}, func() error {
					keys, readers[pid] = append(keys, key), true
					return nil
				})
				require.NoError(t, err)
				slices.Sort(keys)
				return keys, readers
			}
			want := w.keysOf(selecting, u.ID, table)
			plain, readers := read(tx)
			require.Equal(t, want, plain, "%s without workers", u.Email)
			delete(readers, leader)
			require.Empty(t, readers, "without workers, the connection's own process reads")

			parallel, err := tx.Begin(t.Context())
			require.NoError(t, err)
			_, err = parallel.Exec(t.Context(), cheap)
			require.NoError(t, err)
			// Other tests may have all of the server's workers: then it is asked again.
			for deadline := time.Now().Add(20 * time.Second); ; {
				plan, err := column(t.Context(), parallel, `explain (analyze, timing off) `+query, pgx.QueryExecModeExec)
				require.NoError(t, err)
				found, readers := read(parallel)
				require.Equal(t, want, found, "%s with workers", u.Email)
				if launched.MatchString(strings.Join(plan, "\n")) && !readers[leader] {
					break
				}
				require.True(t, time.Now().Before(deadline), "no worker reads %s: %s", table, plan)
			}
			plan, err := column(t.Context(), parallel, `explain select id::text, public.reader() from public.agents`, pgx.QueryExecModeExec)
			require.NoError(t, err)
			require.NotContains(t, strings.Join(plan, "\n"), "Gather", "a resource is never worth the workers: see authz.audiences()")
			require.NoError(t, parallel.Rollback(t.Context()))
		}
	})
}
