package script_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// patient tries again what was refused, for longer than any test takes.
const patience = time.Minute

func TestRefusedLock(t *testing.T) {
	t.Parallel()
	const adding = "begin;\nset local lock_timeout = '1s';\ninsert into kept values (1);\nalter table contested add column added int;\ncommit;\n"
	t.Run("the transaction is run again from its beginning, and once", func(t *testing.T) {
		t.Parallel()
		db := contested(t)
		other := hold(t, db, "lock table contested in access share mode")
		log, err := script.Runner{Patience: patience, Watch: true, Report: onRefusal(other.release)}.
			Run(t.Context(), connect(t, db.Config(t, pgtest.OwnerRole)), file("select 'before';\n"+adding+"select 'after';"))
		require.NoError(t, err)
		require.Equal(t, []string{"SELECT 1", "BEGIN", "SET", "INSERT 0 1", "ALTER TABLE", "COMMIT", "SELECT 1"}, tags(log.Steps))
		require.Equal(t, 1, count(t, db, "select count(*) from kept"))

		require.Len(t, log.Refused, 1)
		attempt := log.Refused[0]
		require.Equal(t, 2, attempt.From)
		require.Equal(t, []string{"BEGIN", "SET", "INSERT 0 1", ""}, tags(attempt.Steps))
		require.ErrorContains(t, attempt.Err, "canceling statement due to lock timeout (SQLSTATE 55P03)")
		require.Positive(t, attempt.Pause)
		require.Len(t, attempt.Blockers, 1)
		require.Equal(t, other.pid, attempt.Blockers[0].PID)
	})
	t.Run("a statement that is a transaction by itself is run again by itself", func(t *testing.T) {
		t.Parallel()
		db := contested(t)
		other := hold(t, db, "lock table contested in access share mode")
		log, err := script.Runner{Patience: patience, Report: onRefusal(other.release)}.
			Run(t.Context(), connect(t, db.Config(t, pgtest.OwnerRole)), file(`
				set lock_timeout = '50ms';
				select 'insert into kept values (1)', '-- again' || chr(10) || 'alter table contested add column added int', 'insert into kept values (2)'
				\gexec
			`))
		require.NoError(t, err)
		require.Equal(t, []string{"SET", "SELECT 1", "INSERT 0 1", "ALTER TABLE", "INSERT 0 1"}, tags(log.Steps))
		require.Equal(t, 2, count(t, db, "select count(*) from kept"))
		require.Len(t, log.Refused, 1)
		require.Equal(t, []string{""}, tags(log.Refused[0].Steps))
		require.Empty(t, log.Refused[0].Blockers, "nobody looks on")
	})
	t.Run("a transaction that was chosen to end a deadlock is run again", func(t *testing.T) {
		t.Parallel()
		db := contested(t)
		other, runner := hold(t, db, "set local deadlock_timeout = '1min'; lock table contested"), connect(t, db.Config(t, ""))
		returned := make(chan error, 1)
		log, err := script.Runner{Patience: patience, Report: func(e script.Event) {
			if step, ok := e.(script.Step); ok && step.SQL == "lock table kept;" && len(returned) == 0 {
				if other.conn == nil {
					return
				}
				conn := other.conn
				other.conn = nil
				go func() {
					_, err := conn.Exec(context.WithoutCancel(t.Context()), "lock table kept; rollback")
					returned <- err
				}()
				for count(t, db, fmt.Sprintf("select cardinality(pg_blocking_pids(%d))", other.pid)) == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		}}.Run(t.Context(), runner, file("begin; set local deadlock_timeout = '10ms';\nlock table kept;\nlock table contested; insert into kept values (1); commit;"))
		require.NoError(t, err)
		require.NoError(t, <-returned)
		require.Equal(t, 1, count(t, db, "select count(*) from kept"))
		require.Len(t, log.Refused, 1)
		require.ErrorContains(t, log.Refused[0].Err, "deadlock detected (SQLSTATE 40P01)")
	})
	for name, sql := range map[string]string{
		"a block, which may have committed a part":            "do $$ begin insert into kept values (1); commit; lock table contested; end $$;",
		"a procedure, which may have committed a part":        "call part();",
		"what runs concurrently, and leaves half an index":    "insert into kept values (1); create index concurrently on contested (id);",
		"a transaction of which a part is committed":          "begin; insert into kept values (1); commit and chain; lock table contested; commit;",
		"a transaction that was taken back to its beginning":  "insert into kept values (1); begin; savepoint s; rollback to s; lock table contested; commit;",
		"anything that fails for another reason than a lock;": "insert into kept values (1); begin; lock table kept; select 1/0;",
	} {
		t.Run("not run again is "+name, func(t *testing.T) {
			t.Parallel()
			db := contested(t)
			hold(t, db, "lock table contested in share mode; insert into contested values (1)")
			log, err := script.Runner{Patience: patience}.
				Run(t.Context(), connect(t, db.Config(t, pgtest.OwnerRole)), file("set lock_timeout = '20ms';\n"+sql))
			require.Error(t, err)
			require.LessOrEqual(t, len(log.Refused), 1)
			for _, attempt := range log.Refused {
				require.Zero(t, attempt.Pause)
			}
			require.Equal(t, 1, count(t, db, "select count(*) from kept"))
		})
	}
	t.Run("Run itself is not patient", func(t *testing.T) {
		t.Parallel()
		db := contested(t)
		hold(t, db, "lock table contested")
		log, err := db.Run(t, file(adding))
		require.ErrorContains(t, err, "x.sql:4: canceling statement due to lock timeout (SQLSTATE 55P03)")
		require.Len(t, log.Refused, 1)
		require.Equal(t, []string{"BEGIN", "SET", "INSERT 0 1"}, tags(log.Steps))
	})
	t.Run("patience ends in an error that says who is in the way, and what to do", func(t *testing.T) {
		t.Parallel()
		db := contested(t)
		other := hold(t, db, "lock table contested\n-- for ever")
		_, err := script.Runner{Patience: 2 * time.Second, Watch: true}.
			Run(t.Context(), connect(t, db.Config(t, pgtest.OwnerRole)), file(adding))
		refusal, ok := errors.AsType[*script.Error](err)
		require.True(t, ok, "%v", err)
		require.Greater(t, refusal.Attempts, 1)
		require.Len(t, refusal.Blockers, 1)
		require.WithinDuration(t, time.Now(), refusal.Blockers[0].Since, time.Minute)
		require.Equal(t, fmt.Sprintf(`x.sql:4: canceling statement due to lock timeout (SQLSTATE 55P03)
    alter table contested add column added int;
TRIED: %d times
BLOCKED BY: pid %d, user tenancy_owner, application "holder", idle in transaction since %s: begin; lock table contested …
HINT: Wait until that has ended, or end it (select pg_terminate_backend(%[2]d)), then run this again.`,
			refusal.Attempts, other.pid, refusal.Blockers[0].Since.UTC().Format("15:04:05 MST")), err.Error())
		require.Zero(t, count(t, db, "select count(*) from kept"))
	})
	t.Run("a prepared transaction in the way has no session to end", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, "a prepared transaction: select * from pg_prepared_xacts", script.Blocker{}.String())
	})
	t.Run("who is impatient at the keyboard ends the waiting", func(t *testing.T) {
		t.Parallel()
		db := contested(t)
		hold(t, db, "lock table contested")
		ctx, stop := context.WithCancel(t.Context())
		_, err := script.Runner{Patience: patience, Watch: true, Report: onRefusal(stop)}.
			Run(ctx, connect(t, db.Config(t, pgtest.OwnerRole)), file(adding))
		require.ErrorContains(t, err, "canceling statement due to lock timeout")
		require.Zero(t, count(t, db, "select count(*) from kept"))
	})
}

func TestLocks(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, db *pgtest.DB, sql string) *script.Log {
		t.Helper()
		log, err := script.Runner{Watch: true}.Run(t.Context(), connect(t, db.Config(t, pgtest.OwnerRole)), file(sql))
		require.NoError(t, err)
		require.NoError(t, log.WatchErr)
		return log
	}
	t.Run("a lock is held until its transaction ends", func(t *testing.T) {
		t.Parallel()
		log := run(t, contested(t), "begin; select pg_sleep(0.2); lock table contested; select pg_sleep(0.2); commit;")
		l := lock(t, log.Locks(), "AccessExclusiveLock", "public.contested")
		require.Zero(t, l.Waited)
		require.GreaterOrEqual(t, l.Held, 200*time.Millisecond)
		require.LessOrEqual(t, l.Held, total(log)-200*time.Millisecond+log.Resolution, "it was not yet held during the first sleep")
		require.Equal(t, []script.Lock{l}, log.Steps[2].Locks, "whoever took it")
	})
	t.Run("no lock of a transaction is missed, however short, and system tables are left out", func(t *testing.T) {
		t.Parallel()
		log := run(t, contested(t), "begin; lock table contested in share mode; update kept set id = 1; select from pg_class limit 1; create table mine (id int); commit;")
		var got []string
		for _, l := range log.Locks() {
			require.Positive(t, l.Held)
			got = append(got, l.Mode+" "+l.Relation)
		}
		require.Equal(t, []string{"ShareLock public.contested", "RowExclusiveLock public.kept"}, got)
	})
	t.Run("who commits in between holds each lock for as long as one transaction", func(t *testing.T) {
		t.Parallel()
		log := run(t, contested(t), `do $$ begin for i in 1..5 loop lock table contested; perform pg_sleep(0.1); commit; end loop; end $$;`)
		l := lock(t, log.Steps[0].Locks, "AccessExclusiveLock", "public.contested")
		require.GreaterOrEqual(t, l.Held, 100*time.Millisecond)
		require.LessOrEqual(t, l.Held, log.Steps[0].Duration-400*time.Millisecond+2*log.Resolution)
	})
	for name, test := range map[string]struct{ held, sql, mode, relation string }{
		"a table":                          {"lock table contested", "alter table contested add column added int;", "AccessExclusiveLock", "public.contested"},
		"a row":                            {"update kept set id = 2", "update kept set id = 3;", "row", "public.kept"},
		"everybody who may see old rows":   {"insert into contested values (1)", "create index concurrently on contested (id);", "ShareLock", "virtualxid"},
		"what a session has agreed on":     {"select pg_advisory_xact_lock(1)", "select pg_advisory_lock(1);", "ExclusiveLock", "advisory"},
		"a table, in the midst of a block": {"lock table contested", "do $$ begin lock table kept; commit; lock table contested; end $$;", "AccessExclusiveLock", "public.contested"},
	} {
		t.Run("a wait is noted, and told while it lasts: for "+name, func(t *testing.T) {
			t.Parallel()
			db := contested(t)
			_, err := db.Owner.Exec(t.Context(), "insert into kept values (1)")
			require.NoError(t, err)
			other := hold(t, db, test.held)
			var waiting []script.Waiting
			log, err := script.Runner{Watch: true, Report: func(e script.Event) {
				if w, ok := e.(script.Waiting); ok {
					waiting = append(waiting, w)
					other.release()
				}
			}}.Run(t.Context(), connect(t, db.Config(t, pgtest.OwnerRole)), file(test.sql))
			require.NoError(t, err)
			require.Len(t, waiting, 1)
			require.Equal(t, test.mode+" "+test.relation, waiting[0].For.Mode+" "+waiting[0].For.Relation)
			require.Len(t, waiting[0].Blockers, 1)
			require.Equal(t, other.pid, waiting[0].Blockers[0].PID)
			l := lock(t, log.Steps[0].Locks, test.mode, test.relation)
			require.GreaterOrEqual(t, l.Waited, waiting[0].For.Waited)
			require.LessOrEqual(t, l.Waited, log.Steps[0].Duration+log.Resolution)
		})
	}
	t.Run("what a refused attempt held and waited for counts", func(t *testing.T) {
		t.Parallel()
		db := contested(t)
		other := hold(t, db, "lock table contested")
		log, err := script.Runner{Watch: true, Patience: patience, Report: onRefusal(other.release)}.
			Run(t.Context(), connect(t, db.Config(t, pgtest.OwnerRole)),
				file("begin; lock table kept; set local lock_timeout = '200ms'; lock table contested; commit;"))
		require.NoError(t, err)
		require.GreaterOrEqual(t, lock(t, log.Locks(), "AccessExclusiveLock", "public.kept").Held, 190*time.Millisecond)
		require.GreaterOrEqual(t, lock(t, log.Locks(), "AccessExclusiveLock", "public.contested").Waited, 190*time.Millisecond)
	})
	t.Run("others notice each wait, and the locks that are the strongest while they are held", func(t *testing.T) {
		t.Parallel()
		all := []script.Lock{
			{Relation: "a", Mode: "AccessExclusiveLock", Held: 2},
			{Relation: "a", Mode: "ShareLock", Held: 2},
			{Relation: "a", Mode: "RowExclusiveLock", Held: 3},
			{Relation: "a", Mode: "row", Waited: 1},
			{Relation: "b", Mode: "AccessExclusiveLock", Waited: 4},
			{Relation: "b", Mode: "RowShareLock", Held: 5},
			{Relation: "b", Mode: "AccessShareLock", Waited: 6, Held: 7},
		}
		require.Equal(t, []script.Lock{all[0], all[2], all[3], all[4], all[6]}, script.Noticeable(all))
	})
	t.Run("the run goes on when who looks on is gone, and the log says so", func(t *testing.T) {
		t.Parallel()
		log, err := script.Runner{Watch: true}.Run(t.Context(), connect(t, contested(t).Config(t, pgtest.OwnerRole)), file(`
			begin;
			select pg_terminate_backend(pid, 30000) from pg_stat_activity
			where application_name like '%(watches ' || pg_backend_pid() || ')';
			insert into kept values (1);
			commit;`))
		require.NoError(t, err)
		require.Equal(t, []string{"BEGIN", "SELECT 1", "INSERT 0 1", "COMMIT"}, tags(log.Steps))
		require.Error(t, log.WatchErr)
	})
}

func TestEvents(t *testing.T) {
	t.Parallel()
	t.Run("everything is told in the order in which it happens", func(t *testing.T) {
		t.Parallel()
		var told []string
		_, err := script.Runner{Report: func(e script.Event) {
			switch e := e.(type) {
			case script.Statement:
				told = append(told, fmt.Sprintf("%d begins", e.Line))
			case script.Notice:
				told = append(told, string(e))
			case script.Step:
				told = append(told, e.Tag)
			case script.Transaction:
				told = append(told, strings.Join(tags(e), ", ")+" is kept")
			}
		}}.Run(t.Context(), connect(t, contested(t).Config(t, pgtest.OwnerRole)),
			file("begin;\ninsert into kept values (1);\ncommit;\ndo $$ begin raise notice 'now'; end $$;\nselect 'select 1'\n\\gexec\n"))
		require.NoError(t, err)
		require.Equal(t, []string{
			"1 begins", "BEGIN", "2 begins", "INSERT 0 1", "3 begins", "COMMIT", "BEGIN, INSERT 0 1, COMMIT is kept",
			"4 begins", "NOTICE: now", "DO", "DO is kept",
			"5 begins", "SELECT 1", "SELECT 1 is kept", "5 begins", "SELECT 1", "SELECT 1 is kept",
		}, told)
	})
}

// contested is a database with two tables, and a procedure that commits a part of what it does.
func contested(t *testing.T) *pgtest.DB {
	t.Helper()
	db := pgtest.Empty(t)
	_, err := db.Owner.Exec(t.Context(), `
		create table contested (id int);
		create table kept (id int);
		create procedure part() language plpgsql as $$ begin insert into kept values (1); commit; lock table contested; end $$`,
		pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	return db
}

// holder is a transaction that is open until it is released.
type holder struct {
	t    *testing.T
	conn *pgx.Conn
	pid  int
}

func hold(t *testing.T, db *pgtest.DB, sql string) *holder {
	t.Helper()
	cfg := db.Config(t, pgtest.OwnerRole)
	if strings.Contains(sql, "deadlock_timeout") {
		cfg = db.Config(t, "") // a superuser's to set
	}
	cfg.RuntimeParams["application_name"] = "holder"
	h := &holder{t, connect(t, cfg), 0}
	_, err := h.conn.Exec(t.Context(), "begin; "+sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	h.pid = int(h.conn.PgConn().PID())
	return h
}

// release may be called by any goroutine.
func (h *holder) release() {
	if _, err := h.conn.Exec(h.t.Context(), "rollback"); err != nil {
		h.t.Errorf("release: %v", err)
	}
}

// onRefusal does something when a lock is refused for the first time.
func onRefusal(do func()) func(script.Event) {
	done := false
	return func(e script.Event) {
		if _, refused := e.(script.Attempt); refused && !done {
			done = true
			do()
		}
	}
}

func file(sql string) schema.File { return schema.File{Origin: "x.sql", SQL: sql} }

func tags(steps []script.Step) (all []string) {
	for _, step := range steps {
		all = append(all, step.Tag)
	}
	return all
}

func total(log *script.Log) (all time.Duration) {
	for _, step := range log.Steps {
		all += step.Duration
	}
	return all
}

func lock(t *testing.T, all []script.Lock, mode, relation string) script.Lock {
	t.Helper()
	for _, l := range all {
		if l.Mode == mode && l.Relation == relation {
			return l
		}
	}
	require.Failf(t, "no such lock", "want %s on %s, got %v", mode, relation, all)
	return script.Lock{}
}

func count(t *testing.T, db *pgtest.DB, sql string) (n int) {
	t.Helper()
	require.NoError(t, db.Owner.QueryRow(t.Context(), sql).Scan(&n))
	return n
}
