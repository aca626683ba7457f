// Package preflight_test asks a database on which the phases may run whether they may, and then the same database with
// one problem after another in it: each must be found, by its own check and by no other.
package preflight_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/preflight"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// inOrder is a legacy database with nothing wrong in it.
var inOrder = pgtest.Seed{Name: "orderly", SQL: `
	insert into public.organizations (id, name, tenant_type, tenant_key)
	values
		('10000000-0000-4000-8000-000000000001', 'VITAL', 'system', null),
		('10000000-0000-4000-8000-000000000002', 'Pharmaceuticals', 'pharmaceuticals', 'pharma'),
		('10000000-0000-4000-8000-000000000003', 'Novartis', 'pharmaceuticals', 'pharma-novartis');
	update public.organizations set settings = '{"tenant_key": "pharma"}' where name = 'Novartis';
	insert into public.users (id, email) values ('20000000-0000-4000-8000-000000000001', 'alice@novartis.com');
	insert into public.user_organizations (user_id, organization_id) values ('20000000-0000-4000-8000-000000000001', '10000000-0000-4000-8000-000000000003');
	insert into public.agents (name, tenant_id) select 'Agent ' || n, '10000000-0000-4000-8000-000000000003' from generate_series(1, 20) as n;`}

// orderly is a legacy database in which there is nothing to find.
func orderly(t *testing.T) *pgtest.DB {
	t.Helper()
	return configured(t, pgtest.New(t, schema.Legacy, inOrder))
}

// world is the world of the fixtures, some of whose legacy rows name no owner.
func world(t *testing.T, phase schema.Phase) *pgtest.DB {
	t.Helper()
	return configured(t, pgtest.New(t, phase, fixtures.World()...))
}

// configured is a database that is set up as it should be, as far as a database can be.
func configured(t *testing.T, db *pgtest.DB) *pgtest.DB {
	t.Helper()
	configure(t, db, "random_page_cost = 1.1", "jit = off", "idle_in_transaction_session_timeout = '1min'", "statement_timeout = '20s'")
	return db
}

// configure is for the sessions that come.
func configure(t *testing.T, db *pgtest.DB, settings ...string) {
	t.Helper()
	for _, setting := range settings {
		_, err := db.Superuser.Exec(t.Context(), "alter database "+pgx.Identifier{db.Name}.Sanitize()+" set "+setting)
		require.NoError(t, err, setting)
	}
}

// ofServer is what is to be found whatever the database is: the tests' server is there to be fast, and their owner has
// no right that he does not need.
func ofServer(t *testing.T, db *pgtest.DB) (checks []string) {
	t.Helper()
	for setting, fine := range map[string][]string{"fsync": {"on"}, "full_page_writes": {"on"}, "autovacuum": {"on"}, "archive_mode": {"on", "always"}, "wal_level": {"replica", "logical"}} {
		var is string
		require.NoError(t, db.Owner.QueryRow(t.Context(), `select current_setting($1)`, setting).Scan(&is))
		if !slices.Contains(fine, is) {
			checks = append(checks, setting)
		}
	}
	var version int
	var sees bool
	require.NoError(t, db.Owner.QueryRow(t.Context(), `select current_setting('server_version_num')::integer, pg_has_role('pg_read_all_stats', 'USAGE')`).Scan(&version, &sees))
	if version%10000 < mended[version/10000] {
		checks = append(checks, "server_version")
	}
	if !sees {
		checks = append(checks, "sees_others")
	}
	return checks
}

// mended is the minor version of each major that has no known fault any more.
var mended = map[int]int{15: 19, 16: 15, 17: 11, 18: 6}

// connections is a check of the server that other tests may fail at any moment.
const connections = "connections"

// found names the checks that have not passed, without those of the server.
func found(t *testing.T, db *pgtest.DB, report preflight.Report) (names []string) {
	t.Helper()
	server := ofServer(t, db)
	for _, c := range report {
		if c.Verdict != verify.Passed {
			require.NotEmpty(t, c.Found, c.Name)
			require.NotContains(t, []string{"", "null"}, c.ToDo, c.Name)
			names = append(names, c.Name)
		}
	}
	require.Subset(t, names, server)
	return slices.DeleteFunc(names, func(name string) bool { return name == connections || slices.Contains(server, name) })
}

func examine(t *testing.T, db *pgtest.DB) *preflight.Database {
	t.Helper()
	d, err := preflight.Examine(t.Context(), db.Connect(t, pgtest.OwnerRole))
	require.NoError(t, err)
	return d
}

// queries are those of schema/verify/preflight.sql that are checks.
func queries(t *testing.T) []verify.Query {
	t.Helper()
	f, err := schema.Preflight()
	require.NoError(t, err)
	all, err := verify.Parse(f)
	require.NoError(t, err)
	return slices.DeleteFunc(all, func(q verify.Query) bool { return q.Expect != verify.Pass })
}

// ask is what the checks say in a transaction, with some of their text in another's place.
func ask(t *testing.T, tx pgx.Tx, all []verify.Query, replaced ...string) (report preflight.Report) {
	t.Helper()
	for _, q := range all {
		q.SQL = strings.NewReplacer(replaced...).Replace(q.SQL)
		result, err := verify.Run(t.Context(), tx, q)
		require.NoError(t, err)
		for _, row := range result.Rows {
			report = append(report, preflight.Check{Name: row[0], Verdict: row[1], Found: row[2], ToDo: row[3]})
		}
		if !result.OK {
			require.NotEmpty(t, result.Offending, "%s", result)
		}
	}
	return report
}

// begin is a superuser's transaction, which is taken back.
func begin(t *testing.T, conn *pgx.Conn) pgx.Tx {
	t.Helper()
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	return tx
}
