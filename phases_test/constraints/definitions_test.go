package constraints_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// definition is what an object must be, as PostgreSQL prints it, and what happens where it is not.
type definition struct{ name, sql, otherwise string }

// problems compares the objects that there are with those that must be: no fewer, no others and no more.
func problems(kind string, wanted []definition, found map[string]string) (problems []string) {
	unwanted := maps.Clone(found)
	for _, w := range wanted {
		delete(unwanted, w.name)
		switch is, ok := found[w.name]; {
		case !ok:
			problems = append(problems, fmt.Sprintf("%s %s is missing: %s", kind, w.name, w.otherwise))
		case is != w.sql:
			problems = append(problems, fmt.Sprintf("%s %s is %s, wanted is %s: %s", kind, w.name, is, w.sql, w.otherwise))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unwanted)) {
		problems = append(problems, fmt.Sprintf("%s %s is there, and nobody wants it: %s", kind, name, unwanted[name]))
	}
	return problems
}

// definitions returns what a query says: name → definition, without depending on the session's search_path.
func definitions(t testing.TB, db beginner, sql string) map[string]string {
	t.Helper()
	tx, err := db.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `set local search_path = ''`)
	require.NoError(t, err)
	rows, err := tx.Query(t.Context(), sql)
	require.NoError(t, err)
	found := map[string]string{}
	var name, definition string
	_, err = pgx.ForEachRow(rows, []any{&name, &definition}, func() error {
		require.NotContains(t, found, name)
		found[name] = definition
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, found, sql)
	return found
}

// finds asserts that a check, which finds nothing in a good database, says this after a fault.
func finds(t *testing.T, db beginner, check func(testing.TB, beginner) []string, fault, problem string) {
	t.Helper()
	require.Empty(t, check(t, db))
	tx, err := db.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), fault)
	require.NoError(t, err)
	require.Contains(t, check(t, tx), problem)
}
