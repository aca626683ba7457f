package constraints_test

import "testing"

func testIndexes(t *testing.T)      {}
func testFunctions(t *testing.T)    {}
func testStatistics(t *testing.T)   {}
func testAudit(t *testing.T)        {}
func testVerification(t *testing.T) {}
