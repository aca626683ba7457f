package verify_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
)

// database returns how to connect to an empty database of one's own, as superuser.
func database(t testing.TB) *pgx.ConnConfig {
	t.Helper()
	cfg, err := pgx.ParseConfig(pgtest.Empty(t).URL(""))
	require.NoError(t, err)
	return cfg
}
