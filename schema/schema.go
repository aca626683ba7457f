// Package schema is what ships to production: the SQL files of the hierarchical
// multi-tenancy rollout, embedded, in the order in which they run.
//
// The set of files is closed: every name below is known here, and a folder given
// in SCHEMA_DIR may replace any of them (it is laid out like this one) but may
// hold no other file in their folders, and no other *.sql file anywhere, so that a
// misspelt name is an error and never a file that silently does not run. What is
// declared beside them, in access and locks, may be there, too.
package schema

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Phase is a state of the database: [Legacy] is production before the rollout,
// Phase1 … Phase4 are the checklist's phases, each one including those before it.
type Phase int

// The phases in order. A [Phase]'s migration takes the database from the phase
// before it; its rollback takes it back there.
const (
	Legacy Phase = iota
	Phase1       // expand: columns, enums, keep-in-step triggers
	Phase2       // backfill: hierarchy, slugs, owners, scopes
	Phase3       // contract: constraints, indexes, functions, statistics
	Phase4       // row level security and audit
)

// Phases lists the phases that have a migration, in order.
func Phases() []Phase { return []Phase{Phase1, Phase2, Phase3, Phase4} }

// String returns "legacy", "phase1", … "phase4".
func (p Phase) String() string {
	if p == Legacy {
		return "legacy"
	}
	return fmt.Sprintf("phase%d", int(p))
}

// ParsePhase is the inverse of [Phase.String].
func ParsePhase(s string) (Phase, error) {
	for p := Legacy; p <= Phase4; p++ {
		if s == p.String() {
			return p, nil
		}
	}
	return Legacy, fmt.Errorf("unknown phase %q: want one of legacy, phase1, phase2, phase3, phase4", s)
}

// DirVariable names the environment variable that holds a folder laid out like
// schema/, whose files are used instead of the embedded ones of the same name.
const DirVariable = "SCHEMA_DIR"

// File is one SQL file.
type File struct {
	Path   string // relative to schema/, with forward slashes
	Origin string // where its text came from, for error messages: "schema/<path>", or the path below SCHEMA_DIR
	SQL    string
}

//go:embed cluster/*.sql legacy/*.sql migrations/*.sql rollbacks/*.sql verify/*.sql ops/*.sql
var embedded embed.FS

//go:embed access/*.txt locks/*.txt
var declared embed.FS

const (
	rolesPath    = "cluster/roles.sql"
	baselinePath = "legacy/baseline.sql"
)

func migrationPath(p Phase) string {
	return fmt.Sprintf("migrations/20251126_%03d_hierarchical_multitenancy_phase%d.sql", int(p), int(p))
}

func rollbackPath(p Phase) string {
	return fmt.Sprintf("rollbacks/20251126_%03d_hierarchical_multitenancy_phase%d_rollback.sql", int(p), int(p))
}

// Roles returns the API roles' file, the only one that touches roles. Roles are
// cluster-wide: it is idempotent and runs once per server, not per database.
func Roles() (File, error) { return read(rolesPath) }

// Baseline returns the stand-in for the production database before phase 1.
func Baseline() (File, error) { return read(baselinePath) }

// Migration returns the file that takes the database from the phase before p to p.
func Migration(p Phase) (File, error) {
	if p < Phase1 || p > Phase4 {
		return File{}, fmt.Errorf("%s has no migration: want phase1 … phase4", p)
	}
	return read(migrationPath(p))
}

// Rollback returns the file that takes the database from p to the phase before it.
func Rollback(p Phase) (File, error) {
	if p < Phase1 || p > Phase4 {
		return File{}, fmt.Errorf("%s has no rollback: want phase1 … phase4", p)
	}
	return read(rollbackPath(p))
}

// Passage is the way between two neighbouring phases: up by the migration of Phase, or
// down by its rollback.
type Passage struct {
	Phase Phase
	Down  bool
}

// Journey returns all passages, from the legacy database to the secured one and back.
func Journey() (all []Passage) {
	for _, phase := range Phases() {
		all = append(all, Passage{Phase: phase})
	}
	for i := range all {
		all = append(all, all[len(Phases())-1-i].Back())
	}
	return all
}

// String returns "phase1" … "phase4", or "rollback of phase4" … "rollback of phase1".
func (p Passage) String() string {
	if p.Down {
		return "rollback of " + p.Phase.String()
	}
	return p.Phase.String()
}

// Back is the same way in the other direction.
func (p Passage) Back() Passage { return Passage{p.Phase, !p.Down} }

// From is the phase at which p begins.
func (p Passage) From() Phase { return p.Back().To() }

// To is the phase at which p ends.
func (p Passage) To() Phase {
	if p.Down {
		return p.Phase - 1
	}
	return p.Phase
}

// File returns the file that p runs.
func (p Passage) File() (File, error) {
	if p.Down {
		return Rollback(p.Phase)
	}
	return Migration(p.Phase)
}

// Verification returns the read-only queries that say whether p is complete; their
// format is that of helpers/verify.
func Verification(p Phase) (File, error) { return read("verify/" + p.String() + ".sql") }

// Preflight returns the read-only queries that say whether the phases may run on a database; their format is that
// of helpers/verify.
func Preflight() (File, error) { return read("verify/preflight.sql") }

// Maintenance returns the file that makes maintenance mode, and the one that takes it away.
func Maintenance() (make, remove File, err error) {
	if make, err = read("ops/maintenance.sql"); err == nil {
		remove, err = read("ops/maintenance_removal.sql")
	}
	return make, remove, err
}

// Access returns what is declared beside p's migration: who gains (+) and who loses (-) what by it.
func Access(p Phase) (string, error) {
	f, err := readOf(declared, "access/"+p.String()+".txt")
	return f.SQL, err
}

// All returns every file, in the order of their names.
func All() ([]File, error) {
	var all []File
	for _, name := range known(embedded) {
		f, err := read(name)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// Digest identifies the text of all files that ship, as the hexadecimal SHA-256: what was found out about files of one
// digest says nothing about those of another.
func Digest() (string, error) {
	all, err := All()
	if err != nil {
		return "", err
	}
	return digest(all), nil
}

// Hash identifies the text of everything that leads from an empty database to p:
// the roles, the baseline and the migrations up to p. It is the hexadecimal
// SHA-256, so two databases built from files of the same hash are built alike.
func Hash(p Phase) (string, error) {
	files := []string{rolesPath, baselinePath}
	for _, q := range Phases() {
		if q <= p {
			files = append(files, migrationPath(q))
		}
	}
	var found []File
	for _, name := range files {
		f, err := read(name)
		if err != nil {
			return "", err
		}
		found = append(found, f)
	}
	return digest(found), nil
}

func digest(files []File) string {
	sum := sha256.New()
	for _, f := range files {
		fmt.Fprintf(sum, "%s %d\n%s", f.Path, len(f.SQL), f.SQL)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func read(file string) (File, error) { return readOf(embedded, file) }

// readOf returns the file of that name from SCHEMA_DIR if it is there, else the one of those that are embedded.
func readOf(files embed.FS, file string) (File, error) {
	if dir := os.Getenv(DirVariable); dir != "" {
		if err := checkOverlay(dir); err != nil {
			return File{}, fmt.Errorf("%s=%s: %w", DirVariable, dir, err)
		}
		name := filepath.Join(dir, filepath.FromSlash(file))
		sql, err := os.ReadFile(name)
		if err == nil {
			return File{Path: file, Origin: name, SQL: string(sql)}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return File{}, fmt.Errorf("read schema file: %w", err)
		}
	}
	sql, err := files.ReadFile(file)
	if err != nil {
		return File{}, fmt.Errorf("no schema file %q: known are %s", file, strings.Join(known(files), ", "))
	}
	return File{Path: file, Origin: "schema/" + file, SQL: string(sql)}, nil
}

// checkOverlay refuses a folder that would not do what its owner thinks: one
// that is missing, relative (go test changes the working directory), holds none
// of our files, or holds a file that looks like one and that nothing would run.
func checkOverlay(dir string) error {
	if !filepath.IsAbs(dir) {
		return errors.New("the folder must be given as an absolute path")
	}
	names, declarations, found := known(embedded), known(declared), 0
	folders := map[string]bool{}
	for _, name := range slices.Concat(names, declarations) {
		folders[path.Dir(name)] = true
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		// What a link leads to would not be walked.
		if info, err := os.Stat(name); err != nil || info.IsDir() {
			return errors.Join(fmt.Errorf("%s is a link to a folder, or to nothing: want files", rel), err)
		}
		switch {
		case slices.Contains(names, rel):
			found++
		case slices.Contains(declarations, rel):
		case strings.EqualFold(path.Ext(rel), ".sql") || folders[path.Dir(rel)]:
			return fmt.Errorf("%s is none of the files that run: %s", rel, strings.Join(names, ", "))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if found == 0 {
		return fmt.Errorf("holds none of the files that run: %s", strings.Join(names, ", "))
	}
	return nil
}

// known lists embedded files.
func known(files embed.FS) []string {
	var names []string
	// The embedded file system cannot fail to be walked.
	_ = fs.WalkDir(files, ".", func(name string, d fs.DirEntry, _ error) error {
		if !d.IsDir() {
			names = append(names, name)
		}
		return nil
	})
	return names
}
