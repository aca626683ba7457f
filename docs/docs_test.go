// Package docs_test says when the documents are not what the database is, and does what the runbook says.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/document"
	"github.com/vital-health/tenancy/helpers/golden"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

func read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

// current says that a document is what its generated regions make of it, or makes it so.
func current(t *testing.T, name string, regions map[string]string) {
	t.Helper()
	text := read(t, name)
	wanted, err := document.Fill(text, regions)
	require.NoError(t, err, name)
	golden.Check(t, name, wanted, "is not what the database is: run make docs")
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "pre-implementation/documentation-complete/helper-functions-documented",
		"pre-implementation/documentation-complete/rls-policies-documented", "post-migration-tasks/documentation-updates/update-database-schema-docs",
		"post-migration-tasks/documentation-updates/update-api-documentation")
	db := pgtest.New(t, schema.Phase4, fixtures.World()...)
	conn := db.Connect(t, pgtest.OwnerRole)
	_, err := conn.Exec(t.Context(), `set search_path = ''`)
	require.NoError(t, err)

	s, err := document.ReadSchema(t.Context(), conn)
	require.NoError(t, err)
	current(t, "schema.md", map[string]string{"diagram": s.Mermaid(), "tables": s.Markdown(), "enums": s.Enums(), "internal": s.Internal()})

	functions, err := document.Functions(t.Context(), conn)
	require.NoError(t, err)
	current(t, "functions.md", functions)

	access, err := document.Access(t.Context(), conn, read(t, "../rls_test/testdata/matrix/agents.txt"),
		[]string{fixtures.Alice.Email, fixtures.Adam.Email, fixtures.Vera.Email, fixtures.Bob.Email, fixtures.Tess.Email, fixtures.Carol.Email, fixtures.Root.Email},
		[]string{fixtures.NovartisAgent.Name, fixtures.PfizerAgent.Name, fixtures.PharmaAgent.Name, fixtures.TenantAgent.Name, fixtures.MayoAgent.Name,
			fixtures.PublicAgent.Name, fixtures.PlatformAgent.Name})
	require.NoError(t, err)
	current(t, "access-model.md", access)

	// The picture is drawn by a module of its own, which make docs runs.
	if golden.Updating() {
		require.NoError(t, os.MkdirAll("../build", 0o755))
		require.NoError(t, os.WriteFile(filepath.Join("..", "build", "schema.dot"), []byte(s.DOT()), 0o644))
		return
	}
	require.Contains(t, read(t, "schema.svg"), "<!-- of "+document.Sum(s.DOT())+" -->", "docs/schema.svg is not what the database is: run make docs")
}

func TestReadMatrix(t *testing.T) {
	t.Parallel()
	const text = "# Who may.\n\n\"A \"quoted\" agent\" of Novartis (organization scope)\n    alice@novartis.com  reads, changes  made it\n\n\"B\"\n    nobody: it is deleted\n"
	rows, err := document.ReadMatrix(text)
	require.NoError(t, err)
	require.Equal(t, []document.Row{
		{Name: `A "quoted" agent`, Of: "Novartis (organization scope)", May: []document.Grant{{User: "alice@novartis.com", Verbs: "reads, changes", Why: "made it"}}},
		{Name: "B", May: []document.Grant{}, Nobody: "it is deleted"},
	}, rows)
	require.Equal(t, "made it", rows[0].Grant("alice@novartis.com").Why)
	require.Nil(t, rows[0].Grant("bob@pfizer.com"))
	for wanted, text := range map[string]string{
		"line 1 of the access matrix: want a row's name first":                    "    alice@novartis.com  reads  made it\n",
		"line 2 of the access matrix is neither a row, nor who may do what to it": "\"A\"\n    alice reads\n",
	} {
		_, err := document.ReadMatrix(text)
		require.ErrorContains(t, err, wanted)
	}
}

// What the table of the checklist's SQL names is there.
func TestChecklistSQL(t *testing.T) {
	t.Parallel()
	within := map[string]string{} // by folder or file, what its SQL and Go files and scenarios say
	named := 0
	place := regexp.MustCompile("`([a-z_/0-9.]+)`: ((?:`[^`]+`(?:, )?)+)")
	for line := range strings.Lines(read(t, "checklist-sql.md")) {
		if !strings.HasPrefix(line, "| P") && !strings.HasPrefix(line, "| R") {
			continue
		}
		found := place.FindAllStringSubmatch(line, -1)
		require.NotEmpty(t, found, line)
		for _, m := range found {
			if within[m[1]] == "" {
				files := []string{filepath.Join("..", m[1])}
				if filepath.Ext(m[1]) == "" {
					var err error
					files, err = filepath.Glob(filepath.Join("..", m[1], "*.*"))
					require.NoError(t, err)
				}
				for _, file := range files {
					within[m[1]] += read(t, file)
				}
			}
			for _, name := range strings.Split(m[2], ", ") {
				name = strings.Trim(name, "`")
				if strings.HasPrefix(m[1], "schema/verify/") {
					name = "-- name: " + name + "\n"
				}
				require.Contains(t, within[m[1]], name, "%s has no such thing", m[1])
				named++
			}
		}
	}
	require.Greater(t, named, 40)
}

func TestFill(t *testing.T) {
	t.Parallel()
	const text = "a\n<!-- generated: one -->\nold\n<!-- end -->\nb\n<!-- generated: two -->\n<!-- end -->\n"
	filled, err := document.Fill(text, map[string]string{"one": "1\n", "two": "2"})
	require.NoError(t, err)
	require.Equal(t, "a\n<!-- generated: one -->\n\n1\n\n<!-- end -->\nb\n<!-- generated: two -->\n\n2\n\n<!-- end -->\n", filled)
	again, err := document.Fill(filled, map[string]string{"one": "1\n", "two": "2"})
	require.NoError(t, err)
	require.Equal(t, filled, again)
	for wanted, regions := range map[string]map[string]string{
		"nothing generates two":       {"one": ""},
		"there is no place for three": {"one": "", "two": "", "three": ""},
	} {
		_, err := document.Fill(text, regions)
		require.ErrorContains(t, err, wanted)
	}
}
