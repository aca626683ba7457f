package migrate

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/vital-health/tenancy/helpers/script"
)

// record writes what happens, line by line, to a file and to whoever looks on.
type record struct {
	path string

	mu   sync.Mutex
	file *os.File
	out  io.Writer
	err  error // why the file is not complete

	screen io.Writer // for the progress bar; nil if that is no terminal
	bar    *progressbar.ProgressBar
	told   map[string]time.Time // when the progress of something was last written
}

// progressEvery is how often progress is a line.
const progressEvery = 5 * time.Second

// newRecord makes the file: "migration_phase2_20251126T140312Z.log". Nothing is run that could not be written down.
func newRecord(folder, name string, start time.Time, out, screen io.Writer) (*record, error) {
	name = strings.ReplaceAll(name, " of ", "_") + "_" + start.Format("20060102T150405Z") + ".log"
	path := filepath.Join(folder, name)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, fmt.Errorf("make the log: %w", err)
	}
	r := &record{path: path, file: file, out: out, told: map[string]time.Time{}}
	if f, ok := screen.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		r.screen = screen
	}
	return r, nil
}

func (r *record) close() error {
	return errors.Join(r.err, r.file.Close())
}

// line writes a text with the time before its first line.
func (r *record) line(format string, args ...any) { r.write(true, format, args...) }

func (r *record) write(shown bool, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\n"+strings.Repeat(" ", len("15:04:05.000 ")))
	text = time.Now().UTC().Format("15:04:05.000 ") + text + "\n"
	if _, err := io.WriteString(r.file, text); err != nil && r.err == nil {
		r.err = fmt.Errorf("the log is not complete: %w", err)
	}
	if shown {
		r.clear()
		_, _ = io.WriteString(r.out, text)
	}
}

// event writes what the runner reports.
func (r *record) event(e script.Event) {
	switch e := e.(type) {
	case script.Statement:
		r.line("line %d: %s", e.Line, script.FirstLine(e.SQL))
	case script.Notice:
		r.line("  %s", e)
	case script.Step:
		r.line("  %s in %s", e.Tag, script.Rounded(e.Duration))
	case script.Transaction:
		r.locks(e)
	case script.Attempt:
		refused := e.Steps[len(e.Steps)-1]
		r.locks(e.Steps)
		r.line("  REFUSED after %s: %v%s", script.Rounded(refused.Duration), e.Err, blockers(e.Blockers))
		r.line("  nothing of it was kept; once more from line %d, in %s", e.From, script.Rounded(e.Pause))
	case script.Waiting:
		r.line("  waits since %s for %s on %s%s", script.Rounded(e.For.Waited), e.For.Mode, e.For.Relation, blockers(e.Blockers))
	case script.Progress:
		r.progress(e)
	}
}

// locks writes the locks of a transaction's statements.
func (r *record) locks(steps []script.Step) {
	for _, step := range steps {
		for _, l := range script.Noticeable(step.Locks) {
			of := ""
			if len(steps) > 1 {
				of = fmt.Sprintf("line %d: ", step.Line)
			}
			r.line("  lock: %s%s", of, l)
		}
	}
}

// progress is a bar on a terminal, and a line every few seconds elsewhere.
func (r *record) progress(p script.Progress) {
	if now := time.Now(); now.Sub(r.told[p.What]) >= progressEvery {
		r.told[p.What] = now
		r.write(r.screen == nil, "  %s", p)
	}
	if r.screen == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	total := p.Total
	if total == 0 {
		total = -1
	}
	if r.bar == nil {
		r.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(r.screen), progressbar.OptionSetWidth(20),
			progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false))
	}
	r.bar.ChangeMax64(total)
	r.bar.Describe(p.String())
	_ = r.bar.Set64(p.Done)
}

// clear takes the bar away, for a line to be written; the next progress draws it again.
func (r *record) clear() {
	if r.bar != nil {
		_ = r.bar.Clear()
		r.bar = nil
	}
}

// summary writes how long others had to wait at most.
func (r *record) summary(log *script.Log) {
	if log.WatchErr != nil {
		r.line("locks were not recorded to the end: %v", log.WatchErr)
	}
	r.line("locks, the longest of each kind, to within %s:", script.Rounded(log.Resolution))
	for _, l := range script.Noticeable(log.Locks()) {
		r.line("  %s", l)
	}
}

func blockers(all []script.Blocker) string {
	var text strings.Builder
	for _, b := range all {
		fmt.Fprintf(&text, "\n  behind %s", b)
	}
	return text.String()
}

func since(start time.Time) time.Duration { return script.Rounded(time.Since(start)) }
