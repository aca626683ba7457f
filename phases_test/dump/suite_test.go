package dump_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/dump"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// examination takes a database from legacy to phase 4 and back, and writes down what it finds.
type examination struct {
	*report
	legacy, db *pgtest.DB
	prepare    *schema.File // what the operator runs between phases 1 and 2
	sampled    int          // how many users are asked
	large      int          // how many rows a table has that nothing which a user asks often may read as a whole

	world    *world
	users    []string
	glances  map[string]map[string]string // user → table → what the old application showed
	pictures map[schema.Phase]picture
	open     bool // API roles may read something of the legacy database
}

// picture is a database's definitions and rows.
type picture struct {
	definitions catalog.Catalog
	rows        catalog.Data
}

func (e *examination) take(t *testing.T) picture {
	t.Helper()
	// When something ran is no difference.
	return picture{phasetest.Catalog(t, e.db), phasetest.Data(t, e.db, "tenancy.backfill_progress.started_at",
		"tenancy.backfill_progress.finished_at", "tenancy.completed_phase.completed_at", "tenancy.refreshed_statistics.refreshed_at")}
}

func (p picture) diff(other picture) string {
	return catalog.Diff(p.definitions, other.definitions) + catalog.Diff(p.rows, other.rows)
}

// examine runs the whole suite.
func (e *examination) examine(t *testing.T) {
	t.Helper()
	e.pictures[schema.Legacy] = e.take(t)
	for _, phase := range schema.Phases() {
		if !e.up(t, phase) {
			return
		}
	}
	e.phase4(t)
	e.checkPlans(t)
	for phase := schema.Phase4; phase >= schema.Phase1; phase-- {
		if !e.down(t, phase) {
			return
		}
	}
}

// begin makes the databases: the one that stays as it was, and one that is at a phase.
func begin(t *testing.T, d *dump.Dump, at schema.Phase) *examination {
	t.Helper()
	start := time.Now()
	e := &examination{
		report: &report{}, sampled: few, large: 10_000,
		legacy: pgtest.NewFrom(t, d.Origin(), schema.Legacy), db: pgtest.NewFrom(t, d.Origin(), at),
		glances: map[string]map[string]string{}, pictures: map[schema.Phase]picture{},
	}
	said, err := dump.Said(t.Context(), e.db)
	require.NoError(t, err)
	e.restored(d, said)
	e.say(phases, "%-22s %8s", "restored, or copied", rounded(time.Since(start)))
	return e
}

func rounded(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}

// run runs a file and returns how long it took; a refusal is a problem, and the end.
func (e *examination) run(t *testing.T, what string, f schema.File) (taken time.Duration, ok bool) {
	t.Helper()
	start := time.Now()
	log, err := e.db.Run(t, f)
	taken = rounded(time.Since(start))
	if err == nil {
		if strings.HasSuffix(what, "phase2") {
			for _, step := range log.Steps {
				for _, notice := range step.Notices {
					// The organizations are listed by the query that verifies it.
					if !strings.Contains(notice, "nothing says which tenant") {
						e.say(found, "%s", strings.TrimPrefix(notice, "NOTICE: "))
					}
				}
			}
		}
		return taken, true
	}
	text := err.Error()
	const raised = "P0001" // by the file itself, which knows what to do; any other error is told with where it stands
	if refusal, is := errors.AsType[*pgconn.PgError](err); is && refusal.Code == raised {
		text = refusal.Message
		if refusal.Hint != "" {
			text += "\nWhat to do: " + refusal.Hint
		}
	}
	e.say(phases, "%-22s %8s  does not run", what, taken)
	e.fault(what+" does not run: nothing after it was checked", text)
	return taken, false
}

// up takes the database to a phase, and asks what all phases are asked.
func (e *examination) up(t *testing.T, phase schema.Phase) bool {
	t.Helper()
	f, err := schema.Migration(phase)
	require.NoError(t, err)
	taken, ok := e.run(t, phase.String(), f)
	if !ok {
		return false
	}
	if phase == schema.Phase1 {
		if e.prepare != nil {
			// Then once more, for the tables that were classified now.
			for _, file := range []schema.File{*e.prepare, f} {
				if _, ok := e.run(t, file.Origin, file); !ok {
					return false
				}
			}
		}
		e.prepareWorld(t)
	}
	e.pictures[phase] = e.take(t)
	if _, ok := e.run(t, phase.String()+" once more", f); !ok {
		return false
	}
	if changed := e.pictures[phase].diff(e.take(t)); changed != "" {
		e.fault(phase.String()+", run once more, changes something", changed)
	}
	held := e.verify(t, phase)
	line := fmt.Sprintf("%-22s %8s  %d checks hold, once more changes nothing", phase, taken, held)
	if phase < schema.Phase4 {
		line += fmt.Sprintf(", %d users see what they saw", e.unchanged(t, phase))
	}
	e.say(phases, "%s", line)
	return true
}

// verify runs the phase's verification queries.
func (e *examination) verify(t *testing.T, phase schema.Phase) (held int) {
	t.Helper()
	f, err := schema.Verification(phase)
	require.NoError(t, err)
	queries, err := verify.Parse(f)
	require.NoError(t, err)
	for _, q := range queries {
		result, err := verify.Run(t.Context(), e.db.Owner, q)
		switch {
		case err != nil:
			e.fault(phase.String()+": a verification query cannot be run", err.Error())
		case !result.OK && len(e.world.users) == 0 && strings.Contains(q.SQL, "public.users"):
			e.say(lacking, "rows of users: the verification query %s", q.Name)
		case !result.OK:
			e.fault(phase.String()+": a verification query does not hold", result.String())
		case q.Expect != verify.Info:
			held++
		case slices.Contains([]string{"organizations_without_a_name", "organizations_in_quarantine"}, q.Name) && len(result.Rows) > 0:
			e.say(found, "%s", strings.TrimPrefix(result.String(), "ok "))
		}
	}
	return held
}

// prepareWorld reads the world once, where it is complete and no phase has changed a row yet; and what the old application showed.
func (e *examination) prepareWorld(t *testing.T) {
	t.Helper()
	e.loadWorld(t)
	var counted []string
	for _, table := range slices.Sorted(maps.Keys(e.world.rows)) {
		if !made[table] {
			counted = append(counted, fmt.Sprintf("%d %s", len(e.world.rows[table]), table))
		}
	}
	e.title += "\nholds " + strings.Join(counted, ", ")
	e.saysWhatLacks()
}

// loadWorld reads the world from the database, on which phase 1 is complete.
func (e *examination) loadWorld(t *testing.T) {
	t.Helper()
	l, err := newLoader(t.Context(), e.db)
	require.NoError(t, err)
	e.world, err = load(t.Context(), l)
	require.NoError(t, err)
	e.users = e.world.sample(e.sampled)
	for _, user := range e.users {
		e.glances[user] = e.world.glance(t, e.legacy, user)
		for _, seen := range e.glances[user] {
			e.open = e.open || seen != unseen
		}
	}
}

// like takes over what another examination, of the same dump, knows of it.
func (e *examination) like(other *examination) {
	e.world, e.users, e.glances, e.open = other.world, other.users, other.glances, other.open
}

// saysWhatLacks is what cannot be checked, for want of it.
func (e *examination) saysWhatLacks() {
	for _, missing := range []struct{ table, unchecked string }{
		{"users", "only somebody was asked whom nobody knows, and somebody who has not signed in"},
		{"user_organizations", "nobody is a member of anything: what members see"},
		{"agents", "who sees agents"},
		{"conversations", "who sees conversations"},
		{"messages", "who sees messages"},
		{"knowledge_documents", "who sees them"},
		{"prompts", "who sees them"},
		{"workflows", "who sees them"},
		{"use_cases", "who sees them"},
		{"capabilities", "who sees them"},
	} {
		switch rows, there := e.world.rows[missing.table]; {
		case !there:
			e.say(lacking, "the table %s, and the rows in it: %s", missing.table, missing.unchecked)
		case len(rows) == 0:
			e.say(lacking, "rows of %s: %s", missing.table, missing.unchecked)
		}
	}
	if e.world.platform == "" {
		e.say(lacking, "a platform (tenant_type 'system'): how its row moves to its new id. Phase 2 makes one")
	}
	if !e.open {
		e.say(lacking, "privileges of anon and authenticated (pg_dump -x): who saw what before, and so whether anybody sees more now")
	}
	for _, table := range slices.Sorted(maps.Keys(e.world.rows)) {
		if found := e.world.found(table); len(found) > 0 {
			e.say(todo, "the old policies go by the column in which phase 2 writes the owner of %d rows of %s: members see these from phase 2 on", len(found), table)
		}
		if some := e.world.some(table); some != nil {
			e.say(lacking, "what the old policies show of %s: they were asked for %d of %d rows, and for those that somebody sees after phase 4",
				table, len(some), len(e.world.rows[table]))
		}
	}
	if n := len(e.world.users); n > e.sampled {
		e.say(lacking, "%d of %d users were not asked: %s=%d asks all", n-e.sampled, n, usersVariable, n)
	}
}

// unchanged is how many users see what the old application showed them.
func (e *examination) unchanged(t *testing.T, phase schema.Phase) (same int) {
	t.Helper()
	for _, user := range e.users {
		now := e.world.glance(t, e.db, user)
		if maps.Equal(e.glances[user], now) {
			same++
			continue
		}
		var changed []string
		for _, table := range slices.Sorted(maps.Keys(now)) {
			if was := e.glances[user][table]; was != now[table] {
				changed = append(changed, fmt.Sprintf("%s: %s before, %s now", table, was, now[table]))
			}
		}
		e.fault(fmt.Sprintf("%s changes what %s sees", phase, cmp.Or(e.world.about(user), "nobody in particular")), changed...)
	}
	return same
}

// phase4 compares who sees what with the rules, and with what was seen before.
func (e *examination) phase4(t *testing.T) {
	t.Helper()
	legacy := e.legacy
	if !e.open {
		legacy = nil
	}
	c := e.world.compare(t, legacy, e.db, e.users)
	require.Positive(t, c.decisions)
	e.judge(c)
}

func (e *examination) judge(c comparison) {
	asked := fmt.Sprintf("%d users, and two who are none,", len(e.users)-2)
	if c.leaked.number+c.unknown.number+c.missing.number == 0 {
		e.say(access, "%s see exactly what the rules say after phase 4: %d decisions", asked, c.decisions)
	}
	if c.widened.number == 0 && c.legacy > 0 {
		e.say(access, "%s see nothing that was hidden from them before, but for what is told here: %d comparisons", asked, c.legacy)
	}
	for _, kind := range []struct {
		found findings
		what  string
	}{
		{c.leaked, "%d rows are seen that must not be"},
		{c.unknown, "%d rows are seen that the dump does not hold"},
		{c.missing, "%d rows are not seen that must be"},
		{c.widened, "%d rows are seen after phase 4 that the old policies hid"},
	} {
		if kind.found.number > 0 {
			e.fault(fmt.Sprintf(kind.what, kind.found.number), kind.found.some...)
		}
	}
	if c.said.number > 0 {
		e.say(access, "%d times, somebody sees a row because of what people have said where the old policies do not look "+
			"(mapping, parent, organization_type, owner_organization_id):%s", c.said.number, shown(c.said.some))
	}
	if c.fromOwner > 0 {
		e.say(access, "%d times, somebody sees a row that named no owner before, and that phase 2 found to be of his organization", c.fromOwner)
	}
	if c.fromTenant > 0 {
		e.say(access, "%d times, somebody sees such a row of another organization of his tenant, which it says it is shared with", c.fromTenant)
	}
	if len(c.lost) > 0 {
		var lost []string
		for _, table := range slices.Sorted(maps.Keys(c.lost)) {
			lost = append(lost, fmt.Sprintf("%s %d", table, c.lost[table]))
		}
		e.say(access, "so many times, somebody does not see any more what was open to him: %s", strings.Join(lost, ", "))
	}
}

// down takes the database back from a phase.
func (e *examination) down(t *testing.T, phase schema.Phase) bool {
	t.Helper()
	f, err := schema.Rollback(phase)
	require.NoError(t, err)
	what := "rollback of " + phase.String()
	taken, ok := e.run(t, what, f)
	if !ok {
		return false
	}
	line := fmt.Sprintf("%-22s %8s", what, taken)
	if changed := e.pictures[phase-1].diff(e.take(t)); changed == "" {
		line += fmt.Sprintf("  brings back %s: every definition, and every row", phase-1)
	} else {
		e.fault(fmt.Sprintf("the rollback of %s does not bring back %s", phase, phase-1), changed)
	}
	e.say(phases, "%s", line)
	return true
}

// environment is a number that an environment variable gives.
func environment(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	given := os.Getenv(variable)
	if given == "" {
		return otherwise
	}
	var n int
	_, err := fmt.Sscanf(given, "%d", &n)
	require.True(t, err == nil && n > 0, "%s=%s: want a number of users", variable, given)
	return n
}
