package actor_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

func TestDo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy, fixtures.World()...)
	type identity struct {
		Role    string
		Uid     *string
		Claimed *string
	}
	whoami := func(t *testing.T, a actor.Actor) identity {
		t.Helper()
		var got identity
		require.NoError(t, a.Do(t, db, func(tx pgx.Tx) error {
			return tx.QueryRow(t.Context(), `select current_user::text, auth.uid()::text, auth.role()`).Scan(&got.Role, &got.Uid, &got.Claimed)
		}))
		return got
	}
	t.Run("a user has her role and claims in both conventions", func(t *testing.T) {
		t.Parallel()
		want := identity{"authenticated", &fixtures.Alice.ID, new("authenticated")}
		require.Equal(t, want, whoami(t, actor.User(fixtures.Alice.ID)))
		require.Equal(t, want, whoami(t, actor.User(fixtures.Alice.ID).WithOldClaims()))
	})
	t.Run("an anonymous caller is nobody", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, identity{"anon", nil, new("anon")}, whoami(t, actor.Anonymous()))
	})
	t.Run("the backend is the service role", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, identity{"service_role", nil, new("service_role")}, whoami(t, actor.Service()))
	})
	t.Run("what it writes is rolled back", func(t *testing.T) {
		t.Parallel()
		count := func(tx pgx.Tx) (n int, err error) {
			err = tx.QueryRow(t.Context(), `select count(*) from public.prompts`).Scan(&n)
			return n, err
		}
		for range 2 {
			require.NoError(t, actor.Service().Do(t, db, func(tx pgx.Tx) error {
				before, err := count(tx)
				require.NoError(t, err)
				require.Len(t, fixtures.Prompts, before)
				_, err = tx.Exec(t.Context(), `insert into public.prompts (name) values ('x')`)
				return err
			}))
		}
	})
}

// A caller to whom nothing is denied would make every test of isolation pass.
func TestUnfitCaller(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy)
	_, err := db.Superuser.Exec(t.Context(), `alter table public.agents owner to authenticated`)
	require.NoError(t, err)

	failure := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = actor.Anonymous().Do(failure, db, func(pgx.Tx) error {
			failure.message = "it ran"
			return nil
		})
	}()
	<-done
	require.Equal(t, "act as anon: tenancy_api cannot stand for a caller: authenticated is a superuser, has BYPASSRLS or owns a table", failure.message)
}

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	message string
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
