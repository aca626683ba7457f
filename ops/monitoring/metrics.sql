-- What:  what Prometheus asks: functions that count, for queries.yml. They show how many, and the slugs of organizations;
--        no row of any table, no text of any query.
-- Needs: role.sql, and the owner of the tables. Undo: drop schema monitoring cascade.
-- Locks: none that matter. Runs at any phase, and stays when one is rolled back: no function depends on what phases make;
--        before there is something to count, it returns no rows.

\set ON_ERROR_STOP on

begin;
set local search_path = '';
set local lock_timeout = '2s';

create schema if not exists monitoring;
revoke all on schema monitoring from public;

-- Which phase is complete.
create or replace function monitoring.rollout() returns table (phase integer)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    phase := 0;
    if to_regclass('tenancy.completed_phase') is not null then
        select coalesce(max(c.phase), 0) into phase from tenancy.completed_phase c;
    end if;
    return next;
end
$$;

-- Each table of public: what must hold of it, and how large it is.
create or replace function monitoring.tables()
returns table (table_name text, class text, classified integer, row_security integer, policies bigint, recorded integer,
    invalid_indexes bigint, live_rows bigint, dead_rows bigint, bytes bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    classes jsonb := '{}';
begin
    if to_regclass('tenancy.classified_table') is not null then
        select coalesce(jsonb_object_agg(t.table_name, t.class), '{}') into classes from tenancy.classified_table t;
    end if;
    return query
    select
        c.relname::text,
        coalesce(classes ->> c.relname, 'none'),
        (classes ? c.relname)::integer,
        c.relrowsecurity::integer,
        (select count(*) from pg_catalog.pg_policy p where p.polrelid = c.oid),
        -- By a trigger for each of insert (4), delete (8) and update (16); the log itself is recorded by nobody.
        (coalesce(classes ->> c.relname = 'evidence', false) or (
            select bit_or(g.tgtype) & 28 = 28
            from pg_catalog.pg_trigger g
            where g.tgrelid = c.oid and g.tgfoid = to_regproc('audit.record') and g.tgenabled in ('O', 'A')
        ) is true)::integer,
        (select count(*) from pg_catalog.pg_index i where i.indrelid = c.oid and not i.indisvalid),
        coalesce(s.live, 0)::bigint,
        coalesce(s.dead, 0)::bigint,
        coalesce(s.bytes, 0)::bigint
    from pg_catalog.pg_class c
    left join lateral (
        select sum(pg_stat_get_live_tuples(t.relid)) as live, sum(pg_stat_get_dead_tuples(t.relid)) as dead,
            sum(pg_total_relation_size(t.relid)) as bytes
        from pg_partition_tree(c.oid) as t
        where t.isleaf
    ) as s on true
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'f') and not c.relispartition;
end
$$;

-- Each organization, as organization_stats counted it last.
create or replace function monitoring.organizations()
returns table (organization text, tenant text, type text, live integer, agents_private bigint, agents_tenant bigint, agents_platform bigint,
    documents bigint, conversations bigint, users bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if to_regclass('tenancy.organization_stats') is null then
        return;
    end if;
    return query
    select o.slug::text, coalesce(t.slug, '')::text, o.organization_type::text,
        (o.is_active and coalesce(t.is_active and t.deleted_at is null, true))::integer,
        s.private_agents_count, s.tenant_agents_count, s.platform_agents_count, s.knowledge_docs_count, s.conversations_count,
        s.active_users_count
    from tenancy.organization_stats s
    join public.organizations o on o.id = s.organization_id
    left join public.organizations t on t.id = o.tenant_organization_id
    where o.deleted_at is null;
end
$$;

-- How many rows of each resource table are shared with whom: by the audience key, which an index has.
create or replace function monitoring.resources() returns table (table_name text, scope text, tenant text, rows bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    target record;
begin
    if to_regclass('tenancy.organization_stats') is null then
        return;
    end if;
    for target in
        select t.table_name
        from tenancy.classified_table t
        where t.class = 'resource' and to_regclass('public.' || t.table_name) is not null
    loop
        return query execute format(
            'select %1$L, s.scope, coalesce(s.tenant, ''''), sum(s.rows)::bigint
             from (
                 select
                     case when o.id is not null then ''organization'' when t.id is not null then ''tenant'' else ''platform'' end as scope,
                     coalesce(t.slug, above.slug) as tenant,
                     r.rows
                 from (
                     select audience_key, count(*) as rows from public.%1$I where deleted_at is null group by audience_key
                 ) as r
                 left join public.organizations o on o.id = r.audience_key
                 left join public.organizations above on above.id = o.tenant_organization_id
                 left join public.organizations t on t.organization_type = ''tenant'' and authz.shared_key(t.id) = r.audience_key
             ) as s
             group by s.scope, s.tenant', target.table_name);
    end loop;
end
$$;

-- What phase 2 found nothing to say whose it is, and nobody has given to anybody since.
create or replace function monitoring.quarantine() returns table (table_name text, rows bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    target record;
begin
    if to_regproc('tenancy.quarantine_tenant_id') is null then
        return;
    end if;
    return query
    select 'organizations', count(*)
    from public.organizations o
    where o.parent_organization_id = tenancy.quarantine_tenant_id() and o.id <> tenancy.quarantine_organization_id();
    for target in
        select t.table_name
        from tenancy.classified_table t
        where (t.class = 'resource' or t.table_name = 'conversations') and to_regclass('public.' || t.table_name) is not null
    loop
        return query execute format('select %1$L, count(*) from public.%1$I where owner_organization_id = %2$L',
            target.table_name, tenancy.quarantine_organization_id());
    end loop;
end
$$;

-- How old the counts of organization_stats are.
create or replace function monitoring.statistics() returns table (name text, age_seconds double precision)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if to_regclass('tenancy.refreshed_statistics') is null then
        return;
    end if;
    return query
    select r.name, extract(epoch from clock_timestamp() - r.refreshed_at)::double precision from tenancy.refreshed_statistics r;
end
$$;

-- Whether the audit log has its months. Of the default partition's rows no more than a thousand are counted.
create or replace function monitoring.audit()
returns table (months_ahead bigint, partitions bigint, expired_partitions bigint, default_rows bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set timezone = 'UTC'
as $$
declare
    months date[];
begin
    if to_regclass('public.audit_logs') is null then
        return;
    end if;
    months := array(
        select to_date(right(c.relname, 6), 'YYYYMM')
        from pg_catalog.pg_inherits i
        join pg_catalog.pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'public.audit_logs'::regclass and c.relname ~ '^audit_logs_[0-9]{6}$'
    );
    -- From this one on, without a gap.
    months_ahead := coalesce((
        select min(n)
        from generate_series(0, cardinality(months)) as n
        where (date_trunc('month', now()) + n * interval '1 month')::date <> all (months)
    ), 0);
    partitions := cardinality(months);
    expired_partitions := (select count(*) from unnest(months) as m (month) where m.month + interval '1 month' <= now() - interval '7 years');
    default_rows := (select count(*) from (select from audit.audit_logs_default limit 1000) as d);
    return next;
end
$$;

-- What the statements of each role cost, of the hundred that cost most. Runs as who asks, who must be in pg_read_all_stats.
-- Which text a queryid stands for, the query slow_queries of monitoring.sql says.
create or replace function monitoring.statements()
returns table (queryid text, role text, calls_total bigint, seconds_total double precision, rows_total bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    -- Not preloaded, it is a view that fails.
    home constant regnamespace := (
        select e.extnamespace
        from pg_catalog.pg_extension e
        where e.extname = 'pg_stat_statements' and current_setting('shared_preload_libraries') ~ '\mpg_stat_statements\M'
    );
begin
    if home is null then
        return;
    end if;
    return query execute format(
        'select s.queryid::text, coalesce(r.rolname::text, s.userid::text), sum(s.calls)::bigint, sum(s.total_exec_time) / 1000, sum(s.rows)::bigint
         from %s.pg_stat_statements s
         left join pg_catalog.pg_roles r on r.oid = s.userid
         where s.dbid = (select d.oid from pg_catalog.pg_database d where d.datname = current_database()) and s.queryid is not null
         group by 1, 2
         order by 4 desc
         limit 100', home);
end
$$;

-- What is going on. Runs as who asks, as the one before.
create or replace function monitoring.activity()
returns table (longest_statement_seconds double precision, longest_transaction_seconds double precision, waiting bigint)
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select
        coalesce(max(extract(epoch from clock_timestamp() - a.query_start)) filter (where a.state = 'active'), 0)::double precision,
        coalesce(max(extract(epoch from clock_timestamp() - a.xact_start)), 0)::double precision,
        count(*) filter (where a.wait_event_type = 'Lock')
    from pg_catalog.pg_stat_activity a
    where a.datname = current_database() and a.backend_type = 'client backend' and a.pid <> pg_backend_pid();
end;

revoke all on all routines in schema monitoring from public;
grant usage on schema monitoring to tenancy_monitor;
grant execute on all functions in schema monitoring to tenancy_monitor;

commit;
