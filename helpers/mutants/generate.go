package main

import (
	"context"
	_ "embed"
	"fmt"
	"hash/fnv"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	pg "github.com/pganalyze/pg_query_go/v6"
	pgquery "github.com/wasilibs/go-pgquery"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// generate makes all mutants, in the order of the phases.
func generate(ctx context.Context) ([]mutant, error) {
	var all []mutant
	before, err := look(ctx, schema.Legacy)
	if err != nil {
		return nil, err
	}
	for _, phase := range schema.Phases() {
		f, err := schema.Migration(phase)
		if err != nil {
			return nil, err
		}
		written, routines, err := ofFile(phase, f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path, err)
		}
		after, err := look(ctx, phase)
		if err != nil {
			return nil, err
		}
		made, err := ofCatalog(phase, f, before, after, routines)
		if err != nil {
			return nil, err
		}
		all, before = append(append(all, made...), written...), after
	}
	all = inTurn(all)
	// What is done twice in one place has the same name.
	seen := map[string]int{}
	for i := range all {
		seen[all[i].ID]++
		if n := seen[all[i].ID]; n > 1 {
			all[i].ID += fmt.Sprintf(" (%d)", n)
		}
	}
	return all, nil
}

var resources = regexp.MustCompile(`agents|knowledge_documents|prompts|workflows|use_cases|capabilities`)

// inTurn leaves of mistakes that are the same in several resource tables, whose definitions have one source, one: this
// mistake in this table, that one in that. Its text decides, so that what is known of it holds when others come or go.
func inTurn(all []mutant) (some []mutant) {
	alike := map[string][]mutant{}
	var order []string
	for _, m := range all {
		key := resources.ReplaceAllString(m.ID, "?") + "\n" + resources.ReplaceAllString(m.SQL, "?")
		if alike[key] == nil {
			order = append(order, key)
		}
		alike[key] = append(alike[key], m)
	}
	for _, key := range order {
		sum := fnv.New32a()
		sum.Write([]byte(key))
		some = append(some, alike[key][sum.Sum32()%uint32(len(alike[key]))])
	}
	return some
}

// materialized is the name and the query of a materialized view that a DO block makes.
var materialized = regexp.MustCompile(`(?s)create materialized view if not exists (\S+) as\s+(select[^;$]*)`)

// What format() fills into that query is a query, and has a name while it is parsed.
var (
	hole   = regexp.MustCompile(`%s`)
	filled = regexp.MustCompile(`SELECT hole(\d)`)
)

// ofFile makes mutants of what a phase's file runs: of the routines that it makes, and, where a phase has logic of its
// own, of that. It also returns the names of those routines.
func ofFile(phase schema.Phase, f schema.File) (all []mutant, routines map[string]bool, err error) {
	statements, err := script.Split(f)
	if err != nil {
		return nil, nil, err
	}
	routines = map[string]bool{}
	from := 0
	for _, s := range statements {
		at := from + strings.Index(f.SQL[from:], s.SQL)
		from = at + len(s.SQL)
		add := func(class, object, operator, place, text string) {
			if place != "" {
				operator += ": " + place
			}
			all = append(all, mutant{Phase: phase, ID: fmt.Sprintf("%s %s %s: %s", phase, class, object, operator), Class: class,
				Operator: operator, SQL: fmt.Sprintf("%s:%d\n%s", f.Path, s.Line, difference(s.SQL, text)), file: f.SQL[:at] + text + f.SQL[at+len(s.SQL):]})
		}
		tree, err := pgquery.Parse(s.SQL)
		if err != nil {
			return nil, nil, fmt.Errorf("line %d: %w", s.Line, err)
		}
		switch statement := tree.Stmts[0].Stmt.Node.(type) {
		case *pg.Node_CreateFunctionStmt:
			name := dotted(statement.CreateFunctionStmt.Funcname)
			routines[name] = true
			class := "function"
			if phase == schema.Phase2 {
				class = "logic"
			}
			bodies, err := ofRoutine(s.SQL, statement.CreateFunctionStmt)
			if err != nil {
				return nil, nil, fmt.Errorf("line %d: %w", s.Line, err)
			}
			for _, v := range bodies {
				add(class, name, v.operator, v.place, v.sql)
			}
		case *pg.Node_DoStmt:
			if query := materialized.FindStringSubmatch(s.SQL); query != nil {
				n := 0
				found, err := variants(hole.ReplaceAllStringFunc(query[2], func(string) string { n++; return fmt.Sprintf("select hole%d", n) }))
				if err != nil {
					return nil, nil, fmt.Errorf("line %d: %w", s.Line, err)
				}
				for _, v := range found {
					add("view", query[1], v.operator, v.place, strings.Replace(s.SQL, query[2], filled.ReplaceAllString(v.sql, "%$1$$s")+"\n", 1))
				}
			}
			if phase != schema.Phase2 {
				continue
			}
			_, body, _ := strings.Cut(s.SQL, "$$")
			body, _, _ = strings.Cut(body, "$$")
			found, err := edits(s.SQL, body)
			if err != nil {
				return nil, nil, fmt.Errorf("line %d: %w", s.Line, err)
			}
			for _, e := range found {
				add("logic", "steps", e.operator, e.place, strings.Replace(s.SQL, body, e.in(body), 1))
			}
		case *pg.Node_CallStmt, *pg.Node_InsertStmt, *pg.Node_UpdateStmt, *pg.Node_DeleteStmt:
			if phase != schema.Phase2 {
				continue
			}
			add("logic", "steps", "do not do it", brief(s.SQL), "select;")
		}
	}
	return all, routines, nil
}

// ofRoutine is the statements that make a routine with a mistake in its body.
func ofRoutine(sql string, statement *pg.CreateFunctionStmt) ([]variant, error) {
	body := ""
	language := ""
	for _, option := range statement.Options {
		switch o := option.GetDefElem(); o.Defname {
		case "as":
			body = o.Arg.GetList().GetItems()[0].GetString_().GetSval()
		case "language":
			language = o.Arg.GetString_().GetSval()
		}
	}
	switch {
	case statement.SqlBody != nil:
		return variants(sql)
	case language == "plpgsql":
		found, err := edits(sql, body)
		if err != nil {
			return nil, err
		}
		var all []variant
		for _, e := range found {
			all = append(all, variant{e.operator, e.place, strings.Replace(sql, body, e.in(body), 1)})
		}
		return all, nil
	default:
		found, err := variants(body)
		for i := range found {
			found[i].sql = strings.Replace(sql, body, found[i].sql, 1)
		}
		return found, err
	}
}

func dotted(names []*pg.Node) string {
	var parts []string
	for _, name := range names {
		parts = append(parts, name.GetString_().GetSval())
	}
	return strings.Join(parts, ".")
}

// difference is the lines of two texts that are not the same.
func difference(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	var text strings.Builder
	for _, line := range a[:min(len(a), 20)] {
		text.WriteString("- " + line + "\n")
	}
	for _, line := range b[:min(len(b), 20)] {
		text.WriteString("+ " + line + "\n")
	}
	return text.String()
}

// cataloged is what the catalog says after a phase.
type cataloged struct {
	mistakes []mistake
	policies []policy
	routines map[string]string // definitions by signature
	views    map[string]view
}

type mistake struct{ Class, Object, Operator, Statement, Definition string }

type policy struct {
	Name, Table  string
	Using, Check *string
}

type view struct{ Name, Definition, Options string }

//go:embed catalog.sql
var catalogSQL string

func look(ctx context.Context, phase schema.Phase) (c *cataloged, err error) {
	db, err := pgtest.Create(ctx, phase, fixtures.World()...)
	if err != nil {
		return nil, err
	}
	defer db.Close(ctx)
	c = &cataloged{routines: map[string]string{}, views: map[string]view{}}
	err = pgx.BeginFunc(ctx, db.Superuser, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `set local search_path = ''`); err != nil {
			return err
		}
		rows, _ := tx.Query(ctx, catalogSQL)
		if c.mistakes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[mistake]); err != nil {
			return err
		}
		rows, _ = tx.Query(ctx, `select quote_ident(polname), polrelid::regclass::text, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
			from pg_catalog.pg_policy order by 2, 1`)
		if c.policies, err = pgx.CollectRows(rows, pgx.RowToStructByPos[policy]); err != nil {
			return err
		}
		rows, _ = tx.Query(ctx, `select p.oid::regprocedure::text, pg_get_functiondef(p.oid) from pg_catalog.pg_proc p
			where p.pronamespace::regnamespace::text in ('public', 'tenancy', 'authz', 'audit') and p.prokind in ('f', 'p')
			  and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')`)
		var name, definition string
		if _, err = pgx.ForEachRow(rows, []any{&name, &definition}, func() error { c.routines[name] = definition; return nil }); err != nil {
			return err
		}
		rows, _ = tx.Query(ctx, `select c.oid::regclass::text, pg_get_viewdef(c.oid), coalesce(' with (' || array_to_string(c.reloptions, ', ') || ')', '')
			from pg_catalog.pg_class c where c.relkind = 'v' and c.relnamespace::regnamespace::text in ('public', 'tenancy', 'authz', 'audit')`)
		views, err := pgx.CollectRows(rows, pgx.RowToStructByPos[view])
		for _, v := range views {
			c.views[v.Name] = v
		}
		return err
	})
	return c, err
}

// ofCatalog makes mutants of what a phase has made: one statement more in its file, which runs when it is done.
func ofCatalog(phase schema.Phase, f schema.File, before, now *cataloged, written map[string]bool) (all []mutant, err error) {
	add := func(class, object, operator, place, statement string) {
		if place != "" {
			operator += ": " + place
		}
		all = append(all, mutant{Phase: phase, ID: fmt.Sprintf("%s %s %s: %s", phase, class, object, operator), Class: class,
			Operator: operator, SQL: statement, statement: statement, file: after(f.SQL, statement)})
	}
	for _, m := range now.mistakes {
		if !slices.Contains(before.mistakes, m) {
			add(m.Class, m.Object, m.Operator, "", m.Statement)
		}
	}
	for _, p := range now.policies {
		if slices.ContainsFunc(before.policies, p.same) {
			continue
		}
		for _, part := range []struct {
			name string
			text *string
		}{{"using", p.Using}, {"with check", p.Check}} {
			if part.text == nil {
				continue
			}
			found, err := variants("SELECT " + *part.text)
			if err != nil {
				return nil, fmt.Errorf("policy %s: %w", p.Name, err)
			}
			for _, v := range found {
				add("policy", p.Name+" on "+p.Table, part.name+": "+v.operator, v.place,
					fmt.Sprintf("alter policy %s on %s %s (%s)", p.Name, p.Table, part.name, strings.TrimPrefix(v.sql, "SELECT ")))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now.routines)) {
		definition := now.routines[name]
		if before.routines[name] == definition || written[name[:strings.IndexByte(name, '(')]] {
			continue
		}
		tree, err := pgquery.Parse(definition)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		found, err := ofRoutine(definition, tree.Stmts[0].Stmt.GetCreateFunctionStmt())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, v := range found {
			add("function", name, v.operator, v.place, v.sql)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now.views)) {
		v := now.views[name]
		if before.views[name] == v {
			continue
		}
		found, err := variants(v.Definition)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, w := range found {
			add("view", name, w.operator, w.place, fmt.Sprintf("create or replace view %s%s as %s", name, v.Options, w.sql))
		}
	}
	return all, nil
}

func (p policy) same(other policy) bool {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	return p.Name == other.Name && p.Table == other.Table && text(p.Using) == text(other.Using) && text(p.Check) == text(other.Check)
}
