package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vital-health/tenancy/helpers/script"
)

// Report is what the callers of an application noticed of the migrations, as it is
// written to build/report/live.json. Times are milliseconds unless their name says
// otherwise, sizes are bytes.
type Report struct {
	Started       time.Time `json:"started"`
	Server        string    `json:"server"`        // its version
	Schema        string    `json:"schema"`        // the digest of the files that ran
	Rows          int       `json:"rows"`          // of agents, of documents, and of messages
	Organizations int       `json:"organizations"` // that have them
	Rate          float64   `json:"rate"`          // requests per second
	Steps         []*Step   `json:"steps"`         // in the order in which they ran
	Backfill      *Backfill `json:"backfill"`
	Failed        string    `json:"failed,omitempty"` // why it ended before the last step
	Scale         float64   `json:"scale"`            // that multiplied each budget
	Over          []string  `json:"over"`             // what went over its budget, and why it ended early; empty if all is well
}

// Step is a time in which nothing ran beside the application, or one SQL file did.
type Step struct {
	Name        string  `json:"name"`        // "idle", "phase1", "rollback of phase1"
	Application string  `json:"application"` // "old" or "new"
	Seconds     float64 `json:"seconds"`     // until the file had ended

	// Requests are those that were answered meanwhile, and for half a second after, or
	// until five seconds had passed since the beginning: a wait of a quarter of a second,
	// which is the budget for one, is then 5 % of the requests, which is theirs.
	Requests int            `json:"requests"`
	Errors   map[string]int `json:"errors"` // how often, by request and message
	P50      float64        `json:"p50"`
	P99      float64        `json:"p99"`
	Max      float64        `json:"max"`
	Slowest  string         `json:"slowest"` // the request
	// Slow is the share of requests that took longer than three times the P99 of the
	// same application when idle.
	Slow float64 `json:"slow"`

	// Wait and Hold are the longest wait of the migration for a lock, and the longest
	// time for which it had one that keeps readers or writers waiting.
	Wait   *Lock            `json:"wait,omitempty"`
	Hold   *Lock            `json:"hold,omitempty"`
	WAL    int64            `json:"wal"`              // the application's included
	Filled int64            `json:"filled,omitempty"` // rows, by phase 2
	Sizes  map[string]Sizes `json:"sizes"`            // at the end, by table

	latencies []float64
}

// Lock is one that a migration waited for or held.
type Lock struct {
	Relation     string  `json:"relation"`
	Mode         string  `json:"mode"`
	Milliseconds float64 `json:"milliseconds"`
}

// Sizes is what a table takes on the disk, and how many of its rows are dead by the
// server's own estimate.
type Sizes struct {
	Table   int64 `json:"table"`
	Indexes int64 `json:"indexes"`
	Dead    int64 `json:"dead"`
}

// Backfill compares phase 2's filling with one UPDATE of each table that writes the
// same columns of the same rows, both on a copy of the database without traffic, one
// after the other, table by table.
type Backfill struct {
	Rows    int64            `json:"rows"`
	Seconds float64          `json:"seconds"`
	Plain   float64          `json:"plain"` // seconds
	Ratio   float64          `json:"ratio"`
	WAL     map[string]int64 `json:"wal"`    // of "backfill" and "plain"
	Growth  map[string]Ratio `json:"growth"` // by table: its size after, by its size before
}

// Ratio is of the backfill and of the plain UPDATE.
type Ratio struct {
	Backfill float64 `json:"backfill"`
	Plain    float64 `json:"plain"`
}

// What users of the application may notice of a file.
const (
	budgetStall  = 250.0 // milliseconds
	budgetSlow   = 0.05  // of the requests
	budgetFill   = 1.3   // times one plain UPDATE
	budgetGrowth = 1.3   // times the table before
	slowFactor   = 3     // times the idle P99
)

const milliseconds = float64(time.Millisecond)

// measure makes the figures of the answers that came in a step.
func (s *Step) measure(answers []answer) {
	s.Requests, s.Errors = len(answers), map[string]int{}
	for _, a := range answers {
		latency := float64(a.latency) / milliseconds
		s.latencies = append(s.latencies, latency)
		if latency > s.Max {
			s.Max, s.Slowest = latency, a.request.name
		}
		if a.err != nil {
			s.Errors[a.request.name+": "+a.err.Error()]++
		}
	}
	slices.Sort(s.latencies)
	s.P50, s.P99 = quantile(s.latencies, 0.50), quantile(s.latencies, 0.99)
}

// quantile is the smallest of the sorted values that the given share does not exceed.
func quantile(sorted []float64, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

// compare counts what was slow beside the idle step of the same application.
func (s *Step) compare(idle *Step) {
	fast, _ := slices.BinarySearch(s.latencies, slowFactor*idle.P99)
	if s.Requests > 0 {
		s.Slow = 1 - float64(fast)/float64(s.Requests)
	}
}

// observe takes the longest wait and hold from a file's log.
func (s *Step) observe(log *script.Log) {
	longest := func(by func(script.Lock) time.Duration, worth func(script.Lock) bool) *Lock {
		locks := slices.DeleteFunc(log.Locks(), func(l script.Lock) bool { return by(l) == 0 || !worth(l) })
		if len(locks) == 0 {
			return nil
		}
		l := slices.MaxFunc(locks, func(a, b script.Lock) int { return cmp.Compare(by(a), by(b)) })
		return &Lock{l.Relation, l.Mode, float64(by(l)) / milliseconds}
	}
	s.Wait = longest(func(l script.Lock) time.Duration { return l.Waited }, func(script.Lock) bool { return true })
	s.Hold = longest(func(l script.Lock) time.Duration { return l.Held }, func(l script.Lock) bool {
		return strings.HasPrefix(l.Relation, "public.") &&
			slices.Contains([]string{"ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"}, l.Mode)
	})
}

// judge lists what is over budget, each budget times scale. Failed requests have none.
func (r *Report) judge(scale float64) {
	r.Scale, r.Over = scale, []string{}
	over := func(format string, args ...any) { r.Over = append(r.Over, fmt.Sprintf(format, args...)) }
	if r.Failed != "" {
		over("it ended before the last step: %s", r.Failed)
	}
	for _, s := range r.Steps {
		for _, text := range slices.Sorted(maps.Keys(s.Errors)) {
			over("%s: %d requests failed: %s", s.Name, s.Errors[text], text)
		}
		if s.Name == idle {
			continue
		}
		if s.Max > budgetStall*scale {
			over("%s: a request took %.0f ms (%s), the budget is %.0f ms", s.Name, s.Max, s.Slowest, budgetStall*scale)
		}
		if s.Slow > budgetSlow*scale {
			over("%s: %.1f %% of the requests took more than %d times the idle p99, the budget is %.1f %%", s.Name, 100*s.Slow, slowFactor, 100*budgetSlow*scale)
		}
	}
	if r.Backfill == nil {
		return
	}
	if r.Backfill.Ratio > budgetFill*scale {
		over("phase2: the backfill takes %.2f times one plain UPDATE, the budget is %.2f", r.Backfill.Ratio, budgetFill*scale)
	}
	for _, table := range slices.Sorted(maps.Keys(r.Backfill.Growth)) {
		if growth := r.Backfill.Growth[table].Backfill; growth > budgetGrowth*scale {
			over("phase2: %s grew to %.2f times its size, the budget is %.2f", table, growth, budgetGrowth*scale)
		}
	}
}

// String is the report as a table.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d rows each of agents, documents and messages, %d organizations, %.0f requests/s, PostgreSQL %s\n\n",
		r.Rows, r.Organizations, r.Rate, r.Server)
	fmt.Fprintf(&b, "%-20s %4s %8s %9s %7s %8s %8s %8s %7s %9s  %s\n",
		"step", "app", "s", "requests", "failed", "p50 ms", "p99 ms", "max ms", "slow", "WAL MB", "longest hold")
	for _, s := range r.Steps {
		failed := 0
		for _, n := range s.Errors {
			failed += n
		}
		hold := ""
		if s.Hold != nil {
			hold = fmt.Sprintf("%.0f ms %s on %s", s.Hold.Milliseconds, s.Hold.Mode, s.Hold.Relation)
		}
		if s.Filled > 0 {
			hold += fmt.Sprintf("; %.0f rows/s", float64(s.Filled)/s.Seconds)
		}
		fmt.Fprintf(&b, "%-20s %4s %8.1f %9d %7d %8.1f %8.1f %8.1f %5.1f %% %9.0f  %s\n",
			s.Name, s.Application, s.Seconds, s.Requests, failed, s.P50, s.P99, s.Max, 100*s.Slow, float64(s.WAL)/(1<<20), hold)
	}
	if f := r.Backfill; f != nil {
		fmt.Fprintf(&b, "\nbackfill of %d rows: %.1f s, one plain UPDATE of each table: %.1f s, ratio %.2f; WAL %d MB, plain %d MB\n",
			f.Rows, f.Seconds, f.Plain, f.Ratio, f.WAL["backfill"]>>20, f.WAL["plain"]>>20)
		for _, table := range slices.Sorted(maps.Keys(f.Growth)) {
			fmt.Fprintf(&b, "  %s grew to %.2f times its size, by the plain UPDATE to %.2f\n", table, f.Growth[table].Backfill, f.Growth[table].Plain)
		}
	}
	return b.String()
}
