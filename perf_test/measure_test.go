package perf_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// Fewer runs than these have no percentiles, and a slow query must not get away because
// it is slow. What takes seconds, the literal design, has few: it is far from any budget.
const (
	fewestRuns     = 20
	fewestSlowRuns = 3
	slow           = time.Second
)

// contest is a way to do something and another to compare it with, which are run in
// turns: what the machine does meanwhile meets both.
type contest struct {
	run     func(*testing.B) time.Duration
	other   func(*testing.B) time.Duration // nil for none
	against string                         // what the other is, for the metric's name

	budget time.Duration // of the 95th percentile; 0 for none
	ratio  float64       // budget of the median, in medians of the other; 0 for none
}

// byHand is what a query is compared with: the same rows, asked for by a superuser who
// knows what the caller may see, and writes it down.
const byHand = "by-hand"

// measure runs the contest as a benchmark of this name, and reports what it takes. Over a
// budget the whole fails, and not this one, whose figures would not be shown then.
func (c contest) measure(whole *testing.B, name string) {
	whole.Helper()
	whole.Run(name, func(b *testing.B) { c.turns(b, whole) })
}

func (c contest) turns(b, whole *testing.B) {
	b.Helper()
	var runs, others []time.Duration
	turn := func() {
		runs = append(runs, c.run(b))
		if c.other != nil {
			others = append(others, c.other(b))
		}
	}
	turn() // fills the caches, and does not count
	runs, others = nil, nil
	for b.Loop() {
		turn()
	}
	for len(runs) < fewestRuns && (len(runs) < fewestSlowRuns || percentile(runs, 50) < slow) {
		turn()
	}

	p50, p95 := percentile(runs, 50), percentile(runs, 95)
	b.ReportMetric(milliseconds(p50), "p50-ms")
	b.ReportMetric(milliseconds(p95), "p95-ms")
	b.ReportMetric(0, "ns/op") // both together: nobody's figure
	if c.budget > 0 {
		b.ReportMetric(milliseconds(c.budget), "budget-ms")
	}
	ratio := 0.0
	if c.other != nil {
		ratio = float64(p50) / float64(percentile(others, 50))
		b.ReportMetric(milliseconds(percentile(others, 50)), c.against+"-p50-ms")
		b.ReportMetric(ratio, "ratio")
	}
	for _, over := range c.over(p95, ratio, scale(b)) {
		whole.Errorf("%s: of %d runs, %s", b.Name(), len(runs), over)
	}
}

// over says which budget is not held.
func (c contest) over(p95 time.Duration, ratio, scale float64) (all []string) {
	if budget := time.Duration(float64(c.budget) * scale); c.budget > 0 && p95 > budget {
		all = append(all, fmt.Sprintf("p95 is %s, the budget is %s", p95, budget))
	}
	if budget := c.ratio * scale; c.ratio > 0 && ratio > budget {
		all = append(all, fmt.Sprintf("the median is %.2f times that of %s, the budget is %.2f", ratio, c.against, budget))
	}
	return all
}

func TestBudgets(t *testing.T) {
	t.Parallel()
	c := contest{against: byHand, budget: 50 * time.Millisecond, ratio: 2}
	require.Empty(t, c.over(50*time.Millisecond, 2, 1))
	require.Equal(t, []string{"p95 is 51ms, the budget is 50ms"}, c.over(51*time.Millisecond, 2, 1))
	require.Equal(t, []string{"the median is 2.10 times that of by-hand, the budget is 2.00"}, c.over(0, 2.1, 1))
	require.Len(t, c.over(501*time.Millisecond, 21, 10), 2)
	require.Empty(t, c.over(101*time.Millisecond, 4.1, 3))
	require.Empty(t, contest{}.over(time.Hour, 100, 1))

	milliseconds := make([]time.Duration, 100)
	for i := range milliseconds {
		milliseconds[i] = time.Duration(100-i) * time.Millisecond
	}
	require.Equal(t, 50*time.Millisecond, percentile(milliseconds, 50))
	require.Equal(t, 95*time.Millisecond, percentile(milliseconds, 95))
}

// querier is a transaction or a connection.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// timed is how long it takes until the last row of the answer is here.
func timed(q querier, sql string) func(*testing.B) time.Duration {
	return func(b *testing.B) time.Duration {
		start := time.Now()
		answer(b, q, sql)
		return time.Since(start)
	}
}

// answer is what the rows say in their first column, in some order. Arguments stand in
// the text, as psql and many a pool send them: it is planned anew each time.
func answer(t testing.TB, q querier, sql string) (found []string) {
	t.Helper()
	result, err := q.Query(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err, sql)
	for result.Next() {
		found = append(found, string(result.RawValues()[0]))
	}
	require.NoError(t, result.Err(), sql)
	return found
}

func percentile(durations []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(durations))
	return sorted[(len(sorted)-1)*p/100]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// sizes reads PERF_ROWS: how many rows a table has, several separated by commas.
func sizes(b *testing.B) (sizes []int) {
	for field := range strings.SplitSeq(cmp.Or(os.Getenv("PERF_ROWS"), "1000"), ",") {
		size, err := strconv.Atoi(strings.TrimSpace(field))
		require.NoError(b, err, "PERF_ROWS")
		require.GreaterOrEqual(b, size, 1000, "PERF_ROWS")
		sizes = append(sizes, size)
	}
	return sizes
}

// scale reads PERF_BUDGET_SCALE, which multiplies every budget.
func scale(b *testing.B) float64 {
	scale, err := strconv.ParseFloat(cmp.Or(os.Getenv("PERF_BUDGET_SCALE"), "1"), 64)
	require.NoError(b, err, "PERF_BUDGET_SCALE")
	return scale
}
