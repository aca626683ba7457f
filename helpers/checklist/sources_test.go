package checklist_test

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/results"
)

// claim is a box that a test says it proves.
type claim struct {
	id    string
	place string // file and line
	plain bool   // go test ./... runs it: it is no benchmark, and needs no tag
}

// A box whose proof somebody has removed is missed here already, before anybody looks for it in a report.
func TestEachAutomatedBoxIsNamed(t *testing.T) {
	t.Parallel()
	claims := claimsBelow(t, "../..")
	require.Greater(t, len(claims), 120)
	for _, c := range claims {
		if box, ok := checklist.Find(c.id); !ok {
			t.Errorf("%s: the checklist has no box %q: the ids are in helpers/checklist/boxes.tsv", c.place, c.id)
		} else if box.Kind != checklist.Automated {
			t.Errorf("%s: no test proves the box %s, which is of kind %s: do not name it", c.place, c.id, box.Kind)
		}
	}
	for _, box := range checklist.Boxes() {
		proves := func(c claim) bool { return c.plain && c.id == box.ID }
		if box.Kind == checklist.Automated && !slices.ContainsFunc(claims, proves) {
			t.Errorf("no test that go test ./... runs proves the box %s (%s): name it in checklist.Proves of the test that does; if there "+
				"is none, make it manual in helpers/checklist/boxes.tsv, and give it a row in %s", box.ID, box.Text, checklist.SignOffFile)
		}
	}
}

// claimsBelow reads the tests of the module whose root that is.
func claimsBelow(t *testing.T, root string) (claims []claim) {
	t.Helper()
	files, err := results.TestFiles(root)
	require.NoError(t, err)
	for _, path := range files {
		// The tests of this package say what they do not prove.
		if filepath.Dir(path) != filepath.Join(root, "helpers", "checklist") {
			claims = append(claims, claimsOf(t, path, root)...)
		}
	}
	return claims
}

// claimsOf reads a file: the ids that stand in calls of checklist.Proves.
func claimsOf(t *testing.T, path, root string) (claims []claim) {
	t.Helper()
	plain, err := build.Default.MatchFile(filepath.Dir(path), filepath.Base(path))
	require.NoError(t, err)
	name, err := filepath.Rel(root, path)
	require.NoError(t, err)
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	for _, declaration := range file.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		benchmark := ok && strings.HasPrefix(function.Name.Name, "Benchmark")
		ast.Inspect(declaration, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !isProves(call.Fun) {
				return true
			}
			for _, argument := range call.Args {
				if literal, ok := argument.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					id, err := strconv.Unquote(literal.Value)
					require.NoError(t, err)
					claims = append(claims, claim{id, name + ":" + strconv.Itoa(files.Position(literal.Pos()).Line), plain && !benchmark})
				}
			}
			return true
		})
	}
	return claims
}

func isProves(function ast.Expr) bool {
	selector, ok := function.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != "Proves" {
		return false
	}
	of, ok := selector.X.(*ast.Ident)
	return ok && of.Name == "checklist"
}
