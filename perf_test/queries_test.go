package perf_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/pgtest"
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
