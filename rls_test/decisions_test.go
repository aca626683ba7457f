package rls_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// comparison is one of the whole world with a database.
type comparison = func(testing.TB, *pgtest.DB, world, []fixtures.User) verdict

// TestPhase4Decisions lets everybody, signed in or not, send every verb to every row
// along every path, and compares what becomes of each with the model.
func TestPhase4Decisions(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/users-cannot-see-unauthorized-data", "pre-implementation/test-scenarios-defined/access-control-tests-defined")
	everybody := append([]fixtures.User{stranger}, fixtures.Users...)
	all := func(check func(testing.TB, *pgtest.DB, world, []fixtures.User, []path) verdict, paths []path) comparison {
		return func(t testing.TB, db *pgtest.DB, w world, users []fixtures.User) verdict {
			return check(t, db, w, users, paths)
		}
	}
	for what, check := range map[string]comparison{
		"what there is is read, changed and removed by whom it is for":   all(compare, paths),
		"what is new is inserted by whom it is for":                      all(insertingFor(world.everywhere), insertions[:1]),
		"and so along every other path":                                  all(insertingFor(world.near), insertions[1:]),
		"what is there already is inserted by nobody who may not change": upserting,
		"what is shared more widely is shared by whom it is for":         sharing,
		"what is deleted is deleted by whom it is for":                   deleting,
		"what the checklist's own policies say, where they are safe":     second,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			check(t, secured(t), migrated(), everybody).require(t)
		})
	}
}

var scopes = []fixtures.Level{fixtures.PlatformLevel, fixtures.TenantLevel, fixtures.OrganizationLevel}

// candidates are the rows that a user may try to insert: of the owners, in every
// scope, as himself and as somebody else, with every agent, in every conversation,
// for everybody.
func (w world) candidates(u fixtures.User, owners []string) (rows []row) {
	self, other := u.ID, fixtures.Alice.ID
	if self == "" {
		self = fixtures.Bob.ID
	}
	if self == other {
		other = fixtures.Adam.ID
	}
	for _, owner := range owners {
		for _, who := range []string{self, other} {
			for _, table := range w.resourceTables() {
				for _, scope := range scopes {
					rows = append(rows, row{table: table, name: "New", owner: owner, scope: scope, creator: who})
				}
			}
			rows = append(rows, row{table: "conversations", name: "New", owner: owner, user: who})
		}
		for _, member := range fixtures.Users {
			r := row{table: "user_organizations", name: member.Email, owner: owner, user: member.ID}
			if !slices.ContainsFunc(w.memberships, func(m fixtures.Membership) bool { return m.UserID == r.user && m.OrganizationID == owner }) {
				rows = append(rows, r)
			}
		}
	}
	for _, r := range w.rows {
		switch r.table {
		case "agents":
			for _, m := range w.memberships {
				if m.UserID == self {
					rows = append(rows, row{table: "conversations", name: "New", owner: m.OrganizationID, user: self, agent: r.key})
				}
			}
		case "conversations":
			conversation := r
			for _, speaker := range []string{"user", "assistant", "system"} {
				r := conversation
				r.table, r.key, r.conversation, r.name, r.speaker = "messages", "", r.key, "New", speaker
				rows = append(rows, r)
			}
		}
	}
	return append(rows, row{table: "organizations", name: "New"}, row{table: "users", name: "new@example.com"}, row{table: "audit_logs"})
}

// resourceTables are those that have rows in the world.
func (w world) resourceTables() []string {
	return slices.DeleteFunc(slices.Clone(resourceTables), func(table string) bool {
		return !slices.ContainsFunc(w.rows, func(r row) bool { return r.table == table })
	})
}

// insertingFor lets users insert along paths what there is to insert for such owners.
func insertingFor(owners func(world, fixtures.User) []string) func(testing.TB, *pgtest.DB, world, []fixtures.User, []path) verdict {
	return func(t testing.TB, db *pgtest.DB, w world, users []fixtures.User, paths []path) (v verdict) {
		t.Helper()
		rules := rulesOn(t, db)
		forEach(t, db, users, func(tx pgx.Tx, u fixtures.User) {
			rows := w.candidates(u, owners(w, u))
			for _, p := range paths {
				v.add(p.compare(t, tx, w, u, rows, rules))
			}
		})
		return v
	}
}

// everywhere is all organizations.
func (w world) everywhere(fixtures.User) []string { return slices.Sorted(maps.Keys(w.organizations)) }

// near is the organizations where a user is or was, and one where he never was.
func (w world) near(u fixtures.User) (organizations []string) {
	for _, m := range w.memberships {
		if m.UserID == u.ID {
			organizations = append(organizations, m.OrganizationID)
		}
	}
	for _, other := range []string{fixtures.Pfizer.ID, fixtures.KaiserPermanente.ID} {
		if !slices.Contains(organizations, other) {
			return append(organizations, other)
		}
	}
	return organizations
}

// upserting lets users insert what is there already, by what may be there only once.
func upserting(t testing.TB, db *pgtest.DB, w world, users []fixtures.User) (v verdict) {
	t.Helper()
	rules := rulesOn(t, db)
	unique := map[string]string{
		"use_cases":          "(owner_organization_id, code) where deleted_at is null",
		"capabilities":       "(owner_organization_id, code) where deleted_at is null",
		"user_organizations": "(user_id, organization_id)",
	}
	forEach(t, db, users, func(tx pgx.Tx, u fixtures.User) {
		for _, table := range slices.Sorted(maps.Keys(unique)) {
			var there, again []row
			for _, r := range w.rows {
				if r.table == table && (table == "user_organizations" || r.code != "") {
					there = append(there, r)
					r.creator = u.ID
					again = append(again, r)
				}
			}
			for _, action := range []string{"nothing", "update set " + setting[table]} {
				p := path{"INSERT ON CONFLICT DO " + action, insert, each,
					`insert into {table} ({columns}) values ({values}) on conflict ` + unique[table] + ` do ` + action, nil}
				for i, a := range p.each(t, tx, again) {
					want := p.want(w, u.ID, again[i])
					switch {
					case want != done:
					case action == "nothing":
						want = filtered
					case !w.may(u.ID, read, there[i]) || !w.may(u.ID, change, there[i]):
						want = rejected
					}
					v.decide(w, u, p, again[i], a.outcome, want, rules)
				}
			}
		}
	})
	return v
}

// sharing lets users give every resource every scope.
func sharing(t testing.TB, db *pgtest.DB, w world, users []fixtures.User) (v verdict) {
	t.Helper()
	rules := rulesOn(t, db)
	var resources []row
	for _, r := range w.rows {
		if slices.Contains(resourceTables, r.table) {
			resources = append(resources, r)
		}
	}
	forEach(t, db, users, func(tx pgx.Tx, u fixtures.User) {
		for _, scope := range scopes {
			set := fmt.Sprintf("sharing_scope = '%s'", scope)
			for _, p := range []path{
				{"UPDATE of the scope", change, each, `update {table} set ` + set + ` where {this}`, nil},
				{"MERGE UPDATE of the scope", change, strict, `merge into {table} using (values (1)) as v on {this} when matched then update set ` + set, nil},
			} {
				for i, a := range p.each(t, tx, resources) {
					r := resources[i]
					want := p.want(w, u.ID, r)
					if want == done && scope != r.scope && !w.mayShare(u.ID, r.owner, scope) {
						want = guarded
					}
					v.decide(w, u, p, r, a.outcome, want, rules)
				}
			}
		}
	})
	return v
}

// second lets users read and change what there is by the checklist's policies, too.
func second(t testing.TB, db *pgtest.DB, w world, users []fixtures.User) (v verdict) {
	t.Helper()
	makeLiteral(t, db)
	fillLiteral(t, db)
	forEach(t, db, users, func(tx pgx.Tx, u fixtures.User) {
		if u != stranger {
			v.add(literal(t, tx, w, u))
			v.add(literalInserts(t, tx, w, u))
		}
	})
	return v
}

// deleting lets users softly delete every resource and every conversation.
func deleting(t testing.TB, db *pgtest.DB, w world, users []fixtures.User) (v verdict) {
	t.Helper()
	rules := rulesOn(t, db)
	p := path{"soft_delete()", change, each, `select public.soft_delete({name}, {row})`, nil}
	forEach(t, db, users, func(tx pgx.Tx, u fixtures.User) {
		var rows []row
		for _, r := range w.rows {
			if slices.Contains(resourceTables, r.table) || r.table == "conversations" {
				rows = append(rows, r)
			}
		}
		for i, a := range p.each(t, tx, rows) {
			want := p.want(w, u.ID, rows[i])
			if want == filtered { // of a row that is not there, the same is said
				want = outcome(fmt.Sprintf("ERROR: no such row of %s, or not yours to delete: %s (SQLSTATE P0002)", rows[i].table, rows[i].key))
			}
			v.decide(w, u, p, rows[i], a.outcome, want, rules)
		}
	})
	return v
}
