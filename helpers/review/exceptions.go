package main

import (
	"fmt"
	"strings"

	"github.com/vital-health/tenancy/helpers/sarif"
)

// exception is a finding that is meant.
type exception struct {
	rule, file, words, reason string
	line                      int
}

type exceptions []exception

// parseExceptions reads lines of four fields, with | between them: the rule, the end of the file's name, words of the
// statement, and the reason.
func parseExceptions(text string) (all exceptions, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "|")
		if len(fields) != 4 {
			return nil, fmt.Errorf("exceptions.txt:%d: want rule | file | words of the statement | reason", n)
		}
		for i := range fields {
			if fields[i] = strings.TrimSpace(fields[i]); fields[i] == "" {
				return nil, fmt.Errorf("exceptions.txt:%d: every field must say something", n)
			}
		}
		all = append(all, exception{fields[0], fields[1], fields[2], fields[3], n})
	}
	return all, nil
}

// apply leaves out what is meant. An exception that nothing needs is an error, if complete says that these are the files
// that it was written for.
func (e exceptions) apply(found []sarif.Finding, statements map[string][]statement, complete bool) (rest []sarif.Finding, err error) {
	used := make([]bool, len(e))
next:
	for _, f := range found {
		sql := statementAt(statements[f.File], f.Line)
		for i, x := range e {
			if x.rule == f.Rule && strings.HasSuffix(f.File, x.file) && strings.Contains(sql, x.words) {
				used[i] = true
				continue next
			}
		}
		rest = append(rest, f)
	}
	for i, x := range e {
		if complete && !used[i] {
			return nil, fmt.Errorf("exceptions.txt:%d: nothing breaks the rule %s there any more: take the exception out", x.line, x.rule)
		}
	}
	return rest, nil
}

func statementAt(all []statement, line int) (sql string) {
	for _, s := range all {
		if s.Line <= line {
			sql = s.SQL
		}
	}
	return sql
}
