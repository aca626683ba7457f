package rls_test

import (
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
)

// checkVariable makes a server without plpgsql_check an error. Not every server has it:
// CI sets this where it has installed it.
const checkVariable = "TEST_PLPGSQL_CHECK"

// explained is what plpgsql_check finds, and why it is as it must be.
var explained = map[string]string{
	"tenancy.patiently(text) line 10: security: text type variable is not sanitized": "it runs the statements of migrations, and their owner alone may call it",
}

// TestPhase4PLpgSQL lets plpgsql_check read every function and procedure: it plans each
// statement, also of branches that no test takes, and knows SQL that is put together
// unsafely.
func TestPhase4PLpgSQL(t *testing.T) {
	t.Parallel()
	tx, err := secured(t).Superuser.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	var there bool
	require.NoError(t, tx.QueryRow(t.Context(), `select exists (select from pg_available_extensions where name = 'plpgsql_check')`).Scan(&there))
	if !there {
		require.Empty(t, os.Getenv(checkVariable), "this server must have plpgsql_check: apt-get install postgresql-<major>-plpgsql-check")
		t.Log("WARNING: this server has no plpgsql_check, so nobody has read the functions here")
		return
	}
	checklist.Proves(t, "success-criteria/security/no-sql-injection-vulnerabilities")
	run(t, tx, `
		create schema plpgsql_check; create extension plpgsql_check schema plpgsql_check;
		-- The triggers that phase 4 has dropped, whose functions wait for its rollback.
		do $$ declare trigger record; begin
			for trigger in select statement from tenancy.undo where phase = 4 and statement like 'CREATE TRIGGER %' loop execute trigger.statement; end loop;
		end $$;
		set local search_path = pg_catalog`)
	require.ElementsMatch(t, slices.Collect(maps.Keys(explained)), readFunctions(t, tx), "what is not explained, or explained and not there")

	for sql, want := range map[string]string{
		`create function public.mutant(p_name text) returns void language plpgsql as $$ begin execute 'select from public.' || p_name; end $$`:               "public.mutant(text) line 1: security: text type variable is not sanitized",
		`create function public.mutant() returns boolean language plpgsql as $$ begin return exists (select from public.agents a where a.nmae = ''); end $$`: "public.mutant() line 1: error: column a.nmae does not exist",
		`create function public.mutant() returns trigger language plpgsql as $$ begin return new; end $$`:                                                    "public.mutant() is no table's trigger, so nobody can read it",
		`create function public.mutant() returns trigger language plpgsql as $$ begin new.nmae = ''; return new; end $$;
		 create trigger mutant before insert on public.agents for each row execute function public.mutant()`: `public.mutant() on public.agents line 1: error: record "new" has no field "nmae"`,
	} {
		t.Run(want, func(t *testing.T) {
			tx, err := tx.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			run(t, tx, sql)
			require.Contains(t, readFunctions(t, tx), want)
		})
	}
}

// readFunctions is what plpgsql_check finds in our functions, in those of triggers with
// each table that has one.
func readFunctions(t testing.TB, tx pgx.Tx) []string {
	t.Helper()
	rows, err := tx.Query(t.Context(), `
		with ours as (
			select oid, prorettype = 'trigger'::regtype as is_trigger from pg_proc
			where prolang = (select oid from pg_language where lanname = 'plpgsql') and pronamespace::regnamespace::text in `+ours+`
		), called as (
			select oid, 0::regclass as relation, null::name as old_rows, null::name as new_rows from ours where not is_trigger
			union all -- Of several triggers of a table, one for INSERT has no old rows, and its function does not ask for them.
			select o.oid, g.tgrelid, max(g.tgoldtable), max(g.tgnewtable) from ours o join pg_trigger g on g.tgfoid = o.oid group by o.oid, g.tgrelid
		)
		select concat_ws(' on ', c.oid::regprocedure, nullif(c.relation, 0)::regclass), ' line ' || f.lineno || ': ' || f.level || ': ' || f.message
		from called c
		left join lateral plpgsql_check.plpgsql_check_function_tb(c.oid, c.relation, oldtable => c.old_rows, newtable => c.new_rows,
			fatal_errors => false, other_warnings => true, extra_warnings => true, security_warnings => true) as f on true
		union all
		select oid::regprocedure::text, ' is no table''s trigger, so nobody can read it'
		from ours where is_trigger and oid not in (select tgfoid from pg_trigger)`)
	require.NoError(t, err)
	found, checked := map[string]bool{}, map[string]bool{}
	var function string
	var problem *string
	_, err = pgx.ForEachRow(rows, []any{&function, &problem}, func() error {
		checked[function] = true
		if problem != nil {
			found[function+*problem] = true
		}
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, checked)
	t.Logf("checked %d functions, those of triggers with each of their tables", len(checked))
	return slices.Collect(maps.Keys(found))
}
