package schema_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/golden"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// attributes is as whom each function of ours runs, where it looks for names, and what the planner may take from it;
// and how views read. What a function does is for the tests of its phase.
const attributes = `
	select format('%s: %s, %s, parallel %s, as %s%s', p.oid::regprocedure, l.lanname,
		case p.provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
		case p.proparallel when 's' then 'safe' when 'r' then 'restricted' else 'unsafe' end,
		case when p.prosecdef then 'its owner' else 'its caller' end,
		(select string_agg(', ' || setting, '' order by setting) from unnest(p.proconfig) as setting))
	from pg_catalog.pg_proc p
	join pg_catalog.pg_language l on l.oid = p.prolang
	where p.pronamespace in (select oid from pg_catalog.pg_namespace where nspname in ('public', 'authz', 'audit', 'tenancy'))
	  and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
	union all
	select format('view %s: %s', c.oid::regclass, coalesce(array_to_string(c.reloptions, ', '), 'as its owner'))
	from pg_catalog.pg_class c
	where c.relkind = 'v' and c.relnamespace in (select oid from pg_catalog.pg_namespace where nspname in ('public', 'authz', 'audit', 'tenancy'))
	  and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')`

// TestAttributes compares what each phase makes of them with what is written down.
func TestAttributes(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/schema-updated/all-functions-working")
	phases := append([]schema.Phase{schema.Legacy}, schema.Phases()...)
	found := make([][]string, len(phases))
	t.Run("after every phase", func(t *testing.T) {
		for i, phase := range phases {
			t.Run(phase.String(), func(t *testing.T) {
				t.Parallel()
				db := pgtest.New(t, phase)
				require.NoError(t, pgx.BeginFunc(t.Context(), db.Superuser, func(tx pgx.Tx) error {
					_, err := tx.Exec(t.Context(), `set local search_path = ''`)
					require.NoError(t, err)
					rows, err := tx.Query(t.Context(), attributes)
					require.NoError(t, err)
					found[i], err = pgx.CollectRows(rows, pgx.RowTo[string])
					slices.Sort(found[i])
					return err
				}))
				require.NotEmpty(t, found[i])
			})
		}
	})
	if t.Failed() {
		return
	}
	var text strings.Builder
	text.WriteString("# How functions and views run, after each phase that makes or changes (+) or drops (-) some.\n# `make golden` writes this file; whoever reviews it decides whether that is meant.\n")
	for i, phase := range phases[1:] {
		fmt.Fprintf(&text, "\n%s\n", phase)
		for _, line := range found[i] {
			if !slices.Contains(found[i+1], line) {
				fmt.Fprintf(&text, "  - %s\n", line)
			}
		}
		for _, line := range found[i+1] {
			if !slices.Contains(found[i], line) {
				fmt.Fprintf(&text, "  + %s\n", line)
			}
		}
	}
	golden.Check(t, "testdata/attributes.txt", text.String(), "is not how functions and views run. If this is meant, `make golden` writes it down for the review.")
}
