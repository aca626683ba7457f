package deployment_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/dump"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/rehearsal"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// fault stops a rehearsal at a step: by a statement of a superuser, and gone by another one, or by the command that the
// operator has given.
type fault struct {
	step             string
	cause, cure      string
	check, deploying string
	why, back        string // what is said
}

// faults are one for each step, in their order. All but the commands are there from the beginning.
var faults = []fault{
	{step: "1, final backup", cause: `create role %[1]s; alter table public.messages owner to %[1]s`, cure: `alter table public.messages owner to tenancy_owner; drop role %[1]s`,
		why: "permission denied for table messages", back: "nothing has been changed: mend it, and run this again"},
	{step: "2, maintenance mode on", cause: `create schema maintenance`, cure: `drop schema maintenance`,
		why: "there is a schema maintenance already", back: "Or call maintenance.finish()."},
	{step: "3, run phase1", cause: `create schema authz`, cure: `drop schema authz`,
		why: "the migration of phase1 has not come to its end", back: "make rollback PHASE=phase1"},
	{step: "4, verify phase1", check: `test $PHASE != phase1 || { echo 'the login page is white'; exit 1; }`, why: "the login page is white", back: "make rollback PHASE=phase1"},
	{step: "5, run phase2", cause: `insert into public.organizations (id, name, tenant_type) values ('77777777-0000-4000-8000-000000000001', 'Another', 'system')`,
		cure: `delete from public.organizations where id = '77777777-0000-4000-8000-000000000001'`, why: "the migration of phase2 has not come to its end", back: "make rollback PHASE=phase2"},
	{step: "6, verify phase2", check: `test $PHASE != phase2`, why: "exit status 1", back: "make rollback PHASE=phase2"},
	{step: "7, run phase3", cause: `create function public.search_agents() returns integer return 1`, cure: `drop function public.search_agents()`,
		why: "the migration of phase3 has not come to its end", back: "make rollback PHASE=phase3"},
	{step: "8, verify phase3", check: `test $PHASE != phase3`, why: "exit status 1", back: "make rollback PHASE=phase3"},
	{step: "9, switch the application", deploying: `echo 'the image is missing'; exit 1`, why: "the image is missing", back: "deploy the former application"},
	{step: "10, run phase4, and read as real accounts", cause: `create table public.invoices (id uuid primary key); alter table public.invoices owner to tenancy_owner`, cure: `drop table public.invoices`,
		why: "the migration of phase4 has not come to its end", back: "make rollback PHASE=phase4"},
	{step: "10, run phase4, and read as real accounts", check: `test $PHASE != phase4`, why: "exit status 1", back: "make rollback PHASE=phase4"},
}

// steps are those of the faults.
var steps = func() (names []string) {
	for _, f := range faults {
		names = append(names, f.step)
	}
	return names
}()

// rehearse runs a rehearsal, and returns what it says.
func rehearse(t *testing.T, db *pgtest.DB, folder, check, deploying string) (said string, err error) {
	t.Helper()
	var out bytes.Buffer
	r := rehearsal.Rehearsal{URL: db.URL(pgtest.OwnerRole), Verify: db.URL(pgtest.OperatorRole), Folder: folder, Check: check, Switch: deploying, Patience: time.Second, Out: &out}
	err = r.Run(t.Context())
	return out.String(), err
}

// withoutDumper puts the backup that is kept where the rehearsal looks for its own, if no pg_dump is as new as the server.
func withoutDumper(t *testing.T, db *pgtest.DB, folder string) bool {
	t.Helper()
	var server int
	require.NoError(t, db.Owner.QueryRow(t.Context(), `select current_setting('server_version_num')::integer / 10000`).Scan(&server))
	if _, version := dump.Program(t.Context(), "pg_dump"); version >= server {
		return false
	}
	t.Logf("there is no pg_dump of version %d or later: the backup is the one that is kept", server)
	kept, err := os.ReadFile("../dump/testdata/world.dump")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "backup_20251126T000000Z.dump"), kept, 0o600))
	return true
}

func TestRehearsal(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "production-deployment/run-phase-1-in-production", "production-deployment/verify-phase-1-in-production",
		"production-deployment/verify-phase-1-in-production/check-migration-log-for-errors", "production-deployment/verify-phase-1-in-production/application-still-works",
		"production-deployment/run-phase-2-in-production", "production-deployment/verify-phase-2-in-production", "production-deployment/run-phase-3-in-production",
		"production-deployment/update-rls-policies", "production-deployment/update-rls-policies/run-rls-policy-updates",
		"production-deployment/staging-fully-tested/all-4-phases-completed-successfully")
	db, folder := pgtest.New(t, schema.Legacy, seeds(t)...), t.TempDir()
	role := "tenancy_x" + db.Name[len("tenancy_c_"):]
	exec := func(pool *pgxpool.Pool, sql string) {
		if sql != "" {
			_, err := pool.Exec(t.Context(), fmt.Sprintf(sql+"; select '%[1]s'", role))
			require.NoError(t, err, sql)
		}
	}
	faults := faults
	if withoutDumper(t, db, folder) {
		faults = faults[1:] // a backup that is there already cannot fail
	} else {
		checklist.Proves(t, "production-deployment/final-backup")
	}
	for _, f := range faults {
		exec(db.Superuser, f.cause)
	}
	t.Cleanup(func() { _, _ = db.Superuser.Exec(t.Context(), "drop owned by "+role+"; drop role "+role) })
	insert := fmt.Sprintf(`insert into public.agents (tenant_id, name, created_by) values ('%s', 'New', '%s')`, fixtures.Novartis.ID, fixtures.Alice.ID)
	for _, f := range faults {
		said, err := rehearse(t, db, folder, f.check, f.deploying)
		require.ErrorContains(t, err, "the rehearsal has stopped at step "+f.step+": see "+folder, said)
		require.Contains(t, said, f.why)
		require.Contains(t, said, "The way back: ")
		require.Contains(t, said, f.back)
		require.Contains(t, said, "docs/recovery.md")
		if slices.Index(steps, f.step) > 1 {
			require.Equal(t, refused, writes(t, db, actor.Service(), insert), "maintenance mode is on at step %s", f.step)
		}
		exec(db.Superuser, f.cure)
	}

	// The last: somebody reads for longer than the end of maintenance mode waits.
	tx, err := db.Owner.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `select from public.agents`)
	require.NoError(t, err)
	said, err := rehearse(t, db, folder, "", "")
	require.ErrorContains(t, err, "the rehearsal has stopped at step 11, maintenance mode off", said)
	require.Contains(t, said, "call maintenance.finish() by hand")
	require.NoError(t, tx.Rollback(t.Context()))

	said, err = rehearse(t, db, folder, `echo "the application works on $PHASE"`, `echo deployed`)
	require.NoError(t, err, said)
	for _, want := range []string{"the application works on phase4", "deployed", "ecisions about what", "maintenance mode was switched on at ", "done: all 11 steps"} {
		require.Contains(t, said, want)
	}
	finished(t, db, folder)

	said, err = rehearse(t, db, t.TempDir(), "", "")
	require.ErrorContains(t, err, "step 1, final backup", "another folder has no backup")
	require.Contains(t, said, "phase4 is complete, and ")
}

// seeds are the messy world, and with REHEARSAL_ROWS so many rows more.
func seeds(t *testing.T) []pgtest.Seed {
	t.Helper()
	given := os.Getenv("REHEARSAL_ROWS")
	if given == "" {
		return fixtures.World()
	}
	rows, err := strconv.Atoi(given)
	require.NoError(t, err, "REHEARSAL_ROWS")
	return append(fixtures.World(), fixtures.LegacyBulk{Rows: rows, Organizations: 50}.Seed())
}

// finished says what a rollout leaves.
func finished(t *testing.T, db *pgtest.DB, folder string) {
	t.Helper()
	conn := db.Connect(t, pgtest.OwnerRole)
	phase, err := verify.Complete(t.Context(), conn)
	require.NoError(t, err)
	require.Equal(t, schema.Phase4, phase)
	require.NotContains(t, phasetest.Catalog(t, db), "schema maintenance")
	for pattern, least := range map[string]int{"backup_*.dump": 1, "migration_phase[1-4]_*.log": 4, "rehearsal_*.log": 1, "*.partial": 0} {
		found, err := filepath.Glob(filepath.Join(folder, pattern))
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(found), least, pattern)
		if least == 0 {
			require.Empty(t, found)
		}
	}
	require.NotEmpty(t, phasetest.VisibleAgents(t, db, fixtures.Alice))
}

// What would stop it at the last phase stops it before the first step.
func TestRehearsalArguments(t *testing.T) {
	t.Parallel()
	const sound, unreadable = "postgres://owner@127.0.0.1:1/db", "postgres://owner:se%cret@host/db"
	for why, r := range map[string]rehearsal.Rehearsal{
		"which database? Say URL=postgres://owner@host:5432/database":               {},
		"URL cannot be read as postgres://owner@host:5432/database":                 {URL: unreadable},
		"VERIFY_DATABASE_URL cannot be read as postgres://owner@host:5432/database": {URL: sound, Verify: unreadable},
	} {
		r.Folder = t.TempDir()
		err := r.Run(t.Context())
		require.ErrorContains(t, err, why)
		require.NotContains(t, err.Error(), "cret")
		made, err := os.ReadDir(r.Folder)
		require.NoError(t, err)
		require.Empty(t, made)
	}
}
