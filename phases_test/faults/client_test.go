package faults_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// clientCommand makes this test binary, in a process of its own, the client that runs a
// file. Arguments: the database's URL; the phase; "up" or "down".
const clientCommand = "run-a-file"

func client(args []string) int {
	err := func() error {
		ctx := context.Background()
		phase, err := schema.ParsePhase(args[1])
		if err != nil {
			return err
		}
		f, err := schema.Passage{Phase: phase, Down: args[2] == "down"}.File()
		if err != nil {
			return err
		}
		cfg, err := pgx.ParseConfig(args[0])
		if err != nil {
			return err
		}
		conn, err := script.Connect(ctx, cfg)
		if err != nil {
			return err
		}
		fmt.Println(conn.PgConn().PID())
		_, err = script.Run(ctx, conn, f)
		return err
	}()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// operator is a client process that is running a file.
type operator struct {
	cmd   *exec.Cmd
	pid   int // of its session
	began time.Time
	ended chan ending
}

// ending is how a client process ended.
type ending struct {
	err   error // what the client said of it; nil if it ran the file to its end
	after time.Duration
}

func start(t *testing.T, db *pgtest.DB, p passage) *operator {
	t.Helper()
	direction := "up"
	if p.Down {
		direction = "down"
	}
	o := &operator{cmd: exec.CommandContext(t.Context(), os.Args[0], clientCommand, db.URL(pgtest.OwnerRole), p.Phase.String(), direction)}
	out, err := o.cmd.StdoutPipe()
	require.NoError(t, err)
	o.cmd.Stderr = os.Stderr
	require.NoError(t, o.cmd.Start())
	output := bufio.NewReader(out)
	line, err := output.ReadString('\n')
	require.NoError(t, err, line)
	o.pid, err = strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	o.began, o.ended = time.Now(), make(chan ending, 1)
	go func() {
		said, err := io.ReadAll(output)
		if failure := o.cmd.Wait(); failure != nil {
			err = errors.Join(err, failure, errors.New(string(bytes.TrimSpace(said))))
		}
		o.ended <- ending{err, time.Since(o.began)}
	}()
	return o
}

// wait returns when the process has ended, and its session.
func (o *operator) wait(t *testing.T, db *pgtest.DB) ending {
	t.Helper()
	end := <-o.ended
	gone(t, db, o.pid)
	return end
}

// gone returns when a session has ended, with what it held.
func gone(t *testing.T, db *pgtest.DB, pid int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		var there bool
		require.NoError(t, db.Superuser.QueryRow(t.Context(), `select exists (select from pg_stat_activity where pid = $1)`, pid).Scan(&there))
		if !there {
			return
		}
		require.True(t, time.Now().Before(deadline), "session %d does not end", pid)
	}
}
