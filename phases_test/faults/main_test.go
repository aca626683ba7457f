// Package faults_test interrupts every migration and every rollback: its client is
// killed, its session ended, its server crashed, at any moment and at every statement;
// somebody is in its way, or does the same at once; a limit is reached, or the disk full.
// Run again, as often as it takes, it must have done what an undisturbed run does;
// taken back, nothing. And meanwhile nobody must notice.
package faults_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// Environment variables of this package.
const (
	killsVariable = "FAULTS_KILLS" // how often each file is interrupted by each test, 1 unless given
	seedVariable  = "FAULTS_SEED"  // makes the same choices again
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == clientCommand {
		os.Exit(client(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// kills is how often each file is interrupted by each test.
func kills(t *testing.T) (n int) {
	t.Helper()
	n, err := strconv.Atoi(cmp.Or(os.Getenv(killsVariable), "1"))
	require.NoError(t, err, killsVariable)
	require.Positive(t, n, killsVariable)
	return n
}

// chance returns what makes a test's choices, and logs how to make them again.
func chance(t *testing.T) *rand.Rand {
	t.Helper()
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv(seedVariable), strconv.FormatUint(rand.Uint64(), 10)), 10, 64)
	require.NoError(t, err, seedVariable)
	t.Logf("%s=%d", seedVariable, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// world has more documents than the backfill fills in two transactions.
var world = append(fixtures.World(), pgtest.Seed{Name: "documents for three batches", SQL: `
	insert into public.knowledge_documents (id, title, tenant_id)
	select ('00000100-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'Document ' || n, '` + fixtures.Novartis.ID + `'
	from generate_series(1, 10400) as n;`})

// passage is one of the files: a migration, or a rollback.
type passage struct {
	phase schema.Phase
	down  bool
}

// journey is all files, from the legacy database to the secured one and back.
func journey() (all []passage) {
	for _, phase := range schema.Phases() {
		all = append(all, passage{phase: phase})
	}
	for i := range all {
		all = append(all, all[len(schema.Phases())-1-i].back())
	}
	return all
}

func (p passage) String() string {
	if p.down {
		return "rollback of " + p.phase.String()
	}
	return p.phase.String()
}

func (p passage) back() passage { return passage{p.phase, !p.down} }

func (p passage) from() schema.Phase { return p.back().to() }

func (p passage) to() schema.Phase {
	if p.down {
		return p.phase - 1
	}
	return p.phase
}

// atomic tells whether the file is one transaction.
func (p passage) atomic() bool { return p.phase == schema.Phase1 || p.phase == schema.Phase4 }

func (p passage) file() (schema.File, error) {
	if p.down {
		return schema.Rollback(p.phase)
	}
	return schema.Migration(p.phase)
}

// run runs the file undisturbed.
func (p passage) run(t *testing.T, db *pgtest.DB) {
	t.Helper()
	if p.down {
		db.Rollback(t, p.phase)
	} else {
		db.Migrate(t, p.phase)
	}
}

// state is what a database is after a phase, and who sees what in it.
type state struct {
	picture phasetest.Picture
	visible string
}

// states are those that nobody has disturbed, by phase.
type states map[schema.Phase]state

// undisturbed makes the journey, up to the last phase and back, with a run of each file.
func undisturbed(t *testing.T, db *pgtest.DB, run func(passage)) states {
	t.Helper()
	want := states{schema.Legacy: {phasetest.Take(t, db), visible(t, db)}}
	for _, p := range journey() {
		run(p)
		if p.down {
			want.reached(t, db, p.to())
		} else {
			want[p.to()] = state{phasetest.Take(t, db), visible(t, db)}
		}
	}
	return want
}

// visible is which agents people of two rivals see.
func visible(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	return fmt.Sprint(phasetest.VisibleAgents(t, db, fixtures.Alice), phasetest.VisibleAgents(t, db, fixtures.Bob))
}

// between says that a database in which a file was interrupted serves the application,
// and shows nobody more than before; and that a file which is one transaction has done
// nothing, or all. It returns what is there.
func (want states) between(t *testing.T, db *pgtest.DB, p passage) phasetest.Picture {
	t.Helper()
	found := phasetest.Take(t, db)
	done := p.to()
	if want[p.from()].picture.Diff(found) == "" {
		done = p.from()
	}
	if p.atomic() {
		require.Empty(t, want[done].picture.Diff(found), "%s has done something, and neither nothing nor all", p)
	}
	if p.phase != schema.Phase4 {
		done = p.from()
	}
	require.Equal(t, want[done].visible, visible(t, db), "somebody sees something else, half-way through %s", p)
	if done < schema.Phase4 {
		phasetest.OldApplicationAtOnce(t, db)
	}
	return found
}

// recovers brings a file that was interrupted to its end: by another run, or, as often,
// by way of what was before it. Either must be as if nothing had happened.
func (want states) recovers(t *testing.T, db *pgtest.DB, p passage, choose *rand.Rand) {
	t.Helper()
	if choose.IntN(2) == 0 {
		p.back().run(t, db)
		// Rows that were filled, emptied and filled again are counted twice.
		want.reached(t, db, p.from(), "tenancy.backfill_progress")
	}
	p.run(t, db)
	want.reached(t, db, p.to())
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

// own is a server that may be crashed, one test at a time.
var own = sync.OnceValues(func() (*pgtest.Server, error) {
	// What is lost in a crash is what would be lost in production: nothing that was committed.
	return pgtest.Start(context.Background(), "synchronous_commit=on", "full_page_writes=on", "wal_level=replica")
})

// firstLine shortens a statement for a report.
func firstLine(sql string) string {
	line, _, _ := strings.Cut(strings.Join(strings.Fields(sql), " "), "(")
	if len(line) > 60 {
		line = line[:60] + "…"
	}
	return line
}
