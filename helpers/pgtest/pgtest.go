// Package pgtest gives each test a PostgreSQL database of its own, in the state
// after any phase of the rollout, in a few milliseconds.
//
//	db := pgtest.New(t, schema.Phase1)
//	db.Owner.QueryRow(ctx, "select …")
//
// The server is found once per process, in this order: TEST_DATABASE_URL (a
// superuser's URL), a container, local binaries; TEST_POSTGRES=container|local
// asks for one of the latter. All test processes of a run share it. A database is
// a clone of a template that is built once per content of the SQL files, seeds,
// phase and server, and dropped when the test ends, unless TEST_KEEP_DB is set and
// the test failed: then its URL is logged, and half an hour is left to look at it. A
// container or a local server stops by itself when nobody has used it for ten seconds.
package pgtest

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// Environment variables that this package reads.
const (
	URLVariable    = "TEST_DATABASE_URL"   // a superuser's URL of a server to use
	KindVariable   = "TEST_POSTGRES"       // "container" or "local"
	ImageVariable  = "TEST_POSTGRES_IMAGE" // the container's image
	BinVariable    = "TEST_POSTGRES_BIN"   // the folder that holds initdb and postgres
	KeepVariable   = "TEST_KEEP_DB"        // any value keeps the database of a failed test, for half an hour
	LingerVariable = "TEST_LINGER"         // how long a server that the tests started outlives its last user, 10s unless given
)

// Roles that the tests log in as. None but the owner owns anything.
const (
	OwnerRole   = "tenancy_owner"   // owns the databases and runs the migrations; neither superuser nor BYPASSRLS
	APIRole     = "tenancy_api"     // may become anon and authenticated, and nobody else
	ServiceRole = "tenancy_service" // may become service_role, and nobody else
	// OperatorRole is a member of the owner, and may become anon and authenticated, as who looks after a database.
	OperatorRole = "tenancy_operator"
)

// Seed is data that is loaded as the owner, right after the baseline or, for what
// the legacy tables cannot hold, right after the migration of a later phase. Seeds
// of one phase are loaded in the order in which they are given; a database of an
// earlier phase does without them. Their text is part of the template's identity.
type Seed struct {
	Name  string // for error messages
	SQL   string
	After schema.Phase
}

// DB is a database of one's own.
type DB struct {
	Name      string
	Owner     *pgxpool.Pool // as OwnerRole
	Superuser *pgxpool.Pool // for what a hand-written query costs without row level security

	server *Server
}

// New returns a database in the state after phase, with the seeds in it, and
// drops it when the test ends. Without a server, or with a migration that fails,
// the test fails.
func New(t testing.TB, phase schema.Phase, seeds ...Seed) *DB {
	t.Helper()
	s, err := shared()
	require.NoError(t, err)
	return s.New(t, phase, seeds...)
}

// New is [New] on this server.
func (s *Server) New(t testing.TB, phase schema.Phase, seeds ...Seed) *DB {
	t.Helper()
	db, err := s.Create(t.Context(), phase, seeds...)
	return db.forTest(t, err)
}

// Origin is what a database is before phase 1, in place of the baseline.
type Origin struct {
	Name     string // for error messages
	Identity string // of all that it is made from: databases of one identity are alike
	// Build fills an empty database. What the phases are to own must be [OwnerRole]'s when it ends.
	Build func(ctx context.Context, superuser *pgx.Conn) error
}

// NewFrom is [New] with another origin than the baseline.
func NewFrom(t testing.TB, origin Origin, phase schema.Phase) *DB {
	t.Helper()
	s, err := shared()
	require.NoError(t, err)
	recipe, err := recipeFor(&origin, phase, nil)
	require.NoError(t, err)
	db, err := s.create(t.Context(), recipe)
	return db.forTest(t, err)
}

// Empty returns a database with nothing in it.
func Empty(t testing.TB) *DB {
	t.Helper()
	s, err := shared()
	require.NoError(t, err)
	db, err := s.create(t.Context(), recipe{})
	return db.forTest(t, err)
}

func (db *DB) forTest(t testing.TB, err error) *DB {
	t.Helper()
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() && os.Getenv(KeepVariable) != "" && !db.server.own { // one's own server ends with the process
			until, err := db.server.keep(context.WithoutCancel(t.Context()), db.Name, failedLife)
			require.NoError(t, err)
			t.Logf("kept the database until %s: psql '%s'", until.Format(time.TimeOnly), db.URL(OwnerRole))
			return
		}
		// The test's own context has ended by now.
		require.NoError(t, db.Close(context.WithoutCancel(t.Context())))
	})
	return db
}

// Create is [New] for programs that are not tests. The caller closes the database.
func Create(ctx context.Context, phase schema.Phase, seeds ...Seed) (*DB, error) {
	s, err := shared()
	if err != nil {
		return nil, err
	}
	return s.Create(ctx, phase, seeds...)
}

// Create is [Create] on this server.
func (s *Server) Create(ctx context.Context, phase schema.Phase, seeds ...Seed) (*DB, error) {
	recipe, err := recipeFor(nil, phase, seeds)
	if err != nil {
		return nil, err
	}
	return s.create(ctx, recipe)
}

// URL returns a URL of the database for a role of this package, or for "", the superuser.
func (db *DB) URL(role string) string { return db.server.url(db.Name, role) }

// Config is [DB.URL] in pgx's form.
func (db *DB) Config(t testing.TB, role string) *pgx.ConnConfig {
	t.Helper()
	cfg, err := pgx.ParseConfig(db.URL(role))
	require.NoError(t, err)
	return cfg
}

// Connect logs in as a role of this package. The connection closes when the test ends.
func (db *DB) Connect(t testing.TB, role string) *pgx.Conn {
	t.Helper()
	conn, err := script.Connect(t.Context(), db.Config(t, role))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// Run runs a SQL file as the owner, with psql's semantics; the error is the
// file's own, not the test's.
func (db *DB) Run(t testing.TB, f schema.File) (*script.Log, error) {
	t.Helper()
	conn := db.Connect(t, OwnerRole)
	defer func() {
		// The server ends a session, and its locks, some time after Close: a file run right after one that failed would
		// find the database locked. A session that is gone already holds none.
		_, _ = conn.PgConn().Exec(t.Context(), "rollback; select pg_advisory_unlock_all()").ReadAll()
		_ = conn.Close(t.Context())
	}()
	return script.Run(t.Context(), conn, f)
}

// Migrate takes the database from the phase before to phase.
func (db *DB) Migrate(t testing.TB, phase schema.Phase) {
	t.Helper()
	db.must(t)(schema.Migration(phase))
}

// Rollback takes the database from phase to the phase before.
func (db *DB) Rollback(t testing.TB, phase schema.Phase) {
	t.Helper()
	db.must(t)(schema.Rollback(phase))
}

func (db *DB) must(t testing.TB) func(schema.File, error) {
	return func(f schema.File, err error) {
		t.Helper()
		require.NoError(t, err)
		_, err = db.Run(t, f)
		require.NoError(t, err)
	}
}
