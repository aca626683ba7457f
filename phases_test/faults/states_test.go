package faults_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// states are what a database is after each phase, when nobody has disturbed any.
type states map[schema.Phase]state

type state struct {
	picture phasetest.Picture
	visible string
}

// visible is which agents people of two rivals see.
func visible(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	return fmt.Sprint(phasetest.VisibleAgents(t, db, fixtures.Alice), phasetest.VisibleAgents(t, db, fixtures.Bob))
}

// effort is what an undisturbed run of a file takes.
type effort struct {
	time       time.Duration
	statements int   // that the client sends
	commits    int   // of tenancy.patiently()
	space      int64 // bytes that the database has grown by
}

// undisturbed makes the journey, up to the last phase and back: whoever comes first, for all tests.
func undisturbed(t *testing.T) (states, map[passage]effort) {
	t.Helper()
	first.Lock()
	defer first.Unlock()
	if first.states != nil {
		return first.states, first.efforts
	}
	db := pgtest.New(t, schema.Legacy, world...)
	want, efforts := states{schema.Legacy: {phasetest.Take(t, db), visible(t, db)}}, map[passage]effort{}
	for _, p := range journey() {
		efforts[p] = measure(t, db, p)
		if p.Down {
			want.reached(t, db, p.To())
		} else {
			want[p.To()] = state{phasetest.Take(t, db), visible(t, db)}
		}
	}
	first.states, first.efforts = want, efforts
	return want, efforts
}

var first struct {
	sync.Mutex
	states  states
	efforts map[passage]effort
}

// measure runs a file and says what it took.
func measure(t *testing.T, db *pgtest.DB, p passage) (e effort) {
	t.Helper()
	size := func() (bytes int64) {
		require.NoError(t, db.Superuser.QueryRow(t.Context(), `select pg_database_size(current_database())`).Scan(&bytes))
		return bytes
	}
	before := size()
	if !p.atomic() {
		defer mortal(t, db)()
	}
	s := connect(t, db, breakAfter(never), endAfter(never))
	defer s.close(t)
	began := time.Now()
	require.NoError(t, s.run(t, p))
	e.time, e.statements = time.Since(began), s.sent.statements
	require.NoError(t, s.conn.QueryRow(t.Context(), `select $1 - current_setting('faults.left')::integer`, never).Scan(&e.commits))
	e.space = size() - before
	return e
}

// between says that a database in which a file was interrupted serves the application,
// and shows nobody more than before; and that a file which is one transaction has done
// nothing, or all. It returns what is there.
func (want states) between(t *testing.T, db *pgtest.DB, p passage) phasetest.Picture {
	t.Helper()
	found := phasetest.Take(t, db)
	done := p.To()
	if want[p.From()].picture.Diff(found) == "" {
		done = p.From()
	}
	if p.atomic() {
		require.Empty(t, want[done].picture.Diff(found), "%s has done something, and neither nothing nor all", p)
	}
	if p.Phase != schema.Phase4 {
		done = p.From()
	}
	require.Equal(t, want[done].visible, visible(t, db), "somebody sees something else, half-way through %s", p)
	if done < schema.Phase4 {
		phasetest.OldApplicationAtOnce(t, db)
	}
	return found
}

// recovers brings a file that was interrupted to its end: by another run, or, as often,
// by way of what was before it. Either must be as if nothing had happened.
func (want states) recovers(t *testing.T, db *pgtest.DB, p passage, d draw) {
	t.Helper()
	if d.IntN(2) == 0 {
		p.back().run(t, db)
		// Rows that were filled, emptied and filled again are counted twice.
		want.reached(t, db, p.From(), "tenancy.backfill_progress")
	}
	p.run(t, db)
	want.reached(t, db, p.To())
}

// reached says that a database is what it is after an undisturbed run, but for the rows
// of some tables.
func (want states) reached(t *testing.T, db *pgtest.DB, phase schema.Phase, but ...string) {
	t.Helper()
	var differences []string
	for line := range strings.Lines(want[phase].picture.Diff(phasetest.Take(t, db))) {
		if !slices.ContainsFunc(but, func(table string) bool { return strings.HasPrefix(line[2:], table+":") }) {
			differences = append(differences, line)
		}
	}
	require.Empty(t, differences, "this is not %s", phase)
}
