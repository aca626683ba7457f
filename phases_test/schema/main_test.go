// Package schema_test is the checklist's "Phase 1: Add Columns (Non-Breaking)".
package schema_test
