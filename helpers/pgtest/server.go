package pgtest

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// oldest is the oldest PostgreSQL major version that the migrations support.
const oldest = 15

// password is that of the test roles, on throw-away servers and others: they may
// log in, and may read nothing but the databases that this package makes.
const password = "tenancy"

// Server is where databases are: the one that all test processes share, or one of
// one's own, which [Start] starts.
type Server struct {
	superuser url.URL       // of the maintenance database
	admin     *pgxpool.Pool // as superuser, on the maintenance database
	owned     *ownership
	version   int  // server_version_num
	own       bool // started by Start
}

// shared returns the process's server, found and prepared at the first call.
var shared = sync.OnceValues(func() (*Server, error) {
	ctx := context.Background()
	conn, err := discover(ctx)
	if err != nil {
		return nil, err
	}
	return prepare(ctx, conn, false)
})

// discover joins the first server there is, as superuser.
func discover(ctx context.Context) (*pgx.Conn, error) {
	if given := os.Getenv(URLVariable); given != "" {
		conn, err := join(ctx, given)
		if err != nil {
			return nil, fmt.Errorf("%w\nThe server is the one that %s names: correct it, or unset it to use a container or a local server", err, URLVariable)
		}
		return conn, nil
	}
	return start(ctx, startContainer, startLocal)
}

// starter starts a server of a kind, or joins it.
type starter func(ctx context.Context, linger time.Duration) (*pgx.Conn, error)

// start starts a server of the first kind that there is.
func start(ctx context.Context, container, local starter) (*pgx.Conn, error) {
	linger := 10 * time.Second // packages of one run follow each other with gaps
	if given := os.Getenv(LingerVariable); given != "" {
		var err error
		if linger, err = time.ParseDuration(given); err != nil {
			return nil, fmt.Errorf("%s=%s: want a duration, such as 10s", LingerVariable, given)
		}
	}
	starters := []struct {
		kind  string
		start starter
	}{{"container", container}, {"local", local}}

	wanted := os.Getenv(KindVariable)
	var tried []string
	for _, s := range starters {
		if wanted != "" && wanted != s.kind {
			continue
		}
		found, err := s.start(ctx, linger)
		if err == nil {
			return found, nil
		}
		tried = append(tried, fmt.Sprintf("  %s: %s", s.kind, err))
	}
	if len(tried) == 0 {
		return nil, fmt.Errorf("%s=%s: want container or local", KindVariable, wanted)
	}
	return nil, fmt.Errorf("no PostgreSQL server for the tests; tried\n%s\nAny of these will do: start Docker; install PostgreSQL %d or later; "+
		"%s=<folder that holds initdb and postgres>; %s=postgres://<superuser>:<password>@<host>/postgres",
		strings.Join(tried, "\n"), oldest, BinVariable, URLVariable)
}

// join opens the session that makes this process one of the server's users: see
// watchdog.sql. The session is the process's until that ends.
func join(ctx context.Context, base string) (*pgx.Conn, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("parse the server's URL: %w", errors.Unwrap(err)) // the outer error repeats the URL, and its password
	}
	cfg, err := pgx.ParseConfig(base)
	if err != nil {
		return nil, fmt.Errorf("parse the server's URL: %w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the server at %s: %w", u.Redacted(), err)
	}
	if _, err := conn.Exec(ctx, "select pg_advisory_lock_shared(hashtextextended('tenancy pgtest users', 0))"); err != nil {
		return nil, errors.Join(fmt.Errorf("join the users of the server at %s: %w", u.Redacted(), err), conn.Close(ctx))
	}
	return conn, nil
}

// gone tells from an error of [join] whether there is no server, or one that is
// starting or stopping. One that is there and refuses is not gone.
func gone(err error) bool {
	if answer := (*pgconn.PgError)(nil); errors.As(err, &answer) {
		return slices.Contains([]string{"57P01", "57P02", "57P03"}, answer.Code) // admin_shutdown, crash_shutdown, cannot_connect_now
	}
	return err != nil
}

//go:embed watchdog.sql
var watchdog string

// watch starts the watchdog in the server that conn is connected to, unless it runs
// already, and hangs up on it: it needs no client.
func watch(ctx context.Context, conn *pgx.Conn, linger time.Duration) error {
	cfg := conn.Config()
	cfg.RuntimeParams["application_name"] = "tenancy watchdog"
	cfg.RuntimeParams["tenancy.linger"] = seconds(linger)
	cfg.RuntimeParams["client_connection_check_interval"] = "0"
	session, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("start the server's watchdog: %w", err)
	}
	server := session.PgConn()
	server.Frontend().SendQuery(&pgproto3.Query{String: watchdog})
	if err := errors.Join(server.Frontend().Flush(), server.Conn().Close()); err != nil {
		return fmt.Errorf("start the server's watchdog: %w", err)
	}
	return nil
}

// seconds is a duration in watchdog.sql's form.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

// prepare refuses a server that cannot serve, makes the roles and sweeps what
// nobody needs any more. The session is the one that [join] opened.
func prepare(ctx context.Context, conn *pgx.Conn, own bool) (_ *Server, err error) {
	u, err := url.Parse(conn.Config().ConnString())
	if err != nil {
		return nil, err
	}
	s := &Server{superuser: *u, owned: &ownership{conn: conn}, own: own}
	s.admin, err = s.pool(ctx, strings.TrimPrefix(u.Path, "/"), "")
	if err != nil {
		return nil, fmt.Errorf("connect to the server at %s: %w", u.Redacted(), err)
	}
	defer func() {
		if err != nil {
			s.admin.Close()
			_ = conn.Close(ctx)
		}
	}()

	var super bool
	err = s.admin.QueryRow(ctx, `select current_setting('server_version_num')::int, rolsuper from pg_roles where rolname = current_user`).
		Scan(&s.version, &super)
	if err != nil {
		return nil, fmt.Errorf("connect to the server at %s: %w", u.Redacted(), err)
	}
	if s.version/10000 < oldest {
		return nil, fmt.Errorf("the server at %s is PostgreSQL %d: the migrations need %d or later", u.Redacted(), s.version/10000, oldest)
	}
	if !super {
		return nil, fmt.Errorf("the tests make roles with BYPASSRLS and databases, which takes a superuser; %s is none", s.admin.Config().ConnConfig.User)
	}
	if err := s.makeRoles(ctx); err != nil {
		return nil, fmt.Errorf("make the roles: %w", err)
	}
	return s, s.sweep(ctx)
}

//go:embed roles.sql
var testRoles string

// makeRoles makes the API roles and the test roles. Roles belong to the cluster,
// and two sessions that make them at once fail: hence the lock.
func (s *Server) makeRoles(ctx context.Context) error {
	conn, err := script.Connect(ctx, s.admin.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "select pg_advisory_lock(hashtext('tenancy.roles'))"); err != nil {
		return err
	}
	roles, err := schema.Roles()
	if err != nil {
		return err
	}
	for _, f := range []schema.File{roles, {Path: "roles.sql", Origin: "helpers/pgtest/roles.sql", SQL: testRoles}} {
		if _, err := script.Run(ctx, conn, f); err != nil {
			return err
		}
	}
	return nil
}

// url returns the URL of a database; role "" is the superuser.
func (s *Server) url(database, role string) string {
	u := s.superuser
	u.Path = "/" + database
	if role != "" {
		u.User = url.UserPassword(role, password)
	}
	return u.String()
}

// pool connects lazily.
func (s *Server) pool(ctx context.Context, database, role string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(s.url(database, role))
	if err != nil {
		return nil, err
	}
	cfg.MinConns = 0
	if s.own {
		// It may have crashed since a connection was used.
		cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return true }
	}
	return pgxpool.NewWithConfig(ctx, cfg)
}

// quote quotes an identifier.
func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
