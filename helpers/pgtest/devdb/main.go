// Command devdb makes a database to look around in: migrated to a phase, with the
// fixture world in it. It prints the database's URLs, and drops it when interrupted;
// or it opens psql as one of the world's people, or says why one of them may, or may
// not, do something to a row.
//
//	go run ./helpers/pgtest/devdb -phase phase1
//	go run ./helpers/pgtest/devdb -as alice@novartis.com
//	go run ./helpers/pgtest/devdb -as bob@pfizer.com -table agents -id 'Novartis RA Agent' -verb select
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/why"
	"github.com/vital-health/tenancy/schema"
)

func main() {
	phase := flag.String("phase", schema.Phase4.String(), "the state of the database: legacy, phase1, phase2, phase3 or phase4")
	as := flag.String("as", "", "open psql as this person: an address of fixtures/people.go, or anonymous")
	table := flag.String("table", "", "with -as and -id: say why the person may, or may not, do something to a row of this table")
	id := flag.String("id", "", "the row's id, or its name in fixtures")
	verb := flag.String("verb", string(why.Read), "what is done to the row: select, update or delete")
	flag.Parse()
	if err := run(*phase, *as, *table, *id, *verb); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(name, as, table, id, verb string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	phase, err := schema.ParsePhase(name)
	if err != nil {
		return err
	}
	user, err := person(as)
	if err != nil {
		return err
	}
	question := why.Question{User: user.ID, Table: table, ID: id}
	if ids := fixtures.IDs(id); len(ids) == 1 {
		question.ID = ids[0]
	}
	if question.Verb, err = why.ParseVerb(verb); err != nil {
		return err
	}
	if (table == "") != (id == "") || table != "" && as == "" {
		return errors.New("to ask why takes -as, -table and -id")
	}
	if as != "" && table == "" {
		// psql has the terminal, and an interrupt there is its own.
		ctx = context.Background()
	}

	db, err := pgtest.Create(ctx, phase, fixtures.World()...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close(context.WithoutCancel(ctx))) }()
	switch {
	case as == "":
		return wait(ctx, db)
	case table == "":
		return shell(db, as, user)
	default:
		return ask(ctx, db, question)
	}
}

// person is who has an address; nobody is anonymous.
func person(as string) (fixtures.User, error) {
	if as == "" || as == "anonymous" {
		return fixtures.User{}, nil
	}
	i := slices.IndexFunc(fixtures.Users, func(u fixtures.User) bool { return u.Email == as })
	if i < 0 {
		var emails []string
		for _, u := range fixtures.Users {
			emails = append(emails, u.Email)
		}
		return fixtures.User{}, fmt.Errorf("nobody has the address %s; there are anonymous, %s", as, strings.Join(emails, ", "))
	}
	return fixtures.Users[i], nil
}

// wait prints how to get there, until it is interrupted.
func wait(ctx context.Context, db *pgtest.DB) error {
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
	return nil
}

// shell is psql as somebody, who stands in the prompt.
func shell(db *pgtest.DB, as string, user fixtures.User) error {
	role, claims := "anon", map[string]string{"role": "anon"}
	if user.ID != "" {
		role, claims = "authenticated", map[string]string{"role": "authenticated", "sub": user.ID}
	}
	text, err := json.Marshal(claims)
	if err != nil {
		return err
	}
	psql := exec.Command("psql", "-q", "-v", "PROMPT1="+as+" %R%x%# ", "-v", "PROMPT2="+as+" %R%x%# ", db.URL(pgtest.APIRole))
	psql.Stdin, psql.Stdout, psql.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The server unquotes a space or a backslash by the backslash before it.
	quote := strings.NewReplacer(`\`, `\\`, " ", `\ `)
	psql.Env = append(os.Environ(), fmt.Sprintf("PGOPTIONS=-c role=%s -c request.jwt.claims=%s", role, quote.Replace(string(text))))
	if err := psql.Run(); err != nil {
		return fmt.Errorf("run psql, PostgreSQL's client: %w", err)
	}
	return nil
}

// ask prints why.
func ask(ctx context.Context, db *pgtest.DB, q why.Question) error {
	owner, err := pgx.Connect(ctx, db.URL(pgtest.OwnerRole))
	if err != nil {
		return err
	}
	defer owner.Close(ctx)
	api, err := pgx.Connect(ctx, db.URL(pgtest.APIRole))
	if err != nil {
		return err
	}
	defer api.Close(ctx)
	answer, err := why.Ask(ctx, owner, api, q)
	if err != nil {
		return err
	}
	fmt.Print(answer)
	return nil
}
