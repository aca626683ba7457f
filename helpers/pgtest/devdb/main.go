// Command devdb makes a database to look around in: migrated to a phase, with the
// fixture world in it. It prints the database's URLs, and drops it when interrupted.
//
//	go run ./helpers/pgtest/devdb -phase phase1
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

func main() {
	phase := flag.String("phase", schema.Phase1.String(), "the state of the database: legacy or phase1")
	flag.Parse()
	if err := run(*phase); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(name string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	phase, err := schema.ParsePhase(name)
	if err != nil {
		return err
	}
	db, err := pgtest.Create(ctx, phase, fixtures.World()...)
	if err != nil {
		return err
	}
	fmt.Printf("as the owner:             psql '%s'\n", db.URL(pgtest.OwnerRole))
	fmt.Printf("as the API's login role:  psql '%s'\n", db.URL(pgtest.APIRole))
	fmt.Println("Interrupt to drop it.")
	<-ctx.Done()
	return db.Close(context.Background())
}
