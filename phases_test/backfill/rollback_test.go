package backfill_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// TestRollbackPhase2 proves what spares the checklist's restoring from a backup: a
// backup would lose what was written since.
func TestRollbackPhase2(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-2/re-run-phase-2-with-corrections")
	t.Run("Up, down, up", testUpDownUp)
	t.Run("What people changed", testKept)
	t.Run("What came later", testLater)
	t.Run("Killed", testRollbackKilled)
	t.Run("Refusals", testRollbackRefusals)
}

func testUpDownUp(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	// Between the phases both applications write; and the backfill must not forget what they said.
	phasetest.Exec(t, db, `insert into public.agents (name, owner_organization_id, sharing_scope) values ('New', $1, 'tenant')`, fixtures.Pfizer.ID)
	phasetest.Exec(t, db, `insert into public.agents (name, tenant_id, metadata) values ('Old', $1, '{"is_tenant_shared": true}')`, fixtures.Platform.ID)
	phasetest.Exec(t, db, `insert into public.agents (name, tenant_id) values ('Old, for the platform''s own people', $1)`, fixtures.Platform.ID)
	phasetest.Exec(t, db, `insert into public.prompts (name, tenant_id) values ('Dangling', gen_random_uuid())`)
	phasetest.Exec(t, db, `insert into public.organizations (name, organization_type, slug) values ('Declared', 'tenant', 'declared')`)
	phasetest.Exec(t, db, `update public.organizations set slug = 'nvs' where id = $1`, fixtures.Novartis.ID)
	expanded := phasetest.Take(t, db)
	db.Migrate(t, schema.Phase2)
	backfilled := phasetest.Take(t, db)
	require.NotEmpty(t, expanded.Diff(backfilled))

	db.Rollback(t, schema.Phase2)
	t.Run("definitions and rows are those of phase 1 again", func(t *testing.T) { expanded.Same(t, db) })
	t.Run("a second rollback finds nothing to do", func(t *testing.T) {
		db.Rollback(t, schema.Phase2)
		expanded.Same(t, db)
	})
	t.Run("the old application works", func(t *testing.T) { phasetest.OldApplication(t, db) })
	t.Run("up again is what it was the first time", func(t *testing.T) {
		db.Migrate(t, schema.Phase2)
		backfilled.Same(t, db)
	})
	t.Run("a database of nothing but tables is one again, without a platform", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1)
		expanded := phasetest.Take(t, db)
		db.Migrate(t, schema.Phase2)
		require.Len(t, places(t, db), 3)
		db.Rollback(t, schema.Phase2)
		expanded.Same(t, db)
	})
	t.Run("phase 1 can be rolled back after it", func(t *testing.T) {
		db.Rollback(t, schema.Phase2)
		db.Rollback(t, schema.Phase1)
		require.Empty(t, catalog.Diff(phasetest.Catalog(t, pgtest.New(t, schema.Legacy, fixtures.World()...)), phasetest.Catalog(t, db)))
	})
}

func testKept(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)
	phasetest.Exec(t, db, `update public.organizations set slug = 'novartis-ag' where id = $1`, fixtures.Novartis.ID)
	phasetest.Exec(t, db, `update public.organizations set parent_organization_id = $1 where id = $2`, fixtures.DigitalHealth.ID, fixtures.UnknownBiotech.ID)
	phasetest.Exec(t, db, `update public.agents set sharing_scope = 'tenant' where id = $1`, fixtures.NovartisAgent.ID)
	phasetest.Exec(t, db, `update public.agents set tenant_id = $1 where id = $2`, fixtures.Pfizer.ID, fixtures.DanaAgent.ID)
	phasetest.Exec(t, db, `update public.agents set metadata = '{"is_public": true}' where id = $1`, fixtures.PfizerAgent.ID)
	// The old application shares it, the new one takes that back: as the backfill left it, and the flag says otherwise now.
	phasetest.Exec(t, db, `update public.agents set metadata = '{"is_public": true}' where id = $1`, fixtures.MaxAgent.ID)
	phasetest.Exec(t, db, `update public.agents set sharing_scope = 'organization' where id = $1`, fixtures.MaxAgent.ID)
	phasetest.Exec(t, db, `update public.prompts set name = 'Renamed' where id = $1`, fixtures.MayoPrompt.ID)
	phasetest.Exec(t, db, `update public.conversations set owner_organization_id = $1 where id = $2`, fixtures.MayoClinic.ID, fixtures.DanaConversation.ID)

	db.Rollback(t, schema.Phase2)
	found := rows(t, db)
	for name, want := range map[string]row{
		// What somebody said of a row since, and what follows from it.
		"agents " + fixtures.NovartisAgent.Name:            derive(fixtures.Novartis.ID, fixtures.TenantLevel),
		"agents " + fixtures.DanaAgent.Name:                derive(fixtures.Pfizer.ID, fixtures.OrganizationLevel),
		"agents " + fixtures.PfizerAgent.Name:              derive(fixtures.Pfizer.ID, fixtures.PlatformLevel),
		"agents " + fixtures.MaxAgent.Name:                 derive(fixtures.Pfizer.ID, fixtures.OrganizationLevel),
		"conversations " + fixtures.DanaConversation.Title: derive(fixtures.MayoClinic.ID, ""),
		// What nobody did, or about something else.
		"prompts Renamed":                                 {},
		"agents " + fixtures.NovartisDraft.Name:           {},
		"agents " + fixtures.OrphanAgent.Name:             {},
		"agents " + fixtures.PlatformSharedAgent.Name:     {},
		"conversations " + fixtures.BobConversation.Title: {},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, want, found[name]) })
	}
	t.Run("a slug that was corrected", func(t *testing.T) {
		require.Equal(t, place{Name: "Novartis", Slug: "novartis-ag", Active: true}, places(t, db)[fixtures.Novartis.ID])
	})
	t.Run("a parent that was corrected", func(t *testing.T) {
		require.Equal(t, place{Name: "Unknown Biotech", Parent: fixtures.DigitalHealth.ID, Active: true}, places(t, db)[fixtures.UnknownBiotech.ID])
	})
	t.Run("and the backfill that comes after it keeps them, too", func(t *testing.T) {
		db.Migrate(t, schema.Phase2)
		want := expected()
		delete(want, "prompts "+fixtures.MayoPrompt.Name)
		want["agents "+fixtures.NovartisAgent.Name] = derive(fixtures.Novartis.ID, fixtures.TenantLevel)
		want["agents "+fixtures.DanaAgent.Name] = derive(fixtures.Pfizer.ID, fixtures.OrganizationLevel)
		want["agents "+fixtures.PfizerAgent.Name] = derive(fixtures.Pfizer.ID, fixtures.PlatformLevel)
		want["conversations "+fixtures.DanaConversation.Title] = derive(fixtures.MayoClinic.ID, "")
		want["prompts Renamed"] = derive(fixtures.MayoClinic.ID, fixtures.TenantLevel)
		want["agents "+fixtures.UnknownAgent.Name] = row{fixtures.UnknownBiotech.ID, "organization", fixtures.DigitalHealth.ID, fixtures.UnknownBiotech.ID}
		require.Equal(t, want, rows(t, db))
		require.Equal(t, "novartis-ag", places(t, db)[fixtures.Novartis.ID].Slug)
	})
}

func testLater(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)
	pharma, old := fixtures.Pharmaceuticals.ID, fixtures.Platform.ID
	insertOrganization(t, db, 100, organization{Name: "Roche", Key: "pharma"})
	phasetest.Exec(t, db, `insert into public.agents (name, tenant_id, metadata) values ('Of Novartis', $1, '{"is_tenant_shared": true}'), ('Of the platform', $2, '{}')`, fixtures.Novartis.ID, fixtures.PlatformID)
	phasetest.Exec(t, db, `insert into public.prompts (name) values ('Of nobody')`)
	phasetest.Exec(t, db, `insert into public.user_organizations (user_id, organization_id) values ($1, $2)`, fixtures.Nobody.ID, fixtures.PlatformID)
	// Deleted and made anew, with the same id: elsewhere, and by who says where.
	for n, again := range map[int]organization{
		102: {Name: "Bayer", Key: "digital-health"},
		103: {Name: "Merck", Level: fixtures.OrganizationLevel, Parent: pharma, Slug: "merck"},
	} {
		id := insertOrganization(t, db, n, organization{Name: again.Name, Key: "pharma"})
		phasetest.Exec(t, db, `delete from public.organizations where id = $1`, id)
		insertOrganization(t, db, n, again)
	}
	// Somebody takes the quarantine for a place to live.
	insertOrganization(t, db, 101, organization{Name: "Stray", Level: fixtures.OrganizationLevel, Parent: fixtures.QuarantineTenantID, Slug: "stray"})
	db.Rollback(t, schema.Phase2)

	found, placed := rows(t, db), places(t, db)
	t.Run("an organization that was placed is a legacy one again", func(t *testing.T) {
		require.Equal(t, place{Name: "Roche", Active: true}, placed["00000100-0000-4000-8000-000000000100"])
	})
	t.Run("one that was placed twice, too", func(t *testing.T) {
		require.Equal(t, place{Name: "Bayer", Active: true}, placed["00000102-0000-4000-8000-000000000102"])
	})
	t.Run("one that came again with its place keeps it", func(t *testing.T) {
		require.Equal(t, place{"Merck", "organization", pharma, "merck", "tenant", pharma, true}, placed["00000103-0000-4000-8000-000000000103"])
	})
	t.Run("a row keeps its owner, as it would have had one after phase 1", func(t *testing.T) {
		require.Equal(t, row{fixtures.Novartis.ID, "tenant", pharma, shared(pharma)}, found["agents Of Novartis"])
	})
	t.Run("a row that went into quarantine has no owner", func(t *testing.T) {
		require.Equal(t, row{Scope: "organization"}, found["prompts Of nobody"])
	})
	t.Run("what refers to the platform follows it back to its old id", func(t *testing.T) {
		require.Equal(t, old, found["agents Of the platform"].Owner)
		require.Contains(t, placed, old)
		require.NotContains(t, placed, fixtures.PlatformID)
		require.Equal(t, []string{old}, query[string](t, db, `select organization_id::text from public.user_organizations where user_id = $1`, fixtures.Nobody.ID))
	})
	t.Run("what is in use stays", func(t *testing.T) {
		require.Contains(t, placed, fixtures.QuarantineTenantID)
		require.NotContains(t, placed, fixtures.QuarantineOrganizationID)
	})
	t.Run("somebody who is just moving in is not thrown out with the house", func(t *testing.T) {
		t.Parallel()
		rollback, err := schema.Rollback(schema.Phase2)
		require.NoError(t, err)
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		// He comes when the triggers are gone, and before the rows are done.
		locker, pid, done := meet(t, db, rollback, `select from tenancy.journal where row_id = '`+fixtures.NovartisWorkflow.ID+`' for update`)
		guest := db.Connect(t, pgtest.OwnerRole)
		_, err = guest.Exec(t.Context(), `begin; insert into public.user_organizations (user_id, organization_id) values ('`+
			fixtures.Nobody.ID+`', '`+fixtures.QuarantineOrganizationID+`')`)
		require.NoError(t, err)
		_, err = locker.Exec(t.Context(), `rollback`)
		require.NoError(t, err)
		await(t, db, pid, guest, done)
		_, err = guest.Exec(t.Context(), `commit`)
		require.NoError(t, err)
		require.NoError(t, <-done)
		require.Equal(t, []string{fixtures.QuarantineOrganizationID},
			query[string](t, db, `select organization_id::text from public.user_organizations where user_id = $1`, fixtures.Nobody.ID))
	})
	t.Run("who says the platform's old id is understood all the while", func(t *testing.T) {
		t.Parallel()
		rollback, err := schema.Rollback(schema.Phase2)
		require.NoError(t, err)
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		locker, _, done := meet(t, db, rollback, `select from tenancy.journal where row_id = '`+fixtures.NovartisWorkflow.ID+`' for update`)
		phasetest.Exec(t, db, `insert into public.agents (name, tenant_id) values ('Meanwhile', $1)`, old)
		phasetest.Exec(t, db, `insert into public.prompts (name) values ('Meanwhile')`)
		_, err = locker.Exec(t.Context(), `rollback`)
		require.NoError(t, err)
		require.NoError(t, <-done)
		found := rows(t, db)
		require.Equal(t, row{Owner: old, Scope: "organization", Audience: old}, found["agents Meanwhile"])
		require.Equal(t, row{Scope: "organization"}, found["prompts Meanwhile"])
		require.NotContains(t, places(t, db), fixtures.QuarantineOrganizationID)
	})
	t.Run("who has made a row, and not committed it yet, is waited for", func(t *testing.T) {
		t.Parallel()
		rollback, err := schema.Rollback(schema.Phase2)
		require.NoError(t, err)
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		writer, _, done := meet(t, db, rollback, `insert into public.prompts (name) values ('Late')`)
		_, err = writer.Exec(t.Context(), `commit`)
		require.NoError(t, err)
		require.NoError(t, <-done)
		require.Equal(t, row{Scope: "organization"}, rows(t, db)["prompts Late"])
		require.NotContains(t, places(t, db), fixtures.QuarantineOrganizationID)
	})
	t.Run("the backfill that comes after it finds all in order", func(t *testing.T) {
		db.Migrate(t, schema.Phase2)
		found := rows(t, db)
		require.Equal(t, derive(fixtures.PlatformID, fixtures.OrganizationLevel), found["agents Of the platform"])
		require.Equal(t, derive(fixtures.Novartis.ID, fixtures.TenantLevel), found["agents Of Novartis"])
		require.Equal(t, derive(fixtures.QuarantineOrganizationID, fixtures.OrganizationLevel), found["prompts Of nobody"])
		require.Equal(t, place{"Roche", "organization", pharma, "roche", "tenant", pharma, true}, places(t, db)["00000100-0000-4000-8000-000000000100"])
	})
}

func testRollbackKilled(t *testing.T) {
	t.Parallel()
	rollback, err := schema.Rollback(schema.Phase2)
	require.NoError(t, err)
	before := phasetest.Take(t, pgtest.New(t, schema.Phase1, twoBatches...))
	for name, test := range map[string]struct{ lock, half string }{
		"between two batches": {
			// In the journal: a lock on the document would keep the triggers from being dropped.
			`select from tenancy.journal where row_id = '00000100-0000-4000-8000-000000005200' for update`,
			`select count(*) filter (where owner_organization_id is null) = 5000 and count(*) > 5000 from public.knowledge_documents`},
		"while the platform moves back": {
			`select from public.user_organizations where user_id = '` + fixtures.Root.ID + `' for update`,
			`select count(*) = 2 from public.organizations where tenant_type = 'system'`},
	} {
		t.Run(name+", and run again, it has done the rest", func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, schema.Phase2, twoBatches...)
			kill(t, db, rollback, test.lock)
			require.Equal(t, []bool{true}, query[bool](t, db, test.half), "killed elsewhere than the test means to")
			require.Equal(t, []bool{false}, query[bool](t, db, `select exists (select from tenancy.completed_phase where phase = 2)`))
			db.Rollback(t, schema.Phase2)
			before.Same(t, db)
		})
	}
}

func testRollbackRefusals(t *testing.T) {
	t.Parallel()
	f, err := schema.Rollback(schema.Phase2)
	require.NoError(t, err)
	t.Run("of phase 1, while phase 2 has begun", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		phasetest.Exec(t, db, `delete from tenancy.completed_phase where phase = 2`)
		below, err := schema.Rollback(schema.Phase1)
		require.NoError(t, err)
		phasetest.Refuses(t, db, below, "phase 2 has begun: roll it back before phase 1")
	})
	t.Run("phase 3 is complete", func(t *testing.T) {
		t.Parallel()
		phasetest.Refuses(t, pgtest.New(t, schema.Phase3, fixtures.World()...), f, "phase 3 is complete: roll it back before phase 2")
	})
	t.Run("phase 3 has begun", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		phasetest.Exec(t, db, `insert into tenancy.undo (phase, statement) values (3, 'select')`)
		phasetest.Refuses(t, db, f, "phase 3 has begun: roll it back before phase 2")
	})
	t.Run("inside a transaction", func(t *testing.T) {
		t.Parallel()
		inside := f
		inside.SQL = "begin;\n" + f.SQL + "\ncommit;"
		phasetest.Refuses(t, pgtest.New(t, schema.Phase2, fixtures.World()...), inside, "the rollback of phase 2 commits as it goes, and cannot run inside a transaction")
	})
	t.Run("another migration is running", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		// It does not wait for it; if it did, not as long as it likes.
		_, err := db.Superuser.Exec(t.Context(), `do $$ begin execute format('alter database %I set lock_timeout = ''2s''', current_database()); end $$`)
		require.NoError(t, err)
		_, err = db.Connect(t, pgtest.OwnerRole).Exec(t.Context(), `select pg_advisory_lock(hashtextextended('tenancy.migration', 0))`)
		require.NoError(t, err)
		phasetest.Refuses(t, db, f, "another migration of this database is running")
	})
	t.Run("a role from which row level security hides the rows", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase2, fixtures.World()...)
		phasetest.Exec(t, db, `alter table public.agents force row level security`)
		phasetest.Refuses(t, db, f, "whom row level security does not hold; tenancy_owner is not that for public.agents")
	})
}
