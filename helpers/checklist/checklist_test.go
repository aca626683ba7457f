package checklist_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/results"
	"github.com/vital-health/tenancy/schema"
)

// digest is the SHA-256 of the checklist's sections and texts, in its order. It changes only
// with the document.
const digest = "5c2e0dd0ddc582aceaf20cd39297ed41b8bb59c2b49478ab495acb38373d1706"

// idDigest is that of the ids. They stand in tests, queries and sign-offs, and do not change.
const idDigest = "fc17d8c4ca0ad07edf0ca9e04ab471d48fc76dc6de19b4f156c85dff58a94711"

// document is the checklist itself, where it lies beside the repository.
const document = "../../../shared/checklist/implementation-checklist.md"

func TestBoxes(t *testing.T) {
	t.Parallel()
	boxes := checklist.Boxes()
	t.Run("there are 180, with ids that are unique and readable", func(t *testing.T) {
		t.Parallel()
		require.Len(t, boxes, 180)
		seen := map[string]bool{}
		for _, box := range boxes {
			require.False(t, seen[box.ID], box.ID)
			seen[box.ID] = true
			require.Regexp(t, `^[a-z0-9-]+(/[a-z0-9-]+){1,2}$`, box.ID)
			require.NotEmpty(t, box.Section)
			require.NotEmpty(t, box.Text)
			found, ok := checklist.Find(box.ID)
			require.True(t, ok)
			require.Equal(t, box, found)
		}
	})
	t.Run("ids are what they were", func(t *testing.T) {
		t.Parallel()
		sum := sha256.New()
		for _, box := range boxes {
			fmt.Fprintln(sum, box.ID)
		}
		require.Equal(t, idDigest, hex.EncodeToString(sum.Sum(nil)))
	})
	t.Run("sections and texts are those of the document", func(t *testing.T) {
		t.Parallel()
		sum := sha256.New()
		for _, box := range boxes {
			fmt.Fprintf(sum, "%s\n%s\n", box.Section, box.Text)
		}
		require.Equal(t, digest, hex.EncodeToString(sum.Sum(nil)))

		text, err := os.ReadFile(document)
		if errors.Is(err, fs.ErrNotExist) {
			t.Log("the document is not here: its digest stands for it")
			return
		}
		require.NoError(t, err)
		var registered []string
		for _, box := range boxes {
			above := "" // none
			if id := path.Dir(box.ID); strings.Contains(id, "/") {
				parent, ok := checklist.Find(id)
				require.True(t, ok, box.ID)
				above = parent.Text + " > "
			}
			registered = append(registered, box.Section+": "+above+box.Text)
		}
		require.Equal(t, boxesOf(string(text)), registered)
	})
	t.Run("each has a kind, and what has parts has them below it", func(t *testing.T) {
		t.Parallel()
		count := map[checklist.Kind]int{}
		for _, box := range boxes {
			count[box.Kind]++
			below := box.Below()
			switch box.Kind {
			case checklist.Parts:
				require.NotEmpty(t, below, "%s has no parts: tests prove it, or somebody signs it off", box.ID)
			case checklist.Manual:
				require.Empty(t, below, "%s is above others: what people sign off is below it", box.ID)
			case checklist.Automated:
				for _, part := range below {
					require.Equal(t, checklist.Automated, part.Kind, "no test proves all of %s, for none proves %s", box.ID, part.ID)
				}
			default:
				require.Fail(t, "no such kind", "%s is %q", box.ID, box.Kind)
			}
		}
		fmt.Fprintln(t.Output(), count)
		require.GreaterOrEqual(t, count[checklist.Automated], 120)
	})
	t.Run("below a box are its parts, in their order, and below a part is nothing", func(t *testing.T) {
		t.Parallel()
		box, ok := checklist.Find("post-migration-tasks/team-training")
		require.True(t, ok)
		var ids []string
		for _, part := range box.Below() {
			ids = append(ids, strings.TrimPrefix(part.ID, box.ID))
			require.Empty(t, part.Below())
		}
		require.Equal(t, []string{"/engineering-team-trained-on-new-schema", "/support-team-aware-of-changes", "/documentation-shared-with-stakeholders"}, ids)
	})
	t.Run("a box that is not there is not found", func(t *testing.T) {
		t.Parallel()
		_, ok := checklist.Find("phase-1/users-can-fly")
		require.False(t, ok)
	})
}

// boxesOf are the boxes of the document: with their headings, and the box that they are below.
func boxesOf(text string) (found []string) {
	line := regexp.MustCompile(`^( *)- \[ \] (.*)$`)
	section, subsection, above, code := "", "", "", false
	for l := range strings.Lines(text) {
		l = strings.TrimRight(l, "\n")
		m := line.FindStringSubmatch(l)
		switch {
		case strings.HasPrefix(strings.TrimSpace(l), "```"):
			code = !code
		case code:
		case strings.HasPrefix(l, "## "):
			section, subsection = l[len("## "):], ""
		case strings.HasPrefix(l, "### "):
			subsection = " / " + l[len("### "):]
		case m != nil && m[1] == "":
			above = strings.ReplaceAll(m[2], "*", "")
			found = append(found, section+subsection+": "+above)
		case m != nil:
			found = append(found, section+subsection+": "+above+" > "+strings.ReplaceAll(m[2], "*", ""))
		}
	}
	return found
}

func TestProves(t *testing.T) {
	t.Parallel()
	t.Run("known ids become attributes", func(t *testing.T) {
		t.Parallel()
		r := record(t, "phase-1/verify-phase-1-completion", "success-criteria/security/rls-policies-enforce-data-isolation")
		want := []string{
			"checklist=phase-1/verify-phase-1-completion",
			"checklist=success-criteria/security/rls-policies-enforce-data-isolation",
		}
		if testing.Verbose() {
			sql, err := schema.Digest()
			require.NoError(t, err)
			tests, err := results.Digest("../..")
			require.NoError(t, err)
			want = append([]string{"schema=" + sql, "project=" + tests}, want...)
		}
		require.Equal(t, want, r.attributes, "and, where attributes are shown, what they are proven of")
		require.Empty(t, r.fatal)
	})
	t.Run("an unknown id fails the test, and nothing is recorded", func(t *testing.T) {
		t.Parallel()
		r := record(t, "phase-1/verify-phase-1-completion", "phase-1/users-can-fly", "phase-1/document-current-state")
		require.Equal(t, `the checklist has no box "phase-1/users-can-fly": the ids are in helpers/checklist/boxes.tsv`, r.fatal)
		require.Empty(t, r.attributes)
	})
	for name, c := range map[string]struct{ id, want string }{
		"that somebody signs off": {"production-deployment/deployment-plan-approved/database-team-reviewed-migration",
			`no test proves the box "production-deployment/deployment-plan-approved/database-team-reviewed-migration": somebody signs it off, in docs/sign-off.csv`},
		"that is what its parts are": {"pre-implementation/documentation-complete",
			`the box "pre-implementation/documentation-complete" has no proof of its own, and holds when all boxes below it do`},
	} {
		t.Run("a box "+name+" fails the test, and nothing is recorded", func(t *testing.T) {
			t.Parallel()
			r := record(t, "phase-1/verify-phase-1-completion", c.id)
			require.Contains(t, r.fatal, c.want)
			require.Empty(t, r.attributes)
		})
	}
	t.Run("no id fails the test", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, "the test says that it proves boxes of the checklist but names none", record(t).fatal)
	})
}

// recorder is a test that only remembers what became of it; the real one would prove boxes.
type recorder struct {
	testing.TB
	attributes []string
	fatal      string
}

func (r *recorder) Helper() {}

func (r *recorder) Attr(key, value string) { r.attributes = append(r.attributes, key+"="+value) }

func (r *recorder) Fatalf(format string, args ...any) {
	r.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func record(t *testing.T, ids ...string) *recorder {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		checklist.Proves(r, ids...)
	}()
	<-done
	return r
}
