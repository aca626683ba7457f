package pgtest_test

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

func TestStart(t *testing.T) {
	t.Parallel()
	if os.Getenv(pgtest.URLVariable) != "" {
		_, err := pgtest.Start(t.Context())
		require.ErrorIs(t, err, pgtest.ErrGiven)
		return
	}
	server, err := pgtest.Start(t.Context(), "synchronous_commit=on", "application_name=own")
	require.NoError(t, err)
	db := server.New(t, schema.Legacy)
	count := func(db *pgtest.DB) (n int) {
		t.Helper()
		require.NoError(t, db.Owner.QueryRow(t.Context(), "select count(*) from public.users").Scan(&n))
		return n
	}

	t.Run("its settings are those that it was given, and the tests' own", func(t *testing.T) {
		var settings []string
		require.NoError(t, db.Owner.QueryRow(t.Context(), `select array_agg(setting order by name) from pg_settings
			where name in ('application_name', 'fsync', 'synchronous_commit')`).Scan(&settings))
		require.Equal(t, []string{"own", "off", "on"}, settings)
	})
	t.Run("a crash ends every session, and keeps what was committed", func(t *testing.T) {
		_, err := db.Owner.Exec(t.Context(), "insert into public.users (email) values ('kept@example.com')")
		require.NoError(t, err)
		writer := db.Connect(t, pgtest.OwnerRole)
		_, err = writer.Exec(t.Context(), "begin; insert into public.users (email) values ('lost@example.com')")
		require.NoError(t, err)
		require.Equal(t, 1, count(db))

		require.NoError(t, server.Crash(t.Context()))
		_, err = writer.Exec(t.Context(), "commit")
		require.Error(t, err)
		require.Equal(t, 1, count(db))
	})
	t.Run("it makes databases and crashes as often as one likes", func(t *testing.T) {
		require.NoError(t, server.Crash(t.Context()))
		require.Zero(t, count(server.New(t, schema.Legacy)))
		require.Equal(t, 1, count(db))
	})
	t.Run("it ends after its process", func(t *testing.T) {
		holder := start(t, childVariable+"="+owns, pgtest.LingerVariable+"=1s")
		maintenance := *holder.database
		maintenance.Path = "/postgres"
		observer, err := pgx.Connect(t.Context(), maintenance.String())
		require.NoError(t, err)
		defer observer.Close(t.Context())
		gone := goneServer(t, observer)
		require.False(t, gone())
		holder.kill(t)
		require.Eventually(t, gone, patience, pause, "the server was left behind")
	})
}
