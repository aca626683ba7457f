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
	"time"

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
	steps []step // what leads from an empty database to this one, in order
}

// step is a part of a recipe: a SQL file, which the owner runs, or an [Origin].
type step interface {
	identity() string
	run(ctx context.Context, s *Server, database string) error
}

type file schema.File

func (f file) identity() string { return fmt.Sprintf("%s %d\n%s", f.Path, len(f.SQL), f.SQL) }

func (f file) run(ctx context.Context, s *Server, database string) error {
	return s.connected(ctx, database, OwnerRole, func(conn *pgx.Conn) error {
		_, err := script.Run(ctx, conn, schema.File(f))
		return err
	})
}

func (o Origin) identity() string { return "origin " + o.Identity }

func (o Origin) run(ctx context.Context, s *Server, database string) error {
	return s.connected(ctx, database, "", func(conn *pgx.Conn) error { return o.Build(ctx, conn) })
}

// recipeFor returns the baseline, or what is given in its place, and the migrations up
// to phase, each followed by its seeds.
func recipeFor(origin *Origin, phase schema.Phase, seeds []Seed) (recipe, error) {
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
		if p == schema.Legacy && origin != nil {
			r.steps = append(r.steps, *origin)
		} else {
			read := schema.Baseline
			if p > schema.Legacy {
				read = func() (schema.File, error) { return schema.Migration(p) }
			}
			f, err := read()
			if err != nil {
				return recipe{}, err
			}
			r.steps = append(r.steps, file(f))
		}
		for _, seed := range seeds {
			if seed.After == p {
				r.steps = append(r.steps, file{Path: seed.Name, Origin: "seed " + seed.Name, SQL: seed.SQL})
			}
		}
	}
	return r, nil
}

// template names the template by all that goes into it.
func (r recipe) template() string {
	sum := sha256.New()
	// Phase 3 makes the audit log's months from the present one on.
	fmt.Fprint(sum, time.Now().UTC().Format("2006-01"))
	for _, step := range r.steps {
		fmt.Fprint(sum, step.identity())
	}
	return templatePrefix + hex.EncodeToString(sum.Sum(nil))[:16]
}

// create makes a database of one's own.
func (s *Server) create(ctx context.Context, r recipe) (*DB, error) {
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
		return nil, errors.Join(err, db.Close(context.WithoutCancel(ctx)))
	}
	if db.Owner, err = s.pool(ctx, name, OwnerRole); err == nil {
		db.Superuser, err = s.pool(ctx, name, "")
	}
	if err != nil {
		return nil, errors.Join(err, db.Close(context.WithoutCancel(ctx)))
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

// drop drops a database, and ends the sessions that are still in it. One that was
// closed just now takes a thousandth of a second to end; DROP DATABASE, which looks
// once in a tenth of a second, must not be the one that waits for it.
func (s *Server) drop(ctx context.Context, name string) error {
	for attempts, left := 0, -1; attempts < 5000 && left != 0; attempts++ {
		if left > 0 {
			time.Sleep(200 * time.Microsecond)
		}
		err := s.admin.QueryRow(ctx, `select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = $1`, name).Scan(&left)
		if err != nil {
			return fmt.Errorf("end the sessions in database %s: %w", name, err)
		}
	}
	if _, err := s.admin.Exec(ctx, "drop database if exists "+quote(name)+" with (force)"); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

// clone copies a template, and the template's privileges on the database, which
// CREATE DATABASE leaves behind and phase 4 changes. Copying files beats writing
// every page to the log, the more so without fsync.
func (s *Server) clone(ctx context.Context, name, template string) error {
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

// template returns the name of the recipe's template, "" for an empty one, built by
// whoever comes first; the others wait for it. It counts as complete once it is
// marked as a template, which happens last: what is not marked is left over from a
// killed build, and starts anew. One that has been used is kept for a day more; this
// is written down so seldom that it costs nothing.
func (s *Server) template(ctx context.Context, r recipe) (name string, err error) {
	if len(r.steps) == 0 {
		return "", nil
	}
	name = r.template()
	look := func() (complete, fresh bool, err error) {
		err = s.admin.QueryRow(ctx, `select count(*) > 0, coalesce(bool_and(`+keptUntil+` > $2), false) from pg_database d where datname = $1 and datistemplate`,
			name, time.Now().Add(templateLife-time.Hour)).Scan(&complete, &fresh)
		return complete, fresh, err
	}
	if _, fresh, err := look(); err != nil || fresh {
		return name, err
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
	// Under the lock, so that nobody sweeps it meanwhile.
	complete, _, err := look()
	if err != nil {
		return "", err
	}
	if complete {
		_, err := s.keep(ctx, name, templateLife)
		return name, err
	}

	before, err := s.template(ctx, recipe{steps: r.steps[:len(r.steps)-1]})
	if err != nil {
		return "", err
	}
	if err := s.drop(ctx, name); err != nil {
		return "", err
	}
	if err := s.clone(ctx, name, before); err != nil {
		return "", err
	}
	err = r.steps[len(r.steps)-1].run(ctx, s, name)
	if err == nil {
		_, err = s.keep(ctx, name, templateLife)
	}
	if err != nil {
		return "", errors.Join(err, s.drop(context.WithoutCancel(ctx), name))
	}
	// In one statement, so that nobody connects to a template and blocks its copying.
	if _, err := s.admin.Exec(ctx, "alter database "+quote(name)+" with is_template true allow_connections false"); err != nil {
		return "", fmt.Errorf("mark template %s: %w", name, err)
	}
	return name, nil
}

// connected runs f with a session in a database, as one of the roles of this package or,
// for "", the superuser.
func (s *Server) connected(ctx context.Context, database, role string, f func(*pgx.Conn) error) error {
	cfg, err := pgx.ParseConfig(s.url(database, role))
	if err != nil {
		return err
	}
	conn, err := script.Connect(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connect to %s as %s: %w", database, cfg.User, err)
	}
	defer conn.Close(ctx)
	return f(conn)
}

// How long a database is kept beyond its use.
const (
	failedLife   = 30 * time.Minute // of a failed test, to be looked at
	templateLife = 24 * time.Hour
)

// keptUntil is the time that [server.keep] wrote, in a query on pg_database d.
const keptUntil = `coalesce(substring(shobj_description(d.oid, 'pg_database') from '^kept until (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)$')::timestamptz, '-infinity')`

// keep sees to it that a database is not swept for a while, and that a server which
// would stop stays for one of a test. The time is in a comment on the database: it
// outlives this process, and goes with the database.
func (s *Server) keep(ctx context.Context, name string, life time.Duration) (until time.Time, err error) {
	until = time.Now().Add(life).Truncate(time.Second)
	_, err = s.admin.Exec(ctx, fmt.Sprintf("comment on database %s is 'kept until %s'", quote(name), until.UTC().Format(time.RFC3339)))
	if err != nil {
		return until, fmt.Errorf("keep database %s: %w", name, err)
	}
	return until, nil
}

// ownership holds, for each database of this process, an advisory lock whose
// session ends with the process: a database whose lock is free is nobody's.
type ownership struct {
	mu   sync.Mutex
	conn *pgx.Conn
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

// sweep drops the databases of processes that were killed, those of failed tests
// that were kept for long enough, and templates that nobody has used for a day.
func (s *Server) sweep(ctx context.Context) error {
	const over = ` from pg_database d where (starts_with(datname, '` + clonePrefix + `') or starts_with(datname, '` + templatePrefix + `')) and ` +
		keptUntil + ` <= now()`
	rows, err := s.admin.Query(ctx, `select datname`+over)
	if err != nil {
		return fmt.Errorf("look for databases that nobody needs: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for databases that nobody needs: %w", err)
	}
	for _, name := range names {
		free, err := s.owned.tryAdd(ctx, name)
		if err != nil {
			return fmt.Errorf("lock database %s: %w", name, err)
		}
		if !free {
			continue
		}
		// It may have been used, or dropped, before it was locked.
		var still, template bool
		err = s.admin.QueryRow(ctx, `select true, datistemplate`+over+` and datname = $1`, name).Scan(&still, &template)
		if errors.Is(err, pgx.ErrNoRows) {
			err = nil
		}
		if err == nil && template {
			_, err = s.admin.Exec(ctx, "alter database "+quote(name)+" with is_template false")
		}
		if err == nil && still {
			err = s.drop(ctx, name)
		}
		if err := errors.Join(err, s.owned.remove(ctx, name)); err != nil {
			return fmt.Errorf("sweep database %s: %w", name, err)
		}
	}
	return nil
}
