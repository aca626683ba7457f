package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vital-health/tenancy/helpers/document"
	"github.com/vital-health/tenancy/schema"
)

// table is who may do what to its rows after phase 4, as rls_test has compared it with the database.
type table struct {
	Name string         `json:"name"`
	Rows []document.Row `json:"rows"`
}

// change is what a phase gives (+) and takes (-).
type change struct {
	Phase string `json:"phase"`
	Text  string `json:"text"`
}

// access reads the access matrix.
func access(root string) (all []table, err error) {
	files, err := filepath.Glob(filepath.Join(root, "rls_test", "testdata", "matrix", "*.txt"))
	if err == nil && len(files) == 0 {
		err = errors.New("there is no access matrix in rls_test/testdata/matrix: run make golden")
	}
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		rows, err := document.ReadMatrix(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, table{strings.TrimSuffix(filepath.Base(name), ".txt"), rows})
	}
	return all, nil
}

// changes reads what each phase gives and takes.
func changes() (all []change, err error) {
	for _, phase := range schema.Phases() {
		text, err := schema.Access(phase)
		if err != nil {
			return nil, err
		}
		var lines []string
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		all = append(all, change{phase.String(), strings.TrimSpace(strings.Join(lines, ""))})
	}
	return all, nil
}
