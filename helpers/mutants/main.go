// Command mutants makes mistakes in the migrations, one at a time, and lets the tests find
// them: what they do not find, nobody proves. `make mutants` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/vital-health/tenancy/schema"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("mutants: ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

// Files of the project that say what is known of mutants.
const (
	killersFile     = "helpers/mutants/killers.tsv"
	equivalentsFile = "helpers/mutants/equivalents.tsv"
)

var errInterrupted = errors.New("interrupted; run it again to go on")

func run(ctx context.Context) error {
	root := flag.String("root", "../..", "the project's folder")
	sample := flag.Int("sample", 0, "how many mutants, chosen at random; 0 for all")
	seed := flag.Uint64("seed", 1, "of the choice")
	only := flag.String("run", "", "a regular expression: only mutants whose name it finds")
	list := flag.Bool("list", false, "name the mutants, and run nothing")
	quick := flag.Bool("quick", false, "believe which tests find a mutant, and do not let all look at what the likely ones did not find")
	workers := flag.Int("workers", runtime.NumCPU(), "mutants at the same time")
	flag.Parse()
	if os.Getenv(schema.DirVariable) != "" {
		return fmt.Errorf("%s is set: mutants are made of the project's own migrations", schema.DirVariable)
	}
	base, err := filepath.Abs(*root)
	if err != nil {
		return err
	}

	all, err := generate(ctx)
	if err != nil {
		return err
	}
	known, err := readEquivalents(filepath.Join(base, equivalentsFile), all)
	if err != nil {
		return err
	}
	generated, names := len(all), map[string]bool{}
	for _, m := range all {
		names[m.ID] = true
	}
	if *only != "" {
		pattern, err := regexp.Compile(*only)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(m mutant) bool { return !pattern.MatchString(m.ID) })
	}
	if len(all) == 0 {
		return fmt.Errorf("no mutant's name matches %s: -list names them", *only)
	}
	if *sample > 0 && *sample < len(all) {
		source := rand.New(rand.NewPCG(*seed, 0))
		source.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:*sample]
	}
	if *list {
		for _, m := range all {
			fmt.Println(m.ID)
		}
		return nil
	}

	build := filepath.Join(base, "build", "mutants")
	s, err := compile(ctx, base, filepath.Join(build, "bin"))
	if err != nil {
		return err
	}
	h := &hunt{suite: s, work: os.TempDir(), most: 25, quick: *quick}
	if err := h.history.read(ctx, s, filepath.Join(base, killersFile), filepath.Join(build, "units.tsv"), *sample > 0); err != nil {
		return err
	}
	j, err := openJournal(filepath.Join(build, "results.jsonl"))
	if err != nil {
		return err
	}
	defer j.file.Close()

	// Where the migrations or the tests have changed since, what found a mutant probably finds it again.
	for id, before := range j.done {
		if before.Status == killed {
			h.history.killer[id] = unitNamed(before.By)
		}
	}

	bar := progressbar.NewOptions(len(all), progressbar.OptionSetWriter(os.Stderr), progressbar.OptionShowCount(),
		progressbar.OptionSetDescription("mutants"), progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(time.Second))
	c := &control{suite: s, workers: *workers, found: map[unit]unit{}}
	defer c.end(ctx)
	if err := c.begin(ctx); err != nil {
		return err
	}
	h.control = c
	var results []result
	add := func(r result) { results = append(results, r); _ = bar.Add(1) }
	var open []mutant
	for _, m := range all {
		switch before, ok := j.done[m.ID]; {
		case known[m.ID] != "":
			add(result{mutant: m, Status: equivalent, Says: known[m.ID]})
		case ok && before.How != harness && before.Digest == m.digest()+s.digest:
			before.Phase = m.Phase
			add(before)
		default:
			open = append(open, m)
		}
	}
	for some := range slices.Chunk(open, 40) {
		var wait sync.WaitGroup
		found := make(chan result)
		queue := make(chan mutant)
		for range *workers {
			wait.Go(func() {
				for m := range queue {
					found <- h.one(ctx, m)
				}
			})
		}
		go func() {
			for _, m := range some {
				queue <- m
			}
			close(queue)
			wait.Wait()
			close(found)
		}()
		var chunk []result
		for r := range found {
			if ctx.Err() != nil {
				continue
			}
			chunk = append(chunk, r)
			_ = bar.Add(1)
		}
		if ctx.Err() != nil {
			return errInterrupted
		}
		// A kill counts once what killed it has passed without the mutant.
		if err := c.check(ctx, chunk); ctx.Err() != nil {
			return errInterrupted
		} else if err != nil {
			return err
		}
		if err := j.add(chunk); err != nil {
			return err
		}
		results = append(results, chunk...)
	}
	_ = bar.Finish()
	fmt.Fprintln(os.Stderr)
	return report(build, filepath.Join(base, killersFile), generated, names, *sample == 0, results)
}
