package rls_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// resourceTables have an owner, a scope and the same policies.
var resourceTables = []string{"agents", "knowledge_documents", "prompts", "workflows", "use_cases", "capabilities"}

// tables is everything in public that has rows, with what tells one row from another:
// where ids are made up by the database, what the fixtures know instead.
var tables = map[string]string{
	"agents":              "id::text",
	"knowledge_documents": "id::text",
	"prompts":             "id::text",
	"workflows":           "id::text",
	"use_cases":           "id::text",
	"capabilities":        "id::text",
	"conversations":       "id::text",
	"messages":            "id::text",
	"organizations":       "id::text",
	"users":               "id::text",
	"user_organizations":  "user_id || ' in ' || organization_id",
	"audit_logs":          "id::text",
	"organization_stats":  "organization_id::text",
}

// history is something in the audit log for everybody's organization, and something
// that is no organization's.
var history = pgtest.Seed{Name: "history", After: schema.Phase4, SQL: `
	update public.agents set priority = priority + 1;
	update public.users set full_name = full_name || ', ' || email;`}

// secured is the world after phase 4.
func secured(t testing.TB) *pgtest.DB {
	t.Helper()
	return pgtest.New(t, schema.Phase4, append(fixtures.World(), history)...)
}

// leaks compares what everybody reads of every table with what the world's rules say.
// It is [compare] for a SELECT, in one statement for all tables.
func leaks(t testing.TB, db *pgtest.DB, w world) (v verdict) {
	t.Helper()
	require.NoError(t, actor.Anonymous().Do(t, db, func(tx pgx.Tx) error {
		w = w.withHistory(t, db)
		w.requireAllTables(t)
		v = leaksIn(t, db, w, tx, append(slices.Clone(fixtures.Users), stranger))
		return nil
	}))
	return v
}

// leaksIn is leaks in a session.
func leaksIn(t testing.TB, db *pgtest.DB, w world, tx pgx.Tx, users []fixtures.User) (v verdict) {
	t.Helper()
	rules := rulesOn(t, db)
	forEachIn(t, tx, users, func(tx pgx.Tx, u fixtures.User) {
		found, failures := readAll(t, tx)
		reads := map[string]map[string]bool{}
		for table, keys := range found {
			reads[table] = map[string]bool{}
			for _, key := range keys {
				reads[table][key] = true
			}
		}
		for _, r := range w.rows {
			got, want := filtered, selecting.want(w, u.ID, r)
			if err := failures[r.table]; err != nil {
				got = outcomeOf(err)
			} else if reads[r.table][r.key] {
				got = done
			}
			v.decide(w, u, selecting, r, got, want, rules)
			delete(reads[r.table], r.key)
		}
		for table, keys := range reads {
			for key := range keys {
				v.problems = append(v.problems, fmt.Sprintf("%s reads %s %s, which nobody has put there", u.Email, table, key))
			}
		}
	})
	return v
}

// requireAllTables makes sure that there is something to leak in every table.
func (w world) requireAllTables(t testing.TB) {
	t.Helper()
	filled := map[string]bool{}
	for _, r := range w.rows {
		filled[r.table] = true
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(tables)), slices.Collect(maps.Keys(filled)), "every table has rows, and every row a table")
}

// readAll is the rows of each table that the transaction's caller reads, or why he
// cannot.
func readAll(t testing.TB, tx pgx.Tx) (reads map[string][]string, failures map[string]error) {
	t.Helper()
	var queries []string
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		queries = append(queries, fmt.Sprintf("select '%s', %s from public.%[1]s", table, tables[table]))
	}
	// All at once, and one by one if that fails.
	if reads, err := readRows(t, tx, strings.Join(queries, " union all ")); err == nil {
		return reads, nil
	}
	reads, failures = map[string][]string{}, map[string]error{}
	for _, query := range queries {
		some, err := readRows(t, tx, query)
		if err != nil {
			failures[strings.Split(query, "'")[1]] = err
		}
		maps.Copy(reads, some)
	}
	return reads, failures
}

func readRows(t testing.TB, tx pgx.Tx, query string) (reads map[string][]string, err error) {
	t.Helper()
	reads = map[string][]string{}
	err = pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error {
		rows, err := tx.Query(t.Context(), query)
		if err != nil {
			return err
		}
		var table, key string
		_, err = pgx.ForEachRow(rows, []any{&table, &key}, func() error {
			reads[table] = append(reads[table], key)
			return nil
		})
		return err
	})
	return reads, err
}

// withHistory is the world, and what the database has written down of it.
func (w world) withHistory(t testing.TB, db *pgtest.DB) world {
	t.Helper()
	w.rows = slices.Concat(w.rows, auditRows(t, db))
	return w
}

// auditRows is the audit log, which the database writes: whose a row is stands in it.
func auditRows(t testing.TB, db *pgtest.DB) []row {
	t.Helper()
	rows, err := db.Superuser.Query(t.Context(), `
		select id::text, concat_ws(' ', action, resource_type, resource_id), coalesce(organization_id::text, '') from public.audit_logs`)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (row, error) {
		found := row{table: "audit_logs"}
		return found, r.Scan(&found.key, &found.name, &found.owner)
	})
	require.NoError(t, err)
	return found
}

// describe says which row it is, and whose.
func (w world) describe(r row) string {
	text := fmt.Sprintf("%s %q", r.table, r.name)
	if o, ok := w.organizations[r.owner]; ok {
		text += " of " + o.name
	}
	if r.scope != "" {
		text += fmt.Sprintf(" (%s scope)", r.scope)
	}
	if r.table == "conversations" || r.table == "messages" {
		text += " by " + email(r.user)
	}
	if r.key == "" && r.creator != "" {
		text += " as made by " + email(r.creator)
	}
	if r.deleted {
		text += ", which is deleted"
	}
	return text
}

// rules is what decides who does something to the rows of a table.
type rules map[string]string

func (r rules) on(v verb, table string) string { return r[string(v)+table] }

func rulesOn(t testing.TB, db *pgtest.DB) rules {
	t.Helper()
	rows, err := db.Superuser.Query(t.Context(), `
		select v.verb || c.relname, case
			when c.relkind = 'v' then 'it is a view'
			when not c.relrowsecurity then 'row level security is off'
			else coalesce((
				select 'policies ' || string_agg(p.polname, ', ' order by p.polname)
				from pg_catalog.pg_policy p where p.polrelid = c.oid and p.polcmd in (v.command, '*')), 'no policy')
		end
		from pg_catalog.pg_class c
		cross join (values ($1, 'r'::"char"), ($2, 'a'), ($3, 'w'), ($4, 'd')) as v (verb, command)
		where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v')`, read, insert, change, remove)
	require.NoError(t, err)
	found := rules{}
	var key, text string
	_, err = pgx.ForEachRow(rows, []any{&key, &text}, func() error {
		found[key] = text
		return nil
	})
	require.NoError(t, err)
	return found
}

// outcome is what became of a statement.
type outcome string

const (
	done     outcome = "done"
	filtered outcome = "filtered" // it met no row
	denied   outcome = "denied"   // by a missing privilege
	rejected outcome = "rejected" // the new row, by a policy
	guarded  outcome = "guarded"  // by a trigger
)

// outcomeOf tells the ways of saying no apart, which share a SQLSTATE. Anything else
// that went wrong is its own text, and equal to nothing that a test expects.
func outcomeOf(err error) outcome {
	var failure *pgconn.PgError
	if err == nil {
		return done
	}
	if errors.As(err, &failure) && failure.Code == "42501" {
		switch {
		case strings.HasPrefix(failure.Message, "permission denied for "):
			return denied
		case strings.HasPrefix(failure.Message, "new row violates row-level security policy "),
			strings.HasPrefix(failure.Message, "target row violates row-level security policy "):
			return rejected
		case strings.Contains(failure.Message, " cannot be changed"), strings.HasPrefix(failure.Message, "not allowed to share this "):
			return guarded
		}
	}
	return outcome(err.Error())
}
