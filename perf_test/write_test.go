package perf_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// How much longer than by the backend, whom no policy holds, and than in a table that
// nobody watches.
const (
	writeRatio   = 1.8
	bulkRatio    = 3.5
	refreshRatio = 1.5
)

// bulkWrite is how many rows a bulk write writes at most.
const bulkWrite = 100_000

// write is a statement as somebody sends it, and another to compare it with; that may be
// the same.
type write struct {
	name, sql, other string
	ratio            float64
}

var (
	insertAgent = fmt.Sprintf("insert into public.agents (name, display_name, owner_organization_id, created_by) values ('New', 'New', '%s', '%s')", fixtures.Novartis.ID, fixtures.Alice.ID)
	updateAgent = fmt.Sprintf("update public.agents set display_name = 'Changed', priority = 1 where id = '%s'", fixtures.NovartisAgent.ID)
)

// A user's single writes, with policy, guard and audit, against the backend's on the
// same tables, with audit alone.
func BenchmarkWrite(b *testing.B) {
	for _, rows := range sizes(b) {
		db := filled(b, worlds[0].bulk(rows))
		user, service := db.Connect(b, pgtest.APIRole), db.Connect(b, pgtest.ServiceRole)
		for _, w := range []write{
			{"insert", insertAgent, insertAgent, writeRatio},
			{"update", updateAgent, updateAgent, writeRatio},
			// A function that finds out whose the row is, against an update: without a budget.
			{"soft_delete", fmt.Sprintf("select public.soft_delete('agents', '%s')", fixtures.NovartisAgent.ID), fmt.Sprintf("update public.agents set deleted_at = now() where id = '%s'", fixtures.NovartisAgent.ID), 0},
		} {
			contest{
				run:     undone(actor.User(fixtures.Alice.ID), user, w.sql),
				other:   undone(actor.Service(), service, w.other),
				against: "service", ratio: w.ratio,
			}.measure(b, fmt.Sprintf("query=%s/rows=%d/role=member", w.name, rows))
		}
	}
}

// Many rows at once, with all that is done about them, against a table with the same
// indexes and checks that nothing else is done about.
func BenchmarkBulkWrite(b *testing.B) {
	for _, rows := range sizes(b) {
		db := filled(b, worlds[0].bulk(rows))
		many := min(rows, bulkWrite)
		_, err := db.Superuser.Exec(b.Context(), `create table public.bare (like public.agents including all); insert into public.bare select * from public.agents; analyze public.bare`, pgx.QueryExecModeSimpleProtocol)
		require.NoError(b, err)
		insert := write{
			name: "bulk_insert",
			sql:  fmt.Sprintf("insert into public.agents (name, display_name, owner_organization_id, created_by) select 'New ' || n, 'New ' || n, '%s', '%s' from generate_series(1, %d) as n", fixtures.Novartis.ID, fixtures.Alice.ID, many),
			other: fmt.Sprintf(`insert into public.bare (name, display_name, owner_organization_id, created_by, tenant_id, owner_tenant_id, audience_key)
				select 'New ' || n, 'New ' || n, '%[1]s', '%[2]s', '%[1]s', '%[3]s', '%[1]s' from generate_series(1, %[4]d) as n`, fixtures.Novartis.ID, fixtures.Alice.ID, fixtures.Pharmaceuticals.ID, many),
		}
		const change = "update public.%[1]s set priority = priority + 1 where id = any (array(select id from public.%[1]s where owner_organization_id = '%[2]s' and deleted_at is null order by id limit %[3]d))"
		update := write{
			name:  "bulk_update",
			sql:   fmt.Sprintf(change, "agents", fixtures.Novartis.ID, many),
			other: fmt.Sprintf(change, "bare", fixtures.Novartis.ID, many),
		}
		user, service := db.Connect(b, pgtest.APIRole), db.Connect(b, pgtest.ServiceRole)
		superuser := db.Connect(b, "")
		for _, by := range []struct {
			role  string
			actor actor.Actor
			conn  *pgx.Conn
		}{{"member", actor.User(fixtures.Alice.ID), user}, {"service", actor.Service(), service}} {
			for _, w := range []write{insert, update} {
				contest{run: undone(by.actor, by.conn, w.sql), other: undoneBy(superuser, w.other), against: "bare", ratio: beyond(rows, bulkRatio)}.
					measure(b, fmt.Sprintf("query=%s/rows=%d/written=%d/role=%s", w.name, rows, many, by.role))
			}
		}
	}
}

// What the audit adds to the backend's writes.
func BenchmarkAudit(b *testing.B) {
	audited, silent := filled(b, worlds[0].bulk(1000)), filled(b, worlds[0].bulk(1000))
	_, err := silent.Owner.Exec(b.Context(), `drop trigger audit_insert on public.agents; drop trigger audit_update on public.agents`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(b, err)
	conn, other := audited.Connect(b, pgtest.ServiceRole), silent.Connect(b, pgtest.ServiceRole)
	for _, w := range []write{{name: "insert", sql: insertAgent}, {name: "update", sql: updateAgent}} {
		contest{run: undone(actor.Service(), conn, w.sql), other: undone(actor.Service(), other, w.sql), against: "silent"}.
			measure(b, "query="+w.name+"/rows=1000/role=service")
	}
}

// undone runs a statement as an actor, and takes it back; how long that takes does not
// count.
func undone(a actor.Actor, conn *pgx.Conn, sql string) func(*testing.B) time.Duration {
	return func(b *testing.B) (took time.Duration) {
		require.NoError(b, a.On(b, conn, func(tx pgx.Tx) error {
			took = timed(tx, sql)(b)
			return nil
		}))
		return took
	}
}

func undoneBy(superuser *pgx.Conn, sql string) func(*testing.B) time.Duration {
	return func(b *testing.B) time.Duration {
		tx, err := superuser.Begin(b.Context())
		require.NoError(b, err)
		took := timed(tx, sql)(b)
		require.NoError(b, tx.Rollback(b.Context()))
		return took
	}
}

// signIns is how many users come at once, and connections how many of them the server
// has at a time.
const (
	signIns     = 64
	connections = 8
)

// Many users at once ask for their first page, each in a transaction of his own, as
// after a break; against the same pages by hand.
func BenchmarkSignIn(b *testing.B) {
	for _, rows := range sizes(b) {
		w := worlds[1]
		db := filled(b, w.bulk(rows))
		found, err := db.Superuser.Query(b.Context(), `select id::text from public.users where email ~ '^user-.*@bulk.example' order by id limit $1`, signIns)
		require.NoError(b, err)
		ids, err := pgx.CollectRows(found, pgx.RowTo[string])
		require.NoError(b, err)
		require.Len(b, ids, signIns)
		var pages, byHandPages []string
		for _, id := range ids {
			c := caller{user: fixtures.User{ID: id}}.in(b, db)
			q := c.common("agents")[1]
			pages, byHandPages = append(pages, fmt.Sprintf(`
				begin; set local role authenticated; select set_config('request.jwt.claims', '{"sub": "%s", "role": "authenticated"}', true);
				%s; commit`, id, q.sql)), append(byHandPages, "begin; "+q.byHand+"; commit")
		}
		contest{run: burst(b, db, pgtest.APIRole, pages), other: burst(b, db, "", byHandPages), against: byHand, ratio: beyond(rows, listRatio)}.
			measure(b, fmt.Sprintf("query=sign_in/rows=%d/tenants=%d/role=member", rows, w.tenants))
	}
}

// burst sends statements all at once, and waits for the answers to all.
func burst(b *testing.B, db *pgtest.DB, role string, statements []string) func(*testing.B) time.Duration {
	b.Helper()
	cfg, err := pgxpool.ParseConfig(db.URL(role))
	require.NoError(b, err)
	cfg.MaxConns, cfg.MinConns = connections, connections
	pool, err := pgxpool.NewWithConfig(b.Context(), cfg)
	require.NoError(b, err)
	b.Cleanup(pool.Close)
	return func(b *testing.B) time.Duration {
		errs := make([]error, len(statements))
		var all sync.WaitGroup
		start := time.Now()
		for i, sql := range statements {
			all.Go(func() { _, errs[i] = pool.Exec(b.Context(), sql, pgx.QueryExecModeSimpleProtocol) })
		}
		all.Wait()
		took := time.Since(start)
		for _, err := range errs {
			require.NoError(b, err)
		}
		return took
	}
}

// The statistics are made anew while the application writes, against the cheapest
// statement that counts the same.
func BenchmarkRefresh(b *testing.B) {
	const counts = `
		select o.id, a.private, a.tenant, a.platform, k.total, c.total, c.latest, u.total, a.latest
		from public.organizations o
		left join (
			select owner_organization_id, count(*) filter (where sharing_scope = 'organization') as private, count(*) filter (where sharing_scope = 'tenant') as tenant,
				count(*) filter (where sharing_scope = 'platform') as platform, max(created_at) as latest
			from public.agents where deleted_at is null group by 1) as a on a.owner_organization_id = o.id
		left join (select owner_organization_id, count(*) as total from public.knowledge_documents where deleted_at is null group by 1) as k on k.owner_organization_id = o.id
		left join (select owner_organization_id, count(*) as total, max(created_at) as latest from public.conversations where deleted_at is null group by 1) as c on c.owner_organization_id = o.id
		left join (select organization_id, count(*) as total from public.user_organizations where is_active group by 1) as u on u.organization_id = o.id
		where o.deleted_at is null`
	for _, rows := range sizes(b) {
		for _, w := range worlds {
			db := filled(b, w.bulk(rows))
			conn, writer, superuser := db.Connect(b, pgtest.ServiceRole), db.Connect(b, pgtest.ServiceRole), db.Connect(b, "")
			stop, stopped := make(chan struct{}), make(chan error, 1)
			go func() { stopped <- load(b, writer, stop) }()
			contest{
				run:     undone(actor.Service(), conn, "select public.refresh_organization_stats()"),
				other:   undoneBy(superuser, counts),
				against: byHand, ratio: beyond(rows, refreshRatio),
			}.measure(b, fmt.Sprintf("query=refresh_organization_stats/rows=%d/tenants=%d/role=service", rows, w.tenants))
			close(stop)
			require.NoError(b, <-stopped)
		}
	}
}

// load inserts an agent as the backend, a hundred times a second, until it is stopped.
func load(b *testing.B, conn *pgx.Conn, stop <-chan struct{}) error {
	beat := time.NewTicker(10 * time.Millisecond)
	defer beat.Stop()
	for {
		select {
		case <-stop:
			return nil
		case <-beat.C:
			if _, err := conn.Exec(b.Context(), "set role service_role; "+insertAgent, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
		}
	}
}
