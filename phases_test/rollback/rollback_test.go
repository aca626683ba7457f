package rollback_test

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/catalog"
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
	t.Run("What was unshared meanwhile", testUnshared)
	t.Run("What was dropped meanwhile", testDropped)
	t.Run("Flags that are gone", testFlagsGone)
	t.Run("What restricts others is restored, or nothing is", testRestrictive)
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
	text := said(t, db)
	require.Contains(t, text, "WARNING: not restored, because of rows that phase 4 allows: Key (code)=(UC-TWICE) is duplicated.")
	require.Contains(t, text, "then run: alter table public.use_cases add constraint use_cases_code_key UNIQUE (code)")
	require.Contains(t, text, "softly deleted, and rows like any other from now on: 2 rows of agents")
	require.Contains(t, phasetest.VisibleAgents(t, db, fixtures.Alice), "Novartis RA Agent")
	_, err := db.Owner.Exec(t.Context(), `insert into public.capabilities (code, name) values ('CAP-PFE-1', 'New')`)
	require.ErrorContains(t, err, "capabilities_code_key", "what can be restored is")
}

// said rolls phase 4 back, and returns what the server said.
func said(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	log, err := db.Run(t, must(schema.Rollback(schema.Phase4)))
	require.NoError(t, err)
	var said []string
	for _, step := range log.Steps {
		said = append(said, step.Notices...)
	}
	return strings.Join(said, "\n")
}

// Phase 4 goes by scopes, what was before it by flags, which nobody changes any more: what somebody has unshared in between, the
// flags still share.
func testUnshared(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase4, fixtures.World()...)
	agent := fixtures.NovartisPublicAgent
	// listed is what the query of docs/recovery.md lists.
	listed := func() (rows []string) {
		text, err := os.ReadFile("../../docs/recovery.md")
		require.NoError(t, err)
		block := regexp.MustCompile("(?s)```sql\n(select.*?)\\\\gexec\n```").FindSubmatch(text)
		require.NotNil(t, block)
		var query string
		require.NoError(t, db.Owner.QueryRow(t.Context(), string(block[1])).Scan(&query))
		found, err := db.Owner.Query(t.Context(), `select concat_ws(' ', table_name, id, by_scope, by_flags) from (`+query+`) as l`)
		require.NoError(t, err)
		rows, err = pgx.CollectRows(found, pgx.RowTo[string])
		require.NoError(t, err)
		return rows
	}
	// The platform has no tenant that its flags could share them with.
	var before []string
	for _, r := range []fixtures.Resource{fixtures.PlatformSharedAgent, fixtures.PlatformSharedDocument, fixtures.PlatformSharedPrompt} {
		before = append(before, fmt.Sprintf("%s %s organization tenant", r.Table, r.ID))
	}
	require.ElementsMatch(t, before, listed())

	require.Contains(t, phasetest.VisibleAgents(t, db, fixtures.Bob), agent.Name)
	require.NoError(t, actor.User(fixtures.Adam.ID).Do(t, db, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `update public.agents set sharing_scope = 'organization' where id = $1`, agent.ID)
		require.NoError(t, err)
		return tx.Commit(t.Context())
	}))
	require.NotContains(t, phasetest.VisibleAgents(t, db, fixtures.Bob), agent.Name)
	after := append(before, fmt.Sprintf("agents %s organization platform", agent.ID))
	require.ElementsMatch(t, after, listed())

	text := said(t, db)
	counts := map[string]int{}
	for _, row := range after {
		table, _, _ := strings.Cut(row, " ")
		counts[table]++
	}
	for table, count := range counts {
		require.Contains(t, text, fmt.Sprintf("NOTICE: shared more widely by their flags than by their scope, and by their flags from now on: %d rows of %s", count, table))
	}
	require.Equal(t, len(counts), strings.Count(text, "shared more widely"), "of the other tables nothing: %s", text)
	require.Contains(t, phasetest.VisibleAgents(t, db, fixtures.Bob), agent.Name, "the flags are as they were")
}

// What was dropped in phase 4 cannot be restored, and the rollback says so. All else is: the database is as if it had been dropped
// in phase 3.
func testDropped(t *testing.T) {
	t.Parallel()
	db, twin := pgtest.New(t, schema.Phase3, fixtures.World()...), pgtest.New(t, schema.Phase3, fixtures.World()...)
	reader := db.Name + "_reader"
	superuser := func(db *pgtest.DB, sql string) {
		_, err := db.Superuser.Exec(context.WithoutCancel(t.Context()), fmt.Sprintf(sql, reader))
		require.NoError(t, err, sql)
	}
	superuser(twin, `create role %s`)
	t.Cleanup(func() { superuser(twin, `drop role if exists %s`) })
	drop := func(db *pgtest.DB) {
		for _, sql := range []string{
			`drop function public.count_tenant_agents(uuid)`,
			`drop table public.use_cases cascade`,
			`drop schema private cascade`,
			`drop view public.agent_names`,
			`alter table public.workflows drop column definition`,
			`alter table public.capabilities drop column code`,
		} {
			phasetest.Exec(t, db, sql)
		}
		superuser(db, `drop owned by %s`)
	}
	for _, db := range []*pgtest.DB{db, twin} {
		for _, sql := range []string{
			`grant select on public.agents to ` + reader,
			`create policy of_a_reader on public.prompts to ` + reader + ` using (true)`,
			`grant select (definition) on public.workflows to anon`,
			`create schema private`,
			`create function private.mine() returns boolean language sql return true`,
			`create policy through_a_schema on public.prompts to authenticated using (private.mine())`,
			`create policy through_a_table on public.prompts to authenticated using (exists (select from public.use_cases))`,
			`create policy restricts on public.prompts as restrictive to authenticated using (name <> 'Hidden')`,
			`alter table public.prompts enable row level security`,
			`create view public.agent_names as select name from public.agents`,
		} {
			phasetest.Exec(t, db, sql)
		}
	}
	drop(twin)
	db.Migrate(t, schema.Phase4)
	drop(db)
	superuser(twin, `drop role %s`)

	text := said(t, db)
	for gone, statements := range map[string][]string{
		`function public.count_tenant_agents(uuid) does not exist`: {`grant execute on routine public.count_tenant_agents(uuid) to public`},
		`relation "public.use_cases" does not exist`: {
			`grant SELECT on table public.use_cases to anon`,
			`create policy through_a_table on public.prompts as permissive for all to authenticated using `,
			`alter table public.use_cases disable row level security`,
			`CREATE TRIGGER keep_scope_in_step BEFORE INSERT OR UPDATE ON public.use_cases `,
			`alter table public.use_cases add constraint use_cases_code_key UNIQUE (code)`,
		},
		`schema "private" does not exist`:                            {`create policy through_a_schema on public.prompts `},
		`relation "public.agent_names" does not exist`:               {`alter view public.agent_names reset (security_invoker)`},
		`column "definition" of relation "workflows" does not exist`: {`grant SELECT (definition) on table public.workflows to anon`},
		`column "code" named in key does not exist`:                  {`alter table public.capabilities add constraint capabilities_code_key UNIQUE (code)`},
		`role "` + reader + `" does not exist`: {
			`grant SELECT on table public.agents to ` + reader,
			`create policy of_a_reader on public.prompts `,
		},
	} {
		for _, statement := range statements {
			require.Contains(t, text, "WARNING: not restored, because of what was dropped since: "+gone+". If it is wanted, make that again, then run: "+statement)
		}
	}
	require.Empty(t, catalog.Diff(phasetest.Catalog(t, twin), phasetest.Catalog(t, db)))
}

// Where a policy takes from people what others give them, and cannot be restored, phase 4 stays: so it does where a trigger cannot
// be that keeps scopes in step.
func testRestrictive(t *testing.T) {
	t.Parallel()
	for what, test := range map[string]struct{ drop, problem string }{
		"a function of it is gone":          {`drop function public.shown(text)`, "function public.shown(text) does not exist"},
		"a table of it is gone":             {`drop table public.use_cases cascade`, `relation "public.use_cases" does not exist`},
		"a column of it is gone":            {`alter table public.prompts drop column content`, `column "content" does not exist`},
		"the function of a trigger is gone": {`drop function tenancy.keep_scope_in_step()`, "function tenancy.keep_scope_in_step() does not exist"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, schema.Phase3, fixtures.World()...)
			phasetest.Exec(t, db, `create function public.shown(text) returns boolean language sql return $1 <> 'Hidden'`)
			phasetest.Exec(t, db, "create policy \"Not\nall\" on public.prompts as restrictive for select to authenticated"+
				` using (public.shown(name) and content is not null and not exists (select from public.use_cases))`)
			db.Migrate(t, schema.Phase4)
			phasetest.Exec(t, db, test.drop)
			phasetest.Refuses(t, db, must(schema.Rollback(schema.Phase4)), "not taken back, because what keeps rows from somebody cannot be restored: "+test.problem)
			phasetest.Exec(t, db, `delete from tenancy.undo where phase = 4 and statement ~ 'create policy "Not|keep_scope_in_step'`)
			db.Rollback(t, schema.Phase4)
		})
	}
}

// The flags that the old policies go by may be gone: that is no reason to stay in phase 4.
func testFlagsGone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase4, fixtures.World()...)
	phasetest.Exec(t, db, `alter table public.workflows drop column is_public`)
	require.Contains(t, said(t, db), "WARNING: the flags of workflows are gone: ")
	const write = `update public.workflows set name = name || '!'`
	_, err := db.Owner.Exec(t.Context(), write)
	require.ErrorContains(t, err, "is_public")
	db.Migrate(t, schema.Phase1)
	phasetest.Exec(t, db, write)
}
