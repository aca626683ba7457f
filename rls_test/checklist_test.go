package rls_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// testChecklist runs what the checklist gives under "Test New RLS Policy Logic" and "Test
// RLS Policies", word for word but for the ids.
func testChecklist(t *testing.T) {
	t.Parallel()
	const function = `
		CREATE OR REPLACE FUNCTION test_rls_access(
			p_user_id UUID,
			p_agent_id UUID
		) RETURNS BOOLEAN AS $$
		DECLARE
			v_agent_owner_org UUID;
			v_agent_sharing_scope sharing_scope_type;
			v_can_access BOOLEAN;
		BEGIN
			SELECT owner_organization_id, sharing_scope
			INTO v_agent_owner_org, v_agent_sharing_scope
			FROM agents WHERE id = p_agent_id;

			SELECT can_user_access_resource(
				p_user_id,
				v_agent_owner_org,
				v_agent_sharing_scope
			) INTO v_can_access;

			RETURN v_can_access;
		END;
		$$ LANGUAGE plpgsql;`
	for _, phase := range []schema.Phase{schema.Phase3, schema.Phase4} {
		t.Run("test_rls_access says after "+phase.String()+" what everybody reads, but for what is deleted", func(t *testing.T) {
			t.Parallel()
			checklist.Proves(t, "phase-4/test-new-rls-policy-logic")
			db, w := pgtest.New(t, phase, fixtures.World()...), migrated()
			statement(function)(t, db)
			var shouldBeTrue bool
			require.NoError(t, db.Owner.QueryRow(t.Context(), `
				SELECT test_rls_access(
					(SELECT id FROM users WHERE email = 'alice@novartis.com'),
					(SELECT id FROM agents WHERE name = 'Novartis RA Agent')
				) as should_be_true;`).Scan(&shouldBeTrue))
			require.True(t, shouldBeTrue)

			rows, err := db.Owner.Query(t.Context(), `select u.id::text, a.id::text, test_rls_access(u.id, a.id) from users u cross join agents a`)
			require.NoError(t, err)
			answers := map[[2]string]*bool{}
			var user, agent string
			var access *bool
			_, err = pgx.ForEachRow(rows, []any{&user, &agent, &access}, func() error {
				answers[[2]string{user, agent}] = access
				return nil
			})
			require.NoError(t, err)
			for _, u := range fixtures.Users {
				for _, r := range w.rows {
					if r.table != "agents" {
						continue
					}
					// It does not look whether the agent is deleted.
					r.deleted = false
					want := w.mayRead(u.ID, r)
					require.Equal(t, &want, answers[[2]string{u.ID, r.key}], "%s, %s", u.Email, r.name)
				}
			}
		})
	}
	t.Run("test_rls_access answers a user about that user only", func(t *testing.T) {
		t.Parallel()
		db := secured(t)
		statement(function)(t, db)
		ask := func(user fixtures.User, agent fixtures.Resource) string {
			return fmt.Sprintf(`select public.test_rls_access('%s', '%s')`, user.ID, agent.ID)
		}
		check(t, db, map[string]step{"a new function is not for users until somebody says so": {as(fixtures.Alice), ask(fixtures.Alice, fixtures.NovartisAgent), denied}})
		statement(`grant execute on function public.test_rls_access(uuid, uuid) to authenticated`)(t, db)
		require.NoError(t, as(fixtures.Alice).Do(t, db, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `set local search_path = public`)
			require.NoError(t, err)
			for agent, want := range map[fixtures.Level]struct {
				agent fixtures.Resource
				sees  bool
			}{"hers": {fixtures.NovartisAgent, true}, "Pfizer's": {fixtures.PfizerAgent, false}} {
				var sees *bool
				require.NoError(t, tx.QueryRow(t.Context(), ask(fixtures.Alice, want.agent)).Scan(&sees))
				require.Equal(t, &want.sees, sees, agent)
			}
			require.Equal(t, outcome("ERROR: p_user_id must be the calling user (SQLSTATE 42501)"), attempt(t, tx, ask(fixtures.Bob, fixtures.PfizerAgent)))
			return nil
		}))
	})
	t.Run("its INSERT as a user", func(t *testing.T) {
		t.Parallel()
		db, w := secured(t), migrated()
		conn := db.Connect(t, pgtest.APIRole)
		run := func(sql string) {
			t.Helper()
			_, err := conn.Exec(t.Context(), sql)
			require.NoError(t, err)
		}
		visible := func() (n int) {
			t.Helper()
			require.NoError(t, conn.QueryRow(t.Context(), `SELECT COUNT(*) as visible_agents FROM agents;`).Scan(&n))
			return n
		}
		want := 0
		for _, r := range w.rows {
			if r.table == "agents" && w.mayRead(fixtures.Alice.ID, r) {
				want++
			}
		}
		const insert = `
			INSERT INTO agents (
				owner_organization_id,
				sharing_scope,
				name,
				display_name,
				description,
				system_prompt,
				created_by
			) VALUES (
				'%s',
				'organization',
				'Test Agent',
				'Test Agent',
				'Testing',
				'Test',
				'%s'
			);`
		run(`SET search_path = public`)
		run(`SET ROLE authenticated;`)
		run(fmt.Sprintf(`SET request.jwt.claim.sub = '%s';`, fixtures.Alice.ID))
		require.Equal(t, want, visible())
		_, err := conn.Exec(t.Context(), fmt.Sprintf(insert, "org-id", "user-id"))
		require.ErrorContains(t, err, `invalid input syntax for type uuid: "org-id"`, "what it gives are placeholders")
		_, err = conn.Exec(t.Context(), fmt.Sprintf(insert, fixtures.Pfizer.ID, fixtures.Alice.ID))
		require.Equal(t, rejected, outcomeOf(err))
		run(fmt.Sprintf(insert, fixtures.Novartis.ID, fixtures.Alice.ID))
		require.Equal(t, want+1, visible())

		// RESET ROLE leaves the user behind for whoever has the connection next.
		run(`RESET ROLE;`)
		run(`SET ROLE authenticated;`)
		require.Equal(t, want+1, visible())
		// In a transaction, with SET LOCAL, nothing stays.
		run(`RESET request.jwt.claim.sub; RESET ROLE`)
		run(fmt.Sprintf(`begin; set local role authenticated; set local request.jwt.claim.sub = '%s'`, fixtures.Alice.ID))
		require.Equal(t, want+1, visible())
		run(`commit; set role authenticated`)
		require.Zero(t, visible())
	})
}
