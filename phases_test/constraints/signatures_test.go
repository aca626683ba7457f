package constraints_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

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
		wanted = append(wanted, definition{"public.get_accessible_" + table + "(uuid,integer)", `definer stable search_path=pg_catalog, pg_temp ` + users, policies})
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
		wanted = append(wanted, definition{f.name, f.rights + ` search_path=pg_catalog, pg_temp ` + f.who, f.otherwise})
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
				`wanted is definer stable search_path=pg_catalog, pg_temp authenticated service_role tenancy_owner: an answer would depend on what row level security hides from the caller`},
		"a function that asks with the caller's rights": {`alter function authz.audiences_of(uuid) security invoker`,
			`function authz.audiences_of(uuid) is invoker stable search_path=pg_catalog, pg_temp tenancy_owner, ` +
				`wanted is definer stable search_path=pg_catalog, pg_temp tenancy_owner: users would ask about each other`},
		"one that everybody may call": {`grant execute on function public.refresh_organization_stats() to public`,
			`function public.refresh_organization_stats() is definer volatile search_path=pg_catalog, pg_temp PUBLIC service_role tenancy_owner, ` +
				`wanted is definer volatile search_path=pg_catalog, pg_temp service_role tenancy_owner: users would keep the server busy`},
	} {
		t.Run("or the check finds "+name, func(t *testing.T) { finds(t, db.Owner, check, test.fault, test.problem) })
	}
}
