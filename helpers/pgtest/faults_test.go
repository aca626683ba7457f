package pgtest_test

import (
	"bufio"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// How long to wait for what happens in other processes, and how often to look.
const (
	patience = 20 * time.Second
	pause    = 50 * time.Millisecond
)

// childVariable makes TestChild, in a process of its own, take a database, say its
// name and wait to be ended.
const childVariable = "PGTEST_CHILD"

func TestChild(t *testing.T) {
	t.Parallel()
	if os.Getenv(childVariable) == "" {
		return // the work is done where the other tests start it
	}
	db := pgtest.New(t, schema.Legacy)
	_, err := os.Stdout.WriteString("database " + db.Name + "\n")
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, os.Stdin)
	require.NoError(t, err)
}

// child is this test binary as another process, with the given environment added.
func child(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(append(os.Environ(), childVariable+"=1"), env...)
	return cmd
}

func TestKilledProcess(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy)
	exists := func(name string) (found bool) {
		t.Helper()
		require.NoError(t, db.Superuser.QueryRow(t.Context(), `select exists (select from pg_database where datname = $1)`, name).Scan(&found))
		return found
	}
	start := func() (*exec.Cmd, string) {
		t.Helper()
		cmd := child(t)
		_, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		_, name, _ := strings.Cut(strings.TrimSpace(line), "database ")
		require.True(t, exists(name), "%q", line)
		return cmd, name
	}

	victim, orphan := start()
	require.NoError(t, victim.Process.Signal(syscall.SIGKILL))
	require.Error(t, victim.Wait())
	require.True(t, exists(orphan), "nobody has swept yet")

	// The next process finds an orphan's lock free, once the server has noticed that its session is gone.
	require.Eventually(t, func() bool {
		next, taken := start()
		defer func() { _ = next.Wait() }()
		defer func() { _ = next.Process.Signal(syscall.SIGKILL) }()
		return exists(taken) && !exists(orphan)
	}, patience, pause, "%s was left behind", orphan)
	require.True(t, exists(db.Name), "a database in use must survive the sweep")
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
				require.Subset(t, before, unfinished(t, db), "no half-built template may be left behind")
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
