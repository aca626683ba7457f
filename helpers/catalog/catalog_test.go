package catalog_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"

	"github.com/vital-health/tenancy/helpers/catalog"
)

// Every kind of object: made, it is there under its identity; dropped again, nothing is left.
func TestTakeSeesEveryKindOfObject(t *testing.T) {
	t.Parallel()
	db := begin(t, connect(t))
	before := take(t, db)
	for _, c := range []struct{ identity, make, drop string }{
		{"schema s", `create schema s`, `drop schema s`},
		{"table public.t", `create table t ()`, `drop table t`},
		{"foreign table public.ft", `create foreign data wrapper w; create server s foreign data wrapper w; create foreign table ft (i int) server s`,
			`drop foreign data wrapper w cascade`},
		{"columns public.t", `create table t (i int)`, `drop table t`},
		{"column public.t.i", `create table t (i int)`, `drop table t`},
		{`column public."T t"."I""i"`, `create table "T t" ("I""i" int)`, `drop table "T t"`},
		{"rls public.t", `create table t ()`, `drop table t`},
		{"constraint public.t.c", `create table t (i int constraint c check (i > 0))`, `drop table t`},
		{"constraint public.d.c", `create domain d as int constraint c check (value > 0)`, `drop domain d`},
		{"index public.x", `create table t (i int); create index x on t (i)`, `drop table t`},
		{"function public.f(uuid, public.e[])", `create type e as enum ('a'); create function f(a uuid, variadic b e[]) returns int language sql return 1`,
			`drop function f; drop type e`},
		{"procedure public.p()", `create procedure p() language sql as 'select 1'`, `drop procedure p`},
		{"aggregate public.total(integer)", `create aggregate total(int) (sfunc = int4pl, stype = int)`, `drop aggregate total(int)`},
		{"trigger public.t.g", `create table t (); create function f() returns trigger language plpgsql as 'begin end'; create trigger g before insert on t for each row execute function f()`,
			`drop table t; drop function f`},
		{"event trigger g", `create function f() returns event_trigger language plpgsql as 'begin end'; create event trigger g on ddl_command_end execute function f()`,
			`drop event trigger g; drop function f`},
		{"policy public.t.p", `create table t (); create policy p on t`, `drop table t`},
		{"rule public.t.r", `create table t (); create rule r as on delete to t do instead nothing`, `drop table t`},
		{"view public.v", `create view v as select 1 as i`, `drop view v`},
		{"matview public.m", `create materialized view m as select 1 as i`, `drop materialized view m`},
		{"sequence public.q", `create sequence q`, `drop sequence q`},
		{"type public.e", `create type e as enum ('a')`, `drop type e`},
		{"type public.c", `create type c as (i int)`, `drop type c`},
		{"column public.c.i", `create type c as (i int)`, `drop type c`},
		{"type public.r", `create type r as range (subtype = int)`, `drop type r`},
		{"type public.d", `create domain d as int`, `drop domain d`},
		{"statistics public.s", `create table t (i int, j int); create statistics s on i, j from t`, `drop table t`},
		{"extension pgcrypto", `create extension pgcrypto`, `drop extension pgcrypto`},
		{"comment on schema s", `create schema s; comment on schema s is 'x'`, `drop schema s`},
		{"comment on table column public.t.i", `create table t (i int); comment on column t.i is 'x'`, `drop table t`},
		{"comment on policy p on public.t", `create table t (); create policy p on t; comment on policy p on t is 'x'`, `drop table t`},
		{"comment on function public.f()", `create function f() returns int language sql return 1; comment on function f is 'x'`, `drop function f`},
		{"acl table public.t to PUBLIC", `create table t (); grant select on t to public`, `drop table t`},
		{"acl view public.v to PUBLIC", `create view v as select 1 as i; grant select on v to public`, `drop view v`},
		{"acl matview public.m to PUBLIC", `create materialized view m as select 1 as i; grant select on m to public`, `drop materialized view m`},
		{"acl sequence public.q to PUBLIC", `create sequence q; grant usage on sequence q to public`, `drop sequence q`},
		{"acl column public.t.i to PUBLIC", `create table t (i int); grant select (i) on t to public`, `drop table t`},
		{"acl function public.f() to PUBLIC", `create function f() returns int language sql return 1`, `drop function f`},
		{"acl schema s to PUBLIC", `create schema s; grant usage on schema s to public`, `drop schema s`},
		{"acl type public.e to PUBLIC", `create type e as enum ('a')`, `drop type e`},
		{"default acl of me in schema public on tables to PUBLIC", `alter default privileges in schema public grant select on tables to public`,
			`alter default privileges in schema public revoke select on tables from public`},
		{"default acl of me on functions to me", `alter default privileges revoke execute on functions from public`,
			`alter default privileges grant execute on functions to public`},
		{"default acl of me on types to nobody", `alter default privileges revoke usage on types from public, current_user`,
			`alter default privileges grant usage on types to public, current_user`},
		{"database setting search_path", `do $$ begin execute format('alter database %I set search_path = x', current_database()); end $$`,
			`do $$ begin execute format('alter database %I reset search_path', current_database()); end $$`},
		{"database setting work_mem of me", `do $$ begin execute format('alter role current_user in database %I set work_mem = 64', current_database()); end $$`,
			`do $$ begin execute format('alter role current_user in database %I reset work_mem', current_database()); end $$`},
		{"comment on database", `do $$ begin execute format('comment on database %I is ''x''', current_database()); end $$`,
			`do $$ begin execute format('comment on database %I is null', current_database()); end $$`},
		{"cast (pg_catalog.bytea AS public.d)", `create type d; create function di(cstring) returns d language internal immutable strict as 'byteain'; create function do_(d) returns cstring language internal immutable strict as 'byteaout'; create type d (input = di, output = do_); create cast (bytea as d) without function`,
			`drop type d cascade`},
		{"operator public.===(integer,integer)", `create operator === (function = int4eq, leftarg = int, rightarg = int)`, `drop operator === (int, int)`},
		{"publication p", `create publication p`, `drop publication p`},
		{"text search configuration public.c", `create text search configuration c (copy = simple)`, `drop text search configuration c`},
	} {
		t.Run(c.identity+" is seen when it is made and gone when it is dropped", func(t *testing.T) {
			tx := begin(t, db)
			run(t, tx, c.make)
			made := take(t, tx)
			require.NotContains(t, before, c.identity)
			require.Contains(t, made, c.identity, "%s", strings.Join(slices.Sorted(maps.Keys(made)), "\n"))
			require.Contains(t, catalog.Diff(before, made), "+ "+c.identity+": ")
			require.Contains(t, catalog.Diff(made, before), "- "+c.identity+": ")
			run(t, tx, c.drop)
			require.Equal(t, "", catalog.Diff(before, take(t, tx)))
		})
	}
}

const things = `
create schema s;
create type e as enum ('a', 'c');
create domain d as int;
create table parent (id int primary key);
create table t (
    id int generated always as identity,
    name varchar(10) not null default 'x',
    doubled int generated always as (id * 2) stored,
    kind e,
    parent_id int,
    note text,
    constraint fk foreign key (parent_id) references parent (id) on delete restrict
);
create index x on t (name);
create statistics st on id, kind from t;
create policy p on t for select using (id > 0);
create function f(a int) returns int language sql stable as 'select 1';
create function tf() returns trigger language plpgsql as 'begin return new; end';
create trigger g before update on t for each row execute function tf();
create rule r as on delete to t do also select 1;
create view v as select id from t;
create materialized view m as select id from t;
create sequence q;
create table parted (i int) partition by range (i);
create table part partition of parted for values from (0) to (10);
comment on table t is 'a table';
`

// Every property: changed, the difference is exactly these lines.
func TestDiffSaysWhatChanged(t *testing.T) {
	t.Parallel()
	db := begin(t, connect(t))
	run(t, db, things)
	before := take(t, db)
	for _, c := range []struct{ name, change, want string }{
		{"nothing", ``, ``},
		{"analyze and rows", `insert into t (kind) values ('a'); analyze t; select nextval('q')`, ``},
		{"a default spelt out", `grant execute on function f to public; alter table t disable row level security; alter table t alter kind set default null; alter table t alter kind drop default`, ``},
		{"table: owner", `alter table parent owner to pg_database_owner`, `
- acl table public.parent to me: …
+ acl table public.parent to pg_database_owner: …
- index public.parent_pkey: CREATE UNIQUE INDEX parent_pkey ON public.parent USING btree (id), owner me
+ index public.parent_pkey: CREATE UNIQUE INDEX parent_pkey ON public.parent USING btree (id), owner pg_database_owner
- table public.parent: owner me, access method heap
+ table public.parent: owner pg_database_owner, access method heap`},
		{"table: options", `alter table t set (fillfactor = 70, autovacuum_enabled = off, toast.autovacuum_enabled = off)`, `
- table public.t: owner me, access method heap
+ table public.t: owner me, access method heap, options autovacuum_enabled=off fillfactor=70, toast options autovacuum_enabled=off`},
		{"table: replica identity", `alter table t replica identity full`, `
- table public.t: owner me, access method heap
+ table public.t: owner me, access method heap, replica identity full`},
		{"table: partition", `alter table parted detach partition part; alter table parted attach partition part for values from (0) to (11)`, `
- table public.part: owner me, access method heap, partition of public.parted, FOR VALUES FROM (0) TO (10)
+ table public.part: owner me, access method heap, partition of public.parted, FOR VALUES FROM (0) TO (11)`},
		{"table: row level security", `alter table t enable row level security`, `
- rls public.t: disabled
+ rls public.t: enabled`},
		{"table: forced row level security", `alter table t force row level security`, `
- rls public.t: disabled
+ rls public.t: disabled, forced`},
		{"columns: a new one", `alter table t add n numeric(4,2)`, `
+ column public.t.n: numeric(4,2)
- columns public.t: id, name, doubled, kind, parent_id, note
+ columns public.t: id, name, doubled, kind, parent_id, note, n`},
		{"columns: one dropped and made again", `alter table t add n int; alter table t drop n; alter table t add n int; alter table t drop n`, ``},
		{"columns: order", `alter table parted add a int, add b int; alter table parted drop a; alter table parted add a int`, `
+ column public.part.a: integer
+ column public.part.b: integer
+ column public.parted.a: integer
+ column public.parted.b: integer
- columns public.part: i
+ columns public.part: i, b, a
- columns public.parted: i
+ columns public.parted: i, b, a`},
		{"column: type", `alter table t alter name type varchar(11)`, `
- column public.t.name: character varying(10) not null default 'x'::character varying
+ column public.t.name: character varying(11) not null default 'x'::character varying`},
		{"column: default", `alter table t alter name set default 'y'`, `
- column public.t.name: character varying(10) not null default 'x'::character varying
+ column public.t.name: character varying(10) not null default 'y'::character varying`},
		{"column: collation", `alter table t add n text collate "C"`, `
+ column public.t.n: text collate pg_catalog."C"
- columns public.t: id, name, doubled, kind, parent_id, note
+ columns public.t: id, name, doubled, kind, parent_id, note, n`},
		{"column: identity", `alter table t alter id set generated by default`, `
- column public.t.id: integer not null generated always as identity
+ column public.t.id: integer not null generated by default as identity`},
		{"column: generated", `alter table t alter doubled drop expression`, `
- column public.t.doubled: integer generated always as (id * 2) stored
+ column public.t.doubled: integer`},
		{"column: storage, statistics, compression, options", `alter table t alter name set storage plain, alter name set statistics 7, alter name set compression pglz, alter name set (n_distinct = 3)`, `
- column public.t.name: character varying(10) not null default 'x'::character varying
+ column public.t.name: character varying(10) not null default 'x'::character varying storage p compression p statistics 7 options n_distinct=3`},
		{"constraint: not valid", `alter table t drop constraint fk; alter table t add constraint fk foreign key (parent_id) references parent (id) on delete restrict not valid`, `
- constraint public.t.fk: FOREIGN KEY (parent_id) REFERENCES public.parent(id) ON DELETE RESTRICT
+ constraint public.t.fk: FOREIGN KEY (parent_id) REFERENCES public.parent(id) ON DELETE RESTRICT NOT VALID`},
		{"constraint: cascade", `alter table t drop constraint fk; alter table t add constraint fk foreign key (parent_id) references parent (id) on delete cascade`, `
- constraint public.t.fk: FOREIGN KEY (parent_id) REFERENCES public.parent(id) ON DELETE RESTRICT
+ constraint public.t.fk: FOREIGN KEY (parent_id) REFERENCES public.parent(id) ON DELETE CASCADE`},
		{"index: shape", `drop index x; create index x on t (name) include (kind) where id > 0`, `
- index public.x: CREATE INDEX x ON public.t USING btree (name), owner me
+ index public.x: CREATE INDEX x ON public.t USING btree (name) INCLUDE (kind) WHERE (id > 0), owner me`},
		{"index: invalid", `update pg_index set indisvalid = false where indexrelid = 'x'::regclass`, `
- index public.x: CREATE INDEX x ON public.t USING btree (name), owner me
+ index public.x: CREATE INDEX x ON public.t USING btree (name), owner me, invalid`},
		{"index: clustered", `alter table t cluster on x`, `
- index public.x: CREATE INDEX x ON public.t USING btree (name), owner me
+ index public.x: CREATE INDEX x ON public.t USING btree (name), owner me, clustered`},
		{"function: body", `create or replace function f(a int) returns int language sql stable as 'select 2'`, `
- function public.f(integer): owner me
-     … (4 equal lines)
-     AS $function$select 1$function$
+ function public.f(integer): owner me
+     … (4 equal lines)
+     AS $function$select 2$function$`},
		{"function: security definer and search_path", `alter function f security definer set search_path = ''`, `
- function public.f(integer): owner me
-     … (3 equal lines)
-      STABLE
-     … (1 equal line)
+ function public.f(integer): owner me
+     … (3 equal lines)
+      STABLE SECURITY DEFINER
+      SET search_path TO ''
+     … (1 equal line)`},
		{"function: owner", `alter function f owner to pg_database_owner`, `
- acl function public.f(integer) to me: EXECUTE
+ acl function public.f(integer) to pg_database_owner: EXECUTE
- function public.f(integer): owner me
-     … (5 equal lines)
+ function public.f(integer): owner pg_database_owner
+     … (5 equal lines)`},
		{"function: privilege of everybody", `revoke execute on function f from public`, `
- acl function public.f(integer) to PUBLIC: EXECUTE`},
		{"trigger: disabled", `alter table t disable trigger g`, `
- trigger public.t.g: CREATE TRIGGER g BEFORE UPDATE ON public.t FOR EACH ROW EXECUTE FUNCTION public.tf()
+ trigger public.t.g: CREATE TRIGGER g BEFORE UPDATE ON public.t FOR EACH ROW EXECUTE FUNCTION public.tf(), disabled`},
		{"trigger: of a foreign key disabled", `alter table t disable trigger all`, `
+ trigger public.t.fk behind its foreign key: "RI_FKey_check_ins": D, "RI_FKey_check_upd": D
- trigger public.t.g: CREATE TRIGGER g BEFORE UPDATE ON public.t FOR EACH ROW EXECUTE FUNCTION public.tf()
+ trigger public.t.g: CREATE TRIGGER g BEFORE UPDATE ON public.t FOR EACH ROW EXECUTE FUNCTION public.tf(), disabled`},
		{"policy: expression", `alter policy p on t using (id > 1)`, `
- policy public.t.p: permissive for select to PUBLIC using ((id > 0))
+ policy public.t.p: permissive for select to PUBLIC using ((id > 1))`},
		{"policy: roles", `alter policy p on t to pg_monitor, current_user`, `
- policy public.t.p: permissive for select to PUBLIC using ((id > 0))
+ policy public.t.p: permissive for select to pg_monitor, me using ((id > 0))`},
		{"policy: command, kind and check", `drop policy p on t; create policy p on t as restrictive for update using (id > 0) with check (true)`, `
- policy public.t.p: permissive for select to PUBLIC using ((id > 0))
+ policy public.t.p: restrictive for update to PUBLIC using ((id > 0)) with check (true)`},
		{"rule: disabled", `alter table t disable rule r`, `
- rule public.t.r: CREATE RULE r AS
-         ON DELETE TO public.t DO  SELECT 1 AS "?column?";
+ rule public.t.r: CREATE RULE r AS
+         ON DELETE TO public.t DO  SELECT 1 AS "?column?"; disabled`},
		{"view: options", `alter view v set (security_invoker = true)`, `
- view public.v: owner me
-     … (2 equal lines)
+ view public.v: owner me, options security_invoker=true
+     … (2 equal lines)`},
		{"matview: not populated", `refresh materialized view m with no data`, `
- matview public.m: owner me, access method heap
-     … (2 equal lines)
+ matview public.m: owner me, access method heap, not populated
+     … (2 equal lines)`},
		{"sequence: parameters and owner column", `alter sequence q increment 2 cache 5 cycle; alter sequence q owned by t.kind`, `
- sequence public.q: owner me, bigint start 1 increment 1 from 1 to 9223372036854775807 cache 1
+ sequence public.q: owner me, bigint start 1 increment 2 from 1 to 9223372036854775807 cache 5, cycle, owned by public.t.kind`},
		{"type: label", `alter type e add value 'z' before 'c'`, `
- type public.e: owner me, enum 'a', 'c'
+ type public.e: owner me, enum 'a', 'z', 'c'`},
		{"type: domain", `alter domain d set default 1`, `
- type public.d: owner me, domain over integer
+ type public.d: owner me, domain over integer default 1`},
		{"statistics: target", `alter statistics st set statistics 5`, `
- statistics public.st: CREATE STATISTICS public.st ON id, kind FROM public.t, owner me
+ statistics public.st: CREATE STATISTICS public.st ON id, kind FROM public.t, owner me, target 5`},
		{"schema: owner", `alter schema s owner to pg_database_owner`, `
- acl schema s to me: CREATE, USAGE
+ acl schema s to pg_database_owner: CREATE, USAGE
- schema s: owner me
+ schema s: owner pg_database_owner`},
		{"comment: text", `comment on table t is 'another'`, `
- comment on table public.t: a table
+ comment on table public.t: another`},
		{"acl: a privilege more, grantable", `grant select on t to pg_monitor; grant update on t to pg_monitor with grant option`, `
+ acl table public.t to pg_monitor: SELECT, UPDATE with grant option`},
		{"acl: order of grants", `grant select on t to pg_monitor, pg_read_all_data; revoke select on t from pg_monitor; grant select on t to pg_monitor; revoke select on t from pg_monitor, pg_read_all_data`, ``},
		{"acl: column", `grant update (name) on t to pg_monitor`, `
+ acl column public.t.name to pg_monitor: UPDATE`},
		{"acl: database", `do $$ begin execute format('revoke temporary on database %I from public', current_database()); end $$`, `
- acl database to PUBLIC: CONNECT, TEMPORARY
+ acl database to PUBLIC: CONNECT`},
		{"database: setting", `do $$ begin execute format('alter database %I set statement_timeout = ''7s''', current_database()); end $$`, `
+ database setting statement_timeout: 7s`},
		{"extension members and temporary objects", `create temporary table tmp (i int primary key); comment on table tmp is 'x'; create temporary view tv as select 1`, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			tx := begin(t, db)
			run(t, tx, c.change)
			got := catalog.Diff(before, take(t, tx))
			// The privileges of an owner depend on the server's version.
			var lines []string
			for _, line := range strings.Split(got, "\n") {
				if identity, _, ok := strings.Cut(line, ": DELETE, INSERT, "); ok {
					line = identity + ": …"
				}
				lines = append(lines, line)
			}
			require.Equal(t, strings.TrimPrefix(c.want, "\n"), strings.TrimSuffix(strings.Join(lines, "\n"), "\n"))
		})
	}
}

// Newer servers keep NOT NULL as a constraint besides.
func TestDiffSaysWhatMayNotBeNull(t *testing.T) {
	t.Parallel()
	tx := begin(t, connect(t))
	run(t, tx, things)
	before := take(t, tx)
	run(t, tx, `alter table t alter kind set not null; alter domain d set not null`)
	got := catalog.Diff(before, take(t, tx))
	require.Contains(t, got, "- column public.t.kind: public.e\n+ column public.t.kind: public.e not null\n")
	require.Contains(t, got, "- type public.d: owner me, domain over integer\n+ type public.d: owner me, domain over integer not null\n")
}

func TestTakeIgnores(t *testing.T) {
	t.Parallel()
	t.Run("the session's settings and search_path, which it leaves as they were", func(t *testing.T) {
		t.Parallel()
		conn := connect(t)
		tx := begin(t, conn)
		run(t, tx, things)
		before := take(t, tx)
		run(t, tx, `set search_path = s, public; set quote_all_identifiers = on; set datestyle = 'SQL, DMY'`)
		require.Equal(t, "", catalog.Diff(before, take(t, tx)))
		var path string
		require.NoError(t, tx.QueryRow(t.Context(), "show search_path").Scan(&path))
		require.Equal(t, "s, public", path)
	})
	t.Run("the database it is taken in", func(t *testing.T) {
		t.Parallel()
		var taken []catalog.Catalog
		for range 2 {
			conn := connect(t)
			run(t, conn, things)
			taken = append(taken, take(t, conn))
		}
		require.Equal(t, "", catalog.Diff(taken[0], taken[1]))
		require.Greater(t, len(taken[0]), 50)
	})
}

func TestTakeReportsFailure(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := catalog.Take(ctx, conn)
	require.ErrorIs(t, err, context.Canceled)
	require.True(t, strings.HasPrefix(err.Error(), "take the catalog: "), err.Error())
}

// take returns the catalog with the name of the role that runs the test replaced by "me".
func take(t testing.TB, db interface {
	catalog.Beginner
	QueryRow(context.Context, string, ...any) pgx.Row
}) catalog.Catalog {
	t.Helper()
	var me string
	require.NoError(t, db.QueryRow(t.Context(), "select current_user::text").Scan(&me))
	c, err := catalog.Take(t.Context(), db)
	require.NoError(t, err)
	named := catalog.Catalog{}
	for identity, definition := range c {
		named[strings.ReplaceAll(identity, me, "me")] = strings.ReplaceAll(definition, me, "me")
	}
	require.Len(t, named, len(c))
	return named
}

func run(t testing.TB, db interface {
	catalog.Beginner
}, sql string) {
	t.Helper()
	require.NoError(t, pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
		return err
	}), "%s", sql)
}

// begin begins a transaction, or one in a transaction, and rolls it back when the test ends.
func begin(t testing.TB, db catalog.Beginner) pgx.Tx {
	t.Helper()
	tx, err := db.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tx.Rollback(context.WithoutCancel(t.Context()))) })
	return tx
}

func connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), pgtest.Empty(t).Config(t, ""))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) })
	return conn
}
