package script_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	watch := func(t *testing.T, db *pgtest.DB, f schema.File, also func(script.Event)) []script.Progress {
		t.Helper()
		var all []script.Progress
		_, err := script.Runner{Watch: true, Report: func(e script.Event) {
			also(e)
			if p, ok := e.(script.Progress); ok {
				all = append(all, p)
			}
		}}.Run(t.Context(), connect(t, db.Config(t, pgtest.OwnerRole)), f)
		require.NoError(t, err)
		return all
	}
	t.Run("of the backfill, by its own account", func(t *testing.T) {
		t.Parallel()
		db := pgtest.New(t, schema.Phase1, fixtures.World()...)
		agents := count(t, db, "select count(*) from public.agents")
		_, err := db.Owner.Exec(t.Context(), "analyze public.agents")
		require.NoError(t, err)
		// Others have a row here and a row of a later table: the first until it has been seen that nothing moves, the second
		// until it has been seen that something did.
		first := hold(t, db, "select from public.agents where id = '"+fixtures.NovartisAgent.ID+"' for update")
		second := hold(t, db, "select from public.prompts where id = '"+fixtures.PfizerPrompt.ID+"' for update")
		complete := func(p script.Progress) bool { return p.What == "agents" && p.Done == p.Total }
		var releaseFirst, releaseSecond sync.Once
		released := make(chan struct{})
		f, err := schema.Migration(schema.Phase2)
		require.NoError(t, err)
		all := watch(t, db, f, func(e script.Event) {
			switch e := e.(type) {
			case script.Waiting:
				if e.For.Mode == "row" && e.For.Relation == "public.agents" {
					releaseFirst.Do(func() {
						time.AfterFunc(1500*time.Millisecond, func() {
							first.release()
							close(released)
						})
					})
				}
			case script.Progress:
				if complete(e) { // it may have been seen on the way, too
					releaseSecond.Do(second.release)
				}
			}
		})
		<-released
		at := slices.IndexFunc(all, complete)
		require.GreaterOrEqual(t, at, 0, "%v", all)
		require.EqualValues(t, agents, all[at].Done)
		require.Equal(t, "rows", all[at].Unit)
		require.Greater(t, all[at].Rate, float64(agents)/1.5, "the time before it began to move does not count")
	})
	t.Run("of an index and of a vacuum, by the server's", func(t *testing.T) {
		t.Parallel()
		db := pgtest.Empty(t)
		all := watch(t, db, file(`
			create table slow (id int, filler text) with (autovacuum_enabled = off);
			alter table slow alter filler set storage plain;
			insert into slow select i, repeat('x', 7000) from generate_series(1, 160) as i;
			delete from slow where id > 120;
			create function slow(i int) returns int language plpgsql immutable as $$ begin perform pg_sleep(0.015); return i; end $$;
			create index slow_index on slow (slow(id));
			set vacuum_cost_delay = '12ms';
			set vacuum_cost_limit = 10;
			set vacuum_cost_page_hit = 10;
			vacuum slow;
		`), func(script.Event) {})
		for _, what := range []string{"an index on slow, building index: scanning table", "vacuum of slow, scanning heap"} {
			at := slices.IndexFunc(all, func(p script.Progress) bool { return strings.HasPrefix(p.What, what) })
			require.GreaterOrEqual(t, at, 0, "%s: %v", what, all)
			p := all[at]
			require.Equal(t, "blocks", p.Unit)
			require.EqualValues(t, 160, p.Total)
			require.Positive(t, p.Rate)
			require.InDelta(t, float64(p.Total-p.Done)/p.Rate, p.Left.Seconds(), 0.01)
		}
	})
	t.Run("is said with what is known", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, "agents: 250000 of 1000000 rows, 41000 per second, 18s left",
			script.Progress{What: "agents", Unit: "rows", Done: 250000, Total: 1000000, Rate: 41000, Left: 18293 * time.Millisecond}.String())
		require.Equal(t, "agents: 5000 rows, 980 per second",
			script.Progress{What: "agents", Unit: "rows", Done: 5000, Rate: 980.4}.String())
	})
}
