// Package live verifies a database that is in use: all queries of schema/verify up to the phase that it is in, and,
// from phase 4 on, what real accounts of it read against what they may read.
//
// Nothing is written: the session is read-only, and so is every transaction. The login must see every row (the owner of
// the tables, say), and may SET ROLE to authenticated and anon, to be these callers with these claims.
package live

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

// Report is what was found.
type Report struct {
	Phase     schema.Phase
	Queries   int
	Users     int    // whose reading was compared with the rules
	Decisions int    // how often: each user, each row
	Server    string // what is wrong with the server itself, "" for nothing
	Failures  []string
	Why       []string // what the policies say to some of the decisions that are wrong
}

// OK is whether all holds.
func (r *Report) OK() bool { return r.Server == "" && len(r.Failures) == 0 }

// String is a line when all holds, else everything that does not.
func (r *Report) String() string {
	var text strings.Builder
	failures := r.Failures
	if r.Server != "" {
		failures = append([]string{r.Server}, failures...)
	}
	for _, part := range slices.Concat(failures, r.Why) {
		fmt.Fprintf(&text, "%s\n\n", strings.TrimSpace(part))
	}
	verdict := "ok"
	if len(failures) > 0 {
		verdict = fmt.Sprintf("FAILED in %d points, which are above", len(failures))
	}
	fmt.Fprintf(&text, "%s: %s, %d verification queries", verdict, r.Phase, r.Queries)
	if r.Phase == schema.Phase4 {
		fmt.Fprintf(&text, ", %d decisions about what %d users may read", r.Decisions, r.Users)
	} else {
		text.WriteString("; before phase 4 row level security keeps nobody apart, and nobody's reading was looked at")
	}
	return text.String()
}

// Progress is told what has been done of how much.
type Progress func(done, total int, what string)

// limits are for the whole session: the queries count all rows of all tables.
const limits = `set default_transaction_read_only = on; set statement_timeout = '10min'; set lock_timeout = '1s'; set idle_in_transaction_session_timeout = '10min'`

// Verify verifies the database. The error is that it could not.
func Verify(ctx context.Context, cfg *pgx.ConnConfig, progress Progress) (*Report, error) {
	conn, err := connect(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	phase, err := verify.Complete(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("look which phases are complete: %w", err)
	}
	if phase == schema.Legacy {
		return nil, fmt.Errorf("no phase is complete in the database %s, and there is nothing to verify: make preflight says whether they may run", cfg.Database)
	}
	if err := fit(ctx, conn, phase); err != nil {
		return nil, err
	}
	r := &Report{Phase: phase}
	queries, err := queriesOf(phase)
	if err != nil {
		return nil, err
	}
	for i, q := range queries {
		progress(i, len(queries), q.Name)
		result, err := verify.Run(ctx, conn, q)
		if ctx.Err() != nil || conn.IsClosed() {
			return nil, err
		}
		r.Queries++
		if err != nil {
			r.Failures = append(r.Failures, "FAILED "+err.Error())
		} else if !result.OK && q.Name == serverVersion {
			r.Server = result.String()
		} else if !result.OK {
			r.Failures = append(r.Failures, result.String())
		}
	}
	if phase == schema.Phase4 {
		if err := r.spotCheck(ctx, conn, cfg, progress); err != nil {
			return nil, fmt.Errorf("compare what users read with what they may: %w", err)
		}
	}
	return r, nil
}

func connect(ctx context.Context, cfg *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, err := script.Connect(ctx, cfg)
	if err != nil {
		return nil, err // says where and as whom, without the password
	}
	if _, err := conn.Exec(ctx, limits); err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, fmt.Errorf("limit the session: %w", err)
	}
	return conn, nil
}

// fit refuses a login that would prove nothing: that is itself held by row level security, or cannot be a caller.
func fit(ctx context.Context, conn *pgx.Conn, phase schema.Phase) error {
	var blind, unable *string
	err := conn.QueryRow(ctx, `
		select
			(select string_agg(c.relname, ', ' order by c.relname) from pg_catalog.pg_class c
			 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and (row_security_active(c.oid) or not has_table_privilege(c.oid, 'SELECT'))),
			(select string_agg(r.rolname, ', ' order by r.rolname) from pg_catalog.pg_roles r
			 where r.rolname in ('anon', 'authenticated') and not pg_has_role(r.oid, 'MEMBER'))`).Scan(&blind, &unable)
	switch {
	case err != nil:
		return fmt.Errorf("look what the login may do: %w", err)
	case blind != nil:
		return fmt.Errorf("the login does not see every row of %s: take the owner of the tables, or a member", *blind)
	case unable != nil && phase == schema.Phase4:
		return fmt.Errorf("the login may not become %s, and so cannot read as a user: grant it that", *unable)
	}
	return nil
}

// serverVersion is the query of schema/verify/preflight.sql whether PostgreSQL itself hides what is to be hidden.
const serverVersion = "server_version"

// queriesOf are those of a phase and of all before it, and whether the server keeps rows hidden at all.
func queriesOf(phase schema.Phase) (all []verify.Query, err error) {
	preflight, err := parse(schema.Preflight())
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(preflight, func(q verify.Query) bool { return q.Name != serverVersion })
	for p := schema.Phase1; p <= phase; p++ {
		queries, err := parse(schema.Verification(p))
		if err != nil {
			return nil, err
		}
		all = append(all, queries...)
	}
	return all, nil
}

func parse(f schema.File, err error) ([]verify.Query, error) {
	if err != nil {
		return nil, err
	}
	return verify.Parse(f)
}
