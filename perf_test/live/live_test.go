package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// small is a run that takes seconds, and can say who failed, but nothing about time.
func small() config {
	return config{Rows: 1000, Organizations: 10, Rate: 150, Idle: time.Second / 2, Say: func(string) {}}
}

// No request fails while the phases come and go, whichever generation of the
// application sends it.
func TestLive(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-1/verify-application-still-works/no-database-errors-in-logs", "production-deployment/verify-phase-1-in-production/application-still-works")
	c := small()
	report, err := run(t.Context(), c, pgtest.New(t, schema.Legacy, c.seeds()...))
	require.NoError(t, err)

	var steps []string
	for _, s := range report.Steps {
		steps = append(steps, s.Name+", "+s.Application)
		require.Empty(t, s.Errors, "%s", report)
		require.Greater(t, s.Requests, 20, "%s: who asks nothing notices nothing\n%s", s.Name, report)
	}
	require.Equal(t, []string{
		"idle, old", "phase1, old", "phase2, old", "phase3, old",
		"idle, new", "phase4, new", "rollback of phase4, new",
		"idle, old", "rollback of phase3, old", "rollback of phase2, old", "rollback of phase1, old",
	}, steps)
}

// What fails is told from what is answered, also where the database says nothing.
func TestLiveFailures(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ breaks, want string }{
		"a column that is gone": {`alter table public.agents rename column display_name to title`, `renames an agent: ERROR: column "display_name" of relation "agents" does not exist (SQLSTATE 42703)`},
		"a privilege that is":   {`revoke insert on public.messages from authenticated`, `writes a message: ERROR: permission denied for table messages (SQLSTATE 42501)`},
		"a row that is hidden":  {`drop policy tmp_team_access on public.agents`, `renames an agent: met no row`},
		"a constraint too many": {`alter table public.messages add check (role is null) not valid`, `writes a message: ERROR: new row for relation "messages" violates check constraint "messages_role_check" (SQLSTATE 23514)`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, schema.Legacy, small().seeds()...)
			phasetest.Exec(t, db, test.breaks)
			step, over := watch(t, db)
			require.Contains(t, step.Errors, test.want)
			require.Contains(t, over, "requests failed: "+test.want)
		})
	}
}

// Who has to wait is not refused anything, and counts from when he asked.
func TestLiveStall(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy, small().seeds()...)
	tx, err := db.Owner.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `lock table public.agents, public.messages`)
	require.NoError(t, err)
	time.AfterFunc(600*time.Millisecond, func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	step, over := watch(t, db)
	require.Empty(t, step.Errors)
	require.Greater(t, step.Max, 400.0, "milliseconds, of the first that waited")
	require.Contains(t, over, "phase1: a request took")
}

// watch lets the old application work for a second, as if phase 1 ran, and returns what
// is over budget, too.
func watch(t *testing.T, db *pgtest.DB) (step *Step, over string) {
	t.Helper()
	c := small()
	w := workload{population: &population{rows: c.Rows, organizations: c.Organizations}, rate: c.Rate}
	t.Cleanup(w.close)
	require.NoError(t, w.connect(t.Context(), db))
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	w.run(ctx, oldApplication)
	step = &Step{Name: "phase1"}
	step.measure(w.since())
	r := Report{Steps: []*Step{step}}
	r.judge(1)
	return step, strings.Join(r.Over, "\n")
}

// A step is held to the idle one of its application.
func TestLiveBudgets(t *testing.T) {
	t.Parallel()
	quick, slow := &Step{Name: idle}, &Step{Name: "phase2"}
	for i := range 100 {
		quick.latencies = append(quick.latencies, float64(i)/10)
		slow.latencies = append(slow.latencies, float64(i)/3)
	}
	quick.P99, slow.Requests = quantile(quick.latencies, 0.99), 100
	require.Equal(t, 9.9, quick.P99)
	slow.compare(quick)
	require.InDelta(t, 0.10, slow.Slow, 1e-9, "29.7 ms and more: 90 to 99 thirds")

	r := Report{Steps: []*Step{quick, slow}, Backfill: &Backfill{Ratio: 1.4, Growth: map[string]Ratio{"public.agents": {Backfill: 1.31, Plain: 2}}}}
	r.judge(1)
	require.Equal(t, []string{
		"phase2: 10.0 % of the requests took more than 3 times the idle p99, the budget is 5.0 %",
		"phase2: the backfill takes 1.40 times one plain UPDATE, the budget is 1.30",
		"phase2: public.agents grew to 1.31 times its size, the budget is 1.30",
	}, r.Over)
	r.judge(2)
	require.Empty(t, r.Over)
	require.Equal(t, 2.0, r.Scale)
	r.Failed = "phase3: no lock"
	r.judge(2)
	require.Equal(t, []string{"it ended before the last step: phase3: no lock"}, r.Over, "what was not run is not within its budget")
	require.NotContains(t, r.String(), "NaN")
}
