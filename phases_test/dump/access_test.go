package dump_test

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

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// stranger is a signed-in user whom nobody has heard of; "" is who has not signed in.
const stranger = "ffffffff-0000-4000-8000-000000000000"

// sample chooses users, the same ones each time: of every kind of membership some, then of one
// organization after the other. The last two are the stranger and nobody.
func (w *world) sample(size int) (users []string) {
	byKind := map[string][]string{}
	of := w.byPerson()
	for _, id := range slices.Sorted(maps.Keys(w.users)) {
		kinds := []string{}
		for _, m := range of[id] {
			kind := fmt.Sprintf("1 %s, active %t, live %t, of a %s", m.role, m.active, w.live(m.organization), w.organizations[m.organization].level)
			kinds = append(kinds, kind, "3 "+m.organization)
		}
		if len(of[id]) != 1 {
			kinds = append(kinds, fmt.Sprintf("2 of %d", len(of[id])))
		}
		for _, kind := range kinds {
			byKind[kind] = append(byKind[kind], id)
		}
	}
	chosen := map[string]bool{}
	for more := true; more && len(users) < size; {
		more = false
		for _, kind := range slices.Sorted(maps.Keys(byKind)) {
			rest := slices.DeleteFunc(byKind[kind], func(id string) bool { return chosen[id] })
			if len(rest) == 0 || len(users) == size {
				continue
			}
			users, chosen[rest[0]], byKind[kind], more = append(users, rest[0]), true, rest[1:], true
		}
	}
	return append(users, stranger, "")
}

// asking is the caller that a user is to the API.
func asking(user string) actor.Actor {
	if user == "" {
		return actor.Anonymous()
	}
	return actor.User(user)
}

// The old policies may ask something for each row. Of a table of more rows than many, they are asked for these only.
const (
	manyRows = 5000
	fewRows  = 1000
)

// some is the keys of the rows that the old policies are asked for, the same ones each time; nil for all.
func (w *world) some(table string) (keys []string) {
	rows := w.rows[table]
	if len(rows) <= manyRows || table == "organizations" || table == "user_organizations" {
		return nil
	}
	for _, r := range rows {
		keys = append(keys, r.key)
	}
	slices.Sort(keys)
	step := len(keys) / fewRows
	for i := range fewRows {
		keys[i] = keys[i*step]
	}
	return keys[:fewRows]
}

// keyed is a query for the keys of a table's rows, as they are after phase 2, which made three rows that were not there: of all
// rows, or of some, which an index finds before a policy is asked.
func (w *world) keyed(table string, some []string) string {
	moved := func(column string) string {
		return fmt.Sprintf("replace(%s::text, '%s', '%s')", column, w.platform, fixtures.PlatformID)
	}
	key, where := "id::text", ""
	if some != nil {
		where = fmt.Sprintf(" where id = any ('{%s}')", strings.Join(some, ","))
	}
	switch table {
	case "organizations":
		key = moved("id")
		made := []string{fixtures.QuarantineTenantID, fixtures.QuarantineOrganizationID}
		if w.platform == "" {
			made = append(made, fixtures.PlatformID)
		}
		where = fmt.Sprintf(" where id not in ('%s')", strings.Join(made, "', '"))
	case "user_organizations":
		key = "user_id::text || ' in ' || " + moved("organization_id")
	case "organization_stats":
		key = "organization_id::text"
	}
	return fmt.Sprintf("select %s as key from public.%s%s", key, pgx.Identifier{table}.Sanitize(), where)
}

// as gives a session of a user to f.
func as(t *testing.T, db *pgtest.DB, user string, f func(tx pgx.Tx)) {
	t.Helper()
	require.NoError(t, asking(user).Do(t, db, func(tx pgx.Tx) error {
		f(tx)
		return nil
	}))
}

// ask is the texts that a query returns. Who may not send it at all gets nothing, and is denied.
func ask(t *testing.T, tx pgx.Tx, query string) (answers map[string]bool, denied bool) {
	t.Helper()
	answers = map[string]bool{}
	err := pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error {
		rows, err := tx.Query(t.Context(), query, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return err
		}
		var key string
		_, err = pgx.ForEachRow(rows, []any{&key}, func() error {
			answers[key] = true
			return nil
		})
		return err
	})
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && refusal.Code == "42501" {
		return answers, true
	}
	require.NoError(t, err, query)
	return answers, false
}

// found is the rows that the old policies may show to members as soon as phase 2 has found an owner.
func (w *world) found(table string) (keys []string) {
	if w.filled[table] {
		for _, r := range w.rows[table] {
			if r.ownerless {
				keys = append(keys, r.key)
			}
		}
	}
	return keys
}

// glance is what a user sees of each table of the old application, in a few words that change when it does.
func (w *world) glance(t *testing.T, db *pgtest.DB, user string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	as(t, db, user, func(tx pgx.Tx) {
		for table := range w.rows {
			if made[table] {
				continue
			}
			answer, denied := ask(t, tx, fmt.Sprintf(
				"select format('%%s rows, checksum %%s', count(*), coalesce(sum(hashtextextended(key, 0)), 0)) from (%s) as r where key <> all ('{%s}')",
				w.keyed(table, w.some(table)), strings.Join(w.found(table), ",")))
			seen[table] = unseen
			for text := range answer {
				seen[table] = text
			}
			require.Equal(t, denied, seen[table] == unseen)
		}
	})
	return seen
}

const unseen = "denied"

// made is the tables that phase 3 makes: the old application does not know them.
var made = map[string]bool{"organization_stats": true, "audit_logs": true}

// comparison is how what users see after phase 4 compares with what they should, and with what they saw.
type comparison struct {
	decisions, legacy int
	missing           findings       // they do not see, and should
	leaked            findings       // they see, and should not
	unknown           findings       // they see, and nobody knows
	said              findings       // they see, and did not before: because of what people have said
	widened           findings       // they see, and did not before, and nothing says why
	fromOwner         int            // of what they did not see before: had no owner, and is their organization's now
	fromTenant        int            // the same, and is shared with their tenant
	lost              map[string]int // by table, what they do not see any more
}

// findings is how many there are, and what some of them are: of a table that is open, they are millions.
type findings struct {
	number int
	some   []string
}

func (f *findings) add(format string, args ...any) {
	f.number++
	if f.number <= 1000 || f.number%1000 == 0 {
		f.some = append(f.some, fmt.Sprintf(format, args...))
	}
}

// compare asks as each user for every row of every table. Without a legacy database, what was seen before is not compared.
func (w *world) compare(t *testing.T, legacy, db *pgtest.DB, users []string) (c comparison) {
	t.Helper()
	c.lost = map[string]int{}
	for _, user := range users {
		as(t, db, user, func(now pgx.Tx) {
			if legacy == nil {
				w.compareAs(t, &c, user, nil, now)
				return
			}
			as(t, legacy, user, func(before pgx.Tx) { w.compareAs(t, &c, user, before, now) })
		})
	}
	return c
}

// compareAs is compare for one user, in his sessions.
func (w *world) compareAs(t *testing.T, c *comparison, user string, before, now pgx.Tx) {
	t.Helper()
	who := w.reader(user)
	for _, table := range slices.Sorted(maps.Keys(w.rows)) {
		query := w.keyed(table, nil)
		if table == "organizations" {
			query = "select id::text from public.organizations" // those that phase 2 made, too
		}
		sees, _ := ask(t, now, query)
		var saw, asked map[string]bool
		if before != nil && !made[table] {
			some := w.some(table)
			if some != nil {
				some = append(some, slices.Collect(maps.Keys(sees))...)
				asked = map[string]bool{}
				for _, key := range some {
					asked[key] = true
				}
			}
			saw, _ = ask(t, before, w.keyed(table, some))
		}
		w.compareTable(c, who, table, sees, saw, asked)
	}
}

// compareTable compares what a user sees with the rules, and with what he saw of the rows that he was asked for, nil for all.
func (w *world) compareTable(c *comparison, who reader, table string, sees, saw, asked map[string]bool) {
	for _, r := range w.rows[table] {
		c.decisions++
		does, may := sees[r.key], w.mayRead(who, table, r)
		delete(sees, r.key)
		switch {
		case may && !does:
			c.missing.add("%s does not see %s", w.about(who.user), w.describe(table, r))
		case does && !may:
			c.leaked.add("%s sees %s", w.about(who.user), w.describe(table, r))
		}
		if saw == nil || asked != nil && !asked[r.key] {
			continue
		}
		c.legacy++
		switch did := saw[r.key]; {
		case did && !does:
			c.lost[table]++
		case did || !does:
		case r.ownerless && who.member[r.owner]: // that is what an owner is for
			c.fromOwner++
		case r.ownerless && r.scope == fixtures.TenantLevel && may: // and that, what it says it is shared with
			c.fromTenant++
		case may && w.said(who, r):
			c.said.add("%s sees %s", w.about(who.user), w.describe(table, r))
		case table == "organizations" && r.key == fixtures.PlatformID && w.platform == "": // made by phase 2
		default:
			c.widened.add("%s sees %s", w.about(who.user), w.describe(table, r))
		}
	}
	for key := range sees {
		c.unknown.add("%s sees %s %s", w.about(who.user), table, key)
	}
}
