// Package locks records which locks a SQL file takes, transaction by transaction, also those in the midst of a procedure
// that commits as it goes.
//
// Who looks now and then misses what is short. So the file runs on a server that waits, at each commit, for a standby
// that does not exist ([Settings]): a transaction that has been written down and still holds all of its locks. The
// recorder reads them, and lets the session go on. It runs serializably, because such a transaction notes for itself
// which tables it has read from beginning to end.
package locks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// Settings are those of a server on which [Record] works. Sessions that are not recorded do not wait for the standby, as
// long as their synchronous_commit is off.
var Settings = []string{
	"wal_level=replica", "max_wal_senders=1", "synchronous_standby_names=nobody", "synchronous_commit=off",
	"max_pred_locks_per_relation=10000", "max_pred_locks_per_page=100", "autovacuum=off",
}

// Lock is one that a transaction held when it ended, on a table that was there before it.
//
// A transaction that only locks, writes nothing, and is inside of a procedure is seen if its lock is an
// AccessExclusiveLock. What reads its table and does not say so: an index that is built without CONCURRENTLY, with a
// ShareLock; and a foreign key that is checked along an index.
type Lock struct {
	Relation string // "public.agents"
	Mode     string // the strongest on it: "AccessExclusiveLock"
	Reads    bool   // the transaction read the table from beginning to end, or wrote it anew, under the lock or before

	Line    int           // of the statement that took it
	Section string        // the heading above that line: "-- Columns -----"
	Held    time.Duration // an upper bound: since the transaction began
}

// modes are the modes that others notice who neither alter nor drop the table, the strongest last, with whom they stop.
var modes = []struct{ name, stops string }{
	{"ShareUpdateExclusiveLock", "vacuum and other migrations"},
	{"ShareLock", "writers"},
	{"ShareRowExclusiveLock", "writers"},
	{"ExclusiveLock", "writers"},
	{"AccessExclusiveLock", "readers and writers"},
}

func strength(mode string) int {
	for i, m := range modes {
		if m.name == mode {
			return i + 1
		}
	}
	return 0
}

// Stops says whom a lock keeps waiting.
func (l Lock) Stops() string { return modes[strength(l.Mode)-1].stops }

// What is the lock without where it comes from: "AccessExclusiveLock, reads all rows".
func (l Lock) What() string {
	if l.Reads {
		return l.Mode + ", reads all rows"
	}
	return l.Mode
}

// Record runs f as cfg says, on a server with [Settings], and returns the locks that others may notice, in the order in
// which they were taken. super is a superuser's connection to the same database.
func Record(ctx context.Context, cfg *pgx.ConnConfig, super *pgx.Conn, f schema.File) ([]Lock, error) {
	cfg = cfg.Copy()
	for name, value := range map[string]string{
		"synchronous_commit": "on", "default_transaction_isolation": "serializable",
		// A table of a few rows is read from beginning to end only where no index would do. That counts as so dear then
		// that the server would compile the query for it.
		"enable_seqscan": "off", "jit": "off",
	} {
		cfg.RuntimeParams[name] = value
	}
	conn, err := script.Connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	// A query that is cancelled would take the connection with it.
	r := &recorder{ctx: context.WithoutCancel(ctx), super: super, pid: conn.PgConn().PID(), sections: sections(f.SQL), open: map[string]Lock{}}
	ended, attended := make(chan struct{}), make(chan error, 1)
	go func() { attended <- r.attend(ended) }()
	f.SQL = notAtOnce.ReplaceAllString(f.SQL, "synchronous_commit = on")
	_, err = script.Runner{Report: r.hear}.Run(ctx, conn, f)
	close(ended)
	if err := errors.Join(err, <-attended, r.err); err != nil {
		return nil, err
	}
	return r.all, nil
}

// notAtOnce is how a file says that its commits need not be on the disk. They would not be stopped at.
var notAtOnce = regexp.MustCompile(`\bsynchronous_commit\s*(?:=|\bto\b)\s*\w+`)

type recorder struct {
	ctx      context.Context
	super    *pgx.Conn
	pid      uint32
	sections []string // by line, from 0

	mu       sync.Mutex      // for super, too
	line     int             // of the current statement
	current  string          // the transaction that was looked at last
	released string          // the latest that was let go at its commit
	open     map[string]Lock // of the current transaction, by relation
	all      []Lock
	err      error
}

// hear looks after each statement of a transaction, while the session waits for the next one.
func (r *recorder) hear(e script.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e := e.(type) {
	case script.Statement:
		r.line = e.Line
	case script.Step:
		_, err := r.look()
		r.err = errors.Join(r.err, err)
	case script.Transaction:
		r.end()
	}
}

// attend stands at the commits until the file has ended.
func (r *recorder) attend(ended <-chan struct{}) error {
	for {
		if err := r.stand(); err != nil {
			return err
		}
		select {
		case <-ended:
			return nil
		case <-time.After(time.Millisecond):
		}
	}
}

// stand lets the session go on that waits at a commit, once its locks are written down.
func (r *recorder) stand() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// This is cheap to ask, and the other question is not: it is about all locks of the server.
	if waits, err := r.waits(); err != nil || !waits {
		return err
	}
	before, err := r.look()
	if err != nil {
		return err
	}
	waits, err := r.waits()
	if err != nil {
		return err
	}
	after, err := r.look()
	// One that has been let go may not have noticed yet: to be told twice would cancel what comes next.
	if err != nil || !waits || before != after || after == r.released {
		return err
	}
	r.released = after
	r.end()
	// Its commit is done: what is cancelled is the waiting.
	_, err = r.super.Exec(r.ctx, "select pg_catalog.pg_cancel_backend($1)", r.pid)
	return err
}

func (r *recorder) waits() (waits bool, err error) {
	err = r.super.QueryRow(r.ctx, `
		select coalesce(bool_or(wait_event = 'SyncRep'), false) from pg_catalog.pg_stat_get_activity($1)`, r.pid).Scan(&waits)
	if err != nil {
		return false, fmt.Errorf("ask whether the session waits: %w", err)
	}
	return waits, nil
}

// look adds the locks that are held to those of the open transaction, and returns its name. What is not committed is not
// in the catalog that the other session sees.
func (r *recorder) look() (transaction string, err error) {
	rows, _ := r.super.Query(r.ctx, `
		select l.virtualtransaction, coalesce(n.nspname || '.' || c.relname, ''), l.mode,
			coalesce(extract(epoch from clock_timestamp() - a.xact_start), 0)::float8
		from pg_catalog.pg_locks l
		join pg_catalog.pg_stat_get_activity($1) a on a.pid = l.pid
		left join pg_catalog.pg_class c on l.locktype = 'relation' and c.oid = l.relation and c.relkind in ('r', 'p', 'm', 'v')
		left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where l.granted and (l.locktype = 'virtualxid' or n.nspname = 'public')
		  and l.virtualtransaction not like '%/0' -- between two transactions
		order by l.mode = 'SIReadLock'`, r.pid)
	var relation, mode string
	var seconds float64
	_, err = pgx.ForEachRow(rows, []any{&transaction, &relation, &mode, &seconds}, func() error {
		if transaction != r.current {
			r.current = transaction
			clear(r.open)
		}
		if relation == "" || transaction == r.released {
			return nil
		}
		l := r.open[relation]
		if mode == "SIReadLock" {
			l.Reads = true
		} else if strength(mode) > strength(l.Mode) {
			l.Relation, l.Mode, l.Line, l.Section = relation, mode, r.line, r.sections[r.line-1]
		}
		l.Held = time.Duration(seconds * float64(time.Second))
		r.open[relation] = l
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read the locks: %w", err)
	}
	return transaction, nil
}

// end keeps the locks of a transaction.
func (r *recorder) end() {
	var noticed []Lock
	for _, l := range r.open {
		if strength(l.Mode) > 0 {
			noticed = append(noticed, l)
		}
	}
	slices.SortFunc(noticed, func(a, b Lock) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Relation, b.Relation)) })
	r.all = append(r.all, noticed...)
	clear(r.open)
}

var heading = regexp.MustCompile(`^-- (.*?) -{5,}$`)

// sections are the headings above each line of a file. What comes behind the end of its last transaction is not in it.
func sections(sql string) []string {
	lines := strings.Split(sql, "\n")
	last := len(lines)
	for i, line := range lines {
		if strings.TrimSpace(line) == "commit;" {
			last = i
		}
	}
	all, current := make([]string, len(lines)), "Before the first heading"
	for i, line := range lines {
		if found := heading.FindStringSubmatch(line); found != nil {
			current = found[1]
		}
		if i == last+1 {
			current = "After the transaction"
		}
		all[i] = current
	}
	return all
}
