// Command run asks before the rollout whether the phases may run on a database, and whether staging is like production.
//
//	STAGING=postgres://owner@staging/vital PRODUCTION=postgres://owner@db/vital go run ./helpers/preflight/run
//
// One of the two will do. It reads only, and ends with 0 when nothing has failed. The URLs' passwords are better left
// to ~/.pgpass or PGPASSWORD; they are never printed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/vital-health/tenancy/helpers/preflight"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/helpers/verify"
)

// The environment variables that hold where the databases are, in the order in which they are asked.
var variables = []string{"STAGING", "PRODUCTION"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, getenv func(string) string, out io.Writer) error {
	var found []*preflight.Database
	failed := 0
	for _, variable := range variables {
		url := getenv(variable)
		if url == "" {
			continue
		}
		cfg, err := script.ParseURL(variable, url, "tenancy: preflight")
		if err != nil {
			return err
		}
		d, err := examine(ctx, cfg)
		if err != nil {
			return fmt.Errorf("%s: %w", variable, err)
		}
		fmt.Fprintf(out, "%s: %s on %s:%d as %s\n%s\n", variable, cfg.Database, cfg.Host, cfg.Port, cfg.User, d)
		failed += d.Count(verify.Failed)
		found = append(found, d)
	}
	switch len(found) {
	case 0:
		return errors.New("which database? Say STAGING=postgres://owner@host:5432/database, PRODUCTION=…, or both")
	case 2:
		differences := preflight.Compare(found[0], found[1])
		fmt.Fprintf(out, "STAGING beside PRODUCTION\n%s\n", differences)
		failed += differences.Count(verify.Failed)
	}
	if failed > 0 {
		return fmt.Errorf("%d checks have failed: the phases must not run before they pass", failed)
	}
	return nil
}

func examine(ctx context.Context, cfg *pgx.ConnConfig) (*preflight.Database, error) {
	conn, err := script.Connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return preflight.Examine(ctx, conn)
}
