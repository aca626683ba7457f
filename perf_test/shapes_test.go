package perf_test

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/golden"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// shapes is how each query was planned, in which conditions.
type shapes struct {
	mu    sync.Mutex
	found map[string]map[string][]string // names of conditions, by query and shape
}

func (s *shapes) add(query, condition, shape string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.found == nil {
		s.found = map[string]map[string][]string{}
	}
	if s.found[query] == nil {
		s.found[query] = map[string][]string{}
	}
	s.found[query][shape] = append(s.found[query][shape], condition)
}

// String is each query with its shapes, the first one being that for its values, in the order of the conditions.
func (s *shapes) String() string {
	order := map[string]int{}
	for i, c := range conditions {
		order[c.name] = i
	}
	inOrder := func(a, b string) int { return cmp.Compare(order[a], order[b]) }
	var b strings.Builder
	for _, query := range slices.Sorted(maps.Keys(s.found)) {
		byShape := s.found[query]
		for _, names := range byShape {
			slices.SortFunc(names, inOrder)
		}
		of := slices.SortedFunc(maps.Keys(byShape), func(a, b string) int { return inOrder(byShape[a][0], byShape[b][0]) })
		fmt.Fprintf(&b, "\n== %s\n", query)
		for _, shape := range of {
			names := byShape[shape]
			if len(of) == 1 {
				names = []string{"always"}
			}
			fmt.Fprintf(&b, "\n-- %s\n%s", strings.Join(names, "; "), shape)
		}
	}
	return b.String()
}

// golden compares the shapes with those that are written down for this major version of PostgreSQL, or, with
// UPDATE_GOLDEN=1, writes them down.
func (s *shapes) golden(t *testing.T, db *pgtest.DB) {
	var major int
	require.NoError(t, db.Superuser.QueryRow(t.Context(), `select current_setting('server_version_num')::integer / 10000`).Scan(&major))
	file := filepath.Join("testdata", "plans", fmt.Sprintf("%d.txt", major))
	text := fmt.Sprintf("How PostgreSQL %d plans what the application asks most. UPDATE_GOLDEN=1 writes it down anew.\n%s", major, s)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) && !golden.Updating() {
		t.Fatalf("nobody has looked at the plans of PostgreSQL %d yet, which is all that is wrong here: the rules hold for them. "+
			"Run this again with UPDATE_GOLDEN=1, compare %s with its neighbours, and commit it.", major, file)
	}
	golden.Check(t, file, text, "is not how the queries are planned any more. If that is meant, UPDATE_GOLDEN=1 writes it down for the "+
		"review, here and on the other versions (MAJOR=16, 17, 18).")
}
