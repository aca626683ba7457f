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
	f, err := schema.Verification(schema.Phase1)
	require.NoError(t, err)
	queries, err := verify.Parse(f)
	require.NoError(t, err)
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)

	// What each query is there to find.
	faults := map[string]string{
		"missing_columns":    `alter table public.prompts drop column sharing_scope`,
		"enums":              `alter type public.sharing_scope_type rename to scope`,
		"tables_out_of_step": `alter table public.agents disable trigger keep_owner_in_step`,
	}
	require.Len(t, queries, len(faults))
	for _, q := range queries {
		t.Run(q.Name+" holds, and finds what it is there to find", func(t *testing.T) {
			result, err := verify.Run(t.Context(), db.Owner, q)
			require.NoError(t, err)
			require.True(t, result.OK, "%s", result)

			require.Contains(t, faults, q.Name)
			tx, err := db.Owner.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			_, err = tx.Exec(t.Context(), faults[q.Name])
			require.NoError(t, err)
			result, err = verify.Run(t.Context(), tx, q)
			require.NoError(t, err)
			require.False(t, result.OK, "%s", result)
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
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	oldApplicationWorks(t, db)
	t.Run("shows everybody the agents that it showed before", func(t *testing.T) {
		legacy := pgtest.New(t, schema.Legacy, fixtures.World()...)
		for _, user := range fixtures.Users {
			require.Equal(t, visibleAgents(t, legacy, user), visibleAgents(t, db, user), user.Name)
		}
		require.NotContains(t, visibleAgents(t, db, fixtures.Alice), fixtures.PfizerAgent.Name)
		require.Contains(t, visibleAgents(t, db, fixtures.Bob), fixtures.PfizerAgent.Name)
	})
}

// oldApplicationWorks runs the old application's statements, unchanged: what its
// backend sends as service_role, and what a signed-in user sends through the API.
func oldApplicationWorks(t *testing.T, db *pgtest.DB) {
	t.Helper()
	backend, alice := actor.Service(), actor.User(fixtures.Alice.ID)
	for name, test := range map[string]struct {
		as  actor.Actor
		sql string
	}{
		"signs users in":                      {backend, `select u.id, uo.role from public.users u join public.user_organizations uo on uo.user_id = u.id where u.email = 'alice@novartis.com' and uo.is_active`},
		"makes an organization":               {backend, `insert into public.organizations (name, tenant_type, tenant_key) values ('Roche', 'standard', 'pharma') returning id`},
		"makes a document":                    {backend, `insert into public.knowledge_documents (title, is_public) values ('New', true) returning id`},
		"inserts a use case or updates it":    {backend, `insert into public.use_cases (code, title) values ('UC-1', 'New') on conflict (code) do update set title = excluded.title returning id`},
		"moves an agent to another owner":     {backend, `update public.agents set tenant_id = (select id from public.organizations where name = 'Pfizer') where name = 'Novartis RA Agent' returning id`},
		"starts a conversation":               {backend, `insert into public.conversations (user_id, title) select id, 'New' from public.users where email = 'dana@consultant.example' returning id`},
		"writes a message":                    {backend, `insert into public.messages (conversation_id, role, content) select id, 'user', 'Hi' from public.conversations limit 1 returning id`},
		"deletes an agent":                    {backend, `delete from public.agents where name = 'Novartis Draft Agent' returning id`},
		"counts agents with a function of it": {backend, `select public.count_tenant_agents(id) from public.organizations where name = 'Novartis'`},
		"lists agents to Alice":               {alice, `select id, name, display_name, tier from public.agents where status = 'active' order by priority desc, name limit 50`},
		"lets Alice make an agent":            {alice, `insert into public.agents (tenant_id, name, metadata) select id, 'New', '{"is_public": true}' from public.organizations where name = 'Novartis' returning id`},
		"lets Alice rename her agent":         {alice, `update public.agents set display_name = 'RA' where name = 'Novartis RA Agent' returning id`},
		"lets Alice write in a conversation":  {alice, `insert into public.messages (conversation_id, role, content) select id, 'user', 'Hi' from public.conversations where title = 'Alice asks about labels' returning id`},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, test.as.Do(t, db, func(tx pgx.Tx) error {
				tag, err := tx.Exec(t.Context(), test.sql)
				require.NoError(t, err)
				require.Positive(t, tag.RowsAffected(), "the statement must meet rows, or it proves nothing")
				return nil
			}))
		})
	}
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
	before := snapshot(t, db)
	db.Migrate(t, schema.Phase1)
	require.Empty(t, catalog.Diff(before, snapshot(t, db)))
}

func testRefusals(t *testing.T) {
	t.Parallel()
	t.Run("a database without the legacy tables", func(t *testing.T) {
		t.Parallel()
		refused(t, pgtest.Empty(t), "phase 1 needs the legacy tables, and these are missing in schema public: organizations, users")
	})
	t.Run("a column of the same name and another type", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		exec(t, db, `alter table public.agents add column sharing_scope integer`)
		refused(t, db, "public.agents.sharing_scope exists with type integer, wanted is public.sharing_scope_type")
	})
	t.Run("an enum of the same name and other labels", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		exec(t, db, `create type public.organization_type as enum ('tenant')`)
		refused(t, db, "type public.organization_type exists with the labels {tenant}")
	})
	t.Run("a role that does not own the tables", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		_, err := db.Superuser.Exec(t.Context(), `alter table public.organizations owner to service_role`)
		require.NoError(t, err)
		refused(t, db, "phase 1 must run as the owner of the tables, and tenancy_owner does not own public.organizations")
	})
}

// refused runs phase 1, which must fail with the message and leave nothing behind.
func refused(t *testing.T, db *pgtest.DB, message string) {
	t.Helper()
	before := snapshot(t, db)
	migration, err := schema.Migration(schema.Phase1)
	require.NoError(t, err)
	_, err = db.Run(t, migration)
	require.ErrorContains(t, err, message)
	require.Empty(t, catalog.Diff(before, snapshot(t, db)))
}

func TestRollbackPhase1(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "rollback-procedures/rollback-phase-1", "phase-1/if-issues-found-execute-phase-1-rollback-script",
		"phase-1/application-tested-after-rollback")
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	legacy, data := snapshot(t, db), contents(t, db)
	db.Migrate(t, schema.Phase1)
	migrated := snapshot(t, db)
	require.NotEmpty(t, catalog.Diff(legacy, migrated))

	db.Rollback(t, schema.Phase1)
	t.Run("the catalog is the legacy one again", func(t *testing.T) {
		require.Empty(t, catalog.Diff(legacy, snapshot(t, db)))
	})
	t.Run("the data is the legacy data again", func(t *testing.T) {
		require.Empty(t, catalog.Diff(data, contents(t, db)))
	})
	t.Run("the old application works", func(t *testing.T) { oldApplicationWorks(t, db) })
	t.Run("a second rollback finds nothing to do", func(t *testing.T) {
		db.Rollback(t, schema.Phase1)
		require.Empty(t, catalog.Diff(legacy, snapshot(t, db)))
	})
	t.Run("up again is what it was the first time", func(t *testing.T) {
		db.Migrate(t, schema.Phase1)
		require.Empty(t, catalog.Diff(migrated, snapshot(t, db)))
	})
	t.Run("an enum that was there before stays", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		exec(t, db, `create type public.organization_type as enum ('platform', 'tenant', 'organization')`)
		before := snapshot(t, db)
		db.Migrate(t, schema.Phase1)
		db.Rollback(t, schema.Phase1)
		require.Empty(t, catalog.Diff(before, snapshot(t, db)))
	})
	t.Run("a column that was there before stays", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		exec(t, db, `alter table public.organizations add column slug varchar(60); update public.organizations set slug = 'kept' where name = 'Novartis'`)
		before, data := snapshot(t, db), contents(t, db)
		db.Migrate(t, schema.Phase1)
		db.Rollback(t, schema.Phase1)
		require.Empty(t, catalog.Diff(before, snapshot(t, db)))
		require.Empty(t, catalog.Diff(data, contents(t, db)))
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

func snapshot(t *testing.T, db *pgtest.DB) catalog.Catalog {
	t.Helper()
	found, err := catalog.Take(t.Context(), db.Superuser)
	require.NoError(t, err)
	return found
}

func contents(t *testing.T, db *pgtest.DB) catalog.Data {
	t.Helper()
	found, err := catalog.TakeData(t.Context(), db.Superuser)
	require.NoError(t, err)
	return found
}

func exec(t *testing.T, db *pgtest.DB, sql string) {
	t.Helper()
	_, err := db.Owner.Exec(t.Context(), sql)
	require.NoError(t, err)
}
