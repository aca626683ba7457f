package messy_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures/messy"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

func TestMessy(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-2/verify-data-quality", "success-criteria/data-quality/hierarchy-correctly-structured",
		"success-criteria/data-quality/sharing-scopes-correctly-assigned", "success-criteria/security/users-cannot-see-unauthorized-data")
	for _, w := range messy.Worlds() {
		t.Run(w.Name, func(t *testing.T) {
			t.Parallel()
			testWorld(t, w)
		})
	}
}

func testWorld(t *testing.T, w messy.World) {
	db, o := legacy(t, w), oracle{w}
	start, before := phasetest.Take(t, db), reads(t, db, w)
	t.Run("the old policies are what the model takes them for", func(t *testing.T) {
		eachPair(t, w, func(user messy.Person, r messy.Row) {
			if r.Table == "agents" {
				require.Equal(t, o.policies(user, r), before.has(user, r.Table, r.As), reading(user, r.Table, r.As))
			}
		})
	})

	for _, phase := range []schema.Phase{schema.Phase1, schema.Phase2, schema.Phase3} {
		migrate(t, db, w, phase)
		if phase == schema.Phase2 {
			before = o.filled(before)
		}
		t.Run("after "+phase.String()+" everybody reads what he read before", func(t *testing.T) {
			require.Empty(t, catalog.Diff(before, withoutNew(w, reads(t, db, w))))
		})
		t.Run("the verification queries of "+phase.String()+" hold", func(t *testing.T) { holds(t, db, phase) })
		if phase != schema.Phase2 {
			continue
		}
		t.Run("every organization and every row is what it must become", func(t *testing.T) {
			require.Empty(t, catalog.Diff(expected(w), outcome(t, db, w)))
		})
		t.Run("the order in which the rows were written makes no difference", func(t *testing.T) {
			other := legacy(t, w.Backwards())
			migrate(t, other, w, schema.Phase1)
			migrate(t, other, w, schema.Phase2)
			phasetest.Take(t, db).Same(t, other)
		})
	}

	migrate(t, db, w, schema.Phase4)
	t.Run("the verification queries of phase4 hold", func(t *testing.T) { holds(t, db, schema.Phase4) })
	touch(t, db, "+") // for the audit log
	after := reads(t, db, w)
	t.Run("after phase4 nobody reads what was not meant for him", func(t *testing.T) {
		eachPair(t, w, func(user messy.Person, r messy.Row) {
			if after.has(user, r.Table, r.As) {
				require.True(t, o.meant(user, r), reading(user, r.Table, r.As))
			}
		})
	})
	t.Run("after phase4 everybody reads on, save for what is taken away on purpose", func(t *testing.T) {
		kept, lost := 0, map[string]int{}
		eachPair(t, w, func(user messy.Person, r messy.Row) {
			switch {
			case after.has(user, r.Table, r.As):
				kept++
			case o.meant(user, r):
				why := o.whyNot(user, r)
				require.NotEmpty(t, why, "no more: "+reading(user, r.Table, r.As))
				lost[why]++
			}
		})
		require.Positive(t, kept)
		require.NotEmpty(t, lost, "the world has nothing that is taken away")
		t.Logf("%d are read on; what is not: %v", kept, lost)
	})
	t.Run("after phase4 everybody reads what the rules of access say, of every table", func(t *testing.T) {
		require.Empty(t, catalog.Diff(o.allowed(), after))
	})

	touch(t, db, "-")
	_, err := db.Superuser.Exec(t.Context(), `delete from public.audit_logs`)
	require.NoError(t, err)
	t.Run("the rollbacks bring back the database that it was", func(t *testing.T) {
		for phase := schema.Phase4; phase >= schema.Phase1; phase-- {
			db.Rollback(t, phase)
		}
		start.Same(t, db)
	})
}

// TestMessyRefused takes a world to the phase that refuses it: nothing has changed by
// that, and nobody reads anything else than before phase 1.
func TestMessyRefused(t *testing.T) {
	t.Parallel()
	for _, r := range messy.Refusals() {
		t.Run(r.Phase.String()+" refuses "+r.Name, func(t *testing.T) {
			t.Parallel()
			db := legacy(t, r.World)
			before := reads(t, db, r.World)
			for phase := schema.Phase1; phase < r.Phase; phase++ {
				migrate(t, db, r.World, phase)
			}
			phasetest.RefusesMigration(t, db, r.Phase, r.Message)
			require.NotEmpty(t, before)
			require.Empty(t, catalog.Diff(before, withoutNew(r.World, reads(t, db, r.World))))
		})
	}
}

// eachPair meets every user with every row that has an owner.
func eachPair(t *testing.T, w messy.World, meet func(messy.Person, messy.Row)) {
	t.Helper()
	require.NotEmpty(t, w.Rows)
	for _, user := range w.People {
		for _, r := range w.Rows {
			meet(user, r)
		}
	}
}

// withoutNew is readings without what there was not before phase 1.
func withoutNew(w messy.World, all readings) readings {
	return all.without("organization_stats").without("organizations", made(w)...)
}

// touch changes every row there is.
func touch(t *testing.T, db *pgtest.DB, sign string) {
	t.Helper()
	phasetest.Exec(t, db, `do $$
		declare
			target text;
		begin
			for target in
				select table_name from tenancy.classified_table
				where class <> 'evidence' and to_regclass('public.' || table_name) is not null
			loop
				execute format('update public.%I set created_at = created_at `+sign+` interval ''1 second''', target);
			end loop;
		end $$`)
}
