package rollback_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// The order is that of an emergency: from the secured database down to the legacy one,
// and, when the reason is found, up again.
func TestRollback(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "rollback-procedures/emergency-rollback-plan", "pre-implementation/test-scenarios-defined/rollback-procedure-tested",
		"pre-implementation/migration-scripts-reviewed/rollback-scripts-prepared", "pre-implementation/migration-scripts-reviewed/all-sql-syntax-validated")
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	up := map[schema.Phase]phasetest.Picture{schema.Legacy: phasetest.Take(t, db)}
	for _, phase := range schema.Phases() {
		db.Migrate(t, phase)
		up[phase] = phasetest.Take(t, db)
		require.NotEmpty(t, up[phase-1].Diff(up[phase]), "%s changes nothing", phase)
	}
	for phase := schema.Phase4; phase >= schema.Phase1; phase-- {
		db.Rollback(t, phase)
		t.Run(fmt.Sprintf("the rollback of %s brings back %s", phase, phase-1), func(t *testing.T) {
			up[phase-1].Same(t, db)
		})
	}
	t.Run("the old application works on the database that it had", func(t *testing.T) { phasetest.OldApplication(t, db) })
	for _, phase := range schema.Phases() {
		db.Migrate(t, phase)
		t.Run(fmt.Sprintf("%s once more makes the same database", phase), func(t *testing.T) {
			up[phase].Same(t, db)
		})
	}
}

// Whatever is complete stays complete until it is taken back by its own rollback: a file
// that is run by mistake, or again by a tool that runs all of them, changes nothing.
func TestRollbackOutOfOrder(t *testing.T) {
	t.Parallel()
	for _, complete := range append([]schema.Phase{schema.Legacy}, schema.Phases()...) {
		t.Run(complete.String()+" is complete", func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, complete, fixtures.World()...)
			for _, phase := range schema.Phases() {
				switch rollback, migration := must(schema.Rollback(phase)), must(schema.Migration(phase)); {
				case phase < complete:
					phasetest.Refuses(t, db, rollback, fmt.Sprintf("phase %d is complete: roll it back before phase %d", complete, phase))
					if complete == schema.Phase4 {
						phasetest.Refuses(t, db, migration, "phase 4 is complete, and phase "+fmt.Sprint(int(phase)))
					}
				case phase == complete:
					unchanged(t, db, migration)
				case phase == complete+1:
					unchanged(t, db, rollback)
				default:
					phasetest.Refuses(t, db, migration, fmt.Sprintf("phase %d needs phase %d, which is not complete here", phase, phase-1))
					unchanged(t, db, rollback)
				}
			}
		})
	}
}

// unchanged runs a file that finds nothing to do.
func unchanged(t *testing.T, db *pgtest.DB, f schema.File) {
	t.Helper()
	before := phasetest.Take(t, db)
	_, err := db.Run(t, f)
	require.NoError(t, err)
	before.Same(t, db)
}

func must(f schema.File, err error) schema.File {
	if err != nil {
		panic(err) // a phase without a file: cannot happen
	}
	return f
}

func TestRollbackPhase4(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "rollback-procedures/emergency-rollback-plan")
	t.Run("Access as it was", testAccess)
	t.Run("Somebody's own policies and privileges", testOwnAccess)
	t.Run("What was written meanwhile", testWrittenMeanwhile)
	t.Run("Codes that two have", testSharedCodes)
	t.Run("A copy of the database", func(t *testing.T) {
		t.Parallel()
		// Every database of a test is a copy of one in which the migrations ran.
		db := pgtest.New(t, schema.Phase4, fixtures.World()...)
		db.Rollback(t, schema.Phase4)
		phasetest.Take(t, pgtest.New(t, schema.Phase3, fixtures.World()...)).Same(t, db)
	})
	t.Run("Another migration is running", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase4, fixtures.World()...)
		conn := db.Connect(t, pgtest.OwnerRole)
		_, err := conn.Exec(t.Context(), `select pg_advisory_lock(hashtextextended('tenancy.migration', 0))`)
		require.NoError(t, err)
		phasetest.Refuses(t, db, must(schema.Rollback(schema.Phase4)), "another migration of this database is running")
	})
}

func testAccess(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase3, fixtures.World()...)
	before := phasetest.Take(t, db)
	alice, bob := phasetest.VisibleAgents(t, db, fixtures.Alice), phasetest.VisibleAgents(t, db, fixtures.Bob)
	require.Contains(t, alice, fixtures.NovartisAgent.Name)
	require.NotContains(t, bob, fixtures.NovartisAgent.Name)

	db.Migrate(t, schema.Phase4)
	db.Rollback(t, schema.Phase4)
	before.Same(t, db)
	require.Equal(t, alice, phasetest.VisibleAgents(t, db, fixtures.Alice))
	require.Equal(t, bob, phasetest.VisibleAgents(t, db, fixtures.Bob))
	phasetest.OldApplication(t, db)
}

// Production has what no baseline has: all kinds of policies and privileges.
func testOwnAccess(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase3, fixtures.World()...)
	for _, statement := range []string{
		`create policy "Tier 1 only" on public.agents as restrictive for update to authenticated, service_role using (tier = 'tier_1') with check (true)`,
		`create policy everybody on public.prompts using (true)`,
		`alter table public.prompts enable row level security`,
		`alter table public.workflows force row level security`,
		`grant select (name), update (name) on public.agents to anon with grant option`,
		`grant truncate on public.messages to service_role with grant option`,
		`revoke all on public.capabilities from authenticated`,
		`revoke all on function public.get_organization_tenant(uuid) from service_role`,
		`create view public.agent_names with (security_invoker = false) as select name from public.agents`,
		`create view public.prompt_names with (security_barrier, security_invoker) as select name from public.prompts`,
		`create function public.f(integer) returns integer language sql return $1`,
		`alter default privileges in schema public revoke all on tables from anon`,
		`alter default privileges in schema public grant references on tables to authenticated with grant option`,
		`grant create on schema public to public`,
		`create sequence public.numbers`,
		`grant update on sequence public.numbers to anon`,
	} {
		phasetest.Exec(t, db, statement)
	}
	before := phasetest.Take(t, db)
	db.Migrate(t, schema.Phase4)
	db.Migrate(t, schema.Phase4)
	db.Rollback(t, schema.Phase4)
	before.Same(t, db)
}

func testWrittenMeanwhile(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase4, fixtures.World()...)
	// As the backend: the tests' callers roll back what they do.
	conn := db.Connect(t, pgtest.ServiceRole)
	_, err := conn.Exec(t.Context(), `set role service_role`)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), `insert into public.agents (name, owner_organization_id) values ('Made in phase 4', $1)`, fixtures.Novartis.ID)
	require.NoError(t, err)

	count := func(sql string) (n int) {
		require.NoError(t, db.Owner.QueryRow(t.Context(), sql).Scan(&n))
		return n
	}
	const history, row = `select count(*) from public.audit_logs`, `select count(*) from public.agents where name = 'Made in phase 4'`
	require.Positive(t, count(history))
	db.Rollback(t, schema.Phase4)
	require.Positive(t, count(history), "the audit history stays")
	require.Equal(t, 1, count(row), "the row stays")
	require.Contains(t, phasetest.VisibleAgents(t, db, fixtures.Alice), "Made in phase 4", "the old policies know whose the row is")
	require.NotContains(t, phasetest.VisibleAgents(t, db, fixtures.Bob), "Made in phase 4")
}

// Phase 4 lets two organizations use one code, and any writer do it: that must not shut
// the way back.
func testSharedCodes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase4, fixtures.World()...)
	const insert = `insert into public.use_cases (code, title, owner_organization_id) values ('UC-TWICE', 'New', $1)`
	phasetest.Exec(t, db, insert, fixtures.Novartis.ID)
	phasetest.Exec(t, db, insert, fixtures.Pfizer.ID)
	f, err := schema.Rollback(schema.Phase4)
	require.NoError(t, err)
	log, err := db.Run(t, f)
	require.NoError(t, err)
	var said []string
	for _, step := range log.Steps {
		said = append(said, step.Notices...)
	}
	text := strings.Join(said, "\n")
	require.Contains(t, text, "WARNING: not restored, because of rows that phase 4 allows: Key (code)=(UC-TWICE) is duplicated.")
	require.Contains(t, text, "then run: alter table public.use_cases add constraint use_cases_code_key UNIQUE (code)")
	require.Contains(t, text, "softly deleted, and rows like any other from now on: 2 rows of agents")
	require.Contains(t, phasetest.VisibleAgents(t, db, fixtures.Alice), "Novartis RA Agent")
	_, err = db.Owner.Exec(t.Context(), `insert into public.capabilities (code, name) values ('CAP-PFE-1', 'New')`)
	require.ErrorContains(t, err, "capabilities_code_key", "what can be restored is")
}
