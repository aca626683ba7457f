package messy_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/fixtures/messy"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// legacy is a world before phase 1.
func legacy(t *testing.T, w messy.World) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t, schema.Legacy, w.Seed())
	if w.SearchPath != "" {
		phasetest.Exec(t, db, fmt.Sprintf(`alter role %s in database %s set search_path = %s`, pgtest.OwnerRole, db.Name, w.SearchPath))
	}
	return db
}

// migrate runs a phase, and says what people say after it.
func migrate(t *testing.T, db *pgtest.DB, w messy.World, phase schema.Phase) {
	t.Helper()
	db.Migrate(t, phase)
	if phase == schema.Phase1 {
		phasetest.Exec(t, db, w.Said())
	}
}

// holds runs the verification queries of a phase.
func holds(t *testing.T, db *pgtest.DB, phase schema.Phase) {
	t.Helper()
	f, err := schema.Verification(phase)
	require.NoError(t, err)
	queries, err := verify.Parse(f)
	require.NoError(t, err)
	for _, q := range queries {
		result, err := verify.Run(t.Context(), db.Owner, q)
		require.NoError(t, err)
		require.True(t, result.OK, "%s", result)
	}
}

// names is what each id is called in a world, by its table.
type names map[string]string

func namesOf(w messy.World) names {
	n := names{}
	call := func(table, id, as string) {
		n[table+" "+id] = as
		n["audit_logs "+table+" "+id] = table + " " + as
	}
	for _, as := range organizations(w) {
		for _, table := range []string{"organizations", "organization_stats"} {
			call(table, w.AfterID(as), as)
		}
	}
	for _, o := range w.Organizations {
		call("organizations", o.ID, o.As) // of the platform, before phase 2
	}
	for _, p := range w.People {
		call("users", p.ID, p.As)
		for _, m := range p.Memberships {
			call("user_organizations", m.ID, p.As+" in "+m.Organization)
		}
	}
	for _, r := range w.Rows {
		call(r.Table, r.ID, r.As)
		if r.Table == "conversations" {
			call("messages", r.MessageID(), r.As)
		}
	}
	return n
}

// made is the organizations that phase 2 makes in a world.
func made(w messy.World) []string {
	all := []string{messy.Quarantine, messy.Unassigned}
	if _, known := w.Organization(messy.Platform); !known {
		all = append(all, messy.Platform)
	}
	return all
}

// organizations is all organizations of a world after phase 2.
func organizations(w messy.World) []string {
	all := made(w)
	for _, o := range w.Organizations {
		all = append(all, o.As)
	}
	return all
}

// readings is who reads what: a user, a table or view of public, and a name, in one text
// that is the key, so that two of them compare as pictures of a database do.
type readings map[string]string

func reading(user messy.Person, relation, as string) string {
	return user.As + " reads " + relation + ": " + as
}

func (r readings) has(user messy.Person, relation, as string) bool {
	_, has := r[reading(user, relation, as)]
	return has
}

func (r readings) add(user messy.Person, relation, as string) { r[reading(user, relation, as)] = "" }

// without is the readings of all but some rows.
func (r readings) without(relation string, names ...string) readings {
	kept := maps.Clone(r)
	maps.DeleteFunc(kept, func(text, _ string) bool {
		_, row, _ := strings.Cut(text, " reads ")
		of, as, _ := strings.Cut(row, ": ")
		return of == relation && (len(names) == 0 || slices.Contains(names, as))
	})
	return kept
}

// anonymous is who has not signed in.
var anonymous = messy.Person{As: "who has not signed in"}

// reads is what the people of a world read, and who has not signed in, of everything in
// public that they may read at all.
func reads(t *testing.T, db *pgtest.DB, w messy.World) readings {
	t.Helper()
	called, all := namesOf(w), readings{}
	conn := db.Connect(t, pgtest.APIRole)
	defer conn.Close(t.Context())
	for _, p := range append(slices.Clone(w.People), anonymous) {
		as := actor.User(p.ID)
		if p.As == anonymous.As {
			as = actor.Anonymous()
		}
		require.NoError(t, as.On(t, conn, func(tx pgx.Tx) error {
			rows, err := tx.Query(t.Context(), `
				select relname::text from pg_catalog.pg_class
				where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f') and has_any_column_privilege(oid, 'SELECT')`)
			require.NoError(t, err)
			relations, err := pgx.CollectRows(rows, pgx.RowTo[string])
			require.NoError(t, err)
			if p.As != anonymous.As {
				require.Contains(t, relations, "agents")
			}
			if len(relations) == 0 {
				return nil
			}
			var selects []string
			for _, relation := range relations {
				key := map[string]string{"organization_stats": "organization_id::text", "audit_logs": "resource_type || ' ' || resource_id"}[relation]
				selects = append(selects, fmt.Sprintf("select '%s', %s from public.%[1]s", relation, cmp.Or(key, "id::text")))
			}
			rows, err = tx.Query(t.Context(), strings.Join(selects, " union all "))
			require.NoError(t, err)
			var relation, key string
			_, err = pgx.ForEachRow(rows, []any{&relation, &key}, func() error {
				as, known := called[relation+" "+key]
				require.True(t, known, "%s reads a row that the world has not: %s of %s", p.As, key, relation)
				require.False(t, all.has(p, relation, as), "two rows have one name: %s of %s", as, relation)
				all.add(p, relation, as)
				return nil
			})
			return err
		}))
	}
	return all
}

// outcome is whose each row is, and where each organization belongs: what phase 2 made
// of a world, by table and name.
func outcome(t *testing.T, db *pgtest.DB, w messy.World) map[string]string {
	t.Helper()
	called := namesOf(w)
	queries := []string{`select 'organizations ' || id, concat_ws(' ', organization_type::text, parent_organization_id::text, slug) from public.organizations`}
	for _, table := range tables(w) {
		scope := "sharing_scope::text"
		if table == "conversations" {
			scope = "null"
		}
		queries = append(queries, fmt.Sprintf(`select '%s ' || id, concat_ws(' ', owner_organization_id::text, %s, 'tenant_id ' || (to_jsonb(r) ->> 'tenant_id')) from public.%[1]s r`, table, scope))
	}
	rows, err := db.Owner.Query(t.Context(), strings.Join(queries, " union all "))
	require.NoError(t, err)
	found := map[string]string{}
	var key, value string
	_, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error {
		table, _, _ := strings.Cut(key, " ")
		found[table+" "+called[key]] = value
		return nil
	})
	require.NoError(t, err)
	return found
}

// expected is what [outcome] must find.
func expected(w messy.World) map[string]string {
	want := map[string]string{}
	for _, as := range organizations(w) {
		p, _ := oracle{w}.place(as)
		text := string(p.Level) + " "
		switch p.Level {
		case fixtures.TenantLevel:
			text += fixtures.PlatformID + " "
		case fixtures.OrganizationLevel:
			text += w.AfterID(p.Tenant) + " "
		}
		want["organizations "+as] = text + p.Slug
	}
	for _, r := range w.Rows {
		text := strings.TrimSpace(w.AfterID(r.After.Owner) + " " + string(r.After.Scope))
		if r.Tenant != "" {
			text += " tenant_id " + w.AfterID(r.Tenant) // as the old application wrote it
		}
		want[r.Table+" "+r.As] = text
	}
	return want
}

// tables is the tables whose rows have an owner.
func tables(w messy.World) (all []string) {
	for _, r := range w.Rows {
		if !slices.Contains(all, r.Table) {
			all = append(all, r.Table)
		}
	}
	return all
}
