package preflight

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// Two servers of different versions would take two servers: what one says of its version is changed instead.
func TestCompareServerVersions(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "pre-implementation/staging-environment-ready/staging-has-same-postgresql-version-as-production")
	db := pgtest.New(t, schema.Legacy)
	production, err := Examine(t.Context(), db.Connect(t, pgtest.OwnerRole))
	require.NoError(t, err)
	var version string
	require.NoError(t, db.Owner.QueryRow(t.Context(), `show server_version`).Scan(&version))
	const name, other = "server version", "15.1"
	require.Equal(t, version, production.facts[name].value)

	staging := *production
	require.Zero(t, Compare(&staging, production).Count(verify.Failed), "of the same version")
	staging.facts = maps.Clone(production.facts)
	staging.facts[name] = fact{other, production.facts[name].otherwise}
	for what, found := range map[string]struct {
		is     string
		report Report
	}{
		"staging is older":    {"staging: " + other + ", production: " + version, Compare(&staging, production)},
		"production is older": {"staging: " + version + ", production: " + other, Compare(production, &staging)},
	} {
		t.Run(what, func(t *testing.T) {
			require.Equal(t, 1, found.report.Count(verify.Failed), found.report)
			require.Equal(t, name, found.report[0].Name)
			require.Equal(t, verify.Failed, found.report[0].Verdict)
			require.Equal(t, found.is, found.report[0].Found)
		})
	}
}
