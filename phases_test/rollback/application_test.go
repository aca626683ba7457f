package rollback_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vital-health/tenancy/fixtures"
)

// values is columns of a row, as JSON has them: text, true or false, an object, nil.
type values = map[string]any

// write is a statement of the application about one row. The old generation writes
// the columns of the legacy tables, the new one owner_organization_id, sharing_scope,
// deleted_at and an organization's place.
type write struct {
	verb, table, id string
	set             values
}

func insert(table, id string, set values) write { return write{"insert", table, id, set} }
func update(table, id string, set values) write { return write{"update", table, id, set} }
func remove(table, id string) write             { return write{"delete", table, id, nil} }

// id is an id of what the application makes.
func id(n int) string { return fmt.Sprintf("%08d-0000-4000-8000-%012d", 900+n, n) }

// resourceTables are the tables whose rows have an owner and a scope.
var resourceTables = []string{"agents", "knowledge_documents", "prompts", "workflows", "use_cases", "capabilities"}

// owned says whether rows of a table have an owner; those of conversations have no scope.
func owned(table string) bool {
	return table == "conversations" || slices.Contains(resourceTables, table)
}

// made is when the application makes what it makes: before the world, so that its
// organizations have the first choice of a slug.
const made = "2020-01-01T00:00:00+00:00"

// String is the statement in SQL.
func (w write) String() string {
	columns := slices.Sorted(maps.Keys(w.set))
	switch w.verb {
	case "insert":
		names, literals := []string{"id", "created_at"}, []string{literal(w.id), literal(made)}
		if w.table == "agents" || w.table == "knowledge_documents" {
			names, literals = append(names, "updated_at"), append(literals, literal(made))
		}
		for _, c := range columns {
			names, literals = append(names, c), append(literals, literal(w.set[c]))
		}
		return fmt.Sprintf("insert into public.%s (%s) values (%s)", w.table, strings.Join(names, ", "), strings.Join(literals, ", "))
	case "update":
		var assignments []string
		for _, c := range columns {
			assignments = append(assignments, c+" = "+literal(w.set[c]))
		}
		return fmt.Sprintf("update public.%s set %s where id = %s", w.table, strings.Join(assignments, ", "), literal(w.id))
	default:
		return fmt.Sprintf("delete from public.%s where id = %s", w.table, literal(w.id))
	}
}

func literal(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return fmt.Sprint(v)
	case string:
		return "'" + strings.ReplaceAll(v, "'", "''") + "'"
	default:
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // maps of strings and booleans: cannot happen
		}
		return literal(string(text))
	}
}

// legacy is what is left of a statement in a database that knows nothing of the
// hierarchy, and what it means there: an owner that is given is in tenant_id for the
// old application, too; a scope, a deletion that only hides and an organization's place
// are nothing that it knows; and the platform has kept its id. old is the row as it was.
func (w write) legacy(old values) (_ write, some bool) {
	before := func(v any) any {
		if v == fixtures.PlatformID {
			return fixtures.Platform.ID
		}
		return v
	}
	set := values{}
	for column, v := range w.set {
		switch column {
		case "sharing_scope", "deleted_at", "slug", "organization_type", "parent_organization_id":
		case "owner_organization_id":
			if w.verb == "insert" && v == nil || w.verb == "update" && v == old[column] {
				continue // says nothing new
			}
			set["tenant_id"] = before(v)
		default:
			if _, given := set[column]; !given {
				set[column] = before(v)
			}
		}
	}
	return write{w.verb, w.table, before(w.id).(string), set}, w.verb != "update" || len(set) > 0
}
