package faults_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// refusals are what a file says that cannot run now.
var refusals = []string{
	"another migration of this database is running",
	"which is not complete here",
	"is complete: roll it back before",
	"is complete, and phase",
	"has begun: roll it back before",
}

// TestRivals lets two operators run files at once: the same one, one and its rollback, one
// and the next. Whoever comes too late is refused; nobody spoils anything.
func TestRivals(t *testing.T) {
	t.Parallel()
	d := random(t)
	want, efforts := undisturbed(t)
	db := pgtest.New(t, schema.Legacy, world...)
	all := journey()
	d.travel(t, db, func(p passage) {
		i := slices.Index(all, p)
		others := []passage{p, p.back(), all[(i+1)%len(all)], all[(i+len(all)-1)%len(all)].back()}
		refused := 0
		for n := range d.kills {
			if worn(n) {
				db = pgtest.New(t, schema.Legacy, world...)
				walk(t, db, want, p.From())
			}
			first := start(t, db, p)
			time.Sleep(time.Duration(d.Float64() * float64(efforts[p].time)))
			other := others[d.IntN(len(others))]
			second := start(t, db, other)
			for operator, its := range map[*operator]passage{first: p, second: other} {
				if end := operator.wait(t, db); end.err != nil {
					refused++
					require.Truef(t, refusal(end.err), "%s, while somebody ran %s: %s", its, map[bool]passage{true: other, false: p}[operator == first], end.err)
				}
			}
			walk(t, db, want, p.From())
		}
		p.run(t, db)
		want.reached(t, db, p.To())
		t.Logf("%s: %d times with somebody else, %d refusals", p, d.kills, refused)
	})
}

func refusal(err error) bool {
	for _, text := range refusals {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// walk says that a database is what it is after one of the phases, and brings it to another.
func walk(t *testing.T, db *pgtest.DB, want states, to schema.Phase) {
	t.Helper()
	now := complete(t, db)
	want.reached(t, db, now)
	for ; now < to; now++ {
		db.Migrate(t, now+1)
	}
	for ; now > to; now-- {
		db.Rollback(t, now)
	}
}

// complete is the latest phase that a database says is complete.
func complete(t *testing.T, db *pgtest.DB) (phase schema.Phase) {
	t.Helper()
	var there bool
	require.NoError(t, db.Superuser.QueryRow(t.Context(), `select to_regclass('tenancy.completed_phase') is not null`).Scan(&there))
	if there {
		require.NoError(t, db.Superuser.QueryRow(t.Context(), `select max(phase) from tenancy.completed_phase`).Scan(&phase))
	}
	return phase
}

// What a file finds complete must stay so until it is through: it has locked the others
// out before it looks.
func TestLooksUnderTheLock(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	for _, phase := range schema.Phases() {
		db.Migrate(t, phase)
		for _, p := range []schema.Passage{{Phase: phase}, {Phase: phase, Down: true}} {
			f, err := p.File()
			require.NoError(t, err)
			blocker, runner := db.Connect(t, pgtest.OwnerRole), db.Connect(t, pgtest.OwnerRole)
			_, err = blocker.Exec(t.Context(), `begin; lock table tenancy.completed_phase in access exclusive mode`)
			require.NoError(t, err)
			pid, done := int(runner.PgConn().PID()), make(chan error, 1)
			go func() {
				_, err := script.Run(context.WithoutCancel(t.Context()), runner, f)
				done <- err
			}()
			for waits := false; !waits; time.Sleep(time.Millisecond) {
				require.NoError(t, db.Superuser.QueryRow(t.Context(),
					`select $1::int = any (pg_blocking_pids($2::int))`, int(blocker.PgConn().PID()), pid).Scan(&waits))
				require.Empty(t, done, "%s has not looked", p)
			}
			var locked bool
			require.NoError(t, db.Superuser.QueryRow(t.Context(),
				`select exists (select from pg_locks where pid = $1 and locktype = 'advisory' and granted)`, pid).Scan(&locked))
			require.True(t, locked, "%s looks at what is complete before it has locked the others out", p)
			signal(t, db, "pg_terminate_backend", pid)
			require.Error(t, <-done)
			gone(t, db, pid)
			require.NoError(t, blocker.Close(t.Context()))
		}
	}
}
