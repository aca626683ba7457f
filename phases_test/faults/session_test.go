package faults_test

import (
	"errors"
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
)

// session is one that this process runs files in.
type session struct {
	db   *pgtest.DB
	conn *pgx.Conn
	sent wire
}

// never is more statements, or transactions, than any file has.
const never = 1 << 20

func connect(t *testing.T, db *pgtest.DB, options ...func(*session, *pgx.ConnConfig)) *session {
	t.Helper()
	s := &session{db: db, sent: wire{after: never}}
	cfg := db.Config(t, pgtest.OwnerRole)
	for _, option := range options {
		option(s, cfg)
	}
	var err error
	s.conn, err = script.Connect(t.Context(), cfg)
	require.NoError(t, err)
	return s
}

func (s *session) pid() int { return int(s.conn.PgConn().PID()) }

func (s *session) run(t *testing.T, p passage) error {
	t.Helper()
	f, err := p.File()
	require.NoError(t, err)
	_, err = script.Run(t.Context(), s.conn, f)
	return err
}

// close returns when the session has ended, with what it held.
func (s *session) close(t *testing.T) {
	t.Helper()
	_ = s.conn.Close(t.Context())
	gone(t, s.db, s.pid())
}

// set makes a setting of the session.
func set(name, value string) func(*session, *pgx.ConnConfig) {
	return func(_ *session, cfg *pgx.ConnConfig) { cfg.RuntimeParams[name] = value }
}

// breakAfter breaks the connection when the client is about to send its next statement
// after so many.
func breakAfter(n int) func(*session, *pgx.ConnConfig) {
	return func(s *session, cfg *pgx.ConnConfig) {
		s.sent.after = n
		build := cfg.BuildFrontend
		cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
			s.sent.Writer = w
			return build(r, &s.sent)
		}
	}
}

// wire is what a client writes to.
type wire struct {
	io.Writer
	statements, after int
}

// errBroken is what a client finds when its connection breaks.
var errBroken = errors.New("the connection is broken")

func (w *wire) Write(message []byte) (int, error) {
	if message[0] == 'Q' {
		if w.statements == w.after {
			return 0, errBroken
		}
		w.statements++
	}
	return w.Writer.Write(message)
}

// endAfter ends the session when tenancy.patiently() has committed another time after so
// many, once that is [mortal].
func endAfter(n int) func(*session, *pgx.ConnConfig) { return set("faults.left", strconv.Itoa(n)) }

// mortal makes tenancy.patiently(), which runs all that phases 2 and 3 do in transactions
// of their own, count them, and end the session of one that has made its last. What it
// returns makes the procedure what it was.
func mortal(t *testing.T, db *pgtest.DB) (restore func()) {
	t.Helper()
	const (
		end     = "    commit;\nend\n"
		instead = `    commit;
    perform set_config('faults.left', (current_setting('faults.left')::integer - 1)::text, false);
    if current_setting('faults.left') = '-1' then
        perform pg_terminate_backend(pg_backend_pid());
    end if;
end
`
	)
	var patiently string
	require.NoError(t, db.Owner.QueryRow(t.Context(), `select pg_get_functiondef('tenancy.patiently(text)'::regprocedure)`).Scan(&patiently))
	require.Equal(t, 1, strings.Count(patiently, end), patiently)
	phasetest.Exec(t, db, strings.Replace(patiently, end, instead, 1))
	return func() { phasetest.Exec(t, db, patiently) }
}
