package rls_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// TestPhase4Worlds makes worlds up, changes them under way, and compares after each
// change what everybody reads, changes and removes with the model. RAPID_CHECKS=1000
// makes as many worlds up. A world that does not fit is shrunk to the smallest that
// does not, and the failure says with which seed to see it again.
func TestPhase4Worlds(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/rls-policies-enforce-data-isolation")
	db := pgtest.New(t, schema.Phase4)
	makeLiteral(t, db)
	session := db.Connect(t, pgtest.APIRole)
	rules := rulesOn(t, db)

	made := 0
	rapid.Check(t, func(rt *rapid.T) {
		made++
		w := drawWorld(rt)
		w.install(t, db)
		story := "as it is made up"
		for n := rapid.IntRange(0, 3).Draw(rt, "changes"); ; n-- {
			tx, err := session.Begin(t.Context())
			require.NoError(t, err)
			if n == 0 {
				fillLiteral(t, db)
			}
			known := w.withHistory(t, db)
			v := leaksIn(t, db, known, tx, w.users)
			forEachIn(t, tx, w.users, func(tx pgx.Tx, u fixtures.User) {
				v.add(compareIn(t, tx, known, u, changingMany, rules))
				if n == 0 {
					v.add(compareIn(t, tx, known, u, []path{named("UPDATE without WHERE")}, rules))
					v.add(literal(t, tx, known, u))
				}
			})
			require.NoError(t, tx.Rollback(t.Context()))
			decisions.Add(int64(v.decisions))
			if len(v.problems) > 0 {
				mismatches.Add(int64(len(v.problems)))
				rt.Fatalf("%d of %d decisions are not the model's, %s. The first:\n%s\n\n%s", len(v.problems), v.decisions, story, v.problems[0], w)
			}
			if n == 0 {
				break
			}
			story = w.change(rt)
			statement(story)(t, db)
			story = "after " + story
		}
	})
	require.Positive(t, made, "no world was made up: RAPID_CHECKS is to be 1 or more")
}

// changingMany are the paths that meet all rows of a table in one statement.
var changingMany = []path{named("UPDATE RETURNING"), named("DELETE RETURNING")}

// society is a world that is made up, and the people in it.
type society struct {
	world
	users   []fixtures.User
	deleted map[string]bool // organizations; what is closed otherwise is switched off
}

// made is the id of the n-th of a kind that is made up.
func made(kind, n int) string { return fmt.Sprintf("%08d-0000-4000-8000-%012d", kind, n) }

func drawWorld(rt *rapid.T) *society {
	w := &society{world: world{organizations: map[string]organization{}}, deleted: map[string]bool{}}
	seldom := rapid.Custom(func(rt *rapid.T) bool { return rapid.IntRange(0, 5).Draw(rt, "of six") == 5 })
	var owners, tenants, people []string

	// The tree. What is drawn of an organization is whether it is closed, and how; and its tenant.
	add := func(id, name string, level fixtures.Level, parent string, closed, deleted bool) {
		deleted = deleted && level != fixtures.PlatformLevel
		w.organizations[id] = organization{name: name, level: level, parent: parent, closed: closed || deleted}
		w.deleted[id] = deleted
		owners = append(owners, id)
		w.rows = append(w.rows, row{table: "organizations", key: id, name: name, owner: id, deleted: deleted})
		if !deleted {
			w.rows = append(w.rows, row{table: "organization_stats", key: id, name: name, owner: id})
		}
	}
	type node struct {
		tenant          int
		closed, deleted bool
	}
	nodes := rapid.Custom(func(rt *rapid.T) node {
		return node{rapid.IntRange(0, 7).Draw(rt, "tenant"), seldom.Draw(rt, "switched off"), seldom.Draw(rt, "deleted")}
	})
	platform := nodes.Draw(rt, "platform")
	add(fixtures.PlatformID, "Platform", fixtures.PlatformLevel, "", platform.closed, false)
	for i, n := range rapid.SliceOfN(nodes, 1, 8).Draw(rt, "tenants") {
		tenants = append(tenants, made(1, i))
		add(made(1, i), fmt.Sprintf("Tenant %d", i), fixtures.TenantLevel, fixtures.PlatformID, n.closed, n.deleted)
	}
	for i, n := range many(rt, nodes, "organizations", 0, 20, 120) {
		add(made(2, i), fmt.Sprintf("Organization %d", i), fixtures.OrganizationLevel, tenants[n.tenant%len(tenants)], n.closed, n.deleted)
	}

	// The people.
	memberships := rapid.Custom(func(rt *rapid.T) fixtures.Membership {
		return fixtures.Membership{OrganizationID: rapid.SampledFrom(owners).Draw(rt, "organization"),
			Role: rapid.SampledFrom([]string{"member", "admin", "viewer"}).Draw(rt, "role"), Active: !seldom.Draw(rt, "formerly")}
	})
	for i, belongs := range many(rt, rapid.SliceOfN(memberships, 0, 4), "users", 1, 4) {
		u := fixtures.User{ID: made(3, i), Email: fmt.Sprintf("user-%d@example.com", i)}
		w.users, people = append(w.users, u), append(people, u.ID)
		w.rows = append(w.rows, row{table: "users", key: u.ID, name: u.Email, user: u.ID})
		for _, m := range belongs {
			m.UserID = u.ID
			if slices.ContainsFunc(w.memberships, func(o fixtures.Membership) bool { return o.UserID == m.UserID && o.OrganizationID == m.OrganizationID }) {
				continue
			}
			w.memberships = append(w.memberships, m)
			w.rows = append(w.rows, row{table: "user_organizations", key: m.UserID + " in " + m.OrganizationID, name: u.Email, owner: m.OrganizationID, user: m.UserID})
		}
	}

	// Their rows: of any organization, but more often of one that somebody belongs to.
	wanted := slices.Clone(owners)
	for _, m := range w.memberships {
		wanted = append(wanted, slices.Repeat([]string{m.OrganizationID}, 1+len(owners)/(1+len(w.memberships)))...)
	}
	rows := rapid.Custom(func(rt *rapid.T) row {
		r := row{owner: rapid.SampledFrom(wanted).Draw(rt, "owner"), user: rapid.SampledFrom(people).Draw(rt, "user"), deleted: seldom.Draw(rt, "deleted"),
			scope: rapid.SampledFrom(scopes).Draw(rt, "scope"), table: rapid.SampledFrom(resourceTables).Draw(rt, "table")}
		if r.owner == fixtures.PlatformID && r.scope == fixtures.TenantLevel {
			r.scope = fixtures.OrganizationLevel // it has none
		}
		return r
	})
	for i, r := range many(rt, rows, "resources", 0, 20, 60) {
		r.key, r.name = made(4, i), fmt.Sprintf("Resource %d", i)
		r.creator, r.user = r.user, ""
		w.rows = append(w.rows, r)
	}
	for i, r := range many(rt, rows, "conversations", 0, 10) {
		r.table, r.scope = "conversations", ""
		r.key, r.name = made(5, i), fmt.Sprintf("Conversation %d", i)
		w.rows = append(w.rows, r)
		r.table, r.conversation, r.key = "messages", r.key, made(6, i)
		w.rows = append(w.rows, r)
	}
	return w
}

// many draws a slice of at least one of these lengths, and up to twice as long.
func many[T any](rt *rapid.T, of *rapid.Generator[T], label string, least ...int) []T {
	n := rapid.SampledFrom(least).Draw(rt, "at least so many "+label)
	return rapid.SliceOfN(of, n, 2*n+5).Draw(rt, label)
}

// install puts the world in the place of the one before.
func (w *society) install(t testing.TB, db *pgtest.DB) {
	t.Helper()
	records := map[string][]map[string]any{}
	when := func(deleted bool) any {
		if deleted {
			return "2026-01-01T00:00:00Z"
		}
		return nil
	}
	for _, r := range w.rows {
		var record map[string]any
		switch r.table {
		case "organizations":
			o := w.organizations[r.key]
			record = map[string]any{"id": r.key, "name": r.name, "slug": r.key, "organization_type": o.level, "is_active": w.deleted[r.key] || !o.closed,
				"parent_organization_id": nullable(o.parent), "deleted_at": when(r.deleted), "settings": map[string]any{}, "created_at": "2026-01-01T00:00:00Z"}
		case "users":
			record = map[string]any{"id": r.key, "email": r.name, "created_at": "2026-01-01T00:00:00Z"}
		case "user_organizations", "organization_stats":
			continue
		case "conversations":
			record = map[string]any{"id": r.key, "title": r.name, "user_id": r.user, "owner_organization_id": r.owner, "deleted_at": when(r.deleted)}
		case "messages":
			record = map[string]any{"id": r.key, "conversation_id": r.conversation, "role": "user", "content": r.name}
		default:
			record = map[string]any{"id": r.key, r.nameColumn(): r.name, "owner_organization_id": r.owner, "sharing_scope": r.scope, "created_by": r.creator, "deleted_at": when(r.deleted)}
		}
		records[r.table] = append(records[r.table], record)
	}
	for i, m := range w.memberships {
		records["user_organizations"] = append(records["user_organizations"], map[string]any{"id": made(7, i), "user_id": m.UserID, "organization_id": m.OrganizationID,
			"role": m.Role, "is_active": m.Active})
	}
	tables := append([]string{"organizations", "users", "user_organizations"}, append(slices.Clone(resourceTables), "conversations", "messages")...)
	// TRUNCATE would make a hundred files, and every session think anew about each of them.
	empty := []string{"set local session_replication_role = replica"} // whatever refers to whatever
	for _, table := range append([]string{"audit_logs"}, tables...) {
		empty = append(empty, "delete from public."+table)
	}
	_, err := db.Superuser.Exec(t.Context(), strings.Join(empty, "; "), pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	var sql []string
	for _, table := range tables {
		if len(records[table]) == 0 {
			continue
		}
		text, err := json.Marshal(records[table])
		require.NoError(t, err)
		columns := strings.Join(slices.Sorted(maps.Keys(records[table][0])), ", ")
		sql = append(sql, fmt.Sprintf("insert into public.%s (%s) select %[2]s from jsonb_populate_recordset(null::public.%[1]s, '%[3]s')", table, columns, text))
	}
	sql = append(sql, "select public.refresh_organization_stats()")
	statement(strings.Join(sql, "; "))(t, db)
}

func nullable(id string) *string {
	if id == "" {
		return nil
	}
	return &id
}

// change changes something, and returns the statement that does the same to the
// database.
func (w *society) change(rt *rapid.T) string {
	of := func(tables ...string) (found []int) {
		for i, r := range w.rows {
			if slices.Contains(tables, r.table) {
				found = append(found, i)
			}
		}
		return found
	}
	pick := func(indexes []int) *row { return &w.rows[rapid.SampledFrom(indexes).Draw(rt, "which")] }
	organizations := slices.Sorted(maps.Keys(w.organizations))
	id := rapid.SampledFrom(organizations).Draw(rt, "organization")
	o := w.organizations[id]

	changes := []func() string{
		func() string { // switch off, or on again
			if w.deleted[id] {
				return w.deletion(id, false)
			}
			o.closed = !o.closed
			w.organizations[id] = o
			return fmt.Sprintf("update public.organizations set is_active = %t where id = '%s'", !o.closed, id)
		},
		func() string { // move to another tenant
			if o.level != fixtures.OrganizationLevel {
				return w.deletion(id, o.level != fixtures.PlatformLevel)
			}
			tenants := slices.DeleteFunc(slices.Clone(organizations), func(id string) bool { return w.organizations[id].level != fixtures.TenantLevel })
			o.parent = rapid.SampledFrom(tenants).Draw(rt, "tenant")
			w.organizations[id] = o
			return fmt.Sprintf("update public.organizations set parent_organization_id = '%s' where id = '%s'", o.parent, id)
		},
		func() string { return w.deletion(id, o.level != fixtures.PlatformLevel) },
	}
	if len(w.memberships) > 0 {
		i := rapid.IntRange(0, len(w.memberships)-1).Draw(rt, "membership")
		m := &w.memberships[i]
		changes = append(changes,
			func() string { // revoke, or let in again
				m.Active = !m.Active
				return fmt.Sprintf("update public.user_organizations set is_active = %t where id = '%s'", m.Active, made(7, i))
			},
			func() string {
				m.Role = rapid.SampledFrom([]string{"viewer", "member", "admin"}).Draw(rt, "role")
				return fmt.Sprintf("update public.user_organizations set role = '%s' where id = '%s'", m.Role, made(7, i))
			})
	}
	if resources := of(resourceTables...); len(resources) > 0 {
		changes = append(changes,
			func() string { // give to somebody else
				r := pick(resources)
				r.owner = id
				if id == fixtures.PlatformID && r.scope == fixtures.TenantLevel {
					r.scope = fixtures.OrganizationLevel
				}
				return fmt.Sprintf("update public.%s set owner_organization_id = '%s', sharing_scope = '%s' where id = '%s'", r.table, r.owner, r.scope, r.key)
			},
			func() string {
				r := pick(resources)
				if r.scope = rapid.SampledFrom(scopes).Draw(rt, "scope"); r.owner == fixtures.PlatformID && r.scope == fixtures.TenantLevel {
					r.scope = fixtures.PlatformLevel
				}
				return fmt.Sprintf("update public.%s set sharing_scope = '%s' where id = '%s'", r.table, r.scope, r.key)
			},
			func() string { // delete, or restore
				r := pick(resources)
				r.deleted = !r.deleted
				return fmt.Sprintf("update public.%s set deleted_at = %s where id = '%s'", r.table, map[bool]string{true: "now()", false: "null"}[r.deleted], r.key)
			})
	}
	return rapid.SampledFrom(changes).Draw(rt, "change")()
}

// deletion deletes an organization softly, or restores it and switches it on.
func (w *society) deletion(id string, deleted bool) string {
	o := w.organizations[id]
	o.closed, w.deleted[id] = deleted, deleted
	w.organizations[id] = o
	for i, r := range w.rows {
		if r.table == "organizations" && r.key == id {
			w.rows[i].deleted = deleted
		}
	}
	return fmt.Sprintf("update public.organizations set is_active = true, deleted_at = %s where id = '%s'", map[bool]string{true: "now()", false: "null"}[deleted], id)
}

// String is the world in a few lines, for a failure.
func (w *society) String() string {
	text := []string{"The world, without the organizations where nobody and nothing is:"}
	for _, id := range slices.Sorted(maps.Keys(w.organizations)) {
		o := w.organizations[id]
		used := func(r row) bool {
			return r.table != "organizations" && r.table != "organization_stats" && r.owner == id
		}
		if o.level == fixtures.OrganizationLevel && !slices.ContainsFunc(w.rows, used) {
			continue
		}
		line := fmt.Sprintf("  %s %s", o.level, o.name)
		if o.parent != "" {
			line += " in " + w.organizations[o.parent].name
		}
		if w.deleted[id] {
			line += ", deleted"
		} else if o.closed {
			line += ", switched off"
		}
		text = append(text, line)
	}
	for _, m := range w.memberships {
		line := fmt.Sprintf("  %s is %s of %s", m.UserID, m.Role, w.organizations[m.OrganizationID].name)
		if !m.Active {
			line += ", formerly"
		}
		text = append(text, line)
	}
	for _, r := range w.rows {
		if slices.Contains(resourceTables, r.table) || r.table == "conversations" {
			text = append(text, "  "+w.describe(r))
		}
	}
	return strings.Join(text, "\n")
}
