package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFinest(t *testing.T) {
	const out = `--- FAIL: TestPhase1 (0.00s)
    --- PASS: TestPhase1/Again (0.01s)
    --- FAIL: TestPhase1/Derived_columns (0.17s)
        --- FAIL: TestPhase1/Derived_columns/forged/afterwards (0.00s)
        --- FAIL: TestPhase1/Derived_columns/forged#01 (0.00s)
    --- FAIL: TestPhase1/Scopes (0.17s)
        --- FAIL: TestPhase1/Scopes/a_flag (0.17s)
--- FAIL: TestPhase10 (0.00s)
`
	for given, want := range map[string]string{
		"":                           "TestPhase1/Derived_columns/forged#01",
		"TestPhase1":                 "TestPhase1/Derived_columns/forged#01",
		"TestPhase1/Scopes":          "TestPhase1/Scopes/a_flag",
		"TestPhase1/Derived_columns": "TestPhase1/Derived_columns/forged#01",
		"TestPhase10":                "TestPhase10",
		"TestRunsOutOfTime":          "TestRunsOutOfTime",
	} {
		require.Equal(t, want, unit{"p", given}.finest(out).Test, given)
	}
}
