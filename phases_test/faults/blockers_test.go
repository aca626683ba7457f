package faults_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// blockers are in the way of a migration: somebody who has a table for himself, and a
// long report, which reads it.
var blockers = []blocker{
	{"has it for himself", false, "begin; lock table public.%s in access exclusive mode"},
	{"reads it", true, "begin isolation level repeatable read; lock table public.%s in access share mode; select"},
}

type blocker struct {
	name  string
	reads bool
	sql   string
}

// TestBlockers lets somebody hold a table for longer than a file waits for it at a time:
// it steps aside, again and again, and goes on when he has left.
func TestBlockers(t *testing.T) {
	t.Parallel()
	d := random(t)
	want, _ := undisturbed(t)
	db := pgtest.New(t, schema.Legacy, world...)
	d.travel(t, db, func(p passage) {
		tables := tablesOf(t, db)
		waited := 0
		choices := d.Perm(len(blockers) * len(tables))
		choices = choices[:min(d.kills, len(choices))]
		for i, choice := range choices {
			if i > 0 {
				p.back().run(t, db)
			}
			table, by := tables[choice/len(blockers)], blockers[choice%len(blockers)]
			met, err := behind(t, db, p, table, by)
			require.NoError(t, err, "%s, and as for %s, somebody %s", p, table, by.name)
			if met {
				waited++
			}
			want.reached(t, db, p.To())
		}
		t.Logf("%s: %d times behind somebody, and %d times in need of what he had", p, len(choices), waited)
	})
}

// patience is how long a file waits for a lock at most.
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
// has been in need of it for eight times as long as it waits at a time. It returns whether
// it was, and how it ended. While it waits behind a reader, other readers must not wait
// behind it.
func behind(t *testing.T, db *pgtest.DB, p passage, table string, by blocker) (met bool, end error) {
	t.Helper()
	f, err := p.File()
	require.NoError(t, err)
	runner, holder, reader := connect(t, db), connect(t, db), connect(t, db)
	_, err = holder.conn.Exec(t.Context(), fmt.Sprintf(by.sql, table))
	require.NoError(t, err)
	done := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		_, err := script.Run(ctx, runner.conn, f)
		done <- err
	})
	defer func() {
		stop()
		running.Wait()
		for _, s := range []*session{holder, reader, runner} {
			s.close(t)
		}
	}()

	var since time.Time
	for ; !met || time.Since(since) < 8*patience; time.Sleep(10 * time.Millisecond) {
		select {
		case end := <-done:
			return met, end
		default:
		}
		var waiting bool
		require.NoError(t, db.Superuser.QueryRow(t.Context(),
			`select $1::int = any (pg_blocking_pids($2::int))`, holder.pid(), runner.pid()).Scan(&waiting))
		if waiting && !met {
			met, since = true, time.Now()
		}
		if waiting && by.reads {
			_, err := reader.conn.Exec(t.Context(), "begin; set local lock_timeout = '1s'; lock table public."+table+" in access share mode; rollback")
			require.NoError(t, err, "%s makes everybody wait who reads %s", p, table)
		}
	}
	_, err = holder.conn.Exec(t.Context(), "rollback")
	require.NoError(t, err)
	select {
	case end = <-done:
	case <-time.After(time.Minute):
		require.Fail(t, "it does not go on", "%s, when nobody has %s any more", p, table)
	}
	return met, end
}
