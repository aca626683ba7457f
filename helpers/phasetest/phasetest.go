// Package phasetest is what the tests of all phases ask of a database: is it still
// what it was, does a migration refuse, does a verification query find what it is
// there to find, does the old application go on working.
package phasetest

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// Exec runs a statement as the owner.
func Exec(t testing.TB, db *pgtest.DB, sql string, args ...any) {
	t.Helper()
	_, err := db.Owner.Exec(t.Context(), sql, args...)
	require.NoError(t, err, sql)
}

// Catalog is a picture of the definitions.
func Catalog(t testing.TB, db *pgtest.DB) catalog.Catalog {
	t.Helper()
	picture, err := catalog.Take(t.Context(), db.Superuser)
	require.NoError(t, err)
	return picture
}

// Data is a picture of the rows, without the tables and columns named.
func Data(t testing.TB, db *pgtest.DB, without ...string) catalog.Data {
	t.Helper()
	picture, err := catalog.TakeData(t.Context(), db.Superuser, without...)
	require.NoError(t, err)
	return picture
}

// incidental is what two runs of the same migrations may differ in: when they ran, and
// which numbers a sequence had left.
var incidental = []string{
	"tenancy.backfill_progress.started_at", "tenancy.backfill_progress.finished_at",
	"tenancy.completed_phase.completed_at", "tenancy.refreshed_statistics.refreshed_at",
	"tenancy.undo.id",
}

// Picture is a database's definitions and rows.
type Picture struct {
	definitions catalog.Catalog
	rows        catalog.Data
}

// Take takes a picture, without what two runs of the same migrations may differ in, and
// without the tables and columns named.
func Take(t testing.TB, db *pgtest.DB, without ...string) Picture {
	t.Helper()
	return Picture{Catalog(t, db), Data(t, db, append(without, incidental...)...)}
}

// Diff is what is different in the other picture, "" for nothing: see [catalog.Diff].
func (p Picture) Diff(other Picture) string {
	return catalog.Diff(p.definitions, other.definitions) + catalog.Diff(p.rows, other.rows)
}

// Same says that a database is what the picture shows.
func (p Picture) Same(t testing.TB, db *pgtest.DB) {
	t.Helper()
	require.Empty(t, p.Diff(Take(t, db)), "the database is not what it should be again")
}

// Refuses runs a file, which the server must refuse with the message, and which must
// change nothing. The message is the server's alone: the whole error quotes the SQL
// around it, in which other refusals stand.
func Refuses(t testing.TB, db *pgtest.DB, f schema.File, message string) {
	t.Helper()
	definitions, rows := Catalog(t, db), Data(t, db)
	_, err := db.Run(t, f)
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	require.True(t, ok, "want the refusal %q, got %v", message, err)
	require.Contains(t, refusal.Message, message)
	require.Empty(t, catalog.Diff(definitions, Catalog(t, db)), "a refused migration leaves the definitions alone")
	require.Empty(t, catalog.Diff(rows, Data(t, db)), "a refused migration leaves the rows alone")
}

// RefusesMigration is [Refuses] for the migration of a phase.
func RefusesMigration(t testing.TB, db *pgtest.DB, phase schema.Phase, message string) {
	t.Helper()
	f, err := schema.Migration(phase)
	require.NoError(t, err)
	Refuses(t, db, f, message)
}

// Verification runs every verification query of a phase, which must hold on db and
// must not hold any more after a statement of the owner that breaks what it is there
// for: faults has one for each query by name, "" for a query that only informs.
func Verification(t *testing.T, db *pgtest.DB, phase schema.Phase, faults map[string]string) {
	t.Helper()
	f, err := schema.Verification(phase)
	require.NoError(t, err)
	queries, err := verify.Parse(f)
	require.NoError(t, err)
	require.Len(t, queries, len(faults))
	for _, q := range queries {
		t.Run(q.Name+" holds, and finds what it is there to find", func(t *testing.T) { verification(t, db, q, faults) })
	}
}

// verification is [Verification] of one query.
func verification(t testing.TB, db *pgtest.DB, q verify.Query, faults map[string]string) {
	t.Helper()
	result, err := verify.Run(t.Context(), db.Owner, q)
	require.NoError(t, err)
	require.True(t, result.OK, "%s", result)

	require.Contains(t, faults, q.Name)
	if faults[q.Name] == "" {
		require.Equal(t, verify.Info, q.Expect, "only what informs cannot fail")
		return
	}
	tx, err := db.Owner.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), faults[q.Name], pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	result, err = verify.Run(t.Context(), tx, q)
	require.NoError(t, err)
	require.False(t, result.OK, "%s", result)
}

// OldApplication runs the old application's statements, unchanged: what its backend
// sends as service_role, and what a signed-in user sends through the API.
func OldApplication(t *testing.T, db *pgtest.DB) {
	t.Helper()
	for as, statements := range oldApplication {
		for name, sql := range statements {
			t.Run(name, func(t *testing.T) { works(t, db, as, sql) })
		}
	}
}

// OldApplicationAtOnce is [OldApplication] in as few transactions as there are callers.
func OldApplicationAtOnce(t testing.TB, db *pgtest.DB) {
	t.Helper()
	for as, statements := range oldApplication {
		works(t, db, as, slices.Collect(maps.Values(statements))...)
	}
}

// works runs statements of a caller in a transaction.
func works(t testing.TB, db *pgtest.DB, as actor.Actor, statements ...string) {
	t.Helper()
	require.NoError(t, as.Do(t, db, func(tx pgx.Tx) error {
		for _, sql := range statements {
			tag, err := tx.Exec(t.Context(), sql)
			require.NoError(t, err, sql)
			require.Positive(t, tag.RowsAffected(), "the statement must meet rows, or it proves nothing: %s", sql)
		}
		return nil
	}))
}

var oldApplication = map[actor.Actor]map[string]string{
	actor.Service(): {
		"signs users in":                      `select u.id, uo.role from public.users u join public.user_organizations uo on uo.user_id = u.id where u.email = 'alice@novartis.com' and uo.is_active`,
		"makes an organization":               `insert into public.organizations (name, tenant_type, tenant_key) values ('Roche', 'standard', 'pharma') returning id`,
		"makes a document":                    `insert into public.knowledge_documents (title, is_public) values ('New', true) returning id`,
		"inserts a use case or updates it":    `insert into public.use_cases (code, title) values ('UC-1', 'New') on conflict (code) do update set title = excluded.title returning id`,
		"moves an agent to another owner":     `update public.agents set tenant_id = (select id from public.organizations where name = 'Pfizer') where name = 'Novartis RA Agent' returning id`,
		"starts a conversation":               `insert into public.conversations (user_id, title) select id, 'New' from public.users where email = 'dana@consultant.example' returning id`,
		"writes a message":                    `insert into public.messages (conversation_id, role, content) select id, 'user', 'Hi' from public.conversations limit 1 returning id`,
		"deletes an agent":                    `delete from public.agents where name = 'Novartis Draft Agent' returning id`,
		"counts agents with a function of it": `select public.count_tenant_agents(id) from public.organizations where name = 'Novartis'`,
	},
	actor.User(fixtures.Alice.ID): {
		"lists agents to Alice":              `select id, name, display_name, tier from public.agents where status = 'active' order by priority desc, name limit 50`,
		"lets Alice make an agent":           `insert into public.agents (tenant_id, name, metadata) select id, 'New', '{"is_public": true}' from public.organizations where name = 'Novartis' returning id`,
		"lets Alice rename her agent":        `update public.agents set display_name = 'RA' where name = 'Novartis RA Agent' returning id`,
		"lets Alice write in a conversation": `insert into public.messages (conversation_id, role, content) select id, 'user', 'Hi' from public.conversations where title = 'Alice asks about labels' returning id`,
	},
}

// VisibleAgents names the agents that a user sees.
func VisibleAgents(t testing.TB, db *pgtest.DB, user fixtures.User) (names []string) {
	t.Helper()
	require.NoError(t, actor.User(user.ID).Do(t, db, func(tx pgx.Tx) error {
		rows, err := tx.Query(t.Context(), `select name from public.agents order by name`)
		require.NoError(t, err)
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	}))
	return names
}
