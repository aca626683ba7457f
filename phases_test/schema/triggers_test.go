package schema_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

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
	ask := func(t *testing.T, tx pgx.Tx, sql string, args ...any) derived {
		t.Helper()
		var first, second *string
		require.NoError(t, tx.QueryRow(t.Context(), sql, args...).Scan(&first, &second))
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
			require.Equal(t, test.want, ask(t, rolledBack(t, db), test.sql+` returning parent_organization_type::text, tenant_organization_id::text`, test.args...))
		})
	}

	// A shared row's audience is the id with an f where a UUID has its version: never an organization's own.
	const everybody, pharma, digital = "00000000-0000-f000-0000-000000000001", "00000001-0000-f000-8000-000000000002", "00000001-0000-f000-8000-000000000003"
	const returning = ` returning owner_tenant_id::text, audience_key::text`
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
			require.Equal(t, test.want, ask(t, rolledBack(t, db), test.sql+returning, test.args...))
		})
	}
	t.Run("resources: what phase 2 places is its to mend", func(t *testing.T) {
		tx := rolledBack(t, db)
		for _, statement := range []string{
			`insert into public.agents (name, owner_organization_id, sharing_scope) values ('x', '` + fixtures.Pfizer.ID + `', 'tenant')`,
			`update public.organizations set organization_type = 'organization', parent_organization_id = '` + tenant + `' where id = '` + fixtures.Pfizer.ID + `'`,
		} {
			_, err := tx.Exec(t.Context(), statement)
			require.NoError(t, err)
		}
		require.Equal(t, derived{}, ask(t, tx, `update public.agents set display_name = 'y' where name = 'x'`+returning))
	})
	tenantOf := map[string]string{platform: "", tenant: tenant, novartis: tenant}
	for owner := range tenantOf {
		for _, column := range []string{"owner_organization_id", "owner_tenant_id", "audience_key"} {
			for value := range tenantOf {
				t.Run(fmt.Sprintf("resources: one column alone is changed: %s of %s, to %s", column, owner, value), func(t *testing.T) {
					tx := rolledBack(t, db)
					_, err := tx.Exec(t.Context(), `update public.agents set owner_organization_id = $1, sharing_scope = 'organization' where id = $2`, owner, fixtures.NovartisAgent.ID)
					require.NoError(t, err)
					want := derived{tenantOf[owner], owner}
					if column == "owner_organization_id" {
						want = derived{tenantOf[value], value}
					}
					require.Equal(t, want, ask(t, tx, `update public.agents set `+column+` = $1 where id = $2`+returning, value, fixtures.NovartisAgent.ID))
				})
			}
		}
	}
	t.Run("every resource table derives it, and only those", func(t *testing.T) {
		rows, err := db.Owner.Query(t.Context(), `select tgrelid::regclass::text from pg_trigger where tgfoid = 'tenancy.set_audience()'::regprocedure and tgenabled = 'O'`)
		require.NoError(t, err)
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"agents", "knowledge_documents", "prompts", "workflows", "use_cases", "capabilities"}, tables)
	})
}
