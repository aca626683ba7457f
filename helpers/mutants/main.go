// Command mutants makes mistakes in the migrations, one at a time, and lets the tests find
// them: what they do not find, nobody proves. `make mutants` runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/schollz/progressbar/v3"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/pgtest"
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

func run(ctx context.Context) error {
	root := flag.String("root", "../..", "the project's folder")
	sample := flag.Int("sample", 0, "how many mutants, chosen at random; 0 for all")
	seed := flag.Uint64("seed", 1, "of the choice")
	only := flag.String("run", "", "a regular expression: only mutants whose name it finds")
	list := flag.Bool("list", false, "name the mutants, and run nothing")
	quick := flag.Bool("quick", false, "do not let all tests look at what the likely ones did not find")
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

	// Where the migrations have changed since, what found a mutant finds it again.
	for id, before := range j.done {
		if before.Status == killed {
			h.history.killer[id] = unitNamed(before.By)
		}
	}

	bar := progressbar.NewOptions(len(all), progressbar.OptionSetWriter(os.Stderr), progressbar.OptionShowCount(),
		progressbar.OptionSetDescription("mutants"), progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(time.Second))
	c := &control{suite: s, found: map[unit]bool{}}
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
		case ok && before.How != harness && (before.Digest == m.digest() || before.Digest == m.digest()+s.digest):
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
			if err := j.add(r); err != nil {
				return err
			}
			_ = bar.Add(1)
		}
		if ctx.Err() != nil {
			return errors.New("interrupted; run it again to go on")
		}
		if err := c.check(ctx, chunk); err != nil {
			return err
		}
		results = append(results, chunk...)
	}
	_ = bar.Finish()
	fmt.Fprintln(os.Stderr)
	return report(build, filepath.Join(base, killersFile), generated, names, *sample == 0, results)
}

// control sees to it that mutants are mistakes, that what kills one passes without it, and that their databases go.
type control struct {
	suite *suite
	found map[unit]bool
	ours  []string // templates that are no mutant's
	phase map[schema.Phase]*unbroken
}

// unbroken is a database without a mistake.
type unbroken struct {
	mu sync.Mutex
	db *pgtest.DB
	is catalog.Catalog
}

func (c *control) begin(ctx context.Context) (err error) {
	c.phase = map[schema.Phase]*unbroken{}
	for _, phase := range schema.Phases() {
		u := &unbroken{}
		if u.db, err = pgtest.Create(ctx, phase, fixtures.World()...); err != nil {
			return err
		}
		if u.is, err = catalog.Take(ctx, u.db.Owner); err != nil {
			return err
		}
		c.phase[phase] = u
	}
	c.ours, err = c.templates(ctx)
	return err
}

// end drops the databases.
func (c *control) end(ctx context.Context) (err error) {
	for _, u := range c.phase {
		if u.db != nil {
			err = errors.Join(err, u.db.Close(context.WithoutCancel(ctx)))
		}
	}
	return err
}

// changes is whether a statement changes the catalog; an error, that it cannot run.
func (u *unbroken) changes(ctx context.Context, statement string) (changes bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	tx, err := u.db.Owner.Begin(ctx)
	if err != nil {
		return false, err
	}
	defer tx.Rollback(ctx)
	if _, err := tx.Exec(ctx, statement, pgx.QueryExecModeSimpleProtocol); err != nil {
		return false, err
	}
	is, err := catalog.Take(ctx, tx)
	return !maps.Equal(is, u.is), err
}

func (c *control) templates(ctx context.Context) (names []string, err error) {
	var text string
	err = c.phase[schema.Phase4].db.Superuser.QueryRow(ctx, `select coalesce(string_agg(datname, ' '), '') from pg_database where datistemplate and datname like 'tenancy\_%'`).Scan(&text)
	return strings.Fields(text), err
}

func (c *control) check(ctx context.Context, results []result) error {
	templates, err := c.templates(ctx)
	if err != nil {
		return err
	}
	for _, name := range templates {
		if !slices.Contains(c.ours, name) {
			for _, sql := range []string{"alter database " + name + " with is_template false", "drop database " + name + " with (force)"} {
				if _, err := c.phase[schema.Phase4].db.Superuser.Exec(ctx, sql); err != nil {
					return err
				}
			}
		}
	}
	for _, r := range results {
		u := unitNamed(r.By)
		if r.Status != killed || c.found[u] {
			continue
		}
		c.found[u] = true
		if how, text := c.suite.run(ctx, u, ""); how != passed {
			return fmt.Errorf("%s fails without a mistake in the migrations, so what it finds proves nothing (%s): %s\n%s", u, how, u.command(), tail(text, 3000))
		}
	}
	c.ours, err = c.templates(ctx)
	return err
}

// report prints what became of the mutants, and writes it down.
func report(build, killers string, generated int, names map[string]bool, write bool, results []result) error {
	slices.SortFunc(results, func(a, b result) int { return strings.Compare(a.ID, b.ID) })
	count := map[string]int{}
	how := map[ending]int{}
	policies := 0
	written := 0 // mutants of policies that only what repeats them has found
	for _, r := range results {
		status := r.Status
		if r.How == harness {
			status = string(harness)
		}
		count[status]++
		if status == killed {
			how[r.How]++
			if r.Class == "policy" {
				policies++
			}
			if r.Class == "policy" && repeats(unitNamed(r.By)) == 1 {
				written++
			}
		}
	}
	text, err := json.MarshalIndent(struct {
		Generated int            `json:"generated"`
		Run       int            `json:"run"`
		Count     map[string]int `json:"count"`
		How       map[ending]int `json:"how"`
		Results   []result       `json:"results"`
	}{generated, len(results), count, how, results}, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(build, "mutants.json"), text, 0o644); err != nil {
		return err
	}
	for _, r := range results {
		switch {
		case r.How == harness:
			fmt.Printf("\nharness error: %s\n%s\n%s\n", r.ID, r.By, r.Says)
		case r.Status == survived:
			fmt.Printf("\nsurvived: %s\n%s\n  missing: a test that fails when this is so: %s\n", r.ID, indent(r.SQL), r.hint())
		}
	}
	if write {
		if err := writeKillers(killers, names, results); err != nil {
			return err
		}
	}
	fmt.Printf("\nkilled by an assertion %d, by the migration's own refusal %d, by an SQL error in the migration %d, by a timeout %d; harness errors %d\n",
		how[assertion], how[refused], how[sqlError], how[timeout], count[string(harness)])
	fmt.Printf("policies: %d found by what they do, %d only by how they are written\n", policies-written, written)
	fmt.Printf("mutants: %d generated, %d run, %d killed, %d survived, %d equivalent, %d invalid\n",
		generated, len(results), count[killed], count[survived], count[equivalent], count[invalid])
	if count[survived]+count[string(harness)] > 0 {
		return errors.New("not all mutants were found")
	}
	return nil
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}
