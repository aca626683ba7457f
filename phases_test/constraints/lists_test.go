package constraints_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/phasetest"
)

// accessibleRows are the ids of a table's rows that a user may read, the last in the world first.
func accessibleRows(user fixtures.User, table string) []string {
	ids := []string{}
	for _, r := range fixtures.Resources() {
		if r.Table == table && !r.Deleted && mayRead(user, r.After.Owner, r.After.Scope) {
			ids = append(ids, r.ID)
		}
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	return ids
}

// Each resource table has its list, the newest row first. That of the agents is another: see testAccessibleAgents.
func testLists(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	for _, table := range resourceTables {
		if table == "agents" {
			continue
		}
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			_, err := db.Owner.Exec(t.Context(), fmt.Sprintf(`
				update public.%[1]s r set created_at = '2026-01-01'::timestamptz + n.age * interval '1 day'
				from (select id, row_number() over (order by id) as age from public.%[1]s) as n where n.id = r.id`, table))
			require.NoError(t, err)
			list := `select id::text from public.get_accessible_` + table + `($1, $2)`
			do(t, db, actor.Service(), func(tx pgx.Tx) {
				for _, user := range fixtures.Users {
					want := accessibleRows(user, table)
					require.Equal(t, want, collect[string](t, tx, list, user.ID, nil), user.Email)
					require.Equal(t, want, collect[string](t, tx, list, user.ID, 1000), user.Email)
					for limit := range want {
						require.Equal(t, want[:limit], collect[string](t, tx, list, user.ID, limit), "%s, the first %d", user.Email, limit)
					}
				}
				require.NotEmpty(t, accessibleRows(fixtures.Alice, table), "somebody must see something")
				require.Empty(t, collect[string](t, tx, list, nil, nil), "nobody sees nothing, not even what is everybody's")
				t.Run("refuses a limit below nothing", func(t *testing.T) {
					defer savepoint(t, tx)()
					refused(t, tx, list, []any{fixtures.Alice.ID, -1}, invalidLimit)
				})
				t.Run("leaves out what is deleted", func(t *testing.T) {
					defer savepoint(t, tx)()
					want := accessibleRows(fixtures.Alice, table)
					_, err := tx.Exec(t.Context(), `update public.`+table+` set deleted_at = now() where id = $1`, want[0])
					require.NoError(t, err)
					for _, limit := range []any{nil, 1000} {
						require.Equal(t, want[1:], collect[string](t, tx, list, fixtures.Alice.ID, limit))
					}
				})
				t.Run("leaves out what a suspended organization shares", func(t *testing.T) {
					defer savepoint(t, tx)()
					want := accessibleRows(fixtures.Alice, table)
					for owner, left := range map[string][]string{fixtures.Pfizer.ID: want, fixtures.SandozLegacy.ID: want[1:]} {
						_, err := tx.Exec(t.Context(), `update public.`+table+` set owner_organization_id = $1, sharing_scope = 'platform' where id = $2`, owner, want[0])
						require.NoError(t, err)
						for _, limit := range []any{nil, 1000} {
							require.Equal(t, left, collect[string](t, tx, list, fixtures.Alice.ID, limit), "shared by %s", owner)
						}
					}
				})
			})
		})
	}
}

// What a list reads does not show in what it returns, and is why it has two ways: all of it in one go, or of each audience
// the first few, which an index has in this order, and then those that are left by their ids.
func testListsReadLittle(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	for _, table := range resourceTables {
		index := "public.idx_" + table + "_audience"
		if table == "agents" {
			index = "public.idx_agents_accessible"
		}
		// No index has what was there before: nobody else is in the database yet.
		phasetest.Exec(t, db, `update public.`+table+` set sharing_scope = 'platform'`)
		phasetest.Exec(t, db, `vacuum public.`+table)
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			do(t, db, actor.Service(), func(tx pgx.Tx) {
				// As where there are too many rows to read or sort all of them.
				_, err := tx.Exec(t.Context(), `set local enable_seqscan = off; set local enable_sort = off`)
				require.NoError(t, err)
				entries := func() int {
					return collect[int](t, tx, `select pg_stat_get_xact_tuples_returned($1::regclass)`, index)[0]
				}
				lookups := func() int {
					return collect[int](t, tx, `select pg_stat_get_xact_numscans($1::regclass)`, "public."+table+"_pkey")[0]
				}
				list := `select 1 from public.get_accessible_` + table + `($1, $2)`

				all := len(collect[int](t, tx, list, fixtures.Alice.ID, nil))
				require.Zero(t, lookups(), "without a limit no row is looked up by its id")
				before := entries()
				require.Len(t, collect[int](t, tx, list, fixtures.Alice.ID, 1), 1)
				require.Equal(t, 1, lookups(), "with a limit, those that are left")
				require.Positive(t, entries()-before, "the index is what is read")
				require.Less(t, entries()-before, all, "and not all of it")
			})
		})
	}
}

func testSearch(t *testing.T) {
	t.Parallel()
	db := phase3(t)
	// Everything would be found, if everybody might read it.
	_, err := db.Owner.Exec(t.Context(), `
		update public.agents set knowledge_domains = '{labels,oncology}';
		update public.knowledge_documents set content = 'The zebra''s regulations', created_at = '2026-01-01'::timestamptz + right(id::text, 4)::integer * interval '1 day'`,
		pgx.QueryExecModeSimpleProtocol)
	require.NoError(t, err)

	t.Run("agents", func(t *testing.T) {
		const search = `select id::text from public.search_agents($1, $2, $3)`
		do(t, db, actor.Service(), func(tx pgx.Tx) {
			for _, user := range fixtures.Users {
				all := collect[string](t, tx, `select agent_id::text from public.get_accessible_agents($1)`, user.ID)
				require.ElementsMatch(t, accessibleAgents(user), all, user.Email)
				for _, domains := range [][]string{{"labels"}, {"oncology", "labels"}, {}} {
					require.Equal(t, all, collect[string](t, tx, search, user.ID, domains, nil), "%s searches %v", user.Email, domains)
				}
				require.Equal(t, all[:1], collect[string](t, tx, search, user.ID, []string{"labels"}, 1), user.Email)
				for _, domains := range [][]string{{"Labels"}, {"labels", "cardiology"}, nil} {
					require.Empty(t, collect[string](t, tx, search, user.ID, domains, nil), "%s searches %v", user.Email, domains)
				}
			}
			require.Empty(t, collect[string](t, tx, search, nil, []string{"labels"}, nil))
			defer savepoint(t, tx)()
			refused(t, tx, search, []any{fixtures.Alice.ID, []string{"labels"}, -1}, invalidLimit)
		})
	})

	t.Run("documents", func(t *testing.T) {
		const search = `select id::text from public.search_knowledge_documents($1, $2, $3)`
		do(t, db, actor.Service(), func(tx pgx.Tx) {
			for _, user := range fixtures.Users {
				want := accessibleRows(user, "knowledge_documents")
				for _, query := range []string{"zebra", "ZEBRAS", "regulation zebra", `"zebra's regulations"`, "zebra -tiger", "tiger or zebra"} {
					require.Equal(t, want, collect[string](t, tx, search, user.ID, query, nil), "%s searches %s", user.Email, query)
				}
				require.Equal(t, want[:1], collect[string](t, tx, search, user.ID, "zebra", 1), user.Email)
			}
			for _, query := range []any{"tiger", "-zebra", "", "the", nil, `'"((`, `zebra' & !`, "zebra:*A & <->", `\`} {
				_, err := tx.Exec(t.Context(), search, fixtures.Alice.ID, query, nil)
				require.NoError(t, err, "whatever somebody types is a query: %v", query)
			}
			require.Equal(t, []string{fixtures.NovartisDocument.ID}, collect[string](t, tx, search, fixtures.Alice.ID, fixtures.NovartisDocument.Name, nil), "by its title")
			require.Empty(t, collect[string](t, tx, search, fixtures.Alice.ID, "tiger", nil))
			require.Empty(t, collect[string](t, tx, search, nil, "zebra", nil))
			require.Equal(t, accessibleRows(fixtures.Alice, "knowledge_documents")[:1], collect[string](t, tx, search, fixtures.Alice.ID, strings.Repeat("zebra ", 166)+"    ", 1), "1000 characters")
			for code, args := range map[string][]any{
				invalidLimit:     {fixtures.Alice.ID, "zebra", -1},
				invalidParameter: {fixtures.Alice.ID, strings.Repeat("zebra ", 166) + "     ", 1},
			} {
				undo := savepoint(t, tx)
				refused(t, tx, search, args, code)
				undo()
			}
		})
	})

	// What cannot be indexed could not be written. A tsvector has a megabyte for its words, and these are long, all
	// different, or words in several ways.
	t.Run("a document of any length and of any words is written", func(t *testing.T) {
		do(t, db, actor.Service(), func(tx pgx.Tx) {
			for what, content := range map[string]string{
				"words":         `string_agg(md5(n::text), ' ')`,
				"long words":    `string_agg(repeat(md5(n::text), 60), ' ')`,
				"compounds":     `string_agg(md5(n::text) || '-' || md5((-n)::text), ' ')`,
				"short ones":    `string_agg(to_hex(n) || '-' || to_hex(-n) || '-' || to_hex(7 * n), ' ')`,
				"addresses":     `string_agg('http://' || md5(n::text) || '.example.com/' || md5((-n)::text) || '/' || n, ' ')`,
				"other letters": `string_agg(translate(md5(n::text), '0123456789abcdef', '𐐨𐐩𐐪𐐫𐐬𐐭𐐮𐐯𐐰𐐱𐐲𐐳𐐴𐐵𐐶𐐷') || '-' || translate(to_hex(n), '0123456789abcdef', '𐐨𐐩𐐪𐐫𐐬𐐭𐐮𐐯𐐰𐐱𐐲𐐳𐐴𐐵𐐶𐐷'), ' ')`,
				"no word":       `string_agg(repeat('x', 600), '')`,
			} {
				_, err := tx.Exec(t.Context(), `
					insert into public.knowledge_documents (title, content, owner_organization_id)
					select $1, content, $2 from (select `+content+` from generate_series(1, 5000) as n) as long (content)`, what, fixtures.Novartis.ID)
				require.NoError(t, err, what)
			}
		})
	})
}
