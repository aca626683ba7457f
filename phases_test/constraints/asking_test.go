package constraints_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
)

// calls are the functions of the checklist as somebody calls them about a user; $1 is the user.
var calls = func() map[string]string {
	all := map[string]string{
		"get_user_accessible_organizations": `select count(*) from public.get_user_accessible_organizations($1)`,
		"search_agents":                     `select count(*) from public.search_agents($1, '{labels}')`,
		"search_knowledge_documents":        `select count(*) from public.search_knowledge_documents($1, 'labels')`,
		"can_user_access_resource":          `select public.can_user_access_resource($1, '` + fixtures.PlatformID + `', 'platform')`,
	}
	for _, table := range resourceTables {
		all["get_accessible_"+table] = `select count(*) from public.get_accessible_` + table + `($1, 10)`
	}
	return all
}()

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
				require.Empty(t, collect[string](t, tx, `
					select a.name::text
					from public.agents a
					left join public.get_accessible_agents($1) l on l.agent_id = a.id
					where a.deleted_at is null and a.status = 'active'
					  and public.can_user_access_resource($1, a.owner_organization_id, a.sharing_scope) <> (l.agent_id is not null)`, fixtures.Alice.ID),
					"the list and can_user_access_resource() say the same")
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
