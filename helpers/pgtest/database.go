package pgtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// Clones and templates are told apart from everything else on the server, and
// from each other, by their names.
const (
	clonePrefix    = "tenancy_c_"
	templatePrefix = "tenancy_t_"
)

// recipe is how a template is made: by running a step on a clone of the template
// before it.
type recipe struct {
	steps []schema.File // what leads from an empty database to this one, in order
}

// recipeFor returns the baseline and the migrations up to phase, each followed by
// its seeds.
func recipeFor(phase schema.Phase, seeds []Seed) (recipe, error) {
	if phase < schema.Legacy || phase > schema.Phase4 {
		return recipe{}, fmt.Errorf("unknown phase %s", phase)
	}
	for _, seed := range seeds {
		if seed.After < schema.Legacy || seed.After > schema.Phase4 {
			return recipe{}, fmt.Errorf("seed %s comes after an unknown phase %s", seed.Name, seed.After)
		}
	}
	var r recipe
	for p := schema.Legacy; p <= phase; p++ {
		read := schema.Baseline
		if p > schema.Legacy {
			read = func() (schema.File, error) { return schema.Migration(p) }
		}
		f, err := read()
		if err != nil {
			return recipe{}, err
		}
		r.steps = append(r.steps, f)
		for _, seed := range seeds {
			if seed.After == p {
				r.steps = append(r.steps, schema.File{Path: seed.Name, Origin: "seed " + seed.Name, SQL: seed.SQL})
			}
		}
	}
	return r, nil
}

// template names the template by all that goes into it.
func (r recipe) template() string {
	sum := sha256.New()
	for _, f := range r.steps {
		fmt.Fprintf(sum, "%s %d\n%s", f.Path, len(f.SQL), f.SQL)
	}
	return templatePrefix + hex.EncodeToString(sum.Sum(nil))[:16]
}

// create makes a database of one's own.
func (s *server) create(ctx context.Context, r recipe) (*DB, error) {
	template, err := s.template(ctx, r)
	if err != nil {
		return nil, err
	}
	name := clonePrefix + strings.ToLower(rand.Text())[:12]
	if err := s.owned.add(ctx, name); err != nil {
		return nil, err
	}
	db := &DB{Name: name, server: s}
	if err := s.clone(ctx, name, template); err != nil {
		return nil, errors.Join(err, db.Close(ctx))
	}
	if db.Owner, err = s.pool(ctx, name, OwnerRole); err == nil {
		db.Superuser, err = s.pool(ctx, name, "")
	}
	if err != nil {
		return nil, errors.Join(err, db.Close(ctx))
	}
	return db, nil
}

// Close closes the pools and drops the database.
func (db *DB) Close(ctx context.Context) error {
	for _, pool := range []*pgxpool.Pool{db.Owner, db.Superuser} {
		if pool != nil {
			pool.Close()
		}
	}
	if err := db.server.drop(ctx, db.Name); err != nil {
		return err
	}
	return db.server.owned.remove(ctx, db.Name)
}

// drop drops a database, and ends the sessions that are still in it.
func (s *server) drop(ctx context.Context, name string) error {
	if _, err := s.admin.Exec(ctx, "drop database if exists "+quote(name)+" with (force)"); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

// clone copies a template, and the template's privileges on the database, which
// CREATE DATABASE leaves behind and phase 4 changes. Copying files beats writing
// every page to the log, the more so without fsync.
func (s *server) clone(ctx context.Context, name, template string) error {
	create := fmt.Sprintf("create database %s owner %s", quote(name), OwnerRole)
	if template == "" {
		create += " template template0 encoding 'UTF8'"
	} else {
		create += " strategy file_copy template " + quote(template)
	}
	if _, err := s.admin.Exec(ctx, create); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	if template == "" {
		return nil
	}
	_, err := s.admin.Exec(ctx, `update pg_database set datacl = (select datacl from pg_database where datname = $2) where datname = $1`, name, template)
	if err != nil {
		return fmt.Errorf("copy the privileges of database %s: %w", template, err)
	}
	return nil
}

// template returns the name of the recipe's template, "" for an empty one, built by whoever comes
// first; the others wait for it. It counts as complete once it is marked as a
// template, which happens last: what is not marked is left over from a killed
// build, and starts anew.
func (s *server) template(ctx context.Context, r recipe) (name string, err error) {
	if len(r.steps) == 0 {
		return "", nil
	}
	name = r.template()
	const marked = `select exists (select from pg_database where datname = $1 and datistemplate)`
	var complete bool
	if err := s.admin.QueryRow(ctx, marked, name).Scan(&complete); err != nil || complete {
		return name, err
	}
	before, err := s.template(ctx, recipe{steps: r.steps[:len(r.steps)-1]})
	if err != nil {
		return "", err
	}

	// A session of its own holds the lock: the pool's connections are for everybody.
	lock, err := pgx.ConnectConfig(ctx, s.admin.Config().ConnConfig)
	if err != nil {
		return "", fmt.Errorf("lock template %s: %w", name, err)
	}
	defer lock.Close(context.WithoutCancel(ctx))
	if _, err := lock.Exec(ctx, "select pg_advisory_lock(hashtextextended($1, 0))", name); err != nil {
		return "", fmt.Errorf("lock template %s: %w", name, err)
	}
	if err := s.admin.QueryRow(ctx, marked, name).Scan(&complete); err != nil || complete {
		return name, err
	}

	if err := s.drop(ctx, name); err != nil {
		return "", err
	}
	if err := s.clone(ctx, name, before); err != nil {
		return "", err
	}
	if err := s.build(ctx, name, r.steps[len(r.steps)-1]); err != nil {
		return "", errors.Join(err, s.drop(context.WithoutCancel(ctx), name))
	}
	// In one statement, so that nobody connects to a template and blocks its copying.
	if _, err := s.admin.Exec(ctx, "alter database "+quote(name)+" with is_template true allow_connections false"); err != nil {
		return "", fmt.Errorf("mark template %s: %w", name, err)
	}
	return name, nil
}

// build runs a step in a database, as its owner.
func (s *server) build(ctx context.Context, database string, step schema.File) error {
	cfg, err := pgx.ParseConfig(s.url(database, OwnerRole))
	if err != nil {
		return err
	}
	conn, err := script.Connect(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connect to %s as %s: %w", database, OwnerRole, err)
	}
	defer conn.Close(ctx)
	_, err = script.Run(ctx, conn, step)
	return err
}

// ownership holds, for each database of this process, an advisory lock whose
// session ends with the process: a database whose lock is free is nobody's.
type ownership struct {
	mu   sync.Mutex
	conn *pgx.Conn
}

func newOwnership(ctx context.Context, cfg *pgx.ConnConfig) (*ownership, error) {
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect for the locks of databases: %w", err)
	}
	return &ownership{conn: conn}, nil
}

func (o *ownership) add(ctx context.Context, name string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, err := o.conn.Exec(ctx, "select pg_advisory_lock(hashtextextended($1, 0))", name)
	if err != nil {
		return fmt.Errorf("lock database %s: %w", name, err)
	}
	return nil
}

func (o *ownership) remove(ctx context.Context, name string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, err := o.conn.Exec(ctx, "select pg_advisory_unlock(hashtextextended($1, 0))", name)
	if err != nil {
		return fmt.Errorf("unlock database %s: %w", name, err)
	}
	return nil
}

// tryAdd is add for a database that may have an owner.
func (o *ownership) tryAdd(ctx context.Context, name string) (free bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	err = o.conn.QueryRow(ctx, "select pg_try_advisory_lock(hashtextextended($1, 0))", name).Scan(&free)
	return free, err
}

// sweep drops the databases of processes that were killed.
func (s *server) sweep(ctx context.Context) error {
	rows, err := s.admin.Query(ctx, `select datname from pg_database where starts_with(datname, $1)`, clonePrefix)
	if err != nil {
		return fmt.Errorf("look for databases of killed processes: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for databases of killed processes: %w", err)
	}
	for _, name := range names {
		free, err := s.owned.tryAdd(ctx, name)
		if err != nil {
			return fmt.Errorf("lock database %s: %w", name, err)
		}
		if !free {
			continue
		}
		if err := errors.Join(s.drop(ctx, name), s.owned.remove(ctx, name)); err != nil {
			return err
		}
	}
	return nil
}
