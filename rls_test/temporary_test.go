package rls_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// temporaryTypes makes the caller own a type of every name that pg_catalog has one of. Whoever converts a value to one of them
// and is somebody else than the caller runs the caller's function: text is what a search_path says it is, and the temporary
// schema comes first unless the path names it.
const temporaryTypes = `
	create function pg_temp.sprung() returns pg_catalog.bool language plpgsql as $$
	begin
		if current_user operator(pg_catalog.<>) pg_catalog.current_setting('role') then
			raise exception 'the trap has sprung: % runs what % wrote', current_user, pg_catalog.current_setting('role');
		end if;
		return true;
	end $$;
	do $$
	declare
		target pg_catalog.record;
	begin
		for target in
			select t.typname from pg_catalog.pg_type t
			where t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace and t.typtype = 'b' and t.typcategory <> 'A' and t.typname <> 'name'
		loop
			execute pg_catalog.format('create domain pg_temp.%I as pg_catalog.%1$I check (pg_temp.sprung())', target.typname);
		end loop;
	end $$`

// TestTemporaryTypes lets callers put types of their own before everybody else's, in every phase: until phase 4 each may, and in a
// session from before it, or in a database that was restored without its privileges, what he made is still there.
func TestTemporaryTypes(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-4/test-rls-policies")
	for _, phase := range schema.Phases() {
		t.Run(phase.String(), func(t *testing.T) {
			t.Parallel()
			db := withTemporary(t, phase)
			for _, caller := range []actor.Actor{actor.Anonymous(), actor.User(fixtures.Alice.ID), actor.User(fixtures.Adam.ID), actor.Service()} {
				problems, succeeded := springs(t, db, caller)
				require.Empty(t, problems)
				if phase < schema.Phase4 || caller != actor.Anonymous() {
					require.Greater(t, succeeded, 10, "%v must be let do something, or this proves nothing", caller)
				}
			}
		})
	}
	t.Run("a function whose path does not name them is found", func(t *testing.T) {
		t.Parallel()
		db := withTemporary(t, schema.Phase4)
		statement(`
			create function public.mutant() returns integer language plpgsql security definer set search_path = ''
			as 'begin return length(1::text); end';
			grant execute on function public.mutant() to authenticated`)(t, db)
		problems, _ := springs(t, db, actor.User(fixtures.Alice.ID))
		require.Equal(t, []string{"select f.* from public.mutant() as f: ERROR: the trap has sprung: tenancy_owner runs what authenticated wrote (SQLSTATE P0001)"}, problems)
	})
}

// withTemporary is a database in which the callers may make temporary objects, and whose maintenance mode can be switched on.
func withTemporary(t testing.TB, phase schema.Phase) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t, phase, fixtures.World()...)
	mode, _, err := schema.Maintenance()
	require.NoError(t, err)
	_, err = db.Run(t, mode)
	require.NoError(t, err)
	statement(fmt.Sprintf(`grant temporary on database %s to public`, pgx.Identifier{db.Name}.Sanitize()))(t, db)
	return db
}

// springs lets a caller who has set the traps read, write and call everything, and says what ran into them.
func springs(t testing.TB, db *pgtest.DB, caller actor.Actor) (problems []string, succeeded int) {
	t.Helper()
	functions := callables(t, db)
	require.NoError(t, caller.Do(t, db, func(tx pgx.Tx) error {
		run(t, tx, temporaryTypes)
		try := func(sql string, arguments ...any) {
			nested, err := tx.Begin(t.Context())
			require.NoError(t, err)
			_, err = nested.Exec(t.Context(), sql, arguments...)
			require.NoError(t, nested.Rollback(t.Context()))
			switch {
			case err == nil:
				succeeded++
			case strings.Contains(err.Error(), "the trap has sprung"):
				problems = append(problems, fmt.Sprintf("%s: %s", sql, err))
			}
		}
		for table := range tables {
			try(`select * from public.` + table)
			try(`update public.` + table + ` set id = id`)
			try(`delete from public.` + table)
		}
		for _, table := range resourceTables {
			name := "name"
			if table == "knowledge_documents" || table == "use_cases" {
				name = "title"
			}
			for _, owner := range []string{"tenant_id", "owner_organization_id"} { // as the old application says it, and the new one
				try(fmt.Sprintf(`insert into public.%s (%s, %s) values ('New', $1)`, table, name, owner), fixtures.Novartis.ID)
			}
			try(fmt.Sprintf(`update public.%s set %s = 'New'`, table, name))
			try(fmt.Sprintf(`update public.%s set sharing_scope = 'tenant'`, table))
			try(fmt.Sprintf(`select public.soft_delete('%s', id) from public.%[1]s`, table))
		}
		try(`insert into public.conversations (user_id, title, owner_organization_id) values ($1, 'New', $2)`, fixtures.Alice.ID, fixtures.Novartis.ID)
		try(`update public.conversations set title = 'New'`)
		try(`insert into public.messages (conversation_id, role, content) select id, 'user', 'New' from public.conversations`)
		try(`insert into public.user_organizations (user_id, organization_id, role) values ($1, $2, 'viewer')`, fixtures.Eve.ID, fixtures.Novartis.ID)
		try(`update public.user_organizations set role = 'viewer'`)
		try(`insert into public.organizations (name, tenant_type, tenant_key) values ('New', 'standard', 'pharma')`)
		try(`update public.organizations set name = name`)
		for _, f := range functions {
			var mine []any
			for _, name := range f.Types {
				mine = append(mine, string(hostile[name].kind[0])) // Alice, her organization, her agents: what she is answered
			}
			try(f.sql(), mine...)
		}
		return nil
	}))
	return problems, succeeded
}
