package dump_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// world is what a dump holds, and what the four phases must make of it: computed here
// from the rows as they were before phase 2, by the rules and not by the migrations.
type world struct {
	organizations map[string]organization // by their ids after phase 2
	memberships   []membership
	users         map[string]string // id → address
	rows          map[string][]row  // by table
	platform      string            // the id of its row before phase 2, "" if there is none
	filled        map[string]bool   // tables without tenant_id: phase 2 writes the owner where the old policies look for it
}

type organization struct {
	name, typ, key, parent string
	level                  fixtures.Level
	closed                 bool
	said                   bool // people have said what it is or where it belongs, and not the old application
}

type membership struct {
	user, organization, role string
	active                   bool
}

// row is a row of any table. What its table does not have is "".
type row struct {
	key, name    string
	owner        string // the id of an organization
	scope        fixtures.Level
	user         string // whose it is
	conversation string // that a message is of
	deleted      bool
	ownerless    bool // it named no owner that there is, or two: what it has now, phase 2 has found
	said         bool // its owner is named where the old application, and its policies, do not look
}

// loader reads a database on which phase 1 is complete, and no later one.
type loader struct {
	db        *pgtest.DB
	columns   map[string]map[string]bool // of each table of public
	resources []string                   // tables
}

func newLoader(ctx context.Context, db *pgtest.DB) (*loader, error) {
	l := &loader{db: db, columns: map[string]map[string]bool{}}
	err := scan(ctx, db, `select table_name, column_name from information_schema.columns where table_schema = 'public'`, func(v []string) {
		if l.columns[v[0]] == nil {
			l.columns[v[0]] = map[string]bool{}
		}
		l.columns[v[0]][v[1]] = true
	})
	if err != nil {
		return nil, err
	}
	return l, scan(ctx, db, `select table_name, '' from tenancy.classified_table where class = 'resource' order by table_name`, func(v []string) {
		if l.columns[v[0]] != nil {
			l.resources = append(l.resources, v[0])
		}
	})
}

// scan reads rows of texts, null as "".
func scan(ctx context.Context, db *pgtest.DB, sql string, each func([]string)) error {
	rows, err := db.Superuser.Query(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, sql)
	}
	defer rows.Close()
	for rows.Next() {
		var values []string
		for _, value := range rows.RawValues() {
			values = append(values, string(value))
		}
		each(values)
	}
	return rows.Err()
}

// text is a column as a text, or null where the table does not have it.
func (l *loader) text(table, column string) string {
	if l.columns[table][column] {
		return column + "::text"
	}
	return "null::text"
}

// flag is where a table may say that a row is shared: in a column, and in metadata.
func (l *loader) flag(table, name string) string {
	inside := "null"
	if l.columns[table]["metadata"] {
		inside = fmt.Sprintf("metadata ->> '%s'", name)
	}
	return fmt.Sprintf("lower(%s), lower(%s)", l.text(table, name), inside)
}

// isSet is whether one place says yes, and none says anything else.
func isSet(places ...string) bool {
	said := slices.DeleteFunc(places, func(s string) bool { return s == "" })
	return len(said) > 0 && !slices.ContainsFunc(said, func(s string) bool { return s != "true" })
}

// load reads the world.
func load(ctx context.Context, l *loader) (*world, error) {
	w := &world{organizations: map[string]organization{}, users: map[string]string{}, rows: map[string][]row{}, filled: map[string]bool{}}
	for _, table := range append(l.resources, "conversations") {
		w.filled[table] = !l.columns[table]["tenant_id"]
	}
	for _, part := range []func(context.Context, *loader) error{w.loadOrganizations, w.loadPeople, w.loadResources, w.loadConversations} {
		if err := part(ctx, l); err != nil {
			return nil, fmt.Errorf("load the world of the dump: %w", err)
		}
	}
	return w, nil
}

// moved is the id that phase 2 gives an organization: the platform's is known to everybody.
func (w *world) moved(id string) string {
	if id != "" && id == w.platform {
		return fixtures.PlatformID
	}
	return id
}

func (w *world) loadOrganizations(ctx context.Context, l *loader) error {
	mapping, keys := map[string]string{}, map[string]string{}
	err := scan(ctx, l.db, `select organization_id::text, tenant_id::text from tenancy.organization_mapping`, func(v []string) { mapping[v[0]] = v[1] })
	if err != nil {
		return err
	}
	err = scan(ctx, l.db, `select tenant_type, tenant_key from tenancy.legacy_tenant`, func(v []string) { keys[v[0]] = v[1] })
	if err != nil {
		return err
	}
	const t = "organizations"
	settings := "null"
	if l.columns[t]["settings"] {
		settings = "settings ->> 'tenant_key'"
	}
	err = scan(ctx, l.db, fmt.Sprintf(`select id::text, name, %s, %s, %s, organization_type::text, parent_organization_id::text,
			(is_active and deleted_at is null) is not true from public.organizations`,
		l.text(t, "tenant_type"), l.text(t, "tenant_key"), settings), func(v []string) {
		o := organization{name: v[1], typ: v[2], key: cmp.Or(v[4], v[3]), parent: v[6], level: fixtures.Level(v[5]), closed: v[7] == "t"}
		_, mapped := mapping[v[0]]
		o.said = mapped || o.level != "" || o.parent != ""
		switch {
		case o.level != "":
		case o.typ == "system":
			o.level = fixtures.PlatformLevel
		case v[3] != "" && keys[o.typ] == v[3] && !mapped:
			o.level = fixtures.TenantLevel
		default:
			o.level = fixtures.OrganizationLevel
		}
		if o.level == fixtures.PlatformLevel {
			w.platform = v[0]
		}
		w.organizations[v[0]] = o
	})
	if err != nil {
		return err
	}
	legacy := w.organizations
	w.organizations = map[string]organization{
		fixtures.PlatformID:               {name: "VITAL Expert Platform", level: fixtures.PlatformLevel},
		fixtures.QuarantineTenantID:       {name: fixtures.QuarantineTenantName, level: fixtures.TenantLevel, parent: fixtures.PlatformID, closed: true},
		fixtures.QuarantineOrganizationID: {name: fixtures.QuarantineOrganizationName, level: fixtures.OrganizationLevel, parent: fixtures.QuarantineTenantID},
	}
	for id, o := range legacy {
		switch o.level {
		case fixtures.PlatformLevel:
			o.parent = ""
		case fixtures.TenantLevel:
			o.parent = fixtures.PlatformID
		default:
			found := cmp.Or(mapping[id], o.parent)
			for tenant, other := range legacy {
				if found == "" && o.key != "" && other.level == fixtures.TenantLevel && other.key == o.key {
					found = tenant
				}
			}
			o.parent = cmp.Or(found, fixtures.QuarantineTenantID)
		}
		w.organizations[w.moved(id)] = o
	}
	for id := range w.organizations {
		w.rows["organizations"] = append(w.rows["organizations"], row{key: id, name: w.organizations[id].name, owner: id})
		w.rows["organization_stats"] = append(w.rows["organization_stats"], row{key: id, name: w.organizations[id].name, owner: id})
	}
	w.rows["audit_logs"] = []row{} // nobody has changed anything yet
	return nil
}

func (w *world) loadPeople(ctx context.Context, l *loader) error {
	w.rows["users"], w.rows["user_organizations"] = []row{}, []row{}
	err := scan(ctx, l.db, fmt.Sprintf(`select id::text, %s from public.users`, l.text("users", "email")), func(v []string) {
		w.users[v[0]] = cmp.Or(v[1], v[0])
		w.rows["users"] = append(w.rows["users"], row{key: v[0], name: v[1], user: v[0]})
	})
	if err != nil {
		return err
	}
	return scan(ctx, l.db, `select user_id::text, organization_id::text, role::text, is_active from public.user_organizations`, func(v []string) {
		m := membership{user: v[0], organization: w.moved(v[1]), role: v[2], active: v[3] == "t"}
		w.memberships = append(w.memberships, m)
		w.rows["user_organizations"] = append(w.rows["user_organizations"],
			row{key: m.user + " in " + m.organization, name: w.users[m.user], owner: m.organization, user: m.user})
	})
}

// owner is whose a row is that names these organizations, and whether it says so itself. Who names two, or none that there is
// and was ever in more than one, gets none.
func (w *world) owner(of map[string][]membership, person string, named ...string) (owner string, found bool) {
	there := map[string]bool{}
	for _, id := range named {
		if _, ok := w.organizations[w.moved(id)]; ok && id != "" {
			there[w.moved(id)] = true
		}
	}
	if len(there) == 1 {
		return slices.Collect(maps.Keys(there))[0], false
	}
	if been := of[person]; len(there) == 0 && len(been) == 1 && been[0].active && been[0].organization != fixtures.PlatformID {
		return been[0].organization, true
	}
	return fixtures.QuarantineOrganizationID, true
}

// byPerson is the memberships of each user.
func (w *world) byPerson() map[string][]membership {
	of := map[string][]membership{}
	for _, m := range w.memberships {
		of[m.user] = append(of[m.user], m)
	}
	return of
}

func (w *world) loadResources(ctx context.Context, l *loader) error {
	of := w.byPerson()
	for _, table := range l.resources {
		w.rows[table] = []row{}
		name := "null"
		for _, column := range []string{"code", "title", "name"} {
			if l.columns[table][column] {
				name = column
			}
		}
		err := scan(ctx, l.db, fmt.Sprintf(`select id::text, %s, owner_organization_id::text, %s, %s, sharing_scope::text, deleted_at is not null, %s, %s from public.%s`,
			name, l.text(table, "tenant_id"), l.text(table, "created_by"), l.flag(table, "is_public"), l.flag(table, "is_tenant_shared"),
			pgx.Identifier{table}.Sanitize()), func(v []string) {
			r := row{key: v[0], name: v[1], scope: fixtures.Level(v[5]), deleted: v[6] == "t"}
			r.owner, r.ownerless = w.owner(of, v[4], v[2], v[3])
			r.said = !r.ownerless && w.moved(v[3]) != r.owner
			switch {
			case r.scope != "":
			case isSet(v[7], v[8]):
				r.scope = fixtures.PlatformLevel
			case isSet(v[9], v[10]):
				r.scope = fixtures.TenantLevel
			default:
				r.scope = fixtures.OrganizationLevel
			}
			if r.owner == fixtures.PlatformID && r.scope == fixtures.TenantLevel {
				r.scope = fixtures.OrganizationLevel
			}
			w.rows[table] = append(w.rows[table], r)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *world) loadConversations(ctx context.Context, l *loader) error {
	of, conversations := w.byPerson(), map[string]row{}
	w.rows["conversations"], w.rows["messages"] = []row{}, []row{}
	err := scan(ctx, l.db, fmt.Sprintf(`select id::text, %s, owner_organization_id::text, %s, user_id::text, deleted_at is not null from public.conversations`,
		l.text("conversations", "title"), l.text("conversations", "tenant_id")), func(v []string) {
		r := row{key: v[0], name: v[1], user: v[4], deleted: v[5] == "t"}
		r.owner, r.ownerless = w.owner(of, r.user, v[2], v[3])
		conversations[r.key] = r
		w.rows["conversations"] = append(w.rows["conversations"], r)
	})
	if err != nil {
		return err
	}
	return scan(ctx, l.db, `select id::text, conversation_id::text from public.messages`, func(v []string) {
		r := conversations[v[1]]
		r.key, r.name, r.conversation = v[0], "of "+r.name, v[1]
		w.rows["messages"] = append(w.rows["messages"], r)
	})
}

// describe says whose a row is.
func (w *world) describe(table string, r row) string {
	text := fmt.Sprintf("%s %s (%q)", table, r.key, r.name)
	if r.owner != "" {
		o := w.organizations[r.owner]
		text += fmt.Sprintf(" of %s %s (%q)", o.level, r.owner, o.name)
	}
	if r.scope != "" {
		text += ", shared with the " + string(r.scope)
	}
	return text
}

// about says who a user is.
func (w *world) about(user string) string {
	var places []string
	for _, m := range w.memberships {
		if m.user == user {
			text := fmt.Sprintf("%s of %q", m.role, w.organizations[m.organization].name)
			if !m.active {
				text = "formerly " + text
			}
			if !w.live(m.organization) {
				text += ", which is not live"
			}
			places = append(places, text)
		}
	}
	return fmt.Sprintf("%s (%s)", cmp.Or(w.users[user], user), cmp.Or(strings.Join(places, "; "), "member of nothing"))
}
