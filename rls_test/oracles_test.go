package rls_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
)

// testOracles asks whether something exists that the caller does not see: the answer is
// the same whether it does.
func testOracles(t *testing.T) {
	t.Parallel()
	db := secured(t)
	const missing = "99999999-0000-4000-8000-000000000099"
	alice := as(fixtures.Alice)
	talk := func(agent string) string {
		return fmt.Sprintf(`insert into public.conversations (user_id, owner_organization_id, agent_id) values ('%s', '%s', '%s')`, fixtures.Alice.ID, fixtures.Novartis.ID, agent)
	}
	useCase := func(code string) string {
		return fmt.Sprintf(`insert into public.use_cases (code, title, owner_organization_id, created_by) values ('%s', 'New', '%s', '%s')`, code, fixtures.Novartis.ID, fixtures.Alice.ID)
	}
	write := func(conversation string) string {
		return `insert into public.messages (conversation_id, role) values ('` + conversation + `', 'user')`
	}
	agent := func(id string) string {
		return fmt.Sprintf(`insert into public.agents (id, name, owner_organization_id, created_by) values ('%s', 'New', '%s', '%s')`, id, fixtures.Novartis.ID, fixtures.Alice.ID)
	}
	remove := func(id string) string { return softDelete("prompts", id) }
	check(t, db, map[string]step{
		"a foreign key: what one sees":           {alice, talk(fixtures.NovartisAgent.ID), done},
		"a foreign key: what there is":           {alice, talk(fixtures.PfizerAgent.ID), rejected},
		"a foreign key: what there is not":       {alice, talk(missing), rejected},
		"another foreign key: one's own":         {alice, write(fixtures.AliceConversation.ID), done},
		"another foreign key: what there is":     {alice, write(fixtures.BobConversation.ID), rejected},
		"another foreign key: what there is not": {alice, write(missing), rejected},
		"a unique code: another's":               {alice, useCase("UC-PFE-1"), done},
		"a unique code: nobody's":                {alice, useCase("UC-NEW-1"), done},
		"a unique code: one's own":               {alice, useCase("UC-NVS-1"), `ERROR: duplicate key value violates unique constraint "idx_use_cases_owner_code" (SQLSTATE 23505)`},
		"on conflict: another's id":              {alice, agent(fixtures.PfizerAgent.ID) + ` on conflict (id) do nothing`, denied},
		"on conflict: nobody's id":               {alice, agent(missing) + ` on conflict (id) do nothing`, denied},
		"on conflict: without an id":             {alice, insertAgent(fixtures.Novartis.ID, fixtures.OrganizationLevel, fixtures.Alice.ID) + ` on conflict do nothing`, done},
		"a deletion: one's own":                  {alice, remove(fixtures.NovartisPrompt.ID), done},
		"a deletion: what there is":              {alice, remove(fixtures.PfizerPrompt.ID), outcome("ERROR: no such row of prompts, or not yours to delete: " + fixtures.PfizerPrompt.ID + " (SQLSTATE P0002)")},
		"a deletion: what there is not":          {alice, remove(missing), outcome("ERROR: no such row of prompts, or not yours to delete: " + missing + " (SQLSTATE P0002)")},
		"an owner: what there is":                {alice, insertAgent(fixtures.Pfizer.ID, fixtures.OrganizationLevel, fixtures.Alice.ID), rejected},
		"an owner: what there is not":            {alice, insertAgent(missing, fixtures.OrganizationLevel, fixtures.Alice.ID), rejected},
	})
}

// testTalking looks for hidden values in what the database says: in errors, and through
// functions that show what they are given.
func testTalking(t *testing.T) {
	t.Parallel()
	db := secured(t)
	says := func(t *testing.T, who actor.Actor, sql string) *pgconn.PgError {
		t.Helper()
		var failure *pgconn.PgError
		require.NoError(t, who.Do(t, db, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), sql)
			require.True(t, errors.As(err, &failure), "%v", err)
			return nil
		}))
		return failure
	}
	t.Run("an error tells the backend which value there is already, and a user nothing", func(t *testing.T) {
		again := fmt.Sprintf(`insert into public.user_organizations (user_id, organization_id, role) values ('%s', '%s', 'viewer')`, fixtures.Alice.ID, fixtures.Novartis.ID)
		require.Contains(t, says(t, actor.Service(), again).Detail, fixtures.Alice.ID)
		require.Empty(t, says(t, as(fixtures.Adam), again).Detail)
	})
	t.Run("an error about a row shows no column that the caller may not read", func(t *testing.T) {
		failure := says(t, as(fixtures.Adam), `update public.organizations set name = 'X', updated_at = now()`)
		require.Equal(t, "42501", failure.Code)
		require.Empty(t, failure.Detail)
	})
	t.Run("a rejected row is not repeated", func(t *testing.T) {
		require.Empty(t, says(t, as(fixtures.Alice), insertAgent(fixtures.Pfizer.ID, fixtures.OrganizationLevel, fixtures.Alice.ID)).Detail)
	})
	t.Run("a cast that fails on what it meets meets what one sees", func(t *testing.T) {
		// Cheap and leaky: the planner would run it first, if the policies were no barrier.
		const meets = `select from public.prompts where name::%s is not null and name like '%s%%'`
		require.Contains(t, says(t, as(fixtures.Alice), fmt.Sprintf(meets, "int", "Novartis")).Message, `"Novartis label prompt"`)
		check(t, db, map[string]step{"it does not meet Pfizer's": {as(fixtures.Alice), `
			select from public.prompts where name <> all (array(select name from public.prompts)) and name::int is not null`, filtered}})
		require.NotContains(t, says(t, as(fixtures.Alice), `select from public.prompts where name::int is not null`).Message, "Pfizer trial")
	})
	t.Run("statistics do not say what there is of others", func(t *testing.T) {
		check(t, db, map[string]step{
			"statistics of columns that one does not see": {as(fixtures.Alice), `select from pg_catalog.pg_stats where schemaname = 'public' and tablename = 'agents'`, filtered},
			"who owns the table sees them":                {actor.Service(), `select from public.agents`, done},
		})
		var seen bool
		require.NoError(t, db.Owner.QueryRow(t.Context(), `select count(*) > 0 from pg_catalog.pg_stats where schemaname = 'public' and tablename = 'agents'`).Scan(&seen))
		require.True(t, seen, "there are statistics to hide")
	})
}
