// Package dump_test is the rollout on a database of somebody's own: the file that
// BASELINE_DUMP names, or one that is kept here. There are no fixtures in it. Who may see
// what is decided by rules in Go, from the rows as the dump holds them, and by what its
// own policies showed before.
//
// It ends with a report, which says what was found, and what could not be checked because
// the dump lacks it. Of a dump that was given it is written to build/report/dump.txt.
package dump_test
