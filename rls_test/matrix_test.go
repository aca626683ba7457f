package rls_test

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/golden"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// TestPhase4Matrix writes down who may do what to which row of the world, for people
// to read and for a pull request to show. What a phase gives and takes stands beside
// the phase, in schema/access. `make golden` writes the files anew.
func TestPhase4Matrix(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "pre-implementation/documentation-complete/rls-policies-documented")
	phases := append([]schema.Phase{schema.Legacy}, schema.Phases()...)
	// Each is taken when it is first asked for: any part of this test runs alone, too.
	taken, once := make([]matrix, len(phases)), make([]sync.Once, len(phases))
	take := func(t *testing.T, i int) matrix {
		once[i].Do(func() { taken[i] = takeMatrix(t, pgtest.New(t, phases[i], fixtures.World()...)) })
		return taken[i]
	}
	t.Run("after every phase", func(t *testing.T) {
		for i, phase := range phases {
			t.Run(phase.String(), func(t *testing.T) {
				t.Parallel()
				take(t, i)
			})
		}
	})
	if t.Failed() {
		return
	}
	for i, phase := range phases[1:] {
		t.Run("what "+phase.String()+" gives and takes is declared", func(t *testing.T) {
			golden.Check(t, golden.Declared(t, "access/"+phase.String()+".txt"), phaseDifference(phase, take(t, i), take(t, i+1)), notDeclared)
		})
	}
	secured := take(t, len(phases)-1)
	for _, table := range slices.Sorted(maps.Keys(secured.rows)) {
		t.Run("who may do what to "+table, func(t *testing.T) {
			golden.Check(t, filepath.Join("testdata", "matrix", table+".txt"), migrated().explain(table, secured), notDeclared)
		})
	}
}

const notDeclared = "is not what the database says. If this is meant, `make golden` writes it down for the review."

// matrix is who may do what to which row.
type matrix struct {
	rows       map[string][]string          // names of rows, by table
	allowed    map[string]map[verb][]string // emails, by table and name
	privileges catalog.Catalog              // of the API, and where row level security is on
}

// labels name the rows of each table by what no phase changes. Not of the audit log,
// which is of the tests.
var labels = map[string]string{
	"agents":              "name",
	"knowledge_documents": "title",
	"prompts":             "name",
	"workflows":           "name",
	"use_cases":           "title",
	"capabilities":        "name",
	"conversations":       "title",
	"messages":            "content",
	"organizations":       "name",
	"users":               "email",
	"user_organizations": `(select u.email from public.users u where u.id = user_id) || ' in ' ||
		(select o.name from public.organizations o where o.id = organization_id)`,
	"organization_stats": "organization_name",
}

// takeMatrix lets everybody do everything to every row.
func takeMatrix(t testing.TB, db *pgtest.DB) matrix {
	t.Helper()
	m := matrix{map[string][]string{}, map[string]map[verb][]string{}, grantedOn(t, db)}
	names := map[string]map[string]string{} // by table and key
	for _, table := range slices.Sorted(maps.Keys(labels)) {
		var exists bool
		require.NoError(t, db.Superuser.QueryRow(t.Context(), `select to_regclass('public.' || $1) is not null`, table).Scan(&exists))
		if !exists { // a later phase makes it
			continue
		}
		rows, err := db.Superuser.Query(t.Context(), fmt.Sprintf(`select k, n from (select %s, %s from public.%s) as r (k, n) order by n collate "C"`, tables[table], labels[table], table))
		require.NoError(t, err)
		names[table] = map[string]string{}
		var key, name string
		_, err = pgx.ForEachRow(rows, []any{&key, &name}, func() error {
			require.NotContains(t, m.allowed, table+" "+name, "two rows of one name")
			m.rows[table] = append(m.rows[table], name)
			m.allowed[table+" "+name] = map[verb][]string{}
			names[table][key] = name
			return nil
		})
		require.NoError(t, err)
	}
	forEach(t, db, append([]fixtures.User{stranger}, fixtures.Users...), func(tx pgx.Tx, u fixtures.User) {
		for _, table := range slices.Sorted(maps.Keys(names)) {
			met := func(v verb, keys ...string) {
				for _, key := range keys {
					who := m.allowed[table+" "+names[table][key]]
					who[v] = append(who[v], u.Email)
				}
			}
			for _, p := range []path{selecting, named("UPDATE RETURNING"), named("DELETE RETURNING")} {
				if !p.fits(table) {
					continue
				}
				whole := attempts(t, tx, []query{p.query(row{table: table})})[0]
				met(p.verb, whole.keys...)
				if !held(whole.outcome) {
					require.Contains(t, []outcome{done, filtered, denied}, whole.outcome, "%s: %s", u.Email, p.statement(row{table: table}))
					continue
				}
				// Others stand in the way of some row, and would of all.
				var keys []string
				var queries []query
				for _, key := range slices.Sorted(maps.Keys(names[table])) {
					keys, queries = append(keys, key), append(queries, named("DELETE of one row").query(row{table: table, key: key}))
				}
				for i, a := range attempts(t, tx, queries) {
					if a.outcome == done || held(a.outcome) {
						met(p.verb, keys[i])
					}
				}
			}
		}
	})
	return m
}

// grantedOn is what the API's roles, and everybody, may do in the schemas that they reach; and where row level security is on.
func grantedOn(t testing.TB, db *pgtest.DB) catalog.Catalog {
	t.Helper()
	granted := catalog.Catalog{}
	for identity, text := range phasetest.Catalog(t, db) {
		object, grantee, _ := strings.Cut(identity, " to ")
		privilege := strings.HasPrefix(object, "acl ") || strings.HasPrefix(object, "default acl ")
		switch {
		case strings.HasPrefix(object, "rls public."):
			granted["row level security on "+strings.TrimPrefix(identity, "rls ")] = text
		case privilege && slices.Contains([]string{"PUBLIC", "anon", "authenticated", "service_role"}, grantee) &&
			!strings.HasPrefix(object, "acl type ") && !strings.Contains(object, " tenancy."): // types open nothing, and nobody reaches tenancy
			// Of what version 17 and later call ALL.
			granted[strings.TrimPrefix(identity, "acl ")] = strings.Replace(text, "MAINTAIN, ", "", 1)
		}
	}
	return granted
}

// held is whether a foreign key alone kept a row from being deleted: that somebody may
// try is what counts. Version 18 has a code of its own for RESTRICT.
func held(o outcome) bool {
	return strings.Contains(string(o), "(SQLSTATE 23503)") || strings.Contains(string(o), "(SQLSTATE 23001)")
}

// phaseDifference is what a phase gives and takes, row by row.
func phaseDifference(phase schema.Phase, before, after matrix) string {
	var text strings.Builder
	fmt.Fprintf(&text, "# Who may do what to which row after %s, and could not before it (+), or the other way round (-).\n# `make golden` writes this file; whoever reviews it decides whether that is meant.\n", phase)
	changes := 0
	for _, table := range slices.Sorted(maps.Keys(after.rows)) {
		rows := slices.Compact(slices.Sorted(slices.Values(slices.Concat(before.rows[table], after.rows[table]))))
		title := "\n" + table + "\n"
		for _, name := range rows {
			was, is := before.allowed[table+" "+name], after.allowed[table+" "+name]
			lines := ""
			for _, v := range []verb{read, change, remove} {
				gained := slices.DeleteFunc(slices.Clone(is[v]), func(email string) bool { return slices.Contains(was[v], email) })
				lost := slices.DeleteFunc(slices.Clone(was[v]), func(email string) bool { return slices.Contains(is[v], email) })
				if len(gained) > 0 {
					lines += fmt.Sprintf("    + %-7s  %s\n", v, fixtures.Names(gained))
				}
				if len(lost) > 0 {
					lines += fmt.Sprintf("    - %-7s  %s\n", v, fixtures.Names(lost))
				}
			}
			if lines != "" {
				text.WriteString(title + "  " + name + "\n" + lines)
				title = ""
				changes++
			}
		}
	}
	if changes == 0 {
		text.WriteString("\nNothing.\n")
	}
	if diff := catalog.Diff(before.privileges, after.privileges); diff != "" {
		text.WriteString("\nprivileges, given (+) and taken (-)\n" + indented(diff))
	}
	return text.String()
}

func indented(lines string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(lines, "\n"), "\n", "\n  ") + "\n"
}

// explain is the matrix of a table, with the reason that the model gives.
func (w world) explain(table string, m matrix) string {
	var text strings.Builder
	fmt.Fprintf(&text, "# Who may do what to which row of %s, and why. `make golden` writes this file.\n", table)
	for _, name := range m.rows[table] {
		i := slices.IndexFunc(w.rows, func(r row) bool { return r.table == table && r.label(w) == name })
		r := w.rows[i]
		fmt.Fprintf(&text, "\n%s\n", strings.TrimPrefix(w.describe(r), table+" "))
		nobody := true
		for _, u := range fixtures.Users {
			var verbs []string
			for _, v := range []verb{read, change, remove} {
				if slices.Contains(m.allowed[table+" "+name][v], u.Email) {
					verbs = append(verbs, string(v))
				}
			}
			if len(verbs) > 0 {
				nobody = false
				fmt.Fprintf(&text, "    %-26s %-24s %s\n", u.Email, strings.Join(verbs, ", "), w.because(u.ID, r))
			}
		}
		if nobody {
			fmt.Fprintf(&text, "    nobody: %s\n", w.becauseNobody(r))
		}
	}
	return text.String()
}

// label is the row's name by [labels].
func (r row) label(w world) string {
	if r.table == "user_organizations" {
		return r.name + " in " + w.organizations[r.owner].name
	}
	return r.name
}

// because is why a user may do anything to a row.
func (w world) because(user string, r row) string {
	var reasons []string
	say := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	belongs := func(ids ...string) {
		for _, m := range w.memberships {
			if m.UserID == user && slices.Contains(ids, m.OrganizationID) && w.member(user, m.OrganizationID) {
				say("%s of %s", m.Role, w.organizations[m.OrganizationID].name)
			}
		}
	}
	below := func(tenant string) {
		for _, m := range w.memberships {
			if m.UserID == user && w.tenant(m.OrganizationID) == tenant && w.member(user, m.OrganizationID) && m.OrganizationID != r.owner {
				say("%s of %s, in %s", m.Role, w.organizations[m.OrganizationID].name, w.organizations[tenant].name)
			}
		}
	}
	switch r.table {
	case "organizations":
		belongs(r.key)
		if r.key == fixtures.PlatformID {
			say("the platform")
		} else if w.organizations[r.key].level == fixtures.TenantLevel {
			below(r.key)
		}
	case "users":
		if r.user == user {
			say("himself")
		}
		for id := range maps.Keys(w.organizations) {
			if r.user != user && w.member(user, id) && w.member(r.user, id) {
				say("colleague in %s", w.organizations[id].name)
			}
		}
		slices.Sort(reasons)
	case "conversations", "messages":
		say("his own")
		belongs(r.owner)
	case "user_organizations":
		if r.user == user {
			say("his own")
		}
		belongs(r.owner)
	case "organization_stats":
		belongs(r.owner)
	default:
		switch r.scope {
		case fixtures.PlatformLevel:
			say("shared with everybody")
		case fixtures.TenantLevel:
			below(w.tenant(r.owner))
		}
		belongs(r.owner)
		if r.creator == user && w.writer(user, r.owner) {
			say("made it")
		}
	}
	return strings.Join(reasons, "; ")
}

// becauseNobody is why nobody may do anything to a row.
func (w world) becauseNobody(r row) string {
	switch {
	case r.deleted:
		return "it is deleted"
	case r.owner != "" && !w.live(r.owner):
		return w.organizations[r.owner].name + ", or its tenant, is suspended"
	}
	return "whoever it is for is no member any more"
}
