package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vital-health/tenancy/helpers/why"
)

// How much is compared of a database that has more, and how much is told of what is wrong.
const (
	organizations = 40        // of each of which some members read
	smallTable    = 8_000_000 // bytes; of a smaller table all rows are compared
	sampledRows   = 2000      // of a larger one, beside those of the organizations
	told          = 20        // decisions that are told, of each kind,
	toldOfEach    = 2         // and of each user and table
	explained     = 3         // of these, by the policies
)

// stranger has signed in, and is nobody's member; "" is who has not signed in.
const stranger = "ffffffff-0000-4000-8000-000000000000"

// sample is the users: of some organizations two members, as different as they are, then some who were members once,
// and some who never were. Novartis and Pfizer come first.
const sample = `
with looked_at as (
    select o.id
    from public.organizations o
    order by coalesce(o.slug in ('novartis', 'pfizer'), false) desc, o.organization_type, hashtextextended(o.id::text, 0), o.id
    limit $1
), member as (
    select uo.user_id, row_number() over (partition by uo.organization_id order by uo.role, uo.user_id) as from_first,
        row_number() over (partition by uo.organization_id order by uo.role desc, uo.user_id desc) as from_last
    from looked_at l
    join public.user_organizations uo on uo.organization_id = l.id and uo.is_active
)
select user_id::text from member where from_first = 1 or from_last = 1
union
(select uo.user_id::text from public.user_organizations uo where not uo.is_active order by hashtextextended(uo.user_id::text, 0) limit 5)
union
(select u.id::text from public.users u where not exists (select from public.user_organizations uo where uo.user_id = u.id) order by u.id limit 2)
union
values ($2)
order by 1`

// table is what is compared of a table of public: its key, whose its rows are, and who may read one. The rules are those
// of the access model, from memberships and parents by hand: nothing that the policies use is in them.
type table struct{ name, key, owner, rule string }

// Who asks is a, the row is r, and its owner's place is p.
const (
	ofResource = `r.deleted_at is null and p.live and case r.sharing_scope
		when 'platform' then true
		when 'tenant' then exists (select from member m where m.user_id = a.id and m.tenant_id = p.tenant_id)
		when 'organization' then exists (select from member m where m.user_id = a.id and m.id = p.id)
	end`
	ofConversation = `r.user_id = a.id and r.deleted_at is null and exists (select from member m where m.user_id = a.id and m.id = r.owner_organization_id)`
)

var tables = []table{
	{"organizations", "id", "id", `r.deleted_at is null and (r.organization_type = 'platform' or exists (
		select from member m where m.user_id = a.id and r.id in (m.id, m.tenant_id)))`},
	{"users", "id", "", `r.id = a.id or exists (
		select from member m join public.user_organizations uo on uo.organization_id = m.id and uo.is_active where m.user_id = a.id and uo.user_id = r.id)`},
	{"user_organizations", "id", "organization_id", `r.user_id = a.id or exists (select from member m where m.user_id = a.id and m.id = r.organization_id)`},
	{"conversations", "id", "owner_organization_id", ofConversation},
	{"messages", "id", "", `exists (select from public.conversations c where c.id = r.conversation_id and ` + strings.ReplaceAll(ofConversation, "r.", "c.") + `)`},
	{"audit_logs", "id", "organization_id", `exists (select from member m where m.user_id = a.id and m.id = r.organization_id and m.role = 'admin')`},
	{"organization_stats", "organization_id", "organization_id", `exists (select from member m where m.user_id = a.id and m.id = r.organization_id)`},
}

// may is who of $1 may read which of the rows of a query.
const may = `
with asked (id) as (
    select unnest($1::uuid[])
), place as (
    select o.id, case o.organization_type when 'organization' then o.parent_organization_id when 'tenant' then o.id end as tenant_id,
        o.deleted_at is null and coalesce(o.is_active, false)
            and (o.organization_type <> 'organization' or t.deleted_at is null and coalesce(t.is_active, false)) as live
    from public.organizations o
    left join public.organizations t on t.id = o.parent_organization_id
), member as (
    select uo.user_id, uo.role, p.id, p.tenant_id
    from public.user_organizations uo
    join place p on p.id = uo.organization_id
    where uo.user_id in (select id from asked) and uo.is_active and p.live
), candidate as (
    %s
)
select a.id::text, r.%s::text
from asked a
cross join candidate r
left join place p on p.id = r.%s
where %s`

// spot is one session's look at a database, all of it in one snapshot.
type spot struct {
	tx     pgx.Tx
	tables []table
	users  []string
	rows   map[string][]string                   // table → keys that are compared
	whole  map[string]bool                       // tables of which these are all
	may    map[string]map[string]map[string]bool // table → user → keys
}

// decision is a row that a user reads and may not, or may read and does not.
type decision struct {
	table     table
	user, key string
	reads     bool
}

// spotCheck compares what users read with what they may.
func (r *Report) spotCheck(ctx context.Context, conn *pgx.Conn, cfg *pgx.ConnConfig, progress Progress) error {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	s := &spot{tx: tx, rows: map[string][]string{}, whole: map[string]bool{}, may: map[string]map[string]map[string]bool{}}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	for i, t := range s.tables {
		progress(i, len(s.tables), "rules of "+t.name)
		if err := s.rule(ctx, t); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	var wrong []decision
	for i, user := range append(s.users, "") {
		progress(i, len(s.users)+1, "reading as "+user)
		found, err := s.compare(ctx, user)
		if err != nil {
			return fmt.Errorf("as %q: %w", user, err)
		}
		wrong = append(wrong, found...)
		r.Users++
	}
	for _, keys := range s.rows {
		r.Decisions += len(keys) * r.Users
	}
	if len(wrong) == 0 {
		return nil
	}
	r.Failures = append(r.Failures, s.tell(ctx, wrong)...)
	if err := tx.Rollback(ctx); err != nil {
		return err
	}
	r.Why = explain(ctx, conn, cfg, wrong)
	return nil
}

// prepare chooses the users, and finds out which tables there are.
func (s *spot) prepare(ctx context.Context) error {
	resources, err := collect(ctx, s.tx, `select table_name from tenancy.classified_table where class = 'resource' and to_regclass('public.' || quote_ident(table_name)) is not null order by 1`)
	if err != nil {
		return err
	}
	s.tables = slices.Clone(tables)
	for _, name := range resources {
		s.tables = append(s.tables, table{name, "id", "owner_organization_id", ofResource})
	}
	s.users, err = collect(ctx, s.tx, sample, organizations, stranger)
	return err
}

func collect(ctx context.Context, tx pgx.Tx, sql string, args ...any) ([]string, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// rule chooses the rows of a table, and decides who may read them.
func (s *spot) rule(ctx context.Context, t table) (err error) {
	from := "public." + pgx.Identifier{t.name}.Sanitize()
	if t.name == "organization_stats" {
		from = "tenancy.organization_stats" // what the view shows a part of
	}
	var bytes int64
	if err := s.tx.QueryRow(ctx, `select coalesce(sum(pg_relation_size(relid)), 0) from pg_partition_tree($1::regclass)`, from).Scan(&bytes); err != nil {
		return err
	}
	if bytes == 0 { // a materialised view is no part of a tree
		if err := s.tx.QueryRow(ctx, `select pg_relation_size($1::regclass)`, from).Scan(&bytes); err != nil {
			return err
		}
	}
	s.whole[t.name] = bytes <= smallTable
	candidate, args := "select * from "+from, []any{s.users}
	if s.whole[t.name] {
		s.rows[t.name], err = collect(ctx, s.tx, fmt.Sprintf(`select %s::text from %s`, t.key, from))
	} else {
		s.rows[t.name], err = s.choose(ctx, t, from, bytes)
		candidate, args = candidate+" where "+t.among("$2"), append(args, s.rows[t.name])
	}
	if err != nil {
		return fmt.Errorf("choose rows: %w", err)
	}
	owner := t.owner
	if owner == "" {
		owner = t.key // nobody's: no organization has this id
	}
	rows, err := s.tx.Query(ctx, fmt.Sprintf(may, candidate, t.key, owner, t.rule), args...)
	if err != nil {
		return err
	}
	s.may[t.name] = map[string]map[string]bool{}
	var user, key string
	_, err = pgx.ForEachRow(rows, []any{&user, &key}, func() error {
		if s.may[t.name][user] == nil {
			s.may[t.name][user] = map[string]bool{}
		}
		s.may[t.name][user][key] = true
		return nil
	})
	return err
}

// choose is the keys of some rows of a large table: some of all, and some of each organization that the users belong to.
func (s *spot) choose(ctx context.Context, t table, from string, bytes int64) ([]string, error) {
	sql := fmt.Sprintf(`(select %s::text from %s tablesample system (%f) repeatable (1) limit %d)`, t.key, from, max(0.01, 100*smallTable/float64(bytes)), sampledRows)
	if t.owner == "" || t.owner == t.key {
		return collect(ctx, s.tx, sql)
	}
	return collect(ctx, s.tx, fmt.Sprintf(`%s union (
		select r.key::text
		from (select distinct organization_id as id from public.user_organizations where user_id = any ($1::uuid[])) as o
		cross join lateral (select %s as key from %s where %s = o.id limit 20) as r)`, sql, t.key, from, t.owner), s.users)
}

// among is a condition that an index answers: the row's key is one of a parameter's texts.
func (t table) among(parameter string) string {
	kind := "uuid"
	if t.name == "audit_logs" {
		kind = "bigint"
	}
	return fmt.Sprintf("%s = any (%s::text[]::%s[])", t.key, parameter, kind)
}

// compare reads every table as a user, "" for nobody, and compares.
func (s *spot) compare(ctx context.Context, user string) (wrong []decision, err error) {
	role, claims := "authenticated", map[string]string{"role": "authenticated", "sub": user}
	if user == "" {
		role, claims = "anon", map[string]string{"role": "anon"}
	}
	text, _ := json.Marshal(claims) // strings: cannot fail
	err = pgx.BeginFunc(ctx, s.tx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)`, role, string(text)); err != nil {
			return err
		}
		var held bool
		if err := tx.QueryRow(ctx, `select current_user = $1 and row_security_active('public.agents')`, role).Scan(&held); err != nil {
			return err
		}
		if !held {
			return errors.New("row level security does not hold for " + role + ", which proves nothing, or everything")
		}
		for _, t := range s.tables {
			reads, err := s.read(ctx, tx, t)
			if err != nil {
				return fmt.Errorf("read %s: %w", t.name, err)
			}
			may := s.may[t.name][user]
			for _, key := range s.rows[t.name] {
				if reads[key] != may[key] {
					wrong = append(wrong, decision{t, user, key, reads[key]})
				}
				delete(reads, key)
			}
			for _, key := range slices.Sorted(maps.Keys(reads)) { // a row that the owner of the tables does not see
				wrong = append(wrong, decision{t, user, key, true})
			}
		}
		return errDone
	})
	if errors.Is(err, errDone) {
		err = nil
	}
	return wrong, err
}

// errDone takes back what a part of the transaction has set.
var errDone = errors.New("done")

// read is the keys that somebody reads; who may not ask at all reads nothing.
func (s *spot) read(ctx context.Context, tx pgx.Tx, t table) (keys map[string]bool, err error) {
	sql, args := fmt.Sprintf(`select %s::text from public.%s`, t.key, pgx.Identifier{t.name}.Sanitize()), []any{}
	if !s.whole[t.name] {
		sql, args = sql+" where "+t.among("$1"), []any{s.rows[t.name]}
	}
	keys = map[string]bool{}
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		found, err := collect(ctx, tx, sql, args...)
		for _, key := range found {
			keys[key] = true
		}
		return err
	})
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok && refusal.Code == "42501" {
		return keys, nil
	}
	return keys, err
}

// tell describes decisions: who, which row, what the rules say.
func (s *spot) tell(ctx context.Context, wrong []decision) (text []string) {
	for _, reads := range []bool{true, false} {
		some := slices.DeleteFunc(slices.Clone(wrong), func(d decision) bool { return d.reads != reads })
		if len(some) == 0 {
			continue
		}
		title := "do not read what they may"
		if reads {
			title = "READ WHAT THEY MAY NOT"
		}
		lines := []string{fmt.Sprintf("FAILED: users %s, %d times", title, len(some))}
		of := map[[2]string]int{}
		for _, d := range some {
			who := [2]string{d.user, d.table.name}
			if of[who]++; of[who] <= toldOfEach && len(lines) <= told {
				lines = append(lines, "    "+s.describe(ctx, d))
			}
		}
		if more := len(some) - len(lines) + 1; more > 0 {
			lines = append(lines, fmt.Sprintf("    … and %d more", more))
		}
		text = append(text, strings.Join(lines, "\n"))
	}
	return text
}

// describe names the user with his memberships, and the row with its owner and its scope.
func (s *spot) describe(ctx context.Context, d decision) string {
	who := "who has not signed in"
	if d.user != "" {
		who = d.user
		_ = s.tx.QueryRow(ctx, `
			select format('%s (%s)', coalesce(u.email, 'a stranger'), coalesce((
				select string_agg(format('%s of %s%s', uo.role, o.name, case when uo.is_active then '' else ', once' end), '; ' order by o.name)
				from public.user_organizations uo join public.organizations o on o.id = uo.organization_id where uo.user_id = $1::uuid), 'a member of nothing'))
			from (select) as one left join public.users u on u.id = $1::uuid`, d.user).Scan(&who) // else the id must do
	}
	row := ""
	if d.table.owner != "" && d.table.name != "organization_stats" {
		scope := "null"
		if d.table.rule == ofResource {
			scope = "r.sharing_scope || case when r.deleted_at is null then '' else ', deleted' end"
		}
		_ = s.tx.QueryRow(ctx, fmt.Sprintf(`select format(', of %%s%%s', coalesce(o.name, 'nobody'), ', scope ' || %s) from public.%s r left join public.organizations o on o.id = r.%s where r.%s::text = $1`,
			scope, pgx.Identifier{d.table.name}.Sanitize(), d.table.owner, d.table.key), d.key).Scan(&row)
	}
	return fmt.Sprintf("%s: %s %s%s", who, d.table.name, d.key, row)
}

// explain asks the policies about the first decisions.
func explain(ctx context.Context, owner *pgx.Conn, cfg *pgx.ConnConfig, wrong []decision) (text []string) {
	api, err := connect(ctx, cfg)
	if err != nil {
		return []string{fmt.Sprintf("why cannot be said: %v", err)}
	}
	defer api.Close(context.WithoutCancel(ctx))
	// What is read and must not comes first.
	slices.SortStableFunc(wrong, func(a, b decision) int {
		if a.reads == b.reads {
			return 0
		} else if a.reads {
			return -1
		}
		return 1
	})
	for _, d := range wrong {
		if len(text) == explained {
			break
		}
		if d.table.key != "id" || d.table.name == "audit_logs" {
			continue
		}
		answer, err := why.Ask(ctx, owner, api, why.Question{User: d.user, Verb: why.Read, Table: d.table.name, ID: d.key})
		if err != nil {
			text = append(text, fmt.Sprintf("why: %v", err))
			continue
		}
		text = append(text, "why: "+answer.String())
	}
	return text
}
