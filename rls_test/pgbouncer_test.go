package rls_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/program"
)

// bouncer is a PgBouncer in front of a database, as the API has it.
type bouncer struct {
	db     *pgtest.DB
	folder string
}

// startBouncer starts a PgBouncer in transaction mode, with pools of these sizes by
// name. It listens on a unix socket and nowhere else. It ends with the test.
func startBouncer(t testing.TB, db *pgtest.DB, pools map[string]int) bouncer {
	t.Helper()
	path := program.Find(t, "pgbouncer", "pgbouncer")
	folder := program.Folder(t)
	b := bouncer{db, folder}
	require.NoError(t, errors.Join(os.Mkdir(b.sockets(), 0o777), os.Chmod(b.sockets(), 0o777|os.ModeSticky)))

	server := db.Config(t, pgtest.APIRole)
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	add("[databases]")
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		add("%s = host='%s' port=%d dbname='%s' pool_size=%d", name, server.Host, server.Port, server.Database, pools[name])
	}
	add("[pgbouncer]")
	add("pool_mode = transaction")
	add("listen_port = 6432")
	add("unix_socket_dir = %s", b.sockets())
	add("auth_type = scram-sha-256")
	add("auth_file = %s", filepath.Join(folder, "users"))
	add("server_tls_sslmode = prefer")
	if os.Getuid() == 0 {
		add("user = %s", program.Besides(t, server.Host).Username) // it refuses to be root
	}
	ini := filepath.Join(folder, "pgbouncer.ini")
	require.NoError(t, errors.Join(
		os.WriteFile(ini, []byte(strings.Join(lines, "\n")+"\n"), 0o644),
		os.WriteFile(filepath.Join(folder, "users"), fmt.Appendf(nil, "\"%s\" \"%s\"\n", server.User, server.Password), 0o644)))

	program.Start(t, exec.Command(path, ini), folder, func() error {
		conn, err := pgx.ConnectConfig(t.Context(), b.config(t, slices.Sorted(maps.Keys(pools))[0]))
		if err != nil {
			return err
		}
		return conn.Close(t.Context())
	})
	return b
}

func (b bouncer) sockets() string { return filepath.Join(b.folder, "sockets") }

// config is how to connect by one of the pools. A statement that is prepared by name is
// the server connection's, which the next transaction finds with another client; only
// since version 1.21 does PgBouncer keep count of them. Here none has a name.
func (b bouncer) config(t testing.TB, pool string) *pgx.ConnConfig {
	t.Helper()
	cfg := b.db.Config(t, pgtest.APIRole)
	cfg.Host, cfg.Port, cfg.Database = b.sockets(), 6432, pool
	cfg.TLSConfig, cfg.Fallbacks = nil, nil
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	return cfg
}

func (b bouncer) connect(t testing.TB, pool string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), b.config(t, pool))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// testPgBouncer is the API's connections as they are in production: many clients, few
// connections to the server, and another client with each transaction.
func testPgBouncer(t *testing.T) {
	t.Parallel()
	db := secured(t)
	pools := map[string]int{"few": 2, "vanishing": 1, "one": 1}
	for what := range remains {
		pools[remaining(what)] = 1
	}
	b := startBouncer(t, db, pools)

	t.Run("many clients on two connections read each his own rows", func(t *testing.T) {
		t.Parallel()
		const clients, requests = 12, 14
		w, users := migrated(), append(slices.Clone(fixtures.Users), stranger)
		var mu sync.Mutex
		var problems []string
		served := map[int]map[string]bool{} // by each server process, who
		request := func(conn *pgx.Conn, n int) error {
			u := users[n%len(users)]
			undo := errors.New("undo")
			err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
				var pid int
				if err := errors.Join(callerOf(u).speak(t.Context(), tx), tx.QueryRow(t.Context(), `select pg_backend_pid()`).Scan(&pid)); err != nil {
					return err
				}
				found, err := column(t.Context(), tx, allAgents)
				mu.Lock()
				defer mu.Unlock()
				if served[pid] == nil {
					served[pid] = map[string]bool{}
				}
				served[pid][u.Email] = true
				want, outcome := w.keysOf(selecting, u.ID, "agents"), done
				if u == stranger {
					outcome = denied
				}
				if got := outcomeOf(err); got != outcome || !slices.Equal(found, want) {
					problems = append(problems, fmt.Sprintf("%s: %s with agents %v, and must be %s with %v", u.Email, got, found, outcome, want))
				}
				if n%2 == 0 || u == stranger {
					return undo
				}
				return nil
			})
			if errors.Is(err, undo) {
				return nil
			}
			return err
		}
		var conns []*pgx.Conn
		for range clients {
			conns = append(conns, b.connect(t, "few"))
		}
		var running []<-chan error
		for client, conn := range conns {
			running = append(running, meanwhile(func() (err error) {
				for i := 0; i < requests && err == nil; i++ {
					err = request(conn, client*5+i)
				}
				return err
			}))
		}
		for _, done := range running {
			require.NoError(t, <-done)
		}
		require.Empty(t, problems)
		require.LessOrEqual(t, len(served), 2)
		most := 0
		for _, who := range served {
			most = max(most, len(who))
		}
		require.Greater(t, most, len(users)/2, "one of two serves half of them, at least")
	})
	t.Run("the next client finds nothing of the one before", func(t *testing.T) {
		t.Parallel()
		alice, bob := b.connect(t, "one"), b.connect(t, "one")
		for range 2 {
			var pid int
			require.NoError(t, pgx.BeginFunc(t.Context(), alice, func(tx pgx.Tx) error {
				require.NoError(t, callerOf(fixtures.Alice).speak(t.Context(), tx))
				requireReads(t, tx, fixtures.Alice)
				pid = backend(t, tx)
				return nil
			}))
			require.NoError(t, pgx.BeginFunc(t.Context(), bob, func(tx pgx.Tx) error {
				require.Equal(t, pid, backend(t, tx))
				requireNobodys(t, tx)
				return nil
			}))
			require.NoError(t, pgx.BeginFunc(t.Context(), bob, func(tx pgx.Tx) error {
				require.NoError(t, callerOf(fixtures.Bob).speak(t.Context(), tx))
				requireReads(t, tx, fixtures.Bob)
				return nil
			}))
		}
	})
	t.Run("nor of one who vanished in his transaction", func(t *testing.T) {
		t.Parallel()
		alice, bob := b.connect(t, "vanishing"), b.connect(t, "vanishing")
		tx, err := alice.Begin(t.Context())
		require.NoError(t, err)
		require.NoError(t, callerOf(fixtures.Alice).speak(t.Context(), tx))
		requireReads(t, tx, fixtures.Alice)
		require.NoError(t, alice.PgConn().Conn().Close())
		require.NoError(t, pgx.BeginFunc(t.Context(), bob, func(tx pgx.Tx) error {
			requireNobodys(t, tx)
			return nil
		}))
	})
	// A pooler takes nothing back that was not for a transaction: the same, and it shows.
	for what, statements := range remains {
		t.Run("but the next client speaks as the one before did by "+what, func(t *testing.T) {
			t.Parallel()
			alice, bob := b.connect(t, remaining(what)), b.connect(t, remaining(what))
			for _, sql := range callerOf(fixtures.Alice).by(statements) {
				_, err := alice.Exec(t.Context(), sql)
				require.NoError(t, err, sql)
			}
			require.NoError(t, pgx.BeginFunc(t.Context(), bob, func(tx pgx.Tx) error {
				requireReads(t, tx, fixtures.Alice)
				return nil
			}))
		})
	}
}

// remaining is the name of the pool that something stays in.
func remaining(what string) string {
	i := slices.Index(slices.Sorted(maps.Keys(remains)), what)
	return fmt.Sprintf("remains_%d", i)
}

// by is statements of remains with the role and the claims of a caller.
func (c caller) by(statements []string) []string {
	var all []string
	for _, sql := range statements {
		all = append(all, strings.NewReplacer("{role}", c.role, "{claims}", c.claims()).Replace(sql))
	}
	return all
}
