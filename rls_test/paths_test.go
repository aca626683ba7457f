package rls_test

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// verb is what a statement does to a row, as far as somebody may or may not do it.
type verb string

const (
	read   verb = "reads"
	insert verb = "inserts"
	change verb = "changes"
	remove verb = "removes"
)

// allowed is what signed-in users may do to the rows of a table at all: the rest is
// denied, whoever asks and whatever the row.
var allowed = map[string][]verb{
	"agents":              {read, insert, change},
	"knowledge_documents": {read, insert, change},
	"prompts":             {read, insert, change},
	"workflows":           {read, insert, change},
	"use_cases":           {read, insert, change},
	"capabilities":        {read, insert, change},
	"conversations":       {read, insert, change},
	"messages":            {read, insert},
	"organizations":       {read, change},
	"users":               {read},
	"user_organizations":  {read, insert, change, remove},
	"audit_logs":          {read},
	"organization_stats":  {read},
}

// setting is a change of each table that reads nothing of the row: what an UPDATE
// reads, it needs a policy for SELECT for.
var setting = map[string]string{
	"agents":              "name = 'New'",
	"knowledge_documents": "title = 'New'",
	"prompts":             "name = 'New'",
	"workflows":           "name = 'New'",
	"use_cases":           "title = 'New'",
	"capabilities":        "name = 'New'",
	"conversations":       "status = 'archived'",
	"messages":            "content = 'New'",
	"organizations":       "name = 'New'",
	"users":               "full_name = 'New'",
	"user_organizations":  "role = 'viewer'",
	"audit_logs":          "action = 'UPDATE'",
}

// path is a way of sending a verb to the rows of a table. PostgreSQL applies policies
// to each in its own manner: see "Policies Applied by Command Type" in
// https://www.postgresql.org/docs/current/sql-createpolicy.html.
type path struct {
	name    string
	verb    verb
	answers answers
	sql     string                                     // with {table}, {key}, {set} and, for one row, {this}
	send    func(testing.TB, pgx.Tx, string) attempted // otherwise than as it is
}

// answers is how a path says which rows it met.
type answers int

const (
	keys   answers = iota // by returning them
	number                // by their number alone
	each                  // there is a statement for each row, which meets it or not
	strict                // the same, but to read a row and not to be allowed to change it is an error
)

// selecting is the plainest one.
var selecting = path{"SELECT", read, keys, `select {key} from {table}`, nil}

var paths = []path{
	// The policies for SELECT say which rows there are.
	selecting,
	{"SELECT of one row", read, each, `select from {table} where {this}`, nil},
	{"SELECT count", read, number, `select from {table}`, nil},
	{"a CTE", read, keys, `with found as materialized (select {key} as key from {table}) select key from found`, nil},
	{"a cursor", read, keys, `select {key} from {table}`, throughCursor},
	{"COPY TO", read, keys, `select {key} from {table}`, throughCopy},

	// Whoever locks a row stops others from changing it: the policies for UPDATE hold, too.
	{"SELECT FOR UPDATE", change, keys, `select {key} from {table} for update`, nil},
	{"SELECT FOR NO KEY UPDATE", change, keys, `select {key} from {table} for no key update`, nil},
	{"SELECT FOR SHARE", change, keys, `select {key} from {table} for share`, nil},
	{"SELECT FOR KEY SHARE", change, keys, `select {key} from {table} for key share`, nil},

	// Without a WHERE or a RETURNING nothing is read, and the policies for UPDATE or DELETE stand alone.
	{"UPDATE without WHERE", change, number, `update {table} set {set}`, nil},
	{"UPDATE of one row", change, each, `update {table} set {set} where {this}`, nil},
	{"UPDATE RETURNING", change, keys, `update {table} set {set} returning {key}`, nil},
	{"UPDATE in a CTE", change, keys, `with changed as (update {table} set {set} returning {key} as key) select key from changed`, nil},
	{"DELETE without WHERE", remove, number, `delete from {table}`, nil},
	{"DELETE of one row", remove, each, `delete from {table} where {this}`, nil},
	{"DELETE RETURNING", remove, keys, `delete from {table} returning {key}`, nil},
	{"DELETE in a CTE", remove, keys, `with removed as (delete from {table} returning {key} as key) select key from removed`, nil},

	// MERGE looks for a row by the policies for SELECT, and those for UPDATE or DELETE then reject what it found.
	{"MERGE UPDATE", change, strict, `merge into {table} using (values (1)) as v on {this} when matched then update set {set}`, nil},
	{"MERGE DELETE", remove, strict, `merge into {table} using (values (1)) as v on {this} when matched then delete`, nil},
}

// insertions are the ways of inserting a row, which must be readable where it is returned.
var insertions = []path{
	{"INSERT", insert, each, `insert into {table} ({columns}) values ({values})`, nil},
	{"INSERT RETURNING", insert, each, `insert into {table} ({columns}) values ({values}) returning {key}`, nil},
	{"INSERT of a SELECT", insert, each, `insert into {table} ({columns}) select {values}`, nil},
	{"INSERT in a CTE", insert, each, `with inserted as (insert into {table} ({columns}) values ({values}) returning {key} as key) select key from inserted`, nil},
	{"INSERT ON CONFLICT DO NOTHING", insert, each, `insert into {table} ({columns}) values ({values}) on conflict do nothing`, nil},
	{"MERGE INSERT", insert, each, `merge into {table} using (values (1)) as v on false when not matched then insert ({columns}) values ({values})`, nil},
}

// statement is what is sent, as somebody would write it.
func (p path) statement(r row) string {
	return p.fill(r, func(value string) string { return "'" + value + "'" })
}

// query is what is sent: the same text for all rows of a table, so that a session plans
// it once, as those of a connection pool do.
func (p path) query(r row) (q query) {
	q.sql = p.fill(r, func(value string) string {
		q.args = append(q.args, []byte(value))
		return fmt.Sprintf("$%d", len(q.args))
	})
	return q
}

type query struct {
	sql  string
	args [][]byte
}

// fill writes the path's SQL for a row, and each of the row's values as literal says.
func (p path) fill(r row, literal func(value string) string) string {
	sql := strings.NewReplacer(
		"{this}", tables[r.table]+" = {row}",
		"{table}", "public."+r.table,
		"{key}", tables[r.table],
		"{set}", setting[r.table],
	).Replace(p.sql)
	if strings.Contains(sql, "{columns}") {
		columns, values := r.insertable()
		for i := range values {
			values[i] = literal(values[i])
		}
		sql = strings.NewReplacer("{columns}", strings.Join(columns, ", "), "{values}", strings.Join(values, ", ")).Replace(sql)
	}
	for placeholder, value := range map[string]string{"{name}": r.table, "{row}": r.key} {
		if strings.Contains(sql, placeholder) {
			sql = strings.ReplaceAll(sql, placeholder, literal(value))
		}
	}
	return sql
}

// insertable is the columns that make a row what it is, and their values.
func (r row) insertable() (columns, values []string) {
	var of map[string]string
	switch r.table {
	case "conversations":
		of = map[string]string{"title": r.name, "user_id": r.user, "owner_organization_id": r.owner, "agent_id": r.agent}
	case "messages":
		of = map[string]string{"content": r.name, "conversation_id": r.conversation, "role": r.speaker}
	case "user_organizations":
		of = map[string]string{"user_id": r.user, "organization_id": r.owner, "role": "viewer"}
	case "organizations":
		of = map[string]string{"name": r.name}
	case "users":
		of = map[string]string{"email": r.name}
	case "audit_logs":
		of = map[string]string{"action": "INSERT", "resource_type": "agents", "actor_role": "service_role"}
	default:
		of = map[string]string{r.nameColumn(): r.name, "owner_organization_id": r.owner, "sharing_scope": string(r.scope), "created_by": r.creator, "code": r.code}
	}
	for _, column := range slices.Sorted(maps.Keys(of)) {
		if of[column] != "" {
			columns, values = append(columns, column), append(values, of[column])
		}
	}
	return columns, values
}

// fits is whether there is such a statement: a view of totals has no rows to change.
func (p path) fits(table string) bool { return p.verb == read || setting[table] != "" }

// want is what becomes of a row on the path.
func (p path) want(w world, user string, r row) outcome {
	switch {
	case !w.granted(user, p.verb, r.table):
		return denied
	case w.may(user, p.verb, r):
		return done
	case p.verb == insert, p.answers == strict && w.may(user, read, r):
		return rejected
	}
	return filtered
}

// attempted is what became of a statement.
type attempted struct {
	outcome outcome
	rows    int64
	keys    []string // of the rows that it returned
}

// each sends the path to each of the rows.
func (p path) each(t testing.TB, tx pgx.Tx, rows []row) []attempted {
	t.Helper()
	queries := make([]query, len(rows))
	for i, r := range rows {
		queries[i] = p.query(r)
	}
	return attempts(t, tx, queries)
}

// attempts sends statements, each on its own, and says what became of each. Nothing of
// any of them stays. They travel together: there are tens of thousands.
func attempts(t testing.TB, tx pgx.Tx, queries []query) []attempted {
	t.Helper()
	prepared := func(sql string) string {
		name := fmt.Sprintf("%x", sha256.Sum256([]byte(sql)))[:32]
		_, err := tx.Conn().Prepare(t.Context(), name, sql)
		require.NoError(t, err, sql)
		return name
	}
	const begins, undoes, ends = "savepoint attempt", "rollback to savepoint attempt", "release savepoint attempt"
	names := map[string]string{begins: prepared(begins), undoes: prepared(undoes), ends: prepared(ends)}
	for _, q := range queries {
		if names[q.sql] == "" {
			names[q.sql] = prepared(q.sql)
		}
	}
	var found []attempted
	for some := range slices.Chunk(queries, 500) {
		pipeline := tx.Conn().PgConn().StartPipeline(t.Context())
		before := begins
		for _, q := range some {
			pipeline.SendQueryPrepared(names[before], nil, nil, nil)
			pipeline.SendQueryPrepared(names[q.sql], q.args, nil, nil)
			require.NoError(t, pipeline.Sync()) // an error skips what comes before this, and nothing after it
			before = undoes
		}
		pipeline.SendQueryPrepared(names[undoes], nil, nil, nil)
		pipeline.SendQueryPrepared(names[ends], nil, nil, nil)
		require.NoError(t, pipeline.Sync())
		for range some {
			answers, err := receive(pipeline)
			if err != nil {
				found = append(found, attempted{outcome: outcomeOf(err)})
			} else {
				found = append(found, attemptedOf(answers[1]))
			}
		}
		_, err := receive(pipeline)
		require.NoError(t, err)
		require.NoError(t, pipeline.Close())
	}
	return found
}

// receive takes the server's answers to the statements before a Sync.
func receive(pipeline *pgconn.Pipeline) (answers []*pgconn.Result, failure error) {
	for {
		result, err := pipeline.GetResults()
		switch result := result.(type) {
		case *pgconn.PipelineSync:
			return answers, failure
		case *pgconn.ResultReader:
			answer := result.Read()
			answers = append(answers, answer)
			failure = errors.Join(failure, answer.Err)
		default:
			failure = errors.Join(failure, err)
			if refusal, ok := errors.AsType[*pgconn.PgError](err); !ok {
				return nil, cmp.Or(failure, errors.New("the server does not answer"))
			} else if refusal.Severity == "FATAL" {
				return nil, failure
			}
		}
	}
}

func attemptedOf(answer *pgconn.Result) attempted {
	a := attempted{outcome: done, rows: answer.CommandTag.RowsAffected()}
	if a.rows == 0 {
		a.outcome = filtered
	}
	if len(answer.FieldDescriptions) == 1 {
		for _, row := range answer.Rows {
			a.keys = append(a.keys, string(row[0]))
		}
	}
	return a
}

// throughCursor fetches what a query finds from a cursor.
func throughCursor(t testing.TB, tx pgx.Tx, query string) attempted {
	t.Helper()
	answers, err := tx.Conn().PgConn().Exec(t.Context(),
		"savepoint attempt; declare found cursor for "+query+"; fetch all from found; rollback to savepoint attempt; release savepoint attempt").ReadAll()
	if err != nil {
		return abandoned(t, tx, err)
	}
	return attemptedOf(answers[2])
}

// throughCopy copies out what a query finds.
func throughCopy(t testing.TB, tx pgx.Tx, query string) attempted {
	t.Helper()
	_, err := tx.Exec(t.Context(), "savepoint attempt")
	require.NoError(t, err)
	var out strings.Builder
	tag, err := tx.Conn().PgConn().CopyTo(t.Context(), &out, "copy ("+query+") to stdout")
	if err != nil {
		return abandoned(t, tx, err)
	}
	_, err = tx.Exec(t.Context(), "release savepoint attempt")
	require.NoError(t, err)
	return attempted{done, tag.RowsAffected(), strings.FieldsFunc(out.String(), func(c rune) bool { return c == '\n' })}
}

// abandoned is what became of a statement that failed.
func abandoned(t testing.TB, tx pgx.Tx, err error) attempted {
	t.Helper()
	_, inner := tx.Exec(t.Context(), "rollback to savepoint attempt; release savepoint attempt", pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, inner)
	return attempted{outcome: outcomeOf(err)}
}
