// Package backfill_test is the checklist's "Phase 2: Backfill Data (Reversible)".
package backfill_test
