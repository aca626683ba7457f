package dump_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/explain"
)

// checkPlans asks, as the user who has most, what the application asks most.
func (e *examination) checkPlans(t *testing.T) {
	t.Helper()
	var big []string
	for table, rows := range e.world.rows {
		if len(rows) > e.large {
			big = append(big, table)
		}
	}
	user := e.busiest()
	if len(big) == 0 || user == "" {
		e.say(lacking, "a table of more than %d rows, and somebody who sees agents: whether plans use their indexes", e.large)
		return
	}
	slices.Sort(big)
	_, err := e.db.Superuser.Exec(t.Context(), "vacuum analyze") // as autovacuum will have, after the backfill
	require.NoError(t, err)
	checked := 0
	for name, sql := range e.asked(t, user) {
		var plan explain.Plan
		require.NoError(t, actor.User(user).Do(t, e.db, func(tx pgx.Tx) (err error) {
			plan, err = explain.Query(t.Context(), tx, sql)
			return err
		}))
		checked++
		for _, table := range plan.SeqScans() {
			if slices.Contains(big, table) {
				e.fault(fmt.Sprintf("%s reads the whole table %s", name, table), sql+"\n"+plan.String())
			}
		}
		for _, node := range plan.Nodes() {
			if node.Role == "SubPlan" && node.Loops > 100 {
				e.fault(fmt.Sprintf("%s runs a subquery for each of %g rows", name, node.Loops), sql+"\n"+plan.String())
			}
		}
		e.say(plans, "%-36s %8s  %d pages, %d rows", name, plan.ExecutionTime, plan.Buffers().Total(), plan.Rows())
	}
	require.Positive(t, checked)
	slices.Sort(e.sections[plans])
	e.say(plans, "as %s; none may read the whole of %s", e.world.about(user), strings.Join(big, ", "))
}

// busiest is the user, of those who are asked, who reads most agents.
func (e *examination) busiest() (user string) {
	most := 0
	for _, candidate := range e.users {
		who, reads := e.world.reader(candidate), 0
		for _, r := range e.world.rows["agents"] {
			if e.world.mayRead(who, "agents", r) && (len(who.member) > 0) {
				reads++
			}
		}
		if reads > most {
			user, most = candidate, reads
		}
	}
	return user
}

// asked is what the application asks most, by the columns that the tables have.
func (e *examination) asked(t *testing.T, user string) map[string]string {
	t.Helper()
	queries := map[string]string{
		"how many agents there are": "select count(*) from public.agents",
	}
	columns, err := newLoader(t.Context(), e.db)
	require.NoError(t, err)
	order := "id"
	if columns.columns["agents"]["priority"] && columns.columns["agents"]["name"] {
		order = "priority desc, name"
	}
	queries["the first page of agents"] = fmt.Sprintf("select id from public.agents order by %s limit 50", order)
	who := e.world.reader(user)
	first := func(table string) string {
		for _, r := range e.world.rows[table] {
			if e.world.mayRead(who, table, r) {
				return r.key
			}
		}
		return "00000000-0000-0000-0000-000000000000"
	}
	queries["an agent by its id"] = fmt.Sprintf("select * from public.agents where id = '%s'", first("agents"))
	for organization := range who.member {
		queries["the agents of an organization"] = fmt.Sprintf(
			"select id from public.agents where owner_organization_id = '%s' and deleted_at is null", organization)
	}
	queries["the latest conversations"] = "select id from public.conversations order by created_at desc limit 20"
	queries["the messages of a conversation"] = fmt.Sprintf(
		"select role, content from public.messages where conversation_id = '%s' order by created_at desc limit 20", first("conversations"))
	if columns.columns["knowledge_documents"]["created_at"] {
		queries["the latest documents"] = "select id from public.knowledge_documents order by created_at desc limit 20"
	}
	return queries
}
