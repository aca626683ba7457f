package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// control sees to it that mutants are mistakes, that what kills one passes without it, and that their databases go.
type control struct {
	suite   *suite
	workers int
	found   map[unit]unit // what passes without a mistake, by what found one: itself, or the whole that it is a part of
	alone   *pgx.Conn
	ours    []string // templates that are no mutant's
	phase   map[schema.Phase]*unbroken
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
	if err := c.lock(ctx); err != nil {
		return err
	}
	c.ours, err = c.templates(ctx)
	return err
}

// lock keeps out others, who would drop the databases that this run tests mutants in: that would look like a kill.
func (c *control) lock(ctx context.Context) (err error) {
	server := c.phase[schema.Phase4].db.Superuser.Config().ConnConfig.Copy()
	server.Database = "postgres" // an advisory lock is one database's
	if c.alone, err = pgx.ConnectConfig(ctx, server); err != nil {
		return err
	}
	var got bool
	if err := c.alone.QueryRow(ctx, `select pg_try_advisory_lock(hashtextextended('tenancy.mutants', 0))`).Scan(&got); err != nil {
		return err
	}
	if !got {
		return errors.New("somebody else runs mutants on this server: wait for them, or name another one by TEST_DATABASE_URL")
	}
	return nil
}

// end drops the databases.
func (c *control) end(ctx context.Context) (err error) {
	if c.alone != nil {
		err = c.alone.Close(context.WithoutCancel(ctx))
	}
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

// check drops the mutants' databases, and sees that what killed them passes without them.
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
	var open []unit
	for _, r := range results {
		if u := unitNamed(r.By); r.Status == killed && c.found[u] == (unit{}) && !slices.Contains(open, u) {
			open = append(open, u)
		}
	}
	passing := make([]unit, len(open))
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(c.workers)
	for i, u := range open {
		group.Go(func() (err error) {
			passing[i], err = c.passing(running, u)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, u := range open {
		c.found[u] = passing[i]
	}
	for i, r := range results {
		if r.Status == killed {
			results[i].By = c.found[unitNamed(r.By)].String()
		}
	}
	c.ours, err = c.templates(ctx)
	return err
}

// passing is the unit, or, as a part may need another one before it, the whole, that passes without a mistake.
func (c *control) passing(ctx context.Context, u unit) (unit, error) {
	how, text := c.suite.run(ctx, u, "")
	if ctx.Err() != nil {
		return u, ctx.Err()
	}
	if whole := c.suite.measured(u); how != passed && whole != u {
		return c.passing(ctx, whole)
	}
	if how != passed {
		return u, fmt.Errorf("%s fails without a mistake in the migrations, so what it finds proves nothing (%s): %s\n%s", u, how, u.command(), tail(text, 3000))
	}
	return u, nil
}
