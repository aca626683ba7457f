package rollback_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// journey is a database that goes up and down while an application writes, a twin on
// which the same application writes and no phase ever runs, and what every row must be.
type journey struct {
	*model
	t           testing.TB
	fatal       func(format string, args ...any)
	db, twin    *pgtest.DB
	application *pgx.Conn       // the backend
	beside      *pgx.Conn       // the same, on the twin
	script      []string        // what has been done
	uncertain   map[string]bool // rows that were written while a file ran, by table and id: see check
}

// depart begins a journey of two databases that are the same.
func depart(t testing.TB, db, twin *pgtest.DB) *journey {
	t.Helper()
	j := &journey{t: t, fatal: t.Fatalf, db: db, twin: twin, model: &model{}, uncertain: map[string]bool{}}
	j.application, j.beside = backend(t, j.db), backend(t, j.twin)
	j.tables = contents(t, j.db)
	return j
}

// backend is a session of the application's backend.
func backend(t testing.TB, db *pgtest.DB) *pgx.Conn {
	t.Helper()
	conn := db.Connect(t, pgtest.ServiceRole)
	require.NoError(t, send(t, conn, `set role service_role; set timezone = 'UTC'`))
	return conn
}

// send sends a statement as it is: what is prepared would not outlive a change of the table.
func send(t testing.TB, conn *pgx.Conn, sql string) error {
	_, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

// The tables that the application knows.
var tables = append([]string{"organizations", "users", "user_organizations", "conversations", "messages"}, resourceTables...)

// contents is every row of every table.
func contents(t testing.TB, db *pgtest.DB) map[string]map[string]values {
	t.Helper()
	var selects []string
	for _, table := range tables {
		selects = append(selects, fmt.Sprintf("select '%s', id::text, to_jsonb(r) from public.%[1]s r", table))
	}
	tx, err := db.Owner.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), "set local timezone = 'UTC'")
	require.NoError(t, err)
	rows, err := tx.Query(t.Context(), strings.Join(selects, " union all "), pgx.QueryExecModeExec)
	require.NoError(t, err)
	all := map[string]map[string]values{}
	for _, table := range tables {
		all[table] = map[string]values{}
	}
	var table, key string
	var row values
	_, err = pgx.ForEachRow(rows, []any{&table, &key, &row}, func() error {
		all[table][key] = row
		row = nil
		return nil
	})
	require.NoError(t, err)
	return all
}

func (j *journey) note(format string, args ...any) {
	j.script = append(j.script, fmt.Sprintf(format, args...))
}

// fail ends the test with what has been done.
func (j *journey) fail(format string, args ...any) {
	j.t.Helper()
	j.fatal("%s\n\nafter\n%s", fmt.Sprintf(format, args...), strings.Join(j.script, "\n"))
}

// write lets the application write, and its twin what that means to a database without a hierarchy.
func (j *journey) write(writes ...write) {
	j.t.Helper()
	for _, w := range writes {
		err := send(j.t, j.application, w.String())
		j.wrote(w, err)
	}
}

// wrote says what became of a write.
func (j *journey) wrote(w write, err error) {
	j.t.Helper()
	old := maps.Clone(j.tables[w.table][w.id])
	refusal := j.apply(w)
	j.note("%s;%s", w, map[bool]string{true: "  -- refused: " + refusal}[refusal != accepted])
	if got := refused(err); got != refusal {
		j.fail("the application hears %q (%v), and not %q", got, err, refusal)
	}
	if beside, some := w.legacy(old); some && refusal == accepted {
		if err := send(j.t, j.beside, beside.String()); err != nil {
			j.fail("the twin refuses %s: %v", beside, err)
		}
	}
}

// refused is an error in the model's words.
func refused(err error) string {
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil:
		return accepted
	case ok && refusal.Code == "23502":
		return needsValue
	case ok && slices.Contains([]string{"23503", "23001", "23514"}, refusal.Code):
		return needsRow
	}
	return err.Error()
}

// up runs the next phase; as its refusal advises, phase 2 once more before phase 3, where
// something needs it.
func (j *journey) up() {
	j.t.Helper()
	if j.stage == schema.Phase2 && !j.ready() {
		if _, err := j.db.Run(j.t, must(schema.Migration(schema.Phase3))); err == nil || !strings.Contains(err.Error(), "Run phase 2 again") {
			j.fail("phase 3 must advise to run phase 2 again, and says %v", err)
		}
		j.again()
	}
	j.run(must(schema.Migration(j.stage + 1)))
	j.model.up(j.stage + 1)
	j.check()
}

// again runs phase 2 once more.
func (j *journey) again() {
	j.t.Helper()
	j.run(must(schema.Migration(schema.Phase2)))
	j.model.up(schema.Phase2)
	j.check()
}

// down takes the latest phase back.
func (j *journey) down() {
	j.t.Helper()
	j.run(rollback(j.stage))
	j.model.down()
	j.check()
}

// rollback is a phase's. That of phase 3 drops the audit history, once it is told to.
func rollback(phase schema.Phase) schema.File {
	f := must(schema.Rollback(phase))
	f.SQL = "set tenancy.discard_audit_logs = 'yes';\n" + f.SQL
	return f
}

func (j *journey) run(f schema.File) {
	j.t.Helper()
	j.note("\\i %s", f.Path)
	if _, err := j.db.Run(j.t, f); err != nil {
		j.fail("%v", err)
	}
}

// check compares every row with the model. In phase 1, whether a row that was written
// while a file ran has its owner and scope yet depends on which came first.
func (j *journey) check() {
	j.t.Helper()
	problems := j.differences(contents(j.t, j.db), func(table, key, column string) bool {
		return j.stage == schema.Phase1 && j.uncertain[table+key] && slices.Contains(append(slices.Clone(ownership), placement...), column)
	})
	if len(problems) > 0 {
		j.fail("%s: %d values are not what they must be:\n%s", j.stage, len(problems), strings.Join(problems, "\n"))
	}
}

// differences is what in found is not as the model says: rows that are there, or not,
// and values, but for those that do not count.
func (m *model) differences(found map[string]map[string]values, but func(table, key, column string) bool) (problems []string) {
	for _, table := range tables {
		for _, key := range slices.Sorted(maps.Keys(found[table])) {
			if m.tables[table][key] == nil {
				problems = append(problems, fmt.Sprintf("%s %s must not be there", table, key))
			}
		}
		for _, key := range slices.Sorted(maps.Keys(m.tables[table])) {
			want, got := m.tables[table][key], found[table][key]
			if got == nil {
				problems = append(problems, fmt.Sprintf("%s %s is gone", table, key))
				continue
			}
			for _, column := range slices.Sorted(maps.Keys(want)) {
				if fmt.Sprint(want[column]) != fmt.Sprint(got[column]) && !but(table, key, column) {
					problems = append(problems, fmt.Sprintf("%s %s: %s is %v, and must be %v", table, key, column, got[column], want[column]))
				}
			}
		}
	}
	return problems
}

// home takes the database all the way down, where nothing must tell it from its twin:
// neither a definition nor a row of any table.
func (j *journey) home() {
	j.t.Helper()
	for j.stage > schema.Legacy {
		j.down()
	}
	j.like("after all the way down")
}

// once takes it and its twin up to a phase, the twin for the first time: nothing must
// tell them apart, not in the bookkeeping either.
func (j *journey) once(last schema.Phase) {
	j.t.Helper()
	for j.stage < last {
		j.up()
		j.twin.Migrate(j.t, j.stage)
	}
	j.like("after all the way down and up again")
}

func (j *journey) like(when string) {
	j.t.Helper()
	const young = "public.organizations.updated_at"
	if difference := phasetest.Take(j.t, j.twin, young).Diff(phasetest.Take(j.t, j.db, young)); difference != "" {
		j.fail("%s, it is not what the twin is:\n%s%s", when, difference,
			strings.Join((&model{tables: contents(j.t, j.twin)}).differences(contents(j.t, j.db), func(_, _, _ string) bool { return false }), "\n"))
	}
}
