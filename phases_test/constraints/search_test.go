package constraints_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
)

// searched is phase 3 with as little choice for the planner as where there are many documents: the index of their words, or
// all of them.
func searched(t testing.TB) *pgtest.DB {
	t.Helper()
	db := phase3(t)
	phasetest.Exec(t, db, `drop index public.idx_knowledge_documents_audience`)
	return db
}

// The index is asked for less than what somebody types. What is found is what the condition by itself finds.
func testSearchAnswers(t *testing.T) {
	t.Parallel()
	db := searched(t)
	// All documents of up to three of these.
	words := []string{"", "zebra", "tigers", "the", "covid-19", "state-of-the-art", "example.com/it's"}
	phasetest.Exec(t, db, `
		insert into public.knowledge_documents (title, content, owner_organization_id)
		select a, concat_ws(' ', b, c), $2 from unnest($1::text[]) as a, unnest($1::text[]) as b, unnest($1::text[]) as c`, words, fixtures.Novartis.ID)

	tx, err := db.Owner.Begin(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(context.WithoutCancel(t.Context()))) }()
	_, err = tx.Exec(t.Context(), `set local enable_seqscan = off`)
	require.NoError(t, err)
	wrong := func(query any) []string {
		return collect[string](t, tx, `
			select coalesce(d.title, f.title) || ' ' || coalesce(d.content, f.content)
			from public.get_accessible_knowledge_documents($1) as d
			full join public.search_knowledge_documents($1, $2) as f on f.id = d.id
			where (f.id is not null) is distinct from
				coalesce(authz.searchable(d.title, d.content) @@ websearch_to_tsquery('pg_catalog.english', $2), false)`, fixtures.Alice.ID, query)
	}
	for _, query := range []any{
		nil, "", "the", `""`, `"the"`, "zebra", "-zebra", "zebra -tiger", "-zebra or tiger", `"zebra tiger"`, `"tiger zebra tiger"`, `-"zebra tiger"`,
		`zebra -"zebra tiger"`, `"zebra tiger" -the`, `"zebra tiger" or covid -art`, `"zebra tiger" or -covid`, `-"zebra tiger" or covid`,
		`"zebra the tiger"`, `"zebra the the tiger"`, `"the zebra"`, "covid-19", "-covid-19", `"covid 19"`, "state-of-the-art", `"zebra covid-19"`,
		`"state of the art"`, `example.com/it's`, `"zebra example.com/it's"`, `-"example.com/it's"`, `T -"zebra tiger"`, "zebra <-> tiger", "zebra<1>tiger", `a\'b`, `"a\'b zebra"`,
	} {
		require.Empty(t, wrong(query), "%v", query)
	}
	const search = `select id::text from public.search_knowledge_documents($1, $2)`
	phrase, both := collect[string](t, tx, search, fixtures.Alice.ID, `"zebra tiger"`), collect[string](t, tx, search, fixtures.Alice.ID, `zebra tiger`)
	require.NotEmpty(t, phrase)
	require.Less(t, len(phrase), len(both), "the words of a phrase, in another order, are no phrase")
	require.Subset(t, both, phrase)

	rapid.Check(t, func(rt *rapid.T) {
		parts := append([]string{`"`, `-"`, "or", "-tiger", "-covid-19", "it's", "<->", "!", "&", `\`, "'"}, words...)
		query := strings.Join(rapid.SliceOfN(rapid.SampledFrom(parts), 1, 8).Draw(rt, "query"), " ")
		require.Empty(rt, wrong(query), query)
	})
}

// A document that is parsed takes time, by which its words would tell themselves to whom may not read it. PostgreSQL says
// when it parses one that has too long a word.
func testSearchParses(t *testing.T) {
	t.Parallel()
	db := searched(t)
	// A page each, and more of them than a bitmap has place for in 64 kB; a few have such a word.
	phasetest.Exec(t, db, `alter table public.knowledge_documents set (fillfactor = 10)`)
	phasetest.Exec(t, db, `
		insert into public.knowledge_documents (title, content, owner_organization_id)
		select rpad('zebra' || case n % 100 when 0 then ' acquisition, the zebra''s acquisition, acquisition zebra of the acquisition: covid-19' else '' end, 900),
			case n % 100 when 0 then repeat('x', 2048) end, $1
		from generate_series(1, 1200) as n`, fixtures.Pfizer.ID)
	const long = 12

	var notices []string
	cfg := db.Config(t, pgtest.APIRole)
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	// parsed is how often documents were parsed, and whether the index was asked.
	parsed := func(t *testing.T, user fixtures.User, settings, query string) (times int, indexed bool) {
		notices = nil
		require.NoError(t, actor.User(user.ID).On(t, conn, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), settings)
			require.NoError(t, err)
			scans := func() int {
				return collect[int](t, tx, `select pg_stat_get_xact_numscans('public.idx_knowledge_documents_text'::regclass)`)[0]
			}
			before := scans()
			collect[string](t, tx, `select id::text from public.search_knowledge_documents($1, $2)`, user.ID, query)
			indexed = scans() > before
			return nil
		}))
		for _, notice := range notices {
			require.Equal(t, "word is too long to be indexed", notice)
		}
		return len(notices), indexed
	}

	const (
		index  = `set local enable_seqscan = off`
		little = index + `; set local work_mem = '64kB'`
		whole  = `set local enable_bitmapscan = off`
		free   = whole + `; set local cpu_operator_cost = 0`
	)
	words := []string{"zebra", "zebra -tiger", "acquisition zebra"}
	phrases := []string{`"zebra acquisition"`, `"the zebra's acquisition"`, `"acquisition zebra of the acquisition"`, "covid-19", `zebra -"zebra tiger"`, `tiger or "acquisition covid"`}
	negations := []string{`-"zebra tiger"`, `covid or -"zebra tiger"`}
	for name, settings := range map[string]string{
		"from the index": index, "from the index, with little memory": little,
		"from the table": whole, "from the table, all conditions being equal": free,
	} {
		t.Run("What one may not read is not parsed "+name, func(t *testing.T) {
			for _, query := range slices.Concat(words, phrases, negations) {
				times, _ := parsed(t, fixtures.Alice, settings, query)
				require.Zero(t, times, query)
			}
		})
	}
	t.Run("What one may read is parsed for a phrase, and not for words, which the index knows", func(t *testing.T) {
		for _, query := range phrases {
			times, indexed := parsed(t, fixtures.Bob, little, query)
			require.Equal(t, long, times, query)
			require.True(t, indexed, query)
		}
		for _, query := range words {
			times, indexed := parsed(t, fixtures.Bob, little, query)
			require.Zero(t, times, query)
			require.True(t, indexed, query)
		}
		times, indexed := parsed(t, fixtures.Bob, whole, words[0])
		require.Equal(t, long, times, "without the index")
		require.False(t, indexed)
	})
}
