// Package locks_test runs every migration and every rollback, and compares what it locks with what is declared beside
// the migrations, in schema/locks.
package locks_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/golden"
	"github.com/vital-health/tenancy/helpers/locks"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/sarif"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// TestMigrationLocks is about the locks that others notice. That they are not held for long is perf_test/live's to show; a lock
// on a table whose rows are read meanwhile is held longer the more rows there are, and stands out here.
func TestMigrationLocks(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), locks.Settings...)
	if errors.Is(err, pgtest.ErrGiven) {
		t.Logf("no lock is recorded, a server that is not the tests' own does not stop at commits: %s", err)
		db := pgtest.New(t, schema.Legacy, fixtures.World()...)
		for _, p := range schema.Journey() {
			f, err := p.File()
			require.NoError(t, err)
			conn, err := script.Connect(t.Context(), operator(t, db))
			require.NoError(t, err)
			if _, err := script.Run(t.Context(), conn, f); err != nil {
				t.Fatalf("%s does not run: %s", p, err)
			}
			require.NoError(t, conn.Close(t.Context()))
		}
		return
	}
	require.NoError(t, err)
	db := server.New(t, schema.Legacy, fixtures.World()...)
	super := db.Connect(t, "")
	recorded := map[string][]locks.Lock{}
	var findings []sarif.Finding
	for _, p := range schema.Journey() {
		f, err := p.File()
		require.NoError(t, err)
		all, err := locks.Record(t.Context(), operator(t, db), super, f)
		if err != nil {
			t.Fatalf("%s does not run: %s", p, err)
		}
		require.NotEmpty(t, all, "no file of the rollout locks nothing")
		recorded[p.String()] = all
		t.Run("what "+p.String()+" locks is declared", func(t *testing.T) { findings = append(findings, declared(t, p, f, all)...) })
	}
	if folder := os.Getenv(golden.ReportVariable); folder != "" {
		text, err := json.MarshalIndent(recorded, "", "  ")
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(folder, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(folder, "locks.json"), text, 0o644))
		require.NoError(t, sarif.Write(filepath.Join(folder, "locks.sarif"), "lock-review", findings))
	}
}

// operator is how the owner of the tables connects who means it: the rollback of phase 3 asks whether the history may go.
func operator(t *testing.T, db *pgtest.DB) *pgx.ConnConfig {
	t.Helper()
	cfg := db.Config(t, pgtest.OwnerRole)
	cfg.RuntimeParams["tenancy.discard_audit_logs"] = "yes"
	return cfg
}

// declared compares what a file locks with what is declared, and returns the difference.
func declared(t *testing.T, p schema.Passage, f schema.File, recorded []locks.Lock) (findings []sarif.Finding) {
	t.Helper()
	name := strings.TrimSuffix(filepath.Base(f.Path), ".sql")
	file := golden.Declared(t, "locks/"+name[strings.Index(name, "phase"):]+".txt")
	text := fmt.Sprintf("# What %s locks so that others notice, by the headings of its file. `make golden` writes this.\n"+
		"# Where all rows are read, the lock is held the longer the more there are, unless they are read before it is taken.\n%s",
		p, locks.Declare(recorded))
	says := "does not say what the file locks. If this is meant, `make golden` writes it down for the review.\n"
	if written, err := os.ReadFile(file); err == nil {
		declaration, err := locks.Parse(string(written))
		require.NoError(t, err, file)
		findings = declaration.Compare(f, recorded)
		for _, finding := range findings {
			says += "\n" + finding.String()
		}
	}
	golden.Check(t, file, text, says)
	return findings
}
