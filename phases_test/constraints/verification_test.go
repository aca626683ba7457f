package constraints_test

import "testing"

func testVerification(t *testing.T) {}
