package locks

import (
	"bufio"
	"fmt"
	"slices"
	"strings"

	"github.com/vital-health/tenancy/helpers/sarif"
	"github.com/vital-health/tenancy/schema"
)

// Declaration is what a file says that it locks: in each section, what it does to each table. Its text is
//
//	# A comment.
//
//	Constraints
//	  public.agents  AccessExclusiveLock
//	  public.agents  ShareUpdateExclusiveLock, reads all rows
type Declaration []entry

type entry struct{ section, relation, what string }

// Declare is the declaration that says what was recorded, without what a stronger lock on the same table in the same
// section says as well.
func Declare(all []Lock) (d Declaration) {
	for _, l := range all {
		e := entry{l.Section, l.Relation, l.What()}
		if !slices.Contains(d, e) && !slices.ContainsFunc(all, func(other Lock) bool { return other.covers(l) }) {
			d = append(d, e)
		}
	}
	slices.SortStableFunc(d, func(a, b entry) int {
		if a.section != b.section {
			return 0
		}
		return strings.Compare(a.relation, b.relation)
	})
	return d
}

// covers says whether who knows of l need not be told of other.
func (l Lock) covers(other Lock) bool {
	return l.Section == other.Section && l.Relation == other.Relation && l.What() != other.What() &&
		strength(l.Mode) >= strength(other.Mode) && (l.Reads || !other.Reads)
}

// Parse reads a declaration.
func Parse(text string) (d Declaration, err error) {
	section := ""
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		relation, what, both := strings.Cut(strings.TrimSpace(line), "  ")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case !strings.HasPrefix(line, "  "):
			section = line
		case section == "" || !both:
			return nil, fmt.Errorf("line %d: want a section, and below it a table, two spaces and its lock: %q", n, line)
		default:
			d = append(d, entry{section, relation, strings.TrimSpace(what)})
		}
	}
	return d, lines.Err()
}

// String is the text that [Parse] reads.
func (d Declaration) String() string {
	var text strings.Builder
	section := ""
	for _, e := range d {
		if e.section != section {
			section = e.section
			fmt.Fprintf(&text, "\n%s\n", section)
		}
		fmt.Fprintf(&text, "  %-28s  %s\n", e.relation, e.what)
	}
	return text.String()
}

// Compare says what was recorded of a file and is not declared, or is declared and was not recorded.
func (d Declaration) Compare(f schema.File, all []Lock) (differences []sarif.Finding) {
	found := Declare(all)
	for _, e := range found {
		if slices.Contains(d, e) {
			continue
		}
		i := slices.IndexFunc(all, func(l Lock) bool { return entry{l.Section, l.Relation, l.What()} == e })
		meanwhile := ""
		if all[i].Reads {
			meanwhile = ", and reads all rows of the table meanwhile"
		}
		declared := "nothing"
		for _, other := range d {
			if other.section == e.section && other.relation == e.relation {
				declared = other.what
			}
		}
		differences = append(differences, sarif.Finding{Rule: "undeclared-lock", File: f.Origin, Line: all[i].Line, Message: fmt.Sprintf(
			"(%s) takes %s on %s, which stops %s%s; declared: %s", e.section, all[i].Mode, e.relation, all[i].Stops(), meanwhile, declared)})
	}
	for _, e := range d {
		if !slices.Contains(found, e) {
			differences = append(differences, sarif.Finding{Rule: "missing-lock", File: f.Origin, Line: 1, Message: fmt.Sprintf(
				"(%s) is declared to take %s on %s, and does not", e.section, e.what, e.relation)})
		}
	}
	return differences
}
