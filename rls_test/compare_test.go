package rls_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// verdict is what a comparison of the database with the model came to. A decision is
// what becomes of one row that one user sends one statement to.
type verdict struct {
	decisions int
	problems  []string // a sentence for each decision that is not the model's
}

func (v *verdict) add(other verdict) {
	v.decisions += other.decisions
	v.problems = append(v.problems, other.problems...)
}

// Of all comparisons that the tests of this run demand to end without a problem.
var decisions, mismatches atomic.Int64

// require demands that there is no problem.
func (v verdict) require(t testing.TB) {
	t.Helper()
	decisions.Add(int64(v.decisions))
	mismatches.Add(int64(len(v.problems)))
	require.Positive(t, v.decisions, "nothing was compared")
	if said := v.text(); said != "" {
		t.Error(said)
	}
}

// text is what is wrong, "" for nothing. The first problems say more than thousands.
func (v verdict) text() string {
	n := len(v.problems)
	if n == 0 {
		return ""
	}
	const shown = 5
	return fmt.Sprintf("%d of %d decisions are not the model's:\n\n%s", n, v.decisions, strings.Join(v.problems[:min(n, shown)], "\n\n"))
}

// decide compares what became of a row with what was to become of it.
func (v *verdict) decide(w world, u fixtures.User, p path, r row, got, want outcome, rules rules) {
	v.decisions++
	if got == want {
		return
	}
	does := map[verb]string{read: "does not see", insert: "cannot insert", change: "cannot change", remove: "cannot remove"}[p.verb]
	if got == done {
		does = string(p.verb)
	}
	v.problems = append(v.problems, fmt.Sprintf("%s %s %s: %s\n%s",
		u.Email, does, w.describe(r), rules.on(p.verb, r.table), w.evidence(u, p, r, got, want)))
}

// compare sends every path to every row that there is, as each of the users.
func compare(t testing.TB, db *pgtest.DB, w world, users []fixtures.User, paths []path) (v verdict) {
	t.Helper()
	w = w.withHistory(t, db)
	w.requireAllTables(t)
	rules := rulesOn(t, db)
	forEach(t, db, users, func(tx pgx.Tx, u fixtures.User) {
		v.add(compareIn(t, tx, w, u, paths, rules))
	})
	return v
}

// compareIn is compare in a session of one user. What meets all rows of a table in one
// statement travels with the others of its kind.
func compareIn(t testing.TB, tx pgx.Tx, w world, u fixtures.User, paths []path, rules rules) (v verdict) {
	t.Helper()
	byTable := map[string][]row{}
	for _, r := range w.rows {
		byTable[r.table] = append(byTable[r.table], r)
	}
	type sent struct {
		path path
		rows []row
	}
	var together []sent
	var queries []query
	for _, table := range slices.Sorted(maps.Keys(byTable)) {
		for _, p := range paths {
			switch rows := byTable[table]; {
			case !p.fits(table):
			case p.answers == each || p.answers == strict:
				v.add(p.compare(t, tx, w, u, rows, rules))
			case p.send != nil:
				v.add(p.judge(w, u, rows, p.send(t, tx, p.statement(rows[0])), rules))
			default:
				together, queries = append(together, sent{p, rows}), append(queries, p.query(rows[0]))
			}
		}
	}
	for i, a := range attempts(t, tx, queries) {
		v.add(together[i].path.judge(w, u, together[i].rows, a, rules))
	}
	return v
}

// compare sends the path to each of the rows, as a user.
func (p path) compare(t testing.TB, tx pgx.Tx, w world, u fixtures.User, rows []row, rules rules) (v verdict) {
	t.Helper()
	for i, a := range p.each(t, tx, rows) {
		v.decide(w, u, p, rows[i], a.outcome, p.want(w, u.ID, rows[i]), rules)
	}
	return v
}

// judge compares what a statement met of the rows of a table.
func (p path) judge(w world, u fixtures.User, rows []row, a attempted, rules rules) (v verdict) {
	if p.answers == number {
		v.decideNumber(w, u, p, rows, a, rules)
		return v
	}
	met := map[string]bool{}
	for _, key := range a.keys {
		met[key] = true
	}
	for _, r := range rows {
		got := a.outcome
		if got == done || got == filtered {
			got = filtered
			if met[r.key] {
				got = done
			}
		}
		v.decide(w, u, p, r, got, p.want(w, u.ID, r), rules)
		delete(met, r.key)
	}
	for key := range met {
		v.problems = append(v.problems, fmt.Sprintf("%s %s %s %s by %s, which nobody has put there", u.Email, p.verb, rows[0].table, key, p.name))
	}
	return v
}

// decideNumber compares how many rows a statement met that does not say which: that is
// one decision, of all rows together.
func (v *verdict) decideNumber(w world, u fixtures.User, p path, rows []row, a attempted, rules rules) {
	v.decisions++
	may, want := 0, filtered
	for _, r := range rows {
		switch p.want(w, u.ID, r) {
		case denied:
			want = denied
		case done:
			may, want = may+1, done
		}
	}
	if a.outcome != want || a.rows != int64(may) {
		v.problems = append(v.problems, fmt.Sprintf("%s %s %d rows of %s by %s, and may do so with %d: %s\n%s",
			u.Email, p.verb, a.rows, rows[0].table, p.name, may, rules.on(p.verb, rows[0].table), w.evidence(u, p, rows[0], a.outcome, want)))
	}
}

// evidence is the second half of a problem: who the user is, what the model says and
// the database did, and how to see it again.
func (w world) evidence(u fixtures.User, p path, r row, got, want outcome) string {
	var memberships []string
	for _, m := range w.memberships {
		if m.UserID != u.ID {
			continue
		}
		text := m.Role + " of " + w.organizations[m.OrganizationID].name
		if !m.Active {
			text = "formerly " + text
		}
		if !w.live(m.OrganizationID) {
			text += ", which is suspended"
		}
		memberships = append(memberships, text)
	}
	if memberships == nil {
		memberships = []string{"member of nothing"}
	}
	as := callerOf(u)
	ask := ""
	verb := map[verb]string{read: "select", change: "update", remove: "delete"}[p.verb]
	if verb != "" && slices.Contains(fixtures.Users, u) && tables[r.table] == "id::text" && r.table != "audit_logs" {
		ask = fmt.Sprintf("\n    why:      make why AS=%s TABLE=%s ID=%s VERB=%s", u.Email, r.table, r.key, verb)
	}
	return fmt.Sprintf(`    who:      %s
    by:       %s
    model:    %s
    database: %s
    again:    make db PHASE=phase4, then the psql of %s that it prints:
              begin; set local role %s; set local request.jwt.claims = '%s'; %s; rollback;%s`,
		strings.Join(memberships, "; "), p.name, want, got, pgtest.APIRole, as.role, as.claims(), p.statement(r), ask)
}
