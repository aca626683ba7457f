package messy_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/fixtures/messy"
)

// oracle says who could read a row before phase 1, and who may after phase 4. It knows
// the world and no SQL.
type oracle struct{ messy.World }

// Before phase 1 --------------------------------------------------------------------

// policies is whether a user reads an agent by the three legacy policies.
func (o oracle) policies(user messy.Person, agent messy.Row) bool {
	named := agent.Tenant
	if o.byOwner() {
		named = agent.Owner
	}
	return o.flag(agent, "is_public") || everIn(user, named) ||
		o.flag(agent, "is_tenant_shared") && activeIn(user, func(mine string) bool { return o.sameKey(mine, named) })
}

// byOwner is whether the old policies go by owner_organization_id, there being no tenant_id.
func (o oracle) byOwner() bool {
	return !slices.ContainsFunc(o.Rows, func(r messy.Row) bool { return r.Tenant != "" })
}

// filled adds what the old policies show from phase 2 on, if they go by the column that it
// fills: an agent that had no owner is shown to the people of the one whom it has got.
func (o oracle) filled(before readings) readings {
	all := maps.Clone(before)
	for _, user := range o.People {
		for _, r := range o.Rows {
			if r.Table == "agents" && o.byOwner() && len(o.named(r)) == 0 {
				if r.Owner = r.After.Owner; o.policies(user, r) {
					all.add(user, r.Table, r.As)
				}
			}
		}
	}
	return all
}

// meant is whether a row was for a user to read. The other tables had no row level
// security, but the same flags, and the same columns that name an owner.
func (o oracle) meant(user messy.Person, r messy.Row) bool {
	if r.Table == "conversations" {
		return r.By == user.As
	}
	if o.flag(r, "is_public") {
		return true
	}
	named := o.named(r)
	if len(named) == 0 {
		// Nobody's but its maker's; or, if he was never anywhere else, of those among whom he made it.
		home := o.home(r.By)
		if home == "" {
			return r.By == user.As
		}
		named = []string{home}
	}
	// Of a row that names two nobody knows whose it is: he must be of both.
	return !slices.ContainsFunc(named, func(name string) bool {
		return !everIn(user, name) &&
			!(o.flag(r, "is_tenant_shared") && activeIn(user, func(mine string) bool { return o.shares(mine, name) }))
	})
}

// named is the organizations that a row names and that exist.
func (o oracle) named(r messy.Row) (names []string) {
	for _, name := range []string{r.Tenant, r.Owner} {
		if _, exists := o.Organization(name); exists && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// home is the one organization that somebody has ever been in, "" if there are more.
// What people of the platform make is not therefore the platform's.
func (o oracle) home(person string) string {
	i := slices.IndexFunc(o.People, func(p messy.Person) bool { return p.As == person })
	if i < 0 || len(o.People[i].Memberships) != 1 {
		return ""
	}
	if m := o.People[i].Memberships[0]; !m.Former && m.Organization != messy.Platform {
		return m.Organization
	}
	return ""
}

// everIn is whether somebody is a member of an organization or was one: the old
// policies make no difference.
func everIn(user messy.Person, organization string) bool {
	return slices.ContainsFunc(user.Memberships, func(m messy.Membership) bool { return m.Organization == organization })
}

// activeIn is whether somebody is an active member of such an organization.
func activeIn(user messy.Person, such func(organization string) bool) bool {
	return slices.ContainsFunc(user.Memberships, func(m messy.Membership) bool { return !m.Former && such(m.Organization) })
}

// shares is whether two organizations are in one tenant: by their keys, or because
// people said so of one of the two.
func (o oracle) shares(a, b string) bool {
	first, said := o.tenantByHand(a)
	second, also := o.tenantByHand(b)
	return o.sameKey(a, b) || (said || also) && first != "" && first == second
}

func (o oracle) sameKey(a, b string) bool {
	first, known := o.key(a)
	second, also := o.key(b)
	return known && also && first == second
}

// key is an organization's tenant key: that of its settings, if there is one.
func (o oracle) key(organization string) (key string, known bool) {
	found, known := o.Organization(organization)
	switch setting, set := text(found.Settings, "tenant_key"); {
	case !known:
		return "", false
	case set:
		return setting, true
	case found.Key != nil:
		return *found.Key, true
	}
	return "", false
}

// tenantByHand is the tenant that people said, or else the one that has the key.
func (o oracle) tenantByHand(organization string) (tenant string, said bool) {
	found, _ := o.Organization(organization)
	switch {
	case found.Mapped != "":
		return found.Mapped, true
	case found.Parent != "":
		return found.Parent, true
	}
	key, known := o.key(organization)
	for _, t := range o.Organizations {
		if theirs, has := o.key(t.As); known && has && theirs == key && t.After.Level == fixtures.TenantLevel {
			return t.As, false
		}
	}
	return "", false
}

// flag is whether a row says yes: with the word true, in whatever letters. What is said
// in a column and in metadata must be said in both.
func (o oracle) flag(r messy.Row, name string) bool {
	inMetadata, given := text(r.Metadata, name)
	yes := strings.EqualFold(inMetadata, "true")
	if name == "is_public" && r.Public != nil {
		return r.Public == true && (!given || yes)
	}
	return yes
}

// text is a field of a JSON object as text, as ->> gives it.
func text(value any, field string) (text string, given bool) {
	encoded, err := json.Marshal(value)
	if err != nil {
		panic(err) // it came out of a literal
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(encoded, &object) != nil || object[field] == nil || string(object[field]) == "null" {
		return "", false
	}
	if json.Unmarshal(object[field], &text) != nil {
		text = string(object[field])
	}
	return text, true
}

// After phase 4 ---------------------------------------------------------------------

// place is an organization's place after phase 2, also of those that phase 2 makes.
func (o oracle) place(organization string) (p messy.Place, live bool) {
	if found, known := o.Organization(organization); known {
		p, live = found.After, !found.Off
	} else {
		made := map[string]messy.Place{
			messy.Platform:   {Level: fixtures.PlatformLevel, Slug: "vital-platform"},
			messy.Quarantine: {Level: fixtures.TenantLevel, Slug: "quarantine"},
			messy.Unassigned: {Level: fixtures.OrganizationLevel, Tenant: messy.Quarantine, Slug: "unassigned"},
		}
		p, known = made[organization]
		live = known && organization != messy.Quarantine
	}
	if p.Tenant != "" {
		_, tenantLives := o.place(p.Tenant)
		live = live && tenantLives
	}
	return p, live
}

// in is whether a user is an active member of a live organization, with one of the
// roles, or with any.
func (o oracle) in(user messy.Person, organization string, roles ...string) bool {
	_, live := o.place(organization)
	return live && slices.ContainsFunc(user.Memberships, func(m messy.Membership) bool {
		return m.Organization == organization && !m.Former && (len(roles) == 0 || slices.Contains(roles, m.Role))
	})
}

// tenantOf is the tenant of an organization, which is its own; "" for the platform.
func (o oracle) tenantOf(organization string) string {
	p, _ := o.place(organization)
	if p.Level == fixtures.TenantLevel {
		return organization
	}
	return p.Tenant
}

// below is whether a user is a member of a tenant or of an organization in it.
func (o oracle) below(user messy.Person, tenant string) bool {
	return tenant != "" && activeIn(user, func(mine string) bool { return o.in(user, mine) && o.tenantOf(mine) == tenant })
}

// may is whether a user may read a row when it is what it must become.
func (o oracle) may(user messy.Person, r messy.Row) bool {
	owner := r.After.Owner
	if r.Table == "conversations" {
		return r.By == user.As && o.in(user, owner)
	}
	_, live := o.place(owner)
	switch r.After.Scope {
	case fixtures.PlatformLevel:
		return live
	case fixtures.TenantLevel:
		return live && o.below(user, o.tenantOf(owner))
	}
	return o.in(user, owner)
}

// sees is whether a user may read an organization: his own, their tenants, the platform.
func (o oracle) sees(user messy.Person, organization string) bool {
	p, _ := o.place(organization)
	return p.Level == fixtures.PlatformLevel || o.in(user, organization) || p.Level == fixtures.TenantLevel && o.below(user, organization)
}

// colleagues is whether a user is another, or an active member where the other is.
func (o oracle) colleagues(user, other messy.Person) bool {
	return user.As == other.As || activeIn(other, func(theirs string) bool { return o.in(user, theirs) })
}

// whyNot is why somebody for whom a row was meant may not read it after phase 4: one of
// what the rollout takes away on purpose, "" if it is none of that.
func (o oracle) whyNot(user messy.Person, r messy.Row) string {
	owner := r.After.Owner
	p, live := o.place(owner)
	switch {
	case o.may(user, r):
		return ""
	case owner == messy.Unassigned || p.Tenant == messy.Quarantine:
		return "it is in quarantine"
	case !live:
		return "its owner is switched off"
	case r.Table == "conversations" || everIn(user, owner):
		return "the user is no member any more"
	case owner == messy.Platform:
		return "the platform has no tenant to share it with"
	}
	_, moved := o.tenantByHand(owner)
	switch sharing := func(mine string) bool { return o.shares(mine, owner) }; {
	case activeIn(user, func(mine string) bool { return sharing(mine) && !o.in(user, mine) }):
		return "the user's organization is switched off"
	case activeIn(user, func(mine string) bool { _, also := o.tenantByHand(mine); return sharing(mine) && (moved || also) }):
		return "people have said that the two are of different tenants"
	}
	return ""
}

// allowed is all that the people may read after phase 4, of every table, when every row
// has changed once since.
func (o oracle) allowed() readings {
	all := readings{}
	for _, user := range o.People {
		add := func(may bool, table, as string) {
			if may {
				all.add(user, table, as)
			}
		}
		changed := func(organization, table, as string) {
			add(o.in(user, organization, "admin"), "audit_logs", table+" "+as)
		}
		for _, as := range organizations(o.World) {
			add(o.sees(user, as), "organizations", as)
			add(o.in(user, as), "organization_stats", as)
			changed(as, "organizations", as)
		}
		for _, p := range o.People {
			add(o.colleagues(user, p), "users", p.As)
			for _, m := range p.Memberships {
				as := p.As + " in " + m.Organization
				add(p.As == user.As || o.in(user, m.Organization), "user_organizations", as)
				changed(m.Organization, "user_organizations", as)
			}
		}
		for _, r := range o.Rows {
			add(o.may(user, r), r.Table, r.As)
			changed(r.After.Owner, r.Table, r.As)
			if r.Table == "conversations" {
				add(o.may(user, r), "messages", r.As)
				changed(r.After.Owner, "messages", r.As)
			}
		}
	}
	return all
}
