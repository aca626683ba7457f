package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// TakeData returns for every table, by its name ("public.agents"), the number of its rows and a
// checksum of them, computed by the server in one statement and so from one snapshot. Order
// of rows does not matter; duplicates, nulls and column order do. Partitions count as part
// of their partitioned table; views, materialised views, foreign and temporary tables and
// those of extensions are left out.
//
// The role must be able to read every table unfiltered: row level security that applies
// to it is an error.
//
// Without names what to leave out: tables ("public.audit_logs") or columns
// ("public.agents.updated_at"). A name that does not exist leaves out nothing.
func TakeData(ctx context.Context, db Beginner, without ...string) (Data, error) {
	d := Data{}
	err := quietly(ctx, db, func(tx pgx.Tx) error {
		sql, err := checksums(ctx, tx, without)
		if err != nil || sql == "" {
			return err
		}
		return collect(ctx, tx, sql, d)
	})
	if err != nil {
		return nil, fmt.Errorf("take the data's checksums: %w", err)
	}
	return d, nil
}

// checksums returns the query that reads every table, "" when there are none.
func checksums(ctx context.Context, tx pgx.Tx, without []string) (string, error) {
	rows, err := tx.Query(ctx, `
		select
			format('%I.%I', n.nspname, c.relname),
			-- A table that others inherit from holds its own rows only; partitioned tables hold none.
			case c.relkind when 'p' then '' else 'only ' end,
			coalesce(array_agg(quote_ident(a.attname) order by a.attnum) filter (where a.attname is not null), '{}')
		from pg_catalog.pg_class as c
		join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
		left join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		where c.relkind in ('r', 'p')
			and not c.relispartition
			and c.relpersistence <> 't'
			and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
			and not exists (
				select from pg_catalog.pg_depend as d
				where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
			)
		group by n.nspname, c.relname, c.relkind`)
	if err != nil {
		return "", err
	}
	var selects []string
	var table, only string
	var columns []string
	_, err = pgx.ForEachRow(rows, []any{&table, &only, &columns}, func() error {
		if slices.Contains(without, table) {
			return nil
		}
		var kept []string
		for _, c := range columns {
			if !slices.Contains(without, table+"."+c) {
				kept = append(kept, "t."+c)
			}
		}
		// Every type has a text form; the sum of 64-bit hashes, a numeric, does not overflow.
		selects = append(selects, fmt.Sprintf(
			"select %s, format('%%s rows, checksum %%s', count(*), coalesce(sum(hashtextextended(row(%s)::text, 0)), 0)) from %s%s as t",
			quote(table), strings.Join(kept, ", "), only, table))
		return nil
	})
	return strings.Join(selects, "\nunion all\n"), err
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
