package results

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Digest identifies the tests of the project with that root, and what they read besides the server: the folders of its
// packages with all that is in them. What people and runs leave there is no part of it: sign-offs and their evidence in docs/,
// what .gitignore names. Modules within are not this one.
func Digest(root string) (string, error) {
	sum := sha256.New()
	packages := map[string]bool{} // folders of a package, and those below
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if d.IsDir() {
			return enter(packages, path, name)
		}
		if name != "go.mod" && name != "go.sum" && !packages[filepath.Dir(path)] || left(name) {
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil {
			fmt.Fprintf(sum, "%s %d\n%s", name, len(text), text)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("what the tests are of: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// TestFiles are the files with tests of the module with that root.
func TestFiles(root string) (files []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (d.Name() == "testdata" || other(path)):
			return fs.SkipDir
		case strings.HasSuffix(path, "_test.go"):
			files = append(files, path)
		}
		return nil
	})
	return files, err
}

// other says whether a folder is of another module, or of none.
func other(path string) bool {
	_, err := os.Stat(filepath.Join(path, "go.mod"))
	return err == nil || strings.HasPrefix(filepath.Base(path), ".")
}

// enter decides whether what is in a folder counts.
func enter(packages map[string]bool, path, name string) error {
	if name == "." {
		return nil
	}
	if other(path) || strings.HasSuffix(name, "testdata/rapid") {
		return fs.SkipDir
	}
	code, err := filepath.Glob(filepath.Join(path, "*.go"))
	packages[path] = packages[filepath.Dir(path)] || len(code) > 0
	return err
}

// left says whether people or runs leave such a file.
func left(name string) bool {
	extension := filepath.Ext(name)
	if strings.HasPrefix(name, "docs/") {
		return !slices.Contains([]string{".go", ".md", ".svg"}, extension)
	}
	return strings.HasPrefix(filepath.Base(name), ".") || slices.Contains([]string{".test", ".prof", ".out"}, extension)
}
