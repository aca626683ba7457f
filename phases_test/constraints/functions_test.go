package constraints_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
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
	t.Run("Search", testSearch)
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
	t.Run("is described in full", func(t *testing.T) {
		do(t, db, actor.User(fixtures.Alice.ID), func(tx pgx.Tx) {
			require.Equal(t, []string{
				"Novartis RA Agent tier_3 organization " + fixtures.Novartis.ID + " organization-private",
				"Pharma-wide Agent tier_3 tenant " + fixtures.Pfizer.ID + " tenant-wide",
				"Platform-wide Agent tier_3 platform " + fixtures.PlatformID + " platform-wide",
			}, collect[string](t, tx, `
				select concat_ws(' ', agent_name, agent_display_name, tier, sharing_scope, owner_organization_id, access_reason)
				from public.get_accessible_agents($1) where agent_name in ('Novartis RA Agent', 'Pharma-wide Agent', 'Platform-wide Agent')`, fixtures.Alice.ID))
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

// calls are the functions of the checklist as somebody calls them about a user; $1 is the user.
var calls = map[string]string{
	"get_accessible_agents":             `select count(*) from public.get_accessible_agents($1)`,
	"get_user_accessible_organizations": `select count(*) from public.get_user_accessible_organizations($1)`,
	"get_accessible_prompts":            `select count(*) from public.get_accessible_prompts($1, 10)`,
	"search_agents":                     `select count(*) from public.search_agents($1, '{labels}')`,
	"search_knowledge_documents":        `select count(*) from public.search_knowledge_documents($1, 'labels')`,
	"can_user_access_resource":          `select public.can_user_access_resource($1, '` + fixtures.PlatformID + `', 'platform')`,
}

func testWhoMayAsk(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	signedOut := actor.User("")
	do(t, db, actor.User(fixtures.Alice.ID), func(tx pgx.Tx) {
		for name, call := range calls {
			t.Run(name+" tells a user about itself only", func(t *testing.T) {
				_, err := tx.Exec(t.Context(), call, fixtures.Alice.ID)
				require.NoError(t, err)
				for whom, id := range map[string]any{"Bob": fixtures.Bob.ID, "a colleague": fixtures.Adam.ID, "nobody": nil, "somebody unknown": fixtures.Pfizer.ID} {
					undo := savepoint(t, tx)
					refusal := refused(t, tx, call, []any{id}, insufficientPrivilege)
					require.Equal(t, "p_user_id must be the calling user", refusal.Message, whom)
					undo()
				}
			})
		}
		for _, call := range []string{`select authz.audiences_of($1)`, `select authz.organizations_of($1, '{admin}')`, `select authz.visible_organizations_of($1)`} {
			t.Run("and what the functions call is not for users: "+call, func(t *testing.T) {
				defer savepoint(t, tx)()
				refused(t, tx, call, []any{fixtures.Alice.ID}, insufficientPrivilege)
			})
		}
		t.Run("and a user does not make the statistics anew", func(t *testing.T) {
			defer savepoint(t, tx)()
			refused(t, tx, `select public.refresh_organization_stats()`, nil, insufficientPrivilege)
		})
	})
	for name, who := range map[string]actor.Actor{"nobody who is signed in": signedOut, "nobody who is signed in, in the old way": signedOut.WithOldClaims()} {
		t.Run(name+" hears anything", func(t *testing.T) {
			do(t, db, who, func(tx pgx.Tx) {
				for _, call := range calls {
					for _, id := range []any{nil, fixtures.Alice.ID} {
						undo := savepoint(t, tx)
						refused(t, tx, call, []any{id}, insufficientPrivilege)
						undo()
					}
				}
				for _, way := range chains(t, tx) {
					require.Empty(t, way)
				}
				for _, tenant := range tenants(t, tx) {
					require.Empty(t, tenant)
				}
			})
		})
	}
	t.Run("a malformed claim is an error and no answer", func(t *testing.T) {
		do(t, db, actor.User("alice"), func(tx pgx.Tx) {
			for _, call := range calls {
				undo := savepoint(t, tx)
				refused(t, tx, call, []any{fixtures.Alice.ID}, invalidText)
				undo()
			}
		})
	})
	t.Run("anonymous callers may call none, where a user or the backend may", func(t *testing.T) {
		every := map[string]string{
			"get_organization_hierarchy": `select count(*) from public.get_organization_hierarchy($1)`,
			"get_organization_tenant":    `select public.get_organization_tenant($1)`,
			"refresh_organization_stats": `select public.refresh_organization_stats() where $1::uuid is not null`,
		}
		for name, call := range calls {
			every[name] = call
		}
		do(t, db, actor.Anonymous(), func(tx pgx.Tx) {
			for name, call := range every {
				undo := savepoint(t, tx)
				refusal := refused(t, tx, call, []any{fixtures.Alice.ID}, insufficientPrivilege)
				require.Equal(t, "permission denied for function "+name, refusal.Message)
				undo()
			}
		})
		do(t, db, actor.Service(), func(tx pgx.Tx) {
			for name, call := range every {
				_, err := tx.Exec(t.Context(), call, fixtures.Alice.ID)
				require.NoError(t, err, name)
			}
		})
	})
	t.Run("the backend may ask about anybody, and hears what they would", func(t *testing.T) {
		do(t, db, actor.Service(), func(tx pgx.Tx) {
			for _, user := range fixtures.Users {
				require.Equal(t, expected(user), ask(t, tx, user), user.Name)
			}
			ways, found := map[string][]string{}, map[string]string{}
			for _, id := range allOrganizations() {
				ways[id], found[id] = chain(id), expectedTenant(id)
			}
			require.Equal(t, ways, chains(t, tx))
			require.Equal(t, found, tenants(t, tx))
		})
	})
}

func testHostileArguments(t *testing.T) {
	t.Parallel()
	do(t, phase3(t), actor.Service(), func(tx pgx.Tx) {
		unknown := fixtures.User{ID: "99999999-0000-4000-8000-000000000000", Name: "somebody unknown"}
		t.Run("somebody unknown is somebody without a membership", func(t *testing.T) {
			require.Equal(t, expected(fixtures.Nobody), ask(t, tx, unknown))
		})
		const no, none = "false", "0"
		for call, want := range map[string]string{
			`select count(*)::text from public.get_accessible_agents(null)`:                                                             none,
			`select count(*)::text from public.get_user_accessible_organizations(null)`:                                                 none,
			`select count(*)::text from public.get_organization_hierarchy(null)`:                                                        none,
			`select count(*)::text from public.get_organization_hierarchy('` + unknown.ID + `')`:                                        none,
			`select count(public.get_organization_tenant(null))::text`:                                                                  none,
			`select count(public.get_organization_tenant('` + unknown.ID + `'))::text`:                                                  none,
			`select public.can_user_access_resource(null, '` + fixtures.Novartis.ID + `', 'platform')::text`:                            no,
			`select public.can_user_access_resource('` + fixtures.Alice.ID + `', null, 'platform')::text`:                               no,
			`select public.can_user_access_resource('` + fixtures.Alice.ID + `', '` + unknown.ID + `', 'platform')::text`:               no,
			`select public.can_user_access_resource('` + fixtures.Alice.ID + `', '` + fixtures.Novartis.ID + `', null)::text`:           no,
			`select public.can_user_access_resource('` + fixtures.Root.ID + `', '` + fixtures.PlatformID + `', 'tenant')::text`:         no,
			`select public.can_user_access_resource(null, null, null)::text`:                                                            no,
			`select public.can_user_access_resource('` + fixtures.Alice.ID + `', '` + fixtures.Novartis.ID + `', 'organization')::text`: "true",
		} {
			t.Run(call, func(t *testing.T) { require.Equal(t, []string{want}, collect[string](t, tx, call)) })
		}
	})
}

// What an organization, its tenant or a membership that ends takes away, at once.
func testSwitchedOff(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	has := func(t *testing.T, tx pgx.Tx, user fixtures.User, agent fixtures.Resource) bool {
		t.Helper()
		return slices.Contains(collect[string](t, tx, `select agent_id::text from public.get_accessible_agents($1)`, user.ID), agent.ID)
	}
	const novartis, pharma = `where slug = 'novartis'`, `where slug = 'pharma'`
	do(t, db, actor.Service(), func(tx pgx.Tx) {
		for name, test := range map[string]struct {
			sql   string
			gone  []fixtures.Resource // from Alice
			stays []fixtures.Resource
			level []string // what is left of her organizations
		}{
			"an organization that is switched off": {`update public.organizations set is_active = false ` + novartis,
				[]fixtures.Resource{fixtures.NovartisAgent, fixtures.NovartisSharedAgent, fixtures.NovartisPublicAgent, fixtures.PharmaAgent}, []fixtures.Resource{fixtures.PublicAgent, fixtures.PfizerPublicAgent}, []string{"platform"}},
			"an organization that is deleted": {`update public.organizations set deleted_at = now() ` + novartis,
				[]fixtures.Resource{fixtures.NovartisAgent, fixtures.NovartisSharedAgent, fixtures.NovartisPublicAgent, fixtures.PharmaAgent}, []fixtures.Resource{fixtures.PublicAgent, fixtures.PfizerPublicAgent}, []string{"platform"}},
			"a tenant that is switched off": {`update public.organizations set is_active = false ` + pharma,
				[]fixtures.Resource{fixtures.NovartisAgent, fixtures.NovartisPublicAgent, fixtures.PharmaAgent, fixtures.PfizerPublicAgent}, []fixtures.Resource{fixtures.PublicAgent}, []string{"platform"}},
			"a tenant that is deleted": {`update public.organizations set deleted_at = now() ` + pharma,
				[]fixtures.Resource{fixtures.NovartisAgent, fixtures.NovartisPublicAgent, fixtures.PharmaAgent, fixtures.PfizerPublicAgent}, []fixtures.Resource{fixtures.PublicAgent}, []string{"platform"}},
			"another organization that is switched off": {`update public.organizations set is_active = false where slug = 'pfizer'`,
				[]fixtures.Resource{fixtures.PharmaAgent, fixtures.PfizerPublicAgent}, []fixtures.Resource{fixtures.NovartisAgent, fixtures.TenantSharedAgent}, []string{"platform", "tenant", "organization"}},
			"a membership that ends": {`update public.user_organizations set is_active = false where user_id = '` + fixtures.Alice.ID + `'`,
				[]fixtures.Resource{fixtures.NovartisAgent, fixtures.NovartisSharedAgent, fixtures.PharmaAgent}, []fixtures.Resource{fixtures.PublicAgent, fixtures.NovartisPublicAgent}, []string{"platform"}},
			"an agent that is deleted or not active": {`update public.agents set deleted_at = now() where id = '` + fixtures.NovartisAgent.ID + `'; update public.agents set status = 'archived' where id = '` + fixtures.PharmaAgent.ID + `'`,
				[]fixtures.Resource{fixtures.NovartisAgent, fixtures.PharmaAgent}, []fixtures.Resource{fixtures.NovartisSharedAgent}, []string{"platform", "tenant", "organization"}},
		} {
			t.Run(name+" takes its agents away", func(t *testing.T) {
				defer savepoint(t, tx)()
				for _, agent := range slices.Concat(test.gone, test.stays) {
					require.True(t, has(t, tx, fixtures.Alice, agent), "before: %s", agent.Name)
				}
				_, err := tx.Exec(t.Context(), test.sql)
				require.NoError(t, err)
				for _, agent := range test.gone {
					require.False(t, has(t, tx, fixtures.Alice, agent), "Alice is still offered %s", agent.Name)
				}
				for _, agent := range test.stays {
					require.True(t, has(t, tx, fixtures.Alice, agent), "Alice lost %s", agent.Name)
				}
				require.Equal(t, test.level, collect[string](t, tx, `select organization_type::text from public.get_user_accessible_organizations($1)`, fixtures.Alice.ID))
			})
		}
		t.Run("a deleted organization has no place in the hierarchy and no tenant", func(t *testing.T) {
			defer savepoint(t, tx)()
			require.Len(t, chains(t, tx)[fixtures.Novartis.ID], 3)
			_, err := tx.Exec(t.Context(), `update public.organizations set deleted_at = now() `+novartis)
			require.NoError(t, err)
			require.Empty(t, chains(t, tx)[fixtures.Novartis.ID])
			require.Empty(t, tenants(t, tx)[fixtures.Novartis.ID])
		})
	})
	t.Run("an organization of which nobody says whether it is active is not", func(t *testing.T) {
		tx, err := db.Owner.Begin(t.Context())
		require.NoError(t, err)
		defer tx.Rollback(t.Context())
		require.True(t, has(t, tx, fixtures.Alice, fixtures.PfizerPublicAgent))
		_, err = tx.Exec(t.Context(), `alter table public.organizations alter column is_active drop not null; update public.organizations set is_active = null where slug in ('novartis', 'pfizer')`)
		require.NoError(t, err)
		for _, agent := range []fixtures.Resource{fixtures.NovartisAgent, fixtures.NovartisPublicAgent, fixtures.PfizerPublicAgent} {
			require.False(t, has(t, tx, fixtures.Alice, agent), "Alice is still offered %s", agent.Name)
		}
	})
}

// wantedFunctions lists what phase 3 adds to the functions: who executes it, as whom, and with what rights.
func wantedFunctions() []definition {
	const (
		users    = "authenticated service_role tenancy_owner"
		backend  = "service_role tenancy_owner"
		nobody   = "tenancy_owner"
		callers  = "the view in front of the statistics calls it as whoever reads"
		policies = "an answer would depend on what row level security hides from the caller"
	)
	wanted := []definition{
		{"authz.searchable(text,text)", "invoker immutable no search_path anon " + users, "who writes a document would not be allowed to index it"},
		// A procedure that commits pins nothing.
		{"audit.detach_partitions(interval)", "invoker volatile no search_path " + nobody, "users would take the history away"},
	}
	for _, table := range resourceTables {
		wanted = append(wanted, definition{"public.get_accessible_" + table + "(uuid,integer)", `definer stable search_path="" ` + users, policies})
	}
	for _, f := range []struct{ name, rights, who, otherwise string }{
		{"public.get_organization_hierarchy(uuid)", "definer", users, policies},
		{"public.get_organization_tenant(uuid)", "definer", users, policies},
		{"public.get_user_accessible_organizations(uuid)", "definer", users, policies},
		{"public.search_agents(uuid,text[],integer)", "definer", users, policies},
		{"public.search_knowledge_documents(uuid,text,integer)", "definer", users, policies},
		{"public.can_user_access_resource(uuid,uuid,public.sharing_scope_type)", "definer", users, policies},
		{"public.refresh_organization_stats()", "definer volatile", backend, "users would keep the server busy"},
		{"authz.is_privileged()", "invoker", users, callers},
		{"authz.member_organizations()", "definer", users, callers},
		{"authz.require_self(uuid)", "invoker", nobody, policies},
		{"authz.organizations_of(uuid,text[])", "definer", nobody, "users would ask about each other"},
		{"authz.audiences_of(uuid)", "definer", nobody, "users would ask about each other"},
		{"authz.visible_organizations_of(uuid)", "definer", nobody, "users would ask about each other"},
		{"authz.suspended_organizations()", "definer", nobody, policies},
		{"audit.make_partitions(integer)", "invoker volatile", nobody, "users would lock the history"},
	} {
		if f.rights != "definer volatile" && f.rights != "invoker volatile" {
			f.rights += " stable"
		}
		wanted = append(wanted, definition{f.name, f.rights + ` search_path="" ` + f.who, f.otherwise})
	}
	return wanted
}

// functionProblems says where the functions that phase 3 adds are not those of the design.
func functionProblems(before map[string]string) func(testing.TB, beginner) []string {
	return func(t testing.TB, db beginner) []string {
		t.Helper()
		found := functions(t, db)
		for name := range before {
			delete(found, name)
		}
		return problems("function", wantedFunctions(), found)
	}
}

func functions(t testing.TB, db beginner) map[string]string {
	t.Helper()
	return definitions(t, db, `
		select p.oid::regprocedure::text, concat_ws(' ',
			case when p.prosecdef then 'definer' else 'invoker' end,
			case p.provolatile when 's' then 'stable' when 'v' then 'volatile' else 'immutable' end,
			coalesce((select string_agg(setting, ' ' order by setting) from unnest(p.proconfig) as setting where setting like 'search_path=%'), 'no search_path'),
			(select string_agg(distinct coalesce(r.rolname, 'PUBLIC'), ' ' order by coalesce(r.rolname, 'PUBLIC'))
			 from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
			 left join pg_catalog.pg_roles r on r.oid = a.grantee))
		from pg_catalog.pg_proc p
		where p.pronamespace in (select oid from pg_catalog.pg_namespace where nspname in ('public', 'authz', 'audit', 'tenancy'))`)
}

func testFunctionDefinitions(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	check := functionProblems(functions(t, phase2(t).Owner))
	t.Run("each pins its search_path, runs as its owner where it reads memberships, and is for whom it is meant", func(t *testing.T) {
		require.Empty(t, check(t, db.Owner))
		t.Logf("checked %d functions", len(wantedFunctions()))
	})
	for name, test := range map[string]struct{ fault, problem string }{
		"a search_path that the caller chooses": {`alter function public.get_organization_tenant(uuid) reset search_path`,
			`function public.get_organization_tenant(uuid) is definer stable no search_path authenticated service_role tenancy_owner, ` +
				`wanted is definer stable search_path="" authenticated service_role tenancy_owner: an answer would depend on what row level security hides from the caller`},
		"a function that asks with the caller's rights": {`alter function authz.audiences_of(uuid) security invoker`,
			`function authz.audiences_of(uuid) is invoker stable search_path="" tenancy_owner, ` +
				`wanted is definer stable search_path="" tenancy_owner: users would ask about each other`},
		"one that everybody may call": {`grant execute on function public.refresh_organization_stats() to public`,
			`function public.refresh_organization_stats() is definer volatile search_path="" PUBLIC service_role tenancy_owner, ` +
				`wanted is definer volatile search_path="" service_role tenancy_owner: users would keep the server busy`},
	} {
		t.Run("or the check finds "+name, func(t *testing.T) { finds(t, db.Owner, check, test.fault, test.problem) })
	}
}
