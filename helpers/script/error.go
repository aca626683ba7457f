package script

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Error says which statement of which file failed.
type Error struct {
	Origin string // the file
	// Line is the line of the failing token when the server tells, for a DO block the
	// line of the failing statement in it, else the line where the statement begins.
	Line int
	SQL  string // the statement; empty when the file itself is at fault
	Err  error  // a *pgconn.PgError when the server refused

	// Of a lock that was not to be had:
	Attempts int       // how many times it was tried
	Blockers []Blocker // who was in the way at last, if somebody looked on; see Runner.Watch

	at int // line of SQL that is Line, from 0
}

// maxQuoted is how many lines of a failing statement [Error.Error] quotes, at most
// maxAfter of them after the line that failed.
const (
	maxQuoted = 12
	maxAfter  = 3
)

// Error returns "<origin>:<line>: <message> (SQLSTATE <code>)", then the statement,
// shortened to the lines around the one that failed, then DETAIL, HINT and CONTEXT as
// the server gave them, each on its lines; and who was in the way.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d: ", e.Origin, e.Line)
	pg, ok := errors.AsType[*pgconn.PgError](e.Err)
	if ok {
		fmt.Fprintf(&b, "%s (SQLSTATE %s)", pg.Message, pg.Code)
	} else {
		b.WriteString(e.Err.Error())
	}
	if e.SQL != "" {
		lines := strings.Split(e.SQL, "\n")
		to := min(len(lines), max(maxQuoted, e.at+maxAfter+1))
		from := max(0, to-maxQuoted)
		if from > 0 {
			fmt.Fprintf(&b, "\n    … (%d lines)", from)
		}
		b.WriteString("\n    " + strings.Join(lines[from:to], "\n    "))
		if to < len(lines) {
			fmt.Fprintf(&b, "\n    … (%d more lines)", len(lines)-to)
		}
	}
	if ok {
		for _, field := range []struct{ name, text string }{{"DETAIL", pg.Detail}, {"HINT", pg.Hint}, {"CONTEXT", pg.Where}} {
			if field.text != "" {
				fmt.Fprintf(&b, "\n%s: %s", field.name, field.text)
			}
		}
	}
	if e.Attempts > 1 {
		fmt.Fprintf(&b, "\nTRIED: %d times", e.Attempts)
	}
	if len(e.Blockers) > 0 {
		var end []string
		for _, blocker := range e.Blockers {
			fmt.Fprintf(&b, "\nBLOCKED BY: %s", blocker)
			end = append(end, blocker.end())
		}
		fmt.Fprintf(&b, "\nHINT: Wait until that has ended, or end it (%s), then run this again.", strings.Join(end, "; "))
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// newError is the error of a statement that the server refused.
func newError(origin string, s Statement, err error) *Error {
	e := &Error{Origin: origin, Line: s.Line, SQL: s.SQL, Err: err}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		e.at = lineOf(s.SQL, pg)
		e.Line += e.at
	}
	return e
}

// inBlock finds the outermost frame of an error in a DO block: the last such line of the context.
var inBlock = regexp.MustCompile(`(?m)^PL/pgSQL function inline_code_block line (\d+) at `)

// dollarTag finds where the body of a DO statement starts.
var dollarTag = regexp.MustCompile(`\$([A-Za-z_\x{80}-\x{10ffff}][A-Za-z0-9_\x{80}-\x{10ffff}]*)?\$`)

// lineOf returns how many lines below the first line of sql an error is.
func lineOf(sql string, pg *pgconn.PgError) int {
	if pg.Position > 0 {
		// Position counts characters, from 1.
		chars := []rune(sql)
		return strings.Count(string(chars[:min(int(pg.Position)-1, len(chars))]), "\n")
	}
	frames := inBlock.FindAllStringSubmatch(pg.Where, -1)
	body := dollarTag.FindStringIndex(sql)
	if len(frames) == 0 || body == nil {
		return 0
	}
	// Line 1 of a block is the line on which its body's quote opens.
	line, err := strconv.Atoi(frames[len(frames)-1][1])
	if err != nil || line < 1 {
		return 0
	}
	return min(strings.Count(sql[:body[1]], "\n")+line-1, strings.Count(sql, "\n"))
}
