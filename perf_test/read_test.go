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
	"github.com/vital-health/tenancy/helpers/actor"
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

// caller is who asks.
type caller struct {
	role      string // what he is, for the benchmark's name
	user      fixtures.User
	audiences []string // whose rows he reads, as somebody who knows it would write it down
	suspended []string // whose rows nobody reads
}

// The callers, by how much they see.
var (
	member   = caller{role: "member", user: fixtures.Alice}
	heavy    = caller{role: "heavy", user: fixtures.Heavy}
	nobody   = caller{role: "nobody", user: fixtures.Nobody}
	everyman = caller{role: "everyman", user: fixtures.Everyman}
)

// in is the caller in a database, where he has what he sees.
func (c caller) in(t testing.TB, db *pgtest.DB) caller {
	t.Helper()
	require.NoError(t, db.Superuser.QueryRow(t.Context(), `select authz.audiences_of($1)::text[], authz.suspended_organizations()::text[]`, c.user.ID).
		Scan(&c.audiences, &c.suspended))
	return c
}

// do acts as the caller.
func (c caller) do(t testing.TB, db *pgtest.DB, f func(pgx.Tx)) {
	t.Helper()
	require.NoError(t, actor.User(c.user.ID).Do(t, db, func(tx pgx.Tx) error { f(tx); return nil }))
}

// live is what nobody may read past, by hand.
func (c caller) live() string {
	return fmt.Sprintf("deleted_at is null and owner_organization_id not in ('%s')", strings.Join(c.suspended, "', '"))
}

// reads is what the caller may read, by hand.
func (c caller) reads() string {
	return fmt.Sprintf("%s and audience_key in ('%s')", c.live(), strings.Join(c.audiences, "', '"))
}

// query is what a benchmark measures: SQL that a caller sends, and the same result by
// hand.
type query struct {
	name    string
	sql     string
	byHand  string
	literal string // the same where the checklist's text stands in the place of ours; "" if it has none
	budget  time.Duration
	ratio   float64
	growth  bool // it must not cost more where there are more rows
	sparse  bool // of a thousand rows it may find none
}

// page is how many rows a first page has.
const page = 50

// common is what all callers are measured by.
func (c caller) common(table string) []query {
	columns, conditions, order := "*", "", "created_at desc"
	literal := fmt.Sprintf("select * from public.%s order by %s limit %d", table, order, page)
	if table == "agents" {
		literal = fmt.Sprintf("select * from literal.get_accessible_agents('%s') limit %d", c.user.ID, page)
		columns, conditions, order = "id, name, display_name, tier, sharing_scope, owner_organization_id, priority", " and status = 'active'", "priority desc, tier, name"
	}
	return []query{
		{
			name:    "count_" + table,
			sql:     "select count(*) from public." + table,
			byHand:  fmt.Sprintf("select count(*) from public.%s where %s", table, c.reads()),
			literal: "select count(*) from public." + table,
			budget:  commonQueryBudget, ratio: listRatio,
		},
		{
			name: "first_page_" + table,
			sql:  fmt.Sprintf("select * from public.get_accessible_%s('%s', %d)", table, c.user.ID, page),
			byHand: fmt.Sprintf(`
				select a.*
				from unnest('{%s}'::uuid[]) as audience (key)
				cross join lateral (
					select %s
					from public.%s
					where audience_key = audience.key and %s
					order by %s limit %[6]d
				) as a
				order by %[5]s limit %[6]d`, strings.Join(c.audiences, ","), columns, table, c.live()+conditions, order, page),
			literal: literal,
			budget:  accessibleAgentsBudget, ratio: listRatio, growth: true,
		},
	}
}

// queries is what a member is measured by.
func (c caller) queries() (queries []query) {
	for _, table := range resources() {
		queries = append(queries, c.common(table)...)
	}
	agents := fmt.Sprintf("owner_organization_id = '%s' and status = 'active' and deleted_at is null", fixtures.Novartis.ID)
	same := func(q query) query { // as by the text of the checklist, whose functions are called what ours are
		q.literal = strings.ReplaceAll(q.sql, "public.get_accessible_agents", "literal.get_accessible_agents")
		return q
	}
	return append(queries, []query{
		same(query{
			name:   "accessible_agents",
			sql:    fmt.Sprintf("select * from public.get_accessible_agents('%s')", c.user.ID),
			byHand: fmt.Sprintf("select id, name, display_name, tier, sharing_scope, owner_organization_id from public.agents where %s and status = 'active' order by priority desc, tier, name", c.reads()),
			budget: accessibleAgentsBudget, ratio: listRatio,
		}),
		same(query{
			name:   "agents_of_organization", // the checklist's "List agents by organization"
			sql:    "select id, name, display_name, tier, sharing_scope from public.agents where " + agents,
			byHand: "select id, name, display_name, tier, sharing_scope from public.agents where " + agents,
			budget: commonQueryBudget, ratio: listRatio,
		}),
		{
			name: "organization_hierarchy",
			sql:  fmt.Sprintf("select * from public.get_organization_hierarchy('%s')", fixtures.Novartis.ID),
			byHand: fmt.Sprintf(`
				select o.id, o.name, o.slug, o.organization_type, o.parent_organization_id
				from public.organizations self
				left join public.organizations parent on parent.id = self.parent_organization_id
				join public.organizations o on o.id in (self.id, parent.id, parent.parent_organization_id)
				where self.id = '%s' and self.deleted_at is null
				order by o.organization_type`, fixtures.Novartis.ID),
			budget: hierarchyBudget, ratio: lookupRatio,
		},
		{
			name: "accessible_organizations",
			sql:  fmt.Sprintf("select * from public.get_user_accessible_organizations('%s')", c.user.ID),
			byHand: fmt.Sprintf(`
				select o.id, o.name, o.slug, o.organization_type, uo.role
				from public.organizations o
				left join public.organizations t on t.id = o.tenant_organization_id
				left join public.user_organizations uo on uo.organization_id = o.id and uo.user_id = '%s' and uo.is_active
				where o.deleted_at is null and o.is_active and (t.id is null or t.deleted_at is null and t.is_active)
				  and (o.id = '%s' or o.id in (
					select unnest(array[m.id, m.tenant_organization_id])
					from public.user_organizations u
					join public.organizations m on m.id = u.organization_id
					where u.user_id = '%[1]s' and u.is_active and m.deleted_at is null and m.is_active))
				order by o.organization_type, o.name, o.id`, c.user.ID, fixtures.PlatformID),
			budget: commonQueryBudget, ratio: lookupRatio,
		},
		same(query{
			name:   "by_id",
			sql:    fmt.Sprintf("select id, name from public.agents where id = '%s'", fixtures.NovartisAgent.ID),
			byHand: fmt.Sprintf("select id, name from public.agents where id = '%s' and %s", fixtures.NovartisAgent.ID, c.reads()),
			budget: commonQueryBudget, ratio: lookupRatio, growth: true,
		}),
		same(query{
			name:   "conversations",
			sql:    "select id, title from public.conversations order by created_at desc limit 20",
			byHand: fmt.Sprintf("select id, title from public.conversations where user_id = '%s' and deleted_at is null order by created_at desc limit 20", c.user.ID),
			budget: commonQueryBudget, ratio: lookupRatio, growth: true,
		}),
		{
			// One owner whom the caller belongs to and one of the same tenant, with each scope, 1,000 times in all.
			name:    "can_access",
			sql:     fmt.Sprintf(canAccess, "public.can_user_access_resource", c.user.ID, fixtures.Novartis.ID, fixtures.Pfizer.ID),
			byHand:  fmt.Sprintf(canAccess, "pg_temp.can_access", c.user.ID, fixtures.Novartis.ID, fixtures.Pfizer.ID),
			literal: fmt.Sprintf(canAccess, "literal.can_user_access_resource", c.user.ID, fixtures.Novartis.ID, fixtures.Pfizer.ID),
			ratio:   listRatio,
		},
		{
			name:   "agents_by_domain",
			sql:    fmt.Sprintf("select * from public.search_agents('%s', '{domain-7}', %d)", c.user.ID, page),
			byHand: fmt.Sprintf("select * from public.agents where knowledge_domains @> '{domain-7}' and status = 'active' and %s order by priority desc, tier, name limit %d", c.reads(), page),
			budget: commonQueryBudget, ratio: searchRatio, sparse: true,
		},
		{
			name:   "documents_by_text",
			sql:    fmt.Sprintf("select * from public.search_knowledge_documents('%s', 'word7', %d)", c.user.ID, page),
			byHand: fmt.Sprintf("select * from public.knowledge_documents where authz.searchable(title, content) @@ to_tsquery('english', 'word7') and %s order by created_at desc limit %d", c.reads(), page),
			budget: commonQueryBudget, ratio: searchRatio, sparse: true,
		},
		{
			name:   "messages",
			sql:    fmt.Sprintf("select id, role, content from public.messages where conversation_id = '%s' order by created_at desc limit 20", fixtures.BulkConversation),
			byHand: fmt.Sprintf("select id, role, content from public.messages where conversation_id = '%s' order by created_at desc limit 20", fixtures.BulkConversation),
			budget: commonQueryBudget, ratio: lookupRatio, growth: true,
		},
	}...)
}

// canAccess calls a function 1,000 times.
const canAccess = `
	select count(*) filter (where %[1]s('%[2]s', o.owner, s.scope))
	from unnest('{%[3]s, %[4]s}'::uuid[]) as o (owner)
	cross join unnest(enum_range(null::public.sharing_scope_type)) as s (scope)
	cross join generate_series(1, 167)`

// canAccessByHand is the function as somebody writes it who trusts its callers.
const canAccessByHand = `
	create function pg_temp.can_access(p_user_id uuid, p_owner uuid, p_scope public.sharing_scope_type) returns boolean language plpgsql stable as $$
	begin
		return exists (
			select
			from public.organizations o
			left join public.organizations t on t.id = o.tenant_organization_id
			where o.id = p_owner and o.deleted_at is null and o.is_active and (t.id is null or t.deleted_at is null and t.is_active)
			  and (p_scope = 'platform' or exists (
				select
				from public.user_organizations uo
				join public.organizations m on m.id = uo.organization_id
				where uo.user_id = p_user_id and uo.is_active and m.deleted_at is null and m.is_active
				  and case p_scope when 'organization' then m.id = o.id else m.tenant_organization_id = o.tenant_organization_id end)));
	end
	$$`

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
