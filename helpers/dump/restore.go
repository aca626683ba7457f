package dump

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// Restored says what has become of a dump.
type Restored struct {
	Versions []string // of which server, and by which pg_dump
	// Owner is who owns organizations in the dump. What is his there is the tests' owner's here, and so is the
	// whole schema public.
	Owner      string
	Foreign    []string // of schema public, "table public.x of somebody else": phase 4 refuses these for whoever is no member of that role
	Extensions []string // that this server does not have, with its reason
	Roles      []string // that this server does not have, with what was left out for each
	Left       []string // what else was left out, and why
	StandIn    bool     // the dump has no auth.uid(), and got the baseline's
}

// Where [Restored] is kept in a restored database, for those that find the template there.
const (
	keepRestored = `create schema tenancy_dump; create table tenancy_dump.restored (said jsonb not null)`
	readRestored = `select said from tenancy_dump.restored`
)

func (r *Restored) keep(ctx context.Context, conn *pgx.Conn) error {
	said, err := json.Marshal(r)
	if err == nil {
		_, err = conn.Exec(ctx, keepRestored)
	}
	if err == nil {
		_, err = conn.Exec(ctx, `insert into tenancy_dump.restored values ($1)`, said)
	}
	return err
}

// Said reads what has become of the dump that a database was restored from.
func Said(ctx context.Context, db *pgtest.DB) (Restored, error) {
	var said []byte
	var r Restored
	err := db.Superuser.QueryRow(ctx, readRestored).Scan(&said)
	if err == nil {
		err = json.Unmarshal(said, &r)
	}
	return r, err
}

// restoration runs a dump's statements, one by one: each is lost or kept by itself.
type restoration struct {
	conn  *pgx.Conn
	roles map[string]bool // that there are
	said  Restored

	owners   []item                    // ALTER … OWNER TO …, for the end: by then it is known whose organizations is
	missing  map[string]map[string]int // role → kind of entry → how many were left out
	left     map[string]int            // sentence → how often
	standIns map[string]bool           // of auth, until the dump brings its own
	lost     []string                  // what of schema public could not be restored
	partial  bool                      // for want of a schema
}

// maxLost is how many losses are told.
const maxLost = 20

func restore(ctx context.Context, conn *pgx.Conn, text *bufio.Reader) (*Restored, error) {
	r := restoration{conn: conn, roles: map[string]bool{}, missing: map[string]map[string]int{}, left: map[string]int{}, standIns: map[string]bool{}}
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	in := newReader(text)
	for {
		i, err := in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := r.run(ctx, i); err != nil {
			return nil, fmt.Errorf("line %d: %w", i.line, err)
		}
	}
	if err := r.end(ctx); err != nil {
		return nil, err
	}
	r.said.Versions = in.versions
	return &r.said, nil
}

// begin finds out which roles there are, and makes who is calling: the dump's own replaces it, if there is one.
func (r *restoration) begin(ctx context.Context) error {
	rows, err := r.conn.Query(ctx, `select rolname from pg_catalog.pg_roles`)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		r.roles[name] = true
	}
	baseline, err := schema.Baseline()
	if err != nil {
		return err
	}
	statements, err := script.Split(baseline)
	if err != nil {
		return err
	}
	for _, s := range statements {
		m := callerFunction.FindStringSubmatch(s.SQL)
		if m != nil {
			r.standIns[m[1]] = true
		}
		if m != nil || strings.Contains(s.SQL, "schema auth ") || strings.HasSuffix(s.SQL, "schema auth;") {
			if _, err := r.conn.PgConn().Exec(ctx, s.SQL).ReadAll(); err != nil {
				return fmt.Errorf("make the stand-in for the schema auth: %w", err)
			}
		}
	}
	if len(r.standIns) == 0 {
		return fmt.Errorf("%s makes no auth.uid()", baseline.Origin)
	}
	return nil
}

var (
	callerFunction = regexp.MustCompile(`(?i)^create (?:or replace )?function "?auth"?\."?(uid|role|jwt)"?\(\)`)
	changesOwner   = regexp.MustCompile(`(?s)^ALTER (.*) OWNER TO (.*);$`)
	ownsAll        = regexp.MustCompile(`^ALTER TABLE "?public"?\."?organizations"? OWNER TO `)
	grant          = regexp.MustCompile(`(?s)^(.*) (TO|FROM) ("(?:[^"]|"")+"|\S+?)( WITH GRANT OPTION)?;$`)
	grantsDefault  = regexp.MustCompile(`^ALTER DEFAULT PRIVILEGES FOR ROLE ("(?:[^"]|"")+"|\S+) `)
	ofDatabase     = regexp.MustCompile(`^(?:CREATE|ALTER|COMMENT ON) DATABASE `)
)

// run runs one item. The error ends the restoration; what is merely left out is noted.
func (r *restoration) run(ctx context.Context, i item) error {
	if i.rows != nil {
		_, err := r.conn.PgConn().CopyFrom(ctx, i.rows, i.sql)
		if i.rows.err != nil && !errors.Is(i.rows.err, io.EOF) {
			return i.rows.err // the server says only that somebody gave up
		}
		return r.judge(i, err)
	}
	switch {
	case changesOwner.MatchString(i.sql):
		if ownsAll.MatchString(i.sql) {
			r.said.Owner = unquote(changesOwner.FindStringSubmatch(i.sql)[2])
		}
		r.owners = append(r.owners, i)
		return nil
	case ofDatabase.MatchString(i.sql):
		r.left["what is set for the database itself: this one is the tests'"]++
		return nil
	case strings.HasPrefix(i.sql, "SET SESSION AUTHORIZATION "), strings.HasPrefix(i.sql, "RESET SESSION AUTHORIZATION"):
		return nil // whoever granted it, it is granted
	case i.kind == "ACL" || i.kind == "DEFAULT ACL":
		sql, ok := r.granted(i)
		if !ok {
			return nil
		}
		i.sql = sql
	}
	sql := i.sql
	m := callerFunction.FindStringSubmatch(sql)
	if m != nil {
		// Both or neither: they are one message, and so one transaction.
		sql = fmt.Sprintf("drop function if exists auth.%s(); %s", m[1], sql)
	}
	_, err := r.conn.PgConn().Exec(ctx, sql).ReadAll()
	if m != nil && err == nil {
		delete(r.standIns, m[1])
	}
	return r.judge(i, err)
}

// granted is a grant with the tests' owner in the place of the dump's; not ok if it is for somebody whom there is not.
func (r *restoration) granted(i item) (sql string, ok bool) {
	sql = i.sql
	if m := grantsDefault.FindStringSubmatch(sql); m != nil {
		if name := unquote(m[1]); name != r.said.Owner {
			r.left["default privileges of "+name+": what that role makes later"]++
			return "", false
		}
		sql = strings.Replace(sql, m[1], pgtest.OwnerRole, 1)
	}
	m := grant.FindStringSubmatch(sql)
	if m == nil {
		return sql, true
	}
	switch name := unquote(m[3]); {
	case name == r.said.Owner:
		m[3] = pgtest.OwnerRole
	case m[3] == "PUBLIC" || r.roles[name]:
	default:
		r.lacks(name, i)
		return "", false
	}
	return fmt.Sprintf("%s %s %s%s;", m[1], m[2], m[3], m[4]), true
}

func (r *restoration) lacks(role string, i item) {
	kinds := r.missing[role]
	if kinds == nil {
		kinds = map[string]int{}
		r.missing[role] = kinds
	}
	kinds[i.kind]++
}

var noRole = regexp.MustCompile(`^role "(.*)" does not exist$`)

// judge decides what comes of an item that the server refused.
func (r *restoration) judge(i item, err error) error {
	refusal, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return err
	}
	switch {
	case refusal.Code == "42P06": // a schema that is there already
		return nil
	case strings.HasPrefix(i.sql, "SET "): // a newer server's setting
		return nil
	case i.kind == "EXTENSION":
		r.said.Extensions = append(r.said.Extensions, fmt.Sprintf("%s: %s", i.name, refusal.Message))
		return nil
	case i.kind == "COMMENT" || i.kind == "SECURITY LABEL":
		r.left[strings.ToLower(i.kind)+"s on what is not here"]++
		return nil
	case i.kind == "POLICY" && noRole.MatchString(refusal.Message):
		r.lacks(noRole.FindStringSubmatch(refusal.Message)[1], i)
		return nil
	}
	what := fmt.Sprintf("%s %s%s: %s", strings.ToLower(i.kind), strings.TrimPrefix(i.schema+".", "-."), i.name, refusal.Message)
	if i.schema == "public" && !expendable(i, refusal) {
		r.lost = append(r.lost, fmt.Sprintf("  line %d: %s", i.line, what))
		r.partial = r.partial || refusal.Code == noSchema
		return nil
	}
	r.left[what]++
	return nil
}

// expendable is whether the phases can be tried without something of schema public.
func expendable(i item, refusal *pgconn.PgError) bool {
	switch i.kind {
	case "ACL", "PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA":
		return true
	case "STATISTICS DATA": // they are gathered anew
		return true
	case "FK CONSTRAINT", "TRIGGER": // into a schema that is not in the dump, or by an extension
		return slices.Contains([]string{"42P01", "42883", noSchema}, refusal.Code)
	}
	return false
}

const noSchema = "3F000"

// ownership.sql gives the owner what he must own, and everything where the dump does not say whose it is.
//
//go:embed ownership.sql
var ownership string

// end hands the database to its owner, and sums up.
func (r *restoration) end(ctx context.Context) error {
	if len(r.lost) > 0 {
		more := ""
		if n := len(r.lost) - maxLost; n > 0 {
			more = fmt.Sprintf("\n  and %d more", n)
		}
		text := "of schema public, which the phases are about, this server could not restore:\n" +
			strings.Join(r.lost[:min(len(r.lost), maxLost)], "\n") + more
		if len(r.said.Extensions) > 0 {
			text += "\nIt lacks these extensions: install them, or use a server that has them (TEST_POSTGRES_IMAGE, TEST_DATABASE_URL):\n  " +
				strings.Join(r.said.Extensions, "\n  ")
		}
		if r.partial {
			text += "\nIt needs schemas that the dump does not hold: dump all of them (pg_dump without -n and -N)"
		}
		return errors.New(text)
	}
	for _, i := range r.owners {
		m := changesOwner.FindStringSubmatch(i.sql)
		if name := unquote(m[2]); name != r.said.Owner {
			if i.schema == "public" {
				r.said.Foreign = append(r.said.Foreign, fmt.Sprintf("%s of %s", strings.ToLower(i.kind)+" public."+i.name, name))
			}
			continue
		}
		_, err := r.conn.PgConn().Exec(ctx, fmt.Sprintf("ALTER %s OWNER TO %s", m[1], pgtest.OwnerRole)).ReadAll()
		// What was left out has no owner.
		if _, refused := errors.AsType[*pgconn.PgError](err); err != nil && !refused {
			return err
		}
	}
	_, err := r.conn.Exec(ctx, "reset all")
	if err == nil {
		_, err = r.conn.Exec(ctx, `select set_config('tenancy.everything', $1, false), set_config('tenancy.owner', $2, false)`,
			fmt.Sprint(len(r.owners) == 0), pgtest.OwnerRole)
	}
	if err == nil {
		_, err = script.Run(ctx, r.conn, schema.File{Origin: "helpers/dump/ownership.sql", SQL: ownership})
	}
	if err != nil {
		return err
	}
	var complete *int
	err = r.conn.QueryRow(ctx, `select (xpath('//n/text()', query_to_xml('select max(phase) as n from tenancy.completed_phase', true, true, '')))[1]::text::int
		where to_regclass('tenancy.completed_phase') is not null`).Scan(&complete)
	if err == nil && complete != nil {
		return fmt.Errorf("phase %d is complete in it: give a dump from before phase 1, or roll the phases back first", *complete)
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}

	for _, role := range slices.Sorted(maps.Keys(r.missing)) {
		var kinds []string
		for _, kind := range slices.Sorted(maps.Keys(r.missing[role])) {
			name := map[string]string{"ACL": "grant", "DEFAULT ACL": "default privilege", "POLICY": "policy"}[kind]
			kinds = append(kinds, fmt.Sprintf("%d × %s", r.missing[role][kind], name))
		}
		r.said.Roles = append(r.said.Roles, role+": "+strings.Join(kinds, ", "))
	}
	for _, what := range slices.Sorted(maps.Keys(r.left)) {
		if n := r.left[what]; n > 1 {
			what = fmt.Sprintf("%s (%d times)", what, n)
		}
		r.said.Left = append(r.said.Left, what)
	}
	r.said.StandIn = r.standIns["uid"]
	_, err = r.conn.Exec(ctx, "analyze")
	return err
}

// unquote is the name that an identifier stands for.
func unquote(identifier string) string {
	if !strings.HasPrefix(identifier, `"`) {
		return identifier
	}
	return strings.ReplaceAll(strings.Trim(identifier, `"`), `""`, `"`)
}
