package dump_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/dump"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// Environment variables beside the dump's own.
const (
	prepareVariable = "BASELINE_PREPARE" // a SQL file that the owner runs between phases 1 and 2, as the operator will
	usersVariable   = "BASELINE_USERS"   // how many of its users are asked
)

// How many users are asked: of a dump that is kept here, and of another, unless it is said otherwise.
const (
	few  = 7
	many = 25
)

// The dump that was given, or else the one that is kept here, goes up all phases and down again.
func TestDump(t *testing.T) {
	t.Parallel()
	path, prepare, users := os.Getenv(dump.Variable), os.Getenv(prepareVariable), environment(t, usersVariable, many)
	given := path != ""
	if !given {
		path, prepare, users = kept(t, "world.dump"), kept(t, "prepare.sql"), few
	}
	d, err := dump.Open(path)
	require.NoError(t, err)
	e := begin(t, d, schema.Legacy)
	defer e.publish(t)
	e.sampled, e.prepare = users, operators(t, prepare)
	e.examine(t)
	if e.problems > 0 {
		t.Errorf("%d problems: see the end of the report", e.problems)
	}
	if !given {
		text := e.String()
		require.Contains(t, text, "organizations_in_quarantine: 1 rows", "the operator has said whose the other is")
		require.Contains(t, text, "To do before the deployment\n  function public.made_by_the_platform() of supabase_admin")
		require.Contains(t, text, `extension pg_graphql: extension "pg_graphql" is not available`)
		require.Contains(t, text, "role dashboard_user: 3 × grant, 1 × policy")
	}
}

// kept is the path of a dump that is kept here.
func kept(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	require.NoError(t, err)
	return path
}

// open opens a dump that is kept here.
func open(t *testing.T, name string) *dump.Dump {
	t.Helper()
	d, err := dump.Open(kept(t, name))
	require.NoError(t, err)
	return d
}

// operators is the operator's file, nil if there is none.
func operators(t *testing.T, path string) *schema.File {
	t.Helper()
	if path == "" {
		return nil
	}
	require.True(t, filepath.IsAbs(path), "%s=%s: give an absolute path (make does it for you)", prepareVariable, path)
	sql, err := os.ReadFile(path)
	require.NoError(t, err)
	return &schema.File{Path: filepath.Base(path), Origin: path, SQL: string(sql)}
}

// What is restored does not depend on the format.
func TestDumpFormats(t *testing.T) {
	t.Parallel()
	custom, plain := open(t, "world.dump"), open(t, "world.sql.gz")
	require.Equal(t, []string{"custom", "plain"}, []string{custom.Format, plain.Format})
	pictures := map[*dump.Dump]picture{}
	for _, d := range []*dump.Dump{custom, plain} {
		e := begin(t, d, schema.Legacy)
		pictures[d] = e.take(t)
	}
	require.NotEmpty(t, pictures[custom].rows["private.jobs"])
	require.Empty(t, pictures[custom].diff(pictures[plain]))
}

// A dump of one schema, without owners, without privileges, and without all rows but
// those of organizations: the report says what it does not prove.
func TestDumpLacking(t *testing.T) {
	t.Parallel()
	d := open(t, "poor.sql.gz")
	before, r := begin(t, d, schema.Phase1), begin(t, d, schema.Phase4)
	before.prepareWorld(t)
	r.like(before)
	for _, phase := range schema.Phases() {
		r.verify(t, phase)
	}
	r.phase4(t)
	r.checkPlans(t)
	text := before.String() + r.String()
	require.Zero(t, r.problems, text)
	for _, sentence := range []string{
		"owners (pg_dump -O): whether",
		"auth.uid(): whether",
		"fk constraint public.users users_id_fkey: relation \"auth.users\" does not exist",
		"role dashboard_user: 1 × policy",
		"rows of users: only somebody was asked",
		"rows of users: the verification query organizations_of_a_user",
		"rows of user_organizations: nobody is a member",
		"rows of agents: who sees agents",
		"the table prompts, and the rows in it: who",
		"privileges of anon and authenticated (pg_dump -x)",
		"whether plans use their indexes",
	} {
		require.Contains(t, text, sentence)
	}
	require.Contains(t, text, "see exactly what the rules say after phase 4")
	require.NotContains(t, text, "hidden from them before", "nobody could see anything, which proves nothing")
}

// A database that phase 2 refuses: the report says why, and what to do.
func TestDumpRefused(t *testing.T) {
	t.Parallel()
	e := begin(t, open(t, "world.dump"), schema.Legacy)
	phasetest.Exec(t, e.db, `update public.organizations set tenant_type = 'system' where id = '7e000000-1111-4000-8000-000000000001'`)
	e.examine(t)
	text := e.String()
	require.Equal(t, 1, e.problems, text)
	require.Contains(t, text, "phase2 does not run: nothing after it was checked")
	require.Contains(t, text, "two rows or more claim to be the platform: 7d000000-1111-4000-8000-000000000001, 7e000000-1111-4000-8000-000000000001")
	require.Contains(t, text, "What to do: Correct the rows")
	require.NotContains(t, text, "phase3")
}
