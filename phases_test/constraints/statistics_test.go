package constraints_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/phasetest"
)

// stats is a row of organization_stats.
type stats struct {
	ID, Name                                                    string
	Type                                                        fixtures.Level
	Private, Tenant, Platform, Agents, Documents, Talks, People int
	HasTalks, HasAgents                                         bool // whether the times of the latest ones are there
}

const statistics = `
	select organization_id::text, organization_name, organization_type::text,
		private_agents_count, tenant_agents_count, platform_agents_count, total_agents_count,
		knowledge_docs_count, conversations_count, active_users_count,
		last_conversation_at is not null, last_agent_created_at is not null
	from public.organization_stats
	order by organization_id`

// expectedStatistics counts in the fixtures, by organization.
func expectedStatistics() map[string]stats {
	all := map[string]stats{}
	names := map[string]string{
		fixtures.QuarantineTenantID:       fixtures.QuarantineTenantName,
		fixtures.QuarantineOrganizationID: fixtures.QuarantineOrganizationName,
	}
	for _, o := range fixtures.Organizations {
		names[o.After.ID] = o.Name
	}
	for id, o := range organizations() {
		s := stats{ID: id, Name: names[id], Type: o.Type}
		for _, a := range fixtures.Agents {
			if a.Deleted || a.After.Owner != id {
				continue
			}
			s.Agents++
			switch a.After.Scope {
			case fixtures.PlatformLevel:
				s.Platform++
			case fixtures.TenantLevel:
				s.Tenant++
			default:
				s.Private++
			}
		}
		for _, d := range fixtures.Documents {
			if !d.Deleted && d.After.Owner == id {
				s.Documents++
			}
		}
		for _, c := range fixtures.Conversations {
			if !c.Deleted && c.After.Owner == id {
				s.Talks++
			}
		}
		for _, m := range fixtures.Memberships {
			if m.Active && fixtures.AfterID(m.OrganizationID) == id {
				s.People++
			}
		}
		s.HasTalks, s.HasAgents = s.Talks > 0, s.Agents > 0
		all[id] = s
	}
	return all
}

func readStatistics(t testing.TB, tx pgx.Tx) map[string]stats {
	t.Helper()
	rows, err := tx.Query(t.Context(), statistics)
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stats])
	require.NoError(t, err)
	all := map[string]stats{}
	for _, s := range list {
		require.NotContains(t, all, s.ID, "one row for each organization")
		all[s.ID] = s
	}
	return all
}

func testStatistics(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-3/verify-materialized-view")
	db := phase3(t)
	t.Run("count each organization's own, and counts do not multiply each other", func(t *testing.T) {
		wanted := expectedStatistics()
		novartis := wanted[fixtures.Novartis.ID]
		for _, count := range []int{novartis.Agents, novartis.Documents, novartis.Talks, novartis.People} {
			require.Greater(t, count, 1, "Novartis must have two of each, or nothing multiplies")
		}
		do(t, db, actor.Service(), func(tx pgx.Tx) { require.Equal(t, wanted, readStatistics(t, tx)) })
	})
	t.Run("show a user its own organizations, and the backend all", func(t *testing.T) {
		eachUser(t, db, func(tx pgx.Tx, user fixtures.User) {
			wanted := map[string]stats{}
			for id := range memberships(user) {
				wanted[id] = expectedStatistics()[id]
			}
			require.Equal(t, wanted, readStatistics(t, tx), user.Name)
		})
		require.Len(t, memberships(fixtures.Max), 2)
	})
	t.Run("show nothing to who is not signed in", func(t *testing.T) {
		do(t, db, actor.Anonymous(), func(tx pgx.Tx) { refused(t, tx, statistics, nil, insufficientPrivilege) })
		do(t, db, actor.User(""), func(tx pgx.Tx) { require.Empty(t, readStatistics(t, tx)) })
	})
	t.Run("are out of reach in the materialised view itself", func(t *testing.T) {
		for name, who := range map[string]actor.Actor{"anonymous": actor.Anonymous(), "a user": actor.User(fixtures.Alice.ID), "the backend": actor.Service()} {
			do(t, db, who, func(tx pgx.Tx) {
				defer savepoint(t, tx)()
				refusal := refused(t, tx, `select from tenancy.organization_stats`, nil, insufficientPrivilege)
				require.Equal(t, "permission denied for schema tenancy", refusal.Message, name)
			})
			require.Equal(t, []bool{false}, collect[bool](t, db.Owner, `
				select coalesce(bool_or(has_table_privilege(r.rolname, 'tenancy.organization_stats', p.privilege)), false)
				from unnest(array['anon', 'authenticated', 'service_role']) as r (rolname),
					unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) as p (privilege)`), "even if the schema were open")
		}
	})
	t.Run("cannot be written", func(t *testing.T) {
		do(t, db, actor.Service(), func(tx pgx.Tx) {
			refused(t, tx, `delete from public.organization_stats`, nil, insufficientPrivilege, notInPrerequisiteState)
		})
	})
	t.Run("are made anew while somebody reads them, and then show what has changed", func(t *testing.T) {
		t.Parallel()
		db := phase3(t)
		do(t, db, actor.User(fixtures.Alice.ID), func(reader pgx.Tx) {
			before := readStatistics(t, reader)[fixtures.Novartis.ID]
			phasetest.Exec(t, db, `insert into public.agents (name, owner_organization_id, sharing_scope) values ('New', '`+fixtures.Novartis.ID+`', 'tenant')`)
			require.Equal(t, before, readStatistics(t, reader)[fixtures.Novartis.ID], "not before they are made anew")
			// The reader's transaction holds its lock on the materialised view.
			do(t, db, actor.Service(), func(tx pgx.Tx) {
				_, err := tx.Exec(t.Context(), `set local lock_timeout = '1s'; select public.refresh_organization_stats()`)
				require.NoError(t, err)
				after := before
				after.Agents, after.Tenant = after.Agents+1, after.Tenant+1
				require.Equal(t, after, readStatistics(t, tx)[fixtures.Novartis.ID])
			})
		})
	})
	t.Run("say since when they are what they are", func(t *testing.T) {
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		const made = `select name || case when refreshed_at = now() then ' now' else ' before' end from tenancy.refreshed_statistics`
		require.Equal(t, []string{"organization_stats before"}, collect[string](t, tx, made), "by the migration")
		_, err = tx.Exec(t.Context(), `select public.refresh_organization_stats()`)
		require.NoError(t, err)
		require.Equal(t, []string{"organization_stats now"}, collect[string](t, tx, made))
	})
	t.Run("leave out an organization that is deleted", func(t *testing.T) {
		t.Parallel()
		do(t, phase3(t), actor.Service(), func(tx pgx.Tx) {
			_, err := tx.Exec(t.Context(), `update public.organizations set deleted_at = now() where slug = 'novartis'; select public.refresh_organization_stats()`)
			require.NoError(t, err)
			found := readStatistics(t, tx)
			require.NotContains(t, found, fixtures.Novartis.ID)
			require.Len(t, found, len(expectedStatistics())-1)
		})
	})
}

func testAudit(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	t.Run("the history has a partition for this month and the next two, and one for what has no month", func(t *testing.T) {
		// The months are those of the day on which the migration ran.
		wanted := append([]string{"audit.audit_logs_default DEFAULT"}, collect[string](t, db.Owner, `
			select format('audit.audit_logs_%s FOR VALUES FROM (''%s'') TO (''%s'')', to_char(m, 'YYYYMM'), to_char(m, 'YYYY-MM-DD HH24:MI:SS+00'), to_char(m + interval '1 month', 'YYYY-MM-DD HH24:MI:SS+00'))
			from tenancy.completed_phase c, generate_series(0, 2) as n, lateral (select date_trunc('month', c.completed_at at time zone 'UTC') + n * interval '1 month' as m) as month
			where c.phase = 3`)...)
		require.Len(t, wanted, 4)
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		_, err = tx.Exec(t.Context(), `set local timezone = 'UTC'`)
		require.NoError(t, err)
		require.ElementsMatch(t, wanted, collect[string](t, tx, `
			select c.oid::regclass || ' ' || pg_get_expr(c.relpartbound, c.oid)
			from pg_inherits i join pg_class c on c.oid = i.inhrelid
			where i.inhparent = 'public.audit_logs'::regclass`))
	})
	t.Run("its columns are what was changed, by whom, and how", func(t *testing.T) {
		require.Equal(t, []string{"id bigint!", "created_at timestamp with time zone!", "organization_id uuid", "user_id uuid", "actor_role text!", "claims jsonb",
			"action text!", "resource_type text!", "resource_id text", "old_values jsonb", "new_values jsonb"},
			collect[string](t, db.Owner, `
				select attname || ' ' || format_type(atttypid, atttypmod) || case when attnotnull then '!' else '' end
				from pg_attribute where attrelid = 'public.audit_logs'::regclass and attnum > 0 and not attisdropped order by attnum`))
	})
	t.Run("a row goes to its month, and one that has none to the default partition", func(t *testing.T) {
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		month := collect[string](t, tx, `select to_char(completed_at at time zone 'UTC', 'YYYYMM') from tenancy.completed_phase where phase = 3`)[0]
		require.Equal(t, []string{"audit.audit_logs_" + month}, collect[string](t, tx, `
			insert into public.audit_logs (created_at, actor_role, action, resource_type)
			select completed_at, 'service_role', 'UPDATE', 'agents' from tenancy.completed_phase where phase = 3 returning tableoid::regclass::text`))
		require.Equal(t, []string{"audit.audit_logs_default"}, collect[string](t, tx, entry, time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)))
	})
	t.Run("months are made once", func(t *testing.T) {
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		const three, more = `select audit.make_partitions(3)`, `select audit.make_partitions(5)`
		collect[int](t, tx, three) // the month may have changed since the migration
		require.Equal(t, []int{0}, collect[int](t, tx, three))
		require.Equal(t, []int{2}, collect[int](t, tx, more))
	})
	t.Run("nobody but the owner comes near it yet", func(t *testing.T) {
		roles := []string{"anon", "authenticated", "service_role"}
		require.Empty(t, collect[string](t, db.Owner, `
			select format('%s may %s %s', r.rolname, p.privilege, c.oid::regclass)
			from unnest($1::text[]) as r (rolname), unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) as p (privilege), pg_class c
			where c.relname like 'audit\_logs%' and c.relkind in ('r', 'p') and has_table_privilege(r.rolname, c.oid, p.privilege)
			union all
			select format('%s may use %s', r.rolname, 'the sequence')
			from unnest($1::text[]) as r (rolname) where has_sequence_privilege(r.rolname, 'public.audit_logs_id_seq', 'usage, select, update')
			union all
			select format('%s may enter schema audit', r.rolname)
			from unnest($1::text[]) as r (rolname) where has_schema_privilege(r.rolname, 'audit', 'usage, create')`, roles))
		for _, who := range []actor.Actor{actor.Anonymous(), actor.User(fixtures.Adam.ID), actor.Service()} {
			do(t, db, who, func(tx pgx.Tx) {
				for _, sql := range []string{`select from public.audit_logs`, `select from audit.audit_logs_default`,
					`insert into public.audit_logs (actor_role, action, resource_type) values ('service_role', 'UPDATE', 'agents')`,
					`delete from public.audit_logs`, `truncate public.audit_logs`, `select audit.make_partitions(9)`} {
					undo := savepoint(t, tx)
					refused(t, tx, sql, nil, insufficientPrivilege)
					undo()
				}
			})
		}
	})
	t.Run("and nobody writes it before phase 4", func(t *testing.T) {
		phasetest.Exec(t, db, `update public.agents set display_name = 'x'`)
		require.Equal(t, []int{0}, collect[int](t, db.Owner, `select count(*) from public.audit_logs`))
		require.Empty(t, collect[string](t, db.Owner, `select tgname::text from pg_trigger where not tgisinternal and tgname like 'audit%'`))
	})
}
