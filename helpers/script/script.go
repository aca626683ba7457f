// Package script runs a SQL file the way `psql -v ON_ERROR_STOP=1 -f` does:
// statement by statement over the simple protocol, each in its own transaction
// unless the file says BEGIN, so that procedures may COMMIT and indexes may be
// built CONCURRENTLY. Unlike psql it says, for an error, the file and the line.
//
// Of psql's meta-commands there are two, each alone on its line: \gexec ends the query
// before it (in place of ';'), and each non-null cell of the result is run, row by row;
// "\set ON_ERROR_STOP on", between statements, lets the file say it to psql by itself.
package script

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vital-health/tenancy/schema"
)

// Log is what [Run] did.
type Log struct {
	File  string // origin of the file
	Steps []Step // in the order in which they ran
}

// Step is one statement that succeeded. A query that ends in \gexec is a step, and each
// statement it produced is one after it.
type Step struct {
	Line     int    // of the statement's first character in the file; for one from \gexec, of its query
	SQL      string // as sent
	Duration time.Duration
	Tag      string   // command tag: "CREATE TABLE", "UPDATE 12"
	Notices  []string // "NOTICE: text", in order; see Connect
}

// noticesKey is where [Connect] leaves the collector of a connection's notices.
const noticesKey = "tenancy/script/notices"

// Connect is [pgx.ConnectConfig] for a connection on which [Run] can see notices; pgx
// takes a notice handler at connect time only. A handler that cfg has is called too.
func Connect(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	cfg = cfg.Copy()
	next := cfg.OnNotice
	cfg.OnNotice = func(c *pgconn.PgConn, n *pgconn.Notice) {
		if collected, ok := c.CustomData()[noticesKey].(*[]string); ok {
			*collected = append(*collected, n.Severity+": "+n.Message)
		}
		if next != nil {
			next(c, n)
		}
	}
	return pgx.ConnectConfig(ctx, cfg)
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
	statements, err := Split(f)
	if err != nil {
		return &Log{File: f.Origin}, err
	}
	r := run{conn: conn.PgConn(), log: &Log{File: f.Origin}, origin: f.Origin}
	if status := r.conn.TxStatus(); status != 'I' {
		return r.log, fmt.Errorf("run %s: the connection is inside a transaction (status %c): it must be idle", f.Origin, status)
	}
	for _, s := range statements {
		if err := r.statement(ctx, s); err != nil {
			return r.log, r.abandon(ctx, err)
		}
	}
	if r.conn.TxStatus() != 'I' {
		return r.log, r.abandon(ctx, &Error{
			Origin: f.Origin, Line: r.txLine,
			Err: errors.New("the transaction that begins here is never committed: nothing of it was kept"),
		})
	}
	return r.log, nil
}

type run struct {
	conn   *pgconn.PgConn
	log    *Log
	origin string
	txLine int // line of the statement that opened the current transaction
}

func (r *run) statement(ctx context.Context, s Statement) error {
	// The cut of the file assumes it, as does every escape in our SQL.
	if r.conn.ParameterStatus("standard_conforming_strings") == "off" {
		return &Error{Origin: r.origin, Line: s.Line, SQL: s.SQL, Err: errors.New("standard_conforming_strings is off: it must be on")}
	}
	before := r.conn.TxStatus()
	result, err := r.send(ctx, s.Line, s.SQL)
	if err != nil {
		return newError(r.origin, s, err)
	}
	if before == 'I' && r.conn.TxStatus() != 'I' {
		r.txLine = s.Line
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
			if _, err := r.send(ctx, s.Line, produced.SQL); err != nil {
				e := newError(r.origin, produced, err)
				// Lines inside a produced statement are not lines of the file.
				e.Line = s.Line
				return e
			}
		}
	}
	return nil
}

// send sends one message of the simple protocol, logs it, and returns its last result.
func (r *run) send(ctx context.Context, line int, sql string) (*pgconn.Result, error) {
	var notices []string
	r.conn.CustomData()[noticesKey] = &notices
	defer delete(r.conn.CustomData(), noticesKey)
	start := time.Now()
	results, err := r.conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	last := &pgconn.Result{}
	if len(results) > 0 {
		last = results[len(results)-1]
	}
	r.log.Steps = append(r.log.Steps, Step{Line: line, SQL: sql, Duration: time.Since(start), Tag: last.CommandTag.String(), Notices: notices})
	return last, nil
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
