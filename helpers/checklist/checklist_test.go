package checklist_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
)

// digest is the SHA-256 of the checklist's sections and texts, in its order. It changes only
// with the document.
const digest = "5c2e0dd0ddc582aceaf20cd39297ed41b8bb59c2b49478ab495acb38373d1706"

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
	t.Run("sections and texts have the committed digest", func(t *testing.T) {
		t.Parallel()
		sum := sha256.New()
		for _, box := range boxes {
			fmt.Fprintf(sum, "%s\n%s\n", box.Section, box.Text)
		}
		require.Equal(t, digest, hex.EncodeToString(sum.Sum(nil)))
	})
	t.Run("a box that is not there is not found", func(t *testing.T) {
		t.Parallel()
		_, ok := checklist.Find("phase-1/users-can-fly")
		require.False(t, ok)
	})
}

func TestProves(t *testing.T) {
	t.Parallel()
	t.Run("known ids become attributes", func(t *testing.T) {
		t.Parallel()
		r := record(t, "phase-1/verify-phase-1-completion", "success-criteria/security/rls-policies-enforce-data-isolation")
		require.Equal(t, []string{
			"checklist=phase-1/verify-phase-1-completion",
			"checklist=success-criteria/security/rls-policies-enforce-data-isolation",
		}, r.attributes)
		require.Empty(t, r.fatal)
	})
	t.Run("an unknown id fails the test and is not recorded", func(t *testing.T) {
		t.Parallel()
		r := record(t, "phase-1/verify-phase-1-completion", "phase-1/users-can-fly", "phase-1/document-current-state")
		require.Equal(t, `the checklist has no box "phase-1/users-can-fly": the ids are in helpers/checklist/boxes.tsv`, r.fatal)
		require.Equal(t, []string{"checklist=phase-1/verify-phase-1-completion"}, r.attributes)
	})
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
