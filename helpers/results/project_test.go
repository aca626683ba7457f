package results

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDigest(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	}
	digest := func() string {
		t.Helper()
		sum, err := Digest(root)
		require.NoError(t, err)
		require.Len(t, sum, 64)
		return sum
	}
	for _, name := range []string{"go.mod", "schema/schema.go", "docs/docs_test.go", "rls_test/a_test.go"} {
		write(name, "package x")
	}
	for _, name := range []string{"go.mod", "go.sum", "schema/schema.go", "schema/migrations/a.sql", "docs/schema.md", "rls_test/a_test.go", "rls_test/testdata/matrix/a.txt"} {
		before := digest()
		write(name, "another")
		require.NotEqual(t, before, digest(), name)
	}
	write("helpers/report/go.mod", "module")
	before := digest()
	for _, name := range []string{"README.md", "helpers/report/a.go", "docs/sign-off.csv", "docs/evidence/bench.txt", "build/report/a.json", "rehearsal/phase2.log",
		".git/config", "rls_test/rls_test.test", "rls_test/testdata/rapid/a.fail"} {
		write(name, "something")
		require.Equal(t, before, digest(), name)
	}
	require.NoError(t, os.Rename(filepath.Join(root, "rls_test/a_test.go"), filepath.Join(root, "rls_test/b_test.go")))
	require.NotEqual(t, before, digest(), "another name")
	_, err := Digest(filepath.Join(root, "nowhere"))
	require.ErrorContains(t, err, "what the tests are of: ")
}

func TestTestFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, name := range []string{"go.mod", "a/a_test.go", "a/b/b_test.go", "a/b/b.go", "a/testdata/c_test.go", ".git/d_test.go", "report/go.mod", "report/e_test.go"} {
		name = filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, nil, 0o644))
	}
	files, err := TestFiles(root)
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(root, "a/a_test.go"), filepath.Join(root, "a/b/b_test.go")}, files)
}
