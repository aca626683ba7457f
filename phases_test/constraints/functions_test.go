package constraints_test

import (
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

// SQLSTATEs.
const (
	insufficientPrivilege  = "42501"
	notInPrerequisiteState = "55000"
	invalidText            = "22P02"
	invalidLimit           = "2201W"
	invalidParameter       = "22023"
)

func testFunctions(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-3/test-helper-functions", "production-deployment/verify-phase-3-in-production/test-helper-functions",
		"success-criteria/schema-updated/all-functions-working")
	t.Run("as each user", testEachUser)
	t.Run("get_accessible_agents", testAccessibleAgents)
	t.Run("Lists", testLists)
	t.Run("Lists read little", testListsReadLittle)
	t.Run("Search", testSearch)
	t.Run("Search finds what the condition by itself finds", testSearchAnswers)
	t.Run("Search parses nothing hidden", testSearchParses)
	t.Run("Who may ask", testWhoMayAsk)
	t.Run("Hostile arguments", testHostileArguments)
	t.Run("Switched off or deleted", testSwitchedOff)
	t.Run("Definitions", testFunctionDefinitions)
}

// accessible is a row of get_user_accessible_organizations().
type accessible struct {
	ID, Role, Reason string
}

// answers are what the functions say to, or about, a user.
type answers struct {
	Agents        []string
	Organizations []accessible
	Resources     map[string]bool // by owner and scope
}

// expected are the answers about a user, from the fixtures.
func expected(user fixtures.User) answers {
	a := answers{Agents: accessibleAgents(user), Resources: map[string]bool{}}
	roles := memberships(user)
	for id, o := range organizations() {
		for _, scope := range []fixtures.Level{fixtures.PlatformLevel, fixtures.TenantLevel, fixtures.OrganizationLevel} {
			a.Resources[id+" "+string(scope)] = mayRead(user, id, scope)
		}
		if !visible(user)[id] {
			continue
		}
		reason := "platform"
		switch {
		case roles[id] != "":
			reason = "member"
		case o.Type == fixtures.TenantLevel:
			reason = "tenant of an organization"
		}
		a.Organizations = append(a.Organizations, accessible{id, roles[id], reason})
	}
	slices.SortFunc(a.Organizations, func(a, b accessible) int { return slices.Compare([]string{a.ID}, []string{b.ID}) })
	return a
}

// ask asks the functions about a user.
func ask(t testing.TB, tx pgx.Tx, user fixtures.User) answers {
	t.Helper()
	a := answers{Resources: map[string]bool{}}
	a.Agents = collect[string](t, tx, `select agent_id::text from public.get_accessible_agents($1) order by 1`, user.ID)
	if len(a.Agents) == 0 {
		a.Agents = nil
	}
	rows, err := tx.Query(t.Context(), `select organization_id::text, coalesce(role, ''), access_reason from public.get_user_accessible_organizations($1) order by 1`, user.ID)
	require.NoError(t, err)
	a.Organizations, err = pgx.CollectRows(rows, pgx.RowToStructByPos[accessible])
	require.NoError(t, err)
	rows, err = tx.Query(t.Context(), `
		select o.id || ' ' || s.scope, public.can_user_access_resource($1, o.id, s.scope)
		from unnest($2::uuid[]) as o (id), unnest(enum_range(null::public.sharing_scope_type)) as s (scope)`, user.ID, allOrganizations())
	require.NoError(t, err)
	var key string
	var may bool
	_, err = pgx.ForEachRow(rows, []any{&key, &may}, func() error {
		a.Resources[key] = may
		return nil
	})
	require.NoError(t, err)
	return a
}

func allOrganizations() (ids []string) {
	for id := range organizations() {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// chains are what get_organization_hierarchy says about each organization.
func chains(t testing.TB, tx pgx.Tx) map[string][]string {
	t.Helper()
	return byOrganization[[]string](t, tx, `array(select h.organization_id::text from public.get_organization_hierarchy(o.id) as h)`)
}

// tenants are what get_organization_tenant says about each organization, "" for NULL.
func tenants(t testing.TB, tx pgx.Tx) map[string]string {
	t.Helper()
	return byOrganization[string](t, tx, `coalesce(public.get_organization_tenant(o.id)::text, '')`)
}

func byOrganization[T any](t testing.TB, tx pgx.Tx, expression string) map[string]T {
	t.Helper()
	rows, err := tx.Query(t.Context(), `select o.id::text, `+expression+` from unnest($1::uuid[]) as o (id)`, allOrganizations())
	require.NoError(t, err)
	all := map[string]T{}
	var id string
	var value T
	_, err = pgx.ForEachRow(rows, []any{&id, &value}, func() error {
		all[id] = value
		return nil
	})
	require.NoError(t, err)
	require.Len(t, all, len(organizations()))
	return all
}

func expectedTenant(id string) string {
	if tenant := tenantOf(id); tenant != nil && live(id) {
		return *tenant
	}
	return ""
}

func testEachUser(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/users-cannot-see-unauthorized-data")
	db := phase3(t)
	t.Run("hears of its own and of what others share with it, and of nothing else", func(t *testing.T) {
		eachUser(t, db, func(tx pgx.Tx, user fixtures.User) {
			require.Equal(t, expected(user), ask(t, tx, user), user.Name)
		})
	})
	t.Run("which is something for most and never everything", func(t *testing.T) {
		require.Contains(t, accessibleAgents(fixtures.Alice), fixtures.NovartisAgent.ID)
		require.Contains(t, accessibleAgents(fixtures.Alice), fixtures.PharmaAgent.ID, "shared with the tenant")
		require.NotContains(t, accessibleAgents(fixtures.Alice), fixtures.PfizerAgent.ID)
		require.NotContains(t, accessibleAgents(fixtures.Alice), fixtures.TenantAgent.ID, "private to the tenant's own people")
		require.NotContains(t, accessibleAgents(fixtures.Sam), fixtures.SandozAgent.ID, "of an organization that is switched off")
		require.Equal(t, accessibleAgents(fixtures.Nobody), accessibleAgents(fixtures.Eve), "a former member is nobody")
		require.Equal(t, accessibleAgents(fixtures.Nobody), accessibleAgents(fixtures.Uma), "quarantine has no members")
		require.Len(t, accessibleAgents(fixtures.Nobody), 3, "of the platform, Novartis and Pfizer for everybody")
	})
	t.Run("sees the way from the platform down to its organizations, and no other", func(t *testing.T) {
		eachUser(t, db, func(tx pgx.Tx, user fixtures.User) {
			ways, found := map[string][]string{}, map[string]string{}
			for _, id := range allOrganizations() {
				ways[id], found[id] = []string{}, ""
				if visible(user)[id] {
					ways[id], found[id] = chain(id), expectedTenant(id)
				}
			}
			require.Equal(t, ways, chains(t, tx), user.Name)
			require.Equal(t, found, tenants(t, tx), user.Name)
		})
	})
	t.Run("hears the same under the old convention of claims", func(t *testing.T) {
		do(t, db, actor.User(fixtures.Alice.ID).WithOldClaims(), func(tx pgx.Tx) {
			require.Equal(t, expected(fixtures.Alice), ask(t, tx, fixtures.Alice))
			require.Equal(t, chain(fixtures.Novartis.ID), chains(t, tx)[fixtures.Novartis.ID])
			require.Empty(t, chains(t, tx)[fixtures.Pfizer.ID])
		})
	})
	t.Run("is told apart by who it is, and not by tables of its own", func(t *testing.T) {
		do(t, db, actor.User(fixtures.Alice.ID), func(tx pgx.Tx) {
			_, err := tx.Exec(t.Context(), `
				create temporary table user_organizations as
					select '`+fixtures.Alice.ID+`'::uuid as user_id, '`+fixtures.Pfizer.ID+`'::uuid as organization_id, 'admin' as role, true as is_active;
				create temporary table organizations as select '`+fixtures.Pfizer.ID+`'::uuid as id;
				set local search_path = pg_temp, public`)
			require.NoError(t, err)
			require.Equal(t, expected(fixtures.Alice), ask(t, tx, fixtures.Alice))
		})
	})
	t.Run("is of these organizations and audiences for the policies, each once", func(t *testing.T) { policiesHear(t, db) })
	t.Run("hears of no role that it had, where it sees the organization all the same", func(t *testing.T) {
		do(t, db, actor.Service(), func(tx pgx.Tx) {
			_, err := tx.Exec(t.Context(), `
				insert into public.user_organizations (user_id, organization_id, role, is_active)
				select $1, id, 'admin', false from public.organizations where id = any ($2)`, fixtures.Alice.ID, []string{fixtures.PlatformID, fixtures.Pharmaceuticals.ID})
			require.NoError(t, err)
			require.Equal(t, expected(fixtures.Alice), ask(t, tx, fixtures.Alice))
		})
	})
	t.Run("hears of its organizations from the platform down, and of one level by name", func(t *testing.T) {
		do(t, db, actor.Service(), func(tx pgx.Tx) {
			// Neither by all of their names, nor as they are stored.
			for _, o := range []struct{ id, name string }{{fixtures.Novartis.ID, "B"}, {fixtures.Pfizer.ID, "A"}, {fixtures.Pharmaceuticals.ID, "C"}, {fixtures.PlatformID, "D"}} {
				_, err := tx.Exec(t.Context(), `update public.organizations set name = $1 where id = $2`, o.name, o.id)
				require.NoError(t, err)
			}
			require.Equal(t, []string{"D", "C", "A", "B"}, collect[string](t, tx, `select organization_name from public.get_user_accessible_organizations($1)`, fixtures.Max.ID))
		})
	})
	t.Run("is described in full", func(t *testing.T) {
		do(t, db, actor.User(fixtures.Alice.ID), func(tx pgx.Tx) {
			for _, limit := range []any{nil, 1000} {
				require.Equal(t, []string{
					"Novartis RA Agent tier_3 organization " + fixtures.Novartis.ID + " organization-private",
					"Pharma-wide Agent tier_3 tenant " + fixtures.Pfizer.ID + " tenant-wide",
					"Platform-wide Agent tier_3 platform " + fixtures.PlatformID + " platform-wide",
				}, collect[string](t, tx, `
					select concat_ws(' ', agent_name, agent_display_name, tier, sharing_scope, owner_organization_id, access_reason)
					from public.get_accessible_agents($1, $2) where agent_name in ('Novartis RA Agent', 'Pharma-wide Agent', 'Platform-wide Agent')`,
					fixtures.Alice.ID, limit))
			}
			require.Equal(t, []string{
				"VITAL Expert Platform vital-platform platform 1",
				"Pharmaceuticals pharma tenant " + fixtures.PlatformID + " 2",
				"Novartis novartis organization " + fixtures.Pharmaceuticals.ID + " 3",
			}, collect[string](t, tx, `
				select concat_ws(' ', organization_name, slug, organization_type, parent_organization_id, level)
				from public.get_organization_hierarchy($1)`, fixtures.Novartis.ID))
			require.Equal(t, []string{
				"VITAL Expert Platform vital-platform platform platform",
				"Pharmaceuticals pharma tenant tenant of an organization",
				"Novartis novartis organization member member",
			}, collect[string](t, tx, `
				select concat_ws(' ', organization_name, slug, organization_type, role, access_reason)
				from public.get_user_accessible_organizations($1)`, fixtures.Alice.ID))
		})
	})
}

// policiesHear compares what the policies hear of users and organizations with the fixtures. One NULL too many among those that
// are suspended, and nobody would read anything.
func policiesHear(t *testing.T, db *pgtest.DB) {
	t.Helper()
	elements := func(tx pgx.Tx, call string, args ...any) []string {
		return collect[string](t, tx, `select coalesce(e::text, 'NULL') from unnest(`+call+`) as e order by 1`, args...)
	}
	sorted := func(set map[string]bool) []string { return append([]string{}, slices.Sorted(maps.Keys(set))...) }
	shared := func(id string) string { return id[:14] + "f" + id[15:] } // as authz.shared_key() says
	tx, err := db.Owner.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	for _, user := range fixtures.Users {
		members, audiences := map[string]bool{}, map[string]bool{shared(fixtures.PlatformID): true}
		for id := range memberships(user) {
			members[id], audiences[id] = true, true
			if tenant := tenantOf(id); tenant != nil {
				audiences[shared(*tenant)] = true
			}
		}
		require.Equal(t, sorted(members), elements(tx, `authz.organizations_of($1, '{admin,member,viewer}')`, user.ID), user.Name)
		require.Equal(t, sorted(audiences), elements(tx, `authz.audiences_of($1)`, user.ID), user.Name)
		require.Equal(t, sorted(visible(user)), elements(tx, `authz.visible_organizations_of($1)`, user.ID), user.Name)
	}
	suspended := map[string]bool{}
	for id := range organizations() {
		if !live(id) {
			suspended[id] = true
		}
	}
	require.Equal(t, sorted(suspended), elements(tx, `authz.suspended_organizations()`))
	// The platform is above tenants, and does not take them along; and a tenant may have none below it.
	empty := collect[string](t, tx, `
		insert into public.organizations (name, slug, organization_type, parent_organization_id, is_active)
		select 'Empty', 'empty', 'tenant', $1, false returning id::text`, fixtures.PlatformID)[0]
	_, err = tx.Exec(t.Context(), `update public.organizations set is_active = false where id = $1`, fixtures.PlatformID)
	require.NoError(t, err)
	suspended[empty], suspended[fixtures.PlatformID] = true, true
	require.Equal(t, sorted(suspended), elements(tx, `authz.suspended_organizations()`))
}

func testAccessibleAgents(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	do(t, db, actor.Service(), func(tx pgx.Tx) {
		// Each is of another audience, and better than the next by the first thing in which they differ.
		_, err := tx.Exec(t.Context(), `
			update public.agents set priority = 9, tier = 'tier_3', name = 'z' where id = '`+fixtures.PfizerPublicAgent.ID+`';
			update public.agents set priority = 8, tier = 'tier_1', name = 'y' where id = '`+fixtures.PharmaAgent.ID+`';
			update public.agents set priority = 8, tier = 'tier_2', name = 'a' where id = '`+fixtures.NovartisAgent.ID+`';
			update public.agents set priority = 8, tier = 'tier_2', name = 'b' where id = '`+fixtures.PublicAgent.ID+`';
			update public.agents set priority = -1, tier = 'tier_1', name = 'a' where id = '`+fixtures.EveAgent.ID+`'`)
		require.NoError(t, err)
		const agents = `select agent_id::text from public.get_accessible_agents($1, $2)`
		best := []string{fixtures.PfizerPublicAgent.ID, fixtures.PharmaAgent.ID, fixtures.NovartisAgent.ID, fixtures.PublicAgent.ID}
		all := collect[string](t, tx, agents, fixtures.Alice.ID, nil)
		t.Run("lists by priority, then tier, then name", func(t *testing.T) {
			require.Len(t, all, len(accessibleAgents(fixtures.Alice)))
			require.Equal(t, best, all[:len(best)])
			require.Equal(t, fixtures.EveAgent.ID, all[len(all)-1])
		})
		t.Run("gives the first of the list if there is a limit", func(t *testing.T) {
			for limit := range len(best) + 1 {
				require.Equal(t, best[:limit], collect[string](t, tx, agents, fixtures.Alice.ID, limit))
			}
			require.Equal(t, all, collect[string](t, tx, agents, fixtures.Alice.ID, 1000))
		})
		t.Run("refuses a limit below nothing", func(t *testing.T) {
			defer savepoint(t, tx)()
			refused(t, tx, agents, []any{fixtures.Alice.ID, -1}, invalidLimit)
		})
	})
}
