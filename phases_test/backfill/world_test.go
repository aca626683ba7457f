package backfill_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// What a test knows of the world ----------------------------------------------------

// row is whose a row is, with whom it is shared, and who may read it therefore.
type row struct{ Owner, Scope, Tenant, Audience string }

// derive computes by hand what the database derives from an owner and a scope; a
// conversation has no scope, and nothing is derived.
func derive(owner string, scope fixtures.Level) row {
	tenant := tenantOf(owner)
	switch scope {
	case fixtures.PlatformLevel:
		return row{owner, string(scope), tenant, shared(fixtures.PlatformID)}
	case fixtures.TenantLevel:
		return row{owner, string(scope), tenant, shared(tenant)}
	case fixtures.OrganizationLevel:
		return row{owner, string(scope), tenant, owner}
	default:
		return row{Owner: owner}
	}
}

// shared is the audience of what an organization shares: its id, with an f where a
// UUID has its version.
func shared(organization string) string { return organization[:14] + "f" + organization[15:] }

// tenantOf is the tenant of an organization, "" for the platform.
func tenantOf(organization string) string {
	for _, p := range fixtures.Hierarchy() {
		switch {
		case p.ID == organization && p.Type == fixtures.TenantLevel:
			return p.ID
		case p.ID == organization && p.Type == fixtures.OrganizationLevel:
			return *p.Parent
		}
	}
	return ""
}

// expected is every row of the world after phase 2, by its table and name.
func expected() map[string]row {
	all := map[string]row{}
	for _, r := range fixtures.Resources() {
		all[r.Table+" "+r.Name] = derive(r.After.Owner, r.After.Scope)
	}
	for _, c := range fixtures.Conversations {
		all["conversations "+c.Title] = derive(c.After.Owner, "")
	}
	return all
}

// owned counts the rows of an owner and a scope after phase 2, by table. Without a
// scope it counts conversations, too.
func owned(owner string, scope fixtures.Level) map[string]int {
	n := map[string]int{}
	for name, r := range expected() {
		if r.Owner == owner && (scope == "" || r.Scope == string(scope)) {
			table, _, _ := strings.Cut(name, " ")
			n[table]++
		}
	}
	return n
}

// tables lists the tables whose rows have an owner.
func tables() []string {
	names := []string{"conversations"}
	for _, r := range fixtures.Resources() {
		if !slices.Contains(names, r.Table) {
			names = append(names, r.Table)
		}
	}
	return names
}

func nameColumn(table string) string {
	if table == "conversations" {
		return "title"
	}
	return fixtures.Resource{Table: table}.NameColumn()
}

// What a test asks of a database ----------------------------------------------------

// rows is every row that has an owner, by its table and name.
func rows(t *testing.T, db *pgtest.DB) map[string]row {
	t.Helper()
	all := map[string]row{}
	for _, table := range tables() {
		derived := "sharing_scope, owner_tenant_id, audience_key"
		if table == "conversations" {
			derived = "null, null, null"
		}
		found, err := db.Owner.Query(t.Context(), fmt.Sprintf(
			`select concat('%s ', %s), array(select coalesce(v, '') from unnest(array[owner_organization_id::text, %s]::text[]) v) from public.%[1]s`,
			table, nameColumn(table), derived))
		require.NoError(t, err)
		var name string
		var v []string
		_, err = pgx.ForEachRow(found, []any{&name, &v}, func() error {
			require.NotContains(t, all, name)
			all[name] = row{v[0], v[1], v[2], v[3]}
			return nil
		})
		require.NoError(t, err)
	}
	return all
}

// places is every organization's place, by its id.
func places(t *testing.T, db *pgtest.DB) map[string]place {
	t.Helper()
	found, err := db.Owner.Query(t.Context(), `
		select id::text, coalesce(name, ''), coalesce(organization_type::text, ''), coalesce(parent_organization_id::text, ''), coalesce(slug, ''),
			coalesce(parent_organization_type::text, ''), coalesce(tenant_organization_id::text, ''), is_active
		from public.organizations`)
	require.NoError(t, err)
	all := map[string]place{}
	var id string
	var p place
	_, err = pgx.ForEachRow(found, []any{&id, &p.Name, &p.Type, &p.Parent, &p.Slug, &p.ParentType, &p.Tenant, &p.Active}, func() error {
		all[id] = p
		return nil
	})
	require.NoError(t, err)
	return all
}

// ask runs a verification query and returns its rows.
func ask(t *testing.T, db *pgtest.DB, name string) [][]string {
	t.Helper()
	f, err := schema.Verification(schema.Phase2)
	require.NoError(t, err)
	queries, err := verify.Parse(f)
	require.NoError(t, err)
	for _, q := range queries {
		if q.Name == name {
			result, err := verify.Run(t.Context(), db.Owner, q)
			require.NoError(t, err)
			return result.Rows
		}
	}
	require.Fail(t, "no such query", name)
	return nil
}

// counts is what a verification query that counts by table returns.
func counts(n map[string]int) (rows [][]string) {
	for _, table := range slices.Sorted(slices.Values(tables())) {
		rows = append(rows, []string{table, fmt.Sprint(n[table])})
	}
	return rows
}

func query[T any](t *testing.T, db *pgtest.DB, sql string, args ...any) []T {
	t.Helper()
	rows, err := db.Owner.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err)
	return found
}

// write runs a statement, and returns what it made of one row, and the row's
// tenant_id. It is rolled back.
func write(t *testing.T, tx pgx.Tx, sql string, args ...any) (r row, tenantID string) {
	t.Helper()
	tx, err := tx.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	var v [5]*string
	require.NoError(t, tx.QueryRow(t.Context(), sql, args...).Scan(&v[0], &v[1], &v[2], &v[3], &v[4]))
	for i, into := range []*string{&r.Owner, &r.Scope, &r.Tenant, &r.Audience, &tenantID} {
		if v[i] != nil {
			*into = *v[i]
		}
	}
	return r, tenantID
}

// organization is the columns of public.organizations that say where one belongs.
type organization struct {
	Name, Type, Key string         // legacy: tenant_type and tenant_key
	Settings        string         // JSON
	Level           fixtures.Level // declared by hand, as are Parent and Slug
	Parent, Slug    string
}

// insertOrganization makes one with the n-th id of its own.
func insertOrganization(t *testing.T, db *pgtest.DB, n int, o organization) (id string) {
	t.Helper()
	id = fmt.Sprintf("%08d-0000-4000-8000-%012d", n, n)
	if o.Settings == "" {
		o.Settings = "{}"
	}
	phasetest.Exec(t, db, `
		insert into public.organizations (id, name, tenant_type, tenant_key, settings, organization_type, parent_organization_id, slug, created_at)
		values ($1::uuid, nullif($2, 'NULL'), nullif($3, ''), nullif($4, ''), $5::text::jsonb, nullif($6, '')::public.organization_type, nullif($7, '')::uuid, nullif($8, ''), '2020-01-01'::timestamptz + $9::text::interval)`,
		id, o.Name, o.Type, o.Key, o.Settings, string(o.Level), o.Parent, o.Slug, fmt.Sprintf("%d days", n))
	return id
}

// placed inserts an organization and returns its place.
func placed(t *testing.T, db *pgtest.DB, n int, o organization) place {
	t.Helper()
	id := insertOrganization(t, db, n, o)
	return places(t, db)[id]
}
