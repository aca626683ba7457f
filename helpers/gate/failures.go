package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
)

// attack begins the message of a test that tried something and got away with it.
const attack = "An attack succeeds: "

// failure is a test that failed, and what it said.
type failure struct {
	Package, Test, Message string
}

// String is the test's name as a sentence, and its message.
func (f failure) String() string {
	name := strings.ReplaceAll(strings.ReplaceAll(f.Test, "_", " "), "/", ": ")
	if name == "" {
		name = f.Package
	}
	if f.Message == "" {
		return name
	}
	return name + "\n" + f.Message
}

// failedTests reads what go test -json wrote: the tests that failed by themselves, and packages that did without a test.
// There are none where no test ran.
func failedTests(events string) (failed []failure, err error) {
	file, err := os.Open(events)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	type key struct{ pkg, test string }
	output := map[key]*strings.Builder{}
	var keys []key
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e struct{ Action, Package, Test, Output, ImportPath string }
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("read %s: %w", events, err)
		}
		at := key{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			at = key{strings.Fields(e.ImportPath)[0], ""}
			fallthrough
		case "output":
			if output[at] == nil {
				output[at] = &strings.Builder{}
			}
			output[at].WriteString(e.Output)
		case "fail":
			keys = append(keys, at)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	for _, k := range keys {
		// Whoever failed because of a part of it has nothing to say.
		if slices.ContainsFunc(keys, func(other key) bool {
			return other.pkg == k.pkg && other != k && (k.test == "" || strings.HasPrefix(other.test, k.test+"/"))
		}) {
			continue
		}
		said := ""
		if output[k] != nil {
			said = message(output[k].String())
		}
		failed = append(failed, failure{k.pkg, k.test, said})
	}
	return failed, nil
}

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
