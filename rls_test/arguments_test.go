package rls_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
)

// argument is what somebody passes to a function: text, or nil for NULL.
type argument = []byte

// hostile is what somebody passes who means no good, by type. All of kind meet each
// other; what is odd meets the first of the others, and is refused or is nothing.
var hostile = map[string]struct{ kind, odd []argument }{
	"uuid": {
		given(fixtures.Alice.ID, fixtures.Adam.ID, fixtures.Eve.ID, fixtures.Bob.ID, // whoever calls is one of them
			fixtures.Novartis.ID, fixtures.Pfizer.ID, fixtures.Pharmaceuticals.ID, fixtures.SandozLegacy.ID, fixtures.PlatformID,
			fixtures.PfizerAgent.ID, fixtures.BobConversation.ID),
		append(given("99999999-0000-4000-8000-000000000099", "00000000-0000-0000-0000-000000000000", "", "' or true --", "pg_catalog.pg_class", "public.agents", oversized), nil),
	},
	"integer": {
		append(given("1", "0", "-1", "2147483647"), nil),
		given("-2147483648", "2147483648", "1e9", "", "1; delete from public.agents", oversized),
	},
	"public.sharing_scope_type": {
		append(given("organization", "tenant", "platform"), nil),
		given("everyone", "ORGANIZATION", "", "platform' or true --", oversized),
	},
	"text": {
		given("agents", "prompts", "conversations", "organizations", "audit_logs"),
		append(given("", "o'clock", "AGENTS", `"agents"`, "public.agents", "pg_temp.agents", "pg_catalog.pg_class", "tenancy.classified_table", "agents r set name = name --",
			"agents; delete from public.agents", `agents" r set deleted_at = null; --`, "' or true --", "'; select set_config('role', 'service_role', false); --",
			"$$ $1 $$", "%I %s %1$L", `\`, "16384", "agents\u202e", "ａgents", oversized), nil),
	},
	"text[]": {
		given("{}", "{oncology}", "{NULL}"),
		append(given("", "{", "oncology", "{{a},{b}}", "[2:3]={a,b}", `{"' or true --"}`, `{"\\"}`, "{"+oversized+"}"), nil),
	},
}

// oversized is 1 MB.
var oversized = strings.Repeat("agents'", 1<<20/7)

func given(values ...string) (all []argument) {
	for _, value := range values {
		all = append(all, argument(value))
	}
	return all
}

// refusals are the errors that a function may answer with; any other says that an
// argument has come where it should not.
var refusals = []string{
	"22P02", "22003", // it is not of the type
	"2201W", // it is less than no row
	"22023", // it is not one of those that there are
	"42501", // it is not the caller's to ask about
	"P0002", // there is no such row
}

// callable is a function that somebody may call by its name.
type callable struct {
	Identity, Name, Returns string
	Types                   []string
	Anybody, User           bool
}

// callables is found in the catalog: a new function is called like the others.
func callables(t testing.TB, db *pgtest.DB) []callable {
	t.Helper()
	tx, err := db.Superuser.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	run(t, tx, `set local search_path = ''`)
	rows, err := tx.Query(t.Context(), `
		select * from (
			select p.oid::regprocedure::text, format('%I.%I', n.nspname, p.proname), p.prorettype::regtype::text,
				array(select format_type(type, null) from unnest(p.proargtypes) with ordinality as a (type, n) order by n),
				has_schema_privilege('anon', n.oid, 'USAGE') and has_function_privilege('anon', p.oid, 'EXECUTE') as anybody,
				has_schema_privilege('authenticated', n.oid, 'USAGE') and has_function_privilege('authenticated', p.oid, 'EXECUTE') as signed_in
			from pg_proc p join pg_namespace n on n.oid = p.pronamespace
			where n.nspname not in ('pg_catalog', 'information_schema') and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
			  and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')) as f
		where anybody or signed_in order by 1`)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[callable])
	require.NoError(t, err)
	require.NotEmpty(t, found)
	return found
}

// calls is the lists of arguments for a function, or the type that nobody has hostile
// values of.
func (f callable) calls() (calls [][]argument, unknown string) {
	for _, name := range f.Types {
		if _, ok := hostile[name]; !ok {
			return nil, name
		}
	}
	product := [][]argument{nil}
	for i, name := range f.Types {
		var longer [][]argument
		for _, call := range product {
			for _, value := range hostile[name].kind {
				longer = append(longer, append(slices.Clone(call), value))
			}
		}
		product = longer
		for _, odd := range hostile[name].odd {
			var call []argument
			for _, other := range f.Types {
				call = append(call, hostile[other].kind[0])
			}
			call[i] = odd
			calls = append(calls, call)
		}
	}
	return append(product, calls...), ""
}

// sql is the call, whose arguments are text that the server makes into what they are for.
func (f callable) sql() string {
	var parameters []string
	for i, name := range f.Types {
		parameters = append(parameters, fmt.Sprintf("$%d::text::%s", i+1, name))
	}
	return fmt.Sprintf("select f.* from %s(%s) as f", f.Name, strings.Join(parameters, ", "))
}

// written is the call as somebody would write it.
func (f callable) written(call []argument) string {
	var values []string
	for _, value := range call {
		switch {
		case value == nil:
			values = append(values, "NULL")
		case len(value) > 100:
			values = append(values, fmt.Sprintf("'%s… (%d bytes)'", value[:20], len(value)))
		default:
			values = append(values, "'"+string(value)+"'")
		}
	}
	return f.Name + "(" + strings.Join(values, ", ") + ")"
}

// answer is what a call returned.
type answer struct {
	rows    [][][]byte
	failure *pgconn.PgError
}

func (a answer) String() string {
	if a.failure != nil {
		return a.failure.Error()
	}
	var lines []string
	for _, row := range a.rows {
		lines = append(lines, fmt.Sprintf("%q", row))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// ask makes the calls, each in a transaction of its own that is committed: what one
// changes is there to be found.
func ask(t testing.TB, conn *pgx.Conn, sql string, calls [][]argument) (answers []answer) {
	t.Helper()
	for some := range slices.Chunk(calls, 200) {
		pipeline := conn.PgConn().StartPipeline(t.Context())
		for _, call := range some {
			pipeline.SendQueryParams(sql, call, nil, nil, nil)
			require.NoError(t, pipeline.Sync())
		}
		for range some {
			results, err := receive(pipeline)
			a := answer{}
			if err != nil {
				require.True(t, errors.As(err, &a.failure), "%v", err)
			} else {
				a.rows = results[0].Rows
			}
			answers = append(answers, a)
		}
		require.NoError(t, pipeline.Close())
	}
	return answers
}

// traps is a schema that somebody puts before all others, with something in it for every
// name that a function may use.
const traps = `
	create schema trap;
	create function trap.sprung() returns boolean language plpgsql as $$ begin raise exception 'a trap'; end $$;
	do $$
	declare
		target record;
	begin
		for target in
			select distinct on (relname) oid::regclass as relation, relname from pg_class
			where relnamespace::regnamespace::text in ('public', 'authz', 'tenancy', 'audit') and relkind in ('r', 'p', 'v', 'm')
		loop
			execute format('create view trap.%I as select * from %s where trap.sprung()', target.relname, target.relation);
		end loop;
		for target in
			select distinct proname, pg_get_function_identity_arguments(oid) as arguments from pg_proc
			where prokind = 'f' and prorettype <> 'trigger'::regtype and pronamespace::regnamespace::text in ('public', 'authz', 'tenancy', 'audit', 'auth')
			   or pronamespace = 'pg_catalog'::regnamespace and proname in ('now', 'quote_nullable', 'to_regclass', 'current_setting', 'pg_has_role', 'lower')
		loop
			execute format('create function trap.%I(%s) returns void language plpgsql as ''begin perform trap.sprung(); end''', target.proname, target.arguments);
		end loop;
		for target in select * from (values ('uuid'), ('text'), ('name'), ('oid'), ('boolean')) as t (type) loop
			execute format('create function trap.equal(%1$s, %1$s) returns boolean language plpgsql as ''begin return trap.sprung(); end'';
				create operator trap.= (leftarg = %1$s, rightarg = %1$s, function = trap.equal)', target.type);
		end loop;
	end $$;
	grant usage on schema trap to public;
	grant select on all tables in schema trap to public;
	grant execute on all functions in schema trap to public`

// hostileProblems calls every function that the callers may call with everything that is
// hostile, and says what nobody should have got, changed or heard.
func hostileProblems(t testing.TB, db *pgtest.DB, callers ...caller) (problems []string) {
	t.Helper()
	w := migrated()
	functions := callables(t, db)
	statement(traps)(t, db)
	definitions := phasetest.Catalog(t, db)
	made, answered := 0, 0
	conn := db.Connect(t, pgtest.APIRole)
	for _, f := range functions {
		calls, unknown := f.calls()
		if unknown != "" {
			problems = append(problems, fmt.Sprintf("%s may be called, and there are no hostile values of type %s: add some to hostile", f.Identity, unknown))
			continue
		}
		before := phasetest.Data(t, db)
		for _, c := range callers {
			if c.role == "anon" && !f.Anybody || c.role == "authenticated" && !f.User {
				continue
			}
			_, err := conn.Exec(t.Context(), `reset role`)
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), `
				select set_config('role', $1, false), set_config('request.jwt.claims', $2, false), set_config('search_path', 'public', false), set_config('statement_timeout', '5s', false)`,
				c.role, c.claims())
			require.NoError(t, err)
			secrets := w.secrets(c.sub)
			answers := ask(t, conn, f.sql(), calls)
			_, err = conn.Exec(t.Context(), `set search_path = trap, pg_temp, pg_catalog, public`)
			require.NoError(t, err)
			for i, trapped := range ask(t, conn, f.sql(), calls) {
				made += 2
				if len(answers[i].rows) > 0 {
					answered++
				}
				says := c.String() + " calls " + f.written(calls[i])
				// What is in auth is Supabase's, and looks for names where its caller says.
				if trapped.String() != answers[i].String() && !strings.HasPrefix(f.Name, "auth.") {
					problems = append(problems, fmt.Sprintf("%s, and it answers otherwise where other objects have these names: %.200s", says, trapped))
				}
				if problem := answers[i].problem(f, calls[i], secrets); problem != "" {
					problems = append(problems, says+problem)
				}
			}
		}
		if diff := catalog.Diff(before, phasetest.Data(t, db)); diff != "" {
			problems = append(problems, fmt.Sprintf("calling %s with what is not one's own changed:\n%s", f.Identity, diff))
		}
	}
	if diff := catalog.Diff(definitions, phasetest.Catalog(t, db)); diff != "" {
		problems = append(problems, "calling functions has changed the definitions:\n"+diff)
	}
	require.Positive(t, answered)
	t.Logf("checked %d functions by %d calls, of which %d answered with rows", len(functions), made, answered)
	return problems
}

// problem is what is wrong with an answer.
func (a answer) problem(f callable, call []argument, secrets secrets) string {
	if a.failure != nil {
		if !slices.Contains(refusals, a.failure.Code) {
			return fmt.Sprintf(", which fails as nobody has foreseen: %.200s", a.failure)
		}
		heard := strings.Join([]string{a.failure.Message, a.failure.Detail, a.failure.Hint, a.failure.Where, a.failure.InternalQuery}, "\n")
		for _, value := range call {
			if len(value) > 0 {
				heard = strings.ReplaceAll(heard, string(value), "")
			}
		}
		if secret := secrets.in(heard); secret != "" {
			return fmt.Sprintf(", whose error tells %q: %.200s", secret, a.failure)
		}
		return ""
	}
	for _, row := range a.rows {
		for _, value := range row {
			if value == nil && f.Returns == "boolean" {
				return ", which is NULL and not false"
			}
			if secret := secrets.is(string(value)); secret != "" {
				return fmt.Sprintf(", which shows %q", secret)
			}
		}
	}
	return ""
}

// secrets is the ids and names that stand in no row that somebody may read.
type secrets struct{ ids, names []string }

func (w world) secrets(user string) (found secrets) {
	known := map[string]bool{"": true}
	for _, r := range w.rows {
		if w.mayRead(user, r) {
			for _, value := range []string{r.key, r.name, r.owner, r.creator, r.user, r.agent, r.conversation, r.code} {
				known[value] = true
			}
			known[w.tenant(r.owner)] = true // an organization's row names it
		}
	}
	for _, r := range w.rows {
		for _, id := range []string{r.key, r.owner, r.creator, r.user} {
			if !known[id] && len(id) == 36 {
				found.ids = append(found.ids, id)
				known[id] = true
			}
		}
		if !known[r.name] {
			found.names = append(found.names, r.name)
			known[r.name] = true
		}
	}
	return found
}

// is returns the secret that a value is, or that is in it.
func (s secrets) is(value string) string {
	for _, name := range s.names {
		if value == name {
			return name
		}
	}
	for _, id := range s.ids {
		if strings.Contains(value, id) {
			return id
		}
	}
	return ""
}

// in returns a secret that is in a text.
func (s secrets) in(text string) string {
	for _, secret := range slices.Concat(s.ids, s.names) {
		if len(secret) > 4 && strings.Contains(text, secret) {
			return secret
		}
	}
	return ""
}

// TestPhase4Arguments passes to every function what nobody should.
func TestPhase4Arguments(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/no-sql-injection-vulnerabilities", "success-criteria/security/users-cannot-see-unauthorized-data")
	t.Run("hostile arguments get nothing, change nothing and hear nothing", func(t *testing.T) {
		t.Parallel()
		problems := hostileProblems(t, secured(t), callerOf(stranger), caller{role: "authenticated"}, callerOf(fixtures.Adam), callerOf(fixtures.Eve))
		if len(problems) > 0 {
			t.Fatalf("%d problems. The first:\n%s", len(problems), strings.Join(problems[:min(10, len(problems))], "\n"))
		}
	})
	t.Run("functions that are broken are found", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		mutants := map[string]mutant{
			"a function answers about others": {without("public.get_accessible_agents(uuid,integer)", "perform authz.require_self(p_user_id);"),
				`alice@novartis.com calls public.get_accessible_agents('` + fixtures.Bob.ID + `', '2147483647'), which shows`},
			"a function deletes for anybody": {instead("public.soft_delete(text,uuid)", "r.owner_organization_id = any ((select authz.admin_organizations())::uuid[])", "true"),
				`calling public.soft_delete(text,uuid) with what is not one's own changed`},
			"a function neither allows nor refuses": {instead("public.can_user_access_resource(uuid,uuid,public.sharing_scope_type)", "return p_user_id is not null and exists", "return p_resource_sharing_scope <> 'tenant' or exists"),
				`alice@novartis.com calls public.can_user_access_resource('` + fixtures.Alice.ID + `', '` + fixtures.Novartis.ID + `', NULL), which is NULL and not false`},
			"a function makes SQL of what it is given": {statement(`
				create function public.mutant_sql(p_name text) returns void language plpgsql as $$ begin execute 'select ''' || p_name || ''''; end $$`),
				`alice@novartis.com calls public.mutant_sql('o'clock'), which fails as nobody has foreseen: ERROR: `},
			"a function tells in an error": {statement(`
				create function public.mutant_error(p_id uuid) returns void language plpgsql security definer set search_path = '' as $$
				begin raise exception 'not yours: %', (select name from public.agents where id = p_id) using errcode = '42501'; end $$`),
				`alice@novartis.com calls public.mutant_error('` + fixtures.PfizerAgent.ID + `'), whose error tells "Pfizer": ERROR: not yours: Pfizer RA Agent`},
			"a function looks for names where its caller says": {statement(`
				create function public.mutant_path() returns bigint language plpgsql as $$ begin return (select count(*) from agents); end $$`),
				`alice@novartis.com calls public.mutant_path(), and it answers otherwise where other objects have these names: ERROR: a trap`},
			"a function makes a table": {statement(`
				create function public.mutant_table() returns void language plpgsql security definer set search_path = '' as $$ begin create table if not exists tenancy.mutant (); end $$`),
				"calling functions has changed the definitions"},
			"a function takes what nobody has thought of": {statement(`create function public.mutant_type(point) returns void language sql return null`),
				`public.mutant_type(point) may be called, and there are no hostile values of type point`},
		}
		for name := range mutants {
			mutants[name].breaks(t, db)
		}
		statement(`grant execute on all functions in schema public to authenticated; revoke execute on function public.refresh_organization_stats(), public.count_tenant_agents(uuid) from authenticated`)(t, db)
		found := hostileProblems(t, db, callerOf(fixtures.Alice))
		for name, m := range mutants {
			require.True(t, slices.ContainsFunc(found, func(sentence string) bool { return strings.HasPrefix(sentence, m.says) }),
				"%s, and nobody says: %s\nbut:\n%s", name, m.says, strings.Join(found[:min(10, len(found))], "\n"))
		}
	})
}
