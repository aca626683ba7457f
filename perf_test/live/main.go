// Command live runs every phase and every rollback on a database of real size while
// an application goes on using it, and reports what its users notice: the old
// application's statements up to phase 3, the new one's in phase 4, the old one's on
// the way back. It ends with 0 when nobody noticed more than the budgets allow.
//
//	make live ROWS=1000000
//
// The server is one of its own that writes to the disk as production does, or the one
// that TEST_DATABASE_URL names.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// scaleVariable multiplies every budget, as it does for the benchmarks.
const scaleVariable = "PERF_BUDGET_SCALE"

// production is what the tests' settings leave out to save time.
var production = []string{"fsync=on", "synchronous_commit=on", "full_page_writes=on", "wal_level=replica",
	"max_wal_size=4GB", "shared_buffers=1GB"}

func main() {
	c := config{}
	flag.IntVar(&c.Rows, "rows", 100_000, "how many agents, documents and messages there are, each")
	flag.IntVar(&c.Organizations, "organizations", 0, "how many organizations they are spread over; one for a thousand rows unless given")
	flag.Float64Var(&c.Rate, "rate", 100, "requests per second")
	flag.DurationVar(&c.Idle, "idle", 20*time.Second, "how long the application is watched alone")
	flag.DurationVar(&c.Step, "step", 5*time.Second, "how long the application is watched from the beginning of a file on, at least")
	out := flag.String("out", "build/report/live.json", "where the report goes")
	flag.Parse()
	if flag.NArg() > 0 {
		fail(fmt.Errorf("unknown arguments: %s", strings.Join(flag.Args(), " ")))
	}
	if c.Organizations == 0 {
		c.Organizations = max(c.Rows/1000, 10)
	}
	scale := 1.0
	if text := os.Getenv(scaleVariable); text != "" {
		var err error
		if scale, err = strconv.ParseFloat(text, 64); err != nil || scale <= 0 {
			fail(fmt.Errorf("%s=%s: want a positive number", scaleVariable, text))
		}
	}
	if err := c.check(); err != nil {
		fail(err)
	}

	began := time.Now()
	c.Say = func(text string) { fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(began).Seconds(), text) }
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := measure(ctx, c, scale)
	if report != nil {
		fmt.Print("\n", report, "\n")
		err = errors.Join(err, write(report, *out))
		if len(report.Over) > 0 {
			err = errors.Join(err, errors.New("over budget:\n  "+strings.Join(report.Over, "\n  ")))
		}
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// check refuses what would measure nothing.
func (c config) check() error {
	switch {
	case c.Rows < 1000:
		return fmt.Errorf("%d rows: want 1000 or more", c.Rows)
	case c.Organizations < 10 || c.Organizations > c.Rows/100:
		return fmt.Errorf("%d organizations: want 10 or more, and a hundred rows for each", c.Organizations)
	case c.Rate <= 0:
		return fmt.Errorf("%g requests per second: want some", c.Rate)
	case c.Idle <= 0:
		return fmt.Errorf("idle for %s: without a baseline there is nothing to compare with", c.Idle)
	}
	return nil
}

// measure makes the database, once, and runs on copies of it.
func measure(ctx context.Context, c config, scale float64) (_ *Report, err error) {
	create := pgtest.Create
	server, err := pgtest.Start(ctx, production...)
	switch {
	case err == nil:
		create = server.Create
	case !errors.Is(err, pgtest.ErrGiven):
		return nil, err
	}
	c.Say(fmt.Sprintf("making the legacy database: %d rows each of agents, documents and messages", c.Rows))
	legacy := func() (*pgtest.DB, error) { return create(ctx, schema.Legacy, c.seeds()...) }
	backfill, err := compareBackfill(ctx, c, legacy)
	if err != nil {
		return nil, err
	}
	db, err := legacy()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close(context.WithoutCancel(ctx))) }()
	report, err := run(ctx, c, db)
	if report != nil {
		report.Backfill = backfill
		report.judge(scale)
	}
	return report, err
}

// write writes the report as JSON.
func write(r *Report, name string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(name), 0o755)
	}
	if err == nil {
		err = os.WriteFile(name, append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
