package dump_test

import "github.com/vital-health/tenancy/fixtures"

// live is whether an organization is neither switched off nor deleted, nor its tenant.
func (w *world) live(id string) bool {
	tenant := w.tenant(id)
	return !w.organizations[id].closed && (tenant == "" || !w.organizations[tenant].closed)
}

// tenant is the tenant that an organization belongs to: of a tenant itself, of the
// platform none, which is "".
func (w *world) tenant(id string) string {
	switch o := w.organizations[id]; o.level {
	case fixtures.OrganizationLevel:
		return o.parent
	case fixtures.TenantLevel:
		return id
	}
	return ""
}

// reader is a user, with what decides about what he may read.
type reader struct {
	user       string          // "" for nobody in particular
	member     map[string]bool // organizations that are live, in which he is active
	below      map[string]bool // their tenants
	colleagues map[string]bool
}

func (w *world) reader(user string) reader {
	r := reader{user, map[string]bool{}, map[string]bool{}, map[string]bool{user: true}}
	for _, m := range w.memberships {
		if m.user == user && m.active && w.live(m.organization) {
			r.member[m.organization] = true
			if tenant := w.tenant(m.organization); tenant != "" {
				r.below[tenant] = true
			}
		}
	}
	for _, m := range w.memberships {
		if m.active && r.member[m.organization] {
			r.colleagues[m.user] = true
		}
	}
	return r
}

// mayRead is whether he may read a row after phase 4.
func (w *world) mayRead(who reader, table string, r row) bool {
	if who.user == "" || r.deleted {
		return false
	}
	switch table {
	case "organizations": // one's own, their tenants, the platform
		return r.key == fixtures.PlatformID || who.member[r.key] || who.below[r.key]
	case "users": // oneself, and colleagues
		return who.colleagues[r.key]
	case "user_organizations":
		return r.user == who.user || who.member[r.owner]
	case "organization_stats":
		return who.member[r.owner]
	case "audit_logs":
		return false
	case "conversations", "messages":
		return r.user == who.user && who.member[r.owner]
	}
	if !w.live(r.owner) {
		return false
	}
	switch r.scope {
	case fixtures.PlatformLevel:
		return true
	case fixtures.TenantLevel:
		return who.below[w.tenant(r.owner)]
	}
	return who.member[r.owner]
}

// said is whether he may read a row because of what people have said, of the row or of an organization of his
// or the row's, where the old policies went by keys.
func (w *world) said(who reader, r row) bool {
	if r.said || r.scope != fixtures.TenantLevel {
		return r.said
	}
	tenant := w.tenant(r.owner)
	for id := range who.member {
		if w.organizations[id].said && w.tenant(id) == tenant {
			return true
		}
	}
	return w.organizations[r.owner].said || w.organizations[tenant].said
}
