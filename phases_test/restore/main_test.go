// Package restore_test is the way back that the checklist has for the worst case: a backup before the rollout, and the
// database as it was, from it. docs/recovery.md says when to go which way back, and what each loses; this proves it.
//
// pg_dump takes no server that is newer than itself. Where the machine's is older, the backup is one that is kept in
// phases_test/dump, and the database is what that was taken of.
package restore_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/dump"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// beside is what a database has besides tables and rows: files, numbers that were given out, rights of all kinds.
var beside = pgtest.Seed{Name: "beside the world", SQL: `
	create schema storage;
	create sequence storage.invoice_number start 1000 increment 7;
	select nextval('storage.invoice_number'), nextval('storage.invoice_number');
	create table storage.files (id bigint generated always as identity primary key, name text not null default 'file ' || nextval('storage.invoice_number'),
		file oid, size bigint generated always as (length(name)) stored, secret text);
	create materialized view storage.file_names as select name from storage.files;
	grant usage on schema storage to authenticated;
	grant select (id, name) on storage.files to authenticated;
	grant select on storage.files to service_role with grant option;
	comment on column storage.files.file is 'the large object';
	insert into storage.files (file) select lo_from_bytea(0, decode(repeat(md5(n::text), 5000), 'hex')) from generate_series(1, 3) as n;
	refresh materialized view storage.file_names;
	do $$
	declare
		large record;
	begin
		for large in select file from storage.files loop
			execute format('grant select on large object %s to service_role', large.file);
			execute format('comment on large object %s is ''a contract''', large.file);
		end loop;
		execute format('revoke temporary on database %I from public', current_database());
		execute format('grant temporary on database %I to service_role', current_database());
	end
	$$;`}

// production is a legacy database, and how it is backed up and restored.
type production struct {
	*pgtest.DB
	dumper, restorer string     // "" where the machine has none that is new enough
	kept             *dump.Dump // then
}

func newProduction(t *testing.T) *production {
	t.Helper()
	p := &production{DB: pgtest.New(t, schema.Legacy, append(fixtures.World(), beside)...)}
	phasetest.Exec(t, p.DB, "alter database "+pgx.Identifier{p.Name}.Sanitize()+" set statement_timeout = '20min'")
	var server int
	require.NoError(t, p.Owner.QueryRow(t.Context(), `select current_setting('server_version_num')::integer / 10000`).Scan(&server))
	dumper, version := dump.Program(t.Context(), "pg_dump")
	if version >= server {
		p.dumper, p.restorer = dumper, filepath.Join(filepath.Dir(dumper), "pg_restore")
		return p
	}
	t.Logf("there is no pg_dump of version %d or later: the backup is the one that is kept", server)
	path, err := filepath.Abs("../dump/testdata/world.dump")
	require.NoError(t, err)
	p.kept, err = dump.Open(path)
	require.NoError(t, err)
	p.DB = pgtest.NewFrom(t, p.kept.Origin(), schema.Legacy)
	return p
}

// backup is the checklist's command.
func (p *production) backup(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "vital_prod_backup.dump")
	if p.kept == nil {
		said, err := run(t, p.dumper, "-d", p.URL(""), "-F", "c", "-b", "-v", "-f", path)
		require.NoError(t, err, said)
	}
	return path
}

// deploy runs the four phases.
func (p *production) deploy(t *testing.T) {
	t.Helper()
	for _, phase := range schema.Phases() {
		p.Migrate(t, phase)
		if phase == schema.Phase1 && p.kept != nil {
			sql, err := os.ReadFile("../dump/testdata/prepare.sql") // what there is to be said of that one
			require.NoError(t, err)
			_, err = p.Run(t, schema.File{Path: "prepare.sql", Origin: "prepare.sql", SQL: string(sql)})
			require.NoError(t, err)
		}
	}
}

func run(t *testing.T, program string, args ...string) (said string, err error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	return string(out), err
}

// picture is all that a backup must bring back, and what it says of the database itself apart.
type picture struct {
	all, ofDatabase map[string]string
}

func take(t *testing.T, db *pgtest.DB) picture {
	t.Helper()
	p := picture{map[string]string{}, map[string]string{}}
	for identity, definition := range phasetest.Catalog(t, db) {
		if strings.HasPrefix(identity, "acl database") || strings.HasPrefix(identity, "database setting") {
			p.ofDatabase[identity] = definition
			continue
		}
		if strings.HasPrefix(identity, "extension ") {
			definition, _, _ = strings.Cut(definition, ", owner ") // whoever restores: nothing can give it to somebody else
		}
		p.all[identity] = definition
	}
	for table, rows := range phasetest.Data(t, db) {
		p.all["rows of "+table] = rows
	}
	rows, err := db.Superuser.Query(t.Context(), `
		select 'number of ' || s.schemaname || '.' || s.sequencename, coalesce(s.last_value::text, 'none given')
		from pg_catalog.pg_sequences s
		union all
		select 'large object ' || l.oid, concat_ws(', ', l.lomowner::regrole, l.lomacl::text, obj_description(l.oid, 'pg_largeobject'), md5(lo_get(l.oid)))
		from pg_catalog.pg_largeobject_metadata l
		union all
		select 'materialised rows of ' || c.oid::regclass, (xpath('//n/text()', query_to_xml(format('select count(*) as n from %s', c.oid::regclass), true, true, '')))[1]::text
		from pg_catalog.pg_class c
		where c.relkind = 'm'`)
	require.NoError(t, err)
	var what, is string
	_, err = pgx.ForEachRow(rows, []any{&what, &is}, func() error {
		p.all[what] = is
		return nil
	})
	require.NoError(t, err)
	return p
}

// same says that a database is what it was.
func same(t *testing.T, before, after picture) {
	t.Helper()
	require.Empty(t, catalog.Diff(before.all, after.all), "- before, + restored")
}

// oldApplication does to a legacy database what the application of that time does.
func (p *production) oldApplication(t *testing.T) {
	t.Helper()
	if p.kept == nil {
		phasetest.OldApplicationAtOnce(t, p.DB)
		return
	}
	require.NoError(t, actor.Service().Do(t, p.DB, func(tx pgx.Tx) error {
		for _, sql := range []string{
			`insert into public.agents (tenant_id, name, metadata) select id, 'New', '{"is_public": true}' from public.organizations limit 1`,
			`update public.agents set display_name = 'Renamed' where name = 'New'`,
			`insert into public.conversations (user_id, title) select id, 'New' from public.users limit 1`,
			`insert into public.messages (conversation_id, role, content) select id, 'user', 'Hi' from public.conversations where title = 'New'`,
			`delete from public.agents where name = 'New'`,
		} {
			tag, err := tx.Exec(t.Context(), sql)
			require.NoError(t, err, sql)
			require.Positive(t, tag.RowsAffected(), sql)
		}
		return nil
	}))
}

// rename gives a database that nobody uses another name.
func rename(t *testing.T, by *pgtest.DB, from, to string) {
	t.Helper()
	_, err := by.Superuser.Exec(t.Context(), fmt.Sprintf("alter database %s rename to %s", pgx.Identifier{from}.Sanitize(), pgx.Identifier{to}.Sanitize()))
	require.NoError(t, err)
}
