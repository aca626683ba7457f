//go:build monitoring

package schedule_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// On a server of its own: pg_cron is one database's, which the server must know when it starts.
func TestPgCron(t *testing.T) {
	t.Parallel()
	const name = "tenancy_cron"
	server, err := pgtest.Start(t.Context(), "shared_preload_libraries=pg_cron", "cron.database_name="+name, "cron.use_background_workers=on")
	require.NoError(t, err, "the test needs pg_cron, in Debian the package postgresql-15-cron")
	db := server.New(t, schema.Phase4, fixtures.World()...)

	connect := func(database, role string) *pgx.Conn {
		cfg := db.Config(t, role)
		cfg.Database = database
		conn, err := script.Connect(t.Context(), cfg)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
		return conn
	}
	do := func(conn *pgx.Conn, sql string) {
		t.Helper()
		_, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
		require.NoError(t, err, sql)
	}
	db.Owner.Close()
	db.Superuser.Close()
	do(connect("postgres", ""), `create database `+name+` owner tenancy_owner template "`+db.Name+`"`)
	superuser, owner := connect(name, ""), connect(name, pgtest.OwnerRole)

	text, err := os.ReadFile("pg_cron.sql")
	require.NoError(t, err)
	f := schema.File{Path: "ops/schedule/pg_cron.sql", Origin: "ops/schedule/pg_cron.sql", SQL: string(text)}
	_, err = script.Run(t.Context(), owner, f)
	require.ErrorContains(t, err, "there is no pg_cron in this database")

	do(superuser, `create extension pg_cron; grant usage on schema cron to tenancy_owner`)
	for range 2 {
		_, err = script.Run(t.Context(), owner, f)
		require.NoError(t, err)
	}
	times, commands := jobs(t)
	var wanted [][]string
	for i, command := range commands {
		wanted = append(wanted, []string{times[i], asked.FindStringSubmatch(command)[1], name, pgtest.OwnerRole})
	}
	rows, err := superuser.Query(t.Context(), `select array[schedule, command, database, username] from cron.job order by jobid`)
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowTo[[]string])
	require.NoError(t, err)
	require.Equal(t, wanted, found, "the same as the crontab")

	// And pg_cron runs them, which it does at the full minute.
	do(owner, late)
	do(superuser, `select cron.alter_job(jobid, schedule := '* * * * *') from cron.job`)
	var is, said string
	for deadline := time.Now().Add(90 * time.Second); is != "statistics months retention" && time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		require.NoError(t, owner.QueryRow(t.Context(), done).Scan(&is))
	}
	require.NoError(t, superuser.QueryRow(t.Context(), `select coalesce(string_agg(concat_ws(' ', command, status, return_message), e'\n'), '') from cron.job_run_details`).Scan(&said))
	require.Equal(t, "statistics months retention", is, said)
}
