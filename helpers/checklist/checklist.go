// Package checklist is the register of the implementation checklist's boxes. A test says
// which boxes it proves:
//
//	checklist.Proves(t, "phase-3/test-helper-functions")
//
// and the id is in the test's output, as an attribute.
package checklist

import (
	_ "embed"
	"strings"
	"testing"
)

// Attribute is the key under which [Proves] records an id in the test's output.
const Attribute = "checklist"

// Box is one box of the checklist.
type Box struct {
	// ID is stable: it was made once, from the slug of the section (up to its colon, without
	// "Checklist"), of the box and, for a box below a box, of the box above it, and does not
	// change when somebody corrects the text. A slug is lower case, leaves out numbering and
	// what stands in parentheses, and joins the rest with hyphens.
	// "phase-1/verify-application-still-works/users-can-log-in"
	ID      string
	Section string // headings: "Phase 1: Add Columns (Non-Breaking) / Execution"
	Text    string // as in the checklist, without asterisks
}

// boxes.tsv has one line for each box, in the checklist's order: id, section, text.
//
//go:embed boxes.tsv
var register string

// Boxes returns all boxes in the order of the checklist.
func Boxes() []Box {
	var boxes []Box
	for line := range strings.Lines(register) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		boxes = append(boxes, Box{ID: fields[0], Section: fields[1], Text: fields[2]})
	}
	return boxes
}

// Find returns the box with that id.
func Find(id string) (Box, bool) {
	for _, box := range Boxes() {
		if box.ID == id {
			return box, true
		}
	}
	return Box{}, false
}

// Proves records that the test, if it passes, proves these boxes: as attributes in its verbose
// output, one for each id. An id that is not in the register fails the test, as does naming none.
// Attributes appear with go test -v and -json only.
func Proves(t testing.TB, ids ...string) {
	t.Helper()
	if len(ids) == 0 {
		t.Fatalf("the test says that it proves boxes of the checklist but names none")
	}
	for _, id := range ids {
		if _, ok := Find(id); !ok {
			t.Fatalf("the checklist has no box %q: the ids are in helpers/checklist/boxes.tsv", id)
		}
		t.Attr(Attribute, id)
	}
}
