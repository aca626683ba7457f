// Package why says why a user may, or may not, do something to a row: which grant and
// which part of which policy decided, with what the policy's functions return for
// this user. It tries the thing for real, too, and an answer that the database does
// not give is an error.
//
//	answer, err := why.Ask(ctx, db.Connect(t, pgtest.OwnerRole), db.Connect(t, pgtest.APIRole), why.Question{
//		User: fixtures.Bob.ID, Verb: why.Read, Table: "agents", ID: fixtures.NovartisAgent.ID})
package why

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Verb is what is done to a row.
type Verb string

// The verbs, as the privileges that they take.
const (
	Read   Verb = "SELECT"
	Change Verb = "UPDATE"
	Remove Verb = "DELETE"
)

// ParseVerb knows the verbs by their privileges, in any case.
func ParseVerb(text string) (Verb, error) {
	for _, v := range []Verb{Read, Change, Remove} {
		if strings.EqualFold(text, string(v)) {
			return v, nil
		}
	}
	return "", fmt.Errorf("unknown verb %q: want select, update or delete", text)
}

// Question is about a row of a table of schema public, by its id.
type Question struct {
	User  string // the id of who is signed in, "" for nobody
	Verb  Verb
	Table string
	ID    string
}

func (q Question) role() string {
	if q.User == "" {
		return "anon"
	}
	return "authenticated"
}

// Answer is what decided.
type Answer struct {
	Question Question
	Allowed  bool
	Granted  bool
	Secured  bool // whether row level security is on
	Policies []Policy
	Values   []Value // what the policies' functions return for the user, and the row's columns that the policies look at
	Names    []Value // of ids in the values
}

// Policy is a policy that counts for the verb. What reads a row before it changes it
// takes the policies for SELECT as well.
type Policy struct {
	Name       string
	Command    string // SELECT, UPDATE, DELETE or ALL
	Permissive bool
	Clause     Clause
}

// Clause is a condition or, where it is a conjunction or a disjunction, its parts.
type Clause struct {
	Text   string
	Holds  bool
	Joined string // AND or OR
	Parts  []Clause
}

// Value is something by its name.
type Value struct{ Name, Text string }

// Ask answers a question about a database: owner is a session of who owns its tables,
// api one of a login that may become anon and authenticated. Nothing that it does stays.
func Ask(ctx context.Context, owner, api *pgx.Conn, q Question) (Answer, error) {
	tx, err := owner.Begin(ctx)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	answer, err := explain(ctx, tx, q)
	if err != nil {
		return answer, fmt.Errorf("explain %s of %s %s: %w", q.Verb, q.Table, q.ID, err)
	}

	column := ""
	if q.Verb == Change {
		if column, err = changeable(ctx, tx, q); err != nil {
			return answer, err
		}
	}
	did, how, err := try(ctx, api, q, column)
	if err != nil {
		return answer, fmt.Errorf("try %s of %s %s: %w", q.Verb, q.Table, q.ID, err)
	}
	if did != answer.Allowed {
		return answer, fmt.Errorf("the database does not agree, it says: %s\n%s", how, answer)
	}
	return answer, nil
}

// explain reads the catalog and evaluates the policies, as the owner, whom they do not
// hold, with the user's claims, which the policies' functions go by.
func explain(ctx context.Context, tx pgx.Tx, q Question) (a Answer, err error) {
	a.Question = q
	table := pgx.Identifier{"public", q.Table}.Sanitize()
	if _, err := tx.Exec(ctx, `select set_config('search_path', '', true), set_config('request.jwt.claims', $1, true)`, q.claims()); err != nil {
		return a, err
	}
	var exists bool
	if err := tx.QueryRow(ctx, fmt.Sprintf(`select exists (select from %s where id = $1::text::uuid)`, table), q.ID).Scan(&exists); err != nil {
		return a, err
	}
	if !exists {
		return a, errors.New("there is no such row, for nobody")
	}
	privilege := `has_table_privilege($1, $2, $3)`
	if q.Verb != Remove {
		privilege = `has_any_column_privilege($1, $2, $3)`
	}
	err = tx.QueryRow(ctx, `select `+privilege+`, c.relrowsecurity from pg_catalog.pg_class c where c.oid = $2::regclass`,
		q.role(), table, string(q.Verb)).Scan(&a.Granted, &a.Secured)
	if err != nil {
		return a, err
	}

	rows, err := tx.Query(ctx, `
		select p.policyname, p.cmd, p.permissive = 'PERMISSIVE', p.qual
		from pg_catalog.pg_policies p
		where p.schemaname = 'public' and p.tablename = $1
		  and p.cmd in ('SELECT', $2, 'ALL')
		  and p.qual is not null
		  and exists (select from unnest(p.roles) as r (name) where r.name = 'public' or pg_has_role($3, r.name, 'USAGE'))
		order by p.cmd <> 'SELECT', p.policyname`, q.Table, string(q.Verb), q.role())
	if err != nil {
		return a, err
	}
	var p Policy
	_, err = pgx.ForEachRow(rows, []any{&p.Name, &p.Command, &p.Permissive, &p.Clause.Text}, func() error {
		a.Policies = append(a.Policies, p)
		return nil
	})
	if err != nil {
		return a, err
	}
	for i := range a.Policies {
		a.Policies[i].Clause = parse(a.Policies[i].Clause.Text)
		if err := evaluate(ctx, tx, table, q.ID, &a.Policies[i].Clause); err != nil {
			return a, err
		}
	}
	a.Allowed = a.Granted && (!a.Secured || a.passes("SELECT") && (q.Verb == Read || a.passes(string(q.Verb))))
	if err := a.look(ctx, tx, table); err != nil {
		return a, err
	}
	return a, nil
}

// passes is whether the policies for a command let the row through: one that permits,
// and all that restrict.
func (a Answer) passes(command string) bool {
	permitted := false
	for _, p := range a.Policies {
		switch {
		case p.Command != command && p.Command != "ALL":
		case p.Permissive:
			permitted = permitted || p.Clause.Holds
		case !p.Clause.Holds:
			return false
		}
	}
	return permitted
}

// evaluate asks for each part of a condition whether it holds for the row. NULL does
// not.
func evaluate(ctx context.Context, tx pgx.Tx, table, id string, c *Clause) error {
	err := tx.QueryRow(ctx, fmt.Sprintf(`select coalesce((%s), false) from %s where id = $1::text::uuid`, c.Text, table), id).Scan(&c.Holds)
	if err != nil {
		return fmt.Errorf("evaluate %s: %w", c.Text, err)
	}
	for i := range c.Parts {
		if err := evaluate(ctx, tx, table, id, &c.Parts[i]); err != nil {
			return err
		}
	}
	return nil
}

// parse takes a condition apart, as far as AND and OR reach.
func parse(text string) Clause {
	text = strings.Join(strings.Fields(text), " ")
	for strings.HasPrefix(text, "(") && closes(text) == len(text)-1 {
		text = strings.TrimSpace(text[1 : len(text)-1])
	}
	c := Clause{Text: text}
	for _, joined := range []string{"OR", "AND"} {
		if parts := split(text, " "+joined+" "); len(parts) > 1 {
			c.Joined = joined
			for _, part := range parts {
				c.Parts = append(c.Parts, parse(part))
			}
			return c
		}
	}
	return c
}

// closes is where the parenthesis closes that a text begins with.
func closes(text string) int {
	depth, quoted := 0, false
	for i, r := range text {
		switch {
		case r == '\'':
			quoted = !quoted
		case quoted:
		case r == '(':
			depth++
		case r == ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// split cuts a text at a word that is in no parentheses and in no quotes.
func split(text, at string) (parts []string) {
	depth, quoted, from := 0, false, 0
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\'':
			quoted = !quoted
		case quoted:
		case text[i] == '(':
			depth++
		case text[i] == ')':
			depth--
		case depth == 0 && strings.HasPrefix(text[i:], at):
			parts, from = append(parts, text[from:i]), i+len(at)
		}
	}
	return append(parts, text[from:])
}

var (
	call = regexp.MustCompile(`\b(?:auth|authz)\.\w+\(\)`)
	uuid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
)

// look finds what the policies' functions return and what the row has in the columns
// that they name, and the names of the ids in it.
func (a *Answer) look(ctx context.Context, tx pgx.Tx, table string) error {
	var text strings.Builder
	for _, p := range a.Policies {
		text.WriteString(p.Clause.Text + "\n")
	}
	calls := slices.Compact(slices.Sorted(slices.Values(call.FindAllString(text.String(), -1))))
	for _, name := range calls {
		var value *string
		if err := tx.QueryRow(ctx, "select ("+name+")::text").Scan(&value); err != nil {
			return err
		}
		a.Values = append(a.Values, Value{name, shown(value)})
	}
	rows, err := tx.Query(ctx, fmt.Sprintf(`select v.key, v.value from %s as r cross join jsonb_each_text(to_jsonb(r)) as v where r.id = $1::text::uuid order by v.key`, table), a.Question.ID)
	if err != nil {
		return err
	}
	var column string
	var value *string
	_, err = pgx.ForEachRow(rows, []any{&column, &value}, func() error {
		if regexp.MustCompile(`\b` + column + `\b`).MatchString(text.String()) {
			a.Values = append(a.Values, Value{"the row's " + column, shown(value)})
		}
		return nil
	})
	if err != nil {
		return err
	}

	var ids []string
	for _, v := range a.Values {
		ids = append(ids, uuid.FindAllString(v.Text, -1)...)
	}
	rows, err = tx.Query(ctx, `
		select n.id, n.name from (
			select id::text, name from public.organizations
			union all select authz.shared_key(id)::text, 'what ' || name || ' shares' from public.organizations
			union all select id::text, email from public.users) as n (id, name)
		where n.id = any ($1) order by n.id`, ids)
	if err != nil {
		return err
	}
	a.Names, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Value])
	return err
}

func shown(value *string) string {
	if value == nil {
		return "NULL"
	}
	return *value
}

// changeable is a column that the role may update, or any where there is none.
func changeable(ctx context.Context, tx pgx.Tx, q Question) (column string, err error) {
	err = tx.QueryRow(ctx, `
		select a.attname from pg_catalog.pg_attribute a
		where a.attrelid = $1::regclass and a.attnum > 0 and not a.attisdropped
		order by not has_column_privilege($2, a.attrelid, a.attnum, 'UPDATE'), a.attnum limit 1`,
		pgx.Identifier{"public", q.Table}.Sanitize(), q.role()).Scan(&column)
	return column, err
}

func (q Question) claims() string {
	claims := map[string]string{"role": q.role()}
	if q.User != "" {
		claims["sub"] = q.User
	}
	text, _ := json.Marshal(claims) // strings: cannot fail
	return string(text)
}

// try does it, as the user.
func try(ctx context.Context, api *pgx.Conn, q Question, column string) (did bool, how string, err error) {
	tx, err := api.Begin(ctx)
	if err != nil {
		return false, "", err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, `select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)`, q.role(), q.claims()); err != nil {
		return false, "", err
	}
	table := pgx.Identifier{"public", q.Table}.Sanitize()
	sql := map[Verb]string{
		Read:   "select from " + table,
		Change: fmt.Sprintf("update %s set %s = %[2]s", table, pgx.Identifier{column}.Sanitize()),
		Remove: "delete from " + table,
	}[q.Verb] + " where id = $1::text::uuid"
	tag, err := tx.Exec(ctx, sql, q.ID)
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok {
		return false, "ERROR: " + refusal.Message, nil
	}
	return tag.RowsAffected() == 1, tag.String(), err
}

// String is the answer for people.
func (a Answer) String() string {
	var text strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }
	verdict := "no"
	if a.Allowed {
		verdict = "yes"
	}
	say("%s: %s of public.%s %s as %s %s", verdict, a.Question.Verb, a.Question.Table, a.Question.ID, a.Question.role(), a.Question.User)
	say("  %-5t  grant: %s may %s public.%s", a.Granted, a.Question.role(), a.Question.Verb, a.Question.Table)
	if !a.Secured {
		say("  true   row level security is off: no policy is asked")
	}
	for _, p := range a.Policies {
		kind := ""
		if !p.Permissive {
			kind = " restrictive"
		}
		say("  %-5t %s policy %s for %s", p.Clause.Holds, kind, p.Name, p.Command)
		p.Clause.write(&text, "         ")
	}
	if a.Secured && len(a.Policies) == 0 {
		say("  false  there is no policy for it")
	}
	for _, v := range a.Values {
		say("  %s = %s", v.Name, v.Text)
	}
	for _, n := range a.Names {
		say("  %s is %s", n.Name, n.Text)
	}
	return text.String()
}

func (c Clause) write(text *strings.Builder, indent string) {
	if len(c.Parts) == 0 {
		fmt.Fprintf(text, "%s%-5t  %s\n", indent, c.Holds, c.Text)
		return
	}
	for i, part := range c.Parts {
		if i > 0 && c.Joined == "OR" {
			fmt.Fprintf(text, "%sor\n", indent)
		}
		deeper := indent
		if len(part.Parts) > 0 {
			deeper += "    "
		}
		part.write(text, deeper)
	}
}
