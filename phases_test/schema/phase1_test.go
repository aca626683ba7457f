package schema_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/verify"
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
	t.Run("Scopes", testScopes)
	t.Run("Derived columns", testDerived)
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
	checklist.Proves(t, "success-criteria/schema-updated/all-tables-have-new-columns")
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
		"missing_columns":    `alter table public.prompts drop column audience_key`,
		"enums":              `alter type public.sharing_scope_type rename to scope`,
		"tables_out_of_step": `alter table public.agents disable trigger keep_owner_in_step`,
	})

	f, err := schema.Verification(schema.Phase1)
	require.NoError(t, err)
	queries, err := verify.Parse(f)
	require.NoError(t, err)
	// Their names are those of the queries that each must make fail.
	for _, fault := range []struct{ query, sql string }{
		{"missing_columns", `alter table public.organizations drop column tenant_organization_id`},
		{"missing_columns", `alter table public.organizations drop column parent_organization_type`},
		{"missing_columns", `alter table public.use_cases drop column owner_tenant_id`},
		{"missing_columns", `alter table public.conversations drop column deleted_at`},
		{"missing_columns", `alter table public.workflows alter column audience_key type text`},
		{"tables_out_of_step", `alter table public.organizations disable trigger set_tenant`},
		{"tables_out_of_step", `alter table public.conversations enable replica trigger keep_owner_in_step`},
		{"tables_out_of_step", `drop trigger keep_scope_in_step on public.workflows`},
		{"tables_out_of_step", `create or replace trigger set_audience before insert on public.prompts for each row execute function tenancy.set_audience()`},
		{"tables_out_of_step", `create or replace trigger set_audience before insert or update on public.prompts for each row execute function tenancy.keep_scope_in_step()`},
	} {
		t.Run(fault.query+" finds: "+fault.sql, func(t *testing.T) {
			tx := rolledBack(t, db)
			_, err := tx.Exec(t.Context(), fault.sql)
			require.NoError(t, err)
			for _, q := range queries {
				result, err := verify.Run(t.Context(), tx, q)
				require.NoError(t, err)
				require.Equal(t, q.Name != fault.query, result.OK, "%s", result)
			}
		})
	}
	for _, later := range []schema.Phase{schema.Phase2, schema.Phase3, schema.Phase4} {
		t.Run("they hold after "+later.String()+", too", func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, later, fixtures.World()...)
			for _, q := range queries {
				result, err := verify.Run(t.Context(), db.Owner, q)
				require.NoError(t, err)
				require.True(t, result.OK, "%s", result)
			}
		})
	}
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
	checklist.Proves(t, "phase-1/verify-application-still-works/agents-are-visible", "phase-1/verify-application-still-works/chat-functionality-works")
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	phasetest.OldApplication(t, db)
	t.Run("shows everybody the agents that it showed before", func(t *testing.T) {
		legacy := pgtest.New(t, schema.Legacy, fixtures.World()...)
		for _, user := range fixtures.Users {
			require.Equal(t, phasetest.VisibleAgents(t, legacy, user), phasetest.VisibleAgents(t, db, user), user.Name)
		}
		require.NotContains(t, phasetest.VisibleAgents(t, db, fixtures.Alice), fixtures.PfizerAgent.Name)
		require.Contains(t, phasetest.VisibleAgents(t, db, fixtures.Bob), fixtures.PfizerAgent.Name)
	})
}

// rolledBack is a transaction of the owner's, which the test's end rolls back.
func rolledBack(t *testing.T, db *pgtest.DB) pgx.Tx {
	t.Helper()
	tx, err := db.Owner.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	return tx
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
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
