package rls_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// beginAs opens a session and a transaction of a user's in it.
func beginAs(t testing.TB, db *pgtest.DB, u fixtures.User, options pgx.TxOptions) pgx.Tx {
	t.Helper()
	tx := beginIn(t, db, pgtest.APIRole, options)
	require.NoError(t, callerOf(u).speak(t.Context(), tx))
	return tx
}

// beginIn opens a session and a transaction of a role's in it.
func beginIn(t testing.TB, db *pgtest.DB, role string, options pgx.TxOptions) pgx.Tx {
	t.Helper()
	tx, err := db.Connect(t, role).BeginTx(t.Context(), options)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	return tx
}

func pid(tx pgx.Tx) uint32 { return tx.Conn().PgConn().PID() }

// waits returns once a transaction waits for another.
func waits(t testing.TB, db *pgtest.DB, tx, other pgx.Tx) {
	t.Helper()
	until(t, db, `select $2 = any (pg_blocking_pids($1))`, int(pid(tx)), int(pid(other)))
}

// running sends a statement that has to wait, and returns what will become of it.
func running(t testing.TB, tx pgx.Tx, sql string) <-chan outcome {
	t.Helper()
	became := make(chan outcome, 1)
	go func() {
		tag, err := tx.Exec(t.Context(), sql)
		if err == nil && tag.RowsAffected() == 0 {
			became <- filtered
			return
		}
		became <- outcomeOf(err)
	}()
	return became
}

var (
	readCommitted  = pgx.TxOptions{IsoLevel: pgx.ReadCommitted}
	repeatableRead = pgx.TxOptions{IsoLevel: pgx.RepeatableRead}
)

// testRevocation ends Alice's membership while she has a transaction open. It holds for
// every statement that starts after it, as far as the transaction's isolation shows
// what others commit: what has started goes on as it started.
func testRevocation(t *testing.T) {
	t.Parallel()
	revoked := fmt.Sprintf(`update public.user_organizations set is_active = false where user_id = '%s' and organization_id = '%s'`, fixtures.Alice.ID, fixtures.Novartis.ID)
	const reads = `select from public.agents where id = '` + "{agent}" + `'`
	mine := strings.ReplaceAll(reads, "{agent}", fixtures.NovartisAgent.ID)
	everybodys := strings.ReplaceAll(reads, "{agent}", fixtures.PublicAgent.ID)
	inserts := insertAgent(fixtures.Novartis.ID, fixtures.OrganizationLevel, fixtures.Alice.ID)
	changes := updateAgent(fixtures.NovartisAgent, `name = 'Mine'`)
	may := func(t *testing.T, tx pgx.Tx, read, write, add outcome) {
		t.Helper()
		require.Equal(t, []outcome{read, write, add, done},
			[]outcome{attempt(t, tx, mine), attempt(t, tx, changes), attempt(t, tx, inserts), attempt(t, tx, everybodys)}, "reads, changes, inserts, and reads what is everybody's")
	}

	t.Run("READ COMMITTED: it holds from the next statement on", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		alice, dana := beginAs(t, db, fixtures.Alice, readCommitted), beginAs(t, db, fixtures.Dana, readCommitted)
		may(t, alice, done, done, done)
		require.Equal(t, done, attempt(t, dana, mine))
		statement(revoked)(t, db)
		may(t, alice, filtered, filtered, rejected)
		require.Equal(t, done, attempt(t, dana, mine), "whose membership goes on reads on")
	})
	t.Run("READ COMMITTED: one that is not committed does not hold", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		alice, admin := beginAs(t, db, fixtures.Alice, readCommitted), beginAs(t, db, fixtures.Adam, readCommitted)
		tag, err := admin.Exec(t.Context(), revoked)
		require.NoError(t, err)
		require.EqualValues(t, 1, tag.RowsAffected())
		may(t, alice, done, done, done)
		require.NoError(t, admin.Commit(t.Context()))
		may(t, alice, filtered, filtered, rejected)
	})
	t.Run("REPEATABLE READ: it holds from the next transaction on", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		alice := beginAs(t, db, fixtures.Alice, repeatableRead)
		may(t, alice, done, done, done)
		statement(revoked)(t, db)
		may(t, alice, done, done, done)
		require.NoError(t, alice.Commit(t.Context()))
		next, err := alice.Conn().BeginTx(t.Context(), repeatableRead)
		require.NoError(t, err)
		defer next.Rollback(t.Context())
		require.NoError(t, callerOf(fixtures.Alice).speak(t.Context(), next))
		may(t, next, filtered, filtered, rejected)
	})
	t.Run("a cursor goes on as it was opened", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		alice := beginAs(t, db, fixtures.Alice, readCommitted)
		want := migrated().keysOf(selecting, fixtures.Alice.ID, "agents")
		for _, name := range []string{"begun", "fresh"} {
			_, err := alice.Exec(t.Context(), `declare `+name+` cursor for `+allAgents+` order by id`)
			require.NoError(t, err)
		}
		first, err := column(t.Context(), alice, `fetch 1 from begun`)
		require.NoError(t, err)
		require.Equal(t, want[:1], first)
		statement(revoked)(t, db)
		may(t, alice, filtered, filtered, rejected)
		for name, rest := range map[string][]string{"begun": want[1:], "fresh": want} {
			found, err := column(t.Context(), alice, `fetch all from `+name)
			require.NoError(t, err)
			require.Equal(t, rest, found, name)
		}
	})
	// Somebody holds what Alice's statement comes to wait for, ends her membership, and lets go of both at once.
	for what, test := range map[string]struct{ holds, sends string }{
		"an INSERT that is running goes on as it started": {`select from public.organizations where id = '` + fixtures.Novartis.ID + `' for update`, inserts},
		"an UPDATE that is running goes on as it started": {`update public.agents set priority = priority + 1 where id = '` + fixtures.NovartisAgent.ID + `'`, changes},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db := secured(t)
			alice, other := beginAs(t, db, fixtures.Alice, readCommitted), beginIn(t, db, pgtest.OwnerRole, readCommitted)
			_, err := other.Exec(t.Context(), test.holds)
			require.NoError(t, err)
			became := running(t, alice, test.sends)
			waits(t, db, alice, other)
			_, err = other.Exec(t.Context(), revoked)
			require.NoError(t, err)
			require.NoError(t, other.Commit(t.Context()))
			require.Equal(t, done, <-became)
			may(t, alice, filtered, filtered, rejected)
		})
	}
}

// stale counts the rows whose derived columns are not those of their owner's place. It
// derives them itself.
const stale = `
	select count(*)
	from public.%s r
	left join public.organizations o on o.id = r.owner_organization_id
	where r.owner_tenant_id is distinct from case o.organization_type when 'organization' then o.parent_organization_id when 'tenant' then o.id end
	   or r.audience_key is distinct from case r.sharing_scope
		when 'organization' then o.id
		when 'tenant' then overlay(case o.organization_type when 'organization' then o.parent_organization_id else o.id end::text placing 'f' from 15 for 1)::uuid
		when 'platform' then '00000000-0000-f000-0000-000000000001' end`

func staleRows(t testing.TB, db *pgtest.DB) (rows map[string]int) {
	t.Helper()
	rows = map[string]int{}
	for _, table := range resourceTables {
		var n int
		require.NoError(t, db.Superuser.QueryRow(t.Context(), fmt.Sprintf(stale, table)).Scan(&n))
		if n > 0 {
			rows[table] = n
		}
	}
	return rows
}

// moves is the statement that puts Novartis under a tenant.
func moves(to fixtures.Organization) string {
	return fmt.Sprintf(`update public.organizations set parent_organization_id = '%s' where id = '%s'`, to.ID, fixtures.Novartis.ID)
}

// shares inserts a row that Novartis shares with its tenant.
func shares(table string) string {
	return fmt.Sprintf(`insert into public.%s (%s, owner_organization_id, sharing_scope, created_by) values ('New', '%s', 'tenant', '%s')`,
		table, row{table: table}.nameColumn(), fixtures.Novartis.ID, fixtures.Adam.ID)
}

// ownerMoved is what becomes of a row that was written for the tenant its owner leaves.
const ownerMoved = `insert or update on table "%s" violates foreign key constraint "fk_%[1]s_owner_tenant"`

// testMoves writes rows that Novartis shares with its tenant while it moves to another.
func testMoves(t *testing.T) {
	t.Parallel()
	tenants := []fixtures.Organization{fixtures.DigitalHealth, fixtures.Pharmaceuticals}
	// readers is who reads the new rows: Bob in Pharmaceuticals, Kim in Digital Health.
	readers := func(t *testing.T, db *pgtest.DB, table string) map[string]int {
		t.Helper()
		found := map[string]int{}
		forEach(t, db, []fixtures.User{fixtures.Bob, fixtures.Kim}, func(tx pgx.Tx, u fixtures.User) {
			rows, err := column(t.Context(), tx, fmt.Sprintf(`select id::text from public.%s where %s = 'New'`, table, row{table: table}.nameColumn()))
			require.NoError(t, err)
			found[u.Email] = len(rows)
		})
		return found
	}
	in := func(tenant fixtures.Organization, rows int) map[string]int {
		if tenant.ID == fixtures.DigitalHealth.ID {
			return map[string]int{fixtures.Bob.Email: 0, fixtures.Kim.Email: rows}
		}
		return map[string]int{fixtures.Bob.Email: rows, fixtures.Kim.Email: 0}
	}

	t.Run("a row that is there first moves along", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		for i, table := range resourceTables {
			adam, owner := beginAs(t, db, fixtures.Adam, readCommitted), beginIn(t, db, pgtest.OwnerRole, readCommitted)
			_, err := adam.Exec(t.Context(), shares(table))
			require.NoError(t, err)
			became := running(t, owner, moves(tenants[i%2]))
			waits(t, db, owner, adam)
			require.NoError(t, adam.Commit(t.Context()))
			require.Equal(t, done, <-became)
			require.NoError(t, owner.Commit(t.Context()))
			require.Empty(t, staleRows(t, db))
			require.Equal(t, in(tenants[i%2], 1), readers(t, db, table), table)
		}
	})
	t.Run("a row that comes second is refused, and goes to the new tenant when it is sent again", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		for i, table := range resourceTables {
			adam, owner := beginAs(t, db, fixtures.Adam, readCommitted), beginIn(t, db, pgtest.OwnerRole, readCommitted)
			_, err := owner.Exec(t.Context(), moves(tenants[i%2]))
			require.NoError(t, err)
			became := running(t, adam, shares(table))
			waits(t, db, adam, owner)
			require.NoError(t, owner.Commit(t.Context()))
			require.Equal(t, outcome("ERROR: "+fmt.Sprintf(ownerMoved, table)+" (SQLSTATE 23503)"), <-became)
			require.NoError(t, adam.Rollback(t.Context()))

			again := beginAs(t, db, fixtures.Adam, readCommitted)
			_, err = again.Exec(t.Context(), shares(table))
			require.NoError(t, err)
			require.NoError(t, again.Commit(t.Context()))
			require.Empty(t, staleRows(t, db))
			require.Equal(t, in(tenants[i%2], 1), readers(t, db, table), table)
		}
	})
	t.Run("a row that comes second stays when the organization does", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		adam, owner := beginAs(t, db, fixtures.Adam, readCommitted), beginIn(t, db, pgtest.OwnerRole, readCommitted)
		_, err := owner.Exec(t.Context(), moves(fixtures.DigitalHealth))
		require.NoError(t, err)
		became := running(t, adam, shares("agents"))
		waits(t, db, adam, owner)
		require.NoError(t, owner.Rollback(t.Context()))
		require.Equal(t, done, <-became)
		require.NoError(t, adam.Commit(t.Context()))
		require.Empty(t, staleRows(t, db))
		require.Equal(t, in(fixtures.Pharmaceuticals, 1), readers(t, db, "agents"))
	})
	shared := updateAgent(fixtures.NovartisAgent, `sharing_scope = 'tenant', name = 'New'`)
	unshared := updateAgent(fixtures.NovartisAgent, `sharing_scope = 'organization', name = 'Old'`)
	t.Run("a row that is shared first moves along", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		for _, to := range tenants {
			adam, owner := beginAs(t, db, fixtures.Adam, readCommitted), beginIn(t, db, pgtest.OwnerRole, readCommitted)
			_, err := adam.Exec(t.Context(), shared)
			require.NoError(t, err)
			became := running(t, owner, moves(to))
			waits(t, db, owner, adam)
			require.NoError(t, adam.Commit(t.Context()))
			require.Equal(t, done, <-became)
			require.NoError(t, owner.Commit(t.Context()))
			require.Empty(t, staleRows(t, db))
			require.Equal(t, in(to, 1), readers(t, db, "agents"))
			statement(unshared)(t, db)
		}
	})
	// As it started, the statement knows Adam as one of the old tenant's, who does not read the row that it would make.
	t.Run("a row that is shared second is refused, and shared with the new tenant when it is sent again", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		for _, to := range tenants {
			adam, owner := beginAs(t, db, fixtures.Adam, readCommitted), beginIn(t, db, pgtest.OwnerRole, readCommitted)
			_, err := owner.Exec(t.Context(), moves(to))
			require.NoError(t, err)
			became := running(t, adam, shared)
			waits(t, db, adam, owner)
			require.NoError(t, owner.Commit(t.Context()))
			require.Equal(t, rejected, <-became)
			require.NoError(t, adam.Rollback(t.Context()))

			again := beginAs(t, db, fixtures.Adam, readCommitted)
			_, err = again.Exec(t.Context(), shared)
			require.NoError(t, err)
			require.NoError(t, again.Commit(t.Context()))
			require.Empty(t, staleRows(t, db))
			require.Equal(t, in(to, 1), readers(t, db, "agents"))
			statement(unshared)(t, db)
		}
	})
	t.Run("many at once, as they come", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		const rounds = 15
		var writers []<-chan error
		refused := make(chan bool, 1000)
		for range 3 {
			conn := db.Connect(t, pgtest.APIRole)
			writers = append(writers, meanwhile(func() error {
				for range rounds {
					err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
						if err := callerOf(fixtures.Adam).speak(t.Context(), tx); err != nil {
							return err
						}
						_, err := tx.Exec(t.Context(), shares("agents"))
						return err
					})
					var failure *pgconn.PgError
					if errors.As(err, &failure) && failure.Message == fmt.Sprintf(ownerMoved, "agents") {
						refused <- true
					} else if err != nil {
						return err
					}
				}
				return nil
			}))
		}
		for i := range rounds {
			statement(moves(tenants[i%2]))(t, db)
		}
		for _, done := range writers {
			require.NoError(t, <-done)
		}
		require.Empty(t, staleRows(t, db))
		require.Equal(t, in(tenants[(rounds-1)%2], 3*rounds-len(refused)), readers(t, db, "agents"))
	})
	t.Run("a trigger in the place of the foreign key would leave it with the old tenant", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		statement(`
			alter table public.agents drop constraint fk_agents_owner_tenant;
			create function tenancy.move_agents() returns trigger language plpgsql as $$ begin
				update public.agents set owner_tenant_id = new.tenant_organization_id where owner_organization_id = new.id;
				return null;
			end $$;
			create trigger move_agents after update on public.organizations for each row
				when (new.tenant_organization_id is distinct from old.tenant_organization_id) execute function tenancy.move_agents()`)(t, db)
		adam, owner := beginAs(t, db, fixtures.Adam, readCommitted), beginIn(t, db, pgtest.OwnerRole, readCommitted)
		_, err := owner.Exec(t.Context(), moves(fixtures.DigitalHealth))
		require.NoError(t, err)
		became := running(t, adam, shares("agents"))
		waits(t, db, adam, owner)
		require.NoError(t, owner.Commit(t.Context()))
		require.Equal(t, done, <-became)
		require.NoError(t, adam.Commit(t.Context()))
		require.Equal(t, map[string]int{"agents": 1}, staleRows(t, db))
		require.Equal(t, in(fixtures.Pharmaceuticals, 1), readers(t, db, "agents"))
	})
}
