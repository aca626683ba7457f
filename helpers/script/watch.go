package script

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// How often the watch looks at locks, and how long it rests in any case, in times of what a look took, so that on a
// server where looking is dear it does not look all the time.
const (
	lookEvery = 10 * time.Millisecond
	restTimes = 4
)

// A wait that has lasted longer than this is reported, with who is in the way; and then every while. The phases themselves
// wait for a tenth of a second at a time.
const (
	waitingLong  = 50 * time.Millisecond
	waitingAgain = 10 * time.Second
	askAgain     = 100 * time.Millisecond // at the earliest
)

// Waiting is a wait for a lock that has lasted for some time.
type Waiting struct {
	For      Lock // Waited is until now
	Blockers []Blocker
}

// watch looks at the locks of a session from another one. Its methods may be called on nil, where nobody looks.
type watch struct {
	conn   *pgx.Conn
	pid    uint32
	report func(Event)
	cancel context.CancelFunc
	ctx    context.Context
	done   chan struct{}

	mu         sync.Mutex // for conn, too
	statements []statementLocks
	seen       map[sighting]*span
	last       time.Time // when the last look began
	resolution time.Duration
	err        error

	blockers []Blocker // of the latest wait of the current statement
	asked    time.Time // when they were looked for
	told     time.Time
	progress progress
}

// statementLocks are of one statement of the current transaction.
type statementLocks struct {
	began time.Time
	locks locks
}

// sighting is what a look shows.
type sighting struct {
	Transaction string
	Relation    string
	Mode        string
	Granted     bool
	Awaited     string // the row's transaction, which another one may follow
}

// span is since when a lock is held or waited for, by which statement.
type span struct {
	statement int
	since     time.Time
}

func startWatch(ctx context.Context, conn *pgx.Conn, report func(Event)) (*watch, error) {
	// What the protocol says is the pooler's number, behind one.
	var pid uint32
	if err := conn.QueryRow(ctx, "select pg_backend_pid()").Scan(&pid); err != nil {
		return nil, err
	}
	cfg := conn.Config()
	cfg.OnNotice = nil
	cfg.RuntimeParams["application_name"] = fmt.Sprintf("%s (watches %d)", cfg.RuntimeParams["application_name"], pid)
	second, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	w := &watch{conn: second, pid: pid, report: report, done: make(chan struct{}), seen: map[sighting]*span{}}
	w.progress = progress{pid: pid, marks: map[string]*mark{}}
	w.ctx, w.cancel = context.WithCancel(ctx)
	if err := w.prepare(ctx); err != nil {
		w.cancel()
		return nil, errors.Join(err, second.Close(ctx))
	}
	go w.loop()
	return w, nil
}

// prepare sees to it that there is something to look at, and looks once, which takes much longer than to look again.
func (w *watch) prepare(ctx context.Context) error {
	var same bool
	err := w.conn.QueryRow(ctx, "select exists (select from pg_catalog.pg_stat_activity where pid = $1)", w.pid).Scan(&same)
	if err != nil {
		return err
	}
	if !same {
		return errors.New("it leads to another server than the first")
	}
	if _, err := w.conn.Exec(ctx, lookSQL, w.pid); err != nil {
		return err
	}
	if _, err := w.progress.look(ctx, w.conn); err != nil {
		return err
	}
	w.last = time.Now()
	return nil
}

// loop looks until it is stopped.
func (w *watch) loop() {
	defer close(w.done)
	for {
		start := time.Now()
		w.look()
		rest := max(lookEvery, restTimes*time.Since(start))
		for _, e := range w.events() {
			w.report(e)
		}
		select {
		case <-w.ctx.Done():
			return
		case <-time.After(rest):
		}
	}
}

// stop ends the looking, and says how exact it was.
func (w *watch) stop() (time.Duration, error) {
	if w == nil {
		return 0, nil
	}
	w.cancel()
	<-w.done
	_ = w.conn.Close(context.WithoutCancel(w.ctx))
	return w.resolution, w.err
}

// begin says that a statement is about to be sent, and returns when it was.
func (w *watch) begin() time.Time {
	if w == nil {
		return time.Now()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.statements = append(w.statements, statementLocks{began: now, locks: locks{}})
	w.blockers, w.asked, w.told = nil, time.Time{}, time.Time{}
	return now
}

// lockless are commands that lock no table, or only against being dropped.
var lockless = []string{
	"BEGIN", "SET", "RESET", "CREATE SCHEMA", "CREATE FUNCTION", "CREATE PROCEDURE", "GRANT", "REVOKE", "ALTER DEFAULT PRIVILEGES",
}

// sent says that a statement has ended, and its transaction has not: whatever it has locked is locked now.
func (w *watch) sent(tag string) {
	if w != nil && !slices.Contains(lockless, tag) {
		w.look()
	}
}

// end says that the transaction of these statements has ended, gives each its locks, and returns who was in the way
// of the last one.
func (w *watch) end(steps []Step, ended time.Time) []Blocker {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.seen {
		w.gone(s, ended)
	}
	for i := range steps {
		steps[i].Locks = w.statements[i].locks.sorted()
	}
	w.statements = nil
	return w.blockers
}

// gone notes that a lock is not waited for, or held, any more.
func (w *watch) gone(s sighting, now time.Time) {
	span := w.seen[s]
	delete(w.seen, s)
	l := Lock{Relation: s.Relation, Mode: s.Mode}
	if s.Granted {
		l.Held = now.Sub(span.since)
	} else {
		l.Waited = now.Sub(span.since)
	}
	w.statements[span.statement].locks.add(l)
}

// A row is waited for by its transaction, and by a lock on the tuple that says which relation it is of. Locks on system
// tables nobody waits for but who migrates, too; what is not committed nobody else can wait for, and it is not in the
// catalog that this session sees.
const lookSQL = `
	select l.virtualtransaction,
		coalesce(
			n.nspname || '.' || c.relname,
			(select tn.nspname || '.' || tc.relname
			 from pg_catalog.pg_locks t
			 join pg_catalog.pg_class tc on tc.oid = t.relation
			 join pg_catalog.pg_namespace tn on tn.oid = tc.relnamespace
			 where t.pid = l.pid and t.locktype = 'tuple' and l.locktype = 'transactionid'
			 limit 1),
			l.locktype),
		case when l.locktype in ('transactionid', 'tuple') then 'row' else l.mode end,
		l.granted,
		coalesce(l.transactionid::text, '')
	from pg_catalog.pg_locks l
	left join pg_catalog.pg_class c on c.oid = l.relation
	left join pg_catalog.pg_namespace n on n.oid = c.relnamespace
	where l.pid = $1
	  and (not l.granted
	       or l.locktype = 'relation' and c.relkind in ('r', 'p', 'm', 'v') and n.nspname not in ('pg_catalog', 'pg_toast'))`

// look looks once.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || len(w.statements) == 0 {
		w.last = time.Now()
		return
	}
	start := time.Now()
	rows, _ := w.conn.Query(w.ctx, lookSQL, w.pid)
	there, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sighting])
	now := time.Now()
	if err != nil {
		w.fail(err)
		return
	}
	current, waits := len(w.statements)-1, false
	for _, s := range there {
		waits = waits || !s.Granted
		if w.seen[s] == nil {
			w.seen[s] = &span{current, latest(w.last, w.statements[current].began)}
		}
	}
	for s := range w.seen {
		if !slices.Contains(there, s) {
			w.gone(s, now)
		}
	}
	w.resolution = max(w.resolution, now.Sub(w.last))
	w.last = start
	if waits && now.Sub(w.asked) > askAgain {
		w.ask()
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

const blockersSQL = `
	select b.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
		coalesce(a.query_start, 'epoch'), coalesce(a.query, '')
	from (select distinct pid from unnest(pg_blocking_pids($1)) as b (pid)) as b
	left join pg_catalog.pg_stat_activity a on a.pid = b.pid
	order by b.pid`

// ask finds out who is in the way. It is asked while somebody waits only: the server looks at all locks for it.
func (w *watch) ask() {
	w.asked = time.Now()
	rows, _ := w.conn.Query(w.ctx, blockersSQL, w.pid)
	blockers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Blocker])
	if err != nil {
		w.fail(err)
		return
	}
	for i := range blockers {
		blockers[i].Query = FirstLine(blockers[i].Query)
	}
	if len(blockers) > 0 {
		w.blockers = blockers
	}
}

// fail notes why nobody looks any more. The migration goes on.
func (w *watch) fail(err error) {
	if w.ctx.Err() == nil {
		w.err = err
	}
}

// events are what there is to report.
func (w *watch) events() []Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil
	}
	var events []Event
	now := time.Now()
	for s, span := range w.seen {
		waited := now.Sub(span.since)
		if s.Granted || waited < waitingLong || now.Sub(w.told) < waitingAgain {
			continue
		}
		w.told = now
		events = append(events, Waiting{Lock{Relation: s.Relation, Mode: s.Mode, Waited: waited}, slices.Clone(w.blockers)})
	}
	made, err := w.progress.look(w.ctx, w.conn)
	if err != nil {
		w.fail(err)
	}
	for _, p := range made {
		events = append(events, p)
	}
	return events
}
