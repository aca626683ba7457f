// Command review reads the SQL of every migration and rollback, with PostgreSQL's own parser, the bodies of blocks and
// functions and what they put together for EXECUTE included, and with squawk; and says where it breaks a rule, with file
// and line. SCHEMA_DIR is honoured as everywhere.
//
//	review [-squawk squawk] [-sarif build/report/review.sarif]
//
// It is a module of its own, because the parser is large. What a statement locks, and what comes of it, is not asked
// here: phases_test/locks and the tests run it.
package main

import (
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/vital-health/tenancy/helpers/sarif"
	"github.com/vital-health/tenancy/schema"
)

// What breaks a rule and is right all the same, each with its reason.
//
//go:embed exceptions.txt
var exceptionsText string

func main() {
	squawk := flag.String("squawk", "squawk", "the `command` of squawk")
	report := flag.String("sarif", "", "a `file` to write the findings to as SARIF")
	flag.Parse()
	found, err := review(*squawk)
	if err == nil && *report != "" {
		err = sarif.Write(*report, "sql-review", found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "review:", err)
		os.Exit(2)
	}
	for _, f := range found {
		fmt.Println(f)
	}
	if len(found) > 0 {
		os.Exit(1)
	}
}

// review returns what is wrong with the files that run on production.
func review(squawk string) ([]sarif.Finding, error) {
	all, err := schema.All()
	if err != nil {
		return nil, err
	}
	exceptions, err := parseExceptions(exceptionsText)
	if err != nil {
		return nil, err
	}
	var ours []schema.File
	for _, f := range all {
		if strings.HasPrefix(f.Path, "migrations/") || strings.HasPrefix(f.Path, "rollbacks/") {
			ours = append(ours, f)
		}
	}
	parsed, statements := read(ours)
	squawked, err := runSquawk(squawk, ours)
	if err != nil {
		return nil, err
	}
	return exceptions.apply(append(parsed, squawked...), statements, os.Getenv(schema.DirVariable) == "")
}

// exitsWith says whether a command ended by itself with a status.
func exitsWith(err error, status int) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && exit.ExitCode() == status
}
