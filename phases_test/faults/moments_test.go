package faults_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// A fault strikes whoever runs a file.
type fault struct {
	name   string
	strike func(*testing.T, *pgtest.DB, *operator)
}

var faultsOfSessions = []fault{
	{"SIGKILL of the client", func(t *testing.T, _ *pgtest.DB, o *operator) {
		if err := o.cmd.Process.Kill(); !errors.Is(err, os.ErrProcessDone) {
			require.NoError(t, err)
		}
	}},
	{"pg_terminate_backend", func(t *testing.T, db *pgtest.DB, o *operator) { signal(t, db, "pg_terminate_backend", o.pid) }},
	{"pg_cancel_backend", func(t *testing.T, db *pgtest.DB, o *operator) { signal(t, db, "pg_cancel_backend", o.pid) }},
}

func signal(t *testing.T, db *pgtest.DB, function string, pid int) {
	t.Helper()
	_, err := db.Superuser.Exec(t.Context(), "select "+function+"($1)", pid)
	require.NoError(t, err)
}

// TestRandomMoments interrupts each file at moments of which any is as likely as another,
// and then runs it again, or takes it back.
func TestRandomMoments(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "pre-implementation/test-scenarios-defined/rollback-procedure-tested", "rollback-procedures/emergency-rollback-plan",
		"phase-2/re-run-phase-2-with-corrections")
	d := random(t)
	crashes := (d.kills + 3) / 4
	// What is lost in a crash is what would be lost in production: nothing that was committed.
	server, err := pgtest.Start(t.Context(), "synchronous_commit=on", "full_page_writes=on", "wal_level=replica")
	if errors.Is(err, pgtest.ErrGiven) {
		t.Logf("no server crashes: %s", err)
		crashes = 0
	} else {
		require.NoError(t, err)
	}
	t.Run("of which the session does not survive", func(t *testing.T) {
		t.Parallel()
		moments(t, pgtest.New(t, schema.Legacy, world...), faultsOfSessions, max(d.kills-crashes, 1))
	})
	if crashes > 0 {
		crash := fault{"crash of the server", func(t *testing.T, _ *pgtest.DB, _ *operator) { require.NoError(t, server.Crash(t.Context())) }}
		t.Run("of which the server does not survive", func(t *testing.T) {
			t.Parallel()
			moments(t, server.New(t, schema.Legacy, world...), []fault{crash}, crashes)
		})
	}
}

// moments makes journeys on one database, with a fault in each file.
func moments(t *testing.T, db *pgtest.DB, faults []fault, journeys int) {
	d := random(t)
	want, efforts := undisturbed(t)
	m := met{duration: map[passage]time.Duration{}, tally: map[passage]*tally{}}
	for p, e := range efforts {
		m.duration[p] = e.time
		m.tally[p] = &tally{statements: map[string]int{}, faults: map[string]int{}, states: map[string]bool{}}
	}
	began := time.Now()
	for i := range journeys {
		d.travel(t, db, func(p passage) {
			by, c := faults[d.IntN(len(faults))], m.tally[p]
			at, end := m.strike(t, db, p, by, d)
			for end.err == nil {
				c.late++
				m.duration[p] = end.after
				p.back().run(t, db)
				at, end = m.strike(t, db, p, by, d)
			}
			c.kills++
			c.faults[by.name]++
			c.statements[at]++
			c.states[want[p.From()].picture.Diff(want.between(t, db, p))] = true
			for d.IntN(4) == 0 {
				m.strike(t, db, p, by, d)
			}
			want.recovers(t, db, p, d)
		})
		if done := i + 1; done%10 == 0 || done == journeys {
			t.Logf("%d of %d interruptions of each file, %s", done, journeys, time.Since(began).Round(time.Second))
		}
	}
	for _, p := range d.files {
		t.Logf("%s, %s undisturbed: %s", p, m.duration[p].Round(time.Millisecond), m.tally[p])
	}
}

// met is what the faults have met.
type met struct {
	duration map[passage]time.Duration // of the latest run that nobody disturbed
	tally    map[passage]*tally
}

type tally struct {
	kills, late int
	faults      map[string]int
	statements  map[string]int
	states      map[string]bool // the differences that were left
}

func (c *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d interruptions left %d states and met %d statements; %d came too late\n", c.kills, len(c.states), len(c.statements), c.late)
	for _, counts := range []map[string]int{c.faults, c.statements} {
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(&b, "  %4d  %s\n", counts[name], name)
		}
	}
	return b.String()
}

// strike runs a file and strikes at some moment. It returns the statement that this
// met, and how the client ended: without an error, if it was through.
func (m met) strike(t *testing.T, db *pgtest.DB, p passage, by fault, d draw) (at string, end ending) {
	t.Helper()
	f, err := p.File()
	require.NoError(t, err)
	statements, err := script.Split(f)
	require.NoError(t, err)
	after := time.Duration(d.Float64() * 1.1 * float64(m.duration[p]))
	o := start(t, db, p)
	time.Sleep(after - time.Since(o.began))
	at = where(t, db, o, statements)
	by.strike(t, db, o)
	return at, o.wait(t, db)
}

// where says at which statement of the file an operator is.
func where(t *testing.T, db *pgtest.DB, o *operator, statements []script.Statement) string {
	t.Helper()
	var query, state string
	err := db.Superuser.QueryRow(t.Context(), `select query, coalesce(state, '') from pg_stat_activity where pid = $1`, o.pid).Scan(&query, &state)
	if errors.Is(err, pgx.ErrNoRows) {
		return "at the end"
	}
	require.NoError(t, err)
	if query == "" {
		return "before the first statement"
	}
	place := "line    0, from \\gexec"
	for _, s := range statements {
		// The server shows the beginning of a long one.
		if strings.HasPrefix(s.SQL, query) {
			place = fmt.Sprintf("line %4d", s.Line)
			break
		}
	}
	if strings.HasPrefix(state, "idle") {
		place += ", after"
	}
	return place + ": " + firstLine(query)
}
