package results

import (
	"regexp"
	"slices"
	"strings"
)

var (
	frame     = regexp.MustCompile(`^\s*(=== |--- (FAIL|PASS|SKIP)|FAIL\b|ok\b|PASS\b|exit status)`)
	place     = regexp.MustCompile(`^\s+\w+_test\.go:\d+: ?`)
	testified = regexp.MustCompile(`^\s*\t(Error Trace|Error|Test|Messages):\s*\t?(.*)$`)
)

// message is what a test said, without what is about Go.
func message(output string) string {
	var lines []string
	fields := map[string][]string{} // of testify's
	field := ""
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, " \n")
		if frame.MatchString(line) {
			continue
		}
		if found := testified.FindStringSubmatch(line); found != nil {
			field = found[1]
			fields[field] = append(fields[field], found[2])
			continue
		}
		if place.MatchString(line) {
			field, line = "", place.ReplaceAllString(line, "")
		}
		if field != "" {
			fields[field] = append(fields[field], strings.TrimSpace(line))
			continue
		}
		lines = append(lines, line)
	}
	for _, name := range []string{"Messages", "Error"} {
		lines = append(lines, fields[name]...)
	}
	return strings.Trim(unindented(lines), "\n")
}

// unindented takes from lines the indentation that all have, after the first.
func unindented(lines []string) string {
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.TrimSpace(line) == "" })
	common := -1
	for i, line := range lines {
		if depth := len(line) - len(strings.TrimLeft(line, " \t")); i > 0 && (common < 0 || depth < common) {
			common = depth
		}
	}
	for i, line := range lines {
		if i > 0 {
			lines[i] = line[common:]
		}
	}
	return strings.Join(lines, "\n")
}
