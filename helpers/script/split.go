package script

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vital-health/tenancy/schema"
)

// Statement is one statement of a file, as psql would send it.
type Statement struct {
	Line  int    // line of its first character, from 1
	SQL   string // from its first word on; without comments before it, with its ';' if it has one
	Gexec bool   // ends in \gexec: its result is run, cell by cell
}

// words are the unquoted words of a statement that was split already, lower case.
func (s Statement) words() []string {
	again := splitter{text: s.SQL, line: 1}
	_ = again.split()
	return again.words
}

// atomic says whether a statement that is a transaction by itself does all or nothing.
func (s Statement) atomic() bool {
	words := s.words()
	return !slices.Contains([]string{"do", "call"}, words[0]) && !slices.Contains(words, "concurrently")
}

// endsTransaction says whether a statement is a COMMIT or a ROLLBACK.
func (s Statement) endsTransaction() bool {
	return slices.Contains([]string{"commit", "end", "rollback", "abort"}, s.words()[0])
}

// Split cuts a file into statements where psql cuts it. The rules are those of
// psql's own lexer (src/fe_utils/psqlscan.l), not a grammar's, so that syntax
// this code has never heard of passes: comments (nested), quotes, dollar quotes,
// parentheses, and BEGIN … END bodies of CREATE FUNCTION and CREATE PROCEDURE.
// The last statement may lack its ';'.
//
// Beyond psql, Split refuses before anything has run: any meta-command except
// those of the package comment, COPY … FROM STDIN, quotes and comments that are not
// closed, and a file that holds no statement. The error is an [*Error].
// Variables (:name) are not substituted.
func Split(f schema.File) ([]Statement, error) {
	s := splitter{text: strings.TrimPrefix(f.SQL, "\ufeff"), line: 1}
	if err := s.split(); err != nil {
		return nil, &Error{Origin: f.Origin, Line: s.errLine, Err: err}
	}
	if len(s.out) == 0 {
		return nil, &Error{Origin: f.Origin, Line: 1, Err: errors.New("nothing to run: the file holds no SQL statement")}
	}
	return s.out, nil
}

// splitter walks over text once. pos is the next byte, line the line it is on.
type splitter struct {
	text string
	pos  int
	line int

	start     int // first byte of the current statement, when open
	startLine int
	open      bool     // a statement has begun
	words     []string // its unquoted words so far, lower case, or those of the last one
	parens    int      // depth of ( in it
	begins    int      // depth of BEGIN … END in it

	out     []Statement
	errLine int // where the error is
}

func (s *splitter) split() error {
	for s.pos < len(s.text) {
		c, rest := s.text[s.pos], s.text[s.pos:]
		switch {
		case isSpace(c):
			s.advance(1)
			continue
		case strings.HasPrefix(rest, "--"):
			s.skipLine()
			continue
		case strings.HasPrefix(rest, "/*"):
			if err := s.skipComment(); err != nil {
				return err
			}
			continue
		case c == '\\':
			if err := s.metaCommand(); err != nil {
				return err
			}
			continue
		case c == ';' && s.parens == 0 && s.begins == 0:
			s.begin()
			s.advance(1)
			if err := s.end(s.pos, false); err != nil {
				return err
			}
			continue
		}
		s.begin()
		var err error
		switch {
		case c == '\'':
			err = s.skipQuoted(false)
		case (c == 'e' || c == 'E') && strings.HasPrefix(rest[1:], "'"):
			s.advance(1)
			err = s.skipQuoted(true)
		case c == '"':
			err = s.skipUntil(`"`, 1, "quoted identifier")
		case c == '$':
			err = s.dollar()
		case isWordStart(c):
			s.word()
		case c == '(':
			s.parens++
			s.advance(1)
		case c == ')':
			s.parens = max(0, s.parens-1)
			s.advance(1)
		default:
			s.advance(1)
		}
		if err != nil {
			return err
		}
	}
	if s.open {
		return s.end(len(strings.TrimRight(s.text, " \t\r\n\f\v")), false)
	}
	return nil
}

// begin notes that the next byte belongs to a statement.
func (s *splitter) begin() {
	if !s.open {
		s.open, s.start, s.startLine, s.words = true, s.pos, s.line, nil
	}
}

// end closes the current statement before byte to. A lone ';' is none.
func (s *splitter) end(to int, gexec bool) error {
	sql := strings.TrimRight(s.text[s.start:to], " \t\r\n\f\v")
	s.open, s.parens, s.begins = false, 0, 0
	if sql == ";" {
		return nil
	}
	if copiesFromStdin(s.words) {
		s.errLine = s.startLine
		return errors.New("COPY … FROM STDIN is not supported: write INSERT statements")
	}
	s.out = append(s.out, Statement{Line: s.startLine, SQL: sql, Gexec: gexec})
	return nil
}

// advance steps over n bytes and counts their lines.
func (s *splitter) advance(n int) {
	s.line += strings.Count(s.text[s.pos:s.pos+n], "\n")
	s.pos += n
}

func (s *splitter) skipLine() {
	if i := strings.IndexByte(s.text[s.pos:], '\n'); i >= 0 {
		s.advance(i + 1)
		return
	}
	s.advance(len(s.text) - s.pos)
}

// skipUntil steps over skip bytes, then past the next occurrence of closing.
func (s *splitter) skipUntil(closing string, skip int, what string) error {
	i := strings.Index(s.text[s.pos+skip:], closing)
	if i < 0 {
		s.errLine = s.line
		return fmt.Errorf("%s is never closed: %s is missing", what, closing)
	}
	s.advance(skip + i + len(closing))
	return nil
}

func (s *splitter) skipComment() error {
	at := s.line
	depth := 0
	for s.pos < len(s.text) {
		switch rest := s.text[s.pos:]; {
		case strings.HasPrefix(rest, "/*"):
			depth++
			s.advance(2)
		case strings.HasPrefix(rest, "*/"):
			depth--
			s.advance(2)
			if depth == 0 {
				return nil
			}
		default:
			s.advance(1)
		}
	}
	s.errLine = at
	return errors.New("comment is never closed: */ is missing")
}

// skipQuoted steps over a string constant that starts here. A doubled quote is
// the end of one and the start of the next, which comes to the same unless
// backslashes escape. (An escape string that continues on the next line continues
// without escapes for psql, which reads line by line; so it does here.)
func (s *splitter) skipQuoted(escapes bool) error {
	if !escapes {
		return s.skipUntil("'", 1, "string")
	}
	at := s.line
	s.advance(1)
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == '\\' && s.pos+1 < len(s.text):
			s.advance(2)
		case c != '\'':
			s.advance(1)
		case strings.HasPrefix(s.text[s.pos:], "''"):
			s.advance(2)
		default:
			s.advance(1)
			return nil
		}
	}
	s.errLine = at
	return errors.New("string is never closed: ' is missing")
}

// dollar steps over a dollar-quoted string, or over the '$' of a parameter.
func (s *splitter) dollar() error {
	rest := s.text[s.pos:]
	n := 1
	for n < len(rest) && (isWordStart(rest[n]) || n > 1 && isDigit(rest[n])) {
		n++
	}
	if n == len(rest) || rest[n] != '$' {
		s.advance(1)
		return nil
	}
	tag := rest[:n+1]
	return s.skipUntil(tag, len(tag), "dollar-quoted string")
}

// word steps over an identifier or key word, and tracks BEGIN … END where psql does:
// in a statement that starts with CREATE [OR REPLACE] FUNCTION or PROCEDURE.
func (s *splitter) word() {
	n := 1
	for rest := s.text[s.pos:]; n < len(rest) && (isWordStart(rest[n]) || isDigit(rest[n]) || rest[n] == '$'); {
		n++
	}
	w := strings.ToLower(s.text[s.pos : s.pos+n])
	s.words = append(s.words, w)
	s.advance(n)
	if s.parens > 0 || !createsRoutine(s.words) {
		return
	}
	switch {
	case w == "begin", w == "case" && s.begins > 0:
		s.begins++
	case w == "end" && s.begins > 0:
		s.begins--
	}
}

// stopOnError makes psql do what this package does anyway.
const stopOnError = `\set ON_ERROR_STOP on`

// metaCommand accepts stopOnError and \gexec, and refuses every other backslash.
func (s *splitter) metaCommand() error {
	s.errLine = s.line
	before := s.text[strings.LastIndexByte(s.text[:s.pos], '\n')+1 : s.pos]
	line, _, _ := strings.Cut(s.text[s.pos:], "\n")
	command := strings.TrimSpace(line)
	if command == stopOnError && strings.TrimSpace(before) == "" && !s.open {
		s.advance(len(line))
		return nil
	}
	if fields := strings.Fields(command); fields[0] != `\gexec` {
		return fmt.Errorf(`psql meta-command %s is not supported: only \gexec and, between statements, "%s", each alone on its line`,
			fields[0], stopOnError)
	}
	if command != `\gexec` || strings.TrimSpace(before) != "" {
		return errors.New(`\gexec must stand alone on its line`)
	}
	if !s.open {
		return errors.New(`\gexec has no query before it: it takes the place of the query's ';'`)
	}
	if err := s.end(s.pos, true); err != nil {
		return err
	}
	s.advance(len(line))
	return nil
}

func createsRoutine(words []string) bool {
	if words[0] != "create" {
		return false
	}
	words = words[1:]
	if len(words) >= 2 && words[0] == "or" && words[1] == "replace" {
		words = words[2:]
	}
	return len(words) > 0 && (words[0] == "function" || words[0] == "procedure")
}

// copiesFromStdin recognises COPY … FROM STDIN, whose data psql reads from the file.
func copiesFromStdin(words []string) bool {
	if len(words) == 0 || words[0] != "copy" {
		return false
	}
	for i := 1; i < len(words); i++ {
		if words[i] == "stdin" && words[i-1] == "from" {
			return true
		}
	}
	return false
}

func isSpace(c byte) bool { return strings.IndexByte(" \t\n\r\f\v", c) >= 0 }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isWordStart(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}
