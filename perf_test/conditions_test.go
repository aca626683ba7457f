package perf_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/explain"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// large is more rows than the ten thousand from which on no table may be read from one end to the other.
var large = fixtures.Bulk{Rows: 12_000, Organizations: 20, Tenants: 2}

// state is what was done to a database since it was filled.
type state struct {
	settled bool   // vacuumed and analyzed: then each query has its index; otherwise the planner may take another
	prepare string // run by the superuser
	is      string // what pg_class says of agents then
}

// All but the first are as a load leaves tables: pages that nobody knows to be visible to all, and the statistics of the
// world before it, of some twenty rows.
var (
	settled   = state{settled: true, is: `reltuples > 10000 and relallvisible >= relpages - 1`}
	stale     = state{is: `reltuples between 1 and 100 and relallvisible = 0`}
	forgotten = state{is: `reltuples = -1 and not exists (select from pg_catalog.pg_statistic where starelid = c.oid)`, prepare: `
		delete from pg_catalog.pg_statistic s using pg_catalog.pg_class c
		where c.oid = s.starelid and c.relnamespace = 'public'::regnamespace;
		update pg_catalog.pg_class set reltuples = -1, relpages = 0, relallvisible = 0
		where relnamespace = 'public'::regnamespace and relkind in ('r', 'i')`}
	unvacuumed = state{is: `reltuples > 10000 and relallvisible = 0`, prepare: `analyze`}
)

// condition is what a plan may depend on besides the query.
type condition struct {
	name     string
	of       state
	caller   fixtures.User
	prepared bool   // a generic plan, with parameters; else one for the values, as PostgREST and psql send them
	setting  string // of the session
}

// What the cache holds is none of them: pages are counted whether they were in it or not.
var conditions = []condition{
	{name: "for its values", of: settled, caller: fixtures.Alice},
	{name: "prepared", of: settled, caller: fixtures.Alice, prepared: true},
	{name: "of who sees almost nothing", of: settled, caller: fixtures.Nobody},
	{name: "of who sees almost everything", of: settled, caller: fixtures.Everyman},
	{name: "with little memory", of: settled, caller: fixtures.Alice, setting: `set work_mem = '64kB'`},

	{name: "with stale statistics", of: stale, caller: fixtures.Alice},
	{name: "with stale statistics, prepared", of: stale, caller: fixtures.Alice, prepared: true},
	{name: "with stale statistics, of who sees almost everything", of: stale, caller: fixtures.Everyman},
	{name: "without statistics", of: forgotten, caller: fixtures.Alice},
	{name: "without statistics, prepared", of: forgotten, caller: fixtures.Alice, prepared: true},
	{name: "before the first vacuum", of: unvacuumed, caller: fixtures.Alice},
	{name: "before the first vacuum, prepared", of: unvacuumed, caller: fixtures.Alice, prepared: true},
	{name: "before the first vacuum, of who sees almost everything", of: unvacuumed, caller: fixtures.Everyman},
}

func TestPhase3Plans(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-3/check-index-usage", "success-criteria/performance/agent-list-queries-use-covering-indexes",
		"success-criteria/performance/no-table-scans-on-large-tables", "post-migration-tasks/optimization/tune-rls-policies-for-performance")
	databases := map[state]*pgtest.DB{}
	for _, c := range conditions {
		if databases[c.of] == nil {
			databases[c.of] = c.of.database(t)
		}
	}
	known := map[fixtures.User]facts{}
	for _, user := range []fixtures.User{fixtures.Alice, fixtures.Nobody, fixtures.Everyman} {
		known[user] = look(t, databases[settled], user) // the rows are the same in all
	}
	var found shapes
	judge := func(t *testing.T, c condition) {
		s := begin(t, databases[c.of], c, known[c.caller])
		for _, want := range plans() {
			if want.own && s.caller != fixtures.Alice || want.analyzed && !c.of.settled {
				continue
			}
			got := s.execute(t, want)
			if c.of.settled && want.index != "" {
				// Elsewhere the planner may take one of several ways.
				found.add(want.name, c.name, got.plan.Shape())
			}
			if faults := want.faults(got, c.of.settled); len(faults) > 0 {
				t.Error(want.failure(c.name, got, faults))
			}
		}
	}
	t.Run("a plan", func(t *testing.T) {
		for _, c := range conditions {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				judge(t, c)
			})
		}
	})
	if t.Failed() {
		return
	}
	t.Run("the shapes are those that are written down", func(t *testing.T) {
		if found.String() == "" { // it runs alone
			for _, c := range conditions {
				if c.of.settled {
					judge(t, c)
				}
			}
		}
		found.golden(t, databases[settled])
	})
	t.Run("what makes a plan bad is found", func(t *testing.T) { mutated(t, databases[settled], known) })
}

// database is one in this state.
func (s state) database(t testing.TB) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t, schema.Phase4, seeds(t, s.settled)...)
	_, err := db.Superuser.Exec(t.Context(), s.prepare, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	var is bool
	const agents = ` from pg_catalog.pg_class c where c.oid = 'public.agents'::regclass`
	require.NoError(t, db.Superuser.QueryRow(t.Context(), `select `+s.is+agents).Scan(&is))
	require.True(t, is, "of agents: %s", s.is)
	return db
}

// seeds is the world with the rows in it: vacuumed and analyzed at the end, or as whoever filled it left it. Nobody comes
// to do that meanwhile. One conversation is long.
func seeds(t testing.TB, settled bool) []pgtest.Seed {
	t.Helper()
	bulk := large.Seed()
	fill, vacuum, found := strings.Cut(bulk.SQL, "\ncommit;\n")
	require.True(t, found, "the rows are committed before they are vacuumed")
	bulk.Name, bulk.SQL = bulk.Name+", as they were filled", fill+fmt.Sprintf(`
insert into public.messages (conversation_id, role, content, created_at)
select '%s', 'user', repeat('x', 200), now() + n * interval '1 minute'
from generate_series(1, 5000) as n;
do $$
declare
    relation regclass;
begin
    for relation in select oid from pg_catalog.pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' loop
        execute format('alter table %%s set (autovacuum_enabled = off)', relation);
    end loop;
end
$$;
commit;
`, fixtures.AliceConversation.ID)
	seeds := append(fixtures.World(), bulk)
	if settled {
		seeds = append(seeds, pgtest.Seed{Name: "vacuum", After: schema.Phase4, SQL: vacuum})
	}
	return seeds
}

// facts are what somebody may read.
type facts struct {
	audiences int
	visible   map[string]int    // rows, by table
	some      map[string]string // the id of one, by table; see [some]
	large     map[string]int    // how many rows there are, whoever may read them, of tables with more than ten thousand
}

func look(t testing.TB, db *pgtest.DB, user fixtures.User) facts {
	t.Helper()
	f := facts{visible: map[string]int{}, some: map[string]string{}, large: map[string]int{}}
	require.NoError(t, db.Superuser.QueryRow(t.Context(), `select cardinality(authz.audiences_of($1))`, user.ID).Scan(&f.audiences))
	readable := map[string]string{
		"conversations": `user_id = $1`,
		"messages":      `conversation_id in (select id from public.conversations where user_id = $1)`,
	}
	for _, table := range resources() {
		readable[table] = `deleted_at is null and audience_key = any ((select authz.audiences_of($1))::uuid[])`
		var id string
		require.NoError(t, db.Superuser.QueryRow(t.Context(), fmt.Sprintf(`
			select id::text from public.%s
			where created_by = $2 and %s
			order by owner_organization_id = $3 desc
			limit 1`, table, readable[table]), user.ID, fixtures.Alice.ID, fixtures.Novartis.ID).Scan(&id))
		f.some[table] = id
	}
	for table, condition := range readable {
		var all, visible int
		require.NoError(t, db.Superuser.QueryRow(t.Context(),
			fmt.Sprintf(`select count(*), count(*) filter (where %s) from public.%s`, condition, table), user.ID).Scan(&all, &visible))
		f.visible[table] = visible
		if all > 10_000 {
			f.large[table] = all
		}
	}
	require.Subset(t, slices.Collect(maps.Keys(f.large)), append(resources(), "messages"), "the tables are large")
	return f
}

// session is a superuser's, who becomes the caller for each query, in one transaction.
type session struct {
	condition
	facts
	*explain.Recorder
	tx pgx.Tx
}

func begin(t testing.TB, db *pgtest.DB, c condition, f facts) *session {
	t.Helper()
	r, err := explain.Record(t.Context(), db.Config(t, ""))
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close(context.WithoutCancel(t.Context())) })
	_, err = r.Exec(t.Context(), `set track_functions = 'all'; set jit = on; `+c.setting, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	if c.prepared {
		_, err = r.Exec(t.Context(), `set plan_cache_mode = force_generic_plan`)
		require.NoError(t, err)
	}
	tx, err := r.Begin(t.Context())
	require.NoError(t, err)
	return &session{c, f, r, tx}
}

// execute sends a query as the caller, and takes back what it did.
func (s *session) execute(t testing.TB, want plan) execution {
	t.Helper()
	var args []any
	for _, arg := range want.args {
		switch of := arg.(type) {
		case me:
			arg = s.caller.ID
		case some:
			arg = s.some[of.in]
		}
		args = append(args, arg)
	}
	mode := pgx.QueryExecModeSimpleProtocol
	if s.prepared {
		mode = pgx.QueryExecModeCacheStatement
	}
	claims, err := json.Marshal(map[string]string{"role": "authenticated", "sub": s.caller.ID})
	require.NoError(t, err)

	before := s.calls(t)
	tx, err := s.tx.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `
		select set_config('auto_explain.log_nested_statements', $1, true),
			set_config('request.jwt.claims', $2, true), set_config('role', 'authenticated', true)`,
		pgx.QueryExecModeSimpleProtocol, strconv.FormatBool(want.inside != ""), string(claims))
	require.NoError(t, err)
	_, err = s.Take(t.Context())
	require.NoError(t, err)
	tag, err := tx.Exec(t.Context(), want.sql, append([]any{mode}, args...)...)
	require.NoError(t, err, "%s %s\n%s", want.name, s.name, want.sql)
	executed, err := s.Take(t.Context())
	require.NoError(t, err)
	calls := s.calls(t)
	require.NoError(t, tx.Rollback(t.Context()))

	got := execution{facts: s.facts, rows: tag.RowsAffected(), calls: map[string]int{}}
	for function, n := range calls {
		// Several of the helpers call organizations_of.
		if strings.HasPrefix(function, "authz.") && function != "authz.organizations_of" {
			got.calls[function] = n - before[function]
		}
	}
	i := len(executed) - 1
	if want.inside != "" {
		i = slices.IndexFunc(executed[:i], func(p explain.Plan) bool { return strings.Contains(p.SQL, want.inside) })
		require.GreaterOrEqual(t, i, 0, "%s: no statement inside of the function has %q:\n%s", want.name, want.inside, executed)
	}
	got.plan = executed[i]
	if s.prepared && want.inside == "" { // a function may make its statement up
		for _, arg := range args {
			require.NotContains(t, got.plan.String(), arg, "the plan is generic")
		}
	}
	return got
}

// calls is how often each function was called in this transaction.
func (s *session) calls(t testing.TB) map[string]int {
	t.Helper()
	rows, err := s.tx.Query(t.Context(), `select schemaname || '.' || funcname, calls from pg_catalog.pg_stat_xact_user_functions`)
	require.NoError(t, err)
	calls := map[string]int{}
	var function string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&function, &n}, func() error { calls[function] += n; return nil })
	require.NoError(t, err)
	return calls
}
