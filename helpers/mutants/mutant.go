package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vital-health/tenancy/schema"
)

// mutant is a mistake in the migrations: a phase file that differs from ours in one
// thing, or that makes a mistake in its last statement.
type mutant struct {
	Phase     schema.Phase `json:"-"`
	ID        string       `json:"id"`    // "phase4 policy …: leave out of AND: …", the same from run to run
	Class     string       `json:"class"` // policy, function, trigger, constraint, index, column, privilege, view, partition, logic
	Operator  string       `json:"operator"`
	SQL       string       `json:"sql"` // what is wrong, for people
	statement string       // that makes the mistake once the phase is done; "" where the file itself has it
	file      string       // the phase file with the mistake in it
}

// after is a phase's file with a statement that runs once the phase is done. In databases of other tests, what it is about
// may not be there.
func after(file, statement string) string {
	return file + fmt.Sprintf(`
do $mutant$
begin
    execute $statement$%s$statement$;
exception when undefined_table or undefined_object or undefined_function or undefined_column then null;
end
$mutant$;
`, statement)
}

// folder writes the mutant's folder for SCHEMA_DIR.
func (m mutant) folder(dir string) error {
	f, err := schema.Migration(m.Phase)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, filepath.FromSlash(f.Path))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(m.file), 0o644)
}

// digest tells whether a mutant is the one that a result is of.
func (m mutant) digest() string { return fmt.Sprintf("%x", sha256.Sum256([]byte(m.file)))[:16] }
