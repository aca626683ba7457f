// Package peers measures what the tests' own tools cost beside others that do the same. It is a module of its own: what
// it compares with is no dependency of the project.
package peers

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"maps"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/peterldowns/pgtestdb"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// ratioBudget is how long our way may take, as a share of pgtestdb's.
const ratioBudget = 0.5

const perRound = 16 // tests, whatever their number at once

// BenchmarkProvision is what a test pays for a database of its own, in the state after all phases and with the world in
// it: to get it, connect, ask it something, and give it back. Both tools take turns on the same server. p50-ms is a
// test's median; wall-ms is what a test adds to the run, from the first one's start until the server has dropped the last
// one's database: work in the background counts. The ratio is that of the latter.
func BenchmarkProvision(b *testing.B) {
	s := newServer(b)
	s.requireSame(b)
	for _, parallel := range []int{1, 2, 4, 8} {
		for i, tool := range []string{"pgtest", "pgtestdb"} {
			b.Run(fmt.Sprintf("parallel=%d/tool=%s", parallel, tool), func(b *testing.B) {
				ours, theirs := &figures{}, &figures{}
				measure := func() {
					ours.add(s.round(b, parallel, s.pgtest))
					theirs.add(s.round(b, parallel, s.pgtestdb))
				}
				for b.Loop() {
					measure()
				}
				for len(ours.rounds) < 5 { // fewer have no median
					measure()
				}
				b.ReportMetric(0, "ns/op") // both tools together: nobody's figure
				own := []*figures{ours, theirs}[i]
				b.ReportMetric(milliseconds(median(own.tests)), "p50-ms")
				b.ReportMetric(milliseconds(median(own.rounds)), "wall-ms")
				if tool != "pgtest" {
					return
				}
				var ratios []float64 // of rounds that followed each other: what else the machine does changes
				for i, took := range ours.rounds {
					ratios = append(ratios, float64(took)/float64(theirs.rounds[i]))
				}
				ratio := median(ratios)
				b.ReportMetric(ratio, "ratio")
				if budget := ratioBudget * scale(b); ratio > budget {
					b.Errorf("%.2f of pgtestdb's time, the budget is %.2f", ratio, budget)
				}
			})
		}
	}
}

// figures are what a tool took: each test, and each round divided by its tests.
type figures struct{ tests, rounds []time.Duration }

func (f *figures) add(tests []time.Duration, round time.Duration) {
	f.tests = append(f.tests, tests...)
	f.rounds = append(f.rounds, round/time.Duration(len(tests)))
}

// provision gets a database for a test, asks it, and returns its name and how many agents it has.
type provision func(t *probe) (name string, agents int, err error)

// round runs tests, so many at once, and returns how long each took, and all of them until their databases are gone.
func (s *server) round(b *testing.B, parallel int, get provision) (tests []time.Duration, all time.Duration) {
	var mu sync.Mutex
	var names []string
	var workers sync.WaitGroup
	start := time.Now()
	for range parallel {
		workers.Go(func() {
			for range perRound / parallel {
				t := &probe{TB: b}
				began := time.Now()
				name, agents, ok := t.run(get)
				took := time.Since(began)
				if ok && agents != s.agents {
					b.Errorf("database %s has %d agents, want %d", name, agents, s.agents)
				}
				mu.Lock()
				tests, names = append(tests, took), append(names, name)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	for left := -1; left != 0; {
		require.NoError(b, s.conn.QueryRow(b.Context(), "select count(*) from pg_database where datname = any ($1)", names).Scan(&left))
		require.Less(b, time.Since(start), time.Minute, "databases are left behind: %s", names)
	}
	all = time.Since(start)
	require.False(b, b.Failed())
	slices.Sort(names)
	require.Len(b, slices.Compact(names), perRound, "every test has a database of its own")
	return tests, all
}

// probe is a test in a goroutine, which [testing.B] has not.
type probe struct {
	testing.TB
	cleanups []func()
}

func (t *probe) Cleanup(f func())          { t.cleanups = append(t.cleanups, f) }
func (t *probe) Logf(string, ...any)       {}
func (t *probe) FailNow()                  { t.Fail(); runtime.Goexit() }
func (t *probe) Fatalf(f string, a ...any) { t.Errorf(f, a...); t.FailNow() }

func (t *probe) run(get provision) (name string, agents int, ok bool) {
	defer func() {
		for _, cleanup := range slices.Backward(t.cleanups) {
			cleanup()
		}
	}()
	name, agents, err := get(t)
	if err != nil {
		t.Errorf("ask a database: %s", err)
	}
	return name, agents, err == nil
}

// server is the server of the tests, as pgtestdb is told of it.
type server struct {
	conn   *pgx.Conn // superuser's
	config pgtestdb.Config
	agents int
}

// newServer finds the server.
func newServer(b *testing.B) *server {
	db := pgtest.New(b, schema.Legacy)
	u, err := url.Parse(db.URL(""))
	require.NoError(b, err)
	password, _ := u.User.Password()
	s := &server{agents: len(fixtures.Agents)}
	s.config = pgtestdb.Config{
		DriverName: "pgx",
		Host:       u.Hostname(), Port: cmp.Or(u.Port(), "5432"), Options: u.RawQuery,
		User: u.User.Username(), Password: password, Database: "postgres",
		TestRole: &pgtestdb.Role{Username: pgtest.OwnerRole, Password: "tenancy", Capabilities: pgtestdb.DefaultRoleCapabilities},
	}
	s.conn, err = pgx.Connect(b.Context(), s.config.URL())
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.conn.Close(context.WithoutCancel(b.Context()))) })
	return s
}

const countAgents = "select count(*) from public.agents"

func (s *server) pgtest(t *probe) (name string, agents int, err error) {
	db := pgtest.New(t, schema.Phase4, fixtures.World()...)
	err = db.Owner.QueryRow(t.Context(), countAgents).Scan(&agents)
	return db.Name, agents, err
}

func (s *server) pgtestdb(t *probe) (name string, agents int, err error) {
	db := pgtestdb.New(t, s.config, migrator{})
	err = db.QueryRowContext(t.Context(), "select current_database(), count(*) from public.agents").Scan(&name, &agents)
	return name, agents, err
}

// requireSame makes sure that what is compared is the same: databases with the same definitions. Only privileges on the
// database itself differ: CREATE DATABASE does not copy a template's, and pgtestdb leaves it at that.
func (s *server) requireSame(b *testing.B) {
	ours := pgtest.New(b, schema.Phase4, fixtures.World()...)
	t := &probe{TB: b}
	config := pgtestdb.Custom(t, s.config, migrator{})
	defer func() { t.cleanups[0]() }()
	theirs, err := pgx.Connect(b.Context(), config.URL())
	require.NoError(b, err)
	defer theirs.Close(b.Context())
	b.Cleanup(func() { s.dropTemplate(b, config.Database) })

	want, err := catalog.Take(b.Context(), ours.Owner)
	require.NoError(b, err)
	got, err := catalog.Take(b.Context(), theirs)
	require.NoError(b, err)
	for _, picture := range []catalog.Catalog{want, got} {
		maps.DeleteFunc(picture, func(name, _ string) bool { return strings.HasPrefix(name, "acl database ") })
	}
	require.Empty(b, catalog.Diff(want, got))
}

// dropTemplate drops what pgtestdb would keep for its next run: the template of one of its databases.
func (s *server) dropTemplate(b *testing.B, database string) {
	template, _, found := strings.Cut(database, "_inst_")
	require.True(b, found, database)
	for _, statement := range []string{"alter database %s is_template false", "drop database %s"} {
		_, err := s.conn.Exec(context.WithoutCancel(b.Context()), fmt.Sprintf(statement, template))
		require.NoError(b, err)
	}
}

// migrator runs the files that [pgtest.New] runs.
type migrator struct{}

// files are the baseline and the migrations, each followed by its seeds.
func (migrator) files() ([]schema.File, error) {
	var files []schema.File
	for phase := schema.Legacy; phase <= schema.Phase4; phase++ {
		read := schema.Baseline
		if phase > schema.Legacy {
			read = func() (schema.File, error) { return schema.Migration(phase) }
		}
		file, err := read()
		if err != nil {
			return nil, err
		}
		files = append(files, file)
		for _, seed := range fixtures.World() {
			if seed.After == phase {
				files = append(files, schema.File{Path: seed.Name, Origin: seed.Name, SQL: seed.SQL})
			}
		}
	}
	return files, nil
}

// Hash is asked for by each test, and reads the files, as the migrators that come with pgtestdb do.
func (m migrator) Hash() (string, error) {
	files, err := m.files()
	sum := sha256.New()
	for _, file := range files {
		fmt.Fprintf(sum, "%s %d\n%s", file.Path, len(file.SQL), file.SQL)
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], err
}

func (m migrator) Migrate(ctx context.Context, _ *sql.DB, config pgtestdb.Config) error {
	files, err := m.files()
	if err != nil {
		return err
	}
	cfg, err := pgx.ParseConfig(config.URL())
	if err != nil {
		return err
	}
	conn, err := script.Connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, file := range files {
		if _, err := script.Run(ctx, conn, file); err != nil {
			return err
		}
	}
	return nil
}

func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// scale reads PERF_BUDGET_SCALE, which multiplies every budget.
func scale(b *testing.B) float64 {
	scale, err := strconv.ParseFloat(cmp.Or(os.Getenv("PERF_BUDGET_SCALE"), "1"), 64)
	require.NoError(b, err, "PERF_BUDGET_SCALE")
	return scale
}
