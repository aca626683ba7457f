package schema_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// kept is a table of schema tenancy, which is what the migrations know of a database: what they may take from it, and
// what a rollback runs.
type kept struct {
	// row is one that it takes, as SQL; given twice, the key refuses it.
	row map[string]string
	// keys are the constraints that tell its rows apart.
	keys []string
	// optional are the columns that may be NULL.
	optional []string
}

const (
	someone, another = "'00000001-0000-4000-8000-0000000000a1'", "'00000001-0000-4000-8000-0000000000a2'"

	twoTenants = `insert into public.organizations (id, name, slug, organization_type, parent_organization_id) values
		(` + someone + `, 'Someone', 'someone', 'tenant', '` + fixtures.PlatformID + `'),
		(` + another + `, 'Another', 'another', 'tenant', '` + fixtures.PlatformID + `')`
)

var bookkeeping = map[string]kept{
	"classified_table": {row: map[string]string{"table_name": "'news'", "class": "'resource'"}, keys: []string{"classified_table_pkey"}},
	"trusted_object":   {row: map[string]string{"identity": "'report.of_all'", "reason": "'counts'"}, keys: []string{"trusted_object_pkey"}},
	"legacy_tenant": {row: map[string]string{"tenant_type": "'devices'", "tenant_key": "'devices-key'"},
		keys: []string{"legacy_tenant_pkey", "legacy_tenant_tenant_key_key"}},
	"organization_mapping": {row: map[string]string{"organization_id": someone, "tenant_id": another}, keys: []string{"organization_mapping_pkey"}},
	"undo":                 {row: map[string]string{"id": "1", "phase": "1", "statement": "'select'"}, keys: []string{"undo_pkey"}},
	"completed_phase":      {row: map[string]string{"phase": "1", "completed_at": "now()"}, keys: []string{"completed_phase_pkey"}},
	"journal": {row: map[string]string{"table_name": "'agents'", "row_id": someone, "owner_before": someone, "owner_after": another,
		"scope_before": "'tenant'", "scope_after": "'organization'"}, keys: []string{"journal_pkey"},
		optional: []string{"owner_before", "owner_after", "scope_before", "scope_after"}},
	"organization_journal": {row: map[string]string{"organization_id": someone, "before": "'{}'", "after": "'{}'"},
		keys: []string{"organization_journal_pkey"}, optional: []string{"before"}},
	"moved_organization": {row: map[string]string{"old_id": someone, "new_id": another}, keys: []string{"moved_organization_pkey"}},
	"backfill_progress": {row: map[string]string{"table_name": "'news'", "rows_changed": "0", "started_at": "now()", "finished_at": "now()"},
		keys: []string{"backfill_progress_pkey"}, optional: []string{"finished_at"}},
	"taken_slug":         {row: map[string]string{"slug": "'novartis'", "last": "1"}, keys: []string{"taken_slug_pkey"}},
	"planned_index":      {row: map[string]string{"index_name": "'news_owner'", "definition": "'…'"}, keys: []string{"planned_index_pkey"}},
	"planned_constraint": {row: map[string]string{"table_name": "'news'", "constraint_name": "'news_owner'", "definition": "'…'"}, keys: []string{"planned_constraint_pkey"}},
	"api_function":       {row: map[string]string{"signature": "'f()'"}, keys: []string{"api_function_pkey"}},
	"refreshed_statistics": {row: map[string]string{"name": "'news'", "refreshed_at": "now()"},
		keys: []string{"refreshed_statistics_pkey"}},
}

// insert is the row as a statement, with other values for some of its columns.
func (k kept) insert(table string, others ...string) string {
	row := maps.Clone(k.row)
	for i := 0; i < len(others); i += 2 {
		row[others[i]] = others[i+1]
	}
	columns := slices.Sorted(maps.Keys(row))
	values := make([]string, len(columns))
	for i, column := range columns {
		values[i] = row[column]
	}
	return fmt.Sprintf("insert into tenancy.%s (%s) overriding system value values (%s)", table, strings.Join(columns, ", "), strings.Join(values, ", "))
}

// TestBookkeeping tries what must not be written down: a rollback would run it, or a phase decide by it.
func TestBookkeeping(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase4, fixtures.World()...)

	t.Run("every table and column is here", func(t *testing.T) {
		rows, err := db.Owner.Query(t.Context(), `
			select c.relname, array_agg(a.attname::text)
			from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
			where c.relnamespace = 'tenancy'::regnamespace and c.relkind in ('r', 'p')
			group by c.relname`)
		require.NoError(t, err)
		found := map[string][]string{}
		var table string
		var columns []string
		_, err = pgx.ForEachRow(rows, []any{&table, &columns}, func() error {
			found[table] = slices.Sorted(slices.Values(columns))
			return nil
		})
		require.NoError(t, err)
		for table, columns := range found {
			require.Equal(t, slices.Sorted(maps.Keys(bookkeeping[table].row)), columns, table)
		}
		require.Len(t, found, len(bookkeeping))
	})
	t.Run("what is there holds for all rows", func(t *testing.T) {
		var found []string
		require.NoError(t, db.Owner.QueryRow(t.Context(), `
			select coalesce(array_agg(format('%s of %s', conname, conrelid::regclass)), '{}')
			from pg_constraint c join pg_namespace n on n.oid = c.connamespace
			where n.nspname in ('public', 'tenancy', 'authz', 'audit') and not c.convalidated`).Scan(&found))
		require.Empty(t, found)
	})
	for table, k := range bookkeeping {
		t.Run(table, func(t *testing.T) {
			tx := rolledBack(t, db)
			refused := func(by, sql string) {
				t.Helper()
				require.Equal(t, by, refusedBy(t, tx, sql), sql)
			}
			for _, sql := range []string{twoTenants, `delete from tenancy.` + table} {
				_, err := tx.Exec(t.Context(), sql)
				require.NoError(t, err)
			}
			for _, column := range slices.Sorted(maps.Keys(k.row)) {
				if !slices.Contains(k.optional, column) {
					refused(column, k.insert(table, column, "null"))
				}
			}
			for _, sql := range refusals[table] {
				refused(sql.by, k.insert(table, sql.column, sql.value))
			}
			_, err := tx.Exec(t.Context(), k.insert(table))
			require.NoError(t, err)
			// The rows that a key tells apart: the same one again, until there is no key that refuses it.
			for _, key := range k.keys {
				refused(key, k.insert(table))
				_, err := tx.Exec(t.Context(), fmt.Sprintf("alter table tenancy.%s drop constraint %s", table, key))
				require.NoError(t, err)
			}
		})
	}

	for name, gone := range map[string]string{"who is gone is mapped to nobody": someone, "nobody is mapped to who is gone": another} {
		t.Run(name, func(t *testing.T) {
			tx := rolledBack(t, db)
			for _, sql := range []string{
				twoTenants,
				bookkeeping["organization_mapping"].insert("organization_mapping"),
				`delete from public.organizations where id = ` + gone,
			} {
				_, err := tx.Exec(t.Context(), sql)
				require.NoError(t, err)
			}
			var left int
			require.NoError(t, tx.QueryRow(t.Context(), `select count(*) from tenancy.organization_mapping`).Scan(&left))
			require.Zero(t, left)
		})
	}
}

// refusals are values that a table's checks and foreign keys do not let in.
var refusals = map[string][]struct{ column, value, by string }{
	"classified_table": {{"class", "'public'", "classified_table_class_check"}},
	"undo":             {{"phase", "0", "undo_phase_check"}, {"phase", "5", "undo_phase_check"}},
	"completed_phase":  {{"phase", "0", "completed_phase_phase_check"}, {"phase", "5", "completed_phase_phase_check"}},
	"organization_mapping": {
		{"tenant_id", someone, "organization_mapping_not_itself"},
		{"tenant_id", "'" + fixtures.Alice.ID + "'", "organization_mapping_tenant_id_fkey"},
		{"organization_id", "'" + fixtures.Alice.ID + "'", "organization_mapping_organization_id_fkey"},
	},
}

// refusedBy says which constraint, or, for NOT NULL, which column refuses a statement; "" if none does.
func refusedBy(t *testing.T, tx pgx.Tx, sql string) string {
	t.Helper()
	inner, err := tx.Begin(t.Context())
	require.NoError(t, err)
	_, err = inner.Exec(t.Context(), sql)
	require.NoError(t, inner.Rollback(t.Context()))
	if err == nil {
		return ""
	}
	var refusal *pgconn.PgError
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, "23", refusal.Code[:2], "%v", err)
	return refusal.ConstraintName + refusal.ColumnName
}
