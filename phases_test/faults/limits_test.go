package faults_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// A limit that is made for the application's statements is none for a migration, which
// bounds its own waits: it would end a phase that takes longer each time it is run.
func TestStatementTimeout(t *testing.T) {
	t.Parallel()
	want, _ := undisturbed(t)
	db := pgtest.New(t, schema.Legacy, world...)
	random(t).travel(t, db, func(p passage) {
		s := connect(t, db, set("statement_timeout", "150ms"))
		// So that one statement takes that long.
		holder := db.Connect(t, pgtest.OwnerRole)
		_, err := holder.Exec(t.Context(), "begin; lock table public.agents in access exclusive mode")
		require.NoError(t, err)
		released := make(chan error, 1)
		time.AfterFunc(400*time.Millisecond, func() {
			_, err := holder.Exec(t.Context(), "rollback")
			released <- err
		})
		require.NoError(t, s.run(t, p), "%s", p)
		s.close(t)
		require.NoError(t, <-released)
		want.reached(t, db, p.To())
	})
}

// TestDiskFull moves a database to a disk of its own, a small one, and lets each file find
// it full somewhere on its way. What this does not fill is the disk of the write-ahead log:
// there the server itself stops, as in a crash.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context())
	if err != nil {
		require.ErrorIs(t, err, pgtest.ErrGiven)
		t.Logf("no disk is full: %s", err)
		return
	}
	disk, err := mountDisk(t, server)
	if err != nil {
		t.Logf("no disk is full, because this process may not mount one that the server sees: %s", err)
		return
	}
	db := server.New(t, schema.Legacy, world...)
	disk.hold(t, db)
	d := random(t)
	want, efforts := undisturbed(t)
	d.travel(t, db, func(p passage) {
		full := 0
		for n := range d.kills {
			if worn(n) {
				require.NoError(t, db.Close(t.Context())) // it takes room on the disk
				db = server.New(t, schema.Legacy, world...)
				disk.hold(t, db)
				for _, before := range journey()[:slices.Index(journey(), p)] {
					before.run(t, db)
				}
			}
			if !fills(t, db, p, disk, d.Int64N(max(efforts[p].space, least))) {
				p.back().run(t, db)
				continue
			}
			full++
			want.between(t, db, p)
			want.recovers(t, db, p, d)
			p.back().run(t, db)
		}
		p.run(t, db)
		want.reached(t, db, p.To())
		t.Logf("%s grows the database by %d kB: %d of %d times the disk was full", p, efforts[p].space>>10, full, d.kills)
	})
}

// fills runs a file with so many bytes left on the disk, and tells whether they were too few.
func fills(t *testing.T, db *pgtest.DB, p passage, d disk, left int64) bool {
	t.Helper()
	s := connect(t, db) // which takes a file, too
	d.resize(t, d.used(t)+left)
	defer d.resize(t, large)
	err := s.run(t, p)
	s.close(t)
	if err == nil {
		return false
	}
	var refusal *pgconn.PgError
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, "53100", refusal.Code, "%s on a full disk: %s", p, err)
	return true
}

// disk is where a file system in memory is mounted.
type disk string

const (
	large = 1 << 30   // more than a file writes
	least = 256 << 10 // what is left at most where a file leaves more than it has found
)

func (d disk) used(t *testing.T) int64 {
	t.Helper()
	var s syscall.Statfs_t
	require.NoError(t, syscall.Statfs(string(d), &s))
	return int64(s.Blocks-s.Bfree) * int64(s.Bsize)
}

func (d disk) resize(t *testing.T, size int64) {
	t.Helper()
	require.NoError(t, mount("-o", fmt.Sprintf("remount,size=%d", size), string(d)))
}

func mount(args ...string) error {
	out, err := exec.Command("mount", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mount %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// mountDisk mounts one, for the tablespace "small". The error says why this process
// cannot: it takes root, and a server on the same machine.
func mountDisk(t *testing.T, server *pgtest.Server) (disk, error) {
	t.Helper()
	db := server.New(t, schema.Legacy)
	var data string
	require.NoError(t, db.Superuser.QueryRow(t.Context(), `show data_directory`).Scan(&data))
	if host := db.Config(t, "").Host; !strings.HasPrefix(host, "/") {
		return "", fmt.Errorf("the server is at %s", host)
	}
	info, err := os.Stat(data)
	if err != nil {
		return "", err
	}
	folder, err := os.MkdirTemp(filepath.Dir(data), "disk-")
	if err != nil {
		return "", err
	}
	if err := mount("-t", "tmpfs", "-o", fmt.Sprintf("size=%d", large), "tmpfs", folder); err != nil {
		return "", err
	}
	t.Cleanup(func() { require.NoError(t, exec.Command("umount", "--lazy", folder).Run()) })
	owner := info.Sys().(*syscall.Stat_t)
	require.NoError(t, os.Chown(folder, int(owner.Uid), int(owner.Gid)))
	_, err = db.Superuser.Exec(t.Context(), "create tablespace small location '"+folder+"'")
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := db.Superuser.Exec(context.WithoutCancel(t.Context()), "drop tablespace small")
		require.NoError(t, err)
	})
	return disk(folder), nil
}

// hold moves a database to the disk.
func (d disk) hold(t *testing.T, db *pgtest.DB) {
	t.Helper()
	cfg := db.Config(t, "")
	cfg.Database = "postgres"
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), "alter database "+db.Name+" set tablespace small")
	require.NoError(t, err)
}
