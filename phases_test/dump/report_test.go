package dump_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/dump"
)

// report is what somebody wants to know before the deployment. Each line stands in one
// of its sections; what is a problem fails the test.
type report struct {
	title    string
	sections [len(headings)][]string
	problems int
}

type section int

const (
	phases section = iota
	found
	access
	plans
	todo
	lacking
	problem
)

var headings = [...]string{
	phases:  "Phases and rollbacks",
	found:   "What phase 2 found, for somebody to look at",
	access:  "Who sees what",
	plans:   "Plans",
	todo:    "To do before the deployment",
	lacking: "Not checked, because the dump or this server lacks it",
	problem: "Problems",
}

func (r *report) say(in section, format string, args ...any) {
	r.sections[in] = append(r.sections[in], fmt.Sprintf(format, args...))
}

// maxShown is how many problems of one kind are shown.
const maxShown = 5

// fault is a problem, with some of what it is about.
func (r *report) fault(what string, examples ...string) {
	r.problems++
	r.say(problem, "%s%s", what, shown(examples))
}

// shown is some examples, each on its lines: neighbours are alike.
func shown(examples []string) (text string) {
	n := min(len(examples), maxShown)
	for i := range n {
		text += "\n    " + strings.ReplaceAll(examples[i*len(examples)/n], "\n", "\n    ")
	}
	if n < len(examples) {
		text += "\n    …"
	}
	return text
}

func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintln(&b, r.title)
	for i, lines := range r.sections {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "\n%s\n", headings[i])
		}
		for _, line := range lines {
			fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(line, "\n", "\n  "))
		}
	}
	return b.String()
}

// restored says what has become of the dump.
func (r *report) restored(d *dump.Dump, said dump.Restored) {
	r.title = fmt.Sprintf("%s (%s, dumped %s)", d.Path, d.Format, strings.Join(said.Versions, ", "))
	for _, what := range said.Foreign {
		r.say(todo, "%s: here the owner has got it. Phase 4 refuses it unless the role that runs it is a member of that one: ALTER … OWNER TO", what)
	}
	if said.Owner == "" {
		r.say(lacking, "owners (pg_dump -O): whether the role that runs the phases owns everything that it must")
	}
	if said.StandIn {
		r.say(lacking, "auth.uid(): whether it tells the policies who is calling. A stand-in reads the sub of request.jwt.claims")
	}
	for _, what := range said.Extensions {
		r.say(lacking, "extension %s", what)
	}
	for _, what := range said.Roles {
		r.say(lacking, "role %s", what)
	}
	for _, what := range said.Left {
		r.say(lacking, "%s", what)
	}
}

// written is whether a report of this run has its place taken: there is one dump that is given.
var written atomic.Bool

// publish writes the report where make prints it from, and nothing of what it found is hidden in a test's log that passes.
func (r *report) publish(t *testing.T) {
	t.Helper()
	text := r.String()
	t.Log(text)
	if os.Getenv(dump.Variable) == "" {
		return
	}
	require.True(t, written.CompareAndSwap(false, true), "two reports")
	folder := filepath.Join("..", "..", "build", "report")
	require.NoError(t, os.MkdirAll(folder, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "dump.txt"), []byte(text), 0o644))
}
