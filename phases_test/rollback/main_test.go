// Package rollback_test is the checklist's "Rollback Procedures": from any phase back to
// the one before, and all the way to the legacy database and up again, while an
// application writes. The rollbacks of phases 1 to 3 by themselves are tested beside
// their migrations.
package rollback_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// A walk takes seconds: unless somebody asks for more, there are two, and short ones.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := os.Getenv("RAPID_CHECKS") != ""
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	few := map[string]string{"rapid.checks": "2", "rapid.steps": "15"}
	if asked {
		few = map[string]string{"rapid.shrinktime": "3m"}
	}
	for name, value := range few {
		if err := flag.Set(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
