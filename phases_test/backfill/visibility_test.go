package backfill_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

func testVisibility(t *testing.T) {
	t.Parallel()
	legacy := pgtest.New(t, schema.Legacy, fixtures.World()...)
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)
	audience := map[string]string{}
	for name, row := range rows(t, db) {
		audience[name] = row.Audience
	}

	for _, user := range fixtures.Users {
		t.Run(user.Name, func(t *testing.T) {
			t.Parallel()
			before, after := visible(t, legacy, user), visible(t, db, user)
			made := []string{"organizations " + fixtures.QuarantineOrganizationName, "organizations " + fixtures.QuarantineTenantName}
			require.Equal(t, before, slices.DeleteFunc(after, func(row string) bool { return slices.Contains(made, row) }),
				"until phase 4 the old policies rule, and show what they showed")

			// What phase 4 will show by the audience that phase 2 has given.
			mine := []string{shared(fixtures.PlatformID)}
			for _, m := range fixtures.Memberships {
				if m.UserID == user.ID && m.Active && live(m.OrganizationID) {
					organization := fixtures.AfterID(m.OrganizationID)
					mine = append(mine, organization)
					if tenant := tenantOf(organization); tenant != "" {
						mine = append(mine, shared(tenant))
					}
				}
			}
			offered := 0
			for _, agent := range fixtures.Agents {
				// A row that had no owner is new to the members of the one that it has got: that is what an owner is for.
				if name := "agents " + agent.Name; agent.TenantID != nil && slices.Contains(mine, audience[name]) {
					require.True(t, slices.Contains(before, name), "%s would see %q, which the old policies hide", user.Name, agent.Name)
					offered++
				}
			}
			require.Positive(t, offered, "everybody sees what is shared with everybody")
		})
	}
	t.Run("Bob of Pfizer sees an agent of Pfizer, and Alice of Novartis does not", func(t *testing.T) {
		require.Contains(t, visible(t, db, fixtures.Bob), "agents "+fixtures.PfizerAgent.Name)
		require.NotContains(t, visible(t, db, fixtures.Alice), "agents "+fixtures.PfizerAgent.Name)
	})
}

// live says whether a legacy organization, and its tenant, are active.
func live(organization string) bool {
	return slices.ContainsFunc(fixtures.Organizations, func(o fixtures.Organization) bool {
		return o.ID == organization && o.Active && tenantOf(o.After.ID) != fixtures.QuarantineTenantID
	})
}

// visible is the rows of all tables that a user reads, by what does not change.
func visible(t *testing.T, db *pgtest.DB, user fixtures.User) (names []string) {
	t.Helper()
	var selects []string
	for _, table := range tables() {
		selects = append(selects, fmt.Sprintf(`select '%s ' || %s from public.%[1]s`, table, nameColumn(table)))
	}
	selects = append(selects,
		`select 'organizations ' || name from public.organizations`,
		`select 'users ' || email from public.users`,
		`select 'user_organizations ' || id from public.user_organizations`,
		`select 'messages ' || id from public.messages`)
	require.NoError(t, actor.User(user.ID).Do(t, db, func(tx pgx.Tx) error {
		rows, err := tx.Query(t.Context(), strings.Join(selects, " union all ")+" order by 1")
		require.NoError(t, err)
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	}))
	return names
}
