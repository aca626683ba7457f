// Package schedule_test runs what the schedule does: each command of the crontab, and the same by pg_cron.
package schedule_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/program"
	"github.com/vital-health/tenancy/schema"
)

var (
	line  = regexp.MustCompile(`^(\S+ \S+ \S+ \S+ \S+) (psql .*)$`)
	asked = regexp.MustCompile(`-c '(.*)'$`)
)

// jobs are the crontab's commands, with their times.
func jobs(t testing.TB) (times, commands []string) {
	t.Helper()
	text, err := os.ReadFile("crontab")
	require.NoError(t, err)
	for l := range strings.Lines(string(text)) {
		if m := line.FindStringSubmatch(strings.TrimSpace(l)); m != nil {
			times, commands = append(times, m[1]), append(commands, m[2])
		}
	}
	require.Len(t, commands, 3)
	return times, commands
}

// late is a database for which nothing of it was done for long: the months ahead are missing, one is too old.
const late = `
	update tenancy.refreshed_statistics set refreshed_at = now() - interval '1 day';
	insert into public.audit_logs (created_at, actor_role, action, resource_type) values ('2001-02-03', 'service_role', 'UPDATE', 'agents');
	select audit.make_partitions(1);
	do $$ begin execute format('drop table audit.audit_logs_%s', to_char(now() at time zone 'UTC' + interval '1 month', 'YYYYMM')); end $$`

// done tells what of it is done.
const done = `
	select concat_ws(' ',
		(select case when refreshed_at > now() - interval '1 hour' then 'statistics' end from tenancy.refreshed_statistics),
		case when to_regclass('audit.audit_logs_' || to_char(now() at time zone 'UTC' + interval '1 month', 'YYYYMM')) is not null then 'months' end,
		(select case when not relispartition then 'retention' end from pg_class where oid = 'audit.audit_logs_200102'::regclass))`

func TestCrontab(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "post-migration-tasks/optimization/refresh-materialized-views-on-schedule")
	program.Find(t, "psql", "postgresql-client")
	db := pgtest.New(t, schema.Phase4, fixtures.World()...)
	_, err := db.Connect(t, pgtest.OwnerRole).PgConn().Exec(t.Context(), late).ReadAll()
	require.NoError(t, err)
	is := func() (text string) {
		require.NoError(t, db.Owner.QueryRow(t.Context(), done).Scan(&text))
		return text
	}
	require.Empty(t, is())
	_, commands := jobs(t)
	for i, wanted := range []string{"statistics", "statistics months", "statistics months retention"} {
		cmd := exec.Command("sh", "-c", commands[i])
		cmd.Env = append(os.Environ(), "DATABASE_URL="+db.URL(pgtest.OwnerRole))
		output, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", commands[i], output)
		require.Equal(t, wanted, is(), commands[i])
	}
}
