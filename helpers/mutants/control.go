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

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

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
