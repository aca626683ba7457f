package main

import (
	"cmp"
	"os"
	"strings"

	"github.com/vital-health/tenancy/schema"
)

// stage is a part of the gate.
type stage struct {
	Name string
	make []string // arguments of make
	does string   // what it shows, for the table
	todo string   // what to do when it fails

	databases bool // it runs the migrations, and has nothing to say where they do not run
}

// alone is the command that runs the stage by itself.
func (s stage) alone() string {
	var words []string
	if folder := os.Getenv(schema.DirVariable); folder != "" {
		words = append(words, schema.DirVariable+"="+folder)
	}
	words = append(words, "make")
	for _, word := range s.make {
		if name, value, ok := strings.Cut(word, "="); ok && strings.ContainsAny(value, " |^()") {
			word = name + "='" + value + "'"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// ownStages are the tests that have a stage of their own.
const ownStages = "^(TestMigrationLocks|TestPhase4Matrix|TestPhase3Plans)"

// stages are those of the gate. What is said of tests to run and of packages is about the stage of tests.
func stages(run, packages string) []stage {
	tests := []string{"test", "SKIP=" + ownStages}
	if run != "" {
		tests = append(tests, "RUN="+run)
	}
	return []stage{
		{Name: "lint", make: []string{"lint-code"}, does: "the project's own code",
			todo: "The message says what to run."},
		{Name: "review", make: []string{"review"}, does: "the SQL, as it is written",
			todo: "Change the line, or, if it is meant, give the reason in helpers/review/exceptions.txt."},
		{Name: "locks", make: []string{"test", "PKG=./phases_test/locks", "RUN=TestMigrationLocks"}, does: "the files run, and lock what they say",
			todo: "Lock less, or for a moment (CONTRIBUTING.md, Add a migration); or declare it: `make golden` writes schema/locks.", databases: true},
		{Name: "access", make: []string{"test", "PKG=./rls_test", "RUN=TestPhase4Matrix"}, does: "who gains and who loses access",
			todo: "+ is what somebody may do and may not by what is declared, - the other way round. " +
				"If it is meant, `make golden` writes it down, for the review to see.", databases: true},
		{Name: "plans", make: []string{"test", "PKG=./perf_test", "RUN=TestPhase3Plans"}, does: "how queries are planned",
			todo: "- is how the query was planned, + how it is now. If it is meant, `make golden` writes it down.", databases: true},
		{Name: "tests", make: append(tests, "PKG="+cmp.Or(packages, "./rls_test ./...")), does: "everything else that must hold",
			todo: "Each line names what must hold and does not. rls_test says who sees what; the log has the rest.", databases: true},
		{Name: "budgets", make: []string{"bench", "ARGS=-benchtime=0.2s"}, does: "how fast it is",
			todo: "`make bench-compare BASE=main` shows what has become slower.", databases: true},
	}
}
