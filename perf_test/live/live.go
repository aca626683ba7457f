package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// idle names the steps in which nothing runs beside the application.
const idle = "idle"

// sayEvery is how often a step says how far it is.
const sayEvery = 5 * time.Second

// config is how large the database is, and how busy.
type config struct {
	Rows          int
	Organizations int
	Rate          float64
	Idle          time.Duration // of each baseline
	Step          time.Duration // how long a file's step lasts at least, so that its share of slow requests is one of something
	Say           func(string)  // hears what is going on
}

// live is a run.
type live struct {
	config
	workload
	db     *pgtest.DB
	report *Report

	progress atomic.Pointer[string] // of the file that runs
}

// seeds fill the legacy database.
func (c config) seeds() []pgtest.Seed {
	return append(fixtures.World(), fixtures.LegacyBulk{Rows: c.Rows, Organizations: c.Organizations}.Seed())
}

// run takes a legacy database through all phases and back, with the application's
// requests going on. The error is a file's or the harness's own; requests that failed
// are in the report.
func run(ctx context.Context, c config, db *pgtest.DB) (*Report, error) {
	digest, err := schema.Digest()
	if err != nil {
		return nil, err
	}
	l := &live{config: c, db: db, report: &Report{Started: time.Now(), Schema: digest, Rows: c.Rows, Organizations: c.Organizations, Rate: c.Rate}}
	l.workload = workload{population: &population{rows: c.Rows, organizations: c.Organizations}, rate: c.Rate}
	if err := db.Owner.QueryRow(ctx, `show server_version`).Scan(&l.report.Server); err != nil {
		return nil, err
	}
	defer l.workload.close()
	if err := l.connect(ctx, db); err != nil {
		return nil, err
	}
	journey := schema.Journey()
	for _, stage := range []struct {
		application application
		passages    []schema.Passage
	}{
		{oldApplication, journey[:3]},
		{newApplication, journey[3:5]},
		{oldApplication, journey[5:]},
	} {
		if err := l.stage(ctx, stage.application, stage.passages); err != nil {
			l.report.Failed = err.Error()
			return l.report, err
		}
	}
	return l.report, nil
}

// stage is the time in which one generation of the application runs.
func (l *live) stage(ctx context.Context, a application, passages []schema.Passage) (err error) {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.workload.run(ctx, a)
	}()
	defer func() {
		stop()
		<-ended
	}()

	// The first requests meet cold caches.
	if err := sleep(ctx, l.Idle/4); err != nil {
		return err
	}
	l.since()
	quiet, err := l.step(ctx, idle, a, func() error { return sleep(ctx, l.Idle) })
	if err != nil {
		return err
	}
	for _, p := range passages {
		var log *script.Log
		step, err := l.step(ctx, p.String(), a, func() (err error) {
			log, err = l.migrate(ctx, p)
			return err
		})
		if err != nil {
			return err
		}
		step.observe(log)
		step.compare(quiet)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// migrate runs a file as the owner, as an operator would.
func (l *live) migrate(ctx context.Context, p schema.Passage) (*script.Log, error) {
	f, err := p.File()
	if err != nil {
		return nil, err
	}
	cfg, err := pgx.ParseConfig(l.db.URL(pgtest.OwnerRole))
	if err != nil {
		return nil, err
	}
	// The rollback of phase 3 drops the audit history, once it is told to.
	cfg.RuntimeParams["tenancy.discard_audit_logs"] = "yes"
	conn, err := script.Connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	return script.Runner{Patience: 5 * time.Minute, Watch: true, Report: func(e script.Event) {
		if progress, ok := e.(script.Progress); ok {
			text := fmt.Sprint(progress)
			l.progress.Store(&text)
		}
	}}.Run(ctx, conn, f)
}

// step measures what happens to the requests while something is done.
func (l *live) step(ctx context.Context, name string, a application, do func() error) (*Step, error) {
	s := &Step{Name: name, Application: a.Name}
	before, err := wal(ctx, l.db)
	if err != nil {
		return nil, err
	}
	l.Say(fmt.Sprintf("%s, with the %s application", name, a.Name))
	l.progress.Store(new(string))
	began := time.Now()
	done := make(chan error)
	go func() { done <- do() }()
	for waiting := true; waiting; {
		select {
		case err = <-done:
			waiting = false
		case <-time.After(sayEvery):
			n, failed, slowest := l.soFar()
			l.Say(fmt.Sprintf("%s: %d requests answered, %d failed, the slowest took %d ms; %s", name, n, failed, slowest.Milliseconds(), *l.progress.Load()))
		}
	}
	s.Seconds = time.Since(began).Seconds()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	// Who was made to wait is answered a little later.
	if err := sleep(ctx, max(500*time.Millisecond, l.Step-time.Since(began))); err != nil {
		return nil, err
	}
	s.measure(l.since())
	after, err := wal(ctx, l.db)
	if err != nil {
		return nil, err
	}
	s.WAL = after - before
	if s.Sizes, err = sizes(ctx, l.db); err != nil {
		return nil, err
	}
	if name == schema.Phase2.String() {
		err := l.db.Owner.QueryRow(ctx, `select sum(rows_changed)::bigint from tenancy.backfill_progress`).Scan(&s.Filled)
		if err != nil {
			return nil, err
		}
	}
	l.report.Steps = append(l.report.Steps, s)
	return s, nil
}

// wal is how much the server has logged so far.
func wal(ctx context.Context, db *pgtest.DB) (position int64, err error) {
	err = db.Superuser.QueryRow(ctx, `select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint`).Scan(&position)
	return position, err
}

// sizes are of the tables that phase 2 fills, and of its journal.
func sizes(ctx context.Context, db *pgtest.DB) (map[string]Sizes, error) {
	rows, err := db.Superuser.Query(ctx, `
		select t.name, pg_table_size(c.oid), pg_indexes_size(c.oid), pg_stat_get_dead_tuples(c.oid)
		from unnest(array['public.agents', 'public.knowledge_documents', 'public.conversations', 'tenancy.journal']) as t (name)
		join pg_catalog.pg_class c on c.oid = to_regclass(t.name)`)
	if err != nil {
		return nil, err
	}
	all := map[string]Sizes{}
	var table string
	var s Sizes
	_, err = pgx.ForEachRow(rows, []any{&table, &s.Table, &s.Indexes, &s.Dead}, func() error {
		all[table] = s
		return nil
	})
	return all, err
}

// plain is one UPDATE of each table that the bulk is in, of the columns that phase 2
// fills in it.
var plain = []struct{ table, set string }{
	{"agents", `owner_organization_id = tenant_id, sharing_scope = 'organization', owner_tenant_id = tenant_id, audience_key = tenant_id`},
	{"knowledge_documents", `owner_organization_id = tenant_id, sharing_scope = 'organization', owner_tenant_id = tenant_id, audience_key = tenant_id`},
	{"conversations", `owner_organization_id = tenant_id`},
}

// filling is what it took to fill the tables of [plain].
type filling struct {
	seconds float64
	wal     int64
	growth  map[string]float64 // by table, its size after by its size before
}

// compareBackfill measures phase 2 and the plain UPDATEs, each on a copy of its own.
func compareBackfill(ctx context.Context, c config, create func() (*pgtest.DB, error)) (*Backfill, error) {
	updated, err := fill(ctx, c, "plain", create, func(l *live) (seconds float64, err error) {
		for _, p := range plain {
			start := time.Now()
			// Without the work of the triggers, as the backfill.
			_, err := l.db.Owner.Exec(ctx, "begin; set local tenancy.backfill = 'on'; update public."+p.table+" set "+p.set+"; commit")
			if err != nil {
				return 0, err
			}
			seconds += time.Since(start).Seconds()
		}
		return seconds, nil
	})
	if err != nil {
		return nil, err
	}
	var rows int64
	filled, err := fill(ctx, c, "backfill", create, func(l *live) (seconds float64, err error) {
		if _, err := l.migrate(ctx, schema.Passage{Phase: schema.Phase2}); err != nil {
			return 0, err
		}
		err = l.db.Owner.QueryRow(ctx, `
			select sum(extract(epoch from finished_at - started_at))::float8, sum(rows_changed)::bigint
			from tenancy.backfill_progress`).Scan(&seconds, &rows)
		return seconds, err
	})
	if err != nil {
		return nil, err
	}
	b := &Backfill{
		Rows: rows, Seconds: filled.seconds, Plain: updated.seconds, Ratio: filled.seconds / updated.seconds,
		WAL: map[string]int64{"backfill": filled.wal, "plain": updated.wal}, Growth: map[string]Ratio{},
	}
	for table := range filled.growth {
		b.Growth[table] = Ratio{Backfill: filled.growth[table], Plain: updated.growth[table]}
	}
	return b, nil
}

// fill measures work on a legacy database after phase 1; work says how long it took.
func fill(ctx context.Context, c config, name string, create func() (*pgtest.DB, error), work func(*live) (float64, error)) (f filling, err error) {
	l := &live{config: c}
	if l.db, err = create(); err != nil {
		return filling{}, err
	}
	defer func() { err = errors.Join(err, l.db.Close(context.WithoutCancel(ctx))) }()
	if _, err := l.migrate(ctx, schema.Passage{Phase: schema.Phase1}); err != nil {
		return filling{}, err
	}
	// What the one writes must not be the other's to wait for.
	if _, err := l.db.Superuser.Exec(ctx, "checkpoint"); err != nil {
		return filling{}, err
	}
	before, err := sizes(ctx, l.db)
	if err != nil {
		return filling{}, err
	}
	start, err := wal(ctx, l.db)
	if err != nil {
		return filling{}, err
	}
	c.Say("without traffic: " + name)
	if f.seconds, err = work(l); err != nil {
		return filling{}, err
	}
	end, err := wal(ctx, l.db)
	if err != nil {
		return filling{}, err
	}
	after, err := sizes(ctx, l.db)
	if err != nil {
		return filling{}, err
	}
	f.wal, f.growth = end-start, map[string]float64{}
	for _, p := range plain {
		table := "public." + p.table
		f.growth[table] = float64(after[table].Table) / float64(before[table].Table)
	}
	return f, nil
}
