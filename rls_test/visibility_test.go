package rls_test

import (
	"testing"
)

func TestPhase4(t *testing.T) {
	t.Parallel()
	t.Run("Policies", testPolicies)
	t.Run("Writing", testWriting)
	t.Run("Again", testAgain)
}
