package main

import (
	_ "embed"
	"html/template"
	"io"
	"slices"
	"strings"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/document"
	"github.com/vital-health/tenancy/helpers/results"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

var functions = template.FuncMap{
	"anchor": anchor,
	"title":  title,
	"code":   code,
	"users":  columns,
	"first":  func(email string) string { name, _, _ := strings.Cut(email, "@"); return name },
	"sign":   sign,
	"lines":  func(text string) []string { return strings.Split(text, "\n") },
	"below":  func(id string) int { return max(0, strings.Count(id, "/")-1) },
	"short":  short,
}

var pageTemplate = template.Must(template.New("page").Funcs(functions).Parse(pageHTML))

// writePage writes the page. Everything that is not ours is escaped; it loads nothing.
func writePage(w io.Writer, r *report, p *pictures) error {
	type group struct {
		Section string
		Boxes   []requirement
	}
	var groups []group
	counts := map[string]int{}
	for _, q := range r.Requirements {
		counts[string(q.State)]++
		if n := len(groups); n == 0 || groups[n-1].Section != q.Section {
			groups = append(groups, group{Section: q.Section})
		}
		last := &groups[len(groups)-1]
		last.Boxes = append(last.Boxes, q)
	}
	all := proofs(r)
	var matrix *test
	for _, p := range all {
		if p.Test.Package == "rls_test" && p.Test.Name == "TestPhase4Matrix" {
			matrix = &p.Test
		}
	}
	return pageTemplate.Execute(w, struct {
		*report
		*pictures
		CSS    template.CSS
		JS     template.JS
		Groups []group
		Counts map[string]int
		States []state
		Kinds  []checklist.Kind
		Proofs []proofOf
		Matrix *test // that has compared the access matrix with the database
	}{r, p, template.CSS(pageCSS), template.JS(pageJS), groups, counts,
		states, []checklist.Kind{checklist.Automated, checklist.Manual, checklist.Parts}, all, matrix})
}

// proofOf is a test with what it proves.
type proofOf struct {
	Test  test
	Boxes []string
}

// proofs are the tests that the page names, each once.
func proofs(r *report) (all []proofOf) {
	at := map[string]int{}
	add := func(t test, box string) {
		i, ok := at[t.Package+" "+t.Name]
		if !ok {
			i = len(all)
			at[t.Package+" "+t.Name] = i
			all = append(all, proofOf{Test: t})
		}
		if box != "" {
			all[i].Boxes = append(all[i].Boxes, box)
		}
	}
	for _, q := range r.Requirements {
		for _, t := range q.Tests {
			add(t, q.ID)
		}
	}
	for _, d := range r.Deviations {
		for _, t := range d.Tests {
			add(t, "")
		}
	}
	for _, f := range r.Failures {
		add(f.Test, "")
	}
	slices.SortFunc(all, func(a, b proofOf) int {
		return strings.Compare(a.Test.Package+" "+a.Test.Name, b.Test.Package+" "+b.Test.Name)
	})
	return all
}

// anchor is where the page has something: "test-rls_test/TestPhase4". Ids may be of anything but spaces.
func anchor(kind string, parts ...string) string {
	return kind + "-" + strings.ReplaceAll(strings.Join(parts, "/"), " ", "_")
}

func title(t test) string { return results.Test{Package: t.Package, Name: t.Name}.Title() }

// code is text with Markdown's backticks as HTML.
func code(text string) template.HTML {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			b.WriteString("<code>" + template.HTMLEscapeString(part) + "</code>")
		} else {
			b.WriteString(template.HTMLEscapeString(part))
		}
	}
	return template.HTML(b.String())
}

// columns are the people who may do something to a row of the table, in the order of the fixtures.
func columns(t table) (users []fixtures.User) {
	for _, u := range fixtures.Users {
		if slices.ContainsFunc(t.Rows, func(r document.Row) bool { return r.Grant(u.Email) != nil }) {
			users = append(users, u)
		}
	}
	return users
}

// sign is what stands for verbs in a narrow column.
func sign(verbs string) string {
	var signs string
	for _, verb := range []struct{ name, sign string }{{"reads", "R"}, {"changes", "C"}, {"removes", "D"}} {
		if strings.Contains(verbs, verb.name) {
			signs += verb.sign
		}
	}
	return signs
}
