package rollback_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/schema"
)

// model is what every row must be, whatever the application and the phases did to it
// in whatever order. It knows the rules and no SQL:
//
//   - From phase 1 on tenant_id and the owner follow each other, and what the flags say
//     becomes the scope, whenever one of them is written.
//   - Phase 2 gives an owner and a scope to what lacks one, and a place to every
//     organization. From then on nothing is written without. What it finds it remembers.
//   - Its rollback takes that back where it still is what phase 2 made of it; what the
//     application said since stays, only nothing remains in quarantine.
//   - Phases 3 and 4 and their rollbacks change no row. The rollback of phase 1 forgets
//     what it added.
type model struct {
	stage  schema.Phase
	tables map[string]map[string]values // table, id, column
	filled map[string]map[string]change // of rows, by table and id
	placed map[string]change            // of organizations, by id
	moved  bool                         // the platform, to the id that everybody knows
}

// change is the columns that phase 2 changed, before and after. A row without before it made.
type change struct{ before, after values }

// What phase 1 adds: to resources and conversations, and to organizations.
var (
	ownership = []string{"owner_organization_id", "sharing_scope", "owner_tenant_id", "audience_key", "deleted_at"}
	placement = []string{"organization_type", "parent_organization_id", "slug", "deleted_at"}
)

func pick(row values, columns ...string) values {
	picked := values{}
	for _, c := range columns {
		picked[c] = row[c]
	}
	return picked
}

func equalIn(a, b values, columns ...string) bool {
	return !slices.ContainsFunc(columns, func(c string) bool { return a[c] != b[c] })
}

// Refusals, as the application hears of them.
const (
	accepted   = ""
	needsValue = "a value is missing"
	needsRow   = "what is referred to is not there, or what goes is referred to"
)

// watches says whether what lacks an owner or a place gets one as it is written: for the old
// generation, which is gone in phase 4.
func (m *model) watches() bool { return m.stage == schema.Phase2 || m.stage == schema.Phase3 }

// apply is a write of the application.
func (m *model) apply(w write) (refusal string) {
	old := m.tables[w.table][w.id]
	if w.verb == "delete" {
		return m.remove(w.table, w.id)
	}
	row := maps.Clone(old)
	if w.verb == "insert" {
		row = values{"id": w.id, "created_at": made}
		if m.stage >= schema.Phase1 && slices.Contains(resourceTables, w.table) {
			row["sharing_scope"] = "organization"
		}
	}
	maps.Copy(row, w.set)
	if owned(w.table) && m.stage >= schema.Phase1 {
		m.keepInStep(w.table, row, old)
	}
	var entry change
	watched := w.table == "organizations" && w.verb == "insert" && m.watches()
	if watched {
		entry = m.placeNew(row)
	}
	if refusal = m.check(w.table, row); refusal != accepted {
		return refusal
	}
	m.tables[w.table][w.id] = row
	if watched {
		delete(m.placed, w.id) // of another organization that had the id; in phase 4 nobody looks
		if entry.after != nil {
			m.placed[w.id] = entry
		}
	}
	if w.table == "organizations" && m.stage >= schema.Phase3 {
		// Who moves to another tenant takes his rows with him.
		for _, table := range resourceTables {
			for _, r := range m.tables[table] {
				if r["owner_organization_id"] == w.id {
					m.derive(r)
				}
			}
		}
	}
	return accepted
}

// check is what the constraints of the stage say of a row.
func (m *model) check(table string, row values) string {
	exists := func(table string, id any) bool { _, ok := m.tables[table][fmt.Sprint(id)]; return ok }
	refers := map[string]string{} // column, table
	switch table {
	case "agents":
		refers["tenant_id"] = "organizations"
	case "user_organizations":
		refers["user_id"], refers["organization_id"] = "users", "organizations"
	case "conversations":
		refers["user_id"], refers["agent_id"] = "users", "agents"
	case "messages":
		refers["conversation_id"] = "conversations"
	}
	if m.stage >= schema.Phase3 {
		needed := []string{}
		switch {
		case table == "organizations":
			needed = []string{"organization_type", "slug"}
		case table == "conversations":
			needed = []string{"owner_organization_id"}
		case owned(table):
			needed = []string{"owner_organization_id", "sharing_scope", "audience_key"}
		}
		for _, column := range needed {
			if row[column] == nil {
				return needsValue
			}
		}
		if owned(table) {
			refers["owner_organization_id"] = "organizations"
		}
	}
	for column, other := range refers {
		if row[column] != nil && !exists(other, row[column]) {
			return needsRow
		}
	}
	return accepted
}

// remove deletes a row, and what goes with it.
func (m *model) remove(table, id string) string {
	within := func(table, column string) (ids []string) {
		for key, row := range m.tables[table] {
			if row[column] == id {
				ids = append(ids, key)
			}
		}
		return ids
	}
	all := func(table, column string) {
		for _, key := range within(table, column) {
			m.remove(table, key)
		}
	}
	switch table {
	case "organizations":
		if m.stage >= schema.Phase3 {
			held := len(within("agents", "tenant_id")) + len(within("organizations", "parent_organization_id"))
			for _, t := range append([]string{"conversations"}, resourceTables...) {
				held += len(within(t, "owner_organization_id"))
			}
			if held > 0 {
				return needsRow
			}
		}
		all("agents", "tenant_id")
		all("user_organizations", "organization_id")
	case "users":
		if len(within("conversations", "user_id")) > 0 {
			return needsRow
		}
		all("user_organizations", "user_id")
	case "agents":
		for _, key := range within("conversations", "agent_id") {
			m.tables["conversations"][key]["agent_id"] = nil
		}
	case "conversations":
		all("messages", "conversation_id")
	}
	delete(m.tables[table], id)
	return accepted
}

// Rows ------------------------------------------------------------------------------

// keepInStep is what else changes in a row when somebody writes it; old is nil for a new one.
func (m *model) keepInStep(table string, row, old values) {
	changed := func(column string) bool { return old == nil || row[column] != old[column] }

	switch owner, tenant := row["owner_organization_id"], row["tenant_id"]; {
	case old == nil && owner != nil || old != nil && changed("owner_organization_id"):
		row["tenant_id"] = owner // only the new generation knows it
	case changed("tenant_id"):
		row["owner_organization_id"] = tenant
	}
	if m.watches() {
		was := row["owner_organization_id"]
		if moved := m.moved && was == fixtures.Platform.ID; moved || changed("owner_organization_id") && !m.is(was) {
			row["owner_organization_id"] = m.ownerOf(table, row)
			if moved {
				row["tenant_id"] = fixtures.PlatformID
			}
		}
	}
	if table == "conversations" {
		return
	}
	if flagged := legacyScope(table, row); m.stage <= schema.Phase3 {
		said := old == nil && flagged != "organization" || old != nil && flagged != legacyScope(table, old)
		if said {
			row["sharing_scope"] = flagged
		}
		if said || old != nil && changed("owner_organization_id") {
			m.noTenant(row)
		}
	}
	if old == nil || !equalIn(row, old, "owner_organization_id", "sharing_scope", "owner_tenant_id", "audience_key") {
		m.derive(row)
	}
}

// noTenant narrows what the platform would share with a tenant, which it has not.
func (m *model) noTenant(row values) {
	if row["sharing_scope"] == "tenant" && m.organization(row["owner_organization_id"])["organization_type"] == "platform" {
		row["sharing_scope"] = "organization"
	}
}

// legacyScope is what the flags of a row say.
func legacyScope(table string, row values) string {
	says := func(v any) bool { return strings.EqualFold(fmt.Sprint(v), "true") }
	metadata, _ := row["metadata"].(values)
	public, shared := metadata["is_public"], metadata["is_tenant_shared"]
	switch table {
	case "workflows":
		public = row["is_public"]
	case "knowledge_documents":
		if column := row["is_public"]; public == nil || column != nil && !says(column) {
			public = column // who says it twice must mean it twice
		}
	}
	switch {
	case says(public):
		return "platform"
	case says(shared):
		return "tenant"
	default:
		return "organization"
	}
}

// ownerOf is the organization that a row names; if none, the only one that its maker
// was ever in; else nobody's.
func (m *model) ownerOf(table string, row values) any {
	named := map[string]bool{}
	for _, v := range []any{row["owner_organization_id"], row["tenant_id"]} {
		if m.moved && v == fixtures.Platform.ID {
			v = fixtures.PlatformID
		}
		if m.is(v) {
			named[v.(string)] = true
		}
	}
	if len(named) == 1 {
		return slices.Collect(maps.Keys(named))[0]
	}
	maker := row["created_by"]
	if table == "conversations" {
		maker = row["user_id"]
	}
	var memberships []values
	for _, membership := range m.tables["user_organizations"] {
		if membership["user_id"] == maker {
			memberships = append(memberships, membership)
		}
	}
	if len(named) == 0 && len(memberships) == 1 && memberships[0]["is_active"] != false && memberships[0]["organization_id"] != fixtures.PlatformID {
		return memberships[0]["organization_id"]
	}
	return fixtures.QuarantineOrganizationID
}

// derive is what follows from an owner and a scope.
func (m *model) derive(row values) {
	row["owner_tenant_id"] = m.tenantOf(row["owner_organization_id"])
	row["audience_key"] = audience(row)
}

func audience(row values) any {
	shared := func(id any) any {
		if id == nil {
			return nil
		}
		return id.(string)[:14] + "f" + id.(string)[15:]
	}
	owner := row["owner_organization_id"]
	if owner == nil {
		return nil
	}
	switch row["sharing_scope"] {
	case "organization":
		return owner
	case "tenant":
		return shared(row["owner_tenant_id"])
	case "platform":
		return shared(fixtures.PlatformID)
	}
	return nil
}

// lacking says whether phase 2 has something to do for a row.
func (m *model) lacking(table string, row values) bool {
	owner := row["owner_organization_id"]
	if !m.is(owner) || table == "conversations" {
		return !m.is(owner)
	}
	return row["audience_key"] == nil || row["audience_key"] != audience(row) || row["owner_tenant_id"] != m.tenantOf(owner)
}

// fill gives the rows what they lack.
func (m *model) fill() {
	for table, rows := range m.tables {
		if !owned(table) {
			continue
		}
		for id, row := range rows {
			if !m.lacking(table, row) {
				continue
			}
			entry, before := m.filled[table][id], pick(row, "owner_organization_id", "sharing_scope")
			if entry.after == nil || !equalIn(entry.after, before, "owner_organization_id", "sharing_scope") {
				entry.before = before
			}
			row["owner_organization_id"] = m.ownerOf(table, row)
			if table != "conversations" {
				if row["sharing_scope"] == nil {
					row["sharing_scope"] = legacyScope(table, row)
				}
				m.noTenant(row)
				m.derive(row)
			}
			entry.after = pick(row, "owner_organization_id", "sharing_scope")
			m.filled[table][id] = entry
		}
	}
}

// empty takes back what fill gave.
func (m *model) empty() {
	for table := range m.filled {
		for id, entry := range m.filled[table] {
			row, there := m.tables[table][id]
			if !there || !equalIn(row, entry.after, "owner_organization_id", "sharing_scope") {
				continue
			}
			// Somebody has changed its flags, and then its scope back: he meant the scope.
			if table != "conversations" && entry.before["sharing_scope"] == nil {
				again := maps.Clone(row)
				again["sharing_scope"] = legacyScope(table, row)
				m.noTenant(again)
				if again["sharing_scope"] != row["sharing_scope"] {
					continue
				}
			}
			maps.Copy(row, entry.before)
			if table != "conversations" {
				row["owner_tenant_id"], row["audience_key"] = nil, nil
				row["audience_key"] = audience(row)
			}
		}
		clear(m.filled[table])
		for _, row := range m.tables[table] {
			if row["owner_organization_id"] == fixtures.QuarantineOrganizationID {
				maps.Copy(row, values{"owner_organization_id": nil, "owner_tenant_id": nil, "audience_key": nil})
			}
		}
	}
}
