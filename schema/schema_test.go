package schema_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/schema"
)

func TestParsePhase(t *testing.T) {
	t.Parallel()
	for p := schema.Legacy; p <= schema.Phase4; p++ {
		parsed, err := schema.ParsePhase(p.String())
		require.NoError(t, err)
		require.Equal(t, p, parsed)
	}
	_, err := schema.ParsePhase("phase5")
	require.EqualError(t, err, `unknown phase "phase5": want one of legacy, phase1, phase2, phase3, phase4`)
}

// Setting the environment forbids parallel tests.
func TestDir(t *testing.T) {
	t.Setenv(schema.DirVariable, "")
	const migration = "migrations/20251126_001_hierarchical_multitenancy_phase1.sql"
	embedded, err := schema.Migration(schema.Phase1)
	require.NoError(t, err)
	hash, err := schema.Hash(schema.Phase1)
	require.NoError(t, err)

	overlay := func(t *testing.T, files ...string) string {
		t.Helper()
		dir := t.TempDir()
		for _, name := range files {
			name = filepath.Join(dir, name)
			require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
			require.NoError(t, os.WriteFile(name, []byte("select 1;"), 0o644))
		}
		t.Setenv(schema.DirVariable, dir)
		return dir
	}
	t.Run("a file that is in it is used, and named in errors", func(t *testing.T) {
		dir := overlay(t, migration)
		f, err := schema.Migration(schema.Phase1)
		require.NoError(t, err)
		require.Equal(t, schema.File{Path: migration, Origin: filepath.Join(dir, migration), SQL: "select 1;"}, f)
	})
	t.Run("a file that is not in it is the embedded one", func(t *testing.T) {
		overlay(t, "cluster/roles.sql")
		f, err := schema.Migration(schema.Phase1)
		require.NoError(t, err)
		require.Equal(t, embedded, f)
	})
	t.Run("what is declared beside a migration is the folder's, too", func(t *testing.T) {
		ours, err := schema.Access(schema.Phase4)
		require.NoError(t, err)
		first, _, _ := strings.Cut(ours, ",")
		require.Equal(t, "# Who may do what to which row after phase4", first)
		overlay(t, migration, "access/phase4.txt")
		theirs, err := schema.Access(schema.Phase4)
		require.NoError(t, err)
		require.Equal(t, "select 1;", theirs)
	})
	t.Run("another text is another hash", func(t *testing.T) {
		overlay(t, migration)
		other, err := schema.Hash(schema.Phase1)
		require.NoError(t, err)
		require.NotEqual(t, hash, other)
	})
	for name, test := range map[string]struct {
		dir  func(*testing.T) string
		want string
	}{
		"a misspelt file is refused": {func(t *testing.T) string { return overlay(t, migration, "migrations/phase1.sql") },
			"migrations/phase1.sql is none of the files that run"},
		"a file with another ending is refused beside them": {func(t *testing.T) string { return overlay(t, migration, migration+".bak") },
			"phase1.sql.bak is none of the files that run"},
		"a file in capitals is refused": {func(t *testing.T) string { return overlay(t, migration, "PHASE1.SQL") },
			"PHASE1.SQL is none of the files that run"},
		"a misspelt declaration is refused": {func(t *testing.T) string { return overlay(t, migration, "access/phase1.txt", "locks/phase01.txt") },
			"locks/phase01.txt is none of the files that run"},
		"a link to a folder is refused": {func(t *testing.T) string {
			dir := overlay(t, migration)
			require.NoError(t, os.Symlink(t.TempDir(), filepath.Join(dir, "rollbacks")))
			return dir
		}, "rollbacks is a link to a folder"},
		"a folder with none of the files is refused": {func(t *testing.T) string { return overlay(t, "README.md") },
			"holds none of the files that run"},
		"a folder that is not there is refused": {func(t *testing.T) string { return filepath.Join(t.TempDir(), "missing") },
			"no such file or directory"},
		"a relative path is refused": {func(*testing.T) string { return "schema" },
			"must be given as an absolute path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(schema.DirVariable, test.dir(t))
			_, err := schema.Migration(schema.Phase1)
			require.ErrorContains(t, err, test.want)
		})
	}
}
