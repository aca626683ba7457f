package rls_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/results"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// TestPhase4Server asks whether the server that the policies rely on is one to rely on:
// by its version, and by trying.
func TestPhase4Server(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/rls-policies-enforce-data-isolation")
	db := secured(t)
	t.Run("its version is that of the fixes, or later", func(t *testing.T) {
		f, err := schema.Preflight()
		require.NoError(t, err)
		queries, err := verify.Parse(f)
		require.NoError(t, err)
		i := slices.IndexFunc(queries, func(q verify.Query) bool { return q.Name == "server_version" })
		require.GreaterOrEqual(t, i, 0)
		result, err := verify.Run(t.Context(), db.Owner, queries[i])
		require.NoError(t, err)
		describe(t, db, result)
		if !result.OK {
			if os.Getenv(pgtest.URLVariable) != "" {
				t.Fatal(result)
			}
			t.Logf("WARNING, which is an error on a server that %s names: %s", pgtest.URLVariable, result)
		}
	})
	t.Run("a plan for one role is not used for another", func(t *testing.T) { testInlinedPlans(t, db) })
	t.Run("MERGE is held by every policy that holds UPDATE", func(t *testing.T) { testMerge(t, db) })
	t.Run("an operator that tells what it is given is not given what is hidden", func(t *testing.T) { testTellingOperator(t, db) })
}

// describe says what the tests run on: what they find holds there.
func describe(t *testing.T, db *pgtest.DB, floor verify.Result) {
	var server string
	require.NoError(t, db.Owner.QueryRow(t.Context(), `show server_version`).Scan(&server))
	t.Attr(results.Server, server)
	if !floor.OK {
		t.Attr(results.Leaks, floor.Rows[0][slices.Index(floor.Columns, "found")])
	}
	t.Attr(results.Machine, fmt.Sprintf("%s/%s, %d processors, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version()))
}

// probing runs f as a superuser who may become anybody, with a schema for what it makes,
// and takes everything back.
func probing(t *testing.T, db *pgtest.DB, onNotice func(string), f func(tx pgx.Tx)) {
	t.Helper()
	config := db.Config(t, "")
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { onNotice(n.Message) }
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	run(t, tx, `create schema probe; grant usage on schema probe to public`)
	f(tx)
}

func run(t testing.TB, tx pgx.Tx, sql string) {
	t.Helper()
	_, err := tx.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err, sql)
}

// testInlinedPlans is CVE-2023-2455, and CVE-2024-10976 with its subqueries: a pool's
// session plans a statement as one role, and runs it as another.
func testInlinedPlans(t *testing.T, db *pgtest.DB) {
	w := migrated()
	for shape, body := range map[string]string{
		"a query":                          `select id from public.agents`,
		"a query with a WITH":              `with a as materialized (select id from public.agents) select id from a`,
		"a query with a WITH in its place": `with a as (select id from public.agents) select id from a`,
		"a subquery":                       `select id from (select id from public.agents offset 0) as a`,
		"a subquery as a value":            `select unnest(array(select id from public.agents))`,
		"a condition":                      `select i.id from probe.ids as i where exists (select from public.agents a where a.id = i.id)`,
		"a view that reads as its reader":  `select id from probe.agents`,
	} {
		t.Run(shape, func(t *testing.T) {
			probing(t, db, func(string) {}, func(tx pgx.Tx) {
				run(t, tx, `
					create table probe.ids as select id from public.agents;
					create view probe.agents with (security_invoker = true) as select id from public.agents;
					grant select on probe.ids, probe.agents to public;
					create function probe.found() returns setof uuid stable language sql as '`+body+`';
					prepare found as select f::text from probe.found() as f`)
				for _, c := range []caller{{role: "service_role"}, callerOf(fixtures.Bob), callerOf(fixtures.Nobody)} {
					want := w.keysOf(selecting, c.sub, "agents")
					if c.role == "service_role" {
						want = w.keys("agents")
					}
					require.NoError(t, c.speak(t.Context(), tx))
					found, err := column(t.Context(), tx, `execute found`)
					require.NoError(t, err)
					require.Equal(t, want, found, c)
				}
			})
		})
	}
}

// testMerge is CVE-2023-39418: what may be inserted passed for what a row may become.
func testMerge(t *testing.T, db *pgtest.DB) {
	for held, policies := range map[string]string{
		"a policy for UPDATE": `
			create policy reads on probe.notes for select to authenticated using (true);
			create policy changes on probe.notes for update to authenticated using (true) with check (state <> 'published')`,
		"a policy for SELECT": `
			create policy reads on probe.notes for select to authenticated using (state <> 'published');
			create policy changes on probe.notes for update to authenticated using (true) with check (true)`,
	} {
		t.Run(held, func(t *testing.T) {
			probing(t, db, func(string) {}, func(tx pgx.Tx) {
				run(t, tx, `
					create table probe.notes (id integer, state text);
					insert into probe.notes values (1, 'draft');
					alter table probe.notes enable row level security;
					grant select, insert, update on probe.notes to authenticated;
					create policy makes on probe.notes for insert to authenticated with check (true);`+policies)
				require.NoError(t, callerOf(fixtures.Alice).speak(t.Context(), tx))
				const update, merge = `update probe.notes set state = '%s' where id = 1`,
					`merge into probe.notes n using (values (1)) as v (id) on n.id = v.id when matched then update set state = '%s'`
				for _, sql := range []string{update, merge} {
					require.Equal(t, done, attempt(t, tx, fmt.Sprintf(sql, "review")), sql)
					require.Equal(t, rejected, attempt(t, tx, fmt.Sprintf(sql, "published")), sql)
				}
			})
		})
	}
}

// testTellingOperator is CVE-2025-8713, and those before it: the planner tries an
// operator on what ANALYZE has collected, and a filter is tried on rows.
func testTellingOperator(t *testing.T, db *pgtest.DB) {
	w := migrated().withHistory(t, db)
	var told []string
	probing(t, db, func(value string) { told = append(told, value) }, func(tx pgx.Tx) {
		run(t, tx, `
			create function probe.tell(text, text) returns boolean language plpgsql cost 0.0001 as $$ begin raise notice '%', $1; return true; end $$;
			create operator probe.<<< (leftarg = text, rightarg = text, function = probe.tell, restrict = scalarltsel);
			create table probe.letters as select name from public.agents;
			create table probe.more_letters () inherits (probe.letters);
			alter table probe.letters enable row level security;
			create policy hides on probe.letters to authenticated using (name is null);
			grant select on probe.letters to authenticated, service_role;
			analyze`)
		backend, bob := caller{role: "service_role"}, callerOf(fixtures.Bob)
		tells := func(c caller, sql string) []string {
			told = nil
			require.NoError(t, c.speak(t.Context(), tx))
			run(t, tx, sql)
			return told
		}
		columns := map[string]string{"public.agents": "name", "public.audit_logs": "resource_id", "public.messages": "content", "public.users": "email", "public.organizations": "name",
			"probe.letters": "name"} // which others inherit
		for table, column := range columns {
			query := fmt.Sprintf(`explain select %s from %s where %[1]s operator(probe.<<<) ''`, column, table)
			t.Run("planning a query of "+table, func(t *testing.T) {
				require.NotEmpty(t, tells(backend, query), "there is something to tell")
				require.Empty(t, tells(bob, query))
			})
		}
		for table, key := range tables {
			query := fmt.Sprintf(`select %s from public.%s where %[1]s operator(probe.<<<) ''`, key, table)
			t.Run("a query of "+table, func(t *testing.T) {
				require.NotEmpty(t, tells(backend, query), "there is something to tell")
				require.ElementsMatch(t, w.keysOf(selecting, bob.sub, table), tells(bob, query))
			})
		}
		t.Logf("checked %d plans and %d tables", len(columns), len(tables))
	})
}
