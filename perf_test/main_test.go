// Package perf_test is the checklist's "Performance Validation": what a query costs
// with row level security, and how it is planned.
//
// The plans are ordinary tests. The benchmarks hold the budgets: make bench, with
// PERF_ROWS=1000,1000000 for more rows than the thousand that the checklist speaks of,
// and PERF_BUDGET_SCALE=2 on a machine half as fast. Their names are made for benchstat,
// and their figures are
//
//	p50-ms, p95-ms   median and 95th percentile, in milliseconds
//	budget-ms        what the checklist allows the latter, where it says so
//	ratio            the median in medians of what it is compared with, in turns; that is
//	by-hand-p50-ms   the same rows, as a superuser asks for them by hand; or, by its name,
//	                 the backend (service), a table that nobody watches (bare), one without
//	                 audit (silent), fewer rows (1000-rows, alone), a user who sees little
//	                 (nobody)
//
// What stands beside design=literal is the checklist's own text, and has no budget.
package perf_test
