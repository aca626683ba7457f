// Package migrate runs the migration, or the rollback, of one phase as `psql -f` does, and sees to what an operator wants
// besides: it waits for locks patiently and says for whom, shows how far the rows are, runs the phase's verification at
// the end, and writes all of it down, as it happens, in a log of its own. The command is in migrate/run.
package migrate

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// urlVariable holds where the database is, and as whom.
const urlVariable = "DATABASE_URL"

// Main is the command: see migrate/run.
func Main() {
	var m migration
	phase := flag.String("phase", "", "phase1, phase2, phase3 or phase4")
	flag.BoolVar(&m.Down, "rollback", false, "take the phase back")
	flag.StringVar(&m.folder, "log", ".", "the folder for the log")
	flag.DurationVar(&m.patience, "patience", 5*time.Minute, "for how long to try again what waits in vain for a lock")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := m.parse(os.Getenv(urlVariable), *phase, flag.Args())
	if err == nil {
		err = m.run(ctx, os.Stdout, os.Stderr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Run runs a passage on the database of a URL, as its command does, and writes its log into a folder.
func Run(ctx context.Context, url string, passage schema.Passage, folder string, patience time.Duration, out, screen io.Writer) error {
	m := migration{Passage: passage, folder: folder, patience: patience}
	if err := m.parse(url, passage.Phase.String(), nil); err != nil {
		return err
	}
	return m.run(ctx, out, screen)
}

// migration is what was asked for.
type migration struct {
	cfg *pgx.ConnConfig
	schema.Passage
	folder   string
	patience time.Duration

	file schema.File
	// verification says whether the database is what it must be then: the phase's own, after a rollback that of the phase
	// before; of the legacy database there is none.
	verification []verify.Query
	verifies     string // its file
}

// name is "migration of phase2".
func (m *migration) name() string {
	if m.Down {
		return m.Passage.String()
	}
	return "migration of " + m.Passage.String()
}

// parse understands what was asked for, before anything is connected to.
func (m *migration) parse(url, phase string, rest []string) (err error) {
	if len(rest) > 0 {
		return fmt.Errorf("unknown argument %q: see -help", rest[0])
	}
	if m.Phase, err = schema.ParsePhase(phase); err != nil || m.Phase == schema.Legacy {
		return fmt.Errorf("unknown phase %q: say PHASE=phase1, phase2, phase3 or phase4", phase)
	}
	if m.cfg, err = script.ParseURL(urlVariable, url, "tenancy: "+m.name()); err != nil {
		return err
	}
	if m.file, err = m.File(); err != nil || m.To() == schema.Legacy {
		return err
	}
	f, err := schema.Verification(m.To())
	if err != nil {
		return err
	}
	m.verifies = f.Origin
	m.verification, err = verify.Parse(f)
	return err
}

// run does it, and writes it down.
func (m *migration) run(ctx context.Context, out, screen io.Writer) (err error) {
	conn, err := script.Connect(ctx, m.cfg)
	if err != nil {
		return err // says where and as whom, without the password
	}
	defer conn.Close(context.WithoutCancel(ctx))
	server, err := examine(ctx, conn)
	if err != nil {
		return err
	}
	start := time.Now().UTC()
	rec, err := newRecord(m.folder, m.name(), start, out, screen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rec.close()) }()
	m.header(rec, server, start)
	if server.PID != conn.PgConn().PID() {
		rec.line("this is a connection pooler, and it must pool sessions: one that pools transactions loses what a phase holds")
	}

	log, err := script.Runner{Patience: m.patience, Watch: true, Report: rec.event}.Run(ctx, conn, m.file)
	if err != nil {
		verdict := "FAILED"
		if ctx.Err() != nil {
			verdict = "INTERRUPTED"
		}
		rec.line("%s: the %s, after %s\n%s", verdict, m.name(), since(start), err)
		rec.line("nothing of the transaction that was under way is kept; what was committed before it stays, and running this again does the rest")
		return fmt.Errorf("the %s has not come to its end: see %s", m.name(), rec.path)
	}
	rec.summary(log)
	rec.line("done: the %s, in %s", m.name(), since(start))
	return m.verify(ctx, conn, rec)
}

// header says who does what to which database.
func (m *migration) header(rec *record, s server, start time.Time) {
	who, host := "unknown", "unknown"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	if name, err := os.Hostname(); err == nil {
		host = name
	}
	rec.line("%s", m.name())
	for _, fact := range [][2]string{
		{"file", m.file.Origin},
		{"sha256", fmt.Sprintf("%x", sha256.Sum256([]byte(m.file.SQL)))},
		{"database", fmt.Sprintf("%s on %s:%d", s.Database, m.cfg.Host, m.cfg.Port)},
		{"server", "PostgreSQL " + s.Version},
		{"role", s.Role},
		{"session", fmt.Sprintf("pid %d", s.PID)},
		{"run by", who + " on " + host},
		{"started", start.Format(time.RFC3339)},
		{"log", rec.path},
	} {
		rec.line("  %-9s %s", fact[0], fact[1])
	}
}

// verify runs the verification, which changes nothing.
func (m *migration) verify(ctx context.Context, conn *pgx.Conn, rec *record) error {
	if len(m.verification) == 0 {
		rec.line("there is nothing to verify: this is the legacy database again")
		return nil
	}
	rec.line("verification by %s", m.verifies)
	failed := 0
	for _, q := range m.verification {
		result, err := verify.Run(ctx, conn, q)
		switch {
		case err != nil:
			failed++
			rec.line("  FAILED %v", err)
		default:
			if !result.OK {
				failed++
			}
			rec.line("  %s", result)
		}
	}
	if failed > 0 {
		rec.line("FAILED: %d of %d verification queries do not hold after the %s", failed, len(m.verification), m.name())
		return fmt.Errorf("the %s has run, and its verification does not hold: see %s", m.name(), rec.path)
	}
	rec.line("verified: all %d queries hold", len(m.verification))
	return nil
}
