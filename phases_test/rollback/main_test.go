// Package rollback_test is the checklist's "Rollback Procedures": from any phase back to
// the one before, and all the way to the legacy database and up again. The rollbacks of
// phases 1 to 3 by themselves are tested beside their migrations.
package rollback_test
