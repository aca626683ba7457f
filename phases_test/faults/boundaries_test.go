package faults_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// TestBoundaries interrupts each file between two statements, and between two of the
// transactions that one statement makes: at some places, or at every one.
func TestBoundaries(t *testing.T) {
	t.Parallel()
	t.Run("between two statements of the file, those from \\gexec too", func(t *testing.T) {
		t.Parallel()
		boundaries(t, func(e effort) int { return e.statements }, func(db *pgtest.DB, p passage, n int) {
			s := connect(t, db, breakAfter(n))
			defer s.close(t)
			require.ErrorIs(t, s.run(t, p), errBroken, "%s has no statement after %d", p, n)
		})
	})
	t.Run("between two transactions of a statement", func(t *testing.T) {
		t.Parallel()
		boundaries(t, func(e effort) int { return e.commits }, func(db *pgtest.DB, p passage, n int) {
			defer mortal(t, db)()
			s := connect(t, db, endAfter(n))
			defer s.close(t)
			require.ErrorContains(t, s.run(t, p), "terminating connection due to administrator command", "%s has no transaction after %d", p, n)
		})
	})
}

func boundaries(t *testing.T, count func(effort) int, interrupt func(db *pgtest.DB, p passage, n int)) {
	t.Helper()
	d := random(t)
	want, efforts := undisturbed(t)
	db := pgtest.New(t, schema.Legacy, world...)
	d.travel(t, db, func(p passage) {
		steps := count(efforts[p])
		require.True(t, steps > 0 || p.atomic(), "%s has no step", p)
		if steps == 0 {
			p.run(t, db)
			return
		}
		places := d.Perm(steps)[:min(d.kills, steps)]
		for i, after := range places {
			if i > 0 {
				p.back().run(t, db)
			}
			interrupt(db, p, after)
			want.between(t, db, p)
			want.recovers(t, db, p, d)
		}
		t.Logf("%s: interrupted after %d of %d steps", p, len(places), steps)
	})
}
