// Package constraints_test is the checklist's "Phase 3: Add Constraints & Indexes
// (Validation Required)".
package constraints_test
