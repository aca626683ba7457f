package checklist

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// SignOffFile is where manual boxes are signed off, below the root of the repository: a line for
// each, as spreadsheets write them. Whoever has seen to a box fills in the other columns:
//
//	id,who,role,date,evidence
//	post-migration-tasks/team-training/support-team-aware-of-changes,Alice,Head of Support,2025-12-03,https://wiki.example/training
const SignOffFile = "docs/sign-off.csv"

var signOffColumns = []string{"id", "who", "role", "date", "evidence"}

// SignOff is a row of the sign-off file.
type SignOff struct {
	ID        string
	Who, Role string
	Date      time.Time
	Evidence  string // a link, or a file of the repository
}

// Signed tells whether somebody has signed the box off. Then all fields are filled.
func (s SignOff) Signed() bool { return s.Who != "" }

// ReadSignOffs reads the sign-off file of the repository with that root: a row for each manual box,
// in the order of the checklist. The error says everything that is wrong with the file, and where.
func ReadSignOffs(root string) ([]SignOff, error) {
	file, err := os.Open(filepath.Join(root, filepath.FromSlash(SignOffFile)))
	if err != nil {
		return nil, fmt.Errorf("read the sign-offs: %w", err)
	}
	defer file.Close()
	repository, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("read the sign-offs: %w", err)
	}
	defer repository.Close()
	r := signOffReader{repository: repository, now: time.Now(), lines: map[string]int{}, rows: map[string]SignOff{}}
	r.read(file)
	if len(r.problems) > 0 {
		return nil, errors.Join(r.problems...)
	}
	var all []SignOff
	for _, box := range Boxes() {
		if box.Kind == Manual {
			all = append(all, r.rows[box.ID])
		}
	}
	return all, nil
}

// signOffReader is the reading of a file.
type signOffReader struct {
	repository *os.Root
	now        time.Time
	lines      map[string]int // where each id stands
	rows       map[string]SignOff
	problems   []error
}

func (r *signOffReader) problem(line int, format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf("%s:%d: "+format, append([]any{SignOffFile, line}, args...)...))
}

func (r *signOffReader) read(file io.Reader) {
	c := csv.NewReader(file)
	c.FieldsPerRecord = -1
	last := 0
	for first := true; ; first = false {
		record, err := c.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			// What follows would be misread.
			r.problem(parseLine(err), "this is no CSV: %v: put the cell in double quotes, and double those that are in it", cause(err))
			return
		}
		last, _ = c.FieldPos(0)
		if !first {
			r.row(last, record)
			continue
		}
		record[0] = strings.TrimPrefix(record[0], "\ufeff") // as spreadsheets begin a file in UTF-8
		if !slices.Equal(record, signOffColumns) {
			r.problem(last, "the columns are not %s: write that on the first line, with commas", strings.Join(signOffColumns, ","))
			return
		}
	}
	if last == 0 {
		r.problem(1, "the file is empty: begin it with %s", strings.Join(signOffColumns, ","))
		return
	}
	for _, box := range Boxes() {
		if box.Kind == Manual && r.lines[box.ID] == 0 {
			r.problem(last, "there is no row for %s: add the line %s,,,,", box.ID, box.ID)
		}
	}
}

// row takes a row.
func (r *signOffReader) row(line int, record []string) {
	if len(record) != len(signOffColumns) {
		r.problem(line, "%d columns, and there are %d: %s; a cell with a comma stands in double quotes", len(record), len(signOffColumns), strings.Join(signOffColumns, ","))
		return
	}
	readable := true
	for i, cell := range record {
		record[i] = strings.TrimSpace(cell)
		if why := unreadable(record[i]); why != "" {
			r.problem(line, "%s %s", signOffColumns[i], why)
			readable = false
		}
	}
	s := SignOff{ID: record[0], Who: record[1], Role: record[2], Evidence: record[4]}
	if why := unsignable(s.ID); why != "" {
		r.problem(line, "%s", why)
	} else if before := r.lines[s.ID]; before != 0 {
		r.problem(line, "%s has a row already, on line %d: keep one of them", s.ID, before)
	} else {
		r.lines[s.ID] = line
	}
	if !readable {
		return
	}
	var empty []string
	for i, cell := range record[1:] {
		if cell == "" {
			empty = append(empty, signOffColumns[i+1])
		}
	}
	if n := len(empty); n > 0 && n < len(record)-1 {
		r.problem(line, "%s is signed off by halves: fill in %s as well, or nothing", s.ID, strings.Join(empty, ", "))
	}
	if record[3] != "" {
		var err error
		// Today has begun somewhere up to 14 hours before it has in Greenwich.
		if s.Date, err = time.Parse(time.DateOnly, record[3]); err != nil {
			r.problem(line, "the date %q is none: write it as 2025-12-31", record[3])
		} else if s.Date.After(r.now.Add(14 * time.Hour)) {
			r.problem(line, "the date %s is in the future: nothing is signed off before it is done", record[3])
		}
	}
	if why := r.noEvidence(s.Evidence); s.Evidence != "" && why != "" {
		r.problem(line, "the evidence %q %s: name an https:// link, or a file of this repository by its path from the root", s.Evidence, why)
	}
	r.rows[s.ID] = s
}

// unreadable says what is wrong with the text of a cell.
func unreadable(cell string) string {
	switch {
	case !utf8.ValidString(cell):
		return "is not in UTF-8: save the file as CSV in UTF-8"
	case strings.ContainsFunc(cell, unicode.IsControl):
		return "has a line break, a tab or the like: write it on one line"
	case cell != "" && strings.ContainsAny(cell[:1], "=+-@"):
		return fmt.Sprintf("begins with %s, which makes it a formula in spreadsheets: begin it with a letter or a digit", cell[:1])
	}
	return ""
}

// unsignable says why nobody signs the box off, "" if somebody does.
func unsignable(id string) string {
	box, ok := Find(id)
	switch {
	case !ok:
		return unknown(id)
	case box.Kind != Manual:
		return fmt.Sprintf("nobody signs off %s, which is %s: remove the row", id, map[Kind]string{
			Automated: "proven by tests", Parts: "what the boxes below it are"}[box.Kind])
	}
	return ""
}

// noEvidence says why nobody finds the evidence, "" if it can be found.
func (r *signOffReader) noEvidence(evidence string) string {
	if link, err := url.Parse(evidence); err == nil && link.Scheme != "" {
		if link.Scheme != "http" && link.Scheme != "https" || link.Host == "" {
			return "is a link that nobody can follow"
		}
		return ""
	}
	info, err := r.repository.Stat(filepath.FromSlash(evidence)) // which stays below the root
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is not there"
	case err != nil:
		return "is no file of this repository"
	case !info.Mode().IsRegular():
		return "is a folder"
	}
	return ""
}

func parseLine(err error) int {
	if p, ok := errors.AsType[*csv.ParseError](err); ok {
		return p.Line
	}
	return 1
}

func cause(err error) error { return cmp.Or(errors.Unwrap(err), err) }
