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
	phase := flag.String("phase", schema.Phase4.String(), "the state of the database: legacy, phase1, phase2, phase3 or phase4")
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
	for _, role := range []struct{ name, who string }{
		{pgtest.OwnerRole, "the owner of the tables, who runs the migrations"},
		{pgtest.ServiceRole, "the backend: SET ROLE service_role"},
		{pgtest.APIRole, "the API: SET ROLE anon, or authenticated with claims"},
	} {
		fmt.Printf("psql '%s'    # %s\n", db.URL(role.name), role.who)
	}
	fmt.Printf(`
To be %s, as the API:
    set role authenticated; set request.jwt.claims = '{"sub": "%s", "role": "authenticated"}';

`, fixtures.Alice.Email, fixtures.Alice.ID)
	fmt.Println("Interrupt to drop it.")
	<-ctx.Done()
	return db.Close(context.Background())
}
