package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vital-health/tenancy/schema"
)

// table is who may do what to its rows after phase 4, as rls_test has compared it with the database.
type table struct {
	Name string `json:"name"`
	Rows []row  `json:"rows"`
}

type row struct {
	Name   string  `json:"name"`
	Of     string  `json:"of"` // whose it is, and who it is shared with
	May    []grant `json:"may"`
	Nobody string  `json:"nobody,omitempty"` // why
}

type grant struct {
	User  string `json:"user"`
	Verbs string `json:"verbs"` // "reads, changes, removes"
	Why   string `json:"why"`
}

// change is what a phase gives (+) and takes (-).
type change struct {
	Phase string `json:"phase"`
	Text  string `json:"text"`
}

var (
	rowLine    = regexp.MustCompile(`^"(.*)"(?: of (.*))?$`)
	grantLine  = regexp.MustCompile(`^    (\S+@\S+) +(\w+(?:, \w+)*)  +(.+)$`)
	nobodyLine = regexp.MustCompile(`^    nobody: (.+)$`)
)

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
		t := table{Name: strings.TrimSuffix(filepath.Base(name), ".txt")}
		for i, line := range strings.Split(string(text), "\n") {
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if found := rowLine.FindStringSubmatch(line); found != nil {
				t.Rows = append(t.Rows, row{Name: found[1], Of: found[2], May: []grant{}})
				continue
			}
			if len(t.Rows) == 0 {
				return nil, fmt.Errorf("%s:%d: want a row's name first", name, i+1)
			}
			last := &t.Rows[len(t.Rows)-1]
			if found := grantLine.FindStringSubmatch(line); found != nil {
				last.May = append(last.May, grant{found[1], found[2], strings.TrimSpace(found[3])})
			} else if found := nobodyLine.FindStringSubmatch(line); found != nil {
				last.Nobody = found[1]
			} else {
				return nil, fmt.Errorf("%s:%d: this is neither a row, nor who may do what to it: %s", name, i+1, line)
			}
		}
		all = append(all, t)
	}
	return all, nil
}

// changes reads what each phase gives and takes.
func changes(root string) (all []change, err error) {
	for _, phase := range schema.Phases() {
		file := filepath.Join("access", phase.String()+".txt")
		text, err := os.ReadFile(filepath.Join(os.Getenv(schema.DirVariable), file))
		if errors.Is(err, fs.ErrNotExist) || os.Getenv(schema.DirVariable) == "" {
			text, err = os.ReadFile(filepath.Join(root, "schema", file))
		}
		if err != nil {
			return nil, err
		}
		var lines []string
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		all = append(all, change{phase.String(), strings.TrimSpace(strings.Join(lines, ""))})
	}
	return all, nil
}
