package document

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Access describes who may do what, by region: privileges (what the roles of the API may
// do with each table), policies (to which rows), example (who does what with some rows,
// from an access matrix of rls_test/testdata).
func Access(ctx context.Context, db Querier, matrix string, users, things []string) (map[string]string, error) {
	type privilege struct{ Table, Class, Verb, User, Backend string }
	privileges, err := rows[privilege](ctx, db, `
		select t.table_name, t.class, v.verb,
			case
				when has_table_privilege('authenticated', c.oid, v.verb) then 'yes'
				else coalesce((
					select string_agg(a.attname, ', ' order by a.attnum)
					from pg_attribute a
					where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
					  and v.verb <> 'delete' and has_column_privilege('authenticated', c.oid, a.attnum, v.verb)
				), '')
			end,
			case when has_table_privilege('service_role', c.oid, v.verb) then 'yes' else '' end
		from tenancy.classified_table t
		join pg_class c on c.oid = to_regclass('public.' || t.table_name)
		cross join unnest('{select,insert,update,delete}'::text[]) with ordinality as v (verb, place)
		order by array_position('{directory,resource,private,evidence}', t.class), t.table_name, v.place`)
	if err != nil {
		return nil, err
	}
	var p strings.Builder
	p.WriteString("| table | class | reads | makes, with these columns | changes, of them | deletes | the backend |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for rows := range slices.Chunk(privileges, 4) {
		backend := []string{}
		for _, r := range rows {
			if r.Backend != "" {
				backend = append(backend, r.Verb)
			}
		}
		fmt.Fprintf(&p, "| %s | %s | %s | %s | %s | %s | %s |\n", rows[0].Table, rows[0].Class, rows[0].User, rows[1].User, rows[2].User, rows[3].User, strings.Join(backend, ", "))
	}

	type policy struct{ Table, Name, Verb, Using, Check string }
	policies, err := rows[policy](ctx, db, `
		select tablename::text, policyname::text, lower(cmd), coalesce(qual, ''), coalesce(with_check, '')
		from pg_policies where schemaname = 'public' order by tablename, array_position('{SELECT,INSERT,UPDATE,DELETE}', cmd), policyname`)
	if err != nil {
		return nil, err
	}
	// Tables of one class have the same policies, but for the table's name in theirs.
	texts, tables := map[string]string{}, map[string][]string{}
	var order []string
	for _, r := range policies {
		texts[r.Table] += "`" + strings.Replace(r.Name, r.Table, "…", 1) + "`, for " + r.Verb + ":\n\n"
		for _, part := range []struct{ of, text string }{{"which rows", r.Using}, {"what they may become", r.Check}} {
			if part.text != "" && (part.of == "which rows" || r.Check != r.Using) {
				texts[r.Table] += fmt.Sprintf("```sql\n-- %s\n%s\n```\n\n", part.of, readable(part.text))
			}
		}
		if !slices.Contains(order, r.Table) {
			order = append(order, r.Table)
		}
	}
	for _, table := range order {
		tables[texts[table]] = append(tables[texts[table]], table)
	}
	var o strings.Builder
	for _, table := range order {
		if alike := tables[texts[table]]; alike[0] == table {
			fmt.Fprintf(&o, "### %s\n\n%s", strings.Join(alike, ", "), texts[table])
		}
	}
	example, err := Example(matrix, users, things)
	if err != nil {
		return nil, err
	}
	return map[string]string{"privileges": p.String(), "policies": o.String(), "example": example}, nil
}

// readable is an expression as somebody would write it: a line for each of its parts.
func readable(expression string) string {
	expression = plain(subquery.ReplaceAllString(expression, "(select $1)"))
	var b strings.Builder
	depth := 0
	for i, r := range expression {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		case ' ':
			if rest := expression[i:]; depth <= 3 && (strings.HasPrefix(rest, " AND ") || strings.HasPrefix(rest, " OR ")) {
				b.WriteString("\n" + strings.Repeat("    ", depth))
				continue
			}
		}
		b.WriteRune(r)
	}
	return b.String()
}

var subquery = regexp.MustCompile(`\( SELECT ([\w.]+\(\)) AS \w+\)`)

// Example is a table of who does what with some rows of an access matrix.
func Example(matrix string, users, things []string) (string, error) {
	rows, err := ReadMatrix(matrix)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| | %s |\n| --- |%s\n", strings.Join(users, " | "), strings.Repeat(" --- |", len(users)))
	for _, name := range things {
		i := slices.IndexFunc(rows, func(r Row) bool { return r.Name == name })
		if i < 0 {
			return "", fmt.Errorf("the access matrix has no row for %q", name)
		}
		fmt.Fprintf(&b, "| **%s** of %s |", name, rows[i].Of)
		for _, user := range users {
			said := "–"
			if g := rows[i].Grant(user); g != nil {
				said = g.Verbs + ": " + g.Why
			}
			fmt.Fprintf(&b, " %s |", cell(said))
		}
		b.WriteString("\n")
	}
	return b.String(), nil
}
