package migrate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// asCommand makes this program the command, not its tests: a real process, to be killed.
const asCommand = "TENANCY_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		Main()
		return
	}
	os.Exit(m.Run())
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	t.Run("every phase, and every rollback, is verified and written down", func(t *testing.T) {
		t.Parallel()
		checklist.Proves(t, "production-deployment/verify-phase-1-in-production/check-migration-log-for-errors",
			"production-deployment/verify-phase-2-in-production/check-migration-log", "production-deployment/verify-phase-3-in-production/check-migration-log",
			"phase-1/document-current-state")
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		before := phasetest.Catalog(t, db)
		login := deployer(t, db)
		for _, step := range []struct {
			file     func(schema.Phase) (schema.File, error)
			phase    schema.Phase
			args     []string
			log      string
			verified string
		}{
			{schema.Migration, schema.Phase1, nil, "migration_phase1", "verification by schema/verify/phase1.sql"},
			{schema.Migration, schema.Phase2, nil, "migration_phase2", "verification by schema/verify/phase2.sql"},
			{schema.Migration, schema.Phase3, nil, "migration_phase3", "verification by schema/verify/phase3.sql"},
			{schema.Migration, schema.Phase4, nil, "migration_phase4", "verification by schema/verify/phase4.sql"},
			{schema.Rollback, schema.Phase4, []string{"-rollback"}, "rollback_phase4", "verification by schema/verify/phase3.sql"},
			{schema.Rollback, schema.Phase3, []string{"-rollback"}, "rollback_phase3", "verification by schema/verify/phase2.sql"},
			{schema.Rollback, schema.Phase2, []string{"-rollback"}, "rollback_phase2", "verification by schema/verify/phase1.sql"},
			{schema.Rollback, schema.Phase1, []string{"-rollback"}, "rollback_phase1", "there is nothing to verify: this is the legacy database again"},
		} {
			folder := t.TempDir()
			out, err := command(t, login, folder, append(step.args, "-phase", step.phase.String())...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			name, text := log(t, folder)
			require.Regexp(t, "^"+step.log+`_\d{8}T\d{6}Z\.log$`, name)
			require.Equal(t, text, string(out), "what is printed is what is written down")

			f, err := step.file(step.phase)
			require.NoError(t, err)
			for _, want := range []string{
				"file      " + f.Origin, fmt.Sprintf("sha256    %x", sha256.Sum256([]byte(f.SQL))),
				"database  " + db.Name + " on ", "server    PostgreSQL ", "role      " + pgtest.OwnerRole,
				"locks, the longest of each kind", "done: the ", step.verified,
			} {
				require.Contains(t, text, want)
			}
			require.NotContains(t, text, secret)
			require.NotContains(t, text, "FAILED")
			if !strings.HasPrefix(step.verified, "there is nothing") {
				require.Regexp(t, `verified: all \d+ queries hold\n$`, text)
			}
		}
		require.Equal(t, before, phasetest.Catalog(t, db))
	})
	t.Run("what is written says of each statement where it is, how long it took, what it said, and what it locked", func(t *testing.T) {
		t.Parallel()
		db, folder := pgtest.New(t, schema.Legacy), t.TempDir()
		out, err := command(t, db.URL(pgtest.OwnerRole), folder, "-phase", "phase1").CombinedOutput()
		require.NoError(t, err, "%s", out)
		_, text := log(t, folder)
		f, err := schema.Migration(schema.Phase1)
		require.NoError(t, err)
		line := 1 + strings.Count(f.SQL[:strings.Index(f.SQL, "\ncreate schema if not exists tenancy;")+1], "\n")
		require.Regexp(t, fmt.Sprintf(`(?m)^[\d:.]{12} line %d: create schema if not exists tenancy;\n[\d:.]{12}   CREATE SCHEMA in [\d.]+(µs|ms|s)$`, line), text)
		require.Regexp(t, `(?m)^[\d:.]{12}   lock: line \d+: AccessExclusiveLock on public\.agents: waited 0s, held [\d.]+(µs|ms|s)$`, text)
		require.Regexp(t, `(?m)^[\d:.]{12}   AccessExclusiveLock on public\.agents: waited 0s, held [\d.]+(µs|ms|s)$`, text)
		require.Regexp(t, `(?m)^[\d:.]{12}   ok missing_columns$`, text)

		again := t.TempDir()
		out, err = command(t, db.URL(pgtest.OwnerRole), again, "-phase", "phase1").CombinedOutput()
		require.NoError(t, err, "%s", out)
		_, text = log(t, again)
		require.Regexp(t, `(?m)^[\d:.]{12}   NOTICE: schema "tenancy" already exists, skipping$`, text)
	})
	t.Run("a migration whose verification does not hold has failed", func(t *testing.T) {
		t.Parallel()
		db, folder, overlay := pgtest.New(t, schema.Legacy), t.TempDir(), t.TempDir()
		f, err := schema.Migration(schema.Phase1)
		require.NoError(t, err)
		write(t, filepath.Join(overlay, f.Path), f.SQL+"\nalter table public.organizations drop column slug;\n")
		cmd := command(t, db.URL(pgtest.OwnerRole), folder, "-phase", "phase1")
		cmd.Env = append(cmd.Env, schema.DirVariable+"="+overlay)
		out, err := cmd.CombinedOutput()
		require.Equal(t, 1, exitCode(t, err), "%s", out)
		name, text := log(t, folder)
		require.Contains(t, text, "file      "+overlay)
		require.Contains(t, text, "done: the migration of phase1")
		require.Contains(t, text, "FAILED missing_columns (schema/verify/phase1.sql:")
		require.Contains(t, text, "FAILED: 1 of 3 verification queries do not hold after the migration of phase1")
		require.Contains(t, string(out), "the migration of phase1 has run, and its verification does not hold: see "+filepath.Join(folder, name))
	})
}

func TestTrouble(t *testing.T) {
	t.Parallel()
	t.Run("who is in the way of a lock is named, and when he goes the migration goes on", func(t *testing.T) {
		t.Parallel()
		db, folder := pgtest.New(t, schema.Legacy), t.TempDir()
		other := hold(t, db, "lock table public.agents in access share mode")
		wait := start(t, command(t, db.URL(pgtest.OwnerRole), folder, "-phase", "phase1"))
		until(t, folder, "  behind pid ")
		other.release(t)
		require.NoError(t, wait())
		_, text := log(t, folder)
		require.Regexp(t, fmt.Sprintf(`waits since \S+ for AccessExclusiveLock on public\.agents\n\s+behind pid %d, user tenancy_owner, application "other", idle in transaction since `,
			other.conn.PgConn().PID()), text)
		require.Regexp(t, `verified: all 3 queries hold\n$`, text)
	})
	t.Run("what was refused a lock is run again", func(t *testing.T) {
		t.Parallel()
		db, folder := pgtest.New(t, schema.Legacy), t.TempDir()
		other := hold(t, db, "lock table public.agents in access share mode")
		cmd := command(t, db.URL(pgtest.OwnerRole), folder, "-phase", "phase1")
		cmd.Env = append(cmd.Env, schema.DirVariable+"="+impatient(t))
		wait := start(t, cmd)
		until(t, folder, "  REFUSED after ")
		other.release(t)
		require.NoError(t, wait())
		_, text := log(t, folder)
		require.Contains(t, text, "canceling statement due to lock timeout (SQLSTATE 55P03)")
		require.Contains(t, text, fmt.Sprintf("  behind pid %d, ", other.conn.PgConn().PID()))
		require.Contains(t, text, "nothing of it was kept; once more from line ")
		require.Regexp(t, `verified: all 3 queries hold\n$`, text)
	})
	t.Run("out of patience it fails, and nothing is changed", func(t *testing.T) {
		t.Parallel()
		db, folder := pgtest.New(t, schema.Legacy), t.TempDir()
		before := phasetest.Catalog(t, db)
		other := hold(t, db, "lock table public.agents in access share mode")
		cmd := command(t, db.URL(pgtest.OwnerRole), folder, "-phase", "phase1", "-patience", "1s")
		cmd.Env = append(cmd.Env, schema.DirVariable+"="+impatient(t))
		out, err := cmd.CombinedOutput()
		require.Equal(t, 1, exitCode(t, err), "%s", out)
		_, text := log(t, folder)
		require.Regexp(t, `FAILED: the migration of phase1, after \S+\n +\S+/migrations/20251126_001\S+:\d+: canceling statement due to lock timeout`, text)
		require.Contains(t, text, fmt.Sprintf("(select pg_terminate_backend(%d)), then run this again.", other.conn.PgConn().PID()))
		require.Contains(t, text, "running this again does the rest")
		require.Equal(t, before, phasetest.Catalog(t, db))
	})
	for name, test := range map[string]struct {
		signal  syscall.Signal
		verdict string
	}{
		"killed":      {syscall.SIGKILL, ""},
		"interrupted": {syscall.SIGINT, "INTERRUPTED: the migration of phase2, after "},
	} {
		t.Run("a run that is "+name+" leaves what it did, and the next one does the rest", func(t *testing.T) {
			t.Parallel()
			db, folder := pgtest.New(t, schema.Phase1, fixtures.World()...), t.TempDir()
			other := hold(t, db, "select from public.prompts where id = '"+fixtures.PfizerPrompt.ID+"' for update")
			cmd := command(t, db.URL(pgtest.OwnerRole), folder, "-phase", "phase2")
			wait := start(t, cmd)
			until(t, folder, "for row on public.prompts")
			require.NoError(t, cmd.Process.Signal(test.signal))
			require.Error(t, wait())
			_, text := log(t, folder)
			require.Contains(t, text, ": set search_path = '';\n")
			require.Contains(t, text, test.verdict)
			require.NotContains(t, text, "done: ")

			other.release(t)
			gone(t, db)
			again := t.TempDir()
			out, err := command(t, db.URL(pgtest.OwnerRole), again, "-phase", "phase2").CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
}

func TestWrongInput(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy)
	owner, empty := db.URL(pgtest.OwnerRole), pgtest.Empty(t).URL(pgtest.OwnerRole)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	for name, test := range map[string]struct {
		url    string
		folder string
		args   []string
		want   string
	}{
		"no database":              {"", "", []string{"-phase", "phase1"}, "which database? Say DATABASE_URL=postgres://owner@host:5432/database"},
		"no URL":                   {"postgres://owner:" + secret + "%@host:5432/db", "", []string{"-phase", "phase1"}, "DATABASE_URL cannot be read as postgres://owner@host:5432/database: a password in it must be percent-encoded, or be left to ~/.pgpass or PGPASSWORD"},
		"no server":                {"postgres://owner:" + secret + "@127.0.0.1:1/db", "", []string{"-phase", "phase1"}, "failed to connect to"},
		"no phase":                 {owner, "", nil, `unknown phase "": say PHASE=phase1, phase2, phase3 or phase4`},
		"an unknown phase":         {owner, "", []string{"-phase", "phase5"}, `unknown phase "phase5": say PHASE=phase1, phase2, phase3 or phase4`},
		"what is no phase":         {owner, "", []string{"-phase", "legacy"}, `unknown phase "legacy": say PHASE=phase1, phase2, phase3 or phase4`},
		"an argument too many":     {owner, "", []string{"-phase", "phase1", "phase2"}, `unknown argument "phase2": see -help`},
		"another database":         {empty, "", []string{"-phase", "phase1"}, "has no table public.organizations: is it the right one?"},
		"a role that owns nothing": {db.URL(pgtest.ServiceRole), "", []string{"-phase", "phase1"}, "the phases run as the owner of the tables, which is tenancy_owner, and tenancy_service is not: connect as the owner"},
		"no folder":                {owner, file, []string{"-phase", "phase1"}, "make the log: open " + file + "/migration_phase1_"},
	} {
		t.Run(name+" is one error, before anything is run", func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			if test.folder != "" {
				folder = test.folder
			}
			out, err := command(t, test.url, folder, test.args...).CombinedOutput()
			require.Equal(t, 1, exitCode(t, err))
			require.Contains(t, string(out), test.want)
			require.NotContains(t, string(out), secret)
			if test.folder == "" {
				files, err := os.ReadDir(folder)
				require.NoError(t, err)
				require.Empty(t, files)
			}
		})
	}
	t.Run("a phase whose turn it is not is refused by the phase, in the log", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		out, err := command(t, owner, folder, "-phase", "phase3").CombinedOutput()
		require.Equal(t, 1, exitCode(t, err), "%s", out)
		_, text := log(t, folder)
		require.Contains(t, text, "phase 3 needs phase 2, which is not complete here (SQLSTATE P0001)")
		require.Contains(t, text, "HINT: Run the phase 2 migration first.")
	})
	t.Run("an old server is refused", func(t *testing.T) {
		t.Parallel()
		tables := pgtest.OwnerRole
		s := server{Database: "vital", Version: "14.12", Number: 140012, Role: tables, Owner: &tables, MayOwn: true}
		require.EqualError(t, s.check(), "the phases need PostgreSQL 15 or later, and this is 14.12")
		s.Number = 150000
		require.NoError(t, s.check())
	})
}

// impatient is a folder with a phase 1 that does not wait for the tables by itself, but is refused.
func impatient(t *testing.T) string {
	t.Helper()
	const patient = "call tenancy.lock_tables();"
	f, err := schema.Migration(schema.Phase1)
	require.NoError(t, err)
	require.Contains(t, f.SQL, patient)
	folder := t.TempDir()
	write(t, filepath.Join(folder, f.Path),
		strings.Replace(f.SQL, patient, "set local lock_timeout = '1s';\nlock table public.agents in access exclusive mode;", 1))
	return folder
}

// secret is a password that no text may have.
const secret = "hunter2correcthorse"

// deployer makes a role of one's own, with that password, that acts as the owner; and returns its URL.
func deployer(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	role := db.Name + "_deployer"
	_, err := db.Superuser.Exec(t.Context(), fmt.Sprintf(`create role %s login password '%s'; grant %s to %[1]s`, role, secret, pgtest.OwnerRole),
		pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.WithoutCancel(t.Context()), db.URL(""))
		require.NoError(t, err)
		defer conn.Close(context.WithoutCancel(t.Context()))
		_, err = conn.Exec(context.WithoutCancel(t.Context()), "drop role "+role)
		require.NoError(t, err)
	})
	u, err := url.Parse(db.URL(pgtest.OwnerRole))
	require.NoError(t, err)
	u.User = url.UserPassword(role, secret)
	query := u.Query()
	query.Set("options", "-c role="+pgtest.OwnerRole)
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	return u.String()
}

func command(t *testing.T, url, folder string, args ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), program, append([]string{"-log", folder}, args...)...)
	cmd.Env = append(os.Environ(), asCommand+"=1", urlVariable+"="+url)
	return cmd
}

// start starts a command; what is returned waits for its end.
func start(t *testing.T, cmd *exec.Cmd) func() error {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", out.Bytes())
		}
	})
	return cmd.Wait
}

// log is the name and the text of the only log in a folder.
func log(t *testing.T, folder string) (name, text string) {
	t.Helper()
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, files, 1)
	content, err := os.ReadFile(filepath.Join(folder, files[0].Name()))
	require.NoError(t, err)
	return files[0].Name(), string(content)
}

// until returns when the log in a folder has a text.
func until(t *testing.T, folder, text string) {
	t.Helper()
	require.Eventually(t, func() bool {
		names, _ := filepath.Glob(filepath.Join(folder, "*.log"))
		if len(names) == 0 {
			return false
		}
		content, err := os.ReadFile(names[0])
		return err == nil && strings.Contains(string(content), text)
	}, 30*time.Second, 20*time.Millisecond)
}

// gone returns when no migration's session is left.
func gone(t *testing.T, db *pgtest.DB) {
	t.Helper()
	require.Eventually(t, func() bool {
		var left bool
		return db.Superuser.QueryRow(t.Context(),
			`select exists (select from pg_stat_activity where datname = current_database() and application_name like 'tenancy:%')`).Scan(&left) == nil && !left
	}, 20*time.Second, 20*time.Millisecond)
}

type holder struct{ conn *pgx.Conn }

// hold keeps a transaction open.
func hold(t *testing.T, db *pgtest.DB, sql string) holder {
	t.Helper()
	cfg := db.Config(t, pgtest.OwnerRole)
	cfg.RuntimeParams["application_name"] = "other"
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	_, err = conn.Exec(t.Context(), "begin; "+sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	return holder{conn}
}

func (h holder) release(t *testing.T) {
	t.Helper()
	_, err := h.conn.Exec(t.Context(), "rollback")
	require.NoError(t, err)
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	exit, ok := errors.AsType[*exec.ExitError](err)
	require.True(t, ok, "want the command to fail, got %v", err)
	return exit.ExitCode()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
}
