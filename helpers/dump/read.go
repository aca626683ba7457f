package dump

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// entry is what pg_dump says of the object that the next statements are of.
type entry struct {
	name, kind, schema, owner string // schema is "-" for what has none, owner for what nobody is said to own
}

// item is one statement, or one COPY with its rows.
type item struct {
	entry
	line int
	sql  string
	rows *rows // nil for a statement
}

// reader reads a plain dump, which it never holds as a whole.
type reader struct {
	text     *bufio.Reader
	line     int // of the next line
	current  entry
	waiting  []item
	complete bool // it has said that it is complete
	copying  *rows

	// Dumped by whom, as it says in its first lines.
	versions []string

	pending bytes.Buffer // lines of statements that have not ended, from line from on
	from    int
	tryAt   int // how long pending is when it is worth a look whether they have
}

// worthALook is how much text is read in search of a statement's end before the statements in it are run.
const worthALook = 1 << 20

func newReader(text *bufio.Reader) *reader {
	return &reader{text: text, line: 1, from: 1, tryAt: worthALook, current: entry{schema: "-", owner: "-"}}
}

var (
	entryTitle  = regexp.MustCompile(`^-- (?:Data for |Statistics for )?Name: (.*); Type: (.*); Schema: (.*); Owner: (.*?)(?:; Tablespace: .*)?$`)
	copyCommand = regexp.MustCompile(`^COPY .* FROM stdin;$`)
	// What pg_dump writes for psql: it leads to another database, or forbids commands in the data.
	metaCommand = regexp.MustCompile(`^\\(connect|restrict|unrestrict)\b`)
)

const lastLine = "-- PostgreSQL database dump complete"

// next returns the next item, io.EOF after the last. The rows of one before are read, or
// skipped, by then.
func (r *reader) next() (item, error) {
	if r.copying != nil {
		if _, err := io.Copy(io.Discard, r.copying); err != nil {
			return item{}, err
		}
		r.copying = nil
	}
	for len(r.waiting) == 0 {
		if err := r.read(); err != nil {
			return item{}, err
		}
	}
	i := r.waiting[0]
	r.waiting = r.waiting[1:]
	r.copying = i.rows
	return i, nil
}

// read reads lines until something waits to be run.
func (r *reader) read() error {
	line, err := r.text.ReadString('\n')
	if errors.Is(err, io.EOF) && line == "" {
		if !r.flush() {
			return fmt.Errorf("line %d: the file ends inside the statement that begins here: it is not complete", r.from)
		}
		if len(r.waiting) > 0 {
			return nil
		}
		if !r.complete {
			return fmt.Errorf("line %d: the file ends without the line %q: it is not complete", r.line, lastLine)
		}
		return io.EOF
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("line %d: %w", r.line, err)
	}
	text := strings.TrimRight(line, "\r\n")
	title := entryTitle.FindStringSubmatch(text)
	switch {
	case title != nil && r.flush():
		r.current = entry{title[1], title[2], title[3], title[4]}
	case copyCommand.MatchString(text) && r.flush():
		r.waiting = append(r.waiting, item{entry: r.current, line: r.line, sql: text, rows: &rows{of: r, from: r.line, start: true}})
	case strings.HasPrefix(text, `\`) && r.flush():
		if !metaCommand.MatchString(text) {
			return fmt.Errorf("line %d: %s is nothing that pg_dump writes", r.line, text)
		}
	default:
		if strings.HasPrefix(text, "-- Dumped ") && len(r.versions) < 2 {
			r.versions = append(r.versions, strings.TrimPrefix(text, "-- Dumped "))
		}
		if text == lastLine {
			r.complete = true
		}
		r.pending.WriteString(line)
		if r.pending.Len() > r.tryAt && strings.HasSuffix(text, ";") && !r.flush() {
			r.tryAt = 2 * r.pending.Len()
		}
	}
	r.line++
	if r.pending.Len() == 0 {
		r.from = r.line
	}
	return nil
}

// flush cuts the pending lines into statements. It is false, and they stay, if the last one has not ended: then what looks
// like a title or a command is a line of a function or of a string.
func (r *reader) flush() bool {
	text := r.pending.String()
	if onlyComments(text) {
		r.pending.Reset()
		r.from = r.line
		return true
	}
	statements, err := script.Split(schema.File{SQL: text})
	if err != nil || !strings.HasSuffix(statements[len(statements)-1].SQL, ";") {
		return false
	}
	for _, s := range statements {
		r.waiting = append(r.waiting, item{entry: r.current, line: r.from + s.Line - 1, sql: s.SQL})
	}
	r.pending.Reset()
	r.from, r.tryAt = r.line, worthALook
	return true
}

func onlyComments(text string) bool {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "--") {
			return false
		}
	}
	return true
}

// rows is the data of a COPY, up to the line that ends it.
type rows struct {
	of    *reader
	from  int
	start bool // the next byte begins a line
	rest  []byte
	err   error
}

func (r *rows) Read(into []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		// A line may be longer than the buffer: then this is a part of it.
		part, err := r.of.text.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			r.err = fmt.Errorf("line %d: the file ends inside the rows of the COPY that begins here: it is not complete", r.from)
			continue
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			r.err = fmt.Errorf("line %d: %w", r.of.line, err)
			continue
		}
		ended := err == nil
		if ended {
			r.of.line++
			r.of.from = r.of.line
		}
		if r.start && string(bytes.TrimRight(part, "\r\n")) == `\.` {
			r.err = io.EOF
			continue
		}
		r.start, r.rest = ended, part
	}
	n := copy(into, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
