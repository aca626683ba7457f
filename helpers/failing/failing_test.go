package failing_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/failing"
)

func TestTest(t *testing.T) {
	t.Parallel()
	require.Empty(t, failing.Test(t, func(t testing.TB) { require.True(t, true) }))
	for name, f := range map[string]func(testing.TB){
		"testify": func(t testing.TB) { require.True(t, false, "wrong 7") },
		"Error":   func(t testing.TB) { t.Error("wrong", 7) },
		"Errorf":  func(t testing.TB) { t.Errorf("wrong %d", 7) },
		"Fatal":   func(t testing.TB) { t.Fatal("wrong", 7) },
		"Fatalf":  func(t testing.TB) { t.Fatalf("wrong %d", 7) },
	} {
		said := failing.Test(t, f)
		require.Len(t, said, 1, name)
		require.Contains(t, said[0], "wrong 7", name)
	}
	require.Len(t, failing.Test(t, func(t testing.TB) { t.FailNow() }), 1)
	ended := true
	failing.Test(t, func(t testing.TB) {
		t.Fatal("here")
		ended = false
	})
	require.True(t, ended)
}
