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
			var got pair
			require.NoError(t, rolledBack(t, db).QueryRow(t.Context(), test.sql+` returning tenant_id::text, owner_organization_id::text`, test.args...).Scan(&got.tenant, &got.owner))
			require.Equal(t, test.want, got)
		})
	}
	t.Run("a new row is private to its owner until somebody shares it", func(t *testing.T) {
		var scope string
		require.NoError(t, db.Owner.QueryRow(t.Context(), `insert into public.agents (name) values ('x') returning sharing_scope::text`).Scan(&scope))
		require.Equal(t, "organization", scope)
	})
}

// The old application's flags become a scope, by a trigger; a scope does not become a flag.
func testScopes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	platform := "00000001-0000-4000-8000-000000000201"
	phasetest.Exec(t, db, `insert into public.organizations (id, name, organization_type) values ($1, 'A platform', 'platform')`, platform)
	const (
		agent    = `insert into public.agents (name, tenant_id, metadata) values ('x', $1, $2)`
		scoped   = `insert into public.agents (name, tenant_id, sharing_scope, metadata) values ('x', $1, $2, $3)`
		document = `insert into public.knowledge_documents (title, tenant_id, is_public, metadata) values ('x', $1, $2, $3)`
		workflow = `insert into public.workflows (name, tenant_id, is_public, is_template) values ('x', $1, $2, $3)`
		flags    = `update public.agents set metadata = $2 where id = $1`
		scope    = `update public.agents set sharing_scope = $2 where id = $1`
		move     = `update public.agents set tenant_id = $2 where id = $1`
	)
	novartis := fixtures.Novartis.ID
	private, shared, public := fixtures.NovartisAgent.ID, fixtures.PharmaAgent.ID, fixtures.PublicAgent.ID
	for name, test := range map[string]struct {
		sql  string
		args []any
		want string
	}{
		"no flag":                                      {agent, []any{novartis, `{}`}, "organization"},
		"public, a boolean":                            {agent, []any{novartis, `{"is_public": true}`}, "platform"},
		"public, a string":                             {agent, []any{novartis, `{"is_public": "true"}`}, "platform"},
		"public, as Python writes it":                  {agent, []any{novartis, `{"is_public": "True"}`}, "platform"},
		"shared, a boolean":                            {agent, []any{novartis, `{"is_tenant_shared": true}`}, "tenant"},
		"shared, as Python writes it":                  {agent, []any{novartis, `{"is_tenant_shared": "True"}`}, "tenant"},
		"public is wider than shared":                  {agent, []any{novartis, `{"is_tenant_shared": true, "is_public": true}`}, "platform"},
		"not public, and shared":                       {agent, []any{novartis, `{"is_tenant_shared": true, "is_public": false}`}, "tenant"},
		"yes is no yes":                                {agent, []any{novartis, `{"is_public": "yes", "is_tenant_shared": 1}`}, "organization"},
		"null is no yes":                               {agent, []any{novartis, `{"is_public": null}`}, "organization"},
		"an array is no yes":                           {agent, []any{novartis, `{"is_public": [true]}`}, "organization"},
		"a scope and no flag":                          {scoped, []any{novartis, "tenant", `{}`}, "tenant"},
		"a scope and a wider flag":                     {scoped, []any{novartis, "organization", `{"is_tenant_shared": true}`}, "tenant"},
		"a scope of the platform, which has no tenant": {scoped, []any{platform, "tenant", `{"is_tenant_shared": true}`}, "organization"},
		"a shared row of the platform":                 {agent, []any{platform, `{"is_tenant_shared": true}`}, "organization"},
		"a public row of the platform":                 {agent, []any{platform, `{"is_public": true}`}, "platform"},
		"public in the column alone":                   {document, []any{novartis, true, `{}`}, "platform"},
		"public in metadata alone":                     {document, []any{novartis, nil, `{"is_public": "true"}`}, "platform"},
		"public in both":                               {document, []any{novartis, true, `{"is_public": true}`}, "platform"},
		"public in the column, and not in metadata":    {document, []any{novartis, true, `{"is_public": false}`}, "organization"},
		"public in metadata, and not in the column":    {document, []any{novartis, false, `{"is_public": true}`}, "organization"},
		"a document shared in metadata":                {document, []any{novartis, false, `{"is_tenant_shared": true}`}, "tenant"},
		"a public workflow":                            {workflow, []any{novartis, true, nil}, "platform"},
		"a template is not public for that":            {workflow, []any{novartis, nil, true}, "organization"},
		"a use case, which has no flags":               {`insert into public.use_cases (title, tenant_id) values ('x', $1)`, []any{novartis}, "organization"},
		"a flag that is switched on":                   {flags, []any{private, `{"is_tenant_shared": true}`}, "tenant"},
		"a flag that is switched off again":            {flags, []any{public, `{"is_public": false}`}, "organization"},
		"a flag that is taken away":                    {flags, []any{shared, `{}`}, "organization"},
		"a flag that makes way for a narrower one":     {flags, []any{public, `{"is_public": false, "is_tenant_shared": true}`}, "tenant"},
		"the new application shares":                   {scope, []any{private, "tenant"}, "tenant"},
		"the new application takes back what a flag shares, and the flag is as it was": {scope, []any{public, "organization"}, "organization"},
		"a shared row that moves to the platform":                                      {move, []any{shared, platform}, "no scope"},
	} {
		t.Run(name, func(t *testing.T) {
			var got string
			require.NoError(t, rolledBack(t, db).QueryRow(t.Context(), test.sql+` returning coalesce(sharing_scope::text, 'no scope')`, test.args...).Scan(&got))
			require.Equal(t, test.want, got)
		})
	}
	t.Run("a scope that was given is not forgotten when something else is written", func(t *testing.T) {
		tx := rolledBack(t, db)
		var got string
		_, err := tx.Exec(t.Context(), scope, public, "organization")
		require.NoError(t, err)
		require.NoError(t, tx.QueryRow(t.Context(), `update public.agents set name = 'y', metadata = metadata || '{"color": "red"}' where id = $1 returning sharing_scope::text`, public).Scan(&got))
		require.Equal(t, "organization", got)
	})
	t.Run("what was shared with a tenant is private when it comes to the platform", func(t *testing.T) {
		tx := rolledBack(t, db)
		var got string
		_, err := tx.Exec(t.Context(), scope, private, "tenant")
		require.NoError(t, err)
		require.NoError(t, tx.QueryRow(t.Context(), move+` returning sharing_scope::text`, private, platform).Scan(&got))
		require.Equal(t, "organization", got)
	})
}

// What is derived: from an organization's level its tenant, from a row's owner and scope who may read it.
func testDerived(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	platform, tenant, other := fixtures.Platform.ID, fixtures.Pharmaceuticals.ID, fixtures.DigitalHealth.ID
	novartis, mayo := fixtures.Novartis.ID, fixtures.MayoClinic.ID
	// Phase 2 would place them; and so may anybody.
	phasetest.Exec(t, db, `update public.organizations set organization_type = 'platform' where id = $1`, platform)
	phasetest.Exec(t, db, `update public.organizations set organization_type = 'tenant', parent_organization_id = $1 where id in ($2, $3)`, platform, tenant, other)
	phasetest.Exec(t, db, `update public.organizations set organization_type = 'organization', parent_organization_id = $1 where id = $2`, tenant, novartis)
	phasetest.Exec(t, db, `update public.organizations set organization_type = 'organization', parent_organization_id = $1 where id = $2`, other, mayo)

	type derived struct{ First, Second string }
	ask := func(t *testing.T, sql string, args ...any) (got derived) {
		t.Helper()
		var first, second *string
		require.NoError(t, rolledBack(t, db).QueryRow(t.Context(), sql, args...).Scan(&first, &second))
		return derived{deref(first), deref(second)}
	}
	for name, test := range map[string]struct {
		sql  string
		args []any
		want derived // parent_organization_type, tenant_organization_id
	}{
		"a platform has no parent and no tenant":            {`update public.organizations set name = 'x' where id = $1`, []any{platform}, derived{}},
		"a tenant is its own":                               {`update public.organizations set name = 'x' where id = $1`, []any{tenant}, derived{"platform", tenant}},
		"an organization's is its parent":                   {`update public.organizations set name = 'x' where id = $1`, []any{novartis}, derived{"tenant", tenant}},
		"a legacy organization's is not known":              {`update public.organizations set name = 'x' where id = $1`, []any{fixtures.Pfizer.ID}, derived{}},
		"it moves with the parent":                          {`update public.organizations set parent_organization_id = $1 where id = $2`, []any{other, novartis}, derived{"tenant", other}},
		"it cannot be forged":                               {`update public.organizations set tenant_organization_id = $1, parent_organization_type = 'platform' where id = $2`, []any{other, novartis}, derived{"tenant", tenant}},
		"nor when an organization is made":                  {`insert into public.organizations (organization_type, parent_organization_id, tenant_organization_id) values ('organization', $1, $2)`, []any{tenant, other}, derived{"tenant", tenant}},
		"an organization that becomes a tenant has its own": {`update public.organizations set organization_type = 'tenant', parent_organization_id = $1 where id = $2`, []any{platform, novartis}, derived{"platform", novartis}},
	} {
		t.Run("organizations: "+name, func(t *testing.T) {
			require.Equal(t, test.want, ask(t, test.sql+` returning parent_organization_type::text, tenant_organization_id::text`, test.args...))
		})
	}

	// A shared row's audience is the id with an f where a UUID has its version: never an organization's own.
	const everybody, pharma, digital = "00000000-0000-f000-0000-000000000001", "00000001-0000-f000-8000-000000000002", "00000001-0000-f000-8000-000000000003"
	const owned = `insert into public.agents (name, owner_organization_id, sharing_scope) values ('x', $1, $2)`
	for name, test := range map[string]struct {
		sql  string
		args []any
		want derived // owner_tenant_id, audience_key
	}{
		"private":                                    {owned, []any{novartis, "organization"}, derived{tenant, novartis}},
		"shared with the tenant":                     {owned, []any{novartis, "tenant"}, derived{tenant, pharma}},
		"shared with everybody":                      {owned, []any{novartis, "platform"}, derived{tenant, everybody}},
		"private to the tenant's own people":         {owned, []any{tenant, "organization"}, derived{tenant, tenant}},
		"the tenant's, shared with it":               {owned, []any{tenant, "tenant"}, derived{tenant, pharma}},
		"private to the platform's own people":       {owned, []any{platform, "organization"}, derived{"", platform}},
		"the platform's, shared with everybody":      {owned, []any{platform, "platform"}, derived{"", everybody}},
		"shared by somebody whose tenant is unknown": {owned, []any{fixtures.Pfizer.ID, "tenant"}, derived{}},
		"of nobody":                            {`insert into public.agents (name, sharing_scope) values ('x', 'platform')`, nil, derived{}},
		"of an organization that is not there": {`insert into public.prompts (name, owner_organization_id) values ('x', $1)`, []any{"00000001-0000-4000-8000-000000000098"}, derived{"", "00000001-0000-4000-8000-000000000098"}},
		"by the old application":               {`insert into public.agents (name, tenant_id, metadata) values ('x', $1, '{"is_tenant_shared": true}')`, []any{mayo}, derived{other, digital}},
		"moved by the old application":         {`update public.agents set tenant_id = $1, metadata = '{"is_tenant_shared": "true"}' where id = $2`, []any{mayo, fixtures.NovartisAgent.ID}, derived{other, digital}},
		"moved by the new one":                 {`update public.agents set owner_organization_id = $1, sharing_scope = 'tenant' where id = $2`, []any{mayo, fixtures.NovartisAgent.ID}, derived{other, digital}},
		"forged when it is made":               {`insert into public.agents (name, owner_organization_id, owner_tenant_id, audience_key) values ('x', $1, $2, $3)`, []any{novartis, other, mayo}, derived{tenant, novartis}},
		"forged afterwards":                    {`update public.agents set owner_organization_id = $1, sharing_scope = 'organization', audience_key = $2, owner_tenant_id = $3 where id = $4`, []any{novartis, mayo, other, fixtures.NovartisAgent.ID}, derived{tenant, novartis}},
		"legacy, and renamed":                  {`update public.agents set name = 'y' where id = $1`, []any{fixtures.NovartisAgent.ID}, derived{}},
	} {
		t.Run("resources: "+name, func(t *testing.T) {
			require.Equal(t, test.want, ask(t, test.sql+` returning owner_tenant_id::text, audience_key::text`, test.args...))
		})
	}
	t.Run("resources: forged, and nothing else changed", func(t *testing.T) {
		tx := rolledBack(t, db)
		_, err := tx.Exec(t.Context(), `update public.agents set owner_organization_id = $1, sharing_scope = 'organization' where id = $2`, novartis, fixtures.NovartisAgent.ID)
		require.NoError(t, err)
		var got derived
		require.NoError(t, tx.QueryRow(t.Context(), `update public.agents set owner_tenant_id = $1, audience_key = $2 where id = $3 returning owner_tenant_id::text, audience_key::text`,
			other, mayo, fixtures.NovartisAgent.ID).Scan(&got.First, &got.Second))
		require.Equal(t, derived{tenant, novartis}, got)
	})
	t.Run("every resource table derives it, and only those", func(t *testing.T) {
		rows, err := db.Owner.Query(t.Context(), `select tgrelid::regclass::text from pg_trigger where tgfoid = 'tenancy.set_audience()'::regprocedure and tgenabled = 'O'`)
		require.NoError(t, err)
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"agents", "knowledge_documents", "prompts", "workflows", "use_cases", "capabilities"}, tables)
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
