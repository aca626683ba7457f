package golden_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/failing"
	"github.com/vital-health/tenancy/helpers/golden"
	"github.com/vital-health/tenancy/schema"
)

// check is what [golden.Check] fails a test with.
func check(t *testing.T, file, text string) []string {
	t.Helper()
	return failing.Test(t, func(t testing.TB) { golden.Check(t, file, text, "has changed.") })
}

// Setting the environment forbids parallel tests.
func TestCheck(t *testing.T) {
	t.Setenv(golden.UpdateVariable, "")
	report := filepath.Join(t.TempDir(), "report")
	t.Setenv(golden.ReportVariable, report)
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("a.txt", []byte("one\ntwo\n"), 0o644))

	require.Empty(t, check(t, "a.txt", "one\ntwo\n"))
	require.NoDirExists(t, report)

	said := check(t, "a.txt", "one\nthree\n")
	require.Equal(t, []string{"a.txt has changed.\n\n--- written down\n+++ found\n@@ -1,3 +1,3 @@\n one\n-two\n+three\n \n"}, said)
	left, err := os.ReadFile(filepath.Join(report, "a.txt.diff"))
	require.NoError(t, err)
	require.Equal(t, "- two\n+ three\n", string(left))

	require.NoError(t, os.WriteFile("b.txt", []byte("agents\n  one\n    - reads  Alice\n  two\n\nusers\n  Bob\n    - reads  Bob\n"), 0o644))
	require.NotEmpty(t, check(t, "b.txt", "agents\n  one\n    - reads  Alice\n    + reads  Bob\n  two\n\nusers\n  Bob\n"))
	left, err = os.ReadFile(filepath.Join(report, "b.txt.diff"))
	require.NoError(t, err)
	require.Equal(t, "  agents\n    one\n+     + reads  Bob\n  users\n    Bob\n-     - reads  Bob\n", string(left))

	said = check(t, "missing.txt", "one\n")
	require.Len(t, said, 1)
	require.Contains(t, said[0], "make golden writes the files that are missing")

	t.Setenv(golden.UpdateVariable, "1")
	require.Empty(t, check(t, "new/b.txt", "one\n"))
	t.Setenv(golden.UpdateVariable, "")
	require.Empty(t, check(t, "new/b.txt", "one\n"))
	require.NotEmpty(t, check(t, "new/b.txt", ""))
}

func TestDeclared(t *testing.T) {
	folder := t.TempDir()
	t.Setenv(schema.DirVariable, folder)
	require.Equal(t, filepath.Join("..", "..", "schema", "access", "phase1.txt"), golden.Declared(t, "access/phase1.txt"))
	own := filepath.Join(folder, "access", "phase1.txt")
	require.NoError(t, os.Mkdir(filepath.Dir(own), 0o755))
	require.NoError(t, os.WriteFile(own, nil, 0o644))
	require.Equal(t, own, golden.Declared(t, "access/phase1.txt"))
}
