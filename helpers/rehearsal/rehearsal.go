// Package rehearsal goes through the deployment steps of the checklist, in their order, on a database: a clone of
// production, first. It stops at the first step that fails, says what the way back is, and goes on from there when it is
// run again: what is done, the database and the folder of the logs know.
package rehearsal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vital-health/tenancy/helpers/dump"
	"github.com/vital-health/tenancy/helpers/live"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/helpers/script/migrate"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// Rehearsal is what is to be rehearsed. Check and Switch are shell commands, "" for none; they are given the database in
// DATABASE_URL, and PHASE.
type Rehearsal struct {
	URL      string // of who owns the tables and the database
	Verify   string // of who may become authenticated and anon, and sees every row: "" for the same
	Folder   string // for the backup and the logs
	Check    string // whether the application still works, after each phase
	Switch   string // deploys the application that knows the hierarchy
	Patience time.Duration
	Out      io.Writer

	cfg      *pgx.ConnConfig
	accounts *pgx.ConnConfig // of Verify
	log      io.Writer
}

// step is one of the checklist's deployment steps.
type step struct {
	name string
	run  func(context.Context) error
	back string
}

func (r *Rehearsal) steps() []step {
	const again = "run this again: it goes on from here. "
	var all []step
	add := func(name, back string, run func(context.Context) error) { all = append(all, step{name, run, back}) }
	add("final backup", "nothing has been changed: mend it, and "+again, r.backup)
	add("maintenance mode on", "nothing has been changed but maintenance mode: mend it, and "+again+"Or call maintenance.finish().", r.maintain)
	for _, phase := range []schema.Phase{schema.Phase1, schema.Phase2, schema.Phase3} {
		back := fmt.Sprintf("mend it, and %sOr go back: make rollback PHASE=%s, then those before it, and call maintenance.finish().", again, phase)
		add("run "+phase.String(), back, func(ctx context.Context) error { return r.migrate(ctx, phase) })
		add("verify "+phase.String(), back, func(ctx context.Context) error { return r.verify(ctx, phase) })
	}
	add("switch the application", "deploy the former application, which works with this database, and call maintenance.finish(). Or mend it, and "+again,
		func(ctx context.Context) error { return r.command(ctx, r.Switch, schema.Phase3) })
	add("run phase4, and read as real accounts", "make rollback PHASE=phase4: the database is as open as before then, and the application works on. Or mend it, and "+again, r.secure)
	add("maintenance mode off", "call maintenance.finish() by hand, and "+again, r.release)
	return all
}

// Run goes through all steps.
func (r *Rehearsal) Run(ctx context.Context) (err error) {
	if r.cfg, err = script.ParseURL("URL", r.URL, "tenancy: rehearsal"); err != nil {
		return err
	}
	r.accounts = r.cfg
	if r.Verify != "" {
		if r.accounts, err = script.ParseURL("VERIFY_DATABASE_URL", r.Verify, "tenancy: rehearsal"); err != nil {
			return err
		}
	}
	file, err := os.OpenFile(filepath.Join(r.Folder, "rehearsal_"+stamp()+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return fmt.Errorf("make the log: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	r.log = io.MultiWriter(file, r.Out)
	all := r.steps()
	for i, s := range all {
		start := time.Now()
		r.say("%2d of %d: %s", i+1, len(all), s.name)
		if err := s.run(ctx); err != nil {
			r.say("FAILED: step %d, %s: %v\nThe way back: %s\nMaintenance mode stays as it is now. All ways back, and what each loses: docs/recovery.md", i+1, s.name, err, strings.TrimSpace(s.back))
			return fmt.Errorf("the rehearsal has stopped at step %d, %s: see %s", i+1, s.name, file.Name())
		}
		r.say("         done in %s", script.Rounded(time.Since(start)))
	}
	r.say("done: all %d steps", len(all))
	return nil
}

func stamp() string { return time.Now().UTC().Format("20060102T150405Z") }

func (r *Rehearsal) say(format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "\n         ")
	fmt.Fprintf(r.log, "%s %s\n", time.Now().UTC().Format("15:04:05"), text)
}

// connected gives a session to f.
func (r *Rehearsal) connected(ctx context.Context, f func(conn *pgx.Conn) error) error {
	conn, err := script.Connect(ctx, r.cfg)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}

func (r *Rehearsal) complete(ctx context.Context) (phase schema.Phase, err error) {
	err = r.connected(ctx, func(conn *pgx.Conn) error {
		phase, err = verify.Complete(ctx, conn)
		return err
	})
	return phase, err
}

// backup is the checklist's command; a backup that this folder has already is that of the rollout that is resumed.
func (r *Rehearsal) backup(ctx context.Context) error {
	made, err := filepath.Glob(filepath.Join(r.Folder, "backup_*.dump"))
	if err != nil {
		return err
	}
	if len(made) > 0 {
		r.say("         %s is there already", made[len(made)-1])
		return nil
	}
	phase, err := r.complete(ctx)
	if err != nil {
		return err
	}
	if phase > schema.Legacy {
		return fmt.Errorf("%s is complete, and %s has no backup of what was before it: say LOG=<the folder of the first run>", phase, r.Folder)
	}
	dumper, _ := dump.Program(ctx, "pg_dump")
	if dumper == "" {
		return errors.New("this machine has no pg_dump: install PostgreSQL's client")
	}
	path := filepath.Join(r.Folder, "backup_"+stamp()+".dump")
	// The URL may have a password, and arguments can be read by everybody on the machine.
	cmd := exec.CommandContext(ctx, dumper, "-F", "c", "-b", "--lock-wait-timeout=30s", "-f", path+".partial")
	cmd.Env = append(os.Environ(), "PGHOST="+r.cfg.Host, fmt.Sprintf("PGPORT=%d", r.cfg.Port), "PGUSER="+r.cfg.User, "PGDATABASE="+r.cfg.Database)
	if r.cfg.Password != "" {
		cmd.Env = append(cmd.Env, "PGPASSWORD="+r.cfg.Password)
	}
	if said, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("pg_dump: %w\n%s", err, bytes.TrimSpace(said)), os.Remove(path+".partial"))
	}
	restorer := filepath.Join(filepath.Dir(dumper), "pg_restore")
	list, err := exec.CommandContext(ctx, restorer, "-l", path+".partial").Output()
	if err != nil || !bytes.Contains(list, []byte("TABLE DATA public organizations ")) {
		return fmt.Errorf("pg_restore does not read public.organizations from %s.partial: %w", path, err)
	}
	return os.Rename(path+".partial", path)
}

func (r *Rehearsal) maintain(ctx context.Context) error {
	on, _, err := schema.Maintenance()
	if err != nil {
		return err
	}
	phase, err := r.complete(ctx)
	if err != nil || phase == schema.Phase4 {
		return err // nothing is left to be done under it
	}
	return r.connected(ctx, func(conn *pgx.Conn) error {
		if _, err := (script.Runner{Patience: r.Patience}).Run(ctx, conn, on); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `call maintenance.begin('the rollout of the hierarchical multi-tenancy', false)`)
		return err
	})
}

// migrate runs a phase with its verification and a log of its own, unless it is complete.
func (r *Rehearsal) migrate(ctx context.Context, phase schema.Phase) error {
	complete, err := r.complete(ctx)
	if err != nil {
		return err
	}
	if complete >= phase {
		r.say("         it is complete")
		return nil
	}
	for {
		err := migrate.Run(ctx, r.URL, schema.Passage{Phase: phase}, r.Folder, r.Patience, io.Discard, nil)
		if !errors.Is(err, os.ErrExist) {
			return err
		}
		time.Sleep(time.Second) // the run before began in this second, and its log has the name
	}
}

// verify asks the queries of a phase, and the application. Where a later phase is complete, they have held; all of them are
// asked again at the end.
func (r *Rehearsal) verify(ctx context.Context, phase schema.Phase) error {
	complete, err := r.complete(ctx)
	if err != nil {
		return err
	}
	if complete > phase {
		r.say("         it held before %s", complete)
		return nil
	}
	f, err := schema.Verification(phase)
	if err != nil {
		return err
	}
	queries, err := verify.Parse(f)
	if err != nil {
		return err
	}
	err = r.connected(ctx, func(conn *pgx.Conn) error {
		for _, q := range queries {
			result, err := verify.Run(ctx, conn, q)
			if err != nil {
				return err
			}
			if !result.OK {
				return errors.New(result.String())
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.say("         %d queries hold", len(queries))
	return r.command(ctx, r.Check, phase)
}

// command runs what the operator has given.
func (r *Rehearsal) command(ctx context.Context, text string, phase schema.Phase) error {
	if text == "" {
		r.say("         no command was given for it")
		return nil
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", text)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+r.URL, "PHASE="+phase.String())
	said, err := cmd.CombinedOutput()
	if len(bytes.TrimSpace(said)) > 0 {
		r.say("         %s", bytes.TrimSpace(said))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	return nil
}

// secure is phase 4, the application, and what real accounts read.
func (r *Rehearsal) secure(ctx context.Context) error {
	if err := r.migrate(ctx, schema.Phase4); err != nil {
		return err
	}
	report, err := live.Verify(ctx, r.accounts, func(int, int, string) {})
	if err != nil {
		return err
	}
	r.say("         %s", report)
	if len(report.Failures) > 0 { // a server that is too old has been one before
		return errors.New("the verification does not hold")
	}
	return r.command(ctx, r.Check, schema.Phase4)
}

func (r *Rehearsal) release(ctx context.Context) error {
	_, off, err := schema.Maintenance()
	if err != nil {
		return err
	}
	return r.connected(ctx, func(conn *pgx.Conn) error {
		var there bool
		if err := conn.QueryRow(ctx, `select to_regclass('maintenance.state') is not null`).Scan(&there); err != nil || !there {
			return err
		}
		if _, err := conn.Exec(ctx, `call maintenance.finish()`); err != nil {
			return err
		}
		log, err := (script.Runner{Patience: r.Patience}).Run(ctx, conn, off)
		if err != nil {
			return err
		}
		for _, s := range log.Steps {
			for _, notice := range s.Notices {
				r.say("         %s", notice)
			}
		}
		return nil
	})
}
