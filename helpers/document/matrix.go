package document

import (
	"fmt"
	"regexp"
	"strings"
)

// Row is one of a table, and who may do what to it.
type Row struct {
	Name   string  `json:"name"`
	Of     string  `json:"of"` // whose it is, and who it is shared with
	May    []Grant `json:"may"`
	Nobody string  `json:"nobody,omitempty"` // why
}

// Grant is what somebody may do to a row.
type Grant struct {
	User  string `json:"user"`
	Verbs string `json:"verbs"` // "reads, changes, removes"
	Why   string `json:"why"`
}

// Grant is what the user with that address may do; nil is nothing.
func (r Row) Grant(email string) *Grant {
	for i := range r.May {
		if r.May[i].User == email {
			return &r.May[i]
		}
	}
	return nil
}

var (
	rowLine    = regexp.MustCompile(`^"(.*)"(?: of (.*))?$`)
	grantLine  = regexp.MustCompile(`^    (\S+@\S+) +(\w+(?:, \w+)*)  +(.+)$`)
	nobodyLine = regexp.MustCompile(`^    nobody: (.+)$`)
)

// ReadMatrix reads an access matrix of rls_test/testdata.
func ReadMatrix(text string) (rows []Row, err error) {
	for i, line := range strings.Split(text, "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if found := rowLine.FindStringSubmatch(line); found != nil {
			rows = append(rows, Row{Name: found[1], Of: found[2], May: []Grant{}})
			continue
		}
		if len(rows) == 0 {
			return nil, fmt.Errorf("line %d of the access matrix: want a row's name first", i+1)
		}
		last := &rows[len(rows)-1]
		if found := grantLine.FindStringSubmatch(line); found != nil {
			last.May = append(last.May, Grant{found[1], found[2], strings.TrimSpace(found[3])})
		} else if found := nobodyLine.FindStringSubmatch(line); found != nil {
			last.Nobody = found[1]
		} else {
			return nil, fmt.Errorf("line %d of the access matrix is neither a row, nor who may do what to it: %s", i+1, line)
		}
	}
	return rows, nil
}
