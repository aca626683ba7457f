package rollback_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/schema"
)

// The organizations of the model, and its phases.

func (m *model) organization(id any) values { return m.tables["organizations"][fmt.Sprint(id)] }

func (m *model) is(id any) bool { return id != nil && m.organization(id) != nil }

// tenantOf is the tenant of an organization, its own of a tenant.
func (m *model) tenantOf(id any) any {
	switch o := m.organization(id); o["organization_type"] {
	case "organization":
		return o["parent_organization_id"]
	case "tenant":
		return id
	}
	return nil
}

// levelOf is what an organization is: what it was declared to be, else what its legacy
// type and key say.
func levelOf(o values) string {
	declared, _ := o["organization_type"].(string)
	switch {
	case declared != "":
		return declared
	case o["tenant_type"] == "system":
		return "platform"
	case o["tenant_type"] == "pharmaceuticals" && o["tenant_key"] == "pharma",
		o["tenant_type"] == "digital_health" && o["tenant_key"] == "digital-health":
		return "tenant"
	}
	return "organization"
}

// parentFor is the tenant that an organization names.
func (m *model) parentFor(o values) any {
	key := func(o values) any {
		settings, _ := o["settings"].(values)
		if k := settings["tenant_key"]; k != nil {
			return k
		}
		return o["tenant_key"]
	}
	if o["parent_organization_id"] != nil {
		return o["parent_organization_id"]
	}
	for id, t := range m.tables["organizations"] {
		if t["organization_type"] == "tenant" && key(o) != nil && key(t) == key(o) {
			return id
		}
	}
	return fixtures.QuarantineTenantID
}

// freeSlug is the name as a slug, with the lowest number that nobody has.
func (m *model) freeSlug(name any) string {
	base := strings.ReplaceAll(strings.ToLower(fmt.Sprint(name)), " ", "-")
	taken := func(slug string) bool {
		for _, o := range m.tables["organizations"] {
			if o["slug"] == slug && o["deleted_at"] == nil {
				return true
			}
		}
		return false
	}
	slug := base
	for n := 2; taken(slug); n++ {
		slug = fmt.Sprintf("%s-%d", base, n)
	}
	return slug
}

// placeNew gives a new organization what it does not bring.
func (m *model) placeNew(o values) change {
	before := pick(o, placement...)
	if o["organization_type"] == nil {
		o["organization_type"], o["parent_organization_id"] = "organization", m.parentFor(o)
	}
	if o["slug"] == nil {
		o["slug"] = m.freeSlug(o["name"])
	}
	after := pick(o, placement...)
	if equalIn(before, after, placement...) {
		return change{}
	}
	return change{before, after}
}

// place gives every organization its place, and makes those that the hierarchy needs.
func (m *model) place() {
	organizations := m.tables["organizations"]
	for _, o := range organizations {
		if old := o["id"].(string); levelOf(o) == "platform" && old != fixtures.PlatformID {
			m.rename(old, fixtures.PlatformID)
			m.moved = true
			break
		}
	}
	for _, o := range []values{
		{"id": fixtures.QuarantineTenantID, "name": "Quarantine", "organization_type": "tenant", "parent_organization_id": fixtures.PlatformID,
			"slug": "quarantine", "is_active": false},
		{"id": fixtures.QuarantineOrganizationID, "name": "Unassigned", "organization_type": "organization",
			"parent_organization_id": fixtures.QuarantineTenantID, "slug": "unassigned", "is_active": true},
	} {
		if id := o["id"].(string); organizations[id] == nil {
			o["created_at"] = "2025-11-26T00:00:00+00:00"
			organizations[id], m.placed[id] = o, change{after: pick(o, placement...)}
		}
	}
	levels := []string{"platform", "tenant", "organization"}
	inTurn := slices.SortedFunc(maps.Values(organizations), func(a, b values) int {
		return cmp.Or(slices.Index(levels, levelOf(a))-slices.Index(levels, levelOf(b)),
			cmp.Compare(a["created_at"].(string), b["created_at"].(string)), cmp.Compare(a["id"].(string), b["id"].(string)))
	})
	for _, o := range inTurn {
		before := pick(o, placement...)
		switch o["organization_type"] = levelOf(o); o["organization_type"] {
		case "tenant":
			o["parent_organization_id"] = fixtures.PlatformID
		case "organization":
			o["parent_organization_id"] = m.parentFor(o)
		}
		if o["slug"] == nil {
			switch o["organization_type"] {
			case "platform":
				o["slug"] = m.freeSlug("vital-platform")
			case "tenant":
				o["slug"] = m.freeSlug(o["tenant_key"])
			default:
				o["slug"] = m.freeSlug(o["name"])
			}
		}
		if after := pick(o, placement...); !equalIn(before, after, placement...) {
			m.placed[o["id"].(string)] = change{before, after}
		}
	}
}

// displace takes back what place did.
func (m *model) displace() {
	for id, entry := range m.placed {
		o := m.organization(id)
		switch {
		case o == nil:
		case entry.before == nil:
			delete(m.tables["organizations"], id) // nobody has moved in: the application does not know it
		default:
			for _, column := range placement {
				if o[column] == entry.after[column] {
					o[column] = entry.before[column]
				}
			}
		}
	}
	clear(m.placed)
	if m.moved {
		m.rename(fixtures.PlatformID, fixtures.Platform.ID)
		m.moved = false
	}
}

// rename gives an organization another id, wherever it stands.
func (m *model) rename(from, to string) {
	o := m.organization(from)
	o["id"] = to
	delete(m.tables["organizations"], from)
	m.tables["organizations"][to] = o
	for _, rows := range m.tables {
		for _, row := range rows {
			for _, column := range []string{"tenant_id", "owner_organization_id", "audience_key", "organization_id", "parent_organization_id"} {
				if row[column] == from {
					row[column] = to
				}
			}
		}
	}
}

// up and down are the phases and their rollbacks. Phase 2 may run again.
func (m *model) up(phase schema.Phase) {
	switch m.stage = phase; phase {
	case schema.Phase1:
		m.filled, m.placed = map[string]map[string]change{}, map[string]change{}
		for table := range m.tables {
			if owned(table) {
				m.filled[table] = map[string]change{}
			}
		}
	case schema.Phase2:
		m.place()
		m.fill()
	}
}

func (m *model) down() {
	m.stage--
	switch m.stage {
	case schema.Phase1:
		m.empty()
		m.displace()
	case schema.Legacy:
		for table, rows := range m.tables {
			for _, row := range rows {
				for _, column := range append(slices.Clone(ownership), placement...) {
					if owned(table) || table == "organizations" {
						delete(row, column)
					}
				}
			}
		}
	}
}

// ready says whether phase 3 would begin.
func (m *model) ready() bool {
	for table, rows := range m.tables {
		for _, row := range rows {
			if owned(table) && m.lacking(table, row) {
				return false
			}
		}
	}
	return true
}
