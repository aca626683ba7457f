package script_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"

	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	split := func(t *testing.T, sql string) []script.Statement {
		t.Helper()
		statements, err := script.Split(schema.File{Origin: "x.sql", SQL: sql})
		require.NoError(t, err)
		return statements
	}
	t.Run("a statement starts at its first word and ends with its semicolon", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, []script.Statement{
			{Line: 3, SQL: "select 1 -- one;\n;"},
			{Line: 4, SQL: "select 2;"},
			{Line: 5, SQL: "select\n3;"},
			{Line: 7, SQL: "select 4"},
		}, split(t, "\ufeff-- first;\n\n  /* x */ select 1 -- one;\n; select 2;\nselect\n3;\n\tselect 4\n \n"))
	})
	t.Run("a file may tell psql to stop at an error", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, []script.Statement{{Line: 2, SQL: "select 1;"}}, split(t, "\\set ON_ERROR_STOP on\nselect 1;\n"))
	})
	t.Run("gexec ends a query without being part of it", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, []script.Statement{
			{Line: 1, SQL: "select 'x'", Gexec: true},
			{Line: 3, SQL: "select '\n\\gexec\n';"},
			{Line: 6, SQL: "select $$\n\\gexec\n$$ -- and \\gexec", Gexec: true},
		}, split(t, "select 'x'\n\\gexec\nselect '\n\\gexec\n';\nselect $$\n\\gexec\n$$ -- and \\gexec\n \\gexec\t\r\n"))
	})
	t.Run("only a routine's body keeps semicolons between begin and end", func(t *testing.T) {
		t.Parallel()
		require.Len(t, split(t, "create function f() returns int begin atomic select case when true then 1 end; select 2; end; select 1;"), 2)
		require.Len(t, split(t, "create or replace procedure p() begin atomic select 1; end; select 1;"), 2)
		require.Len(t, split(t, "begin; create table begin (i int); end;"), 3)
		require.Len(t, split(t, "create function f(begin int) returns int return 1; select 1;"), 2)
	})
	t.Run("dollars and letters of any alphabet make names and tags", func(t *testing.T) {
		t.Parallel()
		require.Len(t, split(t, "select 1 as a$$; select 2 as b$$;"), 2)
		require.Len(t, split(t, "select $é1$;$é1$; select $1;"), 2)
		require.Len(t, split(t, "select é$$;"), 1)
	})
	t.Run("syntax of no known grammar passes", func(t *testing.T) {
		t.Parallel()
		require.Len(t, split(t, "select 1); select 2;"), 2)
		require.Len(t, split(t, "frobnicate table => ‹a› ?| #> 'b;' with (c; d); select 1;"), 2)
	})
}

// The recorded texts in testdata/errors are the specification of an error's message.
func TestErrors(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/errors/*.sql")
	require.NoError(t, err)
	require.Len(t, files, 20)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".sql")+" names file and line and leaves nothing half-applied", func(t *testing.T) {
			t.Parallel()
			want, err := os.ReadFile(strings.TrimSuffix(file, ".sql") + ".want")
			require.NoError(t, err)
			conn := connect(t, pgtest.Empty(t).Config(t, ""))

			log, err := script.Run(t.Context(), conn, read(t, file))
			require.Error(t, err)
			require.Equal(t, string(want), err.Error()+"\n")
			e, ok := errors.AsType[*script.Error](err)
			require.True(t, ok, "%T", err)
			require.True(t, strings.HasPrefix(err.Error(), fmt.Sprintf("%s:%d: ", e.Origin, e.Line)))

			require.Equal(t, byte('I'), conn.PgConn().TxStatus())
			// Every file creates "kept" in a statement before the failing one, if at all, and
			// "never" either after it or in the transaction that fails.
			var tables []string
			require.NoError(t, conn.QueryRow(t.Context(), `
				select coalesce(array_agg(relname::text order by relname), '{}')
				from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' and relname <> 'made'`).Scan(&tables))
			if len(log.Steps) == 0 {
				require.Empty(t, tables)
				return
			}
			require.Equal(t, []string{"kept"}, tables)
			var rows int
			require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from kept").Scan(&rows))
			require.Zero(t, rows)
		})
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	t.Run("logs line, tag, notices and duration of every statement", func(t *testing.T) {
		t.Parallel()
		var heard []string
		cfg := pgtest.Empty(t).Config(t, "")
		cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { heard = append(heard, n.Message) }
		conn := connect(t, cfg)
		log, err := script.Run(t.Context(), conn, schema.File{Origin: "x.sql", SQL: `
			create table t (id int);
			do $$ begin raise notice 'rows: %', 0; raise warning 'slow'; end $$;
			select 'insert into t values (1), (2)', 'select pg_sleep(0.02)'
			\gexec
			update t set id = 3;
		`})
		require.NoError(t, err)
		require.Equal(t, "x.sql", log.File)
		type step struct {
			Line    int
			Tag     string
			Notices []string
		}
		var got []step
		for _, s := range log.Steps {
			require.Positive(t, s.Duration)
			got = append(got, step{s.Line, s.Tag, s.Notices})
		}
		require.Equal(t, []step{
			{2, "CREATE TABLE", nil},
			{3, "DO", []string{"NOTICE: rows: 0", "WARNING: slow"}},
			{4, "SELECT 1", nil},
			{4, "INSERT 0 2", nil},
			{4, "SELECT 1", nil},
			{6, "UPDATE 2", nil},
		}, got)
		require.Equal(t, "insert into t values (1), (2)", log.Steps[3].SQL)
		require.GreaterOrEqual(t, log.Steps[4].Duration, 20*time.Millisecond)
		require.Less(t, log.Steps[5].Duration, time.Minute)
		require.Equal(t, []string{"rows: 0", "slow"}, heard)
	})
	t.Run("works without notices on a connection that Connect did not make", func(t *testing.T) {
		t.Parallel()
		conn, err := pgx.ConnectConfig(t.Context(), pgtest.Empty(t).Config(t, ""))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) })
		log, err := script.Run(t.Context(), conn, schema.File{Origin: "x.sql", SQL: "do $$ begin raise notice 'x'; end $$"})
		require.NoError(t, err)
		require.Len(t, log.Steps, 1)
		require.Empty(t, log.Steps[0].Notices)
	})
	t.Run("refuses a connection that is inside a transaction and leaves that alone", func(t *testing.T) {
		t.Parallel()
		conn := connect(t, pgtest.Empty(t).Config(t, ""))
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		_, err = script.Run(t.Context(), conn, schema.File{Origin: "x.sql", SQL: "create table t (id int)"})
		require.EqualError(t, err, "run x.sql: the connection is inside a transaction (status T): it must be idle")
		require.NoError(t, tx.Commit(t.Context()))
	})
	t.Run("refuses to go on with strings that have escapes", func(t *testing.T) {
		t.Parallel()
		conn := connect(t, pgtest.Empty(t).Config(t, ""))
		_, err := script.Run(t.Context(), conn, schema.File{Origin: "x.sql", SQL: "set standard_conforming_strings = off;\nselect '\\';"})
		require.EqualError(t, err, "x.sql:2: standard_conforming_strings is off: it must be on\n    select '\\';")
	})
	t.Run("says so when the context ends in the middle", func(t *testing.T) {
		t.Parallel()
		conn := connect(t, pgtest.Empty(t).Config(t, ""))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := script.Run(ctx, conn, schema.File{Origin: "x.sql", SQL: "select 1;\nselect pg_sleep(60);"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.True(t, strings.HasPrefix(err.Error(), "x.sql:2: "), err.Error())
	})
}

// torture.want was recorded from psql, by torture.sql and then state.sql. Where there
// is a psql it is asked again.
func TestPsqlEquivalence(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("testdata/torture.want")
	require.NoError(t, err)
	t.Run("Run leaves what psql was recorded to leave", func(t *testing.T) {
		t.Parallel()
		cfg := pgtest.Empty(t).Config(t, "")
		log, err := script.Run(t.Context(), connect(t, cfg), read(t, "testdata/torture.sql"))
		require.NoError(t, err)
		require.Greater(t, len(log.Steps), 50)
		require.Equal(t, string(want), state(t, cfg))
	})
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Log("no psql on this machine: compared with the recording only")
		return
	}
	t.Run("psql here leaves what it was recorded to leave", func(t *testing.T) {
		t.Parallel()
		cfg := pgtest.Empty(t).Config(t, "")
		cmd := exec.CommandContext(t.Context(), psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "testdata/torture.sql")
		cmd.Env = append(os.Environ(),
			"PGHOST="+cfg.Host, fmt.Sprintf("PGPORT=%d", cfg.Port), "PGDATABASE="+cfg.Database,
			"PGUSER="+cfg.User, "PGPASSWORD="+cfg.Password, "PGCLIENTENCODING=UTF8")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, string(want), state(t, cfg))
	})
}

func state(t testing.TB, cfg *pgx.ConnConfig) string {
	t.Helper()
	rows, err := connect(t, cfg).Query(t.Context(), read(t, "testdata/state.sql").SQL)
	require.NoError(t, err)
	facts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return strings.Join(facts, "\n") + "\n"
}

func read(t testing.TB, name string) schema.File {
	t.Helper()
	sql, err := os.ReadFile(name)
	require.NoError(t, err)
	return schema.File{Path: name, Origin: name, SQL: string(sql)}
}

func connect(t testing.TB, cfg *pgx.ConnConfig) *pgx.Conn {
	t.Helper()
	conn, err := script.Connect(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) })
	return conn
}
