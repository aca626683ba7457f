// Command run rehearses the deployment on a database: see the package rehearsal.
//
//	URL=postgres://owner@staging/vital go run ./helpers/rehearsal/run -log rehearsal
//
// It ends with 0 when all steps are done.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vital-health/tenancy/helpers/rehearsal"
)

func main() {
	r := rehearsal.Rehearsal{URL: os.Getenv("URL"), Verify: os.Getenv("VERIFY_DATABASE_URL"), Check: os.Getenv("CHECK"), Switch: os.Getenv("SWITCH"), Out: os.Stdout}
	flag.StringVar(&r.Folder, "log", ".", "the folder for the backup and the logs")
	flag.DurationVar(&r.Patience, "patience", 5*time.Minute, "for how long to try again what waits in vain for a lock")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := r.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
