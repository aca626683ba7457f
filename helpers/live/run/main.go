// Command run verifies a database that is in use, and changes nothing in it.
//
//	VERIFY_DATABASE_URL=postgres://owner@db.example/vital go run ./helpers/live/run
//
// It ends with 0, and one line, when all holds; else with all that does not. The URL's password is better left to
// ~/.pgpass or PGPASSWORD; it is never printed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/vital-health/tenancy/helpers/live"
	"github.com/vital-health/tenancy/helpers/script"
)

// variable holds where the database is, and as whom.
const variable = "VERIFY_DATABASE_URL"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	progress, clear := bar(os.Stderr)
	err := run(ctx, os.Getenv(variable), os.Stdout, progress, clear)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, url string, out io.Writer, progress live.Progress, clear func()) error {
	cfg, err := script.ParseURL(variable, url, "tenancy: verify")
	if err != nil {
		return err
	}
	start := time.Now()
	r, err := live.Verify(ctx, cfg, progress)
	clear()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %s on %s:%d, in %s\n", r, cfg.Database, cfg.Host, cfg.Port, script.Rounded(time.Since(start)))
	if !r.OK() {
		return errors.New("the verification does not hold")
	}
	return nil
}

// bar shows the progress on a terminal, and nothing elsewhere.
func bar(screen *os.File) (progress live.Progress, clear func()) {
	if !term.IsTerminal(int(screen.Fd())) {
		return func(int, int, string) {}, func() {}
	}
	b := progressbar.NewOptions(-1, progressbar.OptionSetWriter(screen), progressbar.OptionSetWidth(20),
		progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false))
	return func(done, total int, what string) {
		b.ChangeMax(total)
		b.Describe(what)
		_ = b.Set(done)
	}, func() { _ = b.Clear() }
}
