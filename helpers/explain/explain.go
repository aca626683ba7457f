// Package explain runs a query under EXPLAIN ANALYZE and gives its plan as values that
// tests can ask: which indexes, which sequential scans, how many rows and buffers. A
// [Recorder] gives the plans of what functions execute and of prepared statements, too.
package explain

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Querier is a pgx.Tx, *pgx.Conn or *pgxpool.Pool.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Plan is an executed plan. What a function that is called from it does shows in its
// buffers and times but not in its nodes, unless the planner inlined the function.
type Plan struct {
	SQL           string // of a recorded plan: see [Recorder]
	Root          Node
	PlanningTime  time.Duration
	ExecutionTime time.Duration // on the server, triggers included
	JIT           bool          // it was compiled
}

// Node is one step of a plan. Its counters include those of its children.
type Node struct {
	Type      string // "Seq Scan", "Index Only Scan", "Hash Join", …; as EXPLAIN's JSON says it
	Parallel  bool   // its workers share the work
	Role      string // what it is to its parent: "Outer", "InitPlan", "SubPlan", …; "" at the root
	Subplan   string // "CTE x", "InitPlan 1 …"; "" if it is none
	Relation  string // table it reads or writes, unqualified; "" if none
	Alias     string // name of the relation in the query
	Index     string // index it uses; "" if none
	Function  string // function it scans; "" if none
	CTE       string // WITH query it scans; "" if none
	IndexCond string
	Filter    string
	JoinCond  string

	EstimatedRows float64 // per loop
	Rows          float64 // in all loops together
	Loops         float64 // 0: never executed
	Removed       float64 // rows that filter and recheck threw away, in all loops together
	HeapFetches   int64   // rows an index-only scan had to look up in the table after all
	Buffers       Buffers
	Time          time.Duration // in all loops together

	Children []Node
}

// Buffers counts 8 kB pages of tables and indexes.
type Buffers struct {
	Hit  int64 // found in shared memory
	Read int64 // fetched from the operating system
}

// Total is all pages touched; unlike its parts it does not depend on what the cache holds.
func (b Buffers) Total() int64 { return b.Hit + b.Read }

// Query executes sql under EXPLAIN (ANALYZE, BUFFERS) and returns its plan. The statement
// takes effect: in a transaction, roll back. Arguments are planned for by value, as for a first
// execution.
func Query(ctx context.Context, q Querier, sql string, args ...any) (Plan, error) {
	var text []byte
	statement := strings.TrimRight(strings.TrimSpace(sql), ";")
	if err := q.QueryRow(ctx, "explain (analyze, buffers, format json) "+statement, args...).Scan(&text); err != nil {
		return Plan{}, fmt.Errorf("explain query: %w\n%s", err, statement)
	}
	var out []explained
	if err := json.Unmarshal(text, &out); err != nil {
		return Plan{}, fmt.Errorf("read the plan that the server explained: %w\n%s", err, text)
	}
	if len(out) != 1 {
		return Plan{}, fmt.Errorf("explain query: want one plan, got %d (does a rule rewrite it?)\n%s", len(out), statement)
	}
	return out[0].convert(), nil
}

// explained is a plan as EXPLAIN (FORMAT JSON) writes it, and auto_explain, which adds the statement.
type explained struct {
	SQL           string `json:"Query Text"`
	Plan          node
	PlanningTime  float64         `json:"Planning Time"`
	ExecutionTime float64         `json:"Execution Time"`
	JIT           json.RawMessage `json:"JIT"`
}

func (e explained) convert() Plan {
	return Plan{
		SQL:           e.SQL,
		Root:          e.Plan.convert(),
		PlanningTime:  milliseconds(e.PlanningTime),
		ExecutionTime: milliseconds(e.ExecutionTime),
		JIT:           e.JIT != nil,
	}
}

// Nodes returns every node, parents before children.
func (p Plan) Nodes() []Node {
	var nodes []Node
	var walk func(Node)
	walk = func(n Node) {
		nodes = append(nodes, n)
		for _, c := range n.Children {
			walk(c)
		}
	}
	walk(p.Root)
	return nodes
}

// UsesIndex reports whether any node scans the index of that name, in whatever way.
func (p Plan) UsesIndex(name string) bool {
	return slices.ContainsFunc(p.Nodes(), func(n Node) bool { return n.Index == name })
}

// IndexOnly reports whether the index of that name is scanned, and always by index-only
// scans. Whether those had to visit the table all the same, [Node.HeapFetches] says.
func (p Plan) IndexOnly(name string) bool {
	return p.UsesIndex(name) && !slices.ContainsFunc(p.Nodes(), func(n Node) bool {
		return n.Index == name && n.Type != "Index Only Scan"
	})
}

// SeqScans returns the tables that are scanned sequentially, each once, sorted; those of
// nodes that were planned but never executed too.
func (p Plan) SeqScans() []string {
	var relations []string
	for _, n := range p.Nodes() {
		if n.Type == "Seq Scan" {
			relations = append(relations, n.Relation)
		}
	}
	slices.Sort(relations)
	return slices.Compact(relations)
}

// Rows is how many rows the query returned; 0 for a write without RETURNING.
func (p Plan) Rows() int64 { return int64(p.Root.Rows) }

// Buffers is how many pages executing the query touched, planning left out.
func (p Plan) Buffers() Buffers { return p.Root.Buffers }

// String returns the plan as an indented tree, for failure messages.
func (p Plan) String() string {
	var b strings.Builder
	p.Root.write(&b, "")
	fmt.Fprintf(&b, "execution %s, planning %s, buffers %d (hit %d, read %d)\n",
		p.ExecutionTime, p.PlanningTime, p.Buffers().Total(), p.Buffers().Hit, p.Buffers().Read)
	return b.String()
}

// title is what the step is.
func (n Node) title() string {
	b := &strings.Builder{}
	if n.Subplan != "" {
		b.WriteString(n.Subplan + ": ")
	}
	if n.Parallel {
		b.WriteString("Parallel ")
	}
	b.WriteString(n.Type)
	if n.Index != "" {
		b.WriteString(" using " + n.Index)
	}
	if on := n.Relation + n.Function + n.CTE; on != "" {
		b.WriteString(" on " + on)
		if n.Alias != "" && n.Alias != on {
			b.WriteString(" " + n.Alias)
		}
	}
	return b.String()
}

// condition is one of a step's, by the name that the texts here have for it.
type condition struct{ name, text string }

func (n Node) conditions() []condition {
	return slices.DeleteFunc([]condition{{"index", n.IndexCond}, {"join", n.JoinCond}, {"filter", n.Filter}},
		func(c condition) bool { return c.text == "" })
}

func (n Node) write(b *strings.Builder, indent string) {
	b.WriteString(indent + n.title())
	if n.Loops == 0 {
		b.WriteString(" (never executed)")
	} else {
		fmt.Fprintf(b, " (rows %.0f, estimated %.0f", n.Rows, n.EstimatedRows*n.Loops)
		if n.Loops > 1 {
			fmt.Fprintf(b, ", loops %.0f", n.Loops)
		}
		fmt.Fprintf(b, ", buffers %d, %s)", n.Buffers.Total(), n.Time)
	}
	for _, c := range n.conditions() {
		fmt.Fprintf(b, "\n%s    %s %s", indent, c.name, c.text)
	}
	if n.Removed > 0 {
		fmt.Fprintf(b, " removed %.0f", n.Removed)
	}
	if n.HeapFetches > 0 {
		fmt.Fprintf(b, "\n%s    heap fetches %d", indent, n.HeapFetches)
	}
	b.WriteByte('\n')
	for _, c := range n.Children {
		c.write(b, indent+"  ")
	}
}

// node is a node as EXPLAIN (FORMAT JSON) writes it. Row counts are per loop; they are
// fractions from PostgreSQL 18 on.
type node struct {
	Type        string  `json:"Node Type"`
	Parallel    bool    `json:"Parallel Aware"`
	Role        string  `json:"Parent Relationship"`
	Subplan     string  `json:"Subplan Name"`
	Relation    string  `json:"Relation Name"`
	Alias       string  `json:"Alias"`
	Index       string  `json:"Index Name"`
	Function    string  `json:"Function Name"`
	CTE         string  `json:"CTE Name"`
	IndexCond   string  `json:"Index Cond"`
	Filter      string  `json:"Filter"`
	OneTime     string  `json:"One-Time Filter"`
	JoinFilter  string  `json:"Join Filter"`
	HashCond    string  `json:"Hash Cond"`
	MergeCond   string  `json:"Merge Cond"`
	PlanRows    float64 `json:"Plan Rows"`
	Rows        float64 `json:"Actual Rows"`
	Loops       float64 `json:"Actual Loops"`
	Time        float64 `json:"Actual Total Time"`
	ByFilter    float64 `json:"Rows Removed by Filter"`
	ByRecheck   float64 `json:"Rows Removed by Index Recheck"`
	ByJoin      float64 `json:"Rows Removed by Join Filter"`
	HeapFetches int64   `json:"Heap Fetches"`
	Hit         int64   `json:"Shared Hit Blocks"`
	Read        int64   `json:"Shared Read Blocks"`
	Plans       []node  `json:"Plans"`
}

func (n node) convert() Node {
	out := Node{
		Type: n.Type, Parallel: n.Parallel, Role: n.Role, Subplan: n.Subplan,
		Relation: n.Relation, Alias: n.Alias, Index: n.Index, Function: n.Function, CTE: n.CTE,
		IndexCond: n.IndexCond,
		Filter:    join(n.Filter, n.OneTime),
		JoinCond:  join(n.HashCond, n.MergeCond, n.JoinFilter),

		EstimatedRows: n.PlanRows,
		Rows:          n.Rows * n.Loops,
		Loops:         n.Loops,
		Removed:       (n.ByFilter + n.ByRecheck + n.ByJoin) * n.Loops,
		HeapFetches:   n.HeapFetches,
		Buffers:       Buffers{Hit: n.Hit, Read: n.Read},
		Time:          milliseconds(n.Time * n.Loops),
	}
	for _, c := range n.Plans {
		out.Children = append(out.Children, c.convert())
	}
	return out
}

func join(texts ...string) string {
	return strings.Join(slices.DeleteFunc(texts, func(s string) bool { return s == "" }), " and ")
}

func milliseconds(ms float64) time.Duration {
	return time.Duration(ms * float64(time.Millisecond)).Round(time.Microsecond)
}
