package docs_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/schema"
)

// The plan has a way back from each phase, with what it loses, and one for the worst case, step by step. That these ways
// lead where the plan says is for phases_test/rollback and phases_test/restore.
func TestRecovery(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "production-deployment/deployment-plan-approved/rollback-plan-documented")
	text := read(t, "recovery.md")
	rollbacks, backup, found := strings.Cut(text, "\n## By the backup\n")
	require.True(t, found)
	_, rollbacks, found = strings.Cut(rollbacks, "\n## By the rollbacks\n")
	require.True(t, found)

	t.Run("each phase has a rollback, and the last comes first", func(t *testing.T) {
		var documented []schema.Phase
		for _, m := range regexp.MustCompile(`(?m)^\| phase (\d) \| ([^|]+) \| ([^|]+) \|$`).FindAllStringSubmatch(rollbacks, -1) {
			phase, err := schema.ParsePhase("phase" + m[1])
			require.NoError(t, err)
			documented = append(documented, phase)
		}
		slices.Reverse(documented)
		require.Equal(t, schema.Phases(), documented)
		require.Regexp(t, `make rollback PHASE=phase4 +# then phase3, phase2, phase1`, rollbacks)
	})
	t.Run("the worst case has the steps of the checklist, in their order", func(t *testing.T) {
		rest := backup
		require.Contains(t, rest, "pg_dump -h prod-db -U postgres -d vital_prod -F c -b -v -f ", "taken before phase 1")
		for _, step := range []string{
			"1. Stop the application's writes: ", // Stop application writes
			"2. Put the database aside",
			"3. `pg_restore -C -d postgres --exit-on-error ", // Restore database from pre-migration backup
			"4. Deploy the application of that time.",        // Deploy previous application version
			"5. Let people in again: ",                       // Re-enable application
			"6. What was written since is in ",
			"7. Write down what happened", // Post-mortem analysis
		} {
			_, rest, found = strings.Cut(rest, "\n"+step)
			require.True(t, found, "after the steps before it: %s", step)
		}
	})
}
