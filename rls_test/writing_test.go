package rls_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// attempt runs a statement and says what became of it. Nothing of it stays. It goes
// there and back once, with its savepoint, because some tests make a thousand.
func attempt(t testing.TB, tx pgx.Tx, sql string) outcome {
	t.Helper()
	results, err := tx.Conn().PgConn().Exec(t.Context(), "savepoint attempt; "+sql+"; rollback to savepoint attempt; release savepoint attempt").ReadAll()
	if err != nil {
		_, inner := tx.Exec(t.Context(), "rollback to savepoint attempt; release savepoint attempt", pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, inner)
		return outcomeOf(err)
	}
	require.Len(t, results, 4, "one statement at a time")
	if results[1].CommandTag.RowsAffected() == 0 {
		return filtered
	}
	return done
}

// stranger has not signed in.
var stranger = fixtures.User{Email: fixtures.NotSignedIn}

// caller is the role of a request and whom its claims name, "" for nobody.
type caller struct{ role, sub string }

func callerOf(u fixtures.User) caller {
	if u == stranger {
		return caller{role: "anon"}
	}
	return caller{"authenticated", u.ID}
}

// claims is what the caller's JWT says.
func (c caller) claims() string {
	claims := map[string]string{"role": c.role}
	if c.sub != "" {
		claims["sub"] = c.sub
	}
	text, _ := json.Marshal(claims) // strings can be written
	return string(text)
}

// speak makes a transaction the caller's, until it ends.
func (c caller) speak(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)`, c.role, c.claims())
	return err
}

// forEach runs f as each of the users in turn, in one session as a connection pool has
// it.
func forEach(t testing.TB, db *pgtest.DB, users []fixtures.User, f func(tx pgx.Tx, user fixtures.User)) {
	t.Helper()
	require.NoError(t, actor.Anonymous().Do(t, db, func(tx pgx.Tx) error {
		forEachIn(t, tx, users, f)
		return nil
	}))
}

// forEachIn is forEach in a session.
func forEachIn(t testing.TB, tx pgx.Tx, users []fixtures.User, f func(tx pgx.Tx, user fixtures.User)) {
	t.Helper()
	for _, u := range users {
		require.NoError(t, callerOf(u).speak(t.Context(), tx))
		f(tx, u)
	}
}

// insertAgent inserts an agent.
func insertAgent(owner string, scope fixtures.Level, creator string) string {
	return fmt.Sprintf(`insert into public.agents (name, owner_organization_id, sharing_scope, created_by) values ('New', '%s', '%s', '%s')`, owner, scope, creator)
}

// updateAgent sets something of an agent.
func updateAgent(r fixtures.Resource, set string) string {
	return fmt.Sprintf(`update public.agents set %s where id = '%s'`, set, r.ID)
}

// softDelete hides a row.
func softDelete(table, id string) string {
	return fmt.Sprintf(`select public.soft_delete('%s', '%s')`, table, id)
}

// step is a statement, who makes it, and what must become of it.
type step struct {
	as   actor.Actor
	sql  string
	want outcome
}

// check runs each step as a test of its own; nothing of any of them stays. Whoever
// makes several makes them in one session, because opening one takes longer.
func check(t *testing.T, db *pgtest.DB, steps map[string]step) {
	t.Helper()
	names := map[actor.Actor][]string{}
	for _, name := range slices.Sorted(maps.Keys(steps)) {
		names[steps[name].as] = append(names[steps[name].as], name)
	}
	for who, names := range names {
		require.NoError(t, who.Do(t, db, func(tx pgx.Tx) error {
			for _, name := range names {
				t.Run(name, func(t *testing.T) {
					if problem := steps[name].problem(name, attempt(t, tx, steps[name].sql)); problem != "" {
						t.Error(problem)
					}
				})
			}
			return nil
		}))
	}
}

// problem says what is wrong with what became of a step, "" for nothing.
func (s step) problem(name string, got outcome) string {
	who := "somebody"
	switch s.as {
	case actor.Anonymous():
		who = "who has not signed in"
	case actor.Service():
		who = "the backend"
	}
	for _, u := range append(fixtures.Users, stranger) {
		if as(u) == s.as {
			who = u.Email
		}
	}
	switch {
	case got == s.want:
		return ""
	case got == done:
		return fmt.Sprintf("An attack succeeds: %s\n%s may do this, and it must be %s:\n%s", name, who, s.want, s.sql)
	case s.want == done:
		return fmt.Sprintf("What is allowed fails: %s\n%s may not do this: %s\n%s", name, who, got, s.sql)
	}
	return fmt.Sprintf("%s\nfor %s this ends as %s, and must be %s:\n%s", name, who, got, s.want, s.sql)
}

func as(user fixtures.User) actor.Actor { return actor.User(user.ID) }

func testWriting(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-4/update-rls-policies-for-agents", "phase-4/update-rls-for-knowledge-documents")
	db := secured(t)
	t.Run("a row that is deleted is gone for everybody, and its deletion is not undone", func(t *testing.T) {
		t.Parallel()
		require.NoError(t, as(fixtures.Alice).Do(t, db, func(tx pgx.Tx) error {
			mine := fmt.Sprintf("where id = '%s'", fixtures.NovartisAgent.ID)
			require.Equal(t, done, attempt(t, tx, `update public.agents set name = 'Mine' `+mine))
			_, err := tx.Exec(t.Context(), `select public.soft_delete('agents', $1)`, fixtures.NovartisAgent.ID)
			require.NoError(t, err)
			require.Equal(t, filtered, attempt(t, tx, `select from public.agents `+mine))
			require.Equal(t, filtered, attempt(t, tx, `update public.agents set name = 'Mine' `+mine))
			require.Equal(t, denied, attempt(t, tx, `update public.agents set deleted_at = null `+mine))
			return nil
		}))
	})
	t.Run("one row is deleted, and no other", func(t *testing.T) {
		t.Parallel()
		for _, who := range []actor.Actor{as(fixtures.Adam), as(fixtures.Alice), actor.Service()} {
			require.NoError(t, who.Do(t, db, func(tx pgx.Tx) error {
				for _, table := range append([]string{"conversations"}, resourceTables...) {
					live := `select id::text from public.` + table + ` where deleted_at is null`
					before, err := column(t.Context(), tx, live)
					require.NoError(t, err)
					for i, id := range before {
						if attempt(t, tx, softDelete(table, id)) != done { // not his
							continue
						}
						_, err := tx.Exec(t.Context(), softDelete(table, id))
						require.NoError(t, err)
						after, err := column(t.Context(), tx, live)
						require.NoError(t, err)
						require.Equal(t, slices.Delete(slices.Clone(before), i, i+1), after, table)
						break
					}
				}
				return nil
			}))
		}
		require.NoError(t, actor.Service().Do(t, db, func(tx pgx.Tx) error {
			require.Equal(t, done, attempt(t, tx, softDelete("conversations", fixtures.AliceConversation.ID)), "the backend deletes anybody's")
			return nil
		}))
	})
	t.Run("of a table that this database does not have, nothing is deleted", func(t *testing.T) {
		t.Parallel()
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		_, err = tx.Exec(t.Context(), `insert into tenancy.classified_table (table_name, class) values ('nowhere', 'resource')`)
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), softDelete("nowhere", fixtures.NovartisAgent.ID))
		require.ErrorContains(t, err, "there is no resource type 'nowhere' (SQLSTATE 22023)")
	})
	t.Run("in every resource table", func(t *testing.T) {
		t.Parallel()
		steps := map[string]step{}
		for _, table := range resourceTables {
			name := row{table: table}.nameColumn()
			insert := func(owner fixtures.Organization, scope fixtures.Level, creator fixtures.User) string {
				return fmt.Sprintf("insert into public.%s (%s, owner_organization_id, sharing_scope, created_by) values ('New', '%s', '%s', '%s')",
					table, name, owner.ID, scope, creator.ID)
			}
			rows := func(set string, tail string) string {
				return fmt.Sprintf("update public.%s set %s%s", table, set, tail)
			}
			for what, s := range map[string]step{
				"a member inserts":                              {as(fixtures.Alice), insert(fixtures.Novartis, fixtures.OrganizationLevel, fixtures.Alice), done},
				"a member does not insert for another":          {as(fixtures.Alice), insert(fixtures.Pfizer, fixtures.OrganizationLevel, fixtures.Alice), rejected},
				"a member does not insert as another":           {as(fixtures.Alice), insert(fixtures.Novartis, fixtures.OrganizationLevel, fixtures.Adam), rejected},
				"a member does not share":                       {as(fixtures.Alice), insert(fixtures.Novartis, fixtures.TenantLevel, fixtures.Alice), rejected},
				"an admin shares with the tenant":               {as(fixtures.Adam), insert(fixtures.Novartis, fixtures.TenantLevel, fixtures.Adam), done},
				"an admin does not share with everybody":        {as(fixtures.Adam), insert(fixtures.Novartis, fixtures.PlatformLevel, fixtures.Adam), rejected},
				"a viewer does not insert":                      {as(fixtures.Vera), insert(fixtures.Novartis, fixtures.OrganizationLevel, fixtures.Vera), rejected},
				"a former member does not insert":               {as(fixtures.Eve), insert(fixtures.Novartis, fixtures.OrganizationLevel, fixtures.Eve), rejected},
				"an admin changes":                              {as(fixtures.Adam), rows("updated_at = now()", ""), done},
				"a viewer changes nothing":                      {as(fixtures.Vera), rows("updated_at = now()", ""), filtered},
				"a former member changes nothing":               {as(fixtures.Eve), rows("updated_at = now()", ""), filtered},
				"an admin does not move rows":                   {as(fixtures.Adam), rows("owner_organization_id = '"+fixtures.Pfizer.ID+"'", ""), denied},
				"an admin does not move rows by the old column": {as(fixtures.Adam), rows("tenant_id = '"+fixtures.Pfizer.ID+"'", ""), denied},
				"an admin does not say who made a row":          {as(fixtures.Adam), rows("created_by = '"+fixtures.Adam.ID+"'", ""), denied},
				"an admin does not say when it was made":        {as(fixtures.Adam), rows("created_at = now()", ""), denied},
				"but when it was changed, as it pleases him":    {as(fixtures.Adam), rows("updated_at = 'epoch'", ""), done},
				"an admin does not choose an id":                {as(fixtures.Adam), rows("id = gen_random_uuid()", ""), denied},
				"an admin does not write who reads a row":       {as(fixtures.Adam), rows("audience_key = '"+fixtures.Novartis.ID+"'", ""), denied},
				"an admin does not write whose tenant's it is":  {as(fixtures.Adam), rows("owner_tenant_id = '"+fixtures.DigitalHealth.ID+"'", ""), denied},
				"an admin does not delete by an update":         {as(fixtures.Adam), rows("deleted_at = now()", ""), denied},
				"an admin does not delete at all":               {as(fixtures.Adam), "delete from public." + table, denied},
				"the platform's admin does not delete":          {as(fixtures.Root), "delete from public." + table, denied},
				"nobody inserts who has not signed in":          {actor.Anonymous(), insert(fixtures.Novartis, fixtures.OrganizationLevel, fixtures.Alice), denied},
				"nobody changes who has not signed in":          {actor.Anonymous(), rows("updated_at = now()", ""), denied},
				"nobody deletes who has not signed in":          {actor.Anonymous(), "delete from public." + table, denied},
				"the backend inserts":                           {actor.Service(), insert(fixtures.Novartis, fixtures.PlatformLevel, fixtures.Alice), done},
				"the backend moves rows":                        {actor.Service(), rows("owner_organization_id = '"+fixtures.Pfizer.ID+"'", " where owner_organization_id = '"+fixtures.Novartis.ID+"'"), done},
				"the backend does not truncate":                 {actor.Service(), "truncate public." + table + " cascade", denied},
			} {
				steps[table+": "+what] = s
			}
		}
		check(t, db, steps)
	})
}

// testMayShare asks for everybody, every owner and every scope whether he may share so, as the policies and the guard ask.
func testMayShare(t *testing.T) {
	t.Parallel()
	db, w := secured(t), migrated()
	for _, u := range append([]fixtures.User{stranger}, fixtures.Users...) {
		require.NoError(t, pgx.BeginFunc(t.Context(), db.Superuser, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `select set_config('request.jwt.claims', $1, true)`, callerOf(u).claims())
			require.NoError(t, err)
			rows, err := tx.Query(t.Context(), `
				select coalesce(o.id::text, ''), coalesce(s.scope::text, ''), authz.may_share(s.scope, o.id)
				from (select id from public.organizations union all select null) as o
				cross join (select unnest(enum_range(null::public.sharing_scope_type)) union all select null) as s (scope)`)
			require.NoError(t, err)
			var owner, scope string
			var may *bool
			asked := 0
			_, err = pgx.ForEachRow(rows, []any{&owner, &scope, &may}, func() error {
				asked++
				want := scope != "" && w.mayShare(u.ID, owner, fixtures.Level(scope))
				require.NotNil(t, may, "%s, %q, %q: NULL would be no refusal", u.Email, owner, scope)
				require.Equal(t, want, *may, "%s, %q, %q", u.Email, w.organizations[owner].name, scope)
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, 4*(len(w.organizations)+1), asked)
			return nil
		}))
	}
}

// testGuard is for the day when somebody grants UPDATE on the whole table: what nobody may change of a resource, the guard
// keeps, also from the organization's admin, whom the policy lets pass.
func testGuard(t *testing.T) {
	t.Parallel()
	db := secured(t)
	for _, table := range resourceTables {
		statement(fmt.Sprintf(`grant update on public.%s to authenticated`, table))(t, db)
	}
	for column, value := range map[string]string{
		"id":                    "gen_random_uuid()",
		"owner_organization_id": "'" + fixtures.Pharmaceuticals.ID + "'",
		"created_by":            "'" + fixtures.Adam.ID + "'",
		"created_at":            "'epoch'",
		"deleted_at":            "now()",
	} {
		t.Run(column, func(t *testing.T) {
			require.NoError(t, as(fixtures.Adam).Do(t, db, func(tx pgx.Tx) error {
				for _, table := range resourceTables {
					require.Equal(t, done, attempt(t, tx, fmt.Sprintf(`update public.%s set updated_at = now()`, table)), table)
					require.Equal(t, guarded, attempt(t, tx, fmt.Sprintf(`update public.%s set %s = %s`, table, column, value)), table)
				}
				return nil
			}))
		})
	}
}

// nameColumn is the column that holds a row's name.
func (r row) nameColumn() string { return fixtures.Resource{Table: r.table}.NameColumn() }
