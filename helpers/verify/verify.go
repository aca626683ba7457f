// Package verify reads and runs the files of schema/verify: read-only queries, each with a name
// and with what it must return. `psql -f` runs the same files as they are.
//
// # Format
//
// A file is a sequence of queries. Each begins with comment lines and is one SELECT (or WITH …
// SELECT) that ends in a semicolon:
//
//	-- name: agents_without_owner
//	-- box: phase-3/validate-all-null-values-fixed
//	-- expect: zero
//	-- Any other comment says why, or what to do.
//	select count(*) from public.agents where owner_organization_id is null;
//
// name, first, is the query's name: lower case letters, digits and underscores, unique in the
// file. box, optional and repeatable, is the id of a box of the checklist that the query
// answers. expect, once, is one of:
//
//	zero   at least one row; the last column of every row is the number 0 (an integer or
//	       numeric; null is not 0). For counts: columns before the last say of what.
//	none   no rows. For lists of violations.
//	some   at least one row.
//	true   exactly one row with one column, which is the boolean true.
//	pass   at least one row of the columns check, verdict, found and what_to_do, where no verdict is fail;
//	       the others are pass and warn.
//	info   anything: for people to read.
//
// A comment line that starts with a lower case word and a colon is one of these three; other
// comments are free. There are no variables and no psql meta-commands.
package verify

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// Expectation is what a query must return; see the package comment.
type Expectation string

// The expectations.
const (
	Zero Expectation = "zero"
	None Expectation = "none"
	Some Expectation = "some"
	True Expectation = "true"
	Pass Expectation = "pass"
	Info Expectation = "info"
)

var expectations = []Expectation{Zero, None, Some, True, Pass, Info}

// Query is one query of a file.
type Query struct {
	Name   string
	Boxes  []string // ids of the checklist's boxes that it answers
	Expect Expectation
	SQL    string // with its semicolon
	Origin string // the file
	Line   int    // of the query's first word
}

var (
	header     = regexp.MustCompile(`^--\s*([a-z]+):\s*(.*?)\s*$`)
	nameHeader = regexp.MustCompile(`(?m)^\s*--\s*name:`)
	selects    = regexp.MustCompile(`(?i)^(select|with)\b`)
	validName  = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
)

// Parse reads the queries of a file. What does not follow the format is a [*script.Error] with
// the file and the line.
func Parse(f schema.File) ([]Query, error) {
	statements, err := script.Split(f)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(f.SQL, "\n")
	var queries []Query
	lineOf := map[string]int{} // of each name
	read := 0                  // how many lines are read
	for _, s := range statements {
		q := Query{SQL: s.SQL, Origin: f.Origin, Line: s.Line}
		for n := read; n < s.Line-1; n++ {
			if err := q.header(lines[n]); err != nil {
				return nil, &script.Error{Origin: f.Origin, Line: n + 1, Err: err}
			}
		}
		if err := q.check(s.Gexec); err != nil {
			return nil, &script.Error{Origin: f.Origin, Line: s.Line, SQL: s.SQL, Err: err}
		}
		if first, ok := lineOf[q.Name]; ok {
			return nil, &script.Error{Origin: f.Origin, Line: s.Line, Err: fmt.Errorf("the name %s is taken by the query on line %d", q.Name, first)}
		}
		lineOf[q.Name] = s.Line
		queries = append(queries, q)
		read = s.Line + strings.Count(s.SQL, "\n")
	}
	for n := read; n < len(lines); n++ {
		if header.MatchString(strings.TrimSpace(lines[n])) {
			return nil, &script.Error{Origin: f.Origin, Line: n + 1, Err: errors.New("no query follows this header")}
		}
	}
	return queries, nil
}

// header takes one line before the query.
func (q *Query) header(line string) error {
	m := header.FindStringSubmatch(strings.TrimSpace(line))
	if m == nil {
		return nil
	}
	key, value := m[1], m[2]
	if key != "name" && q.Name == "" {
		return fmt.Errorf("%q stands before the query's name: begin with -- name: <name>", key)
	}
	switch key {
	case "name":
		if q.Name != "" {
			return fmt.Errorf("the query is called %s already: does a query before this line lack its text?", q.Name)
		}
		if !validName.MatchString(value) {
			return fmt.Errorf("the name %q is not made of lower case letters, digits and underscores", value)
		}
		q.Name = value
	case "box":
		if _, ok := checklist.Find(value); !ok {
			return fmt.Errorf("the checklist has no box %q: the ids are in helpers/checklist/boxes.tsv", value)
		}
		q.Boxes = append(q.Boxes, value)
	case "expect":
		if q.Expect != "" {
			return fmt.Errorf("the query expects %s already", q.Expect)
		}
		if !slices.Contains(expectations, Expectation(value)) {
			return fmt.Errorf("unknown expectation %q: want one of %s", value, join(expectations))
		}
		q.Expect = Expectation(value)
	default:
		return fmt.Errorf("unknown header %q: want name, box or expect (free comments begin with a capital)", key)
	}
	return nil
}

// check looks at the query as a whole.
func (q *Query) check(gexec bool) error {
	switch {
	case q.Name == "":
		return errors.New("the query has no name: write -- name: <name> on a line before it")
	case q.Expect == "":
		return fmt.Errorf("the query %s has no expectation: write -- expect: %s on a line before it", q.Name, strings.Join(strings.Split(join(expectations), ", "), " | "))
	case gexec:
		return fmt.Errorf(`the query %s ends in \gexec: it must end in a semicolon`, q.Name)
	case nameHeader.MatchString(q.SQL):
		return fmt.Errorf("the query %s runs into the next one: it lacks its semicolon", q.Name)
	case !strings.HasSuffix(q.SQL, ";"):
		return fmt.Errorf("the query %s lacks its semicolon", q.Name)
	case !selects.MatchString(q.SQL):
		return fmt.Errorf("the query %s is not a SELECT", q.Name)
	}
	return nil
}

// Complete is the last phase that is complete in a database, [schema.Legacy] if none is.
func Complete(ctx context.Context, conn *pgx.Conn) (phase schema.Phase, err error) {
	var there bool
	if err := conn.QueryRow(ctx, `select to_regclass('tenancy.completed_phase') is not null`).Scan(&there); err != nil || !there {
		return schema.Legacy, err
	}
	err = conn.QueryRow(ctx, `select coalesce(max(phase), 0) from tenancy.completed_phase`).Scan(&phase)
	return phase, err
}

// Result is what a query returned.
type Result struct {
	Query   Query
	OK      bool
	Reason  string     // why it is not OK
	Columns []string   // names
	Rows    [][]string // values as the server prints them; "null" for null
	// Offending are the indexes of the rows at fault. Empty when OK, and when rows are
	// missing.
	Offending []int
}

// Beginner is a pgx.Tx, *pgx.Conn or *pgxpool.Pool.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Run runs a query, in a read-only transaction (inside a transaction: a read-only part of it)
// that is rolled back, so that a query that writes is an error and changes nothing. The
// error says that the query could not be run; whether its result is as expected, the result says.
func Run(ctx context.Context, db Beginner, q Query) (result Result, err error) {
	fail := func(err error) error {
		return fmt.Errorf("run query %s: %w", q.Name, &script.Error{Origin: q.Origin, Line: q.Line, SQL: q.SQL, Err: err})
	}
	tx, err := db.Begin(ctx)
	if err != nil {
		return Result{}, fail(err)
	}
	defer func() {
		if e := tx.Rollback(context.WithoutCancel(ctx)); e != nil && err == nil {
			err = fail(fmt.Errorf("roll back: %w", e))
		}
	}()
	if _, err := tx.Exec(ctx, "set transaction read only"); err != nil {
		return Result{}, fail(err)
	}
	// The simple protocol sends every value as text.
	rows, err := tx.Query(ctx, q.SQL, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return Result{}, fail(err)
	}
	result = Result{Query: q}
	var types []uint32
	for rows.Next() {
		var row []string
		for _, value := range rows.RawValues() {
			if value == nil {
				row = append(row, "null")
				continue
			}
			row = append(row, string(value))
		}
		result.Rows = append(result.Rows, row)
	}
	for _, field := range rows.FieldDescriptions() {
		result.Columns = append(result.Columns, field.Name)
		types = append(types, field.DataTypeOID)
	}
	if err := rows.Err(); err != nil {
		return Result{}, fail(err)
	}
	result.judge(types)
	return result, nil
}

// judge sets OK, Reason and Offending.
func (r *Result) judge(types []uint32) {
	switch r.Query.Expect {
	case Zero:
		last := len(types) - 1
		switch {
		case last < 0 || !slices.Contains([]uint32{pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.NumericOID}, types[last]):
			r.Reason = "the last column is not a number"
		case len(r.Rows) == 0:
			r.Reason = "no rows, want at least one that counts 0"
		default:
			for i, row := range r.Rows {
				if strings.Trim(row[last], "0.") != "" {
					r.Offending = append(r.Offending, i)
				}
			}
			if len(r.Offending) > 0 {
				r.Reason = fmt.Sprintf("%d of %d rows not 0 in %s", len(r.Offending), len(r.Rows), r.Columns[last])
			}
		}
	case None:
		for i := range r.Rows {
			r.Offending = append(r.Offending, i)
		}
		if len(r.Rows) > 0 {
			r.Reason = fmt.Sprintf("%d rows, want none", len(r.Rows))
		}
	case Some:
		if len(r.Rows) == 0 {
			r.Reason = "no rows, want at least one"
		}
	case True:
		switch {
		case len(r.Rows) != 1 || len(types) != 1:
			r.Reason = fmt.Sprintf("%d rows of %d columns, want one of one", len(r.Rows), len(types))
		case types[0] != pgtype.BoolOID:
			r.Reason = "the column is not a boolean"
		case r.Rows[0][0] != "t":
			r.Reason = "not true"
			r.Offending = []int{0}
		}
	case Pass:
		r.judgeVerdicts()
	case Info:
	default:
		r.Reason = fmt.Sprintf("unknown expectation %q", r.Query.Expect)
	}
	r.OK = r.Reason == ""
}

// The verdicts of a query that expects [Pass].
const (
	Passed = "pass"
	Warned = "warn"
	Failed = "fail"
)

// verdictColumns is what a query returns that expects [Pass].
var verdictColumns = []string{"check", "verdict", "found", "what_to_do"}

// judgeVerdicts is judge for [Pass]. What is warned of is offending, and OK.
func (r *Result) judgeVerdicts() {
	if !slices.Equal(r.Columns, verdictColumns) {
		r.Reason = "the columns are not " + strings.Join(verdictColumns, ", ")
		return
	}
	failed := 0
	for i, row := range r.Rows {
		switch row[1] {
		case Passed:
		case Warned:
			r.Offending = append(r.Offending, i)
		case Failed:
			r.Offending = append(r.Offending, i)
			failed++
		default:
			r.Reason = fmt.Sprintf("%q is no verdict", row[1])
			return
		}
	}
	switch {
	case len(r.Rows) == 0:
		r.Reason = "no rows, want at least one"
	case failed > 0:
		r.Reason = fmt.Sprintf("%d of %d checks fail", failed, len(r.Rows))
	}
}

// maxRows is how many rows [Result.String] prints.
const maxRows = 20

// String returns "ok <name>" or "FAILED <name> (<file>:<line>): <reason>", and below it the rows
// as a table: the offending ones if there are such, all for info.
func (r Result) String() string {
	var b strings.Builder
	if r.OK {
		b.WriteString("ok " + r.Query.Name)
		if r.Query.Expect == Info {
			fmt.Fprintf(&b, ": %d rows", len(r.Rows))
		}
	} else {
		fmt.Fprintf(&b, "FAILED %s (%s:%d): expect %s: %s", r.Query.Name, r.Query.Origin, r.Query.Line, r.Query.Expect, r.Reason)
	}
	var shown [][]string
	switch {
	case len(r.Offending) > 0:
		for _, i := range r.Offending {
			shown = append(shown, r.Rows[i])
		}
	case !r.OK || r.Query.Expect == Info:
		shown = r.Rows
	}
	if len(shown) == 0 || len(r.Columns) == 0 {
		return b.String()
	}
	more := max(0, len(shown)-maxRows)
	shown = append([][]string{r.Columns}, shown[:len(shown)-more]...)
	widths := make([]int, len(r.Columns))
	for _, row := range shown {
		for i, value := range row {
			widths[i] = max(widths[i], len([]rune(value)))
		}
	}
	for _, row := range shown {
		var cells []string
		for i, value := range row {
			cells = append(cells, fmt.Sprintf("%-*s", widths[i], value))
		}
		b.WriteString("\n    " + strings.TrimRight(strings.Join(cells, " | "), " "))
	}
	if more > 0 {
		fmt.Fprintf(&b, "\n    … and %d more rows", more)
	}
	return b.String()
}

func join(all []Expectation) string {
	var names []string
	for _, e := range all {
		names = append(names, string(e))
	}
	return strings.Join(names, ", ")
}
