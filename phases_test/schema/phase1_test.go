package schema_test

import (
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

func TestPhase1(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-1/run-phase-1-migration-in-staging", "phase-1/verify-phase-1-completion",
		"production-deployment/verify-phase-1-in-production/run-verification-queries")
	t.Run("Columns", testColumns)
	t.Run("Enums", testEnums)
	t.Run("Verification queries", testVerification)
	t.Run("Existing rows", testExistingRows)
	t.Run("The old application", testOldApplication)
	t.Run("Both generations", testBothGenerations)
	t.Run("Again", testAgain)
	t.Run("Refusals", testRefusals)
}

// column is a row of the checklist's query over information_schema.columns.
type column struct {
	Table, Name, Type string
	Nullable          bool
	Default           string
}

func testColumns(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	const (
		timestamp = "timestamp with time zone"
		private   = "'organization'::sharing_scope_type"
	)
	want := []column{
		{"organizations", "deleted_at", timestamp, true, ""},
		{"organizations", "organization_type", "organization_type", true, ""},
		{"organizations", "parent_organization_id", "uuid", true, ""},
		{"organizations", "parent_organization_type", "organization_type", true, ""},
		{"organizations", "tenant_organization_id", "uuid", true, ""},
		{"organizations", "slug", "text", true, ""},
		{"organizations", "updated_at", timestamp, true, "now()"},
		{"conversations", "deleted_at", timestamp, true, ""},
		{"conversations", "owner_organization_id", "uuid", true, ""},
		{"conversations", "updated_at", timestamp, true, "now()"},
	}
	for _, table := range []string{"agents", "knowledge_documents", "prompts", "workflows", "use_cases", "capabilities"} {
		want = append(want,
			column{table, "deleted_at", timestamp, true, ""},
			column{table, "owner_organization_id", "uuid", true, ""},
			column{table, "owner_tenant_id", "uuid", true, ""},
			column{table, "audience_key", "uuid", true, ""},
			column{table, "sharing_scope", "sharing_scope_type", true, private})
		if table != "agents" && table != "knowledge_documents" { // they have it already
			want = append(want, column{table, "updated_at", timestamp, true, "now()"})
		}
	}
	// What is there after phase 1 and was not there before.
	got := difference(columns(t, db), columns(t, pgtest.New(t, schema.Legacy, fixtures.World()...)))
	require.ElementsMatch(t, want, got)
}

func testEnums(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	for _, name := range []string{"organization_type", "sharing_scope_type"} {
		t.Run(name+" has the three levels from the widest to the narrowest", func(t *testing.T) {
			var labels []string
			require.NoError(t, db.Owner.QueryRow(t.Context(),
				`select array_agg(enumlabel::text order by enumsortorder) from pg_enum where enumtypid = ('public.' || $1)::regtype`, name).Scan(&labels))
			require.Equal(t, []string{"platform", "tenant", "organization"}, labels)
		})
	}
}

func testVerification(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)

	// What each query is there to find.
	phasetest.Verification(t, db, schema.Phase1, map[string]string{
		"missing_columns":    `alter table public.prompts drop column sharing_scope`,
		"enums":              `alter type public.sharing_scope_type rename to scope`,
		"tables_out_of_step": `alter table public.agents disable trigger keep_owner_in_step`,
	})
}

func testExistingRows(t *testing.T) {
	t.Parallel()
	legacy := pgtest.New(t, schema.Legacy, fixtures.World()...)
	var before, after string
	const filenode = `select string_agg(relname || ' ' || relfilenode, ', ' order by relname) from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'`
	require.NoError(t, legacy.Owner.QueryRow(t.Context(), filenode).Scan(&before))
	legacy.Migrate(t, schema.Phase1)

	t.Run("no table is rewritten", func(t *testing.T) {
		require.NoError(t, legacy.Owner.QueryRow(t.Context(), filenode).Scan(&after))
		require.Equal(t, before, after)
	})
	t.Run("rows that were there stay NULL, which is what phase 2 looks for", func(t *testing.T) {
		var rows, touched int
		require.NoError(t, legacy.Owner.QueryRow(t.Context(),
			`select count(*), count(*) filter (where owner_organization_id is not null or sharing_scope is not null or deleted_at is not null) from public.agents`).
			Scan(&rows, &touched))
		require.Equal(t, len(fixtures.Agents), rows)
		require.Zero(t, touched)
	})
}

func testOldApplication(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	phasetest.OldApplication(t, db)
	t.Run("shows everybody the agents that it showed before", func(t *testing.T) {
		legacy := pgtest.New(t, schema.Legacy, fixtures.World()...)
		for _, user := range fixtures.Users {
			require.Equal(t, visibleAgents(t, legacy, user), visibleAgents(t, db, user), user.Name)
		}
		require.NotContains(t, visibleAgents(t, db, fixtures.Alice), fixtures.PfizerAgent.Name)
		require.Contains(t, visibleAgents(t, db, fixtures.Bob), fixtures.PfizerAgent.Name)
	})
}

func visibleAgents(t *testing.T, db *pgtest.DB, user fixtures.User) (names []string) {
	t.Helper()
	require.NoError(t, actor.User(user.ID).Do(t, db, func(tx pgx.Tx) error {
		rows, err := tx.Query(t.Context(), `select name from public.agents order by name`)
		require.NoError(t, err)
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	}))
	return names
}

func testBothGenerations(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	type pair struct{ tenant, owner *string }
	novartis, pfizer := &fixtures.Novartis.ID, &fixtures.Pfizer.ID
	for name, test := range map[string]struct {
		sql  string
		args []any
		want pair
	}{
		"what the old one inserts has an owner":               {`insert into public.agents (name, tenant_id) values ('x', $1)`, []any{novartis}, pair{novartis, novartis}},
		"what the new one inserts has a tenant":               {`insert into public.agents (name, owner_organization_id) values ('x', $1)`, []any{novartis}, pair{novartis, novartis}},
		"where both are given the owner is meant":             {`insert into public.agents (name, owner_organization_id, tenant_id) values ('x', $1, $2)`, []any{novartis, pfizer}, pair{novartis, novartis}},
		"where none is given none is made up":                 {`insert into public.agents (name) values ('x')`, nil, pair{}},
		"what the old one moves has the new owner":            {`update public.agents set tenant_id = $1 where id = $2`, []any{pfizer, fixtures.NovartisAgent.ID}, pair{pfizer, pfizer}},
		"what the new one moves has the new tenant":           {`update public.agents set owner_organization_id = $1 where id = $2`, []any{pfizer, fixtures.NovartisAgent.ID}, pair{pfizer, pfizer}},
		"an update of something else leaves both as they are": {`update public.agents set name = 'y' where id = $1`, []any{fixtures.NovartisAgent.ID}, pair{novartis, nil}},
	} {
		t.Run(name, func(t *testing.T) {
			tx, err := db.Owner.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			var got pair
			require.NoError(t, tx.QueryRow(t.Context(), test.sql+` returning tenant_id::text, owner_organization_id::text`, test.args...).Scan(&got.tenant, &got.owner))
			require.Equal(t, test.want, got)
		})
	}
	t.Run("a new row is private to its owner until somebody shares it", func(t *testing.T) {
		var scope string
		require.NoError(t, db.Owner.QueryRow(t.Context(), `insert into public.agents (name) values ('x') returning sharing_scope::text`).Scan(&scope))
		require.Equal(t, "organization", scope)
	})
}

func testAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	before := phasetest.Catalog(t, db)
	db.Migrate(t, schema.Phase1)
	require.Empty(t, catalog.Diff(before, phasetest.Catalog(t, db)))
}

func testRefusals(t *testing.T) {
	t.Parallel()
	t.Run("a database without the legacy tables", func(t *testing.T) {
		t.Parallel()
		phasetest.RefusesMigration(t, pgtest.Empty(t), schema.Phase1, "phase 1 needs the legacy tables, and these are missing in schema public: organizations, users")
	})
	t.Run("a column of the same name and another type", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		phasetest.Exec(t, db, `alter table public.agents add column sharing_scope integer`)
		phasetest.RefusesMigration(t, db, schema.Phase1, "public.agents.sharing_scope exists with type integer, wanted is public.sharing_scope_type")
	})
	t.Run("an enum of the same name and other labels", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		phasetest.Exec(t, db, `create type public.organization_type as enum ('tenant')`)
		phasetest.RefusesMigration(t, db, schema.Phase1, "type public.organization_type exists with the labels {tenant}")
	})
	t.Run("a role that does not own the tables", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		_, err := db.Superuser.Exec(t.Context(), `alter table public.organizations owner to service_role`)
		require.NoError(t, err)
		phasetest.RefusesMigration(t, db, schema.Phase1, "phase 1 must run as the owner of the tables, and tenancy_owner does not own public.organizations")
	})
}

func TestRollbackPhase1(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "rollback-procedures/rollback-phase-1", "phase-1/if-issues-found-execute-phase-1-rollback-script",
		"phase-1/application-tested-after-rollback")
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	legacy, data := phasetest.Catalog(t, db), phasetest.Data(t, db)
	db.Migrate(t, schema.Phase1)
	migrated := phasetest.Catalog(t, db)
	require.NotEmpty(t, catalog.Diff(legacy, migrated))

	db.Rollback(t, schema.Phase1)
	t.Run("the catalog is the legacy one again", func(t *testing.T) {
		require.Empty(t, catalog.Diff(legacy, phasetest.Catalog(t, db)))
	})
	t.Run("the data is the legacy data again", func(t *testing.T) {
		require.Empty(t, catalog.Diff(data, phasetest.Data(t, db)))
	})
	t.Run("the old application works", func(t *testing.T) { phasetest.OldApplication(t, db) })
	t.Run("a second rollback finds nothing to do", func(t *testing.T) {
		db.Rollback(t, schema.Phase1)
		require.Empty(t, catalog.Diff(legacy, phasetest.Catalog(t, db)))
	})
	t.Run("up again is what it was the first time", func(t *testing.T) {
		db.Migrate(t, schema.Phase1)
		require.Empty(t, catalog.Diff(migrated, phasetest.Catalog(t, db)))
	})
	t.Run("an enum that was there before stays", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		phasetest.Exec(t, db, `create type public.organization_type as enum ('platform', 'tenant', 'organization')`)
		before := phasetest.Catalog(t, db)
		db.Migrate(t, schema.Phase1)
		db.Rollback(t, schema.Phase1)
		require.Empty(t, catalog.Diff(before, phasetest.Catalog(t, db)))
	})
	t.Run("a column that was there before stays", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		phasetest.Exec(t, db, `alter table public.organizations add column slug varchar(60); update public.organizations set slug = 'kept' where name = 'Novartis'`)
		before, data := phasetest.Catalog(t, db), phasetest.Data(t, db)
		db.Migrate(t, schema.Phase1)
		db.Rollback(t, schema.Phase1)
		require.Empty(t, catalog.Diff(before, phasetest.Catalog(t, db)))
		require.Empty(t, catalog.Diff(data, phasetest.Data(t, db)))
	})
}

func columns(t *testing.T, db *pgtest.DB) []column {
	t.Helper()
	rows, err := db.Owner.Query(t.Context(), `
		select table_name, column_name, case data_type when 'USER-DEFINED' then udt_name else data_type end, is_nullable = 'YES', coalesce(column_default, '')
		from information_schema.columns where table_schema = 'public'`)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	require.NoError(t, err)
	require.NotEmpty(t, found)
	return found
}

// difference returns what is in a and not in b.
func difference(a, b []column) []column {
	in := map[column]bool{}
	for _, c := range b {
		in[c] = true
	}
	var only []column
	for _, c := range a {
		if !in[c] {
			only = append(only, c)
		}
	}
	return only
}
