package rls_test

import (
	"slices"

	"github.com/vital-health/tenancy/fixtures"
)

// world is what a database holds and who belongs where, with the rules of who may do
// what, which these methods say in Go: they know no SQL.
type world struct {
	organizations map[string]organization // by id
	memberships   []fixtures.Membership
	rows          []row
}

// organization is an organization, a tenant or the platform.
type organization struct {
	name   string
	level  fixtures.Level
	parent string // "" for the platform
	closed bool   // switched off, or softly deleted
}

// row is a row of any table. What its table does not have is "".
type row struct {
	table   string
	key     string // tells it from the others of its table, see tables
	name    string
	owner   string // the id of an organization
	scope   fixtures.Level
	creator string // the id of a user, as the next
	user    string // whose it is: a conversation, a message, a membership
	deleted bool

	agent        string // the id of the one that a conversation is with
	conversation string // the id of the one that a message is of
	speaker      string // of a message
	code         string // of a use case or a capability, its own within the owner
}

// migrated is the world of the fixtures after the four phases.
func migrated() world {
	w := world{organizations: map[string]organization{
		fixtures.QuarantineTenantID:       {name: fixtures.QuarantineTenantName, closed: true},
		fixtures.QuarantineOrganizationID: {name: fixtures.QuarantineOrganizationName},
	}}
	for _, o := range fixtures.Organizations {
		w.organizations[o.After.ID] = organization{name: o.Name, closed: !o.Active}
	}
	for _, place := range fixtures.Hierarchy() {
		o := w.organizations[place.ID]
		o.level = place.Type
		if place.Parent != nil {
			o.parent = *place.Parent
		}
		w.organizations[place.ID] = o
		w.rows = append(w.rows,
			row{table: "organizations", key: place.ID, name: o.name, owner: place.ID},
			row{table: "organization_stats", key: place.ID, name: o.name, owner: place.ID})
	}
	for _, u := range fixtures.Users {
		w.rows = append(w.rows, row{table: "users", key: u.ID, name: u.Email, user: u.ID})
	}
	for _, m := range fixtures.Memberships {
		m.OrganizationID = fixtures.AfterID(m.OrganizationID)
		w.memberships = append(w.memberships, m)
		w.rows = append(w.rows, row{table: "user_organizations", key: m.UserID + " in " + m.OrganizationID,
			name: email(m.UserID), owner: m.OrganizationID, user: m.UserID})
	}
	for _, r := range fixtures.Resources() {
		w.rows = append(w.rows, resource(r))
	}
	conversations := map[string]row{}
	for _, c := range fixtures.Conversations {
		conversations[c.ID] = row{table: "conversations", key: c.ID, name: c.Title, owner: c.After.Owner, user: c.UserID, deleted: c.Deleted}
		w.rows = append(w.rows, conversations[c.ID])
	}
	for _, m := range fixtures.Messages {
		r := conversations[m.ConversationID]
		r.table, r.key, r.name, r.conversation, r.speaker = "messages", m.ID, m.Content, m.ConversationID, m.Role
		w.rows = append(w.rows, r)
	}
	return w
}

// resource is a resource of the fixtures after the four phases.
func resource(r fixtures.Resource) row {
	creator := ""
	if r.CreatedBy != nil {
		creator = *r.CreatedBy
	}
	code, _ := r.Legacy["code"].(*string)
	if code == nil {
		code = new("")
	}
	return row{table: r.Table, key: r.ID, name: r.Name, owner: r.After.Owner, scope: r.After.Scope, creator: creator, code: *code, deleted: r.Deleted}
}

// agent is the agent with this id.
func (w world) agent(id string) row {
	i := slices.IndexFunc(w.rows, func(r row) bool { return r.table == "agents" && r.key == id })
	return w.rows[i]
}

// live is whether an organization is neither switched off nor deleted, and its tenant
// is not either.
func (w world) live(organization string) bool {
	tenant := w.tenant(organization)
	return !w.organizations[organization].closed && (tenant == "" || !w.organizations[tenant].closed)
}

// tenant is the tenant that an organization belongs to: of a tenant itself, of the
// platform none, which is "".
func (w world) tenant(organization string) string {
	switch o := w.organizations[organization]; o.level {
	case fixtures.OrganizationLevel:
		return o.parent
	case fixtures.TenantLevel:
		return organization
	}
	return ""
}

// has is whether a user has one of the roles in an organization: as an active member,
// while the organization is live.
func (w world) has(user, organization string, roles ...string) bool {
	return w.live(organization) && slices.ContainsFunc(w.memberships, func(m fixtures.Membership) bool {
		return m.UserID == user && m.OrganizationID == organization && m.Active && slices.Contains(roles, m.Role)
	})
}

func (w world) member(user, organization string) bool {
	return w.has(user, organization, "admin", "member", "viewer")
}
func (w world) writer(user, organization string) bool {
	return w.has(user, organization, "admin", "member")
}
func (w world) admin(user, organization string) bool { return w.has(user, organization, "admin") }

// memberBelow is whether a user is a member of a tenant or of an organization in it.
func (w world) memberBelow(user, tenant string) bool {
	if tenant == "" {
		return false
	}
	for id := range w.organizations {
		if w.tenant(id) == tenant && w.member(user, id) {
			return true
		}
	}
	return false
}

// knows is whether a user may know another's address: his own, and those of the
// members of the organizations that he is a member of.
func (w world) knows(user, other string) bool {
	if user == other {
		return true
	}
	for id := range w.organizations {
		if w.member(user, id) && w.member(other, id) {
			return true
		}
	}
	return false
}

// granted is whether a user, "" for nobody in particular, may do something to the
// rows of a table at all.
func (w world) granted(user string, v verb, table string) bool {
	return user != "" && slices.Contains(allowed[table], v)
}

// may is whether a user may do something to a row.
func (w world) may(user string, v verb, r row) bool {
	switch v {
	case read:
		return w.mayRead(user, r)
	case insert:
		return w.mayInsert(user, r)
	case change:
		return w.mayUpdate(user, r)
	default:
		return w.mayRemove(user, r)
	}
}

// mayRead is whether a user, "" for nobody in particular, may read a row.
func (w world) mayRead(user string, r row) bool {
	if user == "" || r.deleted {
		return false
	}
	switch r.table {
	case "organizations": // one's own, their tenants, the platform
		if r.key == fixtures.PlatformID || w.member(user, r.key) {
			return true
		}
		return w.organizations[r.key].level == fixtures.TenantLevel && w.memberBelow(user, r.key)
	case "users":
		return w.knows(user, r.user)
	case "user_organizations":
		return r.user == user || w.member(user, r.owner)
	case "organization_stats":
		return w.member(user, r.owner)
	case "audit_logs":
		return w.admin(user, r.owner)
	case "conversations", "messages":
		return r.user == user && w.member(user, r.owner)
	}
	if !w.live(r.owner) {
		return false
	}
	switch r.scope {
	case fixtures.PlatformLevel:
		return true
	case fixtures.TenantLevel:
		return w.memberBelow(user, w.tenant(r.owner))
	}
	return w.member(user, r.owner)
}

// mayInsert is whether a user may insert a row.
func (w world) mayInsert(user string, r row) bool {
	switch r.table {
	case "conversations":
		return r.user == user && w.member(user, r.owner) && (r.agent == "" || w.mayRead(user, w.agent(r.agent)))
	case "messages": // what the assistant says is the backend's to write
		return r.speaker == "user" && w.mayRead(user, r)
	case "user_organizations": // nobody whose address he would learn by that
		return w.admin(user, r.owner) && r.user != user && w.knows(user, r.user)
	case "organizations", "users", "audit_logs", "organization_stats":
		return false
	}
	return w.writer(user, r.owner) && r.creator == user && w.mayShare(user, r.owner, r.scope)
}

// mayUpdate is whether a user may change a row, and whether he may softly delete it
// where there is such a thing.
func (w world) mayUpdate(user string, r row) bool {
	switch r.table {
	case "conversations":
		return w.mayRead(user, r)
	case "organizations":
		return !r.deleted && w.admin(user, r.key)
	case "user_organizations": // never one's own
		return w.admin(user, r.owner) && r.user != user
	case "messages", "users", "audit_logs", "organization_stats":
		return false
	}
	return !r.deleted && (w.admin(user, r.owner) || r.creator == user && w.writer(user, r.owner))
}

// mayRemove is whether a user may delete a row for good: memberships alone.
func (w world) mayRemove(user string, r row) bool {
	return r.table == "user_organizations" && w.mayUpdate(user, r)
}

// mayShare is whether a user may give a resource of this owner this scope.
func (w world) mayShare(user, owner string, scope fixtures.Level) bool {
	switch scope {
	case fixtures.PlatformLevel:
		return w.admin(user, fixtures.PlatformID)
	case fixtures.TenantLevel: // the platform has none
		return owner != fixtures.PlatformID && w.admin(user, owner)
	}
	return w.writer(user, owner)
}

func email(user string) string {
	for _, u := range fixtures.Users {
		if u.ID == user {
			return u.Email
		}
	}
	return user
}
