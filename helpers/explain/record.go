package explain

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Recorder is a session whose plans are kept: of what it sends, by whatever protocol, prepared or not, and of what
// functions and triggers execute for it. EXPLAIN shows a function as one step, and plans a statement anew.
type Recorder struct {
	*pgx.Conn
	heard []string
}

// The module is PostgreSQL's own; times would cost more than what they measure.
const recording = `
	load 'auto_explain';
	set auto_explain.log_min_duration = 0;
	set auto_explain.log_nested_statements = on;
	set auto_explain.log_analyze = on;
	set auto_explain.log_buffers = on;
	set auto_explain.log_timing = off;
	set auto_explain.log_format = json;
	set auto_explain.log_level = notice;
	set client_min_messages = notice`

// Record opens a session as a superuser, who may load auto_explain, and may become any other role in it.
func Record(ctx context.Context, cfg *pgx.ConnConfig) (*Recorder, error) {
	r := &Recorder{}
	cfg = cfg.Copy()
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if _, text, ok := strings.Cut(n.Message, "plan:\n"); ok && strings.HasPrefix(n.Message, "duration: ") {
			r.heard = append(r.heard, text)
		}
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, recording, pgx.QueryExecModeSimpleProtocol); err != nil {
		return nil, fmt.Errorf("record plans: %w (it takes a superuser, and PostgreSQL's contrib modules on the server)", err)
	}
	r.Conn = conn
	return r, nil
}

// Take returns the plans of what was executed since it was last asked, in the order in which it ended: what a function
// executes stands before the statement that called it.
func (r *Recorder) Take(ctx context.Context) ([]Plan, error) {
	// A statement of the extended protocol ends when the next one takes its place.
	if _, err := r.Exec(ctx, "show client_min_messages", pgx.QueryExecModeSimpleProtocol); err != nil {
		return nil, fmt.Errorf("end the last statement: %w", err)
	}
	var plans []Plan
	for _, text := range r.heard {
		var out explained
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			return nil, fmt.Errorf("read a plan that the server recorded: %w\n%s", err, text)
		}
		plans = append(plans, out.convert())
	}
	r.heard = nil
	return plans, nil
}

// value is what a condition compares with: a constant, a parameter, or what a subquery returned, by the names that older and
// newer versions have for it.
var value = regexp.MustCompile(`(?:'(?:[^']|'')*'|\$\d+|\((?:InitPlan|SubPlan) \d+\)\.col\d+)` +
	`(?:::(?:character varying|timestamp with(?:out)? time zone|[\w.]+)(?:\[\])?)?`)

// subplan is the name that a version has for a subquery.
var subplan = regexp.MustCompile(`^(InitPlan|SubPlan) .*`)

// Shape is the plan without what is different each time, or on each machine: its steps, their relations, indexes and
// conditions, with ? for values.
func (p Plan) Shape() string {
	var b strings.Builder
	p.Root.shape(&b, "")
	return b.String()
}

func (n Node) shape(b *strings.Builder, indent string) {
	n.Subplan = subplan.ReplaceAllString(n.Subplan, "$1")
	b.WriteString(indent + n.title() + "\n")
	for _, detail := range n.conditions() {
		fmt.Fprintf(b, "%s    %s %s\n", indent, detail.name, value.ReplaceAllString(detail.text, "?"))
	}
	for _, c := range n.Children {
		c.shape(b, indent+"  ")
	}
}
