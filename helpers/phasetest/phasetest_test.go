package phasetest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/failing"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// What the tests of the phases rest on fails when it should.

// said demands that an assertion fails, with these words.
func said(t *testing.T, words string, assertion func(testing.TB)) {
	t.Helper()
	found := failing.Test(t, assertion)
	require.NotEmpty(t, found, "it passes")
	require.Contains(t, found[0], words)
}

func TestSame(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	before := Take(t, db)
	before.Same(t, db)
	for words, sql := range map[string]string{
		"public.users":          `update public.users set full_name = full_name || '.' where email = 'alice@novartis.com'`,
		"table public.later":    `create table public.later (id int)`,
		"acl table public.user": `grant select on public.users to anon with grant option`,
	} {
		changed := pgtest.New(t, schema.Legacy, fixtures.World()...)
		Exec(t, changed, sql)
		said(t, words, func(t testing.TB) { before.Same(t, changed) })
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	file := func(sql string) schema.File { return schema.File{Origin: "x.sql", SQL: sql} }
	const refusal = `do $$ begin raise exception 'not like this'; end $$;`
	Refuses(t, db, file(refusal), "not like this")
	for words, f := range map[string]struct{ sql, message string }{
		"want the refusal":                             {`select 1;`, "not like this"},
		"does not contain \"another\"":                 {`do $$ begin raise exception 'not like this'; end $$; -- another`, "another"},
		"a refused migration leaves the definitions a": {`create table public.later (id int);` + refusal, "not like this"},
		"a refused migration leaves the rows a":        {`update public.users set full_name = 'X' where email = 'bob@pfizer.com';` + refusal, "not like this"},
	} {
		said(t, words, func(t testing.TB) { Refuses(t, db, file(f.sql), f.message) })
	}
}

func TestVerification(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	find := verify.Query{Name: "no user without an address", Expect: verify.None, SQL: `select id from public.users where email is null or email = ''`}
	const fault = `update public.users set email = '' where email = 'bob@pfizer.com'`
	verification(t, db, find, map[string]string{find.Name: fault})
	holds := find
	holds.SQL += ` or true`
	said(t, "Should be true", func(t testing.TB) { verification(t, db, holds, map[string]string{find.Name: fault}) })
	said(t, "Should be false", func(t testing.TB) {
		verification(t, db, find, map[string]string{find.Name: `update public.users set full_name = ''`})
	})
	said(t, "does not contain", func(t testing.TB) { verification(t, db, find, nil) })
	said(t, "only what informs cannot fail", func(t testing.TB) { verification(t, db, find, map[string]string{find.Name: ""}) })
}

func TestWorks(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	works(t, db, actor.Service(), `select from public.users`)
	said(t, "must meet rows", func(t testing.TB) { works(t, db, actor.Service(), `select from public.users where false`) })
	said(t, "does not exist", func(t testing.TB) { works(t, db, actor.Service(), `select from public.user`) })
}
