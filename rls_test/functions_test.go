package rls_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// hostile are the arguments of each type that a function an API role may call must
// bear, as SQL.
var hostile = map[string][]string{
	"uuid": {"null", "'00000000-0000-0000-0000-000000000000'", "'99999999-0000-4000-8000-000000000099'", quoted(fixtures.Alice.ID), quoted(fixtures.Bob.ID),
		quoted(fixtures.Pfizer.ID), quoted(fixtures.Novartis.ID), quoted(fixtures.PlatformID), quoted(fixtures.SandozLegacy.ID),
		quoted(fixtures.PfizerAgent.ID), quoted(fixtures.NovartisAgent.ID), quoted(fixtures.BobConversation.ID)},
	"text": {"null", "''", "'agents'", "'AGENTS'", "' agents'", "'public.agents'", "'organizations'", "'pg_catalog.pg_authid'", "'conversations'",
		"'agents; drop table public.agents'", `'agents" r set deleted_at = null; --'`, "$q$agents' or true --$q$", `'%I %s %L'`, `E'agents\\'`,
		"repeat('agents', 200000)", "U&'\\200Eagents'", "'$1'"},
	"integer":            {"null", "0", "1", "-1", "2147483647", "-2147483648"},
	"sharing_scope_type": {"null", "'platform'", "'tenant'", "'organization'"},
}

func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// TestPhase4Functions calls every function that an API role may call with arguments
// that nobody means well with.
func TestPhase4Functions(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/no-sql-injection-vulnerabilities")
	db, w := secured(t), migrated()
	rows, err := db.Owner.Query(t.Context(), `
		select p.oid::regprocedure::text, array(select t.typname::text from unnest(p.proargtypes::oid[]) with ordinality as a (type, n) join pg_type t on t.oid = a.type order by a.n)
		from pg_proc p join pg_namespace n on n.oid = p.pronamespace
		where n.nspname not in ('pg_catalog', 'information_schema', 'extensions') and p.prorettype <> 'trigger'::regtype
		  and has_schema_privilege('authenticated', n.oid, 'USAGE') and has_function_privilege('authenticated', p.oid, 'EXECUTE')`)
	require.NoError(t, err)
	calls := map[string][]string{} // by function
	var name string
	var types []string
	_, err = pgx.ForEachRow(rows, []any{&name, &types}, func() error {
		lists := []string{""}
		for _, typ := range types {
			typ = strings.Replace(typ, "int4", "integer", 1)
			require.Contains(t, hostile, typ, "%s takes a type that the test has no arguments for", name)
			var longer []string
			for _, list := range lists {
				for _, argument := range hostile[typ] {
					longer = append(longer, strings.TrimPrefix(list+", ", ", ")+argument)
				}
			}
			lists = longer
		}
		function, _, _ := strings.Cut(name, "(")
		for _, list := range lists {
			calls[name] = append(calls[name], fmt.Sprintf("select f::text from %s(%s) as f", function, list))
		}
		return nil
	})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(calls), 9, "the six of the rollout, and three of the claims")

	users := []fixtures.User{stranger, fixtures.Alice, fixtures.Eve, fixtures.Nobody, fixtures.Root}
	called := 0
	forEach(t, db, users, func(tx pgx.Tx, u fixtures.User) {
		for _, name := range slices.Sorted(maps.Keys(calls)) {
			for i, a := range attempts(t, tx, calls[name]) {
				called++
				for _, problem := range w.tells(u, calls[name][i], a) {
					t.Errorf("%s calls %.200s: %s", u.Email, calls[name][i], problem)
				}
			}
		}
	})
	t.Logf("checked %d functions with %d calls", len(calls), called)
}

var anID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// tells is what a call's answer says that its caller must not hear: the id of a hidden
// row that he did not name himself, or that something happened to one that he did.
func (w world) tells(u fixtures.User, sql string, a attempted) (problems []string) {
	said := anID.FindAllString(strings.Join(append(slices.Clone(a.keys), string(a.outcome)), " "), -1)
	for _, r := range w.rows {
		hidden := !w.mayRead(u.ID, r) && r.table != "organization_stats"
		if r.table == "organizations" { // whose a row is stands in the row
			hidden = hidden && !slices.ContainsFunc(w.rows, func(o row) bool { return o.table != "organizations" && o.owner == r.key && w.mayRead(u.ID, o) })
		}
		if hidden && slices.Contains(said, r.key) && !strings.Contains(sql, r.key) {
			problems = append(problems, "it tells of "+w.describe(r))
		}
		if a.outcome == done && strings.Contains(sql, "soft_delete") && strings.Contains(sql, r.key) && strings.Contains(sql, "'"+r.table+"'") && !w.mayUpdate(u.ID, r) {
			problems = append(problems, "it deletes "+w.describe(r))
		}
	}
	switch {
	case u == stranger && a.outcome == done && !strings.Contains(sql, "auth."):
		problems = append(problems, "nobody has signed in, and it answers")
	case a.outcome == done && strings.Contains(sql, "can_user_access_resource") && (len(a.keys) != 1 || a.keys[0] != "true" && a.keys[0] != "false"):
		problems = append(problems, fmt.Sprintf("it must say true or false, and says %q", a.keys))
	case a.outcome != done && a.outcome != filtered && !slices.ContainsFunc(refusals, func(r string) bool { return strings.Contains(string(a.outcome), r) }):
		problems = append(problems, fmt.Sprintf("it must answer or refuse, and says %.200s", a.outcome))
	}
	return problems
}

// refusals are the ways of saying no to an argument.
var refusals = []string{string(denied), "p_user_id must be the calling user", "there is no resource type", "or not yours to delete", "LIMIT must not be negative"}

// TestPhase4PLpgSQL checks the text of every function with plpgsql_check, with its
// warnings about SQL injection: https://github.com/okbob/plpgsql_check.
func TestPhase4PLpgSQL(t *testing.T) {
	t.Parallel()
	explained := map[string]string{
		"tenancy.patiently(text): text type variable is not sanitized": "it runs the statement that a migration gives it, and is the owner's to call",
	}
	found := map[string]bool{}
	// The triggers for the old application are gone after phase 4.
	for _, phase := range []schema.Phase{schema.Phase3, schema.Phase4} {
		db := pgtest.New(t, phase)
		var available bool
		require.NoError(t, db.Superuser.QueryRow(t.Context(), `select exists (select from pg_available_extensions where name = 'plpgsql_check')`).Scan(&available))
		if !available {
			require.Empty(t, os.Getenv("TEST_PLPGSQL_CHECK"), "this server has no plpgsql_check: apt-get install postgresql-15-plpgsql-check")
			t.Log("this server has no plpgsql_check, so the functions' text was not checked with it")
			return
		}
		_, err := db.Superuser.Exec(t.Context(), `create schema checks; create extension plpgsql_check with schema checks`)
		require.NoError(t, err)
		rows, err := db.Superuser.Query(t.Context(), `
			select p.oid::regprocedure::text, coalesce(c.message, '')
			from pg_proc p
			join pg_language l on l.oid = p.prolang
			left join (
				select tgfoid, tgrelid, max(tgoldtable) as old, max(tgnewtable) as new from pg_trigger group by tgfoid, tgrelid
			) as t on t.tgfoid = p.oid
			left join lateral checks.plpgsql_check_function_tb(p.oid, coalesce(t.tgrelid, 0), oldtable => t.old, newtable => t.new,
				security_warnings => true, other_warnings => true, extra_warnings => true, performance_warnings => false) as c on true
			where l.lanname = 'plpgsql' and (p.prorettype <> 'trigger'::regtype or t.tgrelid is not null)
			  and p.pronamespace::regnamespace::text in `+ours)
		require.NoError(t, err)
		var function, message string
		_, err = pgx.ForEachRow(rows, []any{&function, &message}, func() error {
			found[function] = true
			if _, ok := explained[function+": "+message]; message != "" && !ok {
				t.Errorf("after %s, %s: %s", phase, function, message)
			}
			return nil
		})
		require.NoError(t, err)
	}
	require.Greater(t, len(found), 30)
	t.Logf("checked %d functions", len(found))

	t.Run("it finds what it is there to find", func(t *testing.T) {
		db := pgtest.New(t, schema.Phase4)
		_, err := db.Superuser.Exec(t.Context(), `create extension plpgsql_check; create function public.mutant(p text) returns void language plpgsql as $$ begin execute 'select ' || p; end $$`)
		require.NoError(t, err)
		var message string
		require.NoError(t, db.Superuser.QueryRow(t.Context(), `select message from plpgsql_check_function_tb('public.mutant(text)', security_warnings => true) where level = 'security'`).Scan(&message))
		require.Equal(t, "text type variable is not sanitized", message)
	})
}
