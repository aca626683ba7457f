package rls_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// record is what the audit log says of a change.
type record struct {
	Action, Table, ID string
	User              *string
	Role              string
	Old, New          map[string]any
}

// testShown is what an organization's admin reads of a change in the audit log: all of a resource and of a membership, of what
// people write to an assistant only that they did, and of the directory what he may read in the table itself.
func testShown(t *testing.T) {
	t.Parallel()
	db := secured(t)
	for table, test := range map[string]struct{ class, hidden string }{
		"conversations": {"private", "title, metadata"},
		"messages":      {"private", "content"},
		"organizations": {"directory", "tenant_type, tenant_key, domain, settings, parent_organization_type"},
		"agents":        {"resource", ""},
	} {
		t.Run(table, func(t *testing.T) {
			var hidden *string
			require.NoError(t, db.Owner.QueryRow(t.Context(), `
				with shown (columns) as (select audit.shown_columns($1::text::regclass, $2))
				select case when columns is not null then (
					select coalesce(string_agg(a.attname, ', ' order by a.attnum), '') from pg_attribute a
					where a.attrelid = $1::text::regclass and a.attnum > 0 and not a.attisdropped and a.attname <> all (columns)) end
				from shown`, "public."+table, test.class).Scan(&hidden))
			if test.hidden == "" {
				require.Nil(t, hidden, "everything is shown")
				return
			}
			require.NotNil(t, hidden)
			require.Equal(t, test.hidden, *hidden)
		})
	}
}

// logged runs statements as the backend, takes them back, and returns what the audit log said of them, by organization: none where
// it named none.
func logged(t *testing.T, db *pgtest.DB, statements ...string) map[string][]record {
	t.Helper()
	found := map[string][]record{}
	require.NoError(t, actor.Service().Do(t, db, func(tx pgx.Tx) error {
		for _, sql := range statements {
			tag, err := tx.Exec(t.Context(), sql)
			require.NoError(t, err, sql)
			require.Positive(t, tag.RowsAffected(), sql)
		}
		rows, err := tx.Query(t.Context(), `
			select coalesce(organization_id::text, ''), action, resource_type, resource_id, user_id::text, actor_role, old_values, new_values
			from public.audit_logs where created_at >= now() order by id`)
		require.NoError(t, err)
		var organization string
		var r record
		_, err = pgx.ForEachRow(rows, []any{&organization, &r.Action, &r.Table, &r.ID, &r.User, &r.Role, &r.Old, &r.New}, func() error {
			found[organization] = append(found[organization], r)
			r = record{}
			return nil
		})
		return err
	}))
	return found
}

// testMoved is what the log says of a row that comes to another organization: to the admins of each what theirs was, or is, and
// nothing of the other's.
func testMoved(t *testing.T) {
	t.Parallel()
	db := secured(t)
	novartis, pfizer := fixtures.Novartis.ID, fixtures.Pfizer.ID
	agent, deleted, conversation, message := fixtures.NovartisAgent.ID, fixtures.DeletedAgent.ID, fixtures.AliceConversation.ID, fixtures.Messages[0].ID
	const move = `update public.%s set %s where id = '%s'`
	_, err := db.Owner.Exec(t.Context(), `update public.agents set system_prompt = 'Secret' where id = $1`, agent)
	require.NoError(t, err)
	var membership string
	require.NoError(t, db.Owner.QueryRow(t.Context(), `select id::text from public.user_organizations where user_id = $1 and organization_id = $2`,
		fixtures.Alice.ID, novartis).Scan(&membership))
	for what, test := range map[string]struct {
		table, id, set string
		was, is        map[string]any // among all columns
	}{
		"an agent": {"agents", agent, fmt.Sprintf(`owner_organization_id = '%s', created_by = null, system_prompt = 'Clean'`, pfizer),
			map[string]any{"owner_organization_id": novartis, "created_by": fixtures.Alice.ID, "system_prompt": "Secret", "name": fixtures.NovartisAgent.Name},
			map[string]any{"owner_organization_id": pfizer, "created_by": nil, "system_prompt": "Clean", "name": fixtures.NovartisAgent.Name}},
		"an agent that is deleted on its way": {"agents", agent, fmt.Sprintf(`owner_organization_id = '%s', created_by = null, system_prompt = 'Clean', deleted_at = '2001-02-03'`, pfizer),
			map[string]any{"owner_organization_id": novartis, "deleted_at": nil},
			map[string]any{"owner_organization_id": pfizer, "deleted_at": "2001-02-03T00:00:00+00:00"}},
		"an agent that was deleted long ago": {"agents", deleted, fmt.Sprintf(`owner_organization_id = '%s', created_by = null`, pfizer),
			map[string]any{"owner_organization_id": novartis}, map[string]any{"owner_organization_id": pfizer}},
		"a membership": {"user_organizations", membership, fmt.Sprintf(`organization_id = '%s', role = 'viewer'`, pfizer),
			map[string]any{"organization_id": novartis, "role": "member", "user_id": fixtures.Alice.ID},
			map[string]any{"organization_id": pfizer, "role": "viewer", "user_id": fixtures.Alice.ID}},
		"a conversation": {"conversations", conversation, fmt.Sprintf(`owner_organization_id = '%s', title = 'Clean'`, pfizer),
			map[string]any{"owner_organization_id": novartis, "title": "(private)"}, map[string]any{"owner_organization_id": pfizer, "title": "(private)"}},
		"a message": {"messages", message, fmt.Sprintf(`conversation_id = '%s', content = 'Clean'`, fixtures.BobConversation.ID),
			map[string]any{"conversation_id": conversation, "content": "(private)"}, map[string]any{"conversation_id": fixtures.BobConversation.ID, "content": "(private)"}},
	} {
		t.Run(what, func(t *testing.T) {
			found := logged(t, db, fmt.Sprintf(move, test.table, test.set, test.id))
			require.Len(t, found, 2)
			require.Len(t, found[novartis], 1)
			require.Len(t, found[pfizer], 1)
			was, is := found[novartis][0], found[pfizer][0]
			require.Equal(t, []string{"UPDATE", test.table, test.id}, []string{was.Action, was.Table, was.ID})
			require.Equal(t, []string{"UPDATE", test.table, test.id}, []string{is.Action, is.Table, is.ID})
			require.Subset(t, was.Old, test.was)
			require.Subset(t, is.New, test.is)
			require.Nil(t, was.New)
			require.Nil(t, is.Old)
		})
	}
	t.Run("among others that stay, which have one row each", func(t *testing.T) {
		found := logged(t, db,
			fmt.Sprintf(`update public.agents set display_name = 'New', owner_organization_id = case id when '%s' then '%s' else owner_organization_id end,
				created_by = null where id in ('%[1]s', '%[3]s')`, agent, pfizer, fixtures.NovartisDraft.ID))
		require.Len(t, found[novartis], 2)
		require.Len(t, found[pfizer], 1)
	})
	t.Run("what has no owner has one row", func(t *testing.T) {
		found := logged(t, db, fmt.Sprintf(move, "users", `full_name = 'New'`, fixtures.Alice.ID))
		require.Len(t, found[""], 1)
		require.Equal(t, map[string]any{"full_name": "New"}, found[""][0].New)
	})
}

// testCascade is that what is deleted with something else is in the log of the organization whose that was.
func testCascade(t *testing.T) {
	t.Parallel()
	db := secured(t)
	owners := map[string]string{}
	for _, c := range fixtures.Conversations {
		owners[c.ID] = c.After.Owner
	}
	t.Run("each in its organization's log", func(t *testing.T) {
		found := logged(t, db, `delete from public.conversations`)
		require.NotContains(t, found, "")
		said := map[string]string{}
		for organization, records := range found {
			for _, r := range records {
				require.Equal(t, "DELETE", r.Action)
				said[r.Table+" "+r.ID] = organization
			}
		}
		want := map[string]string{}
		for id, owner := range owners {
			want["conversations "+id] = owner
		}
		for _, m := range fixtures.Messages {
			want["messages "+m.ID] = owners[m.ConversationID]
		}
		require.Equal(t, want, said)
	})
	t.Run("found by the index, in no month but this", func(t *testing.T) {
		for _, sql := range []string{
			`insert into public.audit_logs (created_at, actor_role, action, resource_type) values ('2001-02-03', 'x', 'INSERT', 'x')`,
			`select audit.make_partitions(1)`,
			// With less, the planner reads all of it.
			`insert into public.audit_logs (actor_role, action, resource_type, resource_id)
				select 'x', case when n % 50 = 0 then 'DELETE' else 'UPDATE' end, 'conversations', gen_random_uuid() from generate_series(1, 20000) as n`,
			`analyze public.audit_logs`,
		} {
			_, err := db.Owner.Exec(t.Context(), sql)
			require.NoError(t, err)
		}
		require.NoError(t, actor.Service().Do(t, db, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `delete from public.conversations where id = $1`, fixtures.AliceConversation.ID)
			require.NoError(t, err)
			// How often it was scanned: the index, and all that there is of that month.
			var now, then int
			require.NoError(t, tx.QueryRow(t.Context(), `
				select
					(select sum(pg_stat_get_xact_numscans(i.inhrelid)) from pg_inherits i
						where i.inhparent = 'public.idx_audit_logs_deleted_conversations'::regclass),
					(select sum(pg_stat_get_xact_numscans(c.oid)) from pg_class c where c.relname ~ '^audit_logs_200102')`).Scan(&now, &then))
			require.Positive(t, now)
			require.Zero(t, then)
			return nil
		}))
	})
	t.Run("as it was when it was deleted", func(t *testing.T) {
		conversation := fixtures.AliceConversation.ID
		const remove = `delete from public.conversations where id = '%s'`
		found := logged(t, db, fmt.Sprintf(remove, conversation),
			fmt.Sprintf(`insert into public.conversations (id, user_id, owner_organization_id) values ('%s', '%s', '%s')`, conversation, fixtures.Bob.ID, fixtures.Pfizer.ID),
			fmt.Sprintf(`insert into public.messages (conversation_id, role) values ('%s', 'user')`, conversation),
			fmt.Sprintf(remove, conversation))
		actions := map[string][]string{}
		for organization, records := range found {
			for _, r := range records {
				actions[organization] = append(actions[organization], r.Action+" "+r.Table)
			}
		}
		require.Equal(t, map[string][]string{
			fixtures.Novartis.ID: {"DELETE conversations", "DELETE messages", "DELETE messages"},
			fixtures.Pfizer.ID:   {"INSERT conversations", "INSERT messages", "DELETE conversations", "DELETE messages"},
		}, actions)
	})
}

func testAudit(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/audit-logging-captures-all-changes", "production-deployment/check-audit-logs")
	db := secured(t)
	const user, backend = "user", "backend"
	sessions := map[string]pgx.Tx{}
	// records runs a statement as somebody, and reads what an admin of Novartis, or the
	// backend, then reads of it.
	records := func(t *testing.T, who fixtures.User, sql string) (found []record) {
		t.Helper()
		outer := sessions[user]
		if who == service {
			outer = sessions[backend]
		}
		tx, err := outer.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		become := func(u fixtures.User) {
			if u == service {
				return
			}
			_, err := tx.Exec(t.Context(), `select set_config('request.jwt.claims', $1, true)`, fmt.Sprintf(`{"sub": "%s"}`, u.ID))
			require.NoError(t, err)
		}
		var last int
		require.NoError(t, db.Owner.QueryRow(t.Context(), `select max(id) from public.audit_logs`).Scan(&last))
		become(who)
		tag, err := tx.Exec(t.Context(), sql)
		require.NoError(t, err)
		require.EqualValues(t, 1, tag.RowsAffected())
		if who != service {
			become(fixtures.Adam)
		}
		rows, err := tx.Query(t.Context(), `
			select action, resource_type, resource_id, user_id::text, actor_role, old_values, new_values
			from public.audit_logs where id > $1 and organization_id = $2 order by id`, last, fixtures.Novartis.ID)
		require.NoError(t, err)
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[record])
		require.NoError(t, err)
		return found
	}
	alice, adam := fixtures.Alice.ID, fixtures.Adam.ID
	agent, conversation, message := fixtures.NovartisAgent, fixtures.AliceConversation, fixtures.Messages[0]
	require.Equal(t, conversation.ID, message.ConversationID)
	require.NoError(t, actor.Service().Do(t, db, func(tx pgx.Tx) error {
		sessions[backend] = tx
		return as(fixtures.Alice).Do(t, db, func(tx pgx.Tx) error {
			sessions[user] = tx
			for what, test := range map[string]struct {
				as   fixtures.User
				sql  string
				want record // without an ID where the database makes it
			}{
				"an update, with the columns that it changed": {fixtures.Alice,
					`update public.agents set name = 'New', display_name = display_name where id = '` + agent.ID + `'`,
					record{"UPDATE", "agents", agent.ID, &alice, "authenticated", map[string]any{"name": agent.Name}, map[string]any{"name": "New"}}},
				"an update by an admin": {fixtures.Adam,
					`update public.agents set sharing_scope = 'tenant' where id = '` + agent.ID + `'`,
					record{"UPDATE", "agents", agent.ID, &adam, "authenticated",
						map[string]any{"sharing_scope": "organization", "audience_key": fixtures.Novartis.ID},
						map[string]any{"sharing_scope": "tenant", "audience_key": "00000001-0000-f000-8000-000000000002"}}},
				"a former name of the organization": {fixtures.Adam, `update public.organizations set name = 'Novartis AG'`,
					record{"UPDATE", "organizations", fixtures.Novartis.ID, &adam, "authenticated", map[string]any{"name": "Novartis"}, map[string]any{"name": "Novartis AG"}}},
				"the title of a conversation, without its words": {fixtures.Alice, `update public.conversations set title = 'Secret', status = 'archived'`,
					record{"UPDATE", "conversations", conversation.ID, &alice, "authenticated",
						map[string]any{"title": "(private)", "status": "active"}, map[string]any{"title": "(private)", "status": "archived"}}},
				"a promotion": {fixtures.Adam, `update public.user_organizations set role = 'admin' where user_id = '` + alice + `'`,
					record{"UPDATE", "user_organizations", "", &adam, "authenticated", map[string]any{"role": "member"}, map[string]any{"role": "admin"}}},
				"that a message has other words, and not which": {service, `update public.messages set content = 'Secret' where id = '` + message.ID + `'`,
					record{"UPDATE", "messages", message.ID, nil, "service_role", map[string]any{"content": "(private)"}, map[string]any{"content": "(private)"}}},
				"what the backend changes, by whom nobody knows": {service, `update public.agents set name = 'New' where id = '` + agent.ID + `'`,
					record{"UPDATE", "agents", agent.ID, nil, "service_role", map[string]any{"name": agent.Name}, map[string]any{"name": "New"}}},
			} {
				t.Run(what, func(t *testing.T) {
					found := records(t, test.as, test.sql)
					require.Len(t, found, 1)
					if test.want.ID == "" {
						found[0].ID = ""
					}
					require.Equal(t, test.want, found[0])
				})
			}
			for what, test := range map[string]struct {
				as             fixtures.User
				sql            string
				action, table  string
				user           *string
				oldHas, newHas map[string]any
			}{
				"an insert": {fixtures.Alice,
					fmt.Sprintf(`insert into public.agents (name, owner_organization_id, created_by) values ('New', '%s', '%s')`, fixtures.Novartis.ID, alice),
					"INSERT", "agents", &alice, nil, map[string]any{"name": "New", "owner_organization_id": fixtures.Novartis.ID, "created_by": alice}},
				"a soft deletion": {fixtures.Alice, softDelete("agents", agent.ID),
					"SOFT_DELETE", "agents", &alice, map[string]any{"deleted_at": nil}, nil},
				"a deletion, with all that was there": {service, `delete from public.agents where id = '` + fixtures.NovartisDraft.ID + `'`,
					"DELETE", "agents", nil, map[string]any{"name": fixtures.NovartisDraft.Name, "created_by": alice}, nil},
				"a message that is deleted, without its words": {service, `delete from public.messages where id = '` + message.ID + `'`,
					"DELETE", "messages", nil, map[string]any{"content": "(private)", "role": "user", "conversation_id": conversation.ID}, nil},
				"a member's end": {fixtures.Adam, `delete from public.user_organizations where user_id = '` + alice + `'`,
					"DELETE", "user_organizations", &adam, map[string]any{"user_id": alice, "role": "member"}, nil},
				"what an admin may not read of his organization": {service, `update public.organizations set name = 'Novartis AG', settings = '{"key": "Secret"}', domain = 'Secret' where id = '` + fixtures.Novartis.ID + `'`,
					"UPDATE", "organizations", nil, map[string]any{"name": "Novartis"}, map[string]any{"name": "Novartis AG", "settings": "(private)", "domain": "(private)"}},
				"a message, without its words": {fixtures.Alice, `insert into public.messages (conversation_id, role, content) values ('` + conversation.ID + `', 'user', 'Secret')`,
					"INSERT", "messages", &alice, nil, map[string]any{"content": "(private)", "role": "user", "conversation_id": conversation.ID}},
			} {
				t.Run(what, func(t *testing.T) {
					found := records(t, test.as, test.sql)
					require.Len(t, found, 1)
					require.Equal(t, []any{test.action, test.table, test.user}, []any{found[0].Action, found[0].Table, found[0].User})
					require.Subset(t, found[0].Old, test.oldHas)
					require.Subset(t, found[0].New, test.newHas)
					text, err := json.Marshal(found)
					require.NoError(t, err)
					require.NotContains(t, string(text), "Secret")
				})
			}
			t.Run("another id makes two rows of one: what there was, and what there is", func(t *testing.T) {
				draft, id := fixtures.NovartisDraft, "ffffffff-0000-4000-8000-000000000000"
				found := records(t, service, `update public.agents set id = '`+id+`' where id = '`+draft.ID+`'`)
				require.Len(t, found, 2)
				slices.SortFunc(found, func(a, b record) int { return strings.Compare(a.ID, b.ID) })
				was, is := found[0], found[1]
				require.Equal(t, []string{"UPDATE", draft.ID, "UPDATE", id}, []string{was.Action, was.ID, is.Action, is.ID})
				require.Subset(t, was.Old, map[string]any{"id": draft.ID, "name": draft.Name, "created_by": alice, "deleted_at": nil})
				require.Nil(t, was.New)
				require.Nil(t, is.Old)
				was.Old["id"] = id
				require.Equal(t, was.Old, is.New)
			})
			t.Run("what changes nothing leaves no record", func(t *testing.T) {
				require.Empty(t, records(t, fixtures.Alice, `update public.agents set name = name where id = '`+agent.ID+`'`))
			})
			return nil
		})
	}))

	t.Run("another owner", testMoved)
	t.Run("a conversation takes its messages with it", testCascade)
	t.Run("the sign-in, and nothing about the person", func(t *testing.T) {
		t.Parallel()
		for said, want := range map[string]string{
			`{"sub": "` + alice + `", "role": "authenticated", "iss": "auth", "aud": "authenticated", "session_id": "s1", "aal": "aal2",
				"email": "secret", "phone": "secret", "app_metadata": {"a": "secret"}, "user_metadata": {"name": "secret"}}`: `{"aal": "aal2", "aud": "authenticated", "iss": "auth", "role": "authenticated", "session_id": "s1"}`,
			`{"sub": "` + alice + `"}`: "none",
			`["secret"]`:               "none",
			`"secret"`:                 "none",
			`null`:                     "none",
			``:                         "none",
		} {
			require.NoError(t, actor.Service().Do(t, db, func(tx pgx.Tx) error {
				for _, each := range []string{`insert into public.agents (name, owner_organization_id) values ('New', '` + fixtures.Novartis.ID + `')`,
					`update public.agents set display_name = 'x' where name = 'New'`, `delete from public.agents where name = 'New'`} {
					_, err := tx.Exec(t.Context(), `select set_config('request.jwt.claims', $1, true)`, said)
					require.NoError(t, err)
					_, err = tx.Exec(t.Context(), each)
					require.NoError(t, err, "%s: %s", said, each)
				}
				rows, err := tx.Query(t.Context(), `select coalesce(claims::text, 'none') from public.audit_logs order by id desc limit 3`)
				require.NoError(t, err)
				found, err := pgx.CollectRows(rows, pgx.RowTo[string])
				require.NoError(t, err)
				require.Equal(t, []string{want, want, want}, found, said)
				return nil
			}))
		}
	})
	t.Run("every table, each row that is changed, deleted and made", func(t *testing.T) {
		t.Parallel()
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		// Who refers to others goes first, and comes last.
		order := []string{"messages", "conversations", "user_organizations", "users", "agents", "knowledge_documents", "prompts", "workflows",
			"use_cases", "capabilities", "organizations"}
		var classified int
		require.NoError(t, tx.QueryRow(t.Context(), `select count(*) from tenancy.classified_table where class <> 'evidence'`).Scan(&classified))
		require.Len(t, order, classified)
		back := slices.Clone(order)
		slices.Reverse(back)
		for _, each := range []struct {
			action, sql string
			tables      []string
		}{
			{"UPDATE", `create temporary table saved_%[1]s as select * from public.%[1]s; update public.%[1]s set created_at = created_at - interval '1 s'`, order},
			{"DELETE", `delete from public.%[1]s`, order},
			{"INSERT", `insert into public.%[1]s select * from saved_%[1]s`, back},
		} {
			for _, table := range each.tables {
				_, err := tx.Exec(t.Context(), `delete from public.audit_logs`)
				require.NoError(t, err)
				_, err = tx.Exec(t.Context(), fmt.Sprintf(each.sql, table), pgx.QueryExecModeSimpleProtocol)
				require.NoError(t, err, table)
				var rows, recorded int
				require.NoError(t, tx.QueryRow(t.Context(), fmt.Sprintf(`
					select (select count(*) from saved_%[1]s), (
						select count(distinct l.resource_id)
						from public.audit_logs l join saved_%[1]s s on s.id::text = l.resource_id
						where l.action = '%[2]s' and l.resource_type = '%[1]s' and l.actor_role = '%[3]s')`, table, each.action, pgtest.OwnerRole)).Scan(&rows, &recorded))
				require.Positive(t, rows, table)
				require.Equal(t, rows, recorded, "%s of %s", each.action, table)
			}
		}
	})

	const forge = `insert into public.audit_logs (actor_role, action, resource_type) values ('x', 'INSERT', 'agents')`
	steps := map[string]step{"the backend reads it": {actor.Service(), `select from public.audit_logs`, done}}
	for name, who := range map[string]actor.Actor{"an admin": as(fixtures.Adam), "the platform's admin": as(fixtures.Root), "the backend": actor.Service(), "a stranger": actor.Anonymous()} {
		steps[name+" does not write the log"] = step{who, forge, denied}
		steps[name+" does not change it"] = step{who, `update public.audit_logs set user_id = null`, denied}
		steps[name+" does not delete it"] = step{who, `delete from public.audit_logs`, denied}
		steps[name+" does not empty it"] = step{who, `truncate public.audit_logs`, denied}
		steps[name+" does not go behind it"] = step{who, `select from audit.audit_logs_default`, denied}
	}
	check(t, db, steps)
}
