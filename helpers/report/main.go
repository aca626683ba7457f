// Command report writes the evidence of a run of the tests: a page to read (index.html), which needs nothing beside it, and
// the same for machines (report.json, described by schema.json). `make report` runs it.
//
//	report [-root folder] [-out folder] events.json...
//
// The arguments are files of what go test -json wrote, or folders of such files. What other targets of make have left in
// build/ is taken in if it is about the same SQL, and named as missing if not.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

func main() {
	ok, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run() (ok bool, err error) {
	root := flag.String("root", "../..", "the project's `folder`")
	out := flag.String("out", "", "the `folder` that is written to (build/report)")
	flag.Parse()
	base, err := filepath.Abs(*root)
	if err != nil {
		return false, err
	}
	if *out == "" {
		*out = filepath.Join(base, "build", "report")
	}
	files, err := eventFiles(flag.Args())
	if err != nil {
		return false, err
	}
	tests, err := declared(base)
	if err != nil {
		return false, err
	}
	r, err := publish(source{root: base, events: files, build: filepath.Join(base, "build"), tests: tests}, *out, time.Now())
	if err != nil {
		return false, err
	}
	r.print(os.Stdout, filepath.Join(*out, pageFile))
	return r.Verdict.OK, nil
}

// publish writes the evidence into a folder. Where it cannot, none is there: that of another run would pass for this one's.
func publish(s source, folder string, now time.Time) (*report, error) {
	for _, name := range []string{pageFile, dataFile} {
		if err := os.RemoveAll(filepath.Join(folder, name)); err != nil {
			return nil, err
		}
	}
	r, pictures, err := collect(s, now)
	if err != nil {
		return nil, err
	}
	return r, r.write(folder, pictures)
}

// eventFiles are the files among the arguments, and those in the folders among them.
func eventFiles(names []string) (files []string, err error) {
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			files = append(files, name)
			continue
		}
		within, err := filepath.Glob(filepath.Join(name, "*.json"))
		if err != nil {
			return nil, err
		}
		files = append(files, within...)
	}
	if len(files) == 0 {
		return nil, errors.New("there is nothing to report: want what go test -json wrote, a file or a folder of files (make report RESULTS=…)")
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}
