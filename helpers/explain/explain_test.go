package explain_test

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"

	"github.com/vital-health/tenancy/helpers/explain"
)

func TestQuery(t *testing.T) {
	t.Parallel()
	conn, err := pgx.ConnectConfig(t.Context(), pgtest.Empty(t).Config(t, ""))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) })
	_, err = conn.Exec(t.Context(), `
		create table org (id int primary key, name text);
		create table agent (id int primary key, org_id int not null, status text not null, note text not null);
		insert into org select i, 'org ' || i from generate_series(1, 100) as i;
		insert into agent select i, 1 + i % 100, case when i % 10 = 0 then 'active' else 'old' end, repeat('x', 200) from generate_series(1, 20000) as i;
		create index agent_org_list on agent (org_id) include (status);
		set max_parallel_workers_per_gather = 0;
		set jit = off`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	// A snapshot that somebody holds on the shared server can keep a vacuum from marking
	// pages as visible to all, without which there are no index-only scans.
	require.Eventually(t, func() bool {
		_, err := conn.Exec(t.Context(), "vacuum analyze agent, org")
		require.NoError(t, err)
		var visible bool
		require.NoError(t, conn.QueryRow(t.Context(), "select relallvisible = relpages from pg_class where relname = 'agent'").Scan(&visible))
		return visible
	}, 30*time.Second, 10*time.Millisecond)
	query := func(t *testing.T, sql string, args ...any) explain.Plan {
		t.Helper()
		p, err := explain.Query(t.Context(), conn, sql, args...)
		require.NoError(t, err)
		return p
	}
	set := func(t *testing.T, name, value string) {
		t.Helper()
		_, err := conn.Exec(t.Context(), "select set_config($1, $2, false)", name, value)
		require.NoError(t, err)
		t.Cleanup(func() {
			_, err := conn.Exec(context.WithoutCancel(t.Context()), "reset "+pgx.Identifier{name}.Sanitize())
			require.NoError(t, err)
		})
	}

	t.Run("an index-only scan is told from an index scan", func(t *testing.T) {
		p := query(t, "select org_id, status from agent where org_id = $1;", 7)
		require.True(t, p.UsesIndex("agent_org_list"), "%s", p)
		require.True(t, p.IndexOnly("agent_org_list"), "%s", p)
		require.False(t, p.UsesIndex("agent_pkey"), "%s", p)
		require.Empty(t, p.SeqScans(), "%s", p)
		require.Equal(t, int64(200), p.Rows())
		require.Zero(t, p.Root.HeapFetches)
		p = query(t, "select count(*) from agent where org_id = 7")
		require.Equal(t, "Aggregate", p.Root.Type)
		require.True(t, p.IndexOnly("agent_org_list"), "%s", p)

		set(t, "enable_bitmapscan", "off")
		p = query(t, "select note from agent where org_id = 7")
		require.True(t, p.UsesIndex("agent_org_list"), "%s", p)
		require.False(t, p.IndexOnly("agent_org_list"), "%s", p)
		require.Equal(t, "Index Scan", p.Root.Type)
		require.Equal(t, "(org_id = 7)", p.Root.IndexCond)
	})
	t.Run("an index-only scan beside another scan of the index is not index-only", func(t *testing.T) {
		p := query(t, "select status from agent where org_id = 7 union all select note from agent where org_id = 8")
		require.True(t, p.UsesIndex("agent_org_list"), "%s", p)
		require.False(t, p.IndexOnly("agent_org_list"), "%s", p)
	})
	t.Run("heap fetches of an index-only scan are counted", func(t *testing.T) {
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "update agent set note = 'y' where org_id = 7")
		require.NoError(t, err)
		p, err := explain.Query(t.Context(), tx, "select status from agent where org_id = 7")
		require.NoError(t, err)
		require.NoError(t, tx.Rollback(t.Context()))
		require.True(t, p.IndexOnly("agent_org_list"), "%s", p)
		require.Positive(t, p.Root.HeapFetches, "%s", p)
		require.Contains(t, p.String(), "heap fetches ")
	})
	t.Run("a bitmap scan uses its index", func(t *testing.T) {
		set(t, "enable_indexscan", "off")
		p := query(t, "select note from agent where org_id = 7")
		require.Equal(t, "Bitmap Heap Scan", p.Root.Type)
		require.True(t, p.UsesIndex("agent_org_list"), "%s", p)
		require.False(t, p.IndexOnly("agent_org_list"), "%s", p)
	})
	t.Run("sequential scans are listed once by table, those in subplans and never executed ones too", func(t *testing.T) {
		p := query(t, `
			select (select count(note) from agent as z), (select max(note) from agent where note <> 'y'), o.id
			from org as o where o.name like 'org%'`)
		require.Equal(t, []string{"agent", "org"}, p.SeqScans(), "%s", p)
		p = query(t, "select case when o.id > 0 then 1 else (select count(*) from agent where note = o.name) end from org as o")
		require.Equal(t, []string{"agent", "org"}, p.SeqScans(), "%s", p)
		require.Contains(t, p.String(), "(never executed)")
	})
	t.Run("a parallel scan is a sequential scan", func(t *testing.T) {
		for _, name := range []string{"parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size"} {
			set(t, name, "0")
		}
		set(t, "max_parallel_workers_per_gather", "2")
		p := query(t, "select count(*) from agent where note = 'y'")
		require.Equal(t, []string{"agent"}, p.SeqScans(), "%s", p)
		require.Contains(t, p.String(), "Parallel Seq Scan on agent")
	})
	t.Run("rows, removed rows and loops are totals", func(t *testing.T) {
		set(t, "enable_hashjoin", "off")
		set(t, "enable_mergejoin", "off")
		set(t, "enable_memoize", "off")
		p := query(t, "select a.status from org as o join agent as a on a.org_id = o.id and a.status = 'active' where o.id between 10 and 19")
		require.Equal(t, int64(200), p.Rows(), "%s", p)
		var inner explain.Node
		for _, n := range p.Nodes() {
			if n.Role == "Inner" {
				inner = n
			}
		}
		require.Equal(t, "agent", inner.Relation, "%s", p)
		require.Equal(t, "a", inner.Alias)
		require.EqualValues(t, 10, inner.Loops, "%s", p)
		require.EqualValues(t, 200, inner.Rows, "%s", p)
		require.EqualValues(t, 1800, inner.Removed, "%s", p)
	})
	t.Run("buffers are the pages touched, wherever they were", func(t *testing.T) {
		var pages int64
		require.NoError(t, conn.QueryRow(t.Context(), "select pg_relation_size('agent') / 8192").Scan(&pages))
		p := query(t, "select count(*) from agent where note = 'y'")
		require.Equal(t, pages, p.Buffers().Total(), "%s", p)
		require.Equal(t, p.Buffers().Hit+p.Buffers().Read, p.Buffers().Total())
		require.Less(t, query(t, "select from org where id = 7").Buffers().Total(), int64(5))
	})
	t.Run("execution time is the server's", func(t *testing.T) {
		p := query(t, "select pg_sleep(0.03)")
		require.GreaterOrEqual(t, p.ExecutionTime, 30*time.Millisecond)
		require.Less(t, p.ExecutionTime, 10*time.Second)
		require.Positive(t, p.PlanningTime)
		require.GreaterOrEqual(t, p.Root.Time, 30*time.Millisecond)
	})
	t.Run("a write takes effect and shows the table it writes", func(t *testing.T) {
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		p, err := explain.Query(t.Context(), tx, "update org set name = $1 where id = $2", "renamed", 7)
		require.NoError(t, err)
		require.Equal(t, "ModifyTable", p.Root.Type)
		require.Equal(t, "org", p.Root.Relation)
		require.Zero(t, p.Rows())
		var name string
		require.NoError(t, tx.QueryRow(t.Context(), "select name from org where id = 7").Scan(&name))
		require.Equal(t, "renamed", name)
		require.NoError(t, tx.Rollback(t.Context()))
	})
	t.Run("the text is a tree with everything a failure needs", func(t *testing.T) {
		p := query(t, "with c as materialized (select id from org where name = 'org 7') select a.note from c join agent as a on a.org_id = c.id where a.id > 2000")
		times := regexp.MustCompile(`[0-9.]+(µs|ms|s)\b|\b0s\b`)
		text := regexp.MustCompile(`\(hit \d+, read \d+\)`).ReplaceAllString(times.ReplaceAllString(p.String(), "T"), "(hit H, read R)")
		require.Regexp(t, strings.TrimPrefix(`
(?s)^Nested Loop \(rows 180, estimated \d+, buffers \d+, T\)
  CTE c: Seq Scan on org \(rows 1, estimated 1, buffers 1, T\)
      filter \(name = 'org 7'::text\) removed 99
  CTE Scan on c \(rows 1, .*\)
  .* on agent a \(rows 180, .*removed 20
.*execution T, planning T, buffers \d+ \(hit H, read R\)
$`, "\n"), text)
	})
	t.Run("a query that fails is quoted in the error", func(t *testing.T) {
		_, err := explain.Query(t.Context(), conn, "select 1 / $1::int", 0)
		require.EqualError(t, err, "explain query: ERROR: division by zero (SQLSTATE 22012)\nselect 1 / $1::int")
	})
	t.Run("a rule that makes two statements of one is refused", func(t *testing.T) {
		_, err := conn.Exec(t.Context(), "create table ruled (i int); create rule r as on insert to ruled do also insert into org values (new.i)", pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		_, err = explain.Query(t.Context(), conn, "insert into ruled values (500)")
		require.ErrorContains(t, err, "want one plan, got 2")
	})
}
