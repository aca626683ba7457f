package checklist

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestInconclusive(t *testing.T) {
	t.Parallel()
	given := func(name, pattern string) func(string) string {
		return func(flag string) string { return map[string]string{name: pattern}[flag] }
	}
	for _, c := range []struct{ flag, pattern, test, want string }{
		{"test.run", "", "TestPhase4", ""},
		{"test.run", "^TestPhase4$|Phase3", "TestPhase4", ""},
		{"test.run", "TestPhase4/by_reading", "TestPhase4/by_reading", ""}, // all of this part
		{"test.run", "TestPhase4/by_reading", "TestPhase4", "-run=TestPhase4/by_reading chooses among the parts of a test"},
		{"test.run", "Test/a/b", "TestPhase4/a", "-run=Test/a/b chooses among the parts of a test"},
		{"test.skip", "TestPhase3", "TestPhase4", ""},
		{"test.skip", "TestPhase4/by_reading", "TestPhase4", "-skip=TestPhase4/by_reading chooses among the parts of a test"},
		{"test.bench", ".", "BenchmarkRead", ""},
		{"test.bench", "/query=count", "BenchmarkRead", "-bench=/query=count chooses among the parts of a test"},
	} {
		require.Equal(t, c.want, inconclusive(c.test, given(c.flag, c.pattern), false), "-%s %s", c.flag, c.pattern)
	}
	require.Contains(t, inconclusive("TestPhase4", given("", ""), true), "UPDATE_GOLDEN is given")
}
