// Package checklist is the register of the implementation checklist's boxes. A test says
// which boxes it proves:
//
//	checklist.Proves(t, "phase-3/test-helper-functions")
//
// and the id is in the test's output, as an attribute. What no test can prove, somebody signs
// off: see [ReadSignOffs].
package checklist

import (
	_ "embed"
	"flag"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/vital-health/tenancy/helpers/golden"
	"github.com/vital-health/tenancy/helpers/results"
	"github.com/vital-health/tenancy/schema"
)

// Attribute is the key under which [Proves] records an id in the test's output.
const Attribute = "checklist"

// Kind is how one knows that a box holds.
type Kind string

const (
	// Automated boxes are proven by tests: what the box asks for works, on databases that are
	// made for it. That it was done on yours, the logs of the commands that do it say.
	Automated Kind = "automated"
	// Manual boxes are signed off by somebody: decisions, people, what is not in this
	// repository, and what only the machine shows that it is for, such as milliseconds.
	Manual Kind = "manual"
	// Parts are boxes above others that have no proof of their own. Such a box holds when all
	// boxes below it do.
	Parts Kind = "parts"
)

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
	Kind    Kind
}

// Below returns the boxes below the box, which have none below them, in the order of the checklist.
func (b Box) Below() []Box {
	var below []Box
	for _, box := range Boxes() {
		if strings.HasPrefix(box.ID, b.ID+"/") {
			below = append(below, box)
		}
	}
	return below
}

// boxes.tsv has one line for each box, in the checklist's order: id, section, text, kind.
//
//go:embed boxes.tsv
var register string

// Boxes returns all boxes in the order of the checklist.
func Boxes() []Box {
	var boxes []Box
	for line := range strings.Lines(register) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		boxes = append(boxes, Box{ID: fields[0], Section: fields[1], Text: fields[2], Kind: Kind(fields[3])})
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
// output, one for each id, and of which SQL and which tests that is. An id that is not in the
// register fails the test, as do one of a box that tests do not prove, and naming none. A run
// that is not one of the whole test, or that compares nothing, records nothing. Attributes
// appear with go test -v and -json only.
func Proves(t testing.TB, ids ...string) {
	t.Helper()
	if len(ids) == 0 {
		t.Fatalf("the test says that it proves boxes of the checklist but names none")
	}
	for _, id := range ids {
		if why := unprovable(id); why != "" {
			t.Fatalf("%s", why)
		}
	}
	if why := inconclusive(t.Name(), asked, golden.Updating()); why != "" {
		t.Logf("this run proves no box of the checklist: %s", why)
		return
	}
	if testing.Verbose() { // else nobody reads it, and it takes as long as some tests
		origin(t)
	}
	for _, id := range ids {
		t.Attr(Attribute, id)
	}
}

// origin records of which SQL and which tests something is proven.
func origin(t testing.TB) {
	t.Helper()
	sql, err := schema.Digest()
	if err != nil {
		t.Fatalf("%v", err)
	}
	tests, err := project(golden.Module(t))
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Attr(results.Schema, sql)
	t.Attr(results.Project, tests)
}

var projects sync.Map // what project has found, by folder

// project is the digest of the tests of the module in that folder, which a process reads once.
func project(root string) (string, error) {
	find, _ := projects.LoadOrStore(root, sync.OnceValues(func() (string, error) { return results.Digest(root) }))
	return find.(func() (string, error))()
}

// asked is what the flag of that name says, by which go test chooses tests.
func asked(name string) string {
	if f := flag.Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}

// inconclusive says why a run proves nothing of what the test of that name does, "" if it does.
func inconclusive(test string, asked func(flag string) string, updating bool) string {
	if updating {
		return golden.UpdateVariable + " is given: what is written down is written anew, and compared with nothing"
	}
	for _, name := range []string{"test.run", "test.skip", "test.bench"} {
		if pattern := asked(name); strings.Count(pattern, "/") > strings.Count(test, "/") {
			return fmt.Sprintf("-%s=%s chooses among the parts of a test", strings.TrimPrefix(name, "test."), pattern)
		}
	}
	return ""
}

// unprovable says why a test cannot prove the box, "" if it can.
func unprovable(id string) string {
	box, ok := Find(id)
	switch {
	case !ok:
		return unknown(id)
	case box.Kind == Manual:
		return fmt.Sprintf("no test proves the box %q: somebody signs it off, in %s; if a test does prove all of it, make it automated in "+
			"helpers/checklist/boxes.tsv, and remove its row there", id, SignOffFile)
	case box.Kind == Parts:
		return fmt.Sprintf("the box %q has no proof of its own, and holds when all boxes below it do: name those that the test proves", id)
	}
	return ""
}

func unknown(id string) string {
	return fmt.Sprintf("the checklist has no box %q: the ids are in helpers/checklist/boxes.tsv", id)
}
