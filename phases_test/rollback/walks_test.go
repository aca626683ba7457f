package rollback_test

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// TestRollbackWalks makes up what the application writes and when phases come and go.
// After each of them every row is what the model says; after all the way down nothing
// tells the database from a twin on which no phase ever ran, nor after all the way up
// again. RAPID_CHECKS=300 makes as many walks up. One that fails is shrunk, and its
// script printed.
func TestRollbackWalks(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "rollback-procedures/emergency-rollback-plan")
	create := func() *pgtest.DB {
		db, err := pgtest.Create(t.Context(), schema.Legacy, fixtures.World()...)
		require.NoError(t, err)
		return db
	}
	made := 0
	rapid.Check(t, func(rt *rapid.T) {
		made++
		db, twin := create(), create()
		defer func() {
			for _, db := range []*pgtest.DB{db, twin} {
				require.NoError(t, db.Close(context.WithoutCancel(t.Context())))
			}
		}()
		j := depart(t, db, twin)
		j.fatal = rt.Fatalf
		actions := map[string]func(*rapid.T){
			"up": func(rt *rapid.T) {
				if j.stage == schema.Phase4 {
					rt.Skip("there is no phase beyond it")
				}
				j.up()
			},
			"phase 2 again": func(rt *rapid.T) {
				if j.stage != schema.Phase2 {
					rt.Skip("it runs again after itself only")
				}
				j.again()
			},
			"down": func(rt *rapid.T) {
				if j.stage == schema.Legacy {
					rt.Skip("there is nothing to take back")
				}
				j.down()
			},
		}
		for _, table := range tables {
			actions["write "+table] = func(rt *rapid.T) { j.write(j.draw(rt, table)) }
		}
		rt.Repeat(actions)
		j.home()
		j.once(rapid.SampledFrom([]schema.Phase{schema.Legacy, schema.Phase2, schema.Phase4}).Draw(rt, "up again to"))
	})
	require.Positive(t, made, "no walk was made up: RAPID_CHECKS is to be 1 or more")
}

// draw makes up what somebody may try to do to a table.
func (m *model) draw(rt *rapid.T, table string) write {
	newer := m.stage >= schema.Phase1 && rapid.Bool().Draw(rt, "by the new application")
	n := rapid.IntRange(1, 3).Draw(rt, "which")
	if there := slices.Sorted(maps.Keys(m.tables[table])); len(there) > 0 && rapid.IntRange(0, 2).Draw(rt, "of three") > 0 {
		return m.drawChange(rt, table, rapid.SampledFrom(there).Draw(rt, "row"), newer)
	}
	// A few ids for each table, so that what was deleted comes again.
	for i := slices.Index(tables, table); ; n++ {
		if key := id(100*i + n); m.tables[table][key] == nil {
			return insert(table, key, m.drawRow(rt, table, key, newer))
		}
	}
}

// one draws the id of a row, or nil.
func (m *model) one(rt *rapid.T, table string, orNone bool) any {
	ids := []any{}
	if orNone {
		ids = append(ids, nil)
	}
	for _, key := range slices.Sorted(maps.Keys(m.tables[table])) {
		if key != fixtures.QuarantineTenantID && key != fixtures.QuarantineOrganizationID {
			ids = append(ids, key)
		}
	}
	return rapid.SampledFrom(ids).Draw(rt, "one of "+table)
}

// named draws what the old application takes for an organization: it may be gone, or have
// another id by now.
func (m *model) named(rt *rapid.T, table string) any {
	switch rapid.IntRange(0, 5).Draw(rt, "named") {
	case 0:
		if table != "agents" {
			return id(99)
		}
		fallthrough
	case 1:
		return fixtures.Platform.ID
	}
	return m.one(rt, "organizations", true)
}

func (m *model) drawFlags(rt *rapid.T, table string) values {
	metadata := rapid.SampledFrom([]values{{}, {"is_public": true}, {"is_tenant_shared": "True"}, {"is_public": "false", "is_tenant_shared": true}})
	public := rapid.SampledFrom([]any{nil, true, false})
	switch table {
	case "agents", "prompts":
		return values{"metadata": metadata.Draw(rt, "metadata")}
	case "knowledge_documents":
		return values{"metadata": metadata.Draw(rt, "metadata"), "is_public": public.Draw(rt, "public")}
	case "workflows":
		return values{"is_public": public.Draw(rt, "public")}
	}
	return values{}
}

// drawOwnership is what the new application says of a row: the platform has no tenant to share with.
func (m *model) drawOwnership(rt *rapid.T, table string) values {
	set := values{"owner_organization_id": m.one(rt, "organizations", false)}
	if table == "conversations" {
		return set
	}
	set["sharing_scope"] = rapid.SampledFrom([]string{"organization", "tenant", "platform"}).Draw(rt, "scope")
	if isPlatform(set["owner_organization_id"]) && set["sharing_scope"] == "tenant" {
		set["sharing_scope"] = "organization"
	}
	return set
}

func isPlatform(id any) bool { return id == fixtures.Platform.ID || id == fixtures.PlatformID }

var (
	names = []string{"Roche", "Novartis", "Bayer"}
	keys  = []any{nil, "pharma", "digital-health", "nobody's"}
)

func (m *model) tenant(rt *rapid.T) any {
	return rapid.SampledFrom([]string{fixtures.Pharmaceuticals.ID, fixtures.DigitalHealth.ID}).Draw(rt, "tenant")
}

func (m *model) drawRow(rt *rapid.T, table, key string, newer bool) values {
	set := values{}
	switch table {
	case "organizations":
		set = values{"name": rapid.SampledFrom(names).Draw(rt, "name"), "tenant_type": "standard", "tenant_key": rapid.SampledFrom(keys).Draw(rt, "key")}
		if newer {
			maps.Copy(set, values{"organization_type": "organization", "parent_organization_id": m.tenant(rt), "slug": "slug-" + key[:8]})
		}
		return set
	case "users":
		return values{"email": key + "@example.com"}
	case "user_organizations":
		set = values{"user_id": m.one(rt, "users", false), "organization_id": m.one(rt, "organizations", false)}
		for _, r := range m.tables[table] {
			if equalIn(set, r, "user_id", "organization_id") {
				return values{"user_id": key, "organization_id": key} // a second one: neither is there
			}
		}
		return set
	case "messages":
		return values{"role": "user", "content": "Hello", "conversation_id": m.one(rt, "conversations", false)}
	case "conversations":
		set = values{"title": "Made up", "user_id": m.one(rt, "users", false), "agent_id": m.one(rt, "agents", true)}
	case "knowledge_documents", "use_cases":
		set["title"], set["created_by"] = "Made up", m.one(rt, "users", true)
	default:
		set["name"], set["created_by"] = "Made up", m.one(rt, "users", true)
	}
	if newer {
		maps.Copy(set, m.drawOwnership(rt, table))
	} else {
		set["tenant_id"] = m.named(rt, table)
		maps.Copy(set, m.drawFlags(rt, table))
	}
	return set
}

func (m *model) drawChange(rt *rapid.T, table, key string, newer bool) write {
	if key == fixtures.QuarantineTenantID || key == fixtures.QuarantineOrganizationID {
		return update(table, key, values{"domain": "quarantine.example"}) // anything else is the operator's affair
	}
	change := rapid.IntRange(0, 4).Draw(rt, "change")
	to := func(column string, v any) write { return update(table, key, values{column: v}) }
	row := m.tables[table][key]
	switch {
	case table == "organizations" && levelOf(row) != "organization":
		return to("is_active", rapid.Bool().Draw(rt, "active"))
	case change == 0 || table == "messages":
		return remove(table, key)
	case table == "users":
		return to("full_name", "Renamed")
	case table == "user_organizations":
		return to("is_active", rapid.Bool().Draw(rt, "active"))
	case table == "organizations" && newer && change%2 == 0:
		return to("slug", "corrected-"+key[:8])
	case table == "organizations" && newer:
		return to("parent_organization_id", m.tenant(rt))
	case table == "organizations" && row["tenant_type"] == "standard" && change%2 == 0:
		return to("tenant_key", rapid.SampledFrom(keys).Draw(rt, "key"))
	case table == "organizations":
		return to("name", rapid.SampledFrom(names).Draw(rt, "name"))
	case newer && change == 1:
		return to("deleted_at", rapid.SampledFrom([]any{nil, "2026-01-01T00:00:00+00:00"}).Draw(rt, "deleted"))
	case newer && change == 2 && table != "conversations":
		scope := rapid.SampledFrom([]string{"organization", "tenant", "platform"}).Draw(rt, "scope")
		if isPlatform(row["owner_organization_id"]) && scope == "tenant" {
			scope = "organization"
		}
		return to("sharing_scope", scope)
	case newer:
		return update(table, key, m.drawOwnership(rt, table))
	case change == 1 || table == "conversations":
		return to("tenant_id", m.named(rt, table))
	default:
		set := m.drawFlags(rt, table)
		set["created_by"] = m.one(rt, "users", true)
		return update(table, key, set)
	}
}
