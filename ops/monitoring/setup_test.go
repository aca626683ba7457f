package monitoring_test

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
)

var (
	section  = regexp.MustCompile(`(?m)^(\w+):\n +query: (.+)\n((?: +.*\n)*)`)
	measured = regexp.MustCompile(`(?m)^ +- (\w+): \{usage: (\w+)`)
	metric   = regexp.MustCompile(`\btenancy_[a-z_]+\b`)
)

// TestSetup follows what the dashboard and the alerts ask for to the database that answers. That they show and fire as they
// should is for TestPrometheus, with the programs themselves.
func TestSetup(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "post-migration-tasks/monitoring-setup", "post-migration-tasks/monitoring-setup/metrics-tracked-for-resource-distribution")
	conn := clean(t).Connect(t, monitor)
	usage, labels := map[string]string{}, map[string][]string{} // of each metric
	for _, q := range section.FindAllStringSubmatch(file(t, "queries.yml").SQL, -1) {
		t.Run("the query of "+q[1]+" returns what is measured by it, and something", func(t *testing.T) {
			rows, err := conn.Query(t.Context(), q[2])
			require.NoError(t, err)
			var columns []string
			for _, f := range rows.FieldDescriptions() {
				columns = append(columns, f.Name)
			}
			n := 0
			for rows.Next() {
				n++
			}
			require.NoError(t, rows.Err())
			require.True(t, n > 0 || q[1] == "tenancy_statement", "a server need not count statements")
			var names, of []string
			for _, m := range measured.FindAllStringSubmatch(q[3], -1) {
				names = append(names, m[1])
				if m[2] == "LABEL" {
					of = append(of, m[1])
				} else {
					usage[q[1]+"_"+m[1]] = m[2]
				}
			}
			require.ElementsMatch(t, columns, names)
			for _, name := range names {
				labels[q[1]+"_"+name] = of
			}
		})
	}
	require.Greater(t, len(usage), 25)
	known := func(t *testing.T, text string) (asked []string) {
		t.Helper()
		asked = slices.Compact(slices.Sorted(slices.Values(metric.FindAllString(text, -1))))
		require.NotEmpty(t, asked)
		require.Subset(t, slices.Collect(maps.Keys(usage)), asked)
		return asked
	}

	var dashboard struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(file(t, "dashboard.json").SQL), &dashboard))
	rows, row := map[string]string{}, "" // of each row of panels, what they ask for
	for _, p := range dashboard.Panels {
		if p.Type == "row" {
			row = p.Title
		}
		for _, target := range p.Targets {
			rows[row] += target.Expr + "\n"
		}
	}
	t.Run("the dashboard shows the hierarchy: each organization, below its tenant, with what it has", func(t *testing.T) {
		checklist.Proves(t, "post-migration-tasks/monitoring-setup/dashboard-created-for-org-hierarchy")
		asked := known(t, rows["Hierarchy"])
		require.Subset(t, asked, []string{"tenancy_organization_live", "tenancy_organization_users", "tenancy_organization_agents_private",
			"tenancy_organization_agents_tenant", "tenancy_organization_agents_platform", "tenancy_organization_documents", "tenancy_organization_conversations"})
		require.ElementsMatch(t, []string{"organization", "tenant", "type"}, labels["tenancy_organization_live"])
		require.Contains(t, rows["Hierarchy"], "count by (tenant) (tenancy_organization_live{")
	})
	t.Run("and with whom rows are shared, of each table and tenant", func(t *testing.T) {
		require.Equal(t, []string{"tenancy_resource_rows"}, known(t, rows["Resources by scope"]))
		require.ElementsMatch(t, []string{"table_name", "scope", "tenant"}, labels["tenancy_resource_rows"])
		for _, by := range []string{"by (scope)", "by (table_name, scope)", "by (tenant)"} {
			require.Contains(t, rows["Resources by scope"], by)
		}
	})
	t.Run("all that the dashboard and the alerts ask for is measured", func(t *testing.T) {
		known(t, strings.Join(slices.Collect(maps.Values(rows)), "\n"))
		for expr := range expressions(t) {
			if !strings.Contains(expr, "pg_up") { // that anything is measured at all
				known(t, expr)
			}
		}
	})
	t.Run("there is an alert for statements of the application that take more than the checklist's 50 ms, and for one that does not end", func(t *testing.T) {
		checklist.Proves(t, "post-migration-tasks/monitoring-setup/alerts-set-for-slow-queries")
		alerts := map[string]string{}
		for expr, name := range expressions(t) {
			alerts[name] = expr
		}
		slow := alerts["TenancySlowStatement"]
		require.Equal(t, []string{"tenancy_statement_calls_total", "tenancy_statement_seconds_total"}, known(t, slow))
		require.Equal(t, "COUNTER", usage["tenancy_statement_seconds_total"])
		require.ElementsMatch(t, []string{"queryid", "role"}, labels["tenancy_statement_seconds_total"])
		require.Equal(t, 2, strings.Count(slow, `{role=~"anon|authenticated|service_role"}`))
		require.Regexp(t, `\) > 0\.05$`, slow)
		require.Equal(t, "tenancy_activity_longest_statement_seconds > 60", alerts["TenancyLongStatement"])
	})
}

// expressions are what the alerts watch, with their names.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	alert := regexp.MustCompile(`(?m)^ +- alert: (\w+)\n +expr: (?:>-\n((?: {10}.*\n)+)|(.+)\n)`)
	for _, m := range alert.FindAllStringSubmatch(file(t, "alerts.yml").SQL, -1) {
		found[strings.Join(strings.Fields(m[2]+m[3]), " ")] = m[1]
	}
	require.Len(t, found, strings.Count(file(t, "alerts.yml").SQL, "- alert: "))
	return found
}
