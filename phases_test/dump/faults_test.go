package dump_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

// The suite finds what it is there to find.
func TestDumpFaults(t *testing.T) {
	t.Parallel()
	d := open(t, "world.dump")
	before := begin(t, d, schema.Phase1)
	before.loadWorld(t)
	for name, test := range map[string]struct {
		at      schema.Phase
		fault   string // what somebody does to the database
		look    func(*examination, *testing.T)
		problem []string
	}{
		"a policy that shows rows to everybody, one that is gone, and a row that was not there": {schema.Phase4,
			`create policy leak on public.agents for select to authenticated using (name <> '');
			 drop policy users_view_own_messages on public.messages;
			 insert into public.use_cases (title, sharing_scope, owner_organization_id) values ('New', 'platform', '7e000000-1111-4000-8000-000000000001')`,
			(*examination).phase4, []string{"rows are seen that must not be", "sees agents 4a", "rows are seen that the dump does not hold",
				"rows are seen after phase 4 that the old policies hid", "rows are not seen that must be", "does not see messages"}},
		"rows that phase 2 has shared more widely, or given to somebody else": {schema.Phase4,
			`update public.agents set sharing_scope = 'platform' where sharing_scope = 'organization';
			 update public.prompts set owner_organization_id = '7e000000-1111-4000-8000-000000000002' where sharing_scope = 'organization'`,
			(*examination).phase4, []string{"rows are seen that must not be", "that the old policies hid", "does not see prompts"}},
		"a phase that changes what the old application shows": {schema.Phase3,
			`drop policy tmp_team_access on public.agents`,
			func(e *examination, t *testing.T) { e.unchanged(t, schema.Phase3) }, []string{"phase3 changes what", "agents: "}},
		"a verification query that does not hold": {schema.Phase4,
			`alter table public.prompts disable row level security`,
			func(e *examination, t *testing.T) { e.verify(t, schema.Phase4) }, []string{"FAILED tables_that_are_open"}},
		"a plan that reads a whole table": {schema.Phase4,
			`drop index public.messages_conversation_id_idx`,
			func(e *examination, t *testing.T) {
				e.large = 50
				e.checkPlans(t)
			}, []string{"the messages of a conversation reads the whole table messages"}},
		"a rollback that does not bring everything back": {schema.Phase4,
			`update public.conversations set title = title || '.'; create table private.left_over ()`,
			func(e *examination, t *testing.T) {
				at3 := begin(t, d, schema.Phase3)
				e.pictures[schema.Phase3] = at3.take(t)
				e.down(t, schema.Phase4)
			}, []string{"the rollback of phase4 does not bring back phase3", "table private.left_over", "public.conversations: "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := begin(t, d, test.at)
			e.like(before)
			phasetest.Exec(t, e.db, test.fault)
			test.look(e, t)
			require.Positive(t, e.problems, e.String())
			for _, sentence := range test.problem {
				require.Contains(t, strings.Join(e.sections[problem], "\n"), sentence)
			}
		})
	}
}
