package perf_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
)

// What is measured, and by what budget, is the checklist's. How long it takes, only a benchmark says, on the machine
// that it is for.
func TestBenchmarks(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "pre-implementation/test-scenarios-defined/performance-benchmarks-established")
	const rows = 1000
	db := filled(t, worlds[0].bulk(rows))
	c := member.in(t, db)
	queries := map[string]query{}
	for _, q := range c.queries() {
		queries[q.name] = q
	}
	require.Len(t, queries, len(c.queries()), "each has a name of its own")
	for name, want := range map[string]struct {
		sql    string
		budget time.Duration
	}{
		// Query 1: Get accessible agents for user. Query 2: List agents by organization. Query 3: Get organization hierarchy.
		"accessible_agents": {"select * from public.get_accessible_agents('" + fixtures.Alice.ID + "')", 50 * time.Millisecond},
		"agents_of_organization": {"select id, name, display_name, tier, sharing_scope from public.agents where owner_organization_id = '" +
			fixtures.Novartis.ID + "' and status = 'active' and deleted_at is null", 50 * time.Millisecond},
		"organization_hierarchy": {"select * from public.get_organization_hierarchy('" + fixtures.Novartis.ID + "')", 10 * time.Millisecond},
	} {
		require.Equal(t, want.sql, queries[name].sql)
		require.Equal(t, want.budget, queries[name].budget, name)
	}
	c.against(t, db, func(as, superuser pgx.Tx) {
		for name, q := range queries {
			t.Run(name+" answers as it does by hand", func(t *testing.T) { q.compare(t, rows, as, superuser) })
		}
	})
}
