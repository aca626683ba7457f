// Command plot draws what the benchmarks measured: an SVG for each query, and a page that shows them all.
//
//	make bench PERF_ROWS=1000,100000,1000000
//	make plots
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/vital-health/tenancy/helpers/latency"
)

func main() {
	out := flag.String("out", "build/report/latency", "the folder that the pictures go into")
	flag.Parse()
	page, err := run(flag.Args(), *out)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(page)
}

// run draws what stands in the file, and returns the name of the page.
func run(files []string, out string) (page string, err error) {
	if len(files) != 1 {
		return "", fmt.Errorf("%d files: want one, with the output of go test -bench", len(files))
	}
	in, err := os.Open(files[0])
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%w: make bench writes it", err)
	}
	if err != nil {
		return "", err
	}
	defer in.Close()
	charts, err := latency.Read(in, files[0])
	if err != nil {
		return "", err
	}
	return latency.Write(charts, out)
}
