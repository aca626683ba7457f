package perf_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

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
	for name, budget := range map[string]time.Duration{
		"accessible_agents":      50 * time.Millisecond, // Query 1: Get accessible agents for user
		"agents_of_organization": 50 * time.Millisecond, // Query 2: List agents by organization; Common queries < 50ms
		"organization_hierarchy": 10 * time.Millisecond, // Query 3: Get organization hierarchy
	} {
		require.Contains(t, queries, name)
		require.Equal(t, budget, queries[name].budget, name)
	}
	c.against(t, db, func(as, superuser pgx.Tx) {
		for name, q := range queries {
			t.Run(name+" answers as it does by hand", func(t *testing.T) { q.compare(t, rows, as, superuser) })
		}
	})
}
