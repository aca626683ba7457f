package perf_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// The checklist's budgets. The first two are stated for less than a thousand agents
// and for three levels, the third for "common queries"; each holds at a thousand.
const (
	accessibleAgentsBudget = 50 * time.Millisecond
	hierarchyBudget        = 10 * time.Millisecond
	commonQueryBudget      = 50 * time.Millisecond
)

// How much longer than by hand it may take, in medians, where there are many rows. Of
// what touches few rows, the fixed cost of asking who the caller is makes up the most.
const (
	listRatio   = 1.3 // lists, counts, functions
	lookupRatio = 2   // a row, a page of messages
	searchRatio = 1.5

	// And than the same elsewhere.
	growthRatio    = 1.5
	unrelatedRatio = 1.1
	sightRatio     = 2
)

// world is what the figures are of: few organizations that have much each, and many.
type world struct{ organizations, tenants int }

var worlds = []world{{2, 2}, {200, 20}}

func (w world) bulk(rows int) fixtures.Bulk {
	return fixtures.Bulk{Rows: rows, Organizations: w.organizations, Tenants: w.tenants}
}

// The checklist's queries, and those beside them that the application asks most, by who
// sees little and by who sees much.
func BenchmarkRead(b *testing.B) {
	checklist.Proves(b, "pre-implementation/test-scenarios-defined/performance-benchmarks-established")
	for _, rows := range sizes(b) {
		for _, w := range worlds {
			db := filled(b, w.bulk(rows))
			for _, c := range []caller{member, heavy, everyman, nobody} {
				c = c.in(b, db)
				queries := c.common("agents")
				if c.role == member.role {
					queries = c.queries()
				}
				name := fmt.Sprintf("rows=%d/tenants=%d/role=%s/design=tenancy", rows, w.tenants, c.role)
				c.against(b, db, func(as, superuser pgx.Tx) {
					for _, q := range queries {
						q.measure(b, "query="+q.name+"/"+name, rows, as, superuser)
					}
				})
			}
		}
	}
}

// against runs f with two transactions, as the caller and as a superuser.
func (c caller) against(t testing.TB, db *pgtest.DB, f func(as, superuser pgx.Tx)) {
	t.Helper()
	superuser, err := db.Superuser.Begin(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, superuser.Rollback(context.WithoutCancel(t.Context()))) }()
	_, err = superuser.Exec(t.Context(), canAccessByHand)
	require.NoError(t, err)
	c.do(t, db, func(as pgx.Tx) { f(as, superuser) })
}

// compare says that the query is worth measuring: not two different answers, or none. Where several rows are the last
// of a page, which of them is on it is nobody's business.
func (q query) compare(t testing.TB, rows int, as, superuser pgx.Tx) {
	t.Helper()
	found, hand := answer(t, as, q.sql), answer(t, superuser, q.byHand)
	require.True(t, len(found) > 0 || q.sparse && rows <= 1000, "it finds nothing: %s", q.sql)
	if len(found) == page {
		require.Len(t, hand, page)
	} else {
		require.ElementsMatch(t, hand, found, "by hand and as the caller: %s", q.sql)
	}
}

func (q query) measure(b *testing.B, name string, rows int, as, superuser pgx.Tx) {
	b.Helper()
	q.compare(b, rows, as, superuser)
	c := contest{run: timed(as, q.sql), other: timed(superuser, q.byHand), against: byHand, ratio: beyond(rows, q.ratio)}
	if rows <= 1000 { // which the checklist's are for
		c.budget = q.budget
	}
	c.measure(b, name)
}

// beyond is the budget of a ratio where there are more than a thousand rows, and none
// where not: of so few, the rows are not what a query costs.
func beyond(rows int, ratio float64) float64 {
	if rows <= 1000 {
		return 0
	}
	return ratio
}

// What the checklist's own text would cost: a figure to compare with, without a budget.
// Beyond a thousand rows it is asked only for the page by which it is known.
func BenchmarkLiteral(b *testing.B) {
	for _, rows := range sizes(b) {
		for _, w := range worlds {
			if rows > 1000 && w != worlds[0] {
				continue
			}
			db := literal(b, w.bulk(rows))
			c := member.in(b, db)
			c.against(b, db, func(as, superuser pgx.Tx) {
				for _, q := range c.queries() {
					if q.literal == "" || rows > 1000 && !slices.Contains([]string{"first_page_agents", "count_agents", "by_id"}, q.name) {
						continue
					}
					contest{run: timed(as, q.literal), other: timed(superuser, q.byHand), against: byHand}.
						measure(b, fmt.Sprintf("query=%s/rows=%d/tenants=%d/role=member/design=literal", q.name, rows, w.tenants))
				}
			})
		}
	}
}

// What a row or a page costs does not depend on how many rows there are.
func BenchmarkGrowth(b *testing.B) {
	few := fixtures.Bulk{Rows: 1000, Organizations: 2, Tenants: 2}
	for _, rows := range sizes(b) {
		many := few
		many.Rows = rows
		compare(b, fmt.Sprintf("rows=%d", rows), many, "1000-rows", few, func(q query) float64 {
			if !q.growth {
				return 0
			}
			return beyond(rows, growthRatio)
		})
	}
}

// What others have, in tenants of their own, costs a caller nothing: here ten times as
// much as all that there is beside it. It costs something, by hand as well, where half of
// a table is fetched that lies between theirs, and where words are searched that they use.
func BenchmarkUnrelated(b *testing.B) {
	for _, rows := range sizes(b) {
		alone := fixtures.Bulk{Rows: rows / 10, Organizations: 2, Tenants: 2}
		among := alone
		among.Unrelated = 10
		compare(b, fmt.Sprintf("rows=%d/unrelated=10", alone.Rows), among, "alone", alone, func(q query) float64 {
			if q.sparse || q.name == "accessible_agents" {
				return 0
			}
			return beyond(rows, unrelatedRatio)
		})
	}
}

// compare measures what a member's queries cost in a database, against another, each with
// its budget.
func compare(b *testing.B, name string, bulk fixtures.Bulk, against string, other fixtures.Bulk, budget func(query) float64) {
	b.Helper()
	db, otherDB := filled(b, bulk), filled(b, other)
	c := member.in(b, db)
	c.do(b, db, func(tx pgx.Tx) {
		c.do(b, otherDB, func(otherTx pgx.Tx) {
			for _, q := range c.queries() {
				contest{run: timed(tx, q.sql), other: timed(otherTx, q.sql), against: against, ratio: budget(q)}.
					measure(b, "query="+q.name+"/"+name+"/role=member")
			}
		})
	})
}

// Who sees almost everything waits for a first page as long as who sees almost nothing.
func BenchmarkSight(b *testing.B) {
	for _, rows := range sizes(b) {
		db := filled(b, worlds[0].bulk(rows))
		everyman.do(b, db, func(all pgx.Tx) {
			nobody.do(b, db, func(none pgx.Tx) {
				for _, table := range resources() {
					page := func(c caller) string {
						return fmt.Sprintf("select * from public.get_accessible_%s('%s', %d)", table, c.user.ID, page)
					}
					// Of a thousand, nobody's are no page.
					contest{run: timed(all, page(everyman)), other: timed(none, page(nobody)), against: nobody.role, ratio: beyond(rows, sightRatio)}.
						measure(b, fmt.Sprintf("query=first_page_%s/rows=%d/role=everyman", table, rows))
				}
			})
		})
	}
}

// filled is a secured database with the rows in it.
func filled(t testing.TB, b fixtures.Bulk) *pgtest.DB {
	t.Helper()
	return database(t, schema.Phase4, b)
}

// roomy is a server on the disk, for what would not fit into memory several times.
var roomy = sync.OnceValues(func() (*pgtest.Server, error) {
	return pgtest.Start(context.Background(), "shared_buffers=2GB", "max_wal_size=8GB", "autovacuum=off")
})

func database(t testing.TB, phase schema.Phase, b fixtures.Bulk, further ...pgtest.Seed) *pgtest.DB {
	t.Helper()
	seeds := append(append(fixtures.World(), b.Seed()), further...)
	create := pgtest.New
	if b.Rows*(1+b.Unrelated) > 100_000 {
		server, err := roomy()
		if err == nil {
			create = server.New
		} else {
			require.ErrorIs(t, err, pgtest.ErrGiven)
		}
	}
	db := create(t, phase, seeds...)
	// No disk turns any more: at the default of 4, a table of narrow rows would rather be read as a whole, by hand or not.
	_, err := db.Superuser.Exec(t.Context(), "alter database "+pgx.Identifier{db.Name}.Sanitize()+" set random_page_cost = 1.1")
	require.NoError(t, err)
	db.Superuser.Reset() // a session has the settings of its beginning
	return db
}

// literal is a database with the rows in it that is secured by the checklist's text: by
// its policies for agents, on every resource table, and the one for conversations.
func literal(b *testing.B, bulk fixtures.Bulk) *pgtest.DB {
	b.Helper()
	helpers, err := os.ReadFile("testdata/literal.sql")
	require.NoError(b, err)
	text, err := os.ReadFile("../rls_test/testdata/checklist_policies.sql")
	require.NoError(b, err)
	agents, conversations, found := strings.Cut(string(text), `CREATE POLICY "users_view_own_conversations"`)
	require.True(b, found, "the policies of conversations come last")
	sql := string(helpers) + "set search_path = public, literal;\n"
	for _, table := range resources() {
		sql += strings.ReplaceAll(agents, "agents", table) + fmt.Sprintf("alter table %s enable row level security;\n", table)
	}
	sql += `alter table conversations enable row level security; CREATE POLICY "users_view_own_conversations"` + conversations
	return database(b, schema.Phase3, bulk, pgtest.Seed{Name: "the checklist's policies", SQL: sql, After: schema.Phase3})
}
