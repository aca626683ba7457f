package main

import (
	"bytes"
	"context"
	"fmt"
	"html/template"
	"strings"
	"sync"

	"github.com/goccy/go-graphviz"

	"github.com/vital-health/tenancy/fixtures"
)

// hierarchy draws the organizations of the tests' world, as they are after phase 2, with the people in them. Once: it is always
// the same, and Graphviz draws one picture at a time.
var hierarchy = sync.OnceValues(func() (template.HTML, error) {
	ctx := context.Background()
	name := map[string]string{
		fixtures.PlatformID: fixtures.Platform.Name, fixtures.QuarantineTenantID: fixtures.QuarantineTenantName,
		fixtures.QuarantineOrganizationID: fixtures.QuarantineOrganizationName,
	}
	for _, o := range fixtures.Organizations {
		name[fixtures.AfterID(o.ID)] = o.Name
	}
	email := map[string]string{}
	for _, u := range fixtures.Users {
		email[u.ID] = u.Email
	}
	people := map[string][]string{}
	for _, m := range fixtures.Memberships {
		if who, _, _ := strings.Cut(email[m.UserID], "@"); m.Active {
			id := fixtures.AfterID(m.OrganizationID)
			people[id] = append(people[id], fmt.Sprintf("%s, %s", who, m.Role))
		}
	}
	var dot strings.Builder
	dot.WriteString(`digraph hierarchy { rankdir=LR; nodesep=0.12; ranksep=0.6; bgcolor=transparent
		node [shape=box, style="rounded", fontname="Helvetica", fontsize=11, margin="0.12,0.06"]; edge [arrowhead=none]` + "\n")
	for _, p := range fixtures.Hierarchy() {
		label := fmt.Sprintf("%s\n%s", name[p.ID], p.Type)
		if len(people[p.ID]) > 0 {
			label += "\n" + strings.Join(people[p.ID], "\n")
		}
		fmt.Fprintf(&dot, "%q [label=%q, class=%q]\n", p.ID, label, string(p.Type))
		if p.Parent != nil {
			fmt.Fprintf(&dot, "%q -> %q\n", *p.Parent, p.ID)
		}
	}
	dot.WriteString("}\n")

	g, err := graphviz.New(ctx)
	if err != nil {
		return "", err
	}
	defer g.Close()
	graph, err := graphviz.ParseBytes([]byte(dot.String()))
	if err != nil {
		return "", fmt.Errorf("draw the hierarchy: %w", err)
	}
	defer graph.Close()
	var svg bytes.Buffer
	if err := g.Render(ctx, graph, graphviz.SVG, &svg); err != nil {
		return "", fmt.Errorf("draw the hierarchy: %w", err)
	}
	// In a page it needs no prolog, and its colours are the page's.
	_, body, ok := strings.Cut(svg.String(), "<svg ")
	if !ok {
		return "", fmt.Errorf("draw the hierarchy: Graphviz made no SVG")
	}
	body = strings.NewReplacer(`fill="black"`, "", `stroke="black"`, "", `fill="none"`, "", `fill="transparent"`, "").Replace(body)
	return template.HTML(`<svg class="hierarchy" role="img" aria-label="The hierarchy of organizations" ` + body), nil
})
