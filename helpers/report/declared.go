package main

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var asTest = regexp.MustCompile(`^(Test|Fuzz)([^a-z]|$)`) // what is fuzzed runs its examples, as any test

// declared are the tests that go test ./... runs in the module with that root, without their parts, by "package name". One of
// which no result speaks was left out, and with it what it would have found.
func declared(root string) (tests []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, err := os.Stat(filepath.Join(path, "go.mod"))
			if path != root && (err == nil || strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_") || d.Name() == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		if runs, err := build.Default.MatchFile(filepath.Split(path)); err != nil || !runs {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv == nil && asTest.MatchString(f.Name.Name) && f.Name.Name != "TestMain" {
				tests = append(tests, filepath.ToSlash(folder)+" "+f.Name.Name)
			}
		}
		return nil
	})
	return tests, err
}
