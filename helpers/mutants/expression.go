package main

import (
	"fmt"
	"slices"
	"strings"

	pg "github.com/pganalyze/pg_query_go/v6"
	pgquery "github.com/wasilibs/go-pgquery"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// variant is a statement with one thing wrong in it.
type variant struct {
	operator string // what was done, in a few words
	place    string // to which piece of SQL
	sql      string
}

// site is something in a parsed statement that can be made wrong. break_ does so, and
// returns what takes it back.
type site struct {
	operator string
	place    string
	apply    func() (undo func())
}

// variants is all statements that differ from sql in one place.
func variants(sql string) ([]variant, error) {
	tree, err := pgquery.Parse(sql)
	if err != nil {
		return nil, err
	}
	before, err := pgquery.Deparse(tree)
	if err != nil {
		return nil, err
	}
	var found []variant
	w := &walker{}
	w.message(tree.ProtoReflect())
	for _, s := range w.sites {
		undo := s.apply()
		after, err := pgquery.Deparse(tree)
		undo()
		if err != nil || after == before {
			continue
		}
		found = append(found, variant{s.operator, s.place, after})
	}
	if again, _ := pgquery.Deparse(tree); again != before {
		return nil, fmt.Errorf("a site was not taken back: %s", again)
	}
	return found, nil
}

// walker collects the sites of a tree, in the order of the text as far as the tree has it.
type walker struct {
	sites   []site
	negated map[*pg.Node]bool // what stands under a NOT, which is broken by taking the NOT away
}

func (w *walker) add(operator, place string, apply func() func()) {
	w.sites = append(w.sites, site{operator, place, apply})
}

func (w *walker) message(m protoreflect.Message) {
	switch node := m.Interface().(type) {
	case *pg.Node:
		w.node(node)
	case *pg.SelectStmt:
		w.query(node)
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if field.Message() == nil || !m.Has(field) {
			continue
		}
		if !field.IsList() {
			w.message(m.Get(field).Message())
			continue
		}
		for list, j := m.Get(field).List(), 0; j < list.Len(); j++ {
			w.message(list.Get(j).Message())
		}
	}
}

// text is a piece of SQL as the parser prints it, on one line and not too long.
func text(node *pg.Node) string {
	tree := &pg.ParseResult{Stmts: []*pg.RawStmt{{Stmt: &pg.Node{Node: &pg.Node_SelectStmt{SelectStmt: &pg.SelectStmt{
		TargetList:  []*pg.Node{{Node: &pg.Node_ResTarget{ResTarget: &pg.ResTarget{Val: proto.CloneOf(node)}}}},
		LimitOption: pg.LimitOption_LIMIT_OPTION_DEFAULT, Op: pg.SetOperation_SETOP_NONE,
	}}}}}}
	sql, err := pgquery.Deparse(tree)
	if err != nil {
		return node.String()
	}
	return brief(strings.TrimPrefix(sql, "SELECT "))
}

func brief(sql string) string {
	const most = 90
	sql = strings.Join(strings.Fields(sql), " ")
	if runes := []rune(sql); len(runes) > most {
		sql = string(runes[:most]) + "…"
	}
	return sql
}

// set is a site that gives a field another value.
func set[T any](field *T, other T) func() func() {
	return func() func() {
		before := *field
		*field = other
		return func() { *field = before }
	}
}

// replace is a site that puts another node in the place of one.
func replace(node *pg.Node, other *pg.Node) func() func() {
	return set(&node.Node, other.Node)
}

// turned are comparisons and what is wrong in their place.
var turned = map[string][]string{
	"=": {"<>"}, "<>": {"="}, "<": {"<=", ">="}, "<=": {"<", ">"}, ">": {">=", "<="}, ">=": {">", "<"},
	"+": {"-"}, "-": {"+"}, "~": {"!~"}, "!~": {"~"}, "@>": {"<@"},
}

// swapped are columns that somebody may mistake for each other.
var swapped = map[string]string{
	"owner_organization_id": "owner_tenant_id", "owner_tenant_id": "owner_organization_id",
	"parent_organization_id": "id", "tenant_organization_id": "id",
	"organization_id": "user_id", "user_id": "organization_id", "created_by": "owner_organization_id",
	"owner_before": "owner_after", "owner_after": "owner_before", "scope_before": "scope_after", "scope_after": "scope_before",
	"before": "after", "after": "before", "old_id": "new_id", "new_id": "old_id",
}

func (w *walker) node(node *pg.Node) {
	place := func() string { return text(node) }
	switch n := node.Node.(type) {
	case *pg.Node_BoolExpr:
		w.boolean(node, n.BoolExpr)
	case *pg.Node_AExpr:
		w.comparison(node, n.AExpr)
	case *pg.Node_NullTest:
		other := pg.NullTestType_IS_NULL
		if n.NullTest.Nulltesttype == other {
			other = pg.NullTestType_IS_NOT_NULL
		}
		w.add("turn the test for NULL round", place(), set(&n.NullTest.Nulltesttype, other))
	case *pg.Node_BooleanTest:
		other := map[pg.BoolTestType]pg.BoolTestType{
			pg.BoolTestType_IS_TRUE: pg.BoolTestType_IS_NOT_TRUE, pg.BoolTestType_IS_NOT_TRUE: pg.BoolTestType_IS_TRUE,
			pg.BoolTestType_IS_FALSE: pg.BoolTestType_IS_NOT_FALSE, pg.BoolTestType_IS_NOT_FALSE: pg.BoolTestType_IS_FALSE,
		}[n.BooleanTest.Booltesttype]
		if other != pg.BoolTestType_BOOL_TEST_TYPE_UNDEFINED {
			w.add("turn the test round", place(), set(&n.BooleanTest.Booltesttype, other))
		}
	case *pg.Node_SubLink:
		if n.SubLink.SubLinkType == pg.SubLinkType_EXISTS_SUBLINK && !w.negated[node] {
			w.add("negate EXISTS", place(), replace(node, pg.MakeBoolExprNode(pg.BoolExprType_NOT_EXPR, []*pg.Node{{Node: n}}, 0)))
		}
	case *pg.Node_CoalesceExpr:
		if args := n.CoalesceExpr.Args; len(args) > 1 {
			for i, arg := range args {
				w.add("leave out of COALESCE", text(arg), set(&n.CoalesceExpr.Args, without(args, i)))
			}
		}
	case *pg.Node_CaseExpr:
		if args := n.CaseExpr.Args; len(args) > 1 {
			for i, arg := range args {
				w.add("leave out of CASE", text(arg.GetCaseWhen().GetExpr()), set(&n.CaseExpr.Args, without(args, i)))
			}
		}
	case *pg.Node_JoinExpr:
		switch n.JoinExpr.Jointype {
		case pg.JoinType_JOIN_INNER:
			if n.JoinExpr.Quals != nil {
				w.add("make it an outer join", text(n.JoinExpr.Quals), set(&n.JoinExpr.Jointype, pg.JoinType_JOIN_LEFT))
			}
		case pg.JoinType_JOIN_LEFT:
			w.add("make it an inner join", text(n.JoinExpr.Quals), set(&n.JoinExpr.Jointype, pg.JoinType_JOIN_INNER))
		}
	case *pg.Node_AConst:
		w.constant(node, n.AConst)
	case *pg.Node_ColumnRef:
		last := n.ColumnRef.Fields[len(n.ColumnRef.Fields)-1].GetString_()
		if other := swapped[last.GetSval()]; other != "" {
			w.add("ask for "+other+" instead", place(), set(&last.Sval, other))
		}
	case *pg.Node_SelectStmt:
		w.union(&n.SelectStmt)
	case *pg.Node_UpdateStmt:
		w.condition(&n.UpdateStmt.WhereClause)
		if targets := n.UpdateStmt.TargetList; len(targets) > 1 {
			for i, target := range targets {
				w.add("leave out of SET", target.GetResTarget().GetName(), set(&n.UpdateStmt.TargetList, without(targets, i)))
			}
		}
	case *pg.Node_DeleteStmt:
		w.condition(&n.DeleteStmt.WhereClause)
	}
}

func (w *walker) boolean(node *pg.Node, b *pg.BoolExpr) {
	switch b.Boolop {
	case pg.BoolExprType_NOT_EXPR:
		if w.negated == nil {
			w.negated = map[*pg.Node]bool{}
		}
		w.negated[b.Args[0]] = true
		w.add("take the NOT away", text(node), replace(node, b.Args[0]))
	case pg.BoolExprType_AND_EXPR:
		w.add("OR instead of AND", text(node), set(&b.Boolop, pg.BoolExprType_OR_EXPR))
	case pg.BoolExprType_OR_EXPR:
		w.add("AND instead of OR", text(node), set(&b.Boolop, pg.BoolExprType_AND_EXPR))
	}
	if len(b.Args) < 2 {
		return
	}
	for i, arg := range b.Args {
		apply := set(&b.Args, without(b.Args, i))
		if len(b.Args) == 2 {
			apply = replace(node, b.Args[1-i])
		}
		operator := "leave out of AND"
		if b.Boolop == pg.BoolExprType_OR_EXPR {
			operator = "leave out of OR"
		}
		w.add(operator, text(arg), apply)
	}
}

func (w *walker) comparison(node *pg.Node, e *pg.A_Expr) {
	place := text(node)
	switch e.Kind {
	case pg.A_Expr_Kind_AEXPR_OP, pg.A_Expr_Kind_AEXPR_IN:
		if len(e.Name) != 1 || e.Lexpr == nil {
			return
		}
		name := e.Name[0].GetString_()
		for _, other := range turned[name.GetSval()] {
			if e.Kind == pg.A_Expr_Kind_AEXPR_IN && other != "=" && other != "<>" {
				continue
			}
			w.add(other+" instead of "+name.GetSval(), place, set(&name.Sval, other))
		}
	case pg.A_Expr_Kind_AEXPR_OP_ANY:
		w.add("ALL instead of ANY", place, set(&e.Kind, pg.A_Expr_Kind_AEXPR_OP_ALL))
	case pg.A_Expr_Kind_AEXPR_OP_ALL:
		w.add("ANY instead of ALL", place, set(&e.Kind, pg.A_Expr_Kind_AEXPR_OP_ANY))
	case pg.A_Expr_Kind_AEXPR_DISTINCT:
		w.add("IS NOT DISTINCT FROM instead of IS DISTINCT FROM", place, set(&e.Kind, pg.A_Expr_Kind_AEXPR_NOT_DISTINCT))
	case pg.A_Expr_Kind_AEXPR_NOT_DISTINCT:
		w.add("IS DISTINCT FROM instead of IS NOT DISTINCT FROM", place, set(&e.Kind, pg.A_Expr_Kind_AEXPR_DISTINCT))
	}
}

func (w *walker) constant(node *pg.Node, c *pg.A_Const) {
	switch val := c.Val.(type) {
	case *pg.A_Const_Boolval:
		w.add("the other truth value", text(node), set(&val.Boolval.Boolval, !val.Boolval.Boolval))
	case *pg.A_Const_Sval: // an array: with an element less, and with another
		inner, ok := strings.CutPrefix(val.Sval.Sval, "{")
		if !ok || !strings.HasSuffix(inner, "}") || inner == "}" {
			return
		}
		elements := strings.Split(strings.TrimSuffix(inner, "}"), ",")
		for i := range elements {
			w.add("leave out of the list", elements[i]+" of "+text(node), set(&val.Sval.Sval, "{"+strings.Join(without(elements, i), ",")+"}"))
		}
		if slices.Contains(elements, "member") && !slices.Contains(elements, "viewer") {
			w.add("viewers, too", text(node), set(&val.Sval.Sval, "{"+strings.Join(append(slices.Clone(elements), "viewer"), ",")+"}"))
		}
	}
}

// query breaks the clauses of a SELECT.
func (w *walker) query(s *pg.SelectStmt) {
	w.condition(&s.WhereClause)
	if s.HavingClause != nil {
		w.add("leave out HAVING", text(s.HavingClause), set(&s.HavingClause, nil))
	}
	if s.LimitCount != nil {
		w.add("leave out LIMIT", text(s.LimitCount), func() func() {
			count, option := s.LimitCount, s.LimitOption
			s.LimitCount, s.LimitOption = nil, pg.LimitOption_LIMIT_OPTION_DEFAULT
			return func() { s.LimitCount, s.LimitOption = count, option }
		})
	}
	if len(s.DistinctClause) > 0 {
		w.add("leave out DISTINCT", "", set(&s.DistinctClause, nil))
	}
	if len(s.SortClause) > 0 {
		w.add("leave out ORDER BY", text(s.SortClause[0].GetSortBy().GetNode()), set(&s.SortClause, nil))
	}
	if len(s.LockingClause) > 0 {
		w.add("leave out the row lock", "", set(&s.LockingClause, nil))
	}
	w.union(&s.Larg)
	w.union(&s.Rarg)
}

// union breaks a UNION by taking one half of it alone.
func (w *walker) union(s **pg.SelectStmt) {
	if (*s).GetOp() == pg.SetOperation_SETOP_UNION {
		w.add("the first half of UNION alone", "", set(s, (*s).Larg))
		w.add("the second half of UNION alone", "", set(s, (*s).Rarg))
	}
}

func (w *walker) condition(where **pg.Node) {
	if *where != nil {
		w.add("leave out WHERE", text(*where), set(where, nil))
	}
}

func without[T any](all []T, i int) []T { return slices.Delete(slices.Clone(all), i, i+1) }
