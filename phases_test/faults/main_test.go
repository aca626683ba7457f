// Package faults_test interrupts every migration and every rollback: its client is
// killed, its session ended, its server crashed, at any moment and at every statement;
// somebody is in its way, or does the same at once; a limit is reached, or the disk full.
// Run again, as often as it takes, it must have done what an undisturbed run does;
// taken back, nothing. And meanwhile nobody must notice.
package faults_test

import (
	"cmp"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// Environment variables of this package.
const (
	killsVariable = "FAULTS_KILLS" // how often each test interrupts each file: once, and one file, unless given
	seedVariable  = "FAULTS_SEED"  // makes the same choices again
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == clientCommand {
		os.Exit(client(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// draw is what a test leaves to chance: where and when it interrupts which files.
type draw struct {
	*rand.Rand
	kills int       // of each file
	files []passage // in the order of the journey
}

// random draws anew for each test; in an ordinary run one file has to suffer from each.
func random(t *testing.T) draw {
	t.Helper()
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv(seedVariable), strconv.FormatUint(rand.Uint64(), 10)), 10, 64)
	require.NoError(t, err, seedVariable)
	t.Logf("%s=%d", seedVariable, seed)
	d := draw{Rand: rand.New(rand.NewPCG(seed, 0)), kills: 1, files: journey()}
	if given := os.Getenv(killsVariable); given != "" {
		d.kills, err = strconv.Atoi(given)
		require.NoError(t, err, killsVariable)
		require.Positive(t, d.kills, killsVariable)
		return d
	}
	d.files = []passage{d.files[d.IntN(len(d.files))]}
	return d
}

// travel makes the journey as far as the last file that is concerned; interrupted runs
// one of those as it should be run in the end.
func (d draw) travel(t *testing.T, db *pgtest.DB, interrupted func(passage)) {
	t.Helper()
	for _, p := range journey()[:1+slices.Index(journey(), d.files[len(d.files)-1])] {
		if slices.Contains(d.files, p) {
			interrupted(p)
		} else {
			p.run(t, db)
		}
	}
}

// worn tells whether a database has seen a file so often by its n-th time that another
// should take its place: PostgreSQL counts the columns that were dropped among the 1,600
// that a table may have.
func worn(n int) bool { return n > 0 && n%50 == 0 }

// world has more documents than the backfill fills in two transactions, and nothing in it
// that depends on when it was made: it is the same on every server.
var world = append(fixtures.World(), pgtest.Seed{Name: "documents for three batches", SQL: `
	insert into public.knowledge_documents (id, title, tenant_id)
	select ('00000100-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'Document ' || n, '` + fixtures.Novartis.ID + `'
	from generate_series(1, 10400) as n;

	update public.user_organizations set id = md5(user_id || ' ' || organization_id)::uuid;
	do $$
	declare
		time record;
	begin
		for time in
			select a.attrelid::regclass as relation, a.attname
			from pg_attribute a
			join pg_class c on c.oid = a.attrelid
			where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attname in ('created_at', 'updated_at')
		loop
			execute format('update %s set %I = %L', time.relation, time.attname, '2025-01-01 00:00:00+00');
		end loop;
	end
	$$;

	vacuum full;`})

// passage is one of the files: a migration, or a rollback.
type passage struct{ schema.Passage }

// journey is all files, from the legacy database to the secured one and back.
func journey() (all []passage) {
	for _, p := range schema.Journey() {
		all = append(all, passage{p})
	}
	return all
}

func (p passage) back() passage { return passage{p.Back()} }

// atomic tells whether the file is one transaction.
func (p passage) atomic() bool { return p.Phase == schema.Phase1 || p.Phase == schema.Phase4 }

// run runs the file undisturbed.
func (p passage) run(t *testing.T, db *pgtest.DB) {
	t.Helper()
	if p.Down {
		db.Rollback(t, p.Phase)
	} else {
		db.Migrate(t, p.Phase)
	}
}

// firstLine shortens a statement for a report.
func firstLine(sql string) string {
	line, _, _ := strings.Cut(strings.Join(strings.Fields(sql), " "), "(")
	if len(line) > 60 {
		line = line[:60] + "…"
	}
	return line
}
