package why_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/why"
	"github.com/vital-health/tenancy/schema"
)

// asking opens the two sessions that it takes to ask.
func asking(t *testing.T) (*pgtest.DB, func(*testing.T, why.Question) (why.Answer, error)) {
	t.Helper()
	db := pgtest.New(t, schema.Phase4, fixtures.World()...)
	owner, api := db.Connect(t, pgtest.OwnerRole), db.Connect(t, pgtest.APIRole)
	return db, func(t *testing.T, q why.Question) (why.Answer, error) {
		t.Helper()
		return why.Ask(t.Context(), owner, api, q)
	}
}

func TestAsk(t *testing.T) {
	t.Parallel()
	_, ask := asking(t)
	for name, test := range map[string]struct {
		user    fixtures.User
		verb    why.Verb
		table   string
		id      string
		allowed bool
		says    []string
	}{
		"a member reads": {fixtures.Alice, why.Read, "agents", fixtures.NovartisAgent.ID, true, []string{
			"yes: SELECT of public.agents",
			"true   policy users_view_accessible_agents for SELECT",
			"authz.audiences() = {",
			"is what Pharmaceuticals shares", "the row's audience_key = " + fixtures.Novartis.ID, fixtures.Novartis.ID + " is Novartis"}},
		"another does not, because of the audience": {fixtures.Bob, why.Read, "agents", fixtures.NovartisAgent.ID, false, []string{
			"no: SELECT of public.agents",
			"true   deleted_at IS NULL",
			"false  audience_key = ANY"}},
		"what is deleted is read by nobody, because it is": {fixtures.Alice, why.Read, "agents", fixtures.DeletedAgent.ID, false, []string{
			"false  deleted_at IS NULL",
			"true   audience_key = ANY"}},
		"a colleague does not change it, because he has not made it": {fixtures.Dana, why.Change, "agents", fixtures.NovartisAgent.ID, false, []string{
			"true   grant: authenticated may UPDATE public.agents",
			"true   policy users_view_accessible_agents for SELECT",
			"false  policy users_update_agents for UPDATE",
			"or\n",
			"false  created_by = ( SELECT auth.uid() AS uid)",
			"true   owner_organization_id = ANY (( SELECT authz.writer_organizations() AS writer_organizations)::uuid[])"}},
		"nobody removes it, because nobody has the grant": {fixtures.Adam, why.Remove, "agents", fixtures.NovartisAgent.ID, false, []string{
			"false  grant: authenticated may DELETE public.agents"}},
		"who has not signed in has none either": {fixtures.User{}, why.Read, "agents", fixtures.PublicAgent.ID, false, []string{
			"false  grant: anon may SELECT public.agents"}},
	} {
		t.Run(name, func(t *testing.T) {
			answer, err := ask(t, why.Question{User: test.user.ID, Verb: test.verb, Table: test.table, ID: test.id})
			require.NoError(t, err)
			require.Equal(t, test.allowed, answer.Allowed)
			for _, want := range test.says {
				require.Contains(t, answer.String(), want)
			}
		})
	}
}

// What it says of every table, every verb and people of every kind is what happens, or
// Ask returns an error.
func TestAskAgreesWithTheDatabase(t *testing.T) {
	t.Parallel()
	db, ask := asking(t)
	allowed := map[bool]int{}
	for _, table := range []string{"agents", "workflows", "conversations", "messages", "organizations", "users", "user_organizations"} {
		rows, err := db.Owner.Query(t.Context(), fmt.Sprintf(`select id::text from public.%s order by md5(id::text) limit 4`, table))
		require.NoError(t, err)
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		for _, id := range ids {
			for _, user := range []fixtures.User{fixtures.Alice, fixtures.Max, fixtures.Tess, fixtures.Eve, {}} {
				for _, verb := range []why.Verb{why.Read, why.Change, why.Remove} {
					answer, err := ask(t, why.Question{User: user.ID, Verb: verb, Table: table, ID: id})
					require.NoError(t, err)
					allowed[answer.Allowed]++
				}
			}
		}
	}
	require.Positive(t, allowed[true])
	require.Positive(t, allowed[false])
}

func TestDisagreement(t *testing.T) {
	t.Parallel()
	db, ask := asking(t)
	_, err := db.Owner.Exec(t.Context(), `
		create function public.refuse() returns trigger language plpgsql as $$ begin return null; end $$;
		create trigger refuse before update on public.agents for each row execute function public.refuse()`)
	require.NoError(t, err)
	_, err = ask(t, why.Question{User: fixtures.Alice.ID, Verb: why.Change, Table: "agents", ID: fixtures.NovartisAgent.ID})
	require.ErrorContains(t, err, "the database does not agree, it says: UPDATE 0")
	require.ErrorContains(t, err, "yes: UPDATE of public.agents")
}

func TestBadQuestions(t *testing.T) {
	t.Parallel()
	_, ask := asking(t)
	for want, q := range map[string]why.Question{
		`relation "public.agent" does not exist`: {User: fixtures.Alice.ID, Verb: why.Read, Table: "agent", ID: fixtures.NovartisAgent.ID},
		"there is no such row, for nobody":       {User: fixtures.Alice.ID, Verb: why.Read, Table: "agents", ID: strings.Repeat("0", 32)},
		`invalid input syntax for type uuid`:     {User: fixtures.Alice.ID, Verb: why.Read, Table: "agents", ID: "Novartis RA Agent"},
	} {
		_, err := ask(t, q)
		require.ErrorContains(t, err, want)
	}
	_, err := why.ParseVerb("read")
	require.EqualError(t, err, `unknown verb "read": want select, update or delete`)
}
