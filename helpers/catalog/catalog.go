// Package catalog takes pictures of a database, of its definitions ([Take]) and of its
// rows ([TakeData]), and compares them ([Diff]): what did a migration change, and did
// its rollback bring everything back?
//
// Pictures hold names only, so those of two databases on one server compare as well as
// two of the same database. They do not depend on OIDs, on gaps that dropped columns
// leave, on the order in which privileges were granted, or on the session's settings.
package catalog

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Catalog is the definitions of a database: identity → definition.
//
// An identity is a kind and a name, quoted where SQL would need it:
//
//	table public.agents              column public.agents.sharing_scope
//	columns public.agents            (names in order)
//	constraint public.agents.fk_x    index public.idx_agents_org_list
//	policy public.agents.p           rls public.agents
//	trigger public.agents.t          rule public.agents.r
//	view …, matview …, foreign table …, sequence …, statistics …
//	function public.f(uuid), procedure …, aggregate …
//	type public.sharing_scope_type   schema public
//	acl table public.agents to authenticated     (PUBLIC for everybody)
//	acl column public.agents.name to anon
//	acl function|procedure|aggregate|schema|sequence|type|view|matview … to …, acl database to …
//	default acl of owner in schema public on tables to anon
//	comment on column public.agents.name
//	database                         (never its own name)
//	database setting search_path [of role]
//	extension pgcrypto, event trigger …
//
// What has a privilege is never left to a default: a null ACL reads as the privileges it
// stands for. Objects in pg_catalog, information_schema, TOAST and temporary schemas and
// objects that belong to an extension are left out. Kinds that are not listed above (casts,
// operators, publications, foreign servers …) are there with their owner, not their definition.
type Catalog map[string]string

// Data is the rows of a database: table → count and checksum. See [TakeData].
type Data map[string]string

// Beginner is a *pgx.Conn, *pgxpool.Pool or pgx.Tx.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

//go:embed catalog.sql
var catalogSQL string

// Take returns the definitions of the database that db is connected to. It needs no privileges.
func Take(ctx context.Context, db Beginner) (Catalog, error) {
	c := Catalog{}
	err := quietly(ctx, db, func(tx pgx.Tx) error { return collect(ctx, tx, catalogSQL, c) })
	if err != nil {
		return nil, fmt.Errorf("take the catalog: %w", err)
	}
	return c, nil
}

// Diff says what changed from before to after: "- identity: definition" for what is gone,
// "+ identity: definition" for what is new, both for what is different, sorted by identity.
// A definition of several lines goes on below, indented; where two such definitions
// differ, lines that they begin or end with alike are only counted. "" means equal.
func Diff[M ~map[string]string](before, after M) string {
	identities := map[string]bool{}
	for id := range before {
		identities[id] = true
	}
	for id := range after {
		identities[id] = true
	}
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(identities)) {
		was, had := before[id]
		is, has := after[id]
		switch {
		case had && has && was == is:
			continue
		case had && has:
			was, is = withoutCommonLines(was, is)
		}
		if had {
			write(&b, "-", id, was)
		}
		if has {
			write(&b, "+", id, is)
		}
	}
	return b.String()
}

func write(b *strings.Builder, sign, id, definition string) {
	definition = strings.ReplaceAll(strings.TrimRight(definition, "\n"), "\n", "\n"+sign+"     ")
	fmt.Fprintf(b, "%s %s: %s\n", sign, id, definition)
}

// withoutCommonLines shortens two different texts by the lines that both begin with, after
// the first, and by those that both end with.
func withoutCommonLines(a, b string) (string, string) {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	shorter := min(len(as), len(bs))
	head := 0
	for head < shorter && as[head] == bs[head] {
		head++
	}
	tail := 0
	for tail < shorter-head && as[len(as)-1-tail] == bs[len(bs)-1-tail] {
		tail++
	}
	cut := func(lines []string) string {
		var out []string
		if head > 1 {
			out = append(out, lines[0], equalLines(head-1))
			lines = lines[head:]
		}
		out = append(out, lines[:len(lines)-tail]...)
		if tail > 0 {
			out = append(out, equalLines(tail))
		}
		return strings.Join(out, "\n")
	}
	return cut(as), cut(bs)
}

func equalLines(n int) string {
	if n == 1 {
		return "… (1 equal line)"
	}
	return fmt.Sprintf("… (%d equal lines)", n)
}

// quietly runs fn in a transaction that is always rolled back, under settings on which no text
// that the server prints depends any more.
func quietly(ctx context.Context, db Beginner, fn func(pgx.Tx) error) (err error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if e := tx.Rollback(context.WithoutCancel(ctx)); e != nil && !tx.Conn().IsClosed() {
			err = errors.Join(err, fmt.Errorf("roll back: %w", e))
		}
	}()
	// row_security = off makes a filtered read an error in place of a smaller picture.
	if _, err := tx.Exec(ctx, `
		set local search_path = '';
		set local timezone = 'UTC';
		set local datestyle = 'ISO, YMD';
		set local intervalstyle = 'postgres';
		set local extra_float_digits = 1;
		set local bytea_output = 'hex';
		set local xmlbinary = 'base64';
		set local lc_monetary = 'C';
		set local quote_all_identifiers = off;
		set local row_security = off`, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("fix the session's settings: %w", err)
	}
	return fn(tx)
}

// collect adds the rows (identity, definition) of a query to m.
// A session plans it once: of the catalog's time planning is half.
func collect(ctx context.Context, tx pgx.Tx, sql string, m map[string]string) error {
	rows, err := tx.Query(ctx, sql)
	if err != nil {
		return err
	}
	var id, definition string
	_, err = pgx.ForEachRow(rows, []any{&id, &definition}, func() error {
		if other, ok := m[id]; ok {
			return fmt.Errorf("two objects are called %q: %s / %s", id, other, definition)
		}
		m[id] = definition
		return nil
	})
	return err
}
