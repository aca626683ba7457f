package main

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"

	"github.com/vital-health/tenancy/helpers/results"
)

var asTest = regexp.MustCompile(`^(Test|Fuzz)([^a-z]|$)`) // what is fuzzed runs its examples, as any test

// declared are the tests that go test ./... runs in the module with that root, without their parts, by "package name". One of
// which no result speaks was left out, and with it what it would have found.
func declared(root string) (tests []string, err error) {
	files, err := results.TestFiles(root)
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		runs, err := build.Default.MatchFile(filepath.Split(path))
		if err != nil {
			return nil, err
		}
		if !runs {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv == nil && asTest.MatchString(f.Name.Name) && f.Name.Name != "TestMain" {
				tests = append(tests, filepath.ToSlash(folder)+" "+f.Name.Name)
			}
		}
	}
	return tests, nil
}
