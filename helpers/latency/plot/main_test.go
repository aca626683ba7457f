package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	t.Parallel()
	t.Run("what a benchmark wrote becomes a page", func(t *testing.T) {
		t.Parallel()
		out := t.TempDir()
		page, err := run([]string{"../testdata/made_up.txt"}, out)
		require.NoError(t, err)
		require.Equal(t, filepath.Join(out, "index.html"), page)
		require.FileExists(t, page)
		require.FileExists(t, filepath.Join(out, "count-agents.svg"))
	})
	t.Run("a file that is not there is what make bench writes", func(t *testing.T) {
		t.Parallel()
		_, err := run([]string{"none.txt"}, t.TempDir())
		require.ErrorContains(t, err, "none.txt: no such file or directory: make bench writes it")
	})
	t.Run("one file, no more and no less", func(t *testing.T) {
		t.Parallel()
		_, err := run(nil, t.TempDir())
		require.ErrorContains(t, err, "0 files: want one")
	})
}
