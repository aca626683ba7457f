package backfill_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// The queries run on production. What meets every row with every organization does not
// end there: here it would take minutes, and what does not, a moment.
func testVerificationOfManyRows(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase1, fixtures.World()...)
	phasetest.Exec(t, db, `
		insert into public.organizations (name) select 'Organization ' || n from generate_series(1, 1500) as n;
		insert into public.prompts (name) select 'Prompt ' || n from generate_series(1, 8000) as n;
		analyze public.organizations, public.prompts`)
	f, err := schema.Verification(schema.Phase2)
	require.NoError(t, err)
	queries, err := verify.Parse(f)
	require.NoError(t, err)
	conn := db.Connect(t, pgtest.OwnerRole)
	_, err = conn.Exec(t.Context(), `set statement_timeout = '20s'`)
	require.NoError(t, err)
	for _, q := range queries {
		_, err := verify.Run(t.Context(), conn, q)
		require.NoError(t, err)
	}
}
