package document

import (
	"context"
	"fmt"
	"strings"
)

type function struct {
	Schema, Name, Arguments, Result, Comment, Callers string
	Owner, Trigger, ForUsers                          bool
}

// Functions describes what phases 1 to 4 make, by region: users (what the API calls),
// operators (what the backend or an operator calls), inside (what policies, triggers and
// migrations call).
func Functions(ctx context.Context, db Querier) (map[string]string, error) {
	found, err := rows[function](ctx, db, `
		select p.pronamespace::regnamespace::text, p.proname::text, pg_get_function_arguments(p.oid),
			case p.prokind when 'p' then 'procedure' else pg_get_function_result(p.oid) end,
			coalesce(obj_description(p.oid, 'pg_proc'), ''),
			coalesce((
				select string_agg(distinct case a.grantee when 0 then 'everybody' else a.grantee::regrole::text end, ', ')
				from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
				where a.grantee <> p.proowner
			), ''),
			p.prosecdef, p.prorettype = 'trigger'::regtype,
			p.pronamespace = 'public'::regnamespace and p.proname <> 'refresh_organization_stats'
		from pg_proc p
		where p.pronamespace in (select oid from pg_namespace where nspname in ('authz', 'audit', 'tenancy'))
		   or p.oid in (select to_regprocedure(signature) from tenancy.api_function)
		   or p.oid in ('public.soft_delete(text, uuid)'::regprocedure, 'public.refresh_organization_stats()'::regprocedure)
		order by array_position('{public,audit,authz,tenancy}', p.pronamespace::regnamespace::text), p.proname, pg_get_function_arguments(p.oid)`)
	if err != nil {
		return nil, err
	}
	var users, operators, inside strings.Builder
	for _, heading := range []*strings.Builder{&operators, &inside} {
		heading.WriteString("| function | is | may call it |\n| --- | --- | --- |\n")
	}
	for _, f := range found {
		if f.Comment == "" {
			return nil, fmt.Errorf("%s.%s(%s) has no description: give it one by comment on, in the phase that makes it", f.Schema, f.Name, f.Arguments)
		}
		callers := f.Callers
		if callers == "" {
			callers = "the owner"
		}
		runs := "the caller"
		if f.Owner {
			runs = "the owner of the tables"
		}
		if f.ForUsers {
			fmt.Fprintf(&users, "### %s\n\n```sql\n%s(%s)\n    → %s\n```\n\n%s\n\nMay call it: %s. Runs as %s.\n\n",
				f.Name, f.Name, plain(f.Arguments), plain(f.Result), f.Comment, callers, runs)
			continue
		}
		into := &inside
		if f.Schema == "public" || f.Callers == "" && (f.Name == "make_partitions" || f.Name == "detach_partitions") {
			into = &operators
		}
		if f.Trigger {
			callers = "triggers"
		}
		fmt.Fprintf(into, "| `%s.%s(%s)` | %s | %s |\n", f.Schema, f.Name, plain(f.Arguments), cell(f.Comment), callers)
	}
	return map[string]string{"users": users.String(), "operators": operators.String(), "inside": inside.String()}, nil
}
