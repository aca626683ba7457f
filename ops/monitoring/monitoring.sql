-- What:  how is the database doing? The checklist's queries of "Monitor Database Performance" and of "Optimization", with the
--        columns that there are. The figures of Prometheus are those of metrics.sql; here is what stands behind them.
-- Needs: phase 3, and tenancy_monitor or another member of pg_monitor; pg_stat_statements in the search_path, which is not
--        where it is on every server: PGOPTIONS='-c search_path=extensions'. Reads only, so it may run on production.
-- Locks: none. The format is that of helpers/verify: a name, the boxes it answers, what to expect.

-- name: slow_queries
-- box: production-deployment/monitor-database-performance
-- box: post-migration-tasks/optimization/analyze-query-patterns-after-1-week
-- expect: info
-- Times are in milliseconds, and of the statement alone: total_time, mean_time and max_time ended with PostgreSQL 12.
select s.queryid, r.rolname as role, s.query, s.calls, s.total_exec_time, s.mean_exec_time, s.max_exec_time, s.rows, s.shared_blks_read
from pg_stat_statements s
left join pg_catalog.pg_roles r on r.oid = s.userid
where s.dbid = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
  and s.query ~* 'agents|organizations|knowledge_documents|prompts|workflows|use_cases|capabilities|conversations|messages'
order by s.mean_exec_time desc
limit 20;

-- name: queries_that_cost_most
-- box: post-migration-tasks/optimization/analyze-query-patterns-after-1-week
-- expect: info
-- What is quick, and asked all the time, may be worth an index before what is slow.
select s.queryid, r.rolname as role, s.query, s.calls, s.total_exec_time, s.mean_exec_time,
    round((100 * s.total_exec_time / nullif(sum(s.total_exec_time) over (), 0))::numeric, 1) as percent
from pg_stat_statements s
left join pg_catalog.pg_roles r on r.oid = s.userid
where s.dbid = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
order by s.total_exec_time desc
limit 20;

-- name: index_use
-- box: production-deployment/monitor-database-performance
-- expect: some
select schemaname, relname as tablename, indexrelname as indexname, idx_scan, idx_tup_read, idx_tup_fetch,
    pg_size_pretty(pg_relation_size(indexrelid)) as size
from pg_catalog.pg_stat_user_indexes
where schemaname = 'public'
order by idx_scan desc, relname, indexrelname;

-- name: indexes_without_use
-- box: post-migration-tasks/optimization/add-indexes-if-needed
-- expect: info
-- Neither unique nor behind a foreign key; not used since counted_since, which may be yesterday, and on this server: a
-- replica counts for itself.
select s.relname as tablename, s.indexrelname as indexname, pg_size_pretty(pg_relation_size(s.indexrelid)) as size,
    (select d.stats_reset from pg_catalog.pg_stat_database d where d.datname = current_database()) as counted_since
from pg_catalog.pg_stat_user_indexes s
join pg_catalog.pg_index i on i.indexrelid = s.indexrelid
where s.schemaname = 'public'
  and s.idx_scan = 0
  and not i.indisunique
  and not exists (
      select from pg_catalog.pg_constraint c where c.conrelid = s.relid and c.contype = 'f' and c.conkey[1] = i.indkey[0]
  )
order by pg_relation_size(s.indexrelid) desc, s.indexrelname;

-- name: tables_read_from_end_to_end
-- box: post-migration-tasks/optimization/add-indexes-if-needed
-- box: success-criteria/performance/no-table-scans-on-large-tables
-- expect: info
select relname as tablename, seq_scan, seq_tup_read, seq_tup_read / nullif(seq_scan, 0) as rows_each_time, idx_scan, n_live_tup
from pg_catalog.pg_stat_user_tables
where schemaname = 'public' and n_live_tup > 10000 and seq_scan > 0
order by seq_tup_read desc;

-- name: indexes_that_do_not_serve
-- box: post-migration-tasks/optimization/add-indexes-if-needed
-- expect: none
-- Left by CREATE INDEX CONCURRENTLY that was killed. Drop it, and run what made it again.
select i.indrelid::regclass as table_name, i.indexrelid::regclass as index_name
from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indrelid
where c.relnamespace = 'public'::regnamespace and not i.indisvalid
order by 1, 2;

-- name: table_bloat
-- box: production-deployment/monitor-database-performance
-- expect: some
-- A size alone does not tell bloat: the rows that are dead do, and when vacuum was there. pgstattuple measures what these
-- estimate.
select
    s.schemaname,
    s.relname as tablename,
    pg_size_pretty(pg_total_relation_size(s.relid)) as size,
    pg_size_pretty(pg_table_size(s.relid)) as table_size,
    pg_size_pretty(pg_indexes_size(s.relid)) as index_size,
    s.n_live_tup,
    s.n_dead_tup,
    round(100.0 * s.n_dead_tup / nullif(s.n_live_tup + s.n_dead_tup, 0), 1) as dead_percent,
    greatest(s.last_vacuum, s.last_autovacuum) as last_vacuum,
    greatest(s.last_analyze, s.last_autoanalyze) as last_analyze
from pg_catalog.pg_stat_user_tables s
where s.schemaname in ('public', 'audit')
order by pg_total_relation_size(s.relid) desc, s.relname;

-- name: who_waits_for_whom
-- box: production-deployment/monitor-application-metrics
-- expect: info
select a.pid, a.usename, now() - a.query_start as since, pg_blocking_pids(a.pid) as blocked_by, a.query
from pg_catalog.pg_stat_activity a
where a.datname = current_database() and cardinality(pg_blocking_pids(a.pid)) > 0
order by a.query_start;
