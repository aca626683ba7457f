package faults_test

import (
	"context"
	"errors"
	"slices"
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

// blockers are in the way of a migration: somebody who has a table for himself, and a
// long report, which reads it.
var blockers = map[string]string{
	"has it for himself": `begin; lock table %s in access exclusive mode`,
	"reads it":           `begin isolation level repeatable read; lock table %s in access share mode; select`,
}

// TestBlockers lets somebody hold a table for longer than each file waits for it. What is
// one transaction gives up, and has done nothing; what is many goes on when he has left.
func TestBlockers(t *testing.T) {
	t.Parallel()
	n := kills(t)
	choose := chance(t)
	db := pgtest.New(t, schema.Legacy, world...)
	want := undisturbed(t, db, func(p passage) { p.run(t, db) })
	for _, p := range journey() {
		tables := tablesOf(t, db)
		waited := 0
		choices := choose.Perm(2 * len(tables))
		for i, choice := range choices[:min(n, len(choices))] {
			if i > 0 {
				p.back().run(t, db)
			}
			table, how := tables[choice/2], []string{"has it for himself", "reads it"}[choice%2]
			met, err := behind(t, db, p, table, how)
			if met {
				waited++
			}
			if err == nil {
				want.reached(t, db, p.to())
				continue
			}
			require.True(t, p.atomic(), "%s gave up on %s, which somebody %s: %s", p, table, how, err)
			refusal, ok := errors.AsType[*pgconn.PgError](err)
			require.True(t, ok, "%s", err)
			require.Equal(t, "55P03", refusal.Code, "%s behind somebody who has %s and %s: %s", p, table, how, err)
			want.between(t, db, p)
			want.recovers(t, db, p, choose)
		}
		t.Logf("%s: %d times behind somebody, and %d times in need of what he had", p, min(n, len(choices)), waited)
	}
}

// patience is how long a file waits for a lock here at most. Those that are one
// transaction are given this much in place of their 2 s, for the test's sake.
const patience = 200 * time.Millisecond

// tablesOf returns the tables that the application uses.
func tablesOf(t *testing.T, db *pgtest.DB) []string {
	t.Helper()
	rows, err := db.Superuser.Query(t.Context(), `select oid::regclass::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')`)
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Subset(t, tables, []string{"organizations", "users", "user_organizations", "agents", "conversations", "messages"})
	slices.Sort(tables)
	return tables
}

// behind runs a file while somebody holds a table, who leaves when the file has ended, or
// has tried for eight times as long as it waits at a time. It returns whether it was in
// need of the table, and how it ended. While it waits behind a reader, other readers must
// not wait behind it.
func behind(t *testing.T, db *pgtest.DB, p passage, table, how string) (met bool, end error) {
	t.Helper()
	f, err := p.file()
	require.NoError(t, err)
	if p.atomic() {
		const statement = "set local lock_timeout = '2s';"
		require.Equal(t, 1, strings.Count(f.SQL, statement), p)
		f.SQL = strings.Replace(f.SQL, statement, "set local lock_timeout = '200ms';", 1)
	}
	runner, blocker, reader := db.Connect(t, pgtest.OwnerRole), db.Connect(t, pgtest.OwnerRole), db.Connect(t, pgtest.OwnerRole)
	_, err = blocker.Exec(t.Context(), strings.ReplaceAll(blockers[how], "%s", "public."+table))
	require.NoError(t, err)
	pid, done := int(runner.PgConn().PID()), make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		_, err := script.Run(ctx, runner, f)
		done <- err
	}()
	defer func() {
		_ = runner.Close(t.Context())
		gone(t, db, pid)
	}()

	var since time.Time
	for ; !met || time.Since(since) < 8*patience; time.Sleep(10 * time.Millisecond) {
		select {
		case end := <-done:
			_, err := blocker.Exec(t.Context(), "rollback")
			require.NoError(t, err)
			return met || end != nil, end
		default:
		}
		var waiting bool
		require.NoError(t, db.Superuser.QueryRow(t.Context(),
			`select $1::int = any (pg_blocking_pids($2::int))`, int(blocker.PgConn().PID()), pid).Scan(&waiting))
		if waiting && !met {
			met, since = true, time.Now()
		}
		if waiting && how == "reads it" {
			_, err := reader.Exec(t.Context(), "begin; set local lock_timeout = '1s'; lock table public."+table+" in access share mode; rollback")
			require.NoError(t, err, "%s makes everybody wait who reads %s", p, table)
		}
	}
	_, err = blocker.Exec(t.Context(), "rollback")
	require.NoError(t, err)
	select {
	case end = <-done:
	case <-time.After(time.Minute):
		require.Fail(t, "it does not go on", "%s, when nobody has %s any more", p, table)
	}
	return met, end
}
