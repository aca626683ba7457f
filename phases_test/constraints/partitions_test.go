package constraints_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
)

// partitions are those of the audit log, with their months.
const partitions = `
	select c.relname || ' ' || pg_get_expr(c.relpartbound, c.oid)
	from pg_inherits i join pg_class c on c.oid = i.inhrelid
	where i.inhparent = 'public.audit_logs'::regclass
	order by c.relname`

// entry is a row of the log, and where it is.
const entry = `insert into public.audit_logs (created_at, actor_role, action, resource_type) values ($1, 'service_role', 'UPDATE', 'agents')
	returning tableoid::regclass::text`

// The audit log's months: made ahead, and put away when they are old.
func testPartitions(t *testing.T) {
	t.Parallel()
	// ago is the middle of a month, so many years back.
	ago := func(years int) time.Time {
		now := time.Now().UTC()
		return time.Date(now.Year()-years, now.Month(), 15, 12, 0, 0, 0, time.UTC)
	}
	named := func(month time.Time) string { return "audit_logs_" + month.Format("200601") }
	// A database for each: two that make and drop partitions of one table may lock each other out.
	within := func(t *testing.T, f func(t *testing.T, tx pgx.Tx)) {
		t.Helper()
		db := phase3(t)
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		f(t, tx)
	}
	t.Run("what the default partition holds does not block its month: it moves there", func(t *testing.T) {
		t.Parallel()
		within(t, func(t *testing.T, tx pgx.Tx) {
			collect[int](t, tx, `select audit.make_partitions(3)`)
			later, before := time.Now().UTC().AddDate(0, 0, 200), ago(3)
			for _, at := range []time.Time{later, before, before.AddDate(0, 0, 1)} {
				require.Equal(t, []string{"audit.audit_logs_default"}, collect[string](t, tx, entry, at))
			}
			rows := collect[string](t, tx, `select md5(l::text) from public.audit_logs l order by id`)
			require.Equal(t, []int{2}, collect[int](t, tx, `select audit.make_partitions(1)`), "a month for each that it holds rows of")
			require.Equal(t, rows, collect[string](t, tx, `select md5(l::text) from public.audit_logs l order by id`))
			require.Equal(t, []string{"audit." + named(before), "audit." + named(before), "audit." + named(later)},
				collect[string](t, tx, `select tableoid::regclass::text from public.audit_logs order by created_at`))
		})
	})
	t.Run("a month is made like those that phase 3 made", func(t *testing.T) {
		t.Parallel()
		within(t, func(t *testing.T, tx pgx.Tx) {
			collect[string](t, tx, entry, ago(3))
			collect[int](t, tx, `select audit.make_partitions(1)`)
			const definition = `
				select string_agg(d.line, e'\n' order by d.line)
				from (
					select format('%s %s %s', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull) as line
					from pg_attribute a where a.attrelid = $1::text::regclass and a.attnum > 0
					union all select pg_get_constraintdef(oid) from pg_constraint where conrelid = $1::text::regclass
					union all select replace(pg_get_indexdef(indexrelid), right($1, 6), 'YYYYMM') from pg_index where indrelid = $1::text::regclass
					union all select coalesce(relacl::text, 'nobody but the owner') from pg_class where oid = $1::text::regclass
				) as d`
			made := collect[string](t, tx, definition, "audit."+named(ago(3)))
			require.Contains(t, made[0], "PRIMARY KEY")
			require.Equal(t, collect[string](t, tx, `select c.oid::regclass::text from pg_class c where c.relname = $1`, named(ago(3))), []string{"audit." + named(ago(3))})
			require.Equal(t, collect[string](t, tx, definition, "audit."+named(time.Now().UTC())), made)
		})
	})
	t.Run("the months are UTC's, wherever the session is", func(t *testing.T) {
		t.Parallel()
		within(t, func(t *testing.T, tx pgx.Tx) {
			collect[int](t, tx, `select audit.make_partitions(9)`)
			_, err := tx.Exec(t.Context(), `set local timezone = 'UTC'`)
			require.NoError(t, err)
			wanted := collect[string](t, tx, partitions)
			require.GreaterOrEqual(t, len(wanted), 10)
			_, err = tx.Exec(t.Context(), `
				do $$ declare t text; begin
					for t in select c.oid::regclass from pg_class c join pg_inherits i on i.inhrelid = c.oid
						where i.inhparent = 'public.audit_logs'::regclass and c.relname <> 'audit_logs_default' loop execute 'drop table ' || t; end loop;
				end $$;
				set local timezone = 'America/Los_Angeles'; select audit.make_partitions(9); set local timezone = 'UTC'`)
			require.NoError(t, err)
			require.Equal(t, wanted, collect[string](t, tx, partitions))
		})
	})
	t.Run("nobody who writes waits for a month that is being made, nor is waited for", func(t *testing.T) {
		t.Parallel()
		db := phase3(t)
		write := func(tx pgx.Tx) {
			_, err := tx.Exec(t.Context(), `set local lock_timeout = '10ms'`)
			require.NoError(t, err)
			require.Equal(t, []string{"audit." + named(time.Now().UTC())}, collect[string](t, tx, entry, time.Now()))
		}
		writer, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer writer.Rollback(t.Context())
		write(writer)
		hold(t, db, `select audit.make_partitions(6)`)
		other, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer other.Rollback(t.Context())
		write(other)
	})
	t.Run("behind a report it gives up, before anybody notices", func(t *testing.T) {
		t.Parallel()
		db := phase3(t)
		hold(t, db, `select from public.audit_logs`)
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		refused(t, tx, `select audit.make_partitions(6)`, nil, "55P03")
		require.Equal(t, []int{0}, collect[int](t, db.Owner, `select audit.make_partitions(1)`), "with nothing to do, it waits for nobody")
	})
	// A row that somebody wrote in between would belong to the new month, and stand in its way.
	t.Run("nobody writes to the default partition from before its rows move until their month is there", func(t *testing.T) {
		t.Parallel()
		db := phase3(t)
		collect[string](t, db.Owner, entry, ago(3))
		// Looked at from within: what another session meets depends on when it comes.
		phasetest.Exec(t, db, `
			create function public.look() returns trigger language plpgsql as $$
			begin
				if not exists (select from pg_locks where pid = pg_backend_pid() and relation = tg_relid and mode = 'AccessExclusiveLock' and granted) then
					raise exception 'others may write meanwhile';
				end if;
				return null;
			end $$;
			create trigger look before delete on audit.audit_logs_default for each statement execute function public.look()`)
		require.Equal(t, []int{1}, collect[int](t, db.Owner, `select audit.make_partitions(1)`))
	})
	t.Run("what is older than seven years is detached, with its rows, where nobody but the owner gets", func(t *testing.T) {
		t.Parallel()
		db := phase3(t)
		for _, at := range []time.Time{ago(8), ago(7).AddDate(0, -1, 0), ago(7), ago(6)} {
			collect[string](t, db.Owner, entry, at)
		}
		require.Equal(t, []int{4}, collect[int](t, db.Owner, `select audit.make_partitions(1)`))
		// A namesake in the caller's search_path is not taken for what it means.
		phasetest.Exec(t, db, `
			create function public.right(name, integer) returns text language sql as $$ select '299901' $$;
			create function public.format(text, name) returns text language sql as $$ select 'drop table public.messages' $$`)
		phasetest.Exec(t, db, `call audit.detach_partitions()`)
		const left = `select tableoid::regclass::text from public.audit_logs order by created_at`
		require.Equal(t, []string{"audit." + named(ago(7)), "audit." + named(ago(6))}, collect[string](t, db.Owner, left))
		for _, month := range []time.Time{ago(8), ago(7).AddDate(0, -1, 0)} {
			require.Equal(t, []int{1}, collect[int](t, db.Owner, `select count(*) from audit.`+named(month)))
			for _, who := range []actor.Actor{actor.Anonymous(), actor.User(fixtures.Adam.ID), actor.Service()} {
				do(t, db, who, func(tx pgx.Tx) { refused(t, tx, `select from audit.`+named(month), nil, insufficientPrivilege) })
			}
		}
		phasetest.Exec(t, db, `call audit.detach_partitions()`)
		require.Len(t, collect[string](t, db.Owner, left), 2, "once")
		phasetest.Exec(t, db, `call audit.detach_partitions(interval '1 year')`)
		require.Empty(t, collect[string](t, db.Owner, left), "sooner, if it is told so")
	})
	t.Run("the oldest goes first, so that what is left has no hole, and the session is left as it was", func(t *testing.T) {
		t.Parallel()
		db := phase3(t)
		for _, years := range []int{9, 8, 11, 10} {
			collect[string](t, db.Owner, entry, ago(years))
			collect[int](t, db.Owner, `select audit.make_partitions(1)`)
		}
		var said []string
		config := db.Config(t, pgtest.OwnerRole)
		config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { said = append(said, n.Message) }
		conn, err := pgx.ConnectConfig(t.Context(), config)
		require.NoError(t, err)
		defer conn.Close(t.Context())
		path := collect[string](t, conn, `show search_path`)
		_, err = conn.Exec(t.Context(), `call audit.detach_partitions()`)
		require.NoError(t, err)
		want := []string{}
		for _, years := range []int{11, 10, 9, 8} {
			want = append(want, "detached audit."+named(ago(years)))
		}
		require.Equal(t, want, said)
		require.Equal(t, path, collect[string](t, conn, `show search_path`))
	})
	t.Run("a month is old at the instant that its last row is", func(t *testing.T) {
		t.Parallel()
		db := phase3(t)
		collect[string](t, db.Owner, entry, ago(8))
		collect[int](t, db.Owner, `select audit.make_partitions(1)`)
		// In UTC all days have 24 hours, and now() is the same instant in the argument as in the procedure.
		conn := db.Connect(t, pgtest.OwnerRole)
		_, err := conn.Exec(t.Context(), `set timezone = 'UTC'`)
		require.NoError(t, err)
		end := time.Date(ago(8).Year(), ago(8).Month()+1, 1, 0, 0, 0, 0, time.UTC)
		for _, step := range []struct {
			until time.Time
			left  int
		}{{end.Add(-time.Microsecond), 1}, {end, 0}} {
			_, err := conn.Exec(t.Context(), `call audit.detach_partitions(now() - '`+step.until.Format(time.RFC3339Nano)+`')`)
			require.NoError(t, err)
			require.Equal(t, []int{step.left}, collect[int](t, conn, `select count(*) from public.audit_logs`), step.until)
		}
	})
	t.Run("nothing is detached by mistake", func(t *testing.T) {
		t.Parallel()
		within(t, func(t *testing.T, tx pgx.Tx) {
			for _, keep := range []string{`null`, `interval '0'`, `interval '-7 years'`, `interval '29 days'`} {
				undo := savepoint(t, tx)
				refused(t, tx, `call audit.detach_partitions(`+keep+`)`, nil, "22023")
				undo()
			}
		})
		db := phase3(t)
		phasetest.Exec(t, db, `
			create table public.readings (at timestamptz) partition by range (at);
			create table public.audit_logs_200101 partition of public.readings default`)
		before := collect[string](t, db.Owner, partitions)
		phasetest.Exec(t, db, `call audit.detach_partitions(interval '1 month')`)
		require.Equal(t, before, collect[string](t, db.Owner, partitions), "a month may be all that is kept")
		require.Equal(t, []bool{true}, collect[bool](t, db.Owner, `select relispartition from pg_class where oid = 'public.audit_logs_200101'::regclass`),
			"a namesake is another table's")
	})
}
