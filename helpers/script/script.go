// Package script runs a SQL file the way `psql -v ON_ERROR_STOP=1 -f` does:
// statement by statement over the simple protocol, each in its own transaction
// unless the file says BEGIN, so that procedures may COMMIT and indexes may be
// built CONCURRENTLY. Unlike psql it says, for an error, the file and the line.
//
// Of psql's meta-commands there are two, each alone on its line: \gexec ends the query
// before it (in place of ';'), and each non-null cell of the result is run, row by row;
// "\set ON_ERROR_STOP on", between statements, lets the file say it to psql by itself.
//
// A [Runner] does more than psql: it runs again what could not get a lock, and looks on from a second connection.
package script

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vital-health/tenancy/schema"
)

// Log is what [Run] did.
type Log struct {
	File    string    // origin of the file
	Steps   []Step    // in the order in which they ran
	Refused []Attempt // what could not get a lock, in the order in which it ran

	// Resolution is the longest time that passed between two looks at the locks, and so how exact they are; see [Lock].
	// 0 if nobody looked.
	Resolution time.Duration
	// WatchErr is why nobody looked from some time on: what there is of locks is then not all.
	WatchErr error
}

// Step is one statement that succeeded. A query that ends in \gexec is a step, and each
// statement it produced is one after it.
type Step struct {
	Line     int    // of the statement's first character in the file; for one from \gexec, of its query
	SQL      string // as sent
	Duration time.Duration
	Tag      string   // command tag: "CREATE TABLE", "UPDATE 12"
	Notices  []string // "NOTICE: text", in order; see Connect
	Locks    []Lock   // that the statement took or waited for; see Runner.Watch
}

// Attempt is a transaction that could not get a lock, and of which nothing was kept.
type Attempt struct {
	From     int    // line of the statement that began it
	Steps    []Step // its statements; the last one was refused
	Err      error  // by the server
	Blockers []Blocker
	Pause    time.Duration // before it was run again; 0 if it was not
}

// Locks are all locks of a run, those of attempts that were refused included: of each relation and mode the longest wait
// and the longest hold.
func (l *Log) Locks() []Lock {
	longest := locks{}
	for _, step := range l.Steps {
		longest.add(step.Locks...)
	}
	for _, attempt := range l.Refused {
		for _, step := range attempt.Steps {
			longest.add(step.Locks...)
		}
	}
	return longest.sorted()
}

// Event is what [Runner.Report] hears: a [Statement] is about to be sent, a [Notice] came, a [Step] has succeeded, its
// [Transaction] has ended or, as an [Attempt], was refused; in between, it is [Waiting], or makes [Progress].
type Event interface{ event() }

// Notice is "NOTICE: text", as it comes.
type Notice string

// Transaction is the statements of one that was committed, with their locks; or one statement that is one, or many, by itself.
type Transaction []Step

func (Statement) event()   {}
func (Notice) event()      {}
func (Step) event()        {}
func (Transaction) event() {}
func (Attempt) event()     {}
func (Waiting) event()     {}
func (Progress) event()    {}

// noticesKey is where [Connect] leaves the collector of a connection's notices.
const noticesKey = "tenancy/script/notices"

// Connect is [pgx.ConnectConfig] for a connection on which [Run] can see notices; pgx
// takes a notice handler at connect time only. A handler that cfg has is called too.
func Connect(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	cfg = cfg.Copy()
	next := cfg.OnNotice
	cfg.OnNotice = func(c *pgconn.PgConn, n *pgconn.Notice) {
		if collect, ok := c.CustomData()[noticesKey].(func(string)); ok {
			collect(n.Severity + ": " + n.Message)
		}
		if next != nil {
			next(c, n)
		}
	}
	return pgx.ConnectConfig(ctx, cfg)
}

// Runner is how a file is run. The zero value runs it as [Run] does.
type Runner struct {
	// Patience is for how long, since its first attempt, a transaction is run again that could not get a lock, or was chosen to
	// end a deadlock: from the statement that began it, after pauses that grow. So is a statement that is a transaction by itself. A procedure,
	// a block or what runs CONCURRENTLY is not: part of it may be done. 0 is not at all.
	Patience time.Duration
	// Watch looks on from a second connection, as the same role: at locks, at who blocks, at progress.
	Watch bool
	// Report hears of everything as it happens, of one thing at a time, by more than one goroutine. It may be nil.
	Report func(Event)
}

// Run runs a file on conn. Settings the file makes (SET, SET ROLE) outlive it, as they
// would in psql's session: give it a connection of its own. Notices are logged if
// conn was made by [Connect].
//
// The first statement that fails ends the run with an [*Error]; a transaction that is
// open then is rolled back, so nothing in it is half-applied and conn stays usable
// (unless ctx has ended or the connection broke). The log has the steps up to there.
// A file that ends inside a transaction is such an error too, where psql would lose
// the transaction without a word.
func Run(ctx context.Context, conn *pgx.Conn, f schema.File) (*Log, error) {
	return Runner{}.Run(ctx, conn, f)
}

// Run is [Run] with what the runner has in addition.
func (runner Runner) Run(ctx context.Context, conn *pgx.Conn, f schema.File) (*Log, error) {
	statements, err := Split(f)
	if err != nil {
		return &Log{File: f.Origin}, err
	}
	r := run{Runner: runner, conn: conn.PgConn(), log: &Log{File: f.Origin}, origin: f.Origin}
	if status := r.conn.TxStatus(); status != 'I' {
		return r.log, fmt.Errorf("run %s: the connection is inside a transaction (status %c): it must be idle", f.Origin, status)
	}
	if r.Watch {
		if r.watch, err = startWatch(ctx, conn, r.report); err != nil {
			return r.log, fmt.Errorf("run %s: look on from a second connection: %w", f.Origin, err)
		}
		defer func() { r.log.Resolution, r.log.WatchErr = r.watch.stop() }()
	}
	began := 0 // the statement that began the transaction
	for i := 0; i < len(statements); i++ {
		if r.conn.TxStatus() == 'I' {
			began = i
		}
		err := r.statement(ctx, statements[i])
		switch {
		case err == nil:
		case began < i && r.again(ctx, err):
			i = began - 1
		default:
			return r.log, r.abandon(ctx, err)
		}
	}
	if r.conn.TxStatus() != 'I' {
		return r.log, r.abandon(ctx, &Error{
			Origin: f.Origin, Line: statements[began].Line,
			Err: errors.New("the transaction that begins here is never committed: nothing of it was kept"),
		})
	}
	return r.log, nil
}

type run struct {
	Runner
	conn      *pgconn.PgConn
	log       *Log
	origin    string
	watch     *watch // nil if nobody looks on
	reporting sync.Mutex

	// Of the current transaction:
	kept     int                         // how many steps were there before it
	partial  bool                        // a part of it is committed already: COMMIT AND CHAIN
	attempts int                         // how often it was refused a lock
	pauses   *backoff.ExponentialBackOff // since its first attempt
}

func (r *run) report(e Event) {
	if r.Report != nil {
		r.reporting.Lock()
		defer r.reporting.Unlock()
		r.Report(e)
	}
}

func (r *run) statement(ctx context.Context, s Statement) error {
	// The cut of the file assumes it, as does every escape in our SQL.
	if r.conn.ParameterStatus("standard_conforming_strings") == "off" {
		return &Error{Origin: r.origin, Line: s.Line, SQL: s.SQL, Err: errors.New("standard_conforming_strings is off: it must be on")}
	}
	result, err := r.send(ctx, s)
	if err != nil {
		return r.newError(s, err)
	}
	if !s.Gexec {
		return nil
	}
	for _, row := range result.Rows {
		for _, cell := range row {
			if cell == nil {
				continue
			}
			produced := Statement{Line: s.Line, SQL: string(cell)}
			if _, err := Split(schema.File{Origin: r.origin, SQL: produced.SQL}); err != nil {
				if e, ok := errors.AsType[*Error](err); ok {
					err = e.Err
				}
				return &Error{Origin: r.origin, Line: s.Line, SQL: produced.SQL, Err: fmt.Errorf("statement from \\gexec: %w", err)}
			}
			if _, err := r.send(ctx, produced); err != nil {
				e := r.newError(produced, err)
				// Lines inside a produced statement are not lines of the file.
				e.Line = s.Line
				return e
			}
		}
	}
	return nil
}

// send sends a statement; one that is a transaction by itself as often as it takes.
func (r *run) send(ctx context.Context, s Statement) (*pgconn.Result, error) {
	for {
		alone := r.conn.TxStatus() == 'I'
		result, err := r.sendOnce(ctx, s)
		if err == nil || !alone || !s.atomic() || !r.again(ctx, err) {
			return result, err
		}
	}
}

// sendOnce sends one message of the simple protocol, logs it, and returns its last result.
func (r *run) sendOnce(ctx context.Context, s Statement) (*pgconn.Result, error) {
	if r.conn.TxStatus() == 'I' {
		r.kept, r.partial = len(r.log.Steps), false
		if r.pauses == nil {
			r.pauses = backoff.NewExponentialBackOff(backoff.WithInitialInterval(firstPause),
				backoff.WithMaxInterval(longestPause), backoff.WithMaxElapsedTime(r.Patience))
		}
	}
	step := Step{Line: s.Line, SQL: s.SQL}
	r.conn.CustomData()[noticesKey] = func(notice string) {
		step.Notices = append(step.Notices, notice)
		r.report(Notice(notice))
	}
	defer delete(r.conn.CustomData(), noticesKey)
	r.report(s)
	began := r.watch.begin()
	results, err := r.conn.Exec(ctx, s.SQL).ReadAll()
	ended := time.Now()
	step.Duration = ended.Sub(began)
	last := &pgconn.Result{}
	if len(results) > 0 {
		last = results[len(results)-1]
	}
	step.Tag = last.CommandTag.String()
	switch {
	case err != nil:
		r.refused(step, ended, err)
		return nil, err
	case r.conn.TxStatus() == 'I':
		r.log.Steps = append(r.log.Steps, step)
		r.report(step)
		steps := r.log.Steps[r.kept:]
		r.watch.end(steps, ended)
		r.attempts, r.pauses = 0, nil
		r.report(Transaction(slices.Clone(steps)))
	default:
		r.log.Steps = append(r.log.Steps, step)
		r.watch.sent(step.Tag)
		r.partial = r.partial || s.endsTransaction()
		r.report(step)
	}
	return last, nil
}

// refused notes the transaction that a statement has ended by failing, if that is for want of a lock.
func (r *run) refused(step Step, ended time.Time, err error) {
	steps := append(slices.Clone(r.log.Steps[r.kept:]), step)
	blockers := r.watch.end(steps, ended)
	if wantsLock(err) {
		r.attempts++
		r.log.Refused = append(r.log.Refused, Attempt{From: steps[0].Line, Steps: steps, Err: err, Blockers: blockers})
	}
}

// again says, after a pause, whether the transaction that a lock was refused to is to be run again.
func (r *run) again(ctx context.Context, err error) bool {
	if r.Patience == 0 || r.partial || !wantsLock(err) {
		return false
	}
	pause := r.pauses.NextBackOff()
	if pause == backoff.Stop {
		return false
	}
	if r.conn.TxStatus() != 'I' {
		if _, err := r.conn.Exec(ctx, "rollback").ReadAll(); err != nil {
			return false
		}
	}
	r.log.Steps = r.log.Steps[:r.kept]
	attempt := &r.log.Refused[len(r.log.Refused)-1]
	attempt.Pause = pause
	r.report(*attempt)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
		return true
	}
}

// Pauses between attempts start here, grow by half, and vary by half.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 10 * time.Second
)

// wantsLock says whether what failed had to wait too long for a lock, or for each other.
func wantsLock(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains([]string{"55P03", "40P01"}, pg.Code) // lock_not_available, deadlock_detected
}

// newError is the error of a statement that the server refused.
func (r *run) newError(s Statement, err error) *Error {
	e := newError(r.origin, s, err)
	if wantsLock(err) {
		e.Attempts = r.attempts
		e.Blockers = r.log.Refused[len(r.log.Refused)-1].Blockers
	}
	return e
}

// abandon rolls back what is open and returns err.
func (r *run) abandon(ctx context.Context, err error) error {
	if r.conn.IsClosed() || r.conn.TxStatus() == 'I' {
		return err
	}
	if _, rollback := r.conn.Exec(ctx, "rollback").ReadAll(); rollback != nil {
		return errors.Join(err, fmt.Errorf("roll back after it: %w", rollback))
	}
	return err
}
