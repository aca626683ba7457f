package document

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// table is a classified table of public, or the view in front of the statistics.
type table struct {
	Name, Class, Comment string
	columns              []column
	parts                []part
}

type column struct {
	Table, Name, Type, Default, Comment string
	Required, Key                       bool
}

// part is a constraint, an index or a trigger.
type part struct{ Table, Kind, Name, Definition string }

// reference is a foreign key: of several that begin with one column, the shortest.
type reference struct{ From, To, Column string }

// Schema is what the tables are.
type Schema struct {
	tables     []table
	references []reference
	internal   []struct{ Name, Comment string }
	enums      []struct{ Name, Labels string }
}

// ReadSchema reads the tables of public and what belongs to them.
func ReadSchema(ctx context.Context, db Querier) (*Schema, error) {
	var s Schema
	type head struct{ Name, Class, Comment string }
	heads, err := rows[head](ctx, db, `
		select t.table_name, t.class, coalesce(obj_description(c.oid, 'pg_class'), '')
		from tenancy.classified_table t
		join pg_class c on c.oid = to_regclass('public.' || t.table_name)
		order by array_position('{directory,resource,private,evidence}', t.class), t.table_name`)
	if err != nil {
		return nil, err
	}
	columns, err := rows[column](ctx, db, `
		select c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
			coalesce(col_description(c.oid, a.attnum), ''), a.attnotnull,
			exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'p' and a.attnum = any (k.conkey))
		from pg_class c
		join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
		where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
		order by c.relname, a.attnum`)
	if err != nil {
		return nil, err
	}
	parts, err := rows[part](ctx, db, `
		select c.relname::text, p.kind, p.name, p.definition
		from pg_class c
		cross join lateral (
			select array_position('{p,u,c,f}', k.contype::text) as place, 'constraint' as kind, k.conname::text as name, pg_get_constraintdef(k.oid) as definition
			from pg_constraint k where k.conrelid = c.oid and k.contype in ('p', 'u', 'c', 'f') and k.conparentid = 0
			union all
			select 5, 'index', x.relname::text, pg_get_indexdef(i.indexrelid)
			from pg_index i join pg_class x on x.oid = i.indexrelid
			where i.indrelid = c.oid and not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.conrelid = c.oid)
			union all
			select 6, 'trigger', g.tgname::text, pg_get_triggerdef(g.oid)
			from pg_trigger g where g.tgrelid = c.oid and not g.tgisinternal
		) as p
		where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
		order by c.relname, p.place, p.name`)
	if err != nil {
		return nil, err
	}
	s.references, err = rows[reference](ctx, db, `
		select distinct on (1, 2, 3) k.conrelid::regclass::text, k.confrelid::regclass::text, a.attname::text
		from pg_constraint k
		join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
		where k.contype = 'f' and k.connamespace = 'public'::regnamespace and k.conparentid = 0
		order by 1, 2, 3`)
	if err != nil {
		return nil, err
	}
	s.internal, err = rows[struct{ Name, Comment string }](ctx, db, `
		select c.relnamespace::regnamespace || '.' || c.relname, coalesce(obj_description(c.oid, 'pg_class'), '')
		from pg_class c
		where c.relnamespace in ('tenancy'::regnamespace, 'authz'::regnamespace) and c.relkind in ('r', 'v', 'm')
		order by 1`)
	if err != nil {
		return nil, err
	}
	s.enums, err = rows[struct{ Name, Labels string }](ctx, db, `
		select t.typname::text, string_agg(e.enumlabel, ', ' order by e.enumsortorder)
		from pg_type t join pg_enum e on e.enumtypid = t.oid
		where t.typnamespace = 'public'::regnamespace
		group by t.typname order by 1`)
	if err != nil {
		return nil, err
	}
	for i, r := range s.references {
		s.references[i].From, s.references[i].To = plain(r.From), plain(r.To)
	}
	for _, h := range heads {
		t := table{Name: h.Name, Class: h.Class, Comment: h.Comment}
		for _, c := range columns {
			if c.Table == h.Name {
				t.columns = append(t.columns, c)
			}
		}
		for _, p := range parts {
			if p.Table == h.Name {
				t.parts = append(t.parts, p)
			}
		}
		s.tables = append(s.tables, t)
	}
	for _, i := range s.internal {
		if i.Comment == "" {
			return nil, fmt.Errorf("%s has no description: give it one by comment on, in the phase that makes it", i.Name)
		}
	}
	return &s, nil
}

// Markdown describes each table.
func (s *Schema) Markdown() string {
	var b strings.Builder
	for _, t := range s.tables {
		fmt.Fprintf(&b, "### %s\n\nClass `%s`. %s\n\n| column | type | required | default | is |\n| --- | --- | --- | --- | --- |\n", t.Name, t.Class, t.Comment)
		for _, c := range t.columns {
			required := ""
			if c.Required {
				required = "yes"
			}
			name := code(c.Name)
			if c.Key {
				name = "**" + name + "**"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", name, cell(plain(c.Type)), required, code(plain(c.Default)), cell(c.Comment))
		}
		for _, kind := range []string{"constraint", "index", "trigger"} {
			var lines []string
			for _, p := range t.parts {
				if p.Kind == kind {
					lines = append(lines, line(p))
				}
			}
			if len(lines) > 0 {
				fmt.Fprintf(&b, "\n<details><summary>%d %s</summary>\n\n%s\n\n</details>\n", len(lines), plural(kind), strings.Join(lines, "\n"))
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

func line(p part) string {
	definition := plain(p.Definition)
	switch p.Kind {
	case "index":
		_, definition, _ = strings.Cut(definition, " USING ")
		if strings.HasPrefix(p.Definition, "CREATE UNIQUE") {
			definition = "unique " + definition
		}
	case "trigger":
		definition = strings.TrimPrefix(definition, "CREATE TRIGGER "+p.Name+" ")
	}
	return fmt.Sprintf("- `%s`: `%s`", p.Name, definition)
}

func plural(kind string) string {
	if kind == "index" {
		return "indexes"
	}
	return kind + "s"
}

// Internal lists what the migrations keep.
func (s *Schema) Internal() string {
	var b strings.Builder
	b.WriteString("| relation | is |\n| --- | --- |\n")
	for _, i := range s.internal {
		fmt.Fprintf(&b, "| `%s` | %s |\n", i.Name, cell(i.Comment))
	}
	return b.String()
}

// Enums lists the types of public.
func (s *Schema) Enums() string {
	var b strings.Builder
	b.WriteString("| type | labels |\n| --- | --- |\n")
	for _, e := range s.enums {
		fmt.Fprintf(&b, "| `%s` | %s |\n", e.Name, e.Labels)
	}
	return b.String()
}

// short is a type in a picture.
func short(columnType string) string {
	for long, is := range map[string]string{"timestamp with time zone": "timestamptz", "character varying": "varchar"} {
		columnType = strings.ReplaceAll(columnType, long, is)
	}
	return plain(columnType)
}

// refers tells whether a column is one of a foreign key.
func (s *Schema) refers(c column) bool {
	return slices.ContainsFunc(s.references, func(r reference) bool { return r.From == c.Table && r.Column == c.Name })
}

// Mermaid is the diagram that Markdown shows: what identifies a row, and what it refers to.
func (s *Schema) Mermaid() string {
	var b strings.Builder
	b.WriteString("```mermaid\nerDiagram\n")
	for _, r := range s.references {
		fmt.Fprintf(&b, "    %s ||--o{ %s : %s\n", r.To, r.From, r.Column)
	}
	for _, t := range s.tables {
		fmt.Fprintf(&b, "    %s {\n", t.Name)
		for _, c := range t.columns {
			key := ""
			switch {
			case c.Key:
				key = " PK"
			case s.refers(c):
				key = " FK"
			default:
				continue
			}
			fmt.Fprintf(&b, "        %s %s%s\n", short(c.Type), c.Name, key)
		}
		b.WriteString("    }\n")
	}
	b.WriteString("```\n")
	return b.String()
}

// colors are those of the classes.
var colors = map[string]string{"directory": "#d7e8f7", "resource": "#dff0d8", "private": "#fbe3d6", "evidence": "#ece6f5"}

// DOT is the whole diagram, for Graphviz.
func (s *Schema) DOT() string {
	var b strings.Builder
	b.WriteString("digraph schema {\n  rankdir=LR; nodesep=0.25; ranksep=1.5;\n  node [shape=plain, fontname=\"Courier\", fontsize=10];\n" +
		"  edge [arrowhead=crow, color=\"#555555\"];\n")
	for _, t := range s.tables {
		fmt.Fprintf(&b, "  %s [label=<<table border=\"0\" cellborder=\"1\" cellspacing=\"0\" cellpadding=\"3\">\n", t.Name)
		fmt.Fprintf(&b, "    <tr><td colspan=\"2\" bgcolor=\"%s\"><b>%s</b> (%s)</td></tr>\n", colors[t.Class], t.Name, t.Class)
		for _, c := range t.columns {
			name := c.Name
			if c.Key {
				name = "<u>" + name + "</u>"
			}
			fmt.Fprintf(&b, "    <tr><td port=\"%s\" align=\"left\">%s</td><td align=\"left\"><font color=\"#666666\">%s</font></td></tr>\n", c.Name, name, short(c.Type))
		}
		b.WriteString("  </table>>];\n")
	}
	for _, r := range s.references {
		fmt.Fprintf(&b, "  %s:id:%s -> %s:%s:w;\n", r.To, map[bool]string{true: "w", false: "e"}[r.To == r.From], r.From, r.Column)
	}
	b.WriteString("}\n")
	return b.String()
}
