package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// ErrGiven is [Start]'s error where the tests are given their server.
var ErrGiven = errors.New(URLVariable + " names the server: none is started beside it")

// Start starts a server of one's own, to crash it, or to run with settings that are
// not the tests' ("fsync=on"); they come after the tests' own, which save time: see
// startIn. A container or a local server, as the shared one would be; it stops after
// this process.
func Start(ctx context.Context, settings ...string) (*Server, error) {
	if os.Getenv(URLVariable) != "" {
		return nil, ErrGiven
	}
	conn, err := start(ctx, startOwnContainer(settings), startOwnLocal(settings))
	if err != nil {
		return nil, err
	}
	return prepare(ctx, conn, true)
}

// Crash stops a server of one's own at once, without a checkpoint, as pg_ctl stop
// --mode=immediate does: every session ends where it is. It returns when the server,
// started again, has recovered.
func (s *Server) Crash(ctx context.Context) error {
	const started = "select pg_postmaster_start_time()"
	var before, after time.Time
	if err := s.admin.QueryRow(ctx, started).Scan(&before); err != nil {
		return fmt.Errorf("crash the server: %w", err)
	}
	// Its own session ends with the others. The program is sent no row: it reads none, and might be gone by then.
	_, err := s.admin.Exec(ctx, `copy (select where false) to program 'touch again; kill -QUIT $(head -n 1 postmaster.pid)'`)
	if err != nil && !gone(err) {
		return fmt.Errorf("crash the server: %w", err)
	}
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(5 * time.Millisecond) {
		conn, err := join(ctx, s.superuser.String())
		if err == nil {
			err = conn.QueryRow(ctx, started).Scan(&after)
		}
		if err == nil && after.After(before) {
			s.owned.mu.Lock()
			defer s.owned.mu.Unlock()
			s.owned.conn = conn
			return nil
		}
		if conn != nil {
			_ = conn.Close(ctx) // of the server that is about to end
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server did not recover within %s: %w", startTimeout, err)
		}
	}
}
