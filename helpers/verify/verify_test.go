package verify_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"

	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

const example = `-- What the examples of a file look like.

-- name: agents_without_owner
-- box: phase-3/validate-all-null-values-fixed
-- box: success-criteria/data-quality/no-null-values-in-critical-columns
-- expect: zero
-- Every agent belongs to somebody: whoever made it.
select count(*)
from generate_series(1, 0); -- trailing

--name:violations
  --  expect:   none
with v as (
    -- expect: nothing of comments in a query
    select ';' as i
)
select i from v where i <> ';';
`

func TestParse(t *testing.T) {
	t.Parallel()
	t.Run("headers, text and line of every query", func(t *testing.T) {
		t.Parallel()
		queries, err := verify.Parse(schema.File{Origin: "x.sql", SQL: example})
		require.NoError(t, err)
		require.Equal(t, []verify.Query{
			{
				Name:   "agents_without_owner",
				Boxes:  []string{"phase-3/validate-all-null-values-fixed", "success-criteria/data-quality/no-null-values-in-critical-columns"},
				Expect: verify.Zero, SQL: "select count(*)\nfrom generate_series(1, 0);", Origin: "x.sql", Line: 8,
			},
			{
				Name: "violations", Expect: verify.None, Origin: "x.sql", Line: 13,
				SQL: "with v as (\n    -- expect: nothing of comments in a query\n    select ';' as i\n)\nselect i from v where i <> ';';",
			},
		}, queries)
	})
	const ok = "-- name: a\n-- expect: zero\nselect 0;\n"
	for _, c := range []struct{ name, sql, want string }{
		{"an empty file", "-- nothing\n", "x.sql:1: nothing to run: the file holds no SQL statement"},
		{"a query without a name", ok + "select 1;", "x.sql:4: the query has no name: write -- name: <name> on a line before it\n    select 1;"},
		{"a second query on a line", "-- name: a\n-- expect: zero\nselect 0; select 1;", "x.sql:3: the query has no name: write -- name: <name> on a line before it\n    select 1;"},
		{"a header before the name", "\n-- expect: zero\n-- name: a\nselect 0;", `x.sql:2: "expect" stands before the query's name: begin with -- name: <name>`},
		{"an invalid name", "-- name: a b\n-- expect: zero\nselect 0;", `x.sql:1: the name "a b" is not made of lower case letters, digits and underscores`},
		{"an empty name", "-- name:\n-- expect: zero\nselect 0;", `x.sql:1: the name "" is not made of lower case letters, digits and underscores`},
		{"a name used twice", ok + ok, "x.sql:6: the name a is taken by the query on line 3"},
		{"a name after a name", "-- name: a\n-- expect: zero\n\n-- name: b\n-- expect: zero\nselect 0;", "x.sql:4: the query is called a already: does a query before this line lack its text?"},
		{"an unknown box", "-- name: a\n-- box: phase-1/users-can-fly\n-- expect: zero\nselect 0;", `x.sql:2: the checklist has no box "phase-1/users-can-fly": the ids are in helpers/checklist/boxes.tsv`},
		{"no expectation", "-- name: a\nselect 0;", "x.sql:2: the query a has no expectation: write -- expect: zero | none | some | true | pass | info on a line before it\n    select 0;"},
		{"an unknown expectation", "-- name: a\n-- expect: zeros\nselect 0;", `x.sql:2: unknown expectation "zeros": want one of zero, none, some, true, pass, info`},
		{"two expectations", "-- name: a\n-- expect: zero\n-- expect: none\nselect 0;", "x.sql:3: the query expects zero already"},
		{"a misspelt header", "-- name: a\n-- expects: zero\nselect 0;", `x.sql:2: unknown header "expects": want name, box or expect (free comments begin with a capital)`},
		{"no semicolon at the end", "-- name: a\n-- expect: zero\nselect 0", "x.sql:3: the query a lacks its semicolon\n    select 0"},
		{"no semicolon before the next", "-- name: a\n-- expect: zero\nselect 0\n" + strings.Replace(ok, "name: a", "name: b", 1), "x.sql:3: the query a runs into the next one: it lacks its semicolon\n    select 0\n    -- name: b\n    -- expect: zero\n    select 0;"},
		{"a header without a query", ok + "\n-- name: b\n-- expect: zero\n", "x.sql:5: no query follows this header"},
		{"a statement that is no query", "-- name: a\n-- expect: zero\nselected();", "x.sql:3: the query a is not a SELECT\n    selected();"},
		{"gexec", "-- name: a\n-- expect: zero\nselect 'select 0'\n\\gexec\n", "x.sql:3: the query a ends in \\gexec: it must end in a semicolon\n    select 'select 0'"},
		{"a meta-command", ok + "\\echo done", `x.sql:4: psql meta-command \echo is not supported: only \gexec and, between statements, "\set ON_ERROR_STOP on", each alone on its line`},
	} {
		t.Run(c.name+" is an error with file and line", func(t *testing.T) {
			t.Parallel()
			queries, err := verify.Parse(schema.File{Origin: "x.sql", SQL: c.sql})
			require.EqualError(t, err, c.want)
			require.Nil(t, queries)
			require.ErrorAs(t, err, new(*script.Error))
		})
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	cfg := pgtest.Empty(t).Config(t, "")
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) })
	query := func(expect verify.Expectation, sql string) verify.Query {
		return verify.Query{Name: "q", Expect: expect, SQL: sql, Origin: "x.sql", Line: 7}
	}
	for _, c := range []struct {
		expect verify.Expectation
		sql    string
		want   string // the result's text
	}{
		{verify.Zero, "select 0;", "ok q"},
		{verify.Zero, "select count(*) from pg_class where false;", "ok q"},
		{verify.Zero, "select sum(x) from (values (0.00), (0.0)) as t (x);", "ok q"},
		{verify.Zero, "select * from (values ('agents', 0), ('organizations', 0)) as t (name, violations);", "ok q"},
		{verify.Zero, "select * from (values ('agents', 0), ('org', 12), ('x', null), ('y', 0)) as t (name, violations);",
			"FAILED q (x.sql:7): expect zero: 2 of 4 rows not 0 in violations\n    name | violations\n    org  | 12\n    x    | null"},
		{verify.Zero, "select 10;", "FAILED q (x.sql:7): expect zero: 1 of 1 rows not 0 in ?column?\n    ?column?\n    10"},
		{verify.Zero, "select 0 where false;", "FAILED q (x.sql:7): expect zero: no rows, want at least one that counts 0"},
		{verify.Zero, "select 0, '0';", "FAILED q (x.sql:7): expect zero: the last column is not a number\n    ?column? | ?column?\n    0        | 0"},
		{verify.Zero, "select;", "FAILED q (x.sql:7): expect zero: the last column is not a number"},
		{verify.None, "select 1 where false;", "ok q"},
		{verify.None, "select 'é' as a, null as bc union all select 'long', null;", "FAILED q (x.sql:7): expect none: 2 rows, want none\n    a    | bc\n    é    | null\n    long | null"},
		{verify.Some, "select 1;", "ok q"},
		{verify.Some, "select 1 where false;", "FAILED q (x.sql:7): expect some: no rows, want at least one"},
		{verify.True, "select true;", "ok q"},
		{verify.True, "select false as fine;", "FAILED q (x.sql:7): expect true: not true\n    fine\n    f"},
		{verify.True, "select null::bool as fine;", "FAILED q (x.sql:7): expect true: not true\n    fine\n    null"},
		{verify.True, "select 't' as fine;", "FAILED q (x.sql:7): expect true: the column is not a boolean\n    fine\n    t"},
		{verify.True, "select true where false;", "FAILED q (x.sql:7): expect true: 0 rows of 1 columns, want one of one"},
		{verify.True, "values (true), (true);", "FAILED q (x.sql:7): expect true: 2 rows of 1 columns, want one of one\n    column1\n    t\n    t"},
		{verify.True, "select true as a, true as b;", "FAILED q (x.sql:7): expect true: 1 rows of 2 columns, want one of one\n    a | b\n    t | t"},
		{verify.Pass, "select 'a' as check, 'pass' as verdict, 'b' as found, null as what_to_do;", "ok q"},
		{verify.Pass, "select 'a' as check, 'warn' as verdict, 'b' as found, 'c' as what_to_do union all select 'd', 'pass', 'e', 'f';",
			"ok q\n    check | verdict | found | what_to_do\n    a     | warn    | b     | c"},
		{verify.Pass, "select 'a' as check, 'fail' as verdict, 'b' as found, 'c' as what_to_do union all select 'd', 'pass', 'e', 'f';",
			"FAILED q (x.sql:7): expect pass: 1 of 2 checks fail\n    check | verdict | found | what_to_do\n    a     | fail    | b     | c"},
		{verify.Pass, "select 'a' as check, null as verdict, 'b' as found, 'c' as what_to_do;",
			"FAILED q (x.sql:7): expect pass: \"null\" is no verdict\n    check | verdict | found | what_to_do\n    a     | null    | b     | c"},
		{verify.Pass, "select 'a' as check, 'pass' as verdict, 'b' as found, 'c' as what_to_do where false;", "FAILED q (x.sql:7): expect pass: no rows, want at least one"},
		{verify.Pass, "select true;", "FAILED q (x.sql:7): expect pass: the columns are not check, verdict, found, what_to_do\n    ?column?\n    t"},
		{verify.Info, "select 1 as a where false;", "ok q: 0 rows"},
		{verify.Info, "select 1.50 as a, '{1,2}'::int[] as b;", "ok q: 1 rows\n    a    | b\n    1.50 | {1,2}"},
		{verify.Info, "select i as a from generate_series(1, 22) as i;", "ok q: 22 rows\n    a\n    " + strings.Join(strings.Split("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20", " "), "\n    ") + "\n    … and 2 more rows"},
		{"", "select 0;", "FAILED q (x.sql:7): expect : unknown expectation \"\"\n    ?column?\n    0"},
	} {
		t.Run(string(c.expect)+" judges "+c.sql, func(t *testing.T) {
			r, err := verify.Run(t.Context(), conn, query(c.expect, c.sql))
			require.NoError(t, err)
			require.Equal(t, strings.HasPrefix(c.want, "ok"), r.OK)
			var trimmed []string
			for _, line := range strings.Split(r.String(), "\n") {
				trimmed = append(trimmed, strings.TrimRight(line, " "))
			}
			require.Equal(t, c.want, strings.Join(trimmed, "\n"))
		})
	}
	t.Run("a query that cannot run is an error with name, file and line", func(t *testing.T) {
		_, err := verify.Run(t.Context(), conn, query(verify.Zero, "select nothing;"))
		require.EqualError(t, err, "run query q: x.sql:7: column \"nothing\" does not exist (SQLSTATE 42703)\n    select nothing;")
	})
	t.Run("a query that writes is an error, and its transaction goes on as it was", func(t *testing.T) {
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "create table written (i int)")
		require.NoError(t, err)
		_, err = verify.Run(t.Context(), tx, query(verify.Some, "with w as (insert into written values (1) returning i) select i from w;"))
		require.ErrorContains(t, err, "cannot execute SELECT in a read-only transaction")
		r, err := verify.Run(t.Context(), tx, query(verify.Zero, "select count(*) from written;"))
		require.NoError(t, err)
		require.True(t, r.OK, "%s", r)
		_, err = tx.Exec(t.Context(), "insert into written values (2)")
		require.NoError(t, err)
		require.NoError(t, tx.Rollback(t.Context()))
	})
	t.Run("a query that writes is an error outside a transaction too", func(t *testing.T) {
		_, err := conn.Exec(t.Context(), "create sequence counter")
		require.NoError(t, err)
		_, err = verify.Run(t.Context(), conn, query(verify.Some, "select nextval('counter');"))
		require.ErrorContains(t, err, "cannot execute nextval() in a read-only transaction")
		require.Equal(t, byte('I'), conn.PgConn().TxStatus())
	})
	t.Run("the example of the format runs", func(t *testing.T) {
		queries, err := verify.Parse(schema.File{Origin: "x.sql", SQL: example})
		require.NoError(t, err)
		for _, q := range queries {
			r, err := verify.Run(t.Context(), conn, q)
			require.NoError(t, err)
			require.True(t, r.OK, "%s", r)
		}
	})
}
