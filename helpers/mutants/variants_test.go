package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// said is the variants as a reader sees them.
func said(all []variant) (found map[string]string) {
	found = map[string]string{}
	for _, v := range all {
		found[v.operator+": "+v.place] = v.sql
	}
	return found
}

func TestVariants(t *testing.T) {
	for name, test := range map[string]struct {
		sql  string
		want map[string]string
	}{
		"AND": {`SELECT a AND b AND c`, map[string]string{
			"OR instead of AND: a AND b AND c": `SELECT a OR b OR c`,
			"leave out of AND: a":              `SELECT b AND c`,
			"leave out of AND: b":              `SELECT a AND c`,
			"leave out of AND: c":              `SELECT a AND b`,
		}},
		"OR of two": {`SELECT a OR b`, map[string]string{
			"AND instead of OR: a OR b": `SELECT a AND b`,
			"leave out of OR: a":        `SELECT b`,
			"leave out of OR: b":        `SELECT a`,
		}},
		"a comparison in a condition": {`SELECT x FROM t WHERE x < 1`, map[string]string{
			"leave out WHERE: x < 1": `SELECT x FROM t`,
			"<= instead of <: x < 1": `SELECT x FROM t WHERE x <= 1`,
			">= instead of <: x < 1": `SELECT x FROM t WHERE x >= 1`,
		}},
		"EXISTS, and its negation": {`SELECT EXISTS (SELECT), NOT EXISTS (SELECT)`, map[string]string{
			"negate EXISTS: EXISTS (SELECT)":         `SELECT NOT EXISTS (SELECT), NOT EXISTS (SELECT)`,
			"take the NOT away: NOT EXISTS (SELECT)": `SELECT EXISTS (SELECT), EXISTS (SELECT)`,
		}},
		"columns that look alike": {`SELECT owner_organization_id`, map[string]string{
			"ask for owner_tenant_id instead: owner_organization_id": `SELECT owner_tenant_id`,
		}},
		"a list of roles": {`SELECT role = ANY('{admin,member}')`, map[string]string{
			"ALL instead of ANY: role = ANY('{admin,member}')":  `SELECT role = ALL('{admin,member}')`,
			"leave out of the list: admin of '{admin,member}'":  `SELECT role = ANY('{member}')`,
			"leave out of the list: member of '{admin,member}'": `SELECT role = ANY('{admin}')`,
			"viewers, too: '{admin,member}'":                    `SELECT role = ANY('{admin,member,viewer}')`,
		}},
		"a join": {`SELECT * FROM a JOIN b ON x IS NULL`, map[string]string{
			"make it an outer join: x IS NULL":        `SELECT * FROM a LEFT JOIN b ON x IS NULL`,
			"turn the test for NULL round: x IS NULL": `SELECT * FROM a JOIN b ON x IS NOT NULL`,
		}},
		"a UNION": {`SELECT a UNION SELECT b`, map[string]string{
			"the first half of UNION alone: ":  `SELECT a`,
			"the second half of UNION alone: ": `SELECT b`,
		}},
		"nothing to break": {`SELECT a`, map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := variants(test.sql)
			require.NoError(t, err)
			require.Equal(t, test.want, said(found))
		})
	}
	_, err := variants(`SELECT FROM WHERE`)
	require.Error(t, err)
}

func TestEdits(t *testing.T) {
	const body = `
declare
    found_it boolean;
    o public.organizations;
begin
    if found_it then
        raise exception 'it; is' using hint = 'x';
    end if;
    perform f(1);
    select true into found_it
    from t;
    o.slug := coalesce('a', 'b');
    execute format('select %s', 1) into found_it;
    call p();
    -- then
    call q();
    commit;
end
`
	found, err := edits("do $$"+body+"$$", body)
	require.NoError(t, err)
	lines := map[string]string{}
	for _, e := range found {
		lines[e.operator+": "+e.place] = difference(body, e.in(body))
	}
	require.Equal(t, map[string]string{
		"let it always be so: found_it":                              "-     if found_it then\n+     if true then\n",
		"let it never be so: found_it":                               "-     if found_it then\n+     if false then\n",
		"do not raise it: raise exception 'it; is' using hint = 'x'": "-         raise exception 'it; is' using hint = 'x';\n+         null;\n",
		"do not do it: f(1)":                                         "-     perform f(1);\n+     null;\n",
		"the other truth value: true":                                "-     select true into found_it\n-     from t;\n+     SELECT false FROM t into found_it;\n",
		"leave out of COALESCE: 'a'":                                 "-     o.slug := coalesce('a', 'b');\n+     o.slug := COALESCE('b');\n",
		"leave out of COALESCE: 'b'":                                 "-     o.slug := coalesce('a', 'b');\n+     o.slug := COALESCE('a');\n",
		"do not assign it: o.slug := coalesce('a', 'b')":             "-     o.slug := coalesce('a', 'b');\n+     null;\n",
		"do not execute it: format('select %s', 1)":                  "-     execute format('select %s', 1) into found_it;\n+     null;\n",
		"do not call it: call q()":                                   "-     call q();\n+     null;\n",
		"the other way round: call p()":                              "-     call p();\n-     -- then\n-     call q();\n+     call q();\n+     -- then\n+     call p();\n",
		"the other way round: f(1)":                                  "-     perform f(1);\n-     select true into found_it\n-     from t;\n+     select true into found_it\n+     from t;\n+     perform f(1);\n",
		"the other way round: select true from t":                    "-     select true into found_it\n-     from t;\n-     o.slug := coalesce('a', 'b');\n+     o.slug := coalesce('a', 'b');\n+     select true into found_it\n+     from t;\n",
		"the other way round: o.slug := coalesce('a', 'b')":          "-     o.slug := coalesce('a', 'b');\n-     execute format('select %s', 1) into found_it;\n+     execute format('select %s', 1) into found_it;\n+     o.slug := coalesce('a', 'b');\n",
		"the other way round: format('select %s', 1)":                "-     execute format('select %s', 1) into found_it;\n-     call p();\n+     call p();\n+     execute format('select %s', 1) into found_it;\n",
		"do not call it: call p()":                                   "-     call p();\n+     null;\n",
		"do not commit: ":                                            "-     commit;\n+     null;\n",
		"do not do it: select true from t":                           "-     select true into found_it\n-     from t;\n+     null;\n",
	}, lines)
}
