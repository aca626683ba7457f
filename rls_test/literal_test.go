package rls_test

import (
	_ "embed"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// The policies as the checklist spells them are a second model. Whatever ours allow,
// they must allow, too; and where they are safe, ours must allow what they do. Where
// they are not: docs/deviations.md.
//
//go:embed testdata/checklist_policies.sql
var checklistPolicies string

// makeLiteral makes tables that the checklist's policies hold for beside ours: its
// agents are the rows of all resource tables, because all have the agents' pattern.
func makeLiteral(t testing.TB, db *pgtest.DB) {
	t.Helper()
	statement(`
		create schema literal;
		set local search_path = literal, public;
		create table organizations as table public.organizations with no data;
		create table user_organizations as table public.user_organizations with no data;
		create table conversations as table public.conversations with no data;
		create table agents (id uuid, owner_organization_id uuid, sharing_scope public.sharing_scope_type, created_by uuid, deleted_at timestamptz, name text);

		-- Of a tenant itself, of an organization its parent, of the platform none.
		create function get_organization_tenant(p_organization_id uuid) returns uuid language sql stable as $$
			select case o.organization_type when 'tenant' then o.id when 'organization' then o.parent_organization_id end
			from literal.organizations o where o.id = p_organization_id
		$$;
		alter table agents enable row level security;
		alter table conversations enable row level security;
		grant usage on schema literal to authenticated;
		grant select, insert, update on all tables in schema literal to authenticated;
		grant execute on function get_organization_tenant(uuid) to authenticated;
	`+checklistPolicies)(t, db)
}

// fillLiteral brings those tables up to date.
func fillLiteral(t testing.TB, db *pgtest.DB) {
	t.Helper()
	sql := `truncate literal.organizations, literal.user_organizations, literal.conversations, literal.agents;
		insert into literal.organizations select * from public.organizations;
		insert into literal.user_organizations select * from public.user_organizations;
		insert into literal.conversations select * from public.conversations;`
	for _, table := range resourceTables {
		sql += fmt.Sprintf(`insert into literal.agents select id, owner_organization_id, sharing_scope, created_by, deleted_at, %s from public.%s;`, row{table: table}.nameColumn(), table)
	}
	statement(sql)(t, db)
}

// literal compares what a user may by our policies with what he may by the
// checklist's.
func literal(t testing.TB, tx pgx.Tx, w world, u fixtures.User) (v verdict) {
	t.Helper()
	ids := func(a attempted) map[string]bool {
		t.Helper()
		require.Contains(t, []outcome{done, filtered}, a.outcome)
		found := map[string]bool{}
		for _, key := range a.keys {
			found[key] = true
		}
		return found
	}
	queries := []query{
		{sql: `select id::text from literal.agents union all select id::text from literal.conversations`},
		{sql: `update literal.agents set name = 'New' returning id::text`},
		{sql: `select id::text from public.conversations`},
	}
	for _, table := range resourceTables {
		queries = append(queries, query{sql: `select id::text from public.` + table}, query{sql: fmt.Sprintf(`update public.%s set updated_at = now() returning id::text`, table)})
	}
	found := attempts(t, tx, queries)
	theirs := map[verb]map[string]bool{read: ids(found[0]), change: ids(found[1])}
	ours := map[verb]map[string]bool{read: ids(found[2]), change: {}}
	for i := range resourceTables {
		for key := range ids(found[3+2*i]) {
			ours[read][key] = true
		}
		for key := range ids(found[4+2*i]) {
			ours[change][key] = true
		}
	}

	for _, r := range w.rows {
		resource := slices.Contains(resourceTables, r.table)
		if !resource && r.table != "conversations" {
			continue
		}
		for _, verb := range []verb{read, change} {
			if verb == change && !resource {
				continue
			}
			v.literally(w, u, verb, r, ours[verb][r.key], theirs[verb][r.key])
		}
	}
	return v
}

// safe is whether the checklist's policies are right about a user and a row: nothing
// is suspended that the row or the user belongs to, who made the row still writes
// there, and whose conversation it is still belongs there.
func (w world) safe(user string, verb verb, r row) bool {
	for _, m := range w.memberships {
		if m.UserID == user && m.Active && !w.live(m.OrganizationID) {
			return false
		}
	}
	switch {
	case r.table == "conversations":
		return w.member(user, r.owner)
	case verb == insert: // they do not ask for the role, or about the scope
		return w.writer(user, r.owner) && r.scope == fixtures.OrganizationLevel
	case verb == change:
		return w.live(r.owner) && (r.creator != user || w.writer(user, r.owner))
	}
	return w.live(r.owner)
}

// literalInserts is literal for new agents.
func literalInserts(t testing.TB, tx pgx.Tx, w world, u fixtures.User) (v verdict) {
	t.Helper()
	ours, theirs := insertions[0], insertions[0]
	theirs.sql = `insert into literal.agents ({columns}) values ({values})`
	var rows []row
	var queries []query
	for _, r := range w.candidates(u, w.near(u)) {
		if r.table == "agents" {
			rows = append(rows, r)
			queries = append(queries, ours.query(r), theirs.query(r))
		}
	}
	found := attempts(t, tx, queries)
	for i, r := range rows {
		v.literally(w, u, insert, r, found[2*i].outcome == done, found[2*i+1].outcome == done)
	}
	return v
}

// literally compares what a user may do by our policies with what by the checklist's.
func (v *verdict) literally(w world, u fixtures.User, verb verb, r row, ours, theirs bool) {
	v.decisions++
	switch {
	case ours && !theirs:
		v.problems = append(v.problems, fmt.Sprintf("%s %s %s by our policies, and not by the checklist's", u.Email, verb, w.describe(r)))
	case theirs && !ours && w.safe(u.ID, verb, r):
		v.problems = append(v.problems, fmt.Sprintf("%s %s %s by the checklist's policies, and not by ours", u.Email, verb, w.describe(r)))
	}
}
