package rls_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// testSessions is a connection that another request had before.
func testSessions(t *testing.T) {
	t.Parallel()
	db := secured(t)
	conn := db.Connect(t, pgtest.APIRole)
	request := func(role, claims string) (agents int, err error) {
		err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), `select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)`, role, claims); err != nil {
				return err
			}
			return tx.QueryRow(t.Context(), `select count(*) from public.agents where id = '`+fixtures.NovartisAgent.ID+`'`).Scan(&agents)
		})
		return agents, err
	}
	alice := `{"role": "authenticated", "sub": "` + fixtures.Alice.ID + `"}`
	bob := `{"role": "authenticated", "sub": "` + fixtures.Bob.ID + `"}`
	for _, turn := range []struct {
		claims string
		want   int
	}{{alice, 1}, {bob, 0}, {alice, 1}, {"", 0}, {alice, 1}, {`{}`, 0}} {
		agents, err := request("authenticated", turn.claims)
		require.NoError(t, err)
		require.Equal(t, turn.want, agents, "with claims %q", turn.claims)
	}
	_, err := request("anon", "")
	require.Equal(t, denied, outcomeOf(err))
	t.Run("nothing is left of the user", func(t *testing.T) {
		var claims, role string
		require.NoError(t, conn.QueryRow(t.Context(), `select current_setting('request.jwt.claims', true), current_user`).Scan(&claims, &role))
		require.Equal(t, []string{"", pgtest.APIRole}, []string{claims, role})
		_, err := conn.Exec(t.Context(), `select from public.agents`)
		require.Equal(t, denied, outcomeOf(err))
	})
	t.Run("a prepared statement asks who is calling each time", func(t *testing.T) {
		_, err := conn.Prepare(t.Context(), "agents", `select count(*) from public.agents where id = $1`)
		require.NoError(t, err)
		for range 7 { // beyond the five after which the server keeps a plan
			for claims, want := range map[string]int{alice: 1, bob: 0} {
				var agents int
				require.NoError(t, pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
					_, err := tx.Exec(t.Context(), `select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)`, claims)
					require.NoError(t, err)
					return tx.QueryRow(t.Context(), "agents", fixtures.NovartisAgent.ID).Scan(&agents)
				}))
				require.Equal(t, want, agents)
			}
		}
	})
}

// testForgedClaims writes into the claims what only the database can know.
func testForgedClaims(t *testing.T) {
	t.Parallel()
	db := secured(t)
	forged := map[string]string{
		"a role":        `{"sub": "%s", "role": "service_role"}`,
		"user_metadata": `{"sub": "%s", "role": "authenticated", "user_metadata": {"role": "admin", "organization_id": "` + fixtures.Pfizer.ID + `"}}`,
		"app_metadata":  `{"sub": "%s", "role": "authenticated", "app_metadata": {"role": "admin", "tenant_id": "` + fixtures.Pfizer.ID + `"}}`,
		"a tenant":      `{"sub": "%s", "role": "authenticated", "tenant_id": "` + fixtures.Pfizer.ID + `", "is_admin": true}`,
	}
	for user, want := range map[fixtures.User]map[string]outcome{
		fixtures.Alice: {"read": filtered, "write": filtered, "delete": denied, "ask": aboutOthers},
		fixtures.Bob:   {"read": done, "write": done, "delete": denied, "ask": done},
	} {
		require.NoError(t, as(user).Do(t, db, func(tx pgx.Tx) error {
			for what, claims := range forged {
				t.Run(what+" of "+user.Email, func(t *testing.T) {
					_, err := tx.Exec(t.Context(), `select set_config('request.jwt.claims', $1, true)`, fmt.Sprintf(claims, user.ID))
					require.NoError(t, err)
					require.Equal(t, want, map[string]outcome{
						"read":   attempt(t, tx, `select from public.agents where id = '`+fixtures.PfizerAgent.ID+`'`),
						"write":  attempt(t, tx, updateAgent(fixtures.PfizerAgent, `name = 'Mine'`)),
						"delete": attempt(t, tx, `delete from public.agents`),
						"ask":    attempt(t, tx, `select * from public.get_accessible_agents('`+fixtures.Bob.ID+`')`),
					})
				})
			}
			return nil
		}))
	}
	t.Run("a caller does not become the backend", func(t *testing.T) {
		check(t, db, map[string]step{
			"a user":             {as(fixtures.Alice), `set local role service_role`, `ERROR: permission denied to set role "service_role" (SQLSTATE 42501)`},
			"nor the owner":      {as(fixtures.Alice), `set local role tenancy_owner`, `ERROR: permission denied to set role "tenancy_owner" (SQLSTATE 42501)`},
			"nor by the setting": {as(fixtures.Alice), `select set_config('role', 'service_role', true)`, `ERROR: permission denied to set role "service_role" (SQLSTATE 42501)`},
		})
	})
}
