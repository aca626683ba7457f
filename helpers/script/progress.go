package script

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Progress is how far a statement has come that says so: the backfill of phase 2, CREATE INDEX, VACUUM.
type Progress struct {
	What string // "agents", "index idx_agents_slug on agents, building index: scanning table",
	// "vacuum of agents, scanning heap"
	Unit  string // "rows", or "blocks" of 8 kB
	Done  int64
	Total int64         // an estimate; 0 if nobody has one
	Rate  float64       // per second, since this run began with it
	Left  time.Duration // 0 if nobody can tell
}

// String is "agents: 250000 of 1000000 rows, 41000 per second, 18s left".
func (p Progress) String() string {
	text := fmt.Sprintf("%s: %d", p.What, p.Done)
	if p.Total > 0 {
		text += fmt.Sprintf(" of %d", p.Total)
	}
	text += fmt.Sprintf(" %s, %.0f per second", p.Unit, p.Rate)
	if p.Left > 0 {
		text += fmt.Sprintf(", %s left", p.Left.Round(time.Second))
	}
	return text
}

const progressEvery = 500 * time.Millisecond

// progress remembers where everything began.
type progress struct {
	pid   uint32
	asked time.Time
	marks map[string]*mark
}

// mark is how far something was when it was last found not to move, and how far it is.
type mark struct {
	at         time.Time
	from, done int64
}

const progressSQL = `
	select format('%s on %s, %s', coalesce('index ' || i.relname, 'an index'), t.relname, p.phase),
		case when p.tuples_total > 0 then 'rows' else 'blocks' end,
		case when p.tuples_total > 0 then p.tuples_done else p.blocks_done end,
		case when p.tuples_total > 0 then p.tuples_total else p.blocks_total end
	from pg_catalog.pg_stat_progress_create_index p
	left join pg_catalog.pg_class t on t.oid = p.relid
	left join pg_catalog.pg_class i on i.oid = p.index_relid
	where p.pid = $1
	union all
	select format('vacuum of %s, %s', t.relname, p.phase), 'blocks', p.heap_blks_scanned, p.heap_blks_total
	from pg_catalog.pg_stat_progress_vacuum p
	left join pg_catalog.pg_class t on t.oid = p.relid
	where p.pid = $1`

// Not by to_regclass, which is an error for who may not enter the schema: nothing here may fill the server's log.
const backfillThereSQL = `
	select exists (
		select
		from pg_catalog.pg_class c
		join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where n.nspname = 'tenancy' and c.relname = 'backfill_progress' and pg_has_role(c.relowner, 'USAGE')
	)`

// Phase 2's own account. What rows_total does not say, the planner's statistics do.
const backfillSQL = `
	select p.table_name, 'rows', p.rows_changed,
		coalesce((to_jsonb(p) ->> 'rows_total')::bigint, greatest(c.reltuples, 0)::bigint, 0)
	from tenancy.backfill_progress p
	left join pg_catalog.pg_class c on c.oid = to_regclass('public.' || quote_ident(p.table_name))
	order by p.started_at`

// look returns what has come further since the last look.
func (p *progress) look(ctx context.Context, conn *pgx.Conn) ([]Progress, error) {
	now := time.Now()
	if now.Sub(p.asked) < progressEvery {
		return nil, nil
	}
	p.asked = now
	all, err := collect(ctx, conn, progressSQL, p.pid)
	if err != nil {
		return nil, err
	}
	var there bool
	if err := conn.QueryRow(ctx, backfillThereSQL).Scan(&there); err != nil {
		return nil, err
	}
	var backfill []Progress
	if there {
		backfill, err = collect(ctx, conn, backfillSQL)
	}
	if _, gone := errors.AsType[*pgconn.PgError](err); err != nil && !gone {
		return nil, err
	}
	var moved []Progress
	for _, current := range append(all, backfill...) {
		m := p.marks[current.What]
		switch {
		case m == nil, current.Done < m.done, current.Done == m.from:
			p.marks[current.What] = &mark{now, current.Done, current.Done}
			continue
		case current.Done == m.done:
			continue
		}
		m.done = current.Done
		current.Rate = float64(m.done-m.from) / now.Sub(m.at).Seconds()
		if current.Total > 0 {
			current.Total = max(current.Total, current.Done)
			current.Left = time.Duration(float64(current.Total-current.Done) / current.Rate * float64(time.Second))
		}
		moved = append(moved, current)
	}
	return moved, nil
}

func collect(ctx context.Context, conn *pgx.Conn, sql string, args ...any) ([]Progress, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Progress, err error) {
		return p, row.Scan(&p.What, &p.Unit, &p.Done, &p.Total)
	})
}
