package main

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/sarif"
	"github.com/vital-health/tenancy/schema"
)

// rules are those that a file breaks, with their lines.
func rules(sql string) (broken []string) {
	found, _ := read([]schema.File{{Path: "migrations/x.sql", Origin: "x.sql", SQL: sql}})
	for _, f := range found {
		broken = append(broken, fmt.Sprintf("%d %s", f.Line, f.Rule))
	}
	return broken
}

func TestRules(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sql  string
		want []string
	}{
		"a grant to anon":                              {"begin;\ngrant select on public.agents to authenticated, anon;\ncommit;", []string{"2 grant-to-everybody"}},
		"a grant to PUBLIC":                            {"grant execute on function public.f() to public;", []string{"1 grant-to-everybody"}},
		"nor a revocation, nor another grantee":        {"revoke all on public.agents from anon; grant select on public.agents to authenticated;", nil},
		"row security off":                             {"begin;\nalter table public.agents disable row level security;\ncommit;", []string{"2 row-security-off"}},
		"a trigger asleep":                             {"begin; alter table public.agents disable trigger all; commit;", []string{"1 trigger-off"}},
		"a policy for all rows":                        {"create policy p on public.agents to authenticated using (true);", []string{"1 policy-always-true"}},
		"a policy that writes anything":                {"create policy p on public.agents to authenticated using (a = 1) with check (true);", []string{"1 policy-always-true"}},
		"a policy for everybody":                       {"create policy p on public.agents using (a = 1);", []string{"1 policy-for-everybody"}},
		"a definer without a path":                     {"create function f() returns int language sql security definer as 'select 1';", []string{"1 definer-search-path"}},
		"nor one with it":                              {"create function f() returns int language sql security definer set search_path = pg_catalog, pg_temp as 'select 1';", nil},
		"a definer whose path says nothing of pg_temp": {"create function f() returns int language sql security definer set search_path = '' as 'select 1';", []string{"1 definer-search-path"}},
		"or not as the last":                           {"create function f() returns int language sql security definer set search_path = pg_temp, pg_catalog as 'select 1';", []string{"1 definer-search-path"}},
		"a table without a class":                      {"create table public.notes (id int);", []string{"1 table-without-class"}},
		"nor one with it, nor elsewhere":               {"insert into tenancy.classified_table values ('notes', 'resource'); create table public.notes (id int); create table tenancy.x (id int);", nil},
		"rows outside of a transaction":                {"begin; update public.agents set a = 1; commit;\nupdate public.agents set a = 1;", []string{"2 rows-outside"}},
		"a lock outside of a transaction":              {"alter table public.agents add a int;", []string{"1 lock-without-timeout"}},
		"in a block, with the line":                    {"begin;\ndo $$\nbegin\n    grant select on public.agents to anon;\nend $$; commit;", []string{"4 grant-to-everybody"}},
		"in a function, with the line":                 {"create function f() returns void language plpgsql as $$\nbegin\n    alter table public.a\n        disable row level security;\nend $$;", []string{"3 row-security-off"}},
		"in a function in SQL":                         {"create function f() returns void language sql as $$\ngrant select on public.agents to anon $$;", []string{"1 grant-to-everybody"}},
		"in what a block puts together":                {"do $$\nbegin\n    execute format('alter table public.%I disable row level security', 'a');\nend $$;", []string{"3 row-security-off"}},
		"no SQL":                                       {"select 1;\nselect from\n  where;", []string{"3 syntax"}},
		"no SQL in a function":                         {"create function f() returns int language sql as $$\nselec 1 $$;", []string{"2 syntax"}},
		"a meta-command, which nothing would run":      {"select 1;\n\\i other.sql\n", []string{"2 syntax"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, rules(test.sql))
		})
	}
}

func TestExceptions(t *testing.T) {
	t.Parallel()
	_, statements := read([]schema.File{{Origin: "migrations/x.sql", SQL: "select 1;\nselect 2;"}})
	found := []sarif.Finding{{Rule: "r", File: "migrations/x.sql", Line: 1}, {Rule: "r", File: "migrations/x.sql", Line: 2}}
	apply := func(t *testing.T, text string, complete bool) ([]sarif.Finding, error) {
		t.Helper()
		all, err := parseExceptions(text)
		require.NoError(t, err)
		return all.apply(found, statements, complete)
	}
	rest, err := apply(t, "# why\nr | x.sql | select 2 | because\n", true)
	require.NoError(t, err)
	require.Equal(t, found[:1], rest)

	for _, other := range []string{"q | x.sql | select 2 | because", "r | y.sql | select 2 | because", "r | x.sql | select 3 | because"} {
		rest, err = apply(t, other, false)
		require.NoError(t, err)
		require.Equal(t, found, rest)
		_, err = apply(t, other, true)
		require.ErrorContains(t, err, "exceptions.txt:1: nothing breaks the rule")
	}
	for _, bad := range []string{"r | x.sql | select 2", "r | x.sql | select 2 | "} {
		_, err := parseExceptions(bad)
		require.ErrorContains(t, err, "exceptions.txt:1: ")
	}
}

func TestSquawk(t *testing.T) {
	t.Parallel()
	command, err := exec.Command("../../.ci/squawk").Output()
	require.NoError(t, err)
	squawk := string(command[:len(command)-1])
	found, err := runSquawk(squawk, []schema.File{{Path: "migrations/x.sql", Origin: "x.sql",
		SQL: "\\set ON_ERROR_STOP on\nselect 'select 1'\n\\gexec\ncreate index i on public.agents (id);\n"}})
	require.NoError(t, err)
	require.NotEmpty(t, found)
	for _, f := range found {
		require.Equal(t, "x.sql", f.File)
		require.Equal(t, 4, f.Line, f)
	}
	_, err = runSquawk("/no/such/command", nil)
	require.ErrorContains(t, err, ".ci/squawk installs")
}

func TestReport(t *testing.T) {
	t.Parallel()
	file := t.TempDir() + "/new/x.sarif"
	require.NoError(t, sarif.Write(file, "review", []sarif.Finding{{Rule: "r", File: "a/x.sql", Line: 3, Message: "is wrong"}}))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.JSONEq(t, `{"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [{
		"tool": {"driver": {"name": "review"}},
		"results": [{"ruleId": "r", "level": "error", "message": {"text": "is wrong"}, "locations": [{
			"physicalLocation": {"artifactLocation": {"uri": "a/x.sql"}, "region": {"startLine": 3}}}]}]}]}`, string(text))
}
