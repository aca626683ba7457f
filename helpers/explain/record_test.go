package explain_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/explain"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

func TestRecorder(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	r, err := explain.Record(t.Context(), db.Config(t, ""))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close(context.WithoutCancel(t.Context()))) })
	_, err = r.Exec(t.Context(), `
		create table item (id int primary key, name text);
		insert into item select i, 'item ' || i from generate_series(1, 1000) as i;
		analyze item;
		create function named(p_id int) returns text language plpgsql as $$ begin return (select name from item where id = p_id); end $$;
		create table log (name text);
		create function note() returns trigger language plpgsql as $$ begin insert into log values (new.name); return null; end $$;
		create trigger note after update on item for each row execute function note();
		set plan_cache_mode = force_generic_plan`, pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)
	// take is the plans of one statement.
	take := func(t *testing.T, sql string, args ...any) []explain.Plan {
		t.Helper()
		_, err := r.Take(t.Context())
		require.NoError(t, err)
		_, err = r.Exec(t.Context(), sql, args...)
		require.NoError(t, err)
		plans, err := r.Take(t.Context())
		require.NoError(t, err)
		return plans
	}

	t.Run("a prepared statement is recorded with its generic plan", func(t *testing.T) {
		plans := take(t, "select name from item where id = $1", 7)
		require.Len(t, plans, 1)
		require.Equal(t, "select name from item where id = $1", plans[0].SQL)
		require.Equal(t, "(id = $1)", plans[0].Root.IndexCond)
		require.EqualValues(t, 1, plans[0].Rows())
		require.Positive(t, plans[0].Buffers().Total())
	})
	t.Run("one of the simple protocol is planned for its values", func(t *testing.T) {
		plans := take(t, "select name from item where id = $1", pgx.QueryExecModeSimpleProtocol, 7)
		require.Len(t, plans, 1)
		require.Equal(t, "(id = 7)", plans[0].Root.IndexCond)
	})
	t.Run("what a function executes comes before who calls it", func(t *testing.T) {
		plans := take(t, "select named(id) from item where id <= $1", 2)
		require.Len(t, plans, 3)
		for _, inner := range plans[:2] {
			require.Contains(t, inner.SQL, "select name from item where id = p_id")
			require.True(t, inner.UsesIndex("item_pkey"), "%s", inner)
		}
		require.Contains(t, plans[2].SQL, "named(id)")
	})
	t.Run("so does what a trigger executes", func(t *testing.T) {
		plans := take(t, "update item set name = 'other' where id = 7")
		require.Len(t, plans, 2)
		require.Contains(t, plans[0].SQL, "insert into log")
		require.Equal(t, "ModifyTable", plans[1].Root.Type)
	})
	t.Run("a role that is no superuser is recorded as well", func(t *testing.T) {
		tx, err := r.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "grant select on item to "+pgtest.APIRole+"; set local role "+pgtest.APIRole, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		require.Len(t, take(t, "select count(*) from item"), 1)
		require.NoError(t, tx.Rollback(t.Context()))
	})
	t.Run("who is no superuser cannot record", func(t *testing.T) {
		_, err := explain.Record(t.Context(), db.Config(t, pgtest.APIRole))
		require.ErrorContains(t, err, "it takes a superuser")
	})
	t.Run("a shape is without values, and what each version calls a subquery", func(t *testing.T) {
		plans := take(t, "select name from item where id = (select 7) and name <> 'it''s' and name <> $1", "x")
		require.Equal(t, strings.TrimPrefix(`
Index Scan using item_pkey on item
    index (id = ?)
    filter ((name <> ?) AND (name <> ?))
  InitPlan: Result
`, "\n"), plans[0].Shape())
	})
}
