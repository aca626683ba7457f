// Package rls_test is the checklist's "Phase 4: Update RLS Policies (Security
// Critical)": who reads and changes what, and what somebody tries who may not.
//
// The rules are written down once more in this package, in Go and without a look at
// the policies: see world. What each user of the Novartis/Pfizer world reads of each
// table is compared with it, row by row, and every difference is a sentence that
// names who reads what of whom. TestPhase4Mutants breaks the database in every way
// that it knows, and demands the sentence.
package rls_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// Unless somebody asks for more, few worlds are made up.
func TestMain(m *testing.M) {
	if os.Getenv("RAPID_CHECKS") == "" {
		if err := flag.Set("rapid.checks", "15"); err != nil { // the command line comes later
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if n := decisions.Load(); n > 0 {
		fmt.Printf("decisions: %d compared, %d mismatches\n", n, mismatches.Load())
	}
	os.Exit(code)
}
