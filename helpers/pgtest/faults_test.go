package pgtest_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/client"
	"github.com/stretchr/testify/require"
	"github.com/testcontainers/testcontainers-go"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// How long to wait for what happens in other processes, and how often to look.
const (
	patience = 20 * time.Second
	pause    = 50 * time.Millisecond
)

// childVariable makes TestChild, in a process of its own, take a database, say its
// URL, and wait to be ended or, as the value says, fail.
const (
	childVariable = "PGTEST_CHILD"
	waits         = "waits"
	fails         = "fails"
	owns          = "owns" // a server, too
)

func TestChild(t *testing.T) {
	t.Parallel()
	if os.Getenv(childVariable) == "" {
		return // the work is done where the other tests start it
	}
	var db *pgtest.DB
	if os.Getenv(childVariable) == owns {
		server, err := pgtest.Start(t.Context())
		require.NoError(t, err)
		db = server.New(t, schema.Legacy)
	} else {
		db = pgtest.New(t, schema.Legacy)
	}
	_, err := os.Stdout.WriteString("database " + db.URL("") + "\n")
	require.NoError(t, err)
	require.NotEqual(t, fails, os.Getenv(childVariable))
	_, err = io.Copy(io.Discard, os.Stdin)
	require.NoError(t, err)
}

// child is this test binary as another process, with the given environment added.
func child(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(append(os.Environ(), childVariable+"="+waits), env...)
	return cmd
}

// process is a child that has a database.
type process struct {
	cmd      *exec.Cmd
	database *url.URL // the superuser's
}

func (p process) name() string { return strings.TrimPrefix(p.database.Path, "/") }

// kill ends the child as nothing else does: it can clear up nothing.
func (p process) kill(t *testing.T) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGKILL))
	require.Error(t, p.cmd.Wait())
}

// start waits until the child has its database.
func start(t *testing.T, env ...string) process {
	t.Helper()
	cmd := child(t, env...)
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	_, text, found := strings.Cut(strings.TrimSpace(line), "database ")
	require.True(t, found, line)
	database, err := url.Parse(text)
	require.NoError(t, err)
	return process{cmd: cmd, database: database}
}

func TestKilledProcess(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy)
	victim := start(t)
	require.Contains(t, databases(t, db), victim.name())
	victim.kill(t)
	require.Contains(t, databases(t, db), victim.name(), "nobody has swept yet")

	// The next process finds an orphan's lock free, once the server has noticed that its session is gone.
	require.Eventually(t, func() bool {
		next := start(t)
		defer next.kill(t)
		found := databases(t, db)
		require.Contains(t, found, next.name())
		return !slices.Contains(found, victim.name())
	}, patience, pause, "%s was left behind", victim.name())
	require.Contains(t, databases(t, db), db.Name, "a database in use must survive the sweep")
}

func TestUnusedTemplate(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy)
	suffix := strings.ToLower(rand.Text())[:12]
	yesterday, tomorrow := "tenancy_t_old_"+suffix, "tenancy_t_new_"+suffix
	for name, until := range map[string]time.Time{
		yesterday: time.Now().Add(-time.Minute),
		tomorrow:  time.Now().Add(time.Minute),
	} {
		for _, statement := range []string{
			"create database " + name + " is_template true allow_connections false",
			"comment on database " + name + " is 'kept until " + until.UTC().Format(time.RFC3339) + "'",
		} {
			_, err := db.Superuser.Exec(t.Context(), statement)
			require.NoError(t, err)
		}
	}
	t.Cleanup(func() {
		for _, statement := range []string{
			"alter database " + tomorrow + " is_template false",
			"drop database " + tomorrow,
		} {
			_, err := db.Superuser.Exec(context.WithoutCancel(t.Context()), statement)
			require.NoError(t, err)
		}
	})

	start(t).kill(t)
	found := databases(t, db)
	require.NotContains(t, found, yesterday)
	require.Contains(t, found, tomorrow)
	var kept time.Duration
	// The longest: other runs have templates here too, some of which nobody uses any more.
	require.NoError(t, db.Superuser.QueryRow(t.Context(),
		`select max(substr(shobj_description(oid, 'pg_database'), 12)::timestamptz) - now() from pg_database
		 where datistemplate and starts_with(datname, 'tenancy_t_')`).Scan(&kept))
	require.InDelta(t, 23.5, kept.Hours(), 0.6, "what is in use is kept for a day, written down at most once in an hour")
}

func TestUnusedServer(t *testing.T) {
	t.Parallel()
	if os.Getenv(pgtest.URLVariable) != "" {
		return // a server that the tests did not start is not theirs to stop
	}
	kind := "container"
	if strings.HasPrefix(pgtest.Empty(t).Config(t, "").Host, "/") {
		kind = "local"
	}
	// Whose linger time differs has another server: here, nobody else has this one.
	linger := time.Second + time.Duration(os.Getpid())*time.Nanosecond
	env := []string{pgtest.KindVariable + "=" + kind, pgtest.LingerVariable + "=" + linger.String()}
	const longer = 3500 * time.Millisecond // than the server outlives its last user

	holder := start(t, env...)
	maintenance := *holder.database
	maintenance.Path = "/postgres"
	observer, err := pgx.Connect(t.Context(), maintenance.String())
	require.NoError(t, err)
	defer observer.Close(t.Context())
	gone := goneServer(t, observer)
	exists := func(p process) (found bool) {
		t.Helper()
		require.NoError(t, observer.QueryRow(t.Context(), `select exists (select from pg_database where datname = $1)`, p.name()).Scan(&found))
		return found
	}

	failed := start(t, append(env, childVariable+"="+fails, pgtest.KeepVariable+"=1")...)
	require.Error(t, failed.cmd.Wait())
	time.Sleep(longer)
	require.True(t, exists(holder), "a server in use must stay")
	holder.kill(t)
	time.Sleep(longer)
	require.True(t, exists(failed), "the server must stay for the database of a failed test")
	next := start(t, env...)
	require.True(t, exists(failed), "the sweep must leave the database of a failed test")
	require.False(t, exists(holder))

	_, err = observer.Exec(t.Context(), "comment on database "+failed.name()+" is 'kept until 2000-01-01T00:00:00Z'")
	require.NoError(t, err)
	last := start(t, env...)
	require.False(t, exists(failed), "kept for long enough")
	next.kill(t)
	last.kill(t)
	require.Eventually(t, gone, patience, pause, "the server was left behind")
	require.Error(t, observer.Ping(t.Context()))
}

// goneServer returns what tells whether nothing is left of a server that the tests
// started.
func goneServer(t *testing.T, conn *pgx.Conn) func() bool {
	t.Helper()
	if host := conn.Config().Host; strings.HasPrefix(host, "/") {
		return func() bool {
			_, err := os.Stat(host)
			return errors.Is(err, fs.ErrNotExist)
		}
	}
	var id string
	require.NoError(t, conn.QueryRow(t.Context(), `select trim(e'\n' from pg_read_file('/etc/hostname'))`).Scan(&id))
	engine, err := testcontainers.NewDockerClientWithOpts(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, engine.Close()) })
	return func() bool {
		_, err := engine.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
		return errdefs.IsNotFound(err)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy)
	good, err := url.Parse(db.URL(""))
	require.NoError(t, err)
	as := func(change func(*url.URL)) string {
		u := *good
		change(&u)
		return u.String()
	}
	broken := t.TempDir()
	migration := filepath.Join(broken, "legacy", "baseline.sql")
	require.NoError(t, os.MkdirAll(filepath.Dir(migration), 0o755))
	require.NoError(t, os.WriteFile(migration, []byte("create table public.a (i integer);\n\nselect nothing;\n"), 0o644))

	for name, test := range map[string]struct {
		env  []string
		want []string
	}{
		"an unknown kind of server": {
			[]string{pgtest.URLVariable + "=", pgtest.KindVariable + "=oracle"},
			[]string{"TEST_POSTGRES=oracle: want container or local"}},
		"a linger time that is none": {
			[]string{pgtest.URLVariable + "=", pgtest.LingerVariable + "=long"},
			[]string{"TEST_LINGER=long: want a duration, such as 10s"}},
		"a folder without binaries": {
			[]string{pgtest.URLVariable + "=", pgtest.KindVariable + "=local", pgtest.BinVariable + "=" + broken},
			[]string{"no PostgreSQL server for the tests; tried", broken + " has no initdb", "Any of these will do"}},
		"a URL that nobody answers": {
			[]string{pgtest.URLVariable + "=postgres://postgres:secret@127.0.0.1:1/postgres"},
			[]string{"connect to the server at postgres://postgres:xxxxx@127.0.0.1:1/postgres", "connection refused"}},
		"a URL that is none": {
			[]string{pgtest.URLVariable + "=postgres://a:secret@b:port/c"},
			[]string{"parse the server's URL"}},
		"a role that is no superuser": {
			[]string{pgtest.URLVariable + "=" + as(func(u *url.URL) { u.User = url.UserPassword(pgtest.APIRole, "tenancy") })},
			[]string{"takes a superuser; tenancy_api is none"}},
		"SQL that fails": {
			[]string{pgtest.URLVariable + "=" + as(func(u *url.URL) { u.Path = "/postgres" }), schema.DirVariable + "=" + broken},
			[]string{migration + `:3: column "nothing" does not exist`, "select nothing;"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := databases(t, db)
			out, err := child(t, test.env...).CombinedOutput()
			require.Error(t, err)
			for _, want := range test.want {
				require.Contains(t, string(out), want)
			}
			require.NotContains(t, string(out), "secret", "a password must not be printed")
			if name == "SQL that fails" {
				require.Eventually(t, func() bool {
					// Another run's is half-built only for a moment.
					return !slices.ContainsFunc(unfinished(t, db), func(name string) bool { return !slices.Contains(before, name) })
				}, patience, pause, "no half-built template may be left behind")
			}
		})
	}
}

// databases lists the names of all databases of the server.
func databases(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	return names(t, db, `select datname from pg_database`)
}

// unfinished lists the templates that are not complete.
func unfinished(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	return names(t, db, `select datname from pg_database where starts_with(datname, 'tenancy_t_') and not datistemplate`)
}

func names(t *testing.T, db *pgtest.DB, query string) []string {
	t.Helper()
	rows, err := db.Superuser.Query(t.Context(), query)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return found
}
