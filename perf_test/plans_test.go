package perf_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/explain"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// large is enough rows that the planner would rather not read them all.
var large = fixtures.Bulk{Agents: 20_000, Organizations: 20, Tenants: 2}

// plan is how a query must be planned, whatever it costs on this machine.
type plan struct {
	sql       string
	index     string // that it must use
	indexOnly bool   // without looking into the table, but for the rows that the index shows are not Alice's
}

// What the application asks most, as Alice.
var plans = map[string]plan{
	"the agents of an organization, from the covering index alone": {
		sql:   fmt.Sprintf("select id, name, display_name, tier, sharing_scope from public.agents where owner_organization_id = '%s' and status = 'active' and deleted_at is null", fixtures.Novartis.ID),
		index: "idx_agents_org_list", indexOnly: true,
	},
	"the first page of all agents that she may read": {
		sql:   "select id, name from public.agents order by priority desc, name limit 50",
		index: "idx_agents_audience",
	},
	"how many agents she may read": {
		sql:   "select count(*) from public.agents",
		index: "idx_agents_audience", indexOnly: true,
	},
	"an agent by its id": {
		sql:   fmt.Sprintf("select * from public.agents where id = '%s'", fixtures.NovartisAgent.ID),
		index: "agents_pkey",
	},
	"the latest documents": {
		sql:   "select id, title from public.knowledge_documents order by created_at desc limit 20",
		index: "idx_knowledge_documents_audience",
	},
	"her latest conversations": {
		sql:   "select id, title from public.conversations order by created_at desc limit 20",
		index: "idx_conversations_user",
	},
	"the latest messages of a conversation": {
		sql:   fmt.Sprintf("select role, content from public.messages where conversation_id = '%s' order by created_at desc limit 20", fixtures.AliceConversation.ID),
		index: "messages_conversation_id_idx",
	},
	"how many messages she may read": {
		sql:   "select count(*) from public.messages",
		index: "messages_conversation_id_idx",
	},
}

func TestPhase3Plans(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-3/benchmark-common-queries", "phase-3/check-index-usage",
		"success-criteria/performance/agent-list-queries-use-covering-indexes",
		"success-criteria/performance/no-table-scans-on-large-tables")
	db := filled(t, large)
	for name, want := range plans {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := planned(t, db, want.sql)
			require.Empty(t, want.faults(got), "%s\n\n%s", want.sql, got)
		})
	}

	t.Run("a plan without its index is found", func(t *testing.T) {
		t.Parallel()
		const list = "the agents of an organization, from the covering index alone"
		for name, mutation := range map[string]string{
			"dropped":              `drop index public.idx_agents_org_list`,
			"without a column":     `drop index public.idx_agents_org_list; create index idx_agents_org_list on public.agents (owner_organization_id, tier, name) include (id, sharing_scope, audience_key) where deleted_at is null and status = 'active'`,
			"without the audience": `drop index public.idx_agents_org_list; create index idx_agents_org_list on public.agents (owner_organization_id, tier, name) include (id, display_name, sharing_scope) where deleted_at is null and status = 'active'`,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				db := filled(t, large)
				_, err := db.Owner.Exec(t.Context(), mutation)
				require.NoError(t, err)
				require.Contains(t, strings.Join(plans[list].faults(planned(t, db, plans[list].sql)), "; "), "idx_agents_org_list")
			})
		}
	})
}

// filled is a secured database with the rows in it.
func filled(t testing.TB, b fixtures.Bulk) *pgtest.DB {
	t.Helper()
	return pgtest.New(t, schema.Phase4, append(fixtures.World(), b.Seed())...)
}

// planned is the plan of a query that Alice sends.
func planned(t *testing.T, db *pgtest.DB, sql string) (found explain.Plan) {
	t.Helper()
	require.NoError(t, actor.User(fixtures.Alice.ID).Do(t, db, func(tx pgx.Tx) (err error) {
		found, err = explain.Query(t.Context(), tx, sql)
		return err
	}))
	return found
}

// faults says what is wrong with a plan.
func (want plan) faults(got explain.Plan) (faults []string) {
	if !got.UsesIndex(want.index) {
		faults = append(faults, "it does not use "+want.index)
	} else if want.indexOnly && !got.IndexOnly(want.index) {
		faults = append(faults, want.index+" does not have all that it needs")
	}
	for _, table := range got.SeqScans() {
		faults = append(faults, "it reads the whole table "+table)
	}
	if got.Rows() == 0 {
		faults = append(faults, "it returns no row, which proves nothing")
	}
	for _, node := range got.Nodes() {
		// The policies' helpers stand in subqueries that are executed once for a statement.
		if node.Role == "InitPlan" && node.Loops > 1 {
			faults = append(faults, fmt.Sprintf("it asks %g times who Alice is", node.Loops))
		}
		if node.Role == "SubPlan" && node.Loops > 100 {
			faults = append(faults, fmt.Sprintf("it runs a subquery for each of %g rows", node.Loops))
		}
	}
	return faults
}
