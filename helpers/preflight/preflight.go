// Package preflight asks a database whether the phases may run on it, and two whether they are alike: by
// schema/verify/preflight.sql, by what the next phase itself refuses, and by their definitions. It changes nothing:
// all is asked in read-only transactions, with a limit on each statement.
package preflight

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// Check is what was looked at, and what was found.
type Check struct {
	Name    string
	Verdict string // verify.Passed, verify.Warned or verify.Failed
	Found   string
	ToDo    string // unless it has passed
}

// Report is what was found, in order.
type Report []Check

// Count is how many checks have the verdict.
func (r Report) Count(verdict string) (n int) {
	for _, c := range r {
		if c.Verdict == verdict {
			n++
		}
	}
	return n
}

// String is a table, with what to do below a check that has not passed.
func (r Report) String() string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, c := range r {
		found := strings.Split(c.Found, "\n")
		fmt.Fprintf(table, "%s\t%s\t%s\n", c.Verdict, c.Name, found[0])
		for _, line := range found[1:] {
			fmt.Fprintf(table, "\t\t%s\n", line)
		}
		if c.Verdict != verify.Passed {
			fmt.Fprintf(table, "\t\t-> %s\n", c.ToDo)
		}
	}
	_ = table.Flush() // into memory
	fmt.Fprintf(&text, "%d fail, %d warn, %d pass\n", r.Count(verify.Failed), r.Count(verify.Warned), r.Count(verify.Passed))
	return text.String()
}

// Database is what was found of a database, and what another is compared by.
type Database struct {
	Report
	complete schema.Phase
	facts    map[string]fact
	catalog  catalog.Catalog
}

type fact struct{ value, otherwise string }

// The queries of schema/verify/preflight.sql that are no checks.
const (
	limits = "limits"
	facts  = "facts"
)

// Examine asks a database everything. The error is that it could not be asked; a check that could not be made has failed.
func Examine(ctx context.Context, conn *pgx.Conn) (*Database, error) {
	f, err := schema.Preflight()
	if err != nil {
		return nil, err
	}
	queries, err := verify.Parse(f)
	if err != nil {
		return nil, err
	}
	d := &Database{facts: map[string]fact{}}
	for _, q := range queries {
		if q.Name == limits {
			// For all that follows, and so outside of the transaction that would take it back.
			if _, err := conn.Exec(ctx, q.SQL); err != nil {
				return nil, fmt.Errorf("limit the session: %w", err)
			}
			continue
		}
		result, err := verify.Run(ctx, conn, q)
		if ctx.Err() != nil || conn.IsClosed() {
			return nil, err
		}
		d.take(q, result, err)
	}
	var next Check
	if d.complete, err = verify.Complete(ctx, conn); err == nil {
		next, err = nextPhase(ctx, conn, d.complete+1)
	}
	if _, said := errors.AsType[*pgconn.PgError](err); said {
		next, err = Check{"next_phase", verify.Failed, fmt.Sprintf("cannot be asked: %v", err), "connect as the owner of the tables"}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask the next phase: %w", err)
	}
	d.Report = append(d.Report, next)
	if d.catalog, err = catalog.Take(ctx, conn); err != nil {
		return nil, err
	}
	return d, nil
}

// take takes what a query returned.
func (d *Database) take(q verify.Query, result verify.Result, err error) {
	if err == nil && !result.OK && len(result.Offending) == 0 {
		err = errors.New(result.String())
	}
	switch {
	case err != nil:
		d.Report = append(d.Report, Check{q.Name, verify.Failed, fmt.Sprintf("cannot be checked: %v", err), "see to it that it can"})
	case q.Name == facts:
		for _, row := range result.Rows {
			d.facts[row[0]] = fact{row[1], row[2]}
		}
	default:
		for _, row := range result.Rows {
			d.Report = append(d.Report, Check{row[0], row[1], row[2], row[3]})
		}
	}
}

var refuses = regexp.MustCompile(`(?s)^do\s.*raise exception`)

// nextPhase lets the next phase say whether it would refuse: its own first statement that does, in a transaction that
// can write nothing.
func nextPhase(ctx context.Context, conn *pgx.Conn, phase schema.Phase) (c Check, err error) {
	c.Name = "next_phase"
	if phase > schema.Phase4 {
		return Check{c.Name, verify.Passed, "all phases are complete", ""}, nil
	}
	f, err := schema.Migration(phase)
	if err != nil {
		return c, err
	}
	statements, err := script.Split(f)
	if err != nil {
		return c, err
	}
	i := slices.IndexFunc(statements, func(s script.Statement) bool { return refuses.MatchString(s.SQL) })
	if i < 0 {
		return c, fmt.Errorf("%s refuses nothing", f.Origin)
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return c, err
	}
	_, refusal := tx.Exec(ctx, `set local search_path = ''; set local tenancy.migrating = ''; `+statements[i].SQL, pgx.QueryExecModeSimpleProtocol)
	err = tx.Rollback(ctx)
	if err == nil {
		// A phase that does not refuse takes the lock of all migrations for longer than its transaction.
		_, err = conn.Exec(ctx, `select pg_advisory_unlock_all()`)
	}
	if err != nil {
		return c, err
	}
	if refusal == nil {
		return Check{c.Name, verify.Passed, fmt.Sprintf("%s does not refuse", phase), ""}, nil
	}
	c.Verdict, c.Found, c.ToDo = verify.Failed, fmt.Sprintf("%s refuses: %v", phase, refusal), "correct it, and ask again"
	if said, ok := errors.AsType[*pgconn.PgError](refusal); ok {
		c.Found = fmt.Sprintf("%s refuses: %s", phase, said.Message)
		if said.Hint != "" {
			c.ToDo = said.Hint
		}
	}
	return c, nil
}

// maxLines is how many differing definitions are told.
const maxLines = 40

// Compare says in what staging is not like production.
func Compare(staging, production *Database) (r Report) {
	names := map[string]bool{}
	for _, facts := range []map[string]fact{staging.facts, production.facts} {
		for name := range facts {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		s, inStaging := staging.facts[name]
		p, inProduction := production.facts[name]
		if s == p {
			continue
		}
		if !inStaging {
			s = fact{"not there", p.otherwise}
		}
		if !inProduction {
			p.value = "not there"
		}
		r = append(r, Check{name, s.otherwise, fmt.Sprintf("staging: %s, production: %s", s.value, p.value), "make staging like production: what is rehearsed there proves nothing else"})
	}
	if staging.complete != production.complete {
		return append(r, Check{"phases", verify.Warned, fmt.Sprintf("staging: %s, production: %s", staging.complete, production.complete),
			"make staging a new clone of production: until then their definitions cannot be compared"})
	}
	if diff := catalog.Diff(staging.catalog, production.catalog); diff != "" {
		lines := strings.Split(strings.TrimSpace(diff), "\n")
		if more := len(lines) - maxLines; more > 0 {
			lines = append(lines[:maxLines], fmt.Sprintf("… and %d more lines", more))
		}
		return append(r, Check{"definitions", verify.Failed, "- staging, + production:\n" + strings.Join(lines, "\n"), "make staging a new clone of production"})
	}
	return append(r, Check{"definitions", verify.Passed, fmt.Sprintf("%d definitions and %d facts are alike", len(production.catalog), len(names)-len(r)), ""})
}
