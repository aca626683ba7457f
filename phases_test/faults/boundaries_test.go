package faults_test

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// TestBoundaries interrupts each file between two statements, and between two of the
// transactions that one statement makes: at some places, or at every one.
func TestBoundaries(t *testing.T) {
	t.Parallel()
	t.Run("between two statements of the file, those from \\gexec too", func(t *testing.T) {
		t.Parallel()
		boundaries(t, func(passage) bool { return true }, breakAfter)
	})
	t.Run("between two transactions of a statement", func(t *testing.T) {
		t.Parallel()
		boundaries(t, func(p passage) bool { return !p.atomic() }, endAfter)
	})
}

// interruption runs a file and ends it after its n-th step, -1 for none. It returns how
// many steps the file has, if it came to its end.
type interruption func(t *testing.T, db *pgtest.DB, p passage, n int) (steps int, through bool)

func boundaries(t *testing.T, concerns func(passage) bool, interrupt interruption) {
	n := kills(t)
	choose := chance(t)
	db := pgtest.New(t, schema.Legacy, world...)
	steps := map[passage]int{}
	want := undisturbed(t, db, func(p passage) {
		if !concerns(p) {
			p.run(t, db)
			return
		}
		var through bool
		steps[p], through = interrupt(t, db, p, -1)
		require.True(t, through)
	})
	for _, p := range journey() {
		if !concerns(p) {
			p.run(t, db)
			continue
		}
		require.Greater(t, steps[p], 1, "%s has no step", p)
		places := choose.Perm(steps[p])[:min(n, steps[p])]
		for i, after := range places {
			if i > 0 {
				p.back().run(t, db)
			}
			_, through := interrupt(t, db, p, after)
			require.False(t, through, "%s has not met its step %d of %d", p, after, steps[p])
			want.between(t, db, p)
			want.recovers(t, db, p, choose)
		}
		t.Logf("%s: interrupted after %d of %d steps", p, len(places), steps[p])
	}
}

// errBroken is what a client finds when its connection breaks.
var errBroken = errors.New("the connection is broken")

// breakAfter breaks the client's connection when it is about to send the next statement.
func breakAfter(t *testing.T, db *pgtest.DB, p passage, n int) (steps int, through bool) {
	t.Helper()
	cfg := db.Config(t, pgtest.OwnerRole)
	build, sent := cfg.BuildFrontend, &breaking{after: n}
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		sent.Writer = w
		return build(r, sent)
	}
	err := run(t, db, p, cfg)
	if err != nil {
		require.ErrorIs(t, err, errBroken)
	}
	return sent.statements, err == nil
}

// breaking is what a client writes to.
type breaking struct {
	io.Writer
	statements, after int
}

func (b *breaking) Write(message []byte) (int, error) {
	if message[0] == 'Q' {
		if b.statements == b.after {
			return 0, errBroken
		}
		b.statements++
	}
	return b.Writer.Write(message)
}

// run runs a file on a connection of its own, and returns when the session is gone.
func run(t *testing.T, db *pgtest.DB, p passage, cfg *pgx.ConnConfig) error {
	t.Helper()
	f, err := p.file()
	require.NoError(t, err)
	conn, err := script.Connect(t.Context(), cfg)
	require.NoError(t, err)
	_, failure := script.Run(t.Context(), conn, f)
	_ = conn.Close(t.Context())
	gone(t, db, int(conn.PgConn().PID()))
	return failure
}

// The end of tenancy.patiently(), and one that ends the session when it has committed for
// the last time.
const (
	patientEnd = "    commit;\nend\n"
	fatalEnd   = `    commit;
    perform set_config('faults.left', (current_setting('faults.left')::integer - 1)::text, false);
    if current_setting('faults.left') = '0' then
        perform pg_terminate_backend(pg_backend_pid());
    end if;
end
`
)

// endAfter ends the session when tenancy.patiently(), which runs all that phases 2 and 3
// do in transactions of their own, has committed another time.
func endAfter(t *testing.T, db *pgtest.DB, p passage, n int) (steps int, through bool) {
	t.Helper()
	var patiently string
	require.NoError(t, db.Owner.QueryRow(t.Context(), `select pg_get_functiondef('tenancy.patiently(text)'::regprocedure)`).Scan(&patiently))
	require.Equal(t, 1, strings.Count(patiently, patientEnd), patiently)
	phasetest.Exec(t, db, strings.Replace(patiently, patientEnd, fatalEnd, 1))
	defer phasetest.Exec(t, db, patiently)

	const never = 1 << 20
	left := n + 1
	if n < 0 {
		left = never
	}
	cfg := db.Config(t, pgtest.OwnerRole)
	cfg.RuntimeParams["faults.left"] = strconv.Itoa(left)
	f, err := p.file()
	require.NoError(t, err)
	// Says at its end how many are left.
	f.SQL += "\ndo $$ begin raise notice 'left: %', current_setting('faults.left'); end $$;"
	conn, err := script.Connect(t.Context(), cfg)
	require.NoError(t, err)
	log, failure := script.Run(t.Context(), conn, f)
	_ = conn.Close(t.Context())
	gone(t, db, int(conn.PgConn().PID()))
	if failure != nil {
		require.ErrorContains(t, failure, "terminating connection due to administrator command")
		return 0, false
	}
	_, err = fmt.Sscanf(log.Steps[len(log.Steps)-1].Notices[0], "NOTICE: left: %d", &left)
	require.NoError(t, err)
	return never - left, true
}
