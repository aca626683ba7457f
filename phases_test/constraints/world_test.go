package constraints_test

import (
	"slices"

	"github.com/vital-health/tenancy/fixtures"
)

// What follows from the world and the access model, computed from the fixtures and never from the database.

// organization is an organization after phase 2.
type organization struct {
	fixtures.Placement
	active bool
}

// organizations are all of them by id, with those that phase 2 makes. Nobody reads what is in quarantine: its tenant is
// switched off.
func organizations() map[string]organization {
	all := map[string]organization{}
	for _, place := range fixtures.Hierarchy() {
		all[place.ID] = organization{place, place.ID != fixtures.QuarantineTenantID}
	}
	for _, o := range fixtures.Organizations {
		all[o.After.ID] = organization{o.After, o.Active}
	}
	return all
}

// tenantOf is itself for a tenant, its parent for an organization, and nobody for the platform.
func tenantOf(id string) *string {
	switch o := organizations()[id]; o.Type {
	case fixtures.TenantLevel:
		return &o.ID
	case fixtures.OrganizationLevel:
		return o.Parent
	default:
		return nil
	}
}

// live says whether an organization is active, and its tenant, too.
func live(id string) bool {
	tenant := tenantOf(id)
	return organizations()[id].active && (tenant == nil || organizations()[*tenant].active)
}

// memberships are a user's roles by organization, where both count.
func memberships(user fixtures.User) map[string]string {
	roles := map[string]string{}
	for _, m := range fixtures.Memberships {
		if id := fixtures.AfterID(m.OrganizationID); m.UserID == user.ID && m.Active && live(id) {
			roles[id] = m.Role
		}
	}
	return roles
}

// visible are the organizations a user sees: the platform, its own and their tenants.
func visible(user fixtures.User) map[string]bool {
	seen := map[string]bool{fixtures.PlatformID: true}
	for id := range memberships(user) {
		seen[id] = true
		if tenant := tenantOf(id); tenant != nil {
			seen[*tenant] = true
		}
	}
	return seen
}

// mayRead says whether a user reads what this organization shares in this scope.
func mayRead(user fixtures.User, owner string, scope fixtures.Level) bool {
	if !live(owner) {
		return false
	}
	roles := memberships(user)
	switch scope {
	case fixtures.PlatformLevel:
		return true
	case fixtures.TenantLevel:
		for id := range roles {
			if mine, theirs := tenantOf(id), tenantOf(owner); mine != nil && theirs != nil && *mine == *theirs {
				return true
			}
		}
		return false
	default:
		return roles[owner] != ""
	}
}

// accessibleAgents are the ids of the agents a user is offered.
func accessibleAgents(user fixtures.User) (ids []string) {
	for _, a := range fixtures.Agents {
		if !a.Deleted && a.Legacy["status"] == "active" && mayRead(user, a.After.Owner, a.After.Scope) {
			ids = append(ids, a.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// chain is the way from the platform down to an organization.
func chain(id string) []string {
	o := organizations()[id]
	if o.Parent == nil {
		return []string{id}
	}
	return append(chain(*o.Parent), id)
}
