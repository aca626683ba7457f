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
	found   map[unit]bool
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
	if c.ours, err = c.templates(ctx); err != nil {
		return err
	}
	return c.lock(ctx)
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
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(c.workers)
	for _, r := range results {
		u := unitNamed(r.By)
		if r.Status != killed || c.found[u] {
			continue
		}
		c.found[u] = true
		group.Go(func() error {
			if how, text := c.suite.run(running, u, ""); how != passed {
				return fmt.Errorf("%s fails without a mistake in the migrations, so what it finds proves nothing (%s): %s\n%s", u, how, u.command(), tail(text, 3000))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	c.ours, err = c.templates(ctx)
	return err
}
