// Package perf_test is the checklist's "Performance Validation": what a query costs
// with row level security, and how it is planned.
//
// The benchmarks hold the budgets, as the 95th percentile: make bench, with
// PERF_ROWS=1000,1000000 for more agents than the thousand that the checklist
// speaks of, and PERF_BUDGET_SCALE=2 on a machine half as fast. A figure that lasts
// is ratio: the query's median divided by that of the same query written by hand and
// run by a superuser, in turns with it. The plans are ordinary tests.
package perf_test
