package perf_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/explain"
)

// plan is how a query must be planned, whatever it costs on this machine.
type plan struct {
	name string
	sql  string
	args []any // values, [me] or [some]
	// inside is a text of the statement that is meant, where a function executes it; "" for the query itself.
	inside string
	table  string // that it reads
	// index is what it uses, once the table has been vacuumed and analyzed; "" where it is one of several that do as well.
	index     string
	indexOnly bool // it finds all in the index
	own       bool // it is for Alice, who may
	analyzed  bool // it is as it must be only once the table has been analyzed
	// asks is how often at most it calls each of the helpers, once unless given.
	asks int
	// pages is how many pages of 8 kB it touches at most, its helpers' left out, if who sends it has so many audiences and
	// may read so many rows of the table.
	pages func(audiences, rows int) int
}

// Arguments that depend on who asks.
type (
	me   struct{}            // the caller's id
	some struct{ in string } // the id of a row of this table that the caller may read, and that Alice has made
)

const (
	// An index of ten million rows has four levels. The row itself is one page more.
	depth  = 4
	lookup = depth + 1

	// So many entries of an index, uuids and what else is in it, are on a page that is half full.
	entries = 25

	// What a session looks up in the catalogs when it uses something for the first time counts as well.
	catalog = 20
)

func constant(pages int) func(int, int) int { return func(int, int) int { return pages } }

// all is for what the caller may read, from the index alone.
func all(audiences, rows int) int { return audiences*depth + rows/entries }

// sorted is for what is sorted by something that the index does not lead with: it reads all that the caller may read.
func sorted(audiences, rows int) int { return all(audiences, rows) + rows }

// merged is for the first fifty rows of each audience, merged, and the fifty of them that are looked up.
func merged(audiences, _ int) int { return audiences*(depth+50/entries) + 50*lookup }

// written is for an update of a row: an entry for each of the table's indexes, of which none has more than nine, and what the
// triggers look up: the owner, its tenant.
var written = constant(lookup + 9*(depth+1) + 6*lookup)

// plans are those of what the application asks most.
func plans() []plan {
	plans := []plan{
		{
			name: "the agents of an organization", table: "agents", index: "idx_agents_org_list", indexOnly: true,
			sql: "select id, name, display_name, tier, sharing_scope from public.agents " +
				"where owner_organization_id = $1 and status = 'active' and deleted_at is null",
			args: []any{fixtures.Novartis.ID},
			// All of the organization's, whoever asks.
			pages: constant(depth + 2*large.Rows/large.Organizations/entries),
		},
		{
			// For its values each time: who may read nearly all does so from one end to the other.
			name: "all accessible agents", table: "agents", inside: "public.agents", analyzed: true,
			sql: "select * from public.get_accessible_agents($1)", args: []any{me{}}, pages: sorted,
		},
		{
			name: "agents of a knowledge domain", table: "agents", index: "idx_agents_knowledge_domains", own: true,
			analyzed: true, inside: "public.agents",
			sql: "select * from public.search_agents($1, '{domain-7}', 50)", args: []any{me{}},
			// A hundredth of all agents has it, whoever may read them.
			pages: constant(depth + large.Rows/100),
		},
		{
			name: "documents with a word", table: "knowledge_documents", index: "idx_knowledge_documents_text", own: true,
			inside: "public.knowledge_documents",
			sql:    "select * from public.search_knowledge_documents($1, 'word7', 50)", args: []any{me{}},
			// Three of a thousand have it.
			pages: constant(depth + 3*large.Rows/1000),
		},
		{
			// The index is asked for its words, which all have, and the documents of the caller for the phrase.
			name: "documents with a phrase", table: "knowledge_documents", index: "idx_knowledge_documents_text", own: true,
			inside: "public.knowledge_documents",
			sql:    `select * from public.search_knowledge_documents($1, 'word7 "lorem ipsum"', 50)`, args: []any{me{}},
			pages: constant(3*depth + 3*large.Rows/1000),
		},
		{
			name: "the hierarchy of an organization", inside: "public.organizations", own: true, asks: 2, // once to estimate
			sql: "select * from public.get_organization_hierarchy($1)", args: []any{fixtures.Novartis.ID},
		},
		{
			name: "the organizations of a user", inside: "authz.live_organization o\n    left join",
			sql: "select * from public.get_user_accessible_organizations($1)", args: []any{me{}},
		},
		{
			name: "the latest conversations of a user", table: "conversations",
			sql:  "select id, title from public.conversations where user_id = $1 order by created_at desc limit 20",
			args: []any{me{}}, own: true, pages: sorted,
		},
		{
			name: "her latest conversations", table: "conversations", own: true,
			sql: "select id, title from public.conversations order by created_at desc limit 20", pages: sorted,
		},
		{
			name: "renaming a conversation", table: "conversations", index: "conversations_pkey", own: true, asks: 2,
			sql:  "update public.conversations set title = 'Renamed' where id = $1",
			args: []any{fixtures.AliceConversation.ID}, pages: written,
		},
		{
			name: "deleting a conversation", table: "conversations", index: "conversations_pkey", own: true,
			sql: "select public.soft_delete('conversations', $1)", args: []any{fixtures.AliceConversation.ID},
			inside: "update public.conversations", pages: written,
		},
		{
			name: "the latest messages of a conversation", table: "messages", own: true,
			sql:  "select role, content from public.messages where conversation_id = $1 order by created_at desc limit 20",
			args: []any{fixtures.AliceConversation.ID}, pages: sorted,
		},
		{
			name: "how many messages she may read", table: "messages", index: "messages_conversation_id_idx", own: true,
			sql: "select count(*) from public.messages", pages: all,
		},
	}
	for _, table := range resources() {
		label := fixtures.Resource{Table: table}.NameColumn()
		order, list := "created_at desc", "idx_"+table+"_audience"
		if table == "agents" {
			order, list = "priority desc, name", "idx_agents_accessible"
		}
		plans = append(plans,
			plan{
				name: "how many " + table, table: table, index: "idx_" + table + "_audience", indexOnly: true,
				sql: "select count(*) from public." + table, pages: all,
			},
			plan{
				name: "the first " + table, table: table, index: "idx_" + table + "_audience",
				sql: fmt.Sprintf("select id, %s from public.%s order by %s limit 50", label, table, order), pages: sorted,
			},
			plan{
				name: "the first accessible " + table, table: table, index: list, indexOnly: true, inside: "public." + table,
				sql: fmt.Sprintf("select * from public.get_accessible_%s($1, 50)", table), args: []any{me{}}, pages: merged,
			},
			plan{
				name: "one of " + table, table: table, index: table + "_pkey",
				sql: fmt.Sprintf("select * from public.%s where id = $1", table), args: []any{some{table}}, pages: constant(lookup),
			},
			plan{
				// The policies ask on behalf of the row as it was, and as it is to be.
				name: "renaming one of " + table, table: table, index: table + "_pkey", own: true, asks: 2,
				sql: fmt.Sprintf("update public.%s set %s = 'Renamed' where id = $1", table, label), args: []any{some{table}}, pages: written,
			},
			plan{
				name: "deleting one of " + table, table: table, index: table + "_pkey", own: true, inside: "update public." + table,
				sql: fmt.Sprintf("select public.soft_delete('%s', $1)", table), args: []any{some{table}}, pages: written,
			},
		)
	}
	return plans
}

// resources are the tables of that class.
func resources() (tables []string) {
	for _, r := range fixtures.Resources() {
		tables = append(tables, r.Table)
	}
	slices.Sort(tables)
	return slices.Compact(tables)
}

// execution is what came of a query.
type execution struct {
	facts
	plan  explain.Plan   // of the statement that is meant
	rows  int64          // that were answered, or changed
	calls map[string]int // of the helpers, by name
}

// faults says what is wrong with how it was executed, and where to look.
func (want plan) faults(got execution, settled bool) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	switch index := want.index; {
	case !settled || index == "":
	case !got.plan.UsesIndex(index):
		fault("it does not use %s: is it there, does the query compare its first columns, does its WHERE follow from the query's, "+
			"does it INCLUDE what else the query and the policies name?", index)
	case want.indexOnly && !got.plan.IndexOnly(index):
		fault("%s does not have all columns that the query and the policies name: INCLUDE them", index)
	}
	for _, table := range got.plan.SeqScans() {
		// Who may read more than half of it had better.
		if got.visible[table] < got.large[table]/2 {
			fault("it reads the whole table %s: no index leads to the rows that the caller may read, or the condition for it "+
				"calls a function for each row", table)
		}
	}
	if got.rows == 0 {
		fault("it meets no row, which proves nothing: is it in the fixtures, and may the caller have it?")
	}
	asks := cmp.Or(want.asks, 1)
	for helper, calls := range got.calls {
		if calls > asks {
			fault("it calls %s() %d times, and must not more than %d: in a policy it stands in (select …), in a function in a variable",
				helper, calls, asks)
		}
	}
	pages := got.plan.Buffers().Total()
	for _, node := range got.plan.Nodes() {
		if node.Role == "InitPlan" {
			pages -= node.Buffers.Total()
		}
		if node.Role == "InitPlan" && node.Loops > 1 {
			fault("it evaluates %s %g times, and must once", node.Subplan, node.Loops)
		}
		if node.Role == "SubPlan" && node.Loops > 100 {
			fault("it runs %s for each of %g rows", node.Subplan, node.Loops)
		}
	}
	if want.pages != nil {
		rows := got.visible[want.table]
		most := int64(want.pages(got.audiences, rows))
		if !settled {
			// Not even an index-only scan does without the table then.
			most = max(most, int64(sorted(got.audiences, rows)))
		}
		if most += catalog; pages > most {
			fault("it touches %d pages, and must not more than %d, the caller having %d audiences and %d rows: "+
				"it reads rows that it throws away", pages, most, got.audiences, rows)
		}
	}
	if got.plan.JIT {
		fault("it was compiled, which takes longer than it runs: its estimated cost is above jit_above_cost")
	}
	slices.Sort(faults)
	return faults
}

// failure is all that somebody needs who has not seen the query before.
func (want plan) failure(where string, got execution, faults []string) string {
	return fmt.Sprintf("%s %s:\n  - %s\n\n%s\n\n%s", want.name, where, strings.Join(faults, "\n  - "), got.plan.SQL, got.plan)
}
