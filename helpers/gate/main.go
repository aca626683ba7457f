// Command gate says whether migrations may be merged: it runs all that `make gate` promises, each stage whether or not one
// before it failed, and ends with a table that says what is wrong, for people who know SQL and not this project.
//
//	gate [-stages review,access] [-report build/report]
//
// In the folder of the report: gate.json, the verdict for machines; access.diff, who gained and who lost what; of each
// stage its output, and of each that runs tests a JUnit file; SARIF files with findings by line.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vital-health/tenancy/helpers/golden"
	"github.com/vital-health/tenancy/schema"
)

func main() {
	only := flag.String("stages", "", "run these `stages` alone, with commas between them")
	folder := flag.String("report", "build/report", "the `folder` of what is left for machines")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, *folder, *only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gate:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context, folder, only string) (ok bool, err error) {
	all := stages(os.Getenv("RUN"), os.Getenv("PKG"))
	stages, err := choose(all, only)
	if err != nil {
		return false, err
	}
	if folder, err = filepath.Abs(folder); err != nil {
		return false, err
	}
	// A folder that is not what it should be is one error, and not one of each stage.
	if _, err := schema.All(); err != nil {
		return false, err
	}
	g := gate{ctx: ctx, report: folder, out: os.Stdout,
		env: append(os.Environ(), golden.ReportVariable+"="+filepath.Join(folder, differences))}
	if err := g.clear(); err != nil {
		return false, err
	}
	g.leave(all, stages)
	for _, s := range stages {
		if err := g.stage(s); err != nil {
			return false, err
		}
	}
	return g.verdict(os.Getenv(schema.DirVariable))
}

// choose returns the stages that are asked for.
func choose(all []stage, only string) (chosen []stage, err error) {
	if only == "" {
		return all, nil
	}
	var names []string
	byName := map[string]stage{}
	for _, s := range all {
		names, byName[s.Name] = append(names, s.Name), s
	}
	for name := range strings.SplitSeq(only, ",") {
		s, ok := byName[strings.TrimSpace(name)]
		if !ok {
			return nil, fmt.Errorf("there is no stage %q: there are %s", name, strings.Join(names, ", "))
		}
		chosen = append(chosen, s)
	}
	return chosen, nil
}
