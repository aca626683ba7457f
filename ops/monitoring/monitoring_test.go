// Package monitoring_test is the checklist's "Post-Deployment Monitoring" and "Monitoring Setup": what is counted,
// as whom, and what the counts say when something is wrong. `make monitoring` runs the exporter and Prometheus on it.
package monitoring_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// monitor is the role of role.sql.
const monitor = "tenancy_monitor"

// file reads a file of this folder.
func file(t testing.TB, name string) schema.File {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return schema.File{Path: "ops/monitoring/" + name, Origin: "ops/monitoring/" + name, SQL: string(text)}
}

// install does what an operator does, and again, which changes nothing.
func install(t testing.TB, db *pgtest.DB) {
	t.Helper()
	conn := db.Connect(t, "")
	// Roles are the server's, and two sessions that make one at once fail; a lock is a database's.
	cfg := db.Config(t, "")
	cfg.Database = "postgres"
	lock, err := script.Connect(t.Context(), cfg)
	require.NoError(t, err)
	defer lock.Close(context.WithoutCancel(t.Context()))
	_, err = lock.Exec(t.Context(), `select pg_advisory_lock(hashtext('tenancy.roles'))`)
	require.NoError(t, err)
	var there bool
	require.NoError(t, conn.QueryRow(t.Context(), `select exists (select from pg_roles where rolname = $1)`, monitor).Scan(&there))
	for range 2 {
		_, err = script.Run(t.Context(), conn, file(t, "role.sql"))
		require.NoError(t, err)
		_, err = db.Run(t, file(t, "metrics.sql"))
		require.NoError(t, err)
	}
	if !there {
		_, err = conn.Exec(t.Context(), fmt.Sprintf(`alter role %s password '%s'`, monitor, db.Config(t, pgtest.OwnerRole).Password))
		require.NoError(t, err)
	}
}

// settled gives to somebody what is in quarantine, which a database that is as it should be has nothing in.
const settled = `
	update public.organizations set parent_organization_id = '%[1]s' where parent_organization_id = '%[2]s' and id <> '%[3]s';
	do $$
	declare
		place record;
	begin
		for place in select t.table_name from tenancy.classified_table t where t.class = 'resource' or t.table_name = 'conversations' loop
			execute format('update public.%%I set owner_organization_id = %%L where owner_organization_id = %%L', place.table_name, '%[4]s', '%[3]s');
		end loop;
	end $$;
	select public.refresh_organization_stats()`

// clean is a migrated database with the world in it, as it should be, and monitored.
func clean(t testing.TB) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t, schema.Phase4, fixtures.World()...)
	owner(t, db, fmt.Sprintf(settled, fixtures.Pharmaceuticals.ID, fixtures.QuarantineTenantID, fixtures.QuarantineOrganizationID, fixtures.Novartis.ID))
	install(t, db)
	return db
}

func owner(t testing.TB, db *pgtest.DB, sql string) {
	t.Helper()
	_, err := db.Owner.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err, sql)
}

// fault is something that is wrong with a database.
type fault struct {
	plant string // what makes it so, as a superuser
	says  string // a line of [counts] that was not there before
	alert string // of alerts.yml, and its labels that matter
}

var faults = map[string]fault{
	"row level security is off": {`alter table public.prompts disable row level security`,
		`tables prompts class=resource classified=1 invalid_indexes=0 policies=3 recorded=1 row_security=0`, `TenancyRowSecurityOff table_name=prompts`},
	"nobody has classified a table": {`create table public.notes (id integer); alter table public.notes enable row level security`,
		`tables notes class=none classified=0 invalid_indexes=0 policies=0 recorded=0 row_security=1`, `TenancyTableUnclassified table_name=notes`},
	"changes leave no record": {`alter table public.users disable trigger audit_update`,
		`tables users class=directory classified=1 invalid_indexes=0 policies=1 recorded=0 row_security=1`, `TenancyTableNotRecorded table_name=users`},
	"an index was never finished": {`update pg_index set indisvalid = false where indexrelid = 'public.idx_agents_audience'::regclass`,
		`tables agents class=resource classified=1 invalid_indexes=1 policies=3 recorded=1 row_security=1`, `TenancyIndexInvalid table_name=agents`},
	"something is in quarantine": {fmt.Sprintf(`update public.prompts set owner_organization_id = '%s' where id = (select min(id::text)::uuid from public.prompts)`, fixtures.QuarantineOrganizationID),
		`quarantine prompts rows=1`, `TenancyQuarantineNotEmpty table_name=prompts`},
	"nobody refreshes the statistics": {`update tenancy.refreshed_statistics set refreshed_at = now() - interval '121 minutes'`,
		`statistics organization_stats old=true`, `TenancyStatisticsOld name=organization_stats`},
	"next month has no partition": {`do $$ begin execute format('drop table audit.audit_logs_%s', to_char(now() at time zone 'UTC' + interval '1 month', 'YYYYMM')); end $$`,
		`audit default_rows=0 expired_partitions=0 months_ahead=1 partitions=2`, `TenancyAuditPartitionMissing`},
	"a record is in no month": {`update public.audit_logs set created_at = now() - interval '2 years' where id = (select min(id) from public.audit_logs)`,
		`audit default_rows=1 expired_partitions=0 months_ahead=3 partitions=3`, `TenancyAuditPartitionMissing`},
	"a month is older than seven years": {`update public.audit_logs set created_at = now() - interval '8 years' where id = (select min(id) from public.audit_logs); select audit.make_partitions(1)`,
		`audit default_rows=0 expired_partitions=1 months_ahead=3 partitions=4`, `TenancyAuditPartitionExpired`},
}

// counts is what the functions return, a line for each row, without what is never the same twice.
func counts(t testing.TB, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}) []string {
	t.Helper()
	var lines []string
	for name, key := range map[string]string{"rollout": "''", "tables": "r.table_name", "organizations": "r.organization", "resources": "concat_ws('/', r.table_name, r.scope, r.tenant)",
		"quarantine": "r.table_name", "statistics": "r.name", "audit": "''"} {
		old := ""
		if name == "statistics" {
			old = ` || jsonb_build_object('old', r.age_seconds > 7200)`
		}
		rows, err := db.Query(t.Context(), fmt.Sprintf(`
			select concat_ws(' ', '%[1]s', nullif(%[2]s, ''), (
				select string_agg(v.key || '=' || v.value, ' ' order by v.key)
				from jsonb_each_text(to_jsonb(r) - '{table_name,organization,scope,tenant,name,live_rows,dead_rows,bytes,age_seconds}'::text[] %[3]s) as v))
			from (select * from monitoring.%[1]s()) as r`, name, key, old))
		require.NoError(t, err)
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		lines = append(lines, found...)
	}
	return lines
}

// statement is one that Alice asks, and that takes so long that nothing takes longer.
const statement = `select pg_sleep(0.05) as "asked by Alice" from public.agents limit 1`

// counted tells whether the server counts statements. One that is given need not.
func counted(t testing.TB, db *pgtest.DB) (is bool) {
	t.Helper()
	require.NoError(t, db.Superuser.QueryRow(t.Context(), `select current_setting('shared_preload_libraries') ~ 'pg_stat_statements'`).Scan(&is))
	return is
}

// asked asks it until it is seen: the server, which others use as well, counts so many statements and forgets the others.
func asked(t testing.TB, db *pgtest.DB, seen func() bool) {
	t.Helper()
	for range 20 {
		require.NoError(t, actor.User(fixtures.Alice.ID).Do(t, db, func(tx pgx.Tx) error {
			for range 3 {
				if _, err := tx.Exec(t.Context(), statement); err != nil {
					return err
				}
			}
			return nil
		}))
		if seen() {
			return
		}
	}
	require.FailNow(t, "nobody sees what Alice asks")
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "post-migration-tasks/monitoring-setup/metrics-tracked-for-resource-distribution")
	db := clean(t)
	conn := db.Connect(t, monitor)
	sound := counts(t, conn)
	t.Run("say that all is well where it is", func(t *testing.T) {
		require.Contains(t, sound, "rollout phase=4")
		require.Contains(t, sound, "audit default_rows=0 expired_partitions=0 months_ahead=3 partitions=3")
		require.Contains(t, sound, "statistics organization_stats old=false")
		tables, quarantine := 0, 0
		for _, line := range sound {
			if strings.HasPrefix(line, "tables ") {
				tables++
				require.Contains(t, line, "classified=1 invalid_indexes=0 policies=")
				require.NotContains(t, line, "policies=0")
				require.Contains(t, line, "recorded=1 row_security=1")
			}
			if strings.HasPrefix(line, "quarantine ") {
				quarantine++
				require.Contains(t, line, " rows=0")
			}
		}
		require.Equal(t, []int{12, 8}, []int{tables, quarantine})
	})
	t.Run("count every row, whoever reads it, by whom it is shared with", func(t *testing.T) {
		wanted := map[string]int{}
		tenant := map[string]string{"": ""} // of each organization, the tenant's slug
		slug := map[string]string{}
		for _, o := range fixtures.Hierarchy() {
			slug[o.ID] = o.Slug
		}
		for _, o := range fixtures.Hierarchy() {
			switch {
			case o.Type == fixtures.TenantLevel:
				tenant[o.ID] = o.Slug
			case o.Parent != nil && *o.Parent == fixtures.QuarantineTenantID && o.ID != fixtures.QuarantineOrganizationID:
				tenant[o.ID] = slug[fixtures.Pharmaceuticals.ID] // see settled
			case o.Parent != nil:
				tenant[o.ID] = slug[*o.Parent]
			}
		}
		for _, r := range fixtures.Resources() {
			owner := r.After.Owner
			if owner == fixtures.QuarantineOrganizationID {
				owner = fixtures.Novartis.ID // see settled
			}
			if !r.Deleted {
				of := tenant[owner]
				if r.After.Scope == fixtures.PlatformLevel {
					of = ""
				}
				wanted[fmt.Sprintf("resources %s/%s/%s rows=", r.Table, r.After.Scope, of)]++
			}
		}
		var lines []string
		for line, n := range wanted {
			lines = append(lines, fmt.Sprint(line, n))
		}
		found := slices.DeleteFunc(slices.Clone(sound), func(line string) bool { return !strings.HasPrefix(line, "resources ") })
		require.ElementsMatch(t, lines, found)
		require.Greater(t, len(lines), 12)
	})
	t.Run("show each organization below its tenant", func(t *testing.T) {
		require.Contains(t, strings.Join(sound, "\n"), "organizations novartis agents_platform=")
		var below []string
		rows, err := conn.Query(t.Context(), `select concat_ws(' ', type, organization, tenant, live, users) from monitoring.organizations() order by 1`)
		require.NoError(t, err)
		below, err = pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.Equal(t, []string{
			"organization kaiser-permanente digital-health 1 2",
			"organization mayo-clinic digital-health 1 3",
			"organization novartis pharma 1 5",
			"organization pfizer pharma 1 3",
			"organization sandoz-legacy pharma 0 1",
			"organization unassigned quarantine 0 0",
			"organization unknown-biotech pharma 1 1",
			"platform vital-platform  1 2",
			"tenant digital-health digital-health 1 0",
			"tenant pharma pharma 1 3",
			"tenant quarantine quarantine 0 0",
		}, below)
	})
	for name, f := range faults {
		t.Run("tell when "+name, func(t *testing.T) {
			tx, err := db.Superuser.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			require.NotContains(t, sound, f.says)
			_, err = tx.Exec(t.Context(), f.plant, pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err)
			require.Contains(t, counts(t, tx), f.says)
		})
	}
	t.Run("name the statements of each role, without their text", func(t *testing.T) {
		if !counted(t, db) {
			var statements int
			require.NoError(t, conn.QueryRow(t.Context(), `select count(*) from monitoring.statements()`).Scan(&statements))
			require.Zero(t, statements, "none, and no error")
			return
		}
		var calls int64
		var text string
		asked(t, db, func() bool {
			err := conn.QueryRow(t.Context(), `
				select m.calls_total, to_jsonb(m)::text
				from monitoring.statements() m
				where m.role = 'authenticated' and m.queryid = (
					select s.queryid::text from extensions.pg_stat_statements s
					where s.query like '%asked by Alice%from public.agents%' and s.userid = 'authenticated'::regrole
						and s.dbid = (select oid from pg_database where datname = current_database()))`).Scan(&calls, &text)
			return err == nil && calls >= 3
		})
		require.NotContains(t, text, "Alice")
	})
	t.Run("see who is working, and who waits", func(t *testing.T) {
		var statement, transaction float64
		var waiting int
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		_, err = tx.Exec(t.Context(), `select pg_sleep(0.01)`)
		require.NoError(t, err)
		require.NoError(t, conn.QueryRow(t.Context(), `select * from monitoring.activity()`).Scan(&statement, &transaction, &waiting))
		require.GreaterOrEqual(t, transaction, 0.01)
		require.Zero(t, waiting)
	})
}

// Who measures sees numbers, and nothing else.
func TestMonitor(t *testing.T) {
	t.Parallel()
	db := clean(t)
	conn := db.Connect(t, monitor)
	refused := func(t *testing.T, sql string) {
		t.Helper()
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		_, err = tx.Exec(t.Context(), `set transaction read write`)
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), sql)
		require.ErrorContains(t, err, "SQLSTATE 42501", sql)
	}
	t.Run("reads no table, and changes none", func(t *testing.T) {
		rows, err := db.Superuser.Query(t.Context(), `
			select c.oid::regclass::text
			from pg_class c
			where c.relnamespace::regnamespace::text in ('public', 'tenancy', 'authz', 'audit', 'auth') and c.relkind in ('r', 'p', 'v', 'm')`)
		require.NoError(t, err)
		relations, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		require.Greater(t, len(relations), 25)
		for _, relation := range relations {
			refused(t, `select from `+relation)
			var may bool
			require.NoError(t, db.Superuser.QueryRow(t.Context(), `select has_table_privilege($1, $2::text::regclass, 'select, insert, update, delete, truncate, references, trigger')`, monitor, relation).Scan(&may))
			require.False(t, may, relation)
		}
	})
	t.Run("calls nothing but what counts", func(t *testing.T) {
		for _, sql := range []string{`select public.refresh_organization_stats()`, `select audit.make_partitions(3)`, `select public.soft_delete('agents', null)`,
			`select authz.audiences_of(null)`, `set role authenticated`, `set role service_role`} {
			refused(t, sql)
		}
		var owned, memberships int
		require.NoError(t, conn.QueryRow(t.Context(), `
			select (select count(*) from pg_shdepend where refobjid = r.oid and deptype = 'o'),
				(select count(*) from pg_auth_members where member = r.oid)
			from pg_roles r where rolname = current_user and not (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication)`).Scan(&owned, &memberships))
		require.Equal(t, []int{0, 1}, []int{owned, memberships}, "pg_monitor alone")
	})
	t.Run("and nobody else calls that", func(t *testing.T) {
		for _, who := range []actor.Actor{actor.Anonymous(), actor.User(fixtures.Root.ID), actor.Service()} {
			require.NoError(t, who.Do(t, db, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), `select monitoring.rollout()`)
				require.ErrorContains(t, err, "permission denied for schema monitoring")
				return nil
			}))
		}
	})
}

// The metrics are installed before the rollout or after it, and outlive it.
func TestMetricsAtEveryPhase(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	install(t, db)
	for _, passage := range schema.Journey() {
		f, err := passage.File()
		require.NoError(t, err)
		f.SQL = "set tenancy.discard_audit_logs = 'yes';\n" + f.SQL
		_, err = db.Run(t, f)
		require.NoError(t, err, passage)
		require.Contains(t, counts(t, db.Owner), fmt.Sprintf("rollout phase=%d", passage.To()), passage)
	}
	kinds := map[string]bool{}
	for _, line := range counts(t, db.Owner) {
		kinds[strings.Fields(line)[0]] = true
	}
	require.Equal(t, []string{"rollout", "tables"}, slices.Sorted(maps.Keys(kinds)), "of a legacy database")
}

// The checklist's queries, corrected, each run.
func TestQueries(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "production-deployment/monitor-database-performance")
	db := clean(t)
	queries, err := verify.Parse(file(t, "monitoring.sql"))
	require.NoError(t, err)
	cfg := db.Config(t, monitor)
	cfg.RuntimeParams["options"] = "-c search_path=extensions"
	conn, err := script.Connect(t.Context(), cfg)
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, q := range queries {
		result, err := verify.Run(t.Context(), conn, q)
		if !counted(t, db) && strings.Contains(q.SQL, "pg_stat_statements") {
			require.ErrorContains(t, err, `relation "pg_stat_statements" does not exist`)
			continue
		}
		require.NoError(t, err)
		require.True(t, result.OK, "%s", result)
	}
	for name, shown := range map[string]string{
		"slow_queries":           "asked by Alice",
		"queries_that_cost_most": "asked by Alice",
		"index_use":              "idx_agents_org_list",
		"indexes_without_use":    "idx_agents_knowledge_domains",
		"table_bloat":            "agents",
	} {
		q := queries[slices.IndexFunc(queries, func(q verify.Query) bool { return q.Name == name })]
		if !counted(t, db) && strings.Contains(q.SQL, "pg_stat_statements") {
			continue
		}
		asked(t, db, func() bool {
			result, err := verify.Run(t.Context(), conn, q)
			require.NoError(t, err)
			return slices.ContainsFunc(result.Rows, func(row []string) bool { return strings.Contains(strings.Join(row, "\n"), shown) })
		})
	}
	t.Run("an index that does not serve is named", func(t *testing.T) {
		_, err := db.Superuser.Exec(t.Context(), faults["an index was never finished"].plant)
		require.NoError(t, err)
		i := slices.IndexFunc(queries, func(q verify.Query) bool { return q.Name == "indexes_that_do_not_serve" })
		result, err := verify.Run(t.Context(), conn, queries[i])
		require.NoError(t, err)
		require.Equal(t, [][]string{{"public.agents", "public.idx_agents_audience"}}, result.Rows)
	})
	t.Run("who waits is named, with whom he waits for", func(t *testing.T) {
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		var pid int
		require.NoError(t, tx.QueryRow(t.Context(), `select pg_backend_pid() from (select from public.users limit 1 for update) as one`).Scan(&pid))
		waiter := db.Connect(t, pgtest.OwnerRole)
		done := make(chan error, 1)
		go func() {
			_, err := waiter.Exec(t.Context(), `select from public.users for update`)
			done <- err
		}()
		i := slices.IndexFunc(queries, func(q verify.Query) bool { return q.Name == "who_waits_for_whom" })
		require.Eventually(t, func() bool {
			result, err := verify.Run(t.Context(), conn, queries[i])
			return err == nil && len(result.Rows) == 1 && result.Rows[0][3] == fmt.Sprintf("{%d}", pid)
		}, 5*time.Second, 10*time.Millisecond)
		require.NoError(t, tx.Rollback(t.Context()))
		require.NoError(t, <-done)
	})
}
