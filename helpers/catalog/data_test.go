package catalog_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"

	"github.com/vital-health/tenancy/helpers/catalog"
)

func TestTakeData(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	run(t, conn, `
		create table t (id int, a text, b text);
		insert into t values (1, 'x', null), (2, 'y', ''), (2, 'y', '');
		create table empty (id int);
		create table "no Columns" ();
		insert into "no Columns" default values;
		create table parted (i int) partition by range (i);
		create table part1 partition of parted for values from (0) to (10);
		create table part2 partition of parted for values from (10) to (20);
		insert into parted values (1), (11);
		create table ancestor (i int);
		create table heir () inherits (ancestor);
		insert into ancestor values (1);
		insert into heir values (2), (3);
		create materialized view m as select * from t;
		create view v as select * from t;
		create temporary table tmp as select 1;
		create type mood as enum ('sad', 'ok');
		create domain label as text;
		create table types (
			c01 bool, c02 bytea, c03 "char", c04 name, c05 int8, c06 numeric, c07 float8, c08 money, c09 date, c10 timestamptz,
			c11 interval, c12 timetz, c13 json, c14 jsonb, c15 xml, c16 point, c17 polygon, c18 inet, c19 macaddr, c20 bit varying,
			c21 tsvector, c22 tsquery, c23 uuid, c24 int4range, c25 datemultirange, c26 int[], c27 mood, c28 label, c29 t, c30 regclass,
			c31 pg_lsn, c32 oid, c33 xid8, c34 jsonpath, c35 int generated always as (c05 + 1) stored
		);
		insert into types values (
			true, '\x00ff', 'c', 'n', 1, 1.50, 1e-7, 1, '2025-11-26', '2025-11-26 00:00+00',
			'1 day 2 hours', '12:00+02', '{"a": 1}', '{"a": 1}', '<a/>', '(1,2)', '((0,0),(1,1))', '10.0.0.1', '08:00:2b:01:02:03', '101',
			'a b', 'a & b', '00000000-0000-0000-0000-000000000001', '[1,5)', '{[2025-01-01,2025-01-02)}', '{{1,2},{3,null}}', 'ok', 'l', row(1, 'x', null), 't',
			'0/1', 1, '1', '$.a');
	`)
	take := func(t *testing.T, db catalog.Beginner, without ...string) catalog.Data {
		t.Helper()
		d, err := catalog.TakeData(t.Context(), db, without...)
		require.NoError(t, err)
		return d
	}
	before := take(t, conn)
	count := func(table string) string { n, _, _ := strings.Cut(before[table], ","); return n }

	t.Run("every table is counted once, with its partitions and without its heirs", func(t *testing.T) {
		require.Len(t, before, 7)
		require.Equal(t, []string{"3 rows", "0 rows", "1 rows", "2 rows", "1 rows", "2 rows", "1 rows"}, []string{
			count("public.t"), count("public.empty"), count(`public."no Columns"`), count("public.parted"), count("public.ancestor"), count("public.heir"), count("public.types")})
		require.NotContains(t, before, "public.part1")
	})
	for _, c := range []struct {
		name, change string
		changed      []string
	}{
		{"nothing", ``, nil},
		{"order of rows", `create table copy as select * from t order by id desc; delete from t; insert into t select * from copy; drop table copy`, nil},
		{"settings of the session", `set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set intervalstyle = 'iso_8601'; set bytea_output = 'escape'; set extra_float_digits = 0`, nil},
		{"a column dropped and made again", `alter table t add n int; alter table t drop n`, nil},
		{"a materialised view", `refresh materialized view m with no data`, nil},
		{"one value", `update t set a = 'X' where id = 1`, []string{"public.t"}},
		{"null against empty", `update t set b = '' where id = 1`, []string{"public.t"}},
		{"two values swapped between rows", `update t set a = case id when 1 then 'y' else 'x' end`, []string{"public.t"}},
		{"two values swapped within a row", `update t set a = b, b = a`, []string{"public.t"}},
		{"a value moved across a comma", `update t set a = 'x,', b = '' where id = 1`, []string{"public.t"}},
		{"both duplicates made into another pair", `update t set a = 'z' where id = 2`, []string{"public.t"}},
		{"a duplicate gone", `delete from t where ctid = (select max(ctid) from t)`, []string{"public.t"}},
		{"a row in a partition", `insert into part2 values (12)`, []string{"public.parted"}},
		{"a row moved to another partition", `delete from part1; insert into part2 values (11)`, []string{"public.parted"}},
		{"a row of an heir", `delete from heir`, []string{"public.heir"}},
		{"a table emptied", `truncate types`, []string{"public.types"}},
	} {
		t.Run("the difference shows: "+c.name, func(t *testing.T) {
			tx := begin(t, conn)
			run(t, tx, c.change)
			after := take(t, tx)
			var want strings.Builder
			for _, table := range c.changed {
				fmt.Fprintf(&want, "- %s: %s\n+ %s: %s\n", table, before[table], table, after[table])
			}
			require.Equal(t, want.String(), catalog.Diff(before, after))
		})
	}
	for i := 1; i <= 34; i++ {
		t.Run(fmt.Sprintf("the difference shows: column c%02d of the table with all types", i), func(t *testing.T) {
			tx := begin(t, conn)
			run(t, tx, fmt.Sprintf("update types set c%02d = null", i))
			require.NotEqual(t, before["public.types"], take(t, tx)["public.types"])
		})
	}
	t.Run("named tables and columns are left out", func(t *testing.T) {
		left := take(t, conn, "public.types", `public.t.a`, "public.no_such.column")
		require.NotContains(t, left, "public.types")
		tx := begin(t, conn)
		run(t, tx, "update t set a = 'other'; truncate types")
		require.Equal(t, "", catalog.Diff(left, take(t, tx, "public.types", `public.t.a`)))
		run(t, tx, "update t set b = 'other'")
		require.NotEqual(t, "", catalog.Diff(left, take(t, tx, "public.types", `public.t.a`)))
	})
	t.Run("rows that row level security hides are an error", func(t *testing.T) {
		tx := begin(t, conn)
		run(t, tx, "alter table t enable row level security; grant select on all tables in schema public to pg_monitor; set role pg_monitor")
		_, err := catalog.TakeData(t.Context(), tx)
		require.ErrorContains(t, err, `take the data's checksums: ERROR: query would be affected by row-level security policy for table "t"`)
	})
	t.Run("a database without tables has no data", func(t *testing.T) {
		require.Empty(t, take(t, connect(t)))
	})
}

// BenchmarkTakeData reads one table of a million rows like agents: 12 columns, some 300 bytes.
func BenchmarkTakeData(b *testing.B) {
	conn, err := pgx.ConnectConfig(b.Context(), pgtest.Empty(b).Config(b, ""))
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, conn.Close(context.WithoutCancel(b.Context()))) })
	run(b, conn, `
		create table agents as
		select gen_random_uuid() as id, gen_random_uuid() as owner, gen_random_uuid() as created_by, 'organization' as scope,
			'Agent ' || i as name, 'Display name ' || i as display_name, repeat('description ', 5) as description, repeat('prompt ', 10) as prompt,
			i % 3 as tier, 'active' as status, now() as created_at, null::timestamptz as deleted_at
		from generate_series(1, 1000000) as i`)
	for b.Loop() {
		d, err := catalog.TakeData(b.Context(), conn)
		require.NoError(b, err)
		require.Len(b, d, 1)
	}
}
