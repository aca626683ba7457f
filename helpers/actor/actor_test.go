package actor_test

import (
	"context"
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
	t.Run("on one connection each caller is the one after the other, and nobody in between", func(t *testing.T) {
		t.Parallel()
		conn := db.Connect(t, pgtest.APIRole)
		uid := func(q interface {
			QueryRow(context.Context, string, ...any) pgx.Row
		}) (id *string) {
			require.NoError(t, q.QueryRow(t.Context(), `select auth.uid()::text`).Scan(&id))
			return id
		}
		for _, user := range []fixtures.User{fixtures.Alice, fixtures.Bob} {
			require.NoError(t, actor.User(user.ID).On(t, conn, func(tx pgx.Tx) error {
				require.Equal(t, &user.ID, uid(tx))
				return nil
			}))
			require.Nil(t, uid(conn))
		}
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

	ran := func(pgx.Tx) error { return nil }
	require.Equal(t, "act as anon: tenancy_api cannot stand for a caller: authenticated is a superuser, has BYPASSRLS or owns a table",
		failure(t, func(t testing.TB) { _ = actor.Anonymous().Do(t, db, ran) }))

	owner := db.Connect(t, pgtest.OwnerRole)
	require.Equal(t, "act as anon: the connection is of tenancy_owner, want tenancy_api",
		failure(t, func(t testing.TB) { _ = actor.Anonymous().On(t, owner, ran) }))
}

// failure is the message that a test fails with.
func failure(t *testing.T, test func(testing.TB)) string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(r)
	}()
	<-done
	return r.message
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
