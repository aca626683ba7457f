// Package golden compares what tests found with what is written down, in files that people read and pull requests show.
// With UPDATE_GOLDEN=1 it writes them.
package golden

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pmezard/go-difflib/difflib"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/schema"
)

const (
	// UpdateVariable names the environment variable that has the files written.
	UpdateVariable = "UPDATE_GOLDEN"
	// ReportVariable names the one that holds a folder in which each difference is left as <file>.diff as well:
	// the lines that differ, below those under which they stand.
	ReportVariable = "GOLDEN_REPORT"
)

// Updating says whether files are to be written.
func Updating() bool { return os.Getenv(UpdateVariable) != "" }

// Check compares text with a file. says is the sentence that its name begins, when they differ: what that means, and
// what is to be done. The difference comes behind it: "-" is what is written down, "+" what was found.
func Check(t testing.TB, file, text, says string) {
	t.Helper()
	if Updating() {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err, "make golden writes the files that are missing")
	diff, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: difflib.SplitLines(string(want)), B: difflib.SplitLines(text), FromFile: "written down", ToFile: "found", Context: 6})
	require.NoError(t, err)
	if diff == "" {
		return
	}
	t.Errorf("%s %s\n\n%s", file, says, diff)
	if folder := os.Getenv(ReportVariable); folder != "" {
		name := strings.ReplaceAll(strings.TrimLeft(filepath.ToSlash(file), "./"), "/", "_") + ".diff"
		require.NoError(t, os.MkdirAll(folder, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(outline(string(want), text)), 0o644))
	}
}

// outline is the lines that differ, each below the lines under which it stands, those that are indented less: whose row of
// which table it is.
func outline(want, found string) string {
	a, b := strings.Split(want, "\n"), strings.Split(found, "\n")
	var text strings.Builder
	shown := map[string]bool{}
	write := func(sign string, lines []string, i int) {
		if strings.TrimSpace(lines[i]) == "" {
			return
		}
		var above []string
		for j, depth := i, indent(lines[i]); j >= 0 && depth > 0; j-- {
			if d := indent(lines[j]); strings.TrimSpace(lines[j]) != "" && d < depth {
				above, depth = append(above, lines[j]), d
			}
		}
		slices.Reverse(above)
		for n := range above {
			if path := strings.Join(above[:n+1], "\n"); !shown[path] {
				shown[path] = true
				text.WriteString("  " + above[n] + "\n")
			}
		}
		text.WriteString(sign + " " + lines[i] + "\n")
	}
	for _, op := range difflib.NewMatcher(a, b).GetOpCodes() {
		if op.Tag == 'e' {
			continue
		}
		for i := op.I1; i < op.I2; i++ {
			write("-", a, i)
		}
		for j := op.J1; j < op.J2; j++ {
			write("+", b, j)
		}
	}
	return text.String()
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// Declared is the file that says what a migration does besides its SQL: "access/phase1.txt" below SCHEMA_DIR if it is
// there, else below schema/ of this module.
func Declared(t testing.TB, path string) string {
	t.Helper()
	if folder := os.Getenv(schema.DirVariable); folder != "" {
		file := filepath.Join(folder, path)
		_, err := os.Stat(file)
		if err == nil {
			return file
		}
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	return filepath.Join(Module(t), "schema", path)
}

// Module is the folder of this module, relative to that of the test.
func Module(t testing.TB) string {
	t.Helper()
	for folder := "."; ; folder = filepath.Join(folder, "..") {
		if _, err := os.Stat(filepath.Join(folder, "schema", "schema.go")); err == nil {
			return folder
		}
		absolute, err := filepath.Abs(folder)
		require.NoError(t, err)
		require.NotEqual(t, filepath.Dir(absolute), absolute, errors.New("the test does not run in a folder of the module"))
	}
}
