-- What:  phase 3, constraints. Makes what phase 2 filled binding, and brings the indexes, functions and statistics.
-- Needs: phase 2, run by the owner of the tables, outside a transaction (psql -f). Undo: the phase 3 rollback.
-- Locks: SHARE UPDATE EXCLUSIVE where rows are read, a stronger one only for an instant, never waited for longer than
--        100 ms at a time. Killed at any point and run again, it does the rest.

\set ON_ERROR_STOP on

set statement_timeout = 0;
set search_path = '';

-- Refuse what cannot work -----------------------------------------------------------------------------------------

do $$
declare
    complete boolean := false;
    culprits text;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('tenancy.migration', 0)) then
        raise exception 'another migration of this database is running'
            using hint = 'Wait until it has ended, then run this again.';
    end if;
    if to_regclass('tenancy.completed_phase') is not null then
        complete := exists (select from tenancy.completed_phase where phase = 2);
    end if;
    if not complete then
        raise exception 'phase 3 needs phase 2, which is not complete here'
            using hint = 'Run the phase 2 migration first.';
    end if;
    if exists (select from tenancy.completed_phase where phase > 3) then
        raise exception 'phase 4 is complete, and phase 3 would take back privileges that it gave'
            using hint = 'Roll phase 4 back before you run phase 3 again.';
    end if;

    select string_agg(c.oid::regclass::text, ', ' order by c.relname) into culprits
    from tenancy.classified_table t
    join pg_catalog.pg_class c on c.oid = to_regclass('public.' || t.table_name)
    where not pg_has_role(c.relowner, 'USAGE') or row_security_active(c.oid);
    if culprits is not null then
        raise exception 'phase 3 must run as the owner of the tables, whom row level security does not hold; % is not that for %',
            current_user, culprits
            using hint = 'Connect as the role that owns them.';
    end if;

    select string_agg(taken.name, ', ' order by taken.name) into culprits
    from (
        select p.oid::regprocedure::text as name
        from pg_catalog.pg_proc p
        where p.pronamespace = 'public'::regnamespace
          and (p.proname in ('get_organization_hierarchy', 'get_organization_tenant', 'get_user_accessible_organizations',
                  'can_user_access_resource', 'refresh_organization_stats', 'search_agents', 'search_knowledge_documents')
              or p.proname in (
                  select 'get_accessible_' || t.table_name from tenancy.classified_table t where t.class = 'resource'
              ))
        union all
        select c.oid::regclass::text
        from pg_catalog.pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relname in ('organization_stats', 'audit_logs')
        union all
        select 'schema audit' where to_regnamespace('audit') is not null
    ) as taken
    where to_regclass('tenancy.planned_index') is null;
    if culprits is not null then
        raise exception 'phase 3 makes objects of these names, and they are there already: %', culprits
            using hint = 'Rename them before phase 3.';
    end if;

    -- Beyond this transaction, now that nothing is refused: a refusal must not leave the lock to its session.
    perform pg_advisory_lock(hashtextextended('tenancy.migration', 0));
end
$$;

-- Phase 2's result, looked at once more, because people and programs have written since.
do $$
declare
    target record;
    found bigint;
    problems text := '';
begin
    for target in
        select w.what, w.count
        from (
            select 'organizations without a type' as what, count(*) filter (where organization_type is null) as count
            from public.organizations
            union all
            select 'organizations without a slug', count(*) filter (where coalesce(slug, '') = '') from public.organizations
            union all
            select 'platforms with a parent, or others without one',
                count(*) filter (where (organization_type = 'platform') <> (parent_organization_id is null))
            from public.organizations
            union all
            select 'platforms beyond the one', greatest(count(*) - 1, 0) from public.organizations where organization_type = 'platform'
            union all
            select 'organizations whose parent is not one level above them', count(*)
            from public.organizations o
            left join public.organizations p on p.id = o.parent_organization_id
            where o.organization_type <> 'platform'
              and p.organization_type is distinct from
                  (case o.organization_type when 'tenant' then 'platform' else 'tenant' end)::public.organization_type
            union all
            select 'slugs that two live organizations have', count(*)
            from (
                select from public.organizations where deleted_at is null group by slug having count(*) > 1
            ) as duplicate
            union all
            select 'organizations whose id stands for what another shares', count(*)
            from public.organizations
            where substr(id::text, 15, 1) = 'f'
            union all
            select 'organizations whose id is another''s but for the version of the UUID', count(*) - count(distinct authz.shared_key(id))
            from public.organizations
            union all
            select 'memberships with a role that is none of admin, member, viewer', count(*)
            from public.user_organizations
            where role is null or role not in ('admin', 'member', 'viewer')
        ) as w
        where w.count > 0
    loop
        problems := problems || format(e'\n  %s %s', target.count, target.what);
    end loop;

    for target in
        select c.table_name, c.class = 'resource' as is_resource
        from tenancy.classified_table c
        where (c.class = 'resource' or c.table_name = 'conversations') and to_regclass('public.' || c.table_name) is not null
        order by c.table_name
    loop
        execute format(
            'select count(*) from public.%I r left join public.organizations o on o.id = r.owner_organization_id
             where o.id is null', target.table_name) into found;
        if found > 0 then
            problems := problems || format(e'\n  %s rows of %s without an owner that exists', found, target.table_name);
        end if;
        if target.is_resource then
            execute format(
                'select count(*) from public.%I r join public.organizations o on o.id = r.owner_organization_id
                 where r.audience_key is null
                    or r.owner_tenant_id is distinct from o.tenant_organization_id
                    or r.audience_key is distinct from authz.audience_key(r.sharing_scope, o.id, o.tenant_organization_id)',
                target.table_name) into found;
            if found > 0 then
                problems := problems || format(e'\n  %s rows of %s without a scope, or not shared as their scope says',
                    found, target.table_name);
            end if;
        end if;
    end loop;
    if problems <> '' then
        raise exception e'the data is not ready for constraints:%', problems
            using hint = 'Run phase 2 again; what it does not mend, correct by hand. schema/verify/phase2.sql lists the rows, and says '
                'how an organization gets another id.';
    end if;
end
$$;

-- Who may do what -------------------------------------------------------------------------------------------------
-- Everything that reads memberships is SECURITY DEFINER with a pinned search_path: row level security on memberships
-- and organizations must not turn an answer into NULL. plpgsql where a policy calls it: PostgreSQL 15 plans the body of
-- an SQL function anew for each statement.

begin;
set local lock_timeout = '2s';

-- What is to be there after this phase, for the steps below and for whoever compares.
create table if not exists tenancy.planned_index (
    index_name text primary key,
    definition text not null    -- as pg_get_indexdef() prints it
);

create table if not exists tenancy.planned_constraint (
    table_name text not null,
    constraint_name text not null,
    definition text not null,
    primary key (table_name, constraint_name)
);

-- What callers may execute. Each answers about the caller only, unless the caller is privileged.
create table if not exists tenancy.api_function (
    signature text primary key  -- as regprocedure reads it
);

-- Live: not deleted, active, and below a tenant that is.
create or replace view authz.live_organization as
select o.id, o.name, o.slug, o.organization_type, o.parent_organization_id, o.tenant_organization_id
from public.organizations o
left join public.organizations t on t.id = o.tenant_organization_id
where o.deleted_at is null
  and o.is_active
  and (t.id is null or t.deleted_at is null and t.is_active);

-- The backend, the owner of the tables and superusers may ask about anybody. Inside a SECURITY DEFINER function
-- current_user is its owner: the caller is the role that was set, or else who logged in.
create or replace function authz.is_privileged() returns boolean
language sql stable parallel safe set search_path = pg_catalog, pg_temp
begin atomic
    select exists (
        select
        from pg_catalog.pg_roles r
        where r.rolname = coalesce(nullif(current_setting('role'), 'none'), session_user)
          and (r.rolbypassrls or pg_has_role(r.oid, c.relowner, 'USAGE'))
    )
    from pg_catalog.pg_class c
    where c.oid = 'public.organizations'::regclass;
end;

create or replace function authz.require_self(p_user_id uuid) returns void
language plpgsql stable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    if not coalesce(p_user_id = auth.uid(), false) and not authz.is_privileged() then
        raise exception 'p_user_id must be the calling user' using errcode = 'insufficient_privilege';
    end if;
end
$$;

create or replace function authz.organizations_of(p_user_id uuid, p_roles text[]) returns uuid[]
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select o.id
        from public.user_organizations uo
        join authz.live_organization o on o.id = uo.organization_id
        where uo.user_id = p_user_id and uo.is_active and uo.role = any (p_roles)
    );
end
$$;

create or replace function authz.member_organizations() returns uuid[]
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$ begin return authz.organizations_of(auth.uid(), '{admin,member,viewer}'); end $$;

-- The audience keys of a user: everybody's, and of each organization its own and its tenant's.
create or replace function authz.audiences_of(p_user_id uuid) returns uuid[]
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if p_user_id is null then
        return '{}'::uuid[];
    end if;
    return authz.shared_key('00000000-0000-0000-0000-000000000001') || array(
        select distinct key.value
        from public.user_organizations uo
        join authz.live_organization o on o.id = uo.organization_id
        cross join lateral (values (o.id), (authz.shared_key(o.tenant_organization_id))) as key (value)
        where uo.user_id = p_user_id and uo.is_active and key.value is not null
    );
end
$$;

-- Whose rows nobody reads, however widely they are shared. There are few, and an index has them.
create or replace function authz.suspended_organizations() returns uuid[]
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select o.id
        from public.organizations o
        where o.deleted_at is not null or o.is_active is not true
        union
        select o.id
        from public.organizations t
        join public.organizations o on o.parent_organization_id = t.id
        where (t.deleted_at is not null or t.is_active is not true) and t.organization_type = 'tenant'
    );
end
$$;

-- The organizations that a user sees: its own, their tenants and the platform.
create or replace function authz.visible_organizations_of(p_user_id uuid) returns uuid[]
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if p_user_id is null then
        return '{}'::uuid[];
    end if;
    return '00000000-0000-0000-0000-000000000001'::uuid || array(
        select distinct visible.id
        from public.user_organizations uo
        join authz.live_organization o on o.id = uo.organization_id
        cross join lateral (values (o.id), (o.tenant_organization_id)) as visible (id)
        where uo.user_id = p_user_id and uo.is_active and visible.id is not null
          and visible.id <> '00000000-0000-0000-0000-000000000001'
    );
end
$$;

-- The functions of the checklist ----------------------------------------------------------------------------------

insert into tenancy.api_function (signature)
values
    ('public.get_organization_hierarchy(uuid)'),
    ('public.get_organization_tenant(uuid)'),
    ('public.get_user_accessible_organizations(uuid)'),
    ('public.can_user_access_resource(uuid, uuid, public.sharing_scope_type)')
on conflict do nothing;

create or replace function public.get_organization_hierarchy(p_organization_id uuid)
returns table (
    organization_id uuid,
    organization_name text,
    slug text,
    organization_type public.organization_type,
    parent_organization_id uuid,
    level integer
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    -- From the platform down. There are three levels and no more, so nothing recurs.
    return query
    select o.id, o.name::text, o.slug::text, o.organization_type, o.parent_organization_id,
        array_position(enum_range(null::public.organization_type), o.organization_type)
    from public.organizations self
    left join public.organizations parent on parent.id = self.parent_organization_id
    join public.organizations o on o.id in (self.id, parent.id, parent.parent_organization_id)
    where self.id = p_organization_id
      and self.deleted_at is null
      and (authz.is_privileged() or self.id = any (authz.visible_organizations_of(auth.uid())))
    order by o.organization_type;
end
$$;

create or replace function public.get_organization_tenant(p_organization_id uuid) returns uuid
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select o.tenant_organization_id
        from authz.live_organization o
        where o.id = p_organization_id
          and (authz.is_privileged() or o.id = any (authz.visible_organizations_of(auth.uid())))
    );
end
$$;

create or replace function public.get_user_accessible_organizations(p_user_id uuid)
returns table (
    organization_id uuid,
    organization_name text,
    slug text,
    organization_type public.organization_type,
    role text,
    access_reason text
)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform authz.require_self(p_user_id);
    return query
    select o.id, o.name::text, o.slug::text, o.organization_type, uo.role::text,
        case
            when uo.role is not null then 'member'
            when o.organization_type = 'tenant' then 'tenant of an organization'
            else 'platform'
        end
    from authz.live_organization o
    left join public.user_organizations uo on uo.organization_id = o.id and uo.user_id = p_user_id and uo.is_active
    where o.id = any ((select authz.visible_organizations_of(p_user_id))::uuid[])
    order by o.organization_type, o.name, o.id;
end
$$;

create or replace function public.can_user_access_resource(
    p_user_id uuid,
    p_resource_owner_org_id uuid,
    p_resource_sharing_scope public.sharing_scope_type
) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
begin
    -- Asked of each of many rows: so the guard is not called for who asks about himself, and what authz.audiences_of() says
    -- is looked up for one owner and scope.
    if (p_user_id = auth.uid()) is not true then
        perform authz.require_self(p_user_id);
    end if;
    return p_user_id is not null and exists (
        select
        from authz.live_organization o
        where o.id = p_resource_owner_org_id
          and (p_resource_sharing_scope = 'platform' or exists (
              -- Either is below o's tenant, which is live.
              select
              from public.user_organizations uo
              join public.organizations mine on mine.id = uo.organization_id
              where uo.user_id = p_user_id
                and uo.is_active
                and mine.deleted_at is null
                and mine.is_active
                and case p_resource_sharing_scope
                    when 'organization' then mine.id = o.id
                    when 'tenant' then mine.tenant_organization_id = o.tenant_organization_id
                end
          ))
    );
end
$$;

-- Lists -----------------------------------------------------------------------------------------------------------
-- get_accessible_agents is the checklist's, and each resource table has its like. A page is the first rows of each
-- audience, which an index has in this order, merged: it costs what its rows cost, whereas LIMIT on the table itself
-- sorts all that the caller may read. The rows are looked up when it is known which they are. That plan is right for
-- whoever asks, and made once; the planner, who does not know the limit, must not find another, nor compile it.

do $$
declare
    target record;
begin
    for target in
        select t.table_name, format('public.%I', t.table_name) as relation,
            format('public.%I', 'get_accessible_' || t.table_name) as name, w.*
        from tenancy.classified_table t
        join (values
            (
                true,
                'table (
                    agent_id uuid,
                    agent_name text,
                    agent_display_name text,
                    tier public.agent_tier,
                    sharing_scope public.sharing_scope_type,
                    owner_organization_id uuid,
                    access_reason text
                )',
                $columns$r.id, r.name::text, r.display_name::text, r.tier, r.sharing_scope, r.owner_organization_id,
                    case r.sharing_scope
                        when 'platform' then 'platform-wide'
                        when 'tenant' then 'tenant-wide'
                        else 'organization-private'
                    end$columns$,
                'r.id, r.priority, r.tier, r.name',
                'r.priority desc, r.tier, r.name',
                $condition$ and r.status = 'active'$condition$
            ),
            (false, 'setof %s', 'r.*', 'r.id, r.created_at', 'r.created_at desc', '')
        ) as w (of_agents, result, columns, sorted, sort_order, condition) on w.of_agents = (t.table_name = 'agents')
        where t.class = 'resource' and to_regclass('public.' || t.table_name) is not null
    loop
        execute format(
            $function$
            create or replace function %1$s(p_user_id uuid, p_limit integer default null) returns %2$s
            language plpgsql stable security definer
            set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan set jit = off
            as $f$
            declare
                audiences uuid[];
                suspended uuid[];
            begin
                perform authz.require_self(p_user_id);
                audiences := authz.audiences_of(p_user_id);
                suspended := authz.suspended_organizations();
                if p_limit is null then
                    return query execute $all$
                        select %4$s
                        from %3$s r
                        where r.audience_key = any ($1) and r.deleted_at is null%7$s and r.owner_organization_id <> all ($2)
                        order by %6$s
                    $all$ using audiences, suspended;
                    return;
                end if;
                return query
                select %4$s
                from (
                    select r.*
                    from unnest(audiences) as audience (key)
                    cross join lateral (
                        select %5$s
                        from %3$s r
                        where r.audience_key = audience.key
                          and r.deleted_at is null%7$s
                          and r.owner_organization_id <> all (suspended)
                        order by %6$s
                        limit p_limit
                    ) as r
                    order by %6$s
                    limit p_limit
                ) as page
                cross join lateral (select r.* from %3$s r where r.id = page.id offset 0) as r
                order by %8$s;
            end
            $f$
            $function$,
            target.name, format(target.result, target.relation), target.relation, target.columns, target.sorted,
            target.sort_order, target.condition, replace(target.sort_order, 'r.', 'page.'));
        insert into tenancy.api_function (signature) values (target.name || '(uuid, integer)') on conflict do nothing;
    end loop;
end
$$;

-- Search ----------------------------------------------------------------------------------------------------------
-- Neither @> nor @@ is leakproof. Under row level security they are no index conditions but are asked of each row that
-- the caller may read; here the index of all rows is asked first, and what the caller may not read is left out. It is
-- planned for what is searched, of which there may be much or little. Only what has these columns can be searched.

-- What a document is found by: so much of it that PostgreSQL's limit of a megabyte for a tsvector never refuses one.
create or replace function authz.searchable(p_title text, p_content text) returns tsvector
language sql immutable parallel safe
return to_tsvector('pg_catalog.english', coalesce(left(p_title, 1000), '') || ' ' || coalesce(left(p_content, 100000), ''));

do $$
begin
    if exists (
        select from pg_catalog.pg_attribute a
        where a.attrelid = 'public.agents'::regclass and a.attname = 'knowledge_domains' and a.atttypid = 'text[]'::regtype
    ) then
        create or replace function public.search_agents(p_user_id uuid, p_knowledge_domains text[], p_limit integer default null)
        returns setof public.agents
        language plpgsql stable security definer
        set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off
        as $f$
        declare
            audiences uuid[];
            suspended uuid[];
        begin
            perform authz.require_self(p_user_id);
            audiences := authz.audiences_of(p_user_id);
            suspended := authz.suspended_organizations();
            return query
            select a.*
            from public.agents a
            where a.knowledge_domains @> p_knowledge_domains
              and a.deleted_at is null
              and a.status = 'active'
              and a.audience_key = any (audiences)
              and a.owner_organization_id <> all (suspended)
            order by a.priority desc, a.tier, a.name
            limit p_limit;
        end
        $f$;
        insert into tenancy.api_function (signature) values ('public.search_agents(uuid, text[], integer)') on conflict do nothing;
    end if;
    if (
        select count(*) = 2 from pg_catalog.pg_attribute a
        where a.attrelid = to_regclass('public.knowledge_documents') and a.attname in ('title', 'content')
          and a.atttypid in ('text'::regtype, 'varchar'::regtype)
    ) then
        -- The newest first: which fits best, only the words of every document found would tell. What the caller may not
        -- read is never parsed: it takes time, by which its words would tell themselves. So the index is asked only for
        -- what it knows exactly, words without negations if there is a phrase, and for the phrase what is left (`is true`:
        -- the index is not). A bitmap that does not fit into work_mem has all rows of a page parsed: this is enough for a
        -- million pages.
        create or replace function public.search_knowledge_documents(p_user_id uuid, p_query text, p_limit integer default null)
        returns setof public.knowledge_documents
        language plpgsql stable security definer
        set search_path = pg_catalog, pg_temp set plan_cache_mode = force_custom_plan set jit = off
        set work_mem = '64MB'
        as $f$
        declare
            audiences uuid[];
            suspended uuid[];
            exact tsquery;
            words tsquery;
        begin
            perform authz.require_self(p_user_id);
            if length(p_query) > 1000 then -- a megabyte of words takes seconds to be made a query of
                raise exception 'a search has at most 1000 characters, not %', length(p_query) using errcode = '22023';
            end if;
            audiences := authz.audiences_of(p_user_id);
            suspended := authz.suspended_organizations();
            exact := websearch_to_tsquery('pg_catalog.english', p_query);
            words := exact;
            if exact::text ~ '<(-|\d+)>' then -- no word has these signs; T: there are negations only
                words := nullif(regexp_replace(querytree(exact), '<(-|\d+)>', '&', 'g'), 'T')::tsquery;
            end if;
            return query
            select d.*
            from public.knowledge_documents d
            where d.deleted_at is null
              and d.audience_key = any (audiences)
              and d.owner_organization_id <> all (suspended)
              and (words is null or authz.searchable(d.title, d.content) @@ words)
              and (words = exact or (authz.searchable(d.title, d.content) @@ exact) is true)
            order by d.created_at desc
            limit p_limit;
        end
        $f$;
        insert into tenancy.api_function (signature) values ('public.search_knowledge_documents(uuid, text, integer)')
        on conflict do nothing;
    end if;
end
$$;

-- Statistics ------------------------------------------------------------------------------------------------------
-- The materialised view is where no API role gets; row level security does not hold for one. The view in front shows
-- callers their own organizations. Counts are made before they are joined: joined first, they multiply each other.

do $$
begin
    execute format(
        $view$
        create materialized view if not exists tenancy.organization_stats as
        select
            o.id as organization_id,
            o.name as organization_name,
            o.organization_type,
            coalesce(a.private, 0) as private_agents_count,
            coalesce(a.tenant, 0) as tenant_agents_count,
            coalesce(a.platform, 0) as platform_agents_count,
            coalesce(a.total, 0) as total_agents_count,
            coalesce(k.total, 0) as knowledge_docs_count,
            coalesce(c.total, 0) as conversations_count,
            coalesce(u.total, 0) as active_users_count,
            c.latest as last_conversation_at,
            a.latest as last_agent_created_at
        from public.organizations o
        left join (
            select
                owner_organization_id,
                count(*) as total,
                count(*) filter (where sharing_scope = 'organization') as private,
                count(*) filter (where sharing_scope = 'tenant') as tenant,
                count(*) filter (where sharing_scope = 'platform') as platform,
                max(created_at) as latest
            from public.agents
            where deleted_at is null
            group by owner_organization_id
        ) as a on a.owner_organization_id = o.id
        left join (
            %s
        ) as k on k.owner_organization_id = o.id
        left join (
            select owner_organization_id, count(*) as total, max(created_at) as latest
            from public.conversations
            where deleted_at is null
            group by owner_organization_id
        ) as c on c.owner_organization_id = o.id
        left join (
            select organization_id, count(*) as total
            from public.user_organizations
            where is_active
            group by organization_id
        ) as u on u.organization_id = o.id
        where o.deleted_at is null
        $view$,
        -- Not every legacy database has documents.
        case when to_regclass('public.knowledge_documents') is null then 'select null::uuid as owner_organization_id, 0::bigint as total'
            else 'select owner_organization_id, count(*) as total
                  from public.knowledge_documents
                  where deleted_at is null
                  group by owner_organization_id' end);
end
$$;

-- A materialised view does not say how old it is.
create table if not exists tenancy.refreshed_statistics (
    name text primary key,
    refreshed_at timestamptz not null
);

-- REFRESH … CONCURRENTLY needs it.
create unique index if not exists organization_stats_organization_id on tenancy.organization_stats (organization_id);

create or replace view public.organization_stats with (security_barrier) as
select s.*
from tenancy.organization_stats s
where s.organization_id = any ((select authz.member_organizations())::uuid[])
   or (select authz.is_privileged());

create or replace function public.refresh_organization_stats() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    refresh materialized view concurrently tenancy.organization_stats;
    insert into tenancy.refreshed_statistics (name, refreshed_at) values ('organization_stats', now())
    on conflict (name) do update set refreshed_at = excluded.refreshed_at;
end
$$;

-- Audit -----------------------------------------------------------------------------------------------------------
-- The table only: phase 4 writes it. It is here so that taking phase 4 back in a hurry loses no history. Partitions are
-- where no API role gets, because the parent's policies do not hold for who reads them directly; the default one
-- takes what has no month, so that a month that nobody made never blocks a write.

create schema if not exists audit;
revoke all on schema audit from public;

create table if not exists public.audit_logs (
    id bigint generated always as identity,
    created_at timestamptz not null default clock_timestamp(),
    organization_id uuid,       -- the owner of what was changed; null where it has none
    user_id uuid,               -- who was signed in; null for the backend
    actor_role text not null,   -- the role that acted
    claims jsonb,               -- what else the request's token said of the sign-in: see audit.claims() in phase 4
    action text not null check (action in ('INSERT', 'UPDATE', 'DELETE', 'SOFT_DELETE')),
    resource_type text not null,
    resource_id text,
    old_values jsonb,           -- of an update the changed columns only
    new_values jsonb,
    primary key (id, created_at)
) partition by range (created_at);

create table if not exists audit.audit_logs_default partition of public.audit_logs default;

create index if not exists idx_audit_logs_organization on public.audit_logs (organization_id, created_at desc);
-- For audit.owner_of_deleted() in phase 4.
create index if not exists idx_audit_logs_deleted_conversations on public.audit_logs (resource_id)
    where resource_type = 'conversations' and action = 'DELETE';

-- A partition for each of the months from now on, and for those that the default partition holds rows of: they move, for no
-- month may be in two places. Returns how many it made. ATTACH, unlike PARTITION OF, lets everybody go on writing.
create or replace function audit.make_partitions(p_months integer) returns integer
language plpgsql set search_path = pg_catalog, pg_temp set timezone = 'UTC' set lock_timeout = '100ms'
as $$
declare
    missing timestamptz[];
    month timestamptz;
    name text;
    made integer := 0;
begin
    missing := array(
        select m.month
        from (
            select date_trunc('month', now()) + n * interval '1 month' as month from generate_series(0, p_months - 1) as n
            union
            select date_trunc('month', d.created_at) from audit.audit_logs_default d
        ) as m
        where to_regclass('audit.audit_logs_' || to_char(m.month, 'YYYYMM')) is null
    );
    if missing <> '{}' then
        lock table audit.audit_logs_default in access exclusive mode;
    end if;
    foreach month in array missing loop
        name := 'audit_logs_' || to_char(month, 'YYYYMM');
        -- Somebody else may have made it while this waited.
        continue when to_regclass('audit.' || name) is not null;
        execute format(
            'create table audit.%1$I (like public.audit_logs including defaults including constraints);
             with moved as (delete from audit.audit_logs_default where created_at >= %2$L and created_at < %3$L returning *)
             insert into audit.%1$I select * from moved;
             alter table public.audit_logs attach partition audit.%1$I for values from (%2$L) to (%3$L)',
            name, month, month + interval '1 month');
        made := made + 1;
    end loop;
    return made;
end
$$;

-- What has been kept for long enough: seven years unless said otherwise. Detached, it is a table like any other, which nobody
-- but the owner reads, to be exported and dropped. Of a log from which rows were deleted nobody knows what it lacks.
create or replace procedure audit.detach_partitions(p_keep interval default '7 years')
language plpgsql
as $$
declare
    expired record;
begin
    -- What commits cannot have a search_path of its own, and this one ends with the first commit: pg_catalog.format, below.
    perform pg_catalog.set_config('search_path', '', true);
    if p_keep is null or p_keep < interval '1 month' then
        raise exception 'the audit log is kept for a month at least, not for %', p_keep using errcode = 'invalid_parameter_value';
    end if;
    for expired in
        select c.relname
        from pg_catalog.pg_inherits i
        join pg_catalog.pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'public.audit_logs'::regclass
          and c.relname ~ '^audit_logs_[0-9]{6}$'
          and to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month' <= (now() - p_keep) at time zone 'UTC'
        order by c.relname
    loop
        call tenancy.patiently(pg_catalog.format('alter table public.audit_logs detach partition audit.%I', expired.relname));
        raise notice 'detached audit.%', expired.relname;
    end loop;
end
$$;

do $$ begin perform audit.make_partitions(3); end $$;

-- Privileges ------------------------------------------------------------------------------------------------------
-- The default privileges have just given the API roles everything on what is new in public.

revoke all on public.audit_logs, public.organization_stats from public, anon, authenticated, service_role;
revoke all on sequence public.audit_logs_id_seq from public, anon, authenticated, service_role;
grant select on public.organization_stats to authenticated, service_role;

revoke all on all routines in schema authz, audit, tenancy from public;
-- A check constraint calls it as whoever writes the row.
grant execute on function authz.audience_key(public.sharing_scope_type, uuid, uuid), authz.shared_key(uuid)
    to anon, authenticated, service_role;
-- So does an index.
grant execute on function authz.searchable(text, text) to anon, authenticated, service_role;
-- A view reads its tables as its owner, and executes its functions as whoever reads it.
grant execute on function authz.member_organizations(), authz.is_privileged() to authenticated, service_role;

revoke all on function public.refresh_organization_stats() from public, anon, authenticated, service_role;
grant execute on function public.refresh_organization_stats() to service_role;

do $$
declare
    target record;
begin
    for target in select f.signature from tenancy.api_function f loop
        execute format('revoke all on function %s from public, anon, authenticated, service_role', target.signature);
        execute format('grant execute on function %s to authenticated, service_role', target.signature);
    end loop;
end
$$;

-- Descriptions -------------------------------------------------------------------------------------------------------
-- For docs/functions.md and docs/schema.md.

do $$
declare
    described record;
begin
    for described in
        select *
        from (values
            ('function', 'public.get_organization_hierarchy(uuid)',
                'The organization and what is above it, from the platform down. No rows where the caller does not see it: its own organizations, their tenants and the platform.'),
            ('function', 'public.get_organization_tenant(uuid)',
                'The tenant of a live organization, a tenant''s own id for itself. Null for the platform, and for what the caller does not see.'),
            ('function', 'public.get_user_accessible_organizations(uuid)',
                'The organizations that a user sees, with the role there, and why. p_user_id must be the caller, unless the backend asks: insufficient_privilege (42501) otherwise.'),
            ('function', 'public.can_user_access_resource(uuid, uuid, public.sharing_scope_type)',
                'Whether a user reads what this owner shares under this scope; false, never null. p_user_id must be the caller, unless the backend asks: insufficient_privilege (42501) otherwise.'),
            ('function', 'public.refresh_organization_stats()',
                'Counts organization_stats anew, while others read it. For a schedule.'),
            ('function', 'authz.is_privileged()',
                'Whether the caller may ask about anybody: the backend, the owner of the tables, a superuser.'),
            ('function', 'authz.require_self(uuid)',
                'Nothing, if p_user_id is the caller''s id or the caller is privileged. Error: insufficient_privilege (42501).'),
            ('function', 'authz.organizations_of(uuid, text[])',
                'The live organizations in which a user has one of these roles.'),
            ('function', 'authz.member_organizations()',
                'The live organizations that the caller is a member of, in any role.'),
            ('function', 'authz.audiences_of(uuid)',
                'The audience keys of a user: what a row must have one of, to be read. None for null.'),
            ('function', 'authz.suspended_organizations()',
                'The organizations whose rows nobody reads: deleted, not active, or below a tenant that is.'),
            ('function', 'authz.visible_organizations_of(uuid)',
                'The organizations that a user sees: its own, their tenants and the platform.'),
            ('function', 'authz.searchable(text, text)',
                'What a document is found by: the index of search_knowledge_documents() is of this.'),
            ('view', 'authz.live_organization',
                'Organizations that are active, not deleted, and below a tenant that is.'),
            ('view', 'public.organization_stats',
                'The counts of the caller''s organizations; of all, for the backend. As old as the last refresh_organization_stats().'),
            ('materialized view', 'tenancy.organization_stats',
                'The counts of all organizations, which no API role reads.'),
            ('table', 'tenancy.refreshed_statistics',
                'When the statistics were last counted.'),
            ('table', 'tenancy.planned_index',
                'The indexes that phase 3 makes, for whoever compares.'),
            ('table', 'tenancy.planned_constraint',
                'The constraints that phase 3 makes, for whoever compares.'),
            ('table', 'tenancy.api_function',
                'The functions that users may call, each about himself.'),
            ('table', 'public.audit_logs',
                'Who changed which row, when and how, in a partition for each month. Written by the database alone.'),
            ('column', 'public.audit_logs.organization_id',
                'the owner of what was changed, null where it has none'),
            ('column', 'public.audit_logs.user_id',
                'who was signed in, null for the backend'),
            ('column', 'public.audit_logs.actor_role',
                'the role that acted'),
            ('column', 'public.audit_logs.claims',
                'what else the request''s token said of the sign-in: role, issuer, audience, session, assurance'),
            ('column', 'public.audit_logs.action',
                'INSERT, UPDATE, DELETE or SOFT_DELETE'),
            ('column', 'public.audit_logs.old_values',
                'of an update the changed columns only; what an admin may not read stands there as (private)'),
            ('function', 'audit.make_partitions(integer)',
                'Makes the audit log''s partitions of so many months from now on, and of those that the default partition has rows of; returns how many. Error: lock_not_available (55P03) behind a report on the log: call it again later.'),
            ('procedure', 'audit.detach_partitions(interval)',
                'Detaches the partitions of the audit log that are older, to be exported and dropped. Commits as it goes. Error: invalid_parameter_value (22023) for less than a month.')
        ) as d (kind, identity, text)
    loop
        execute format('comment on %s %s is %L', described.kind, described.identity, described.text);
    end loop;

    for described in
        select f.signature,
            case
                when f.signature like '%get_accessible_agents%'
                    then 'The active agents that a user reads, by priority, tier and name, with the reason. '
                when f.signature like '%get_accessible_%' then 'The rows that a user reads, the newest first. '
                when f.signature like '%search_agents%' then 'The active agents that a user reads and that know all of these domains. '
                when f.signature like '%search_knowledge_documents%'
                    then 'The documents that a user reads and that match what he typed, the newest first. Error: more than 1000 '
                        'characters, invalid_parameter_value (22023). '
            end || 'With p_limit no more than that. '
            'p_user_id must be the caller, unless the backend asks: insufficient_privilege (42501) otherwise.' as text
        from tenancy.api_function f
    loop
        if described.text is not null then
            execute format('comment on function %s is %L', described.signature, described.text);
        end if;
    end loop;
end
$$;

-- Plans -----------------------------------------------------------------------------------------------------------
-- Each index as pg_get_indexdef() prints it, so that one of that name with another shape is not taken for it.

insert into tenancy.planned_index (index_name, definition)
select split_part(w.definition, ' ', case when w.definition like 'CREATE UNIQUE %' then 4 else 3 end), w.definition
from (
    select unnest(array[
        'CREATE UNIQUE INDEX idx_organizations_slug ON public.organizations USING btree (slug) WHERE (deleted_at IS NULL)',
        'CREATE UNIQUE INDEX idx_organizations_one_platform ON public.organizations USING btree ((true)) WHERE (organization_type = ''platform''::public.organization_type)',
        -- An id that somebody has chosen must not differ from another in the version alone: they would share one audience.
        'CREATE UNIQUE INDEX idx_organizations_shared_key ON public.organizations USING btree (authz.shared_key(id))',
        -- What the composite foreign keys refer to.
        'CREATE UNIQUE INDEX idx_organizations_id_type ON public.organizations USING btree (id, organization_type)',
        'CREATE UNIQUE INDEX idx_organizations_id_tenant ON public.organizations USING btree (id, tenant_organization_id)',
        'CREATE INDEX idx_organizations_parent ON public.organizations USING btree (parent_organization_id, parent_organization_type)',
        'CREATE INDEX idx_organizations_suspended ON public.organizations USING btree (id) WHERE ((deleted_at IS NOT NULL) OR (is_active IS NOT TRUE))',
        -- Lists lead with who may read them. There is none on (priority, name) alone: under a LIMIT the planner would
        -- walk it, and who sees little would read the whole table.
        'CREATE INDEX idx_agents_audience ON public.agents USING btree (audience_key, priority DESC, name) INCLUDE (owner_organization_id) WHERE (deleted_at IS NULL)',
        'CREATE INDEX idx_agents_accessible ON public.agents USING btree (audience_key, priority DESC, tier, name) INCLUDE (id, owner_organization_id) WHERE ((deleted_at IS NULL) AND (status = ''active''::public.agent_status))',
        'CREATE INDEX idx_agents_org_list ON public.agents USING btree (owner_organization_id, tier, name) INCLUDE (id, display_name, sharing_scope, audience_key) WHERE ((deleted_at IS NULL) AND (status = ''active''::public.agent_status))',
        'CREATE INDEX idx_conversations_user ON public.conversations USING btree (user_id, created_at DESC) INCLUDE (id, owner_organization_id) WHERE (deleted_at IS NULL)',
        'CREATE INDEX idx_conversations_owner ON public.conversations USING btree (owner_organization_id)',
        'CREATE INDEX idx_messages_conversation ON public.messages USING btree (conversation_id, created_at)',
        -- A code is unique within its owner. Across owners it would tell what others have.
        'CREATE UNIQUE INDEX idx_use_cases_owner_code ON public.use_cases USING btree (owner_organization_id, code) WHERE (deleted_at IS NULL)',
        'CREATE UNIQUE INDEX idx_capabilities_owner_code ON public.capabilities USING btree (owner_organization_id, code) WHERE (deleted_at IS NULL)'
    ])
    union all
    select format(i.definition, c.table_name)
    from tenancy.classified_table c
    join (values
        ('CREATE INDEX idx_%1$s_owner ON public.%1$I USING btree (owner_organization_id, owner_tenant_id)'),
        ('CREATE INDEX idx_%1$s_audience ON public.%1$I USING btree (audience_key, created_at DESC) INCLUDE (id, owner_organization_id) WHERE (deleted_at IS NULL)')
    ) as i (definition) on c.table_name <> 'agents' or i.definition not like '%audience%'
    where c.class = 'resource'
) as w (definition)
where to_regclass(split_part(split_part(w.definition, ' ON ', 2), ' ', 1)) is not null
on conflict (index_name) do update set definition = excluded.definition;

-- What is searched.
insert into tenancy.planned_index (index_name, definition)
select w.index_name, w.definition
from (
    select 'public.search_agents(uuid, text[], integer)' as signature, 'idx_agents_knowledge_domains' as index_name,
        'CREATE INDEX idx_agents_knowledge_domains ON public.agents USING gin (knowledge_domains) WHERE (deleted_at IS NULL)' as definition
    union all
    select 'public.search_knowledge_documents(uuid, text, integer)', 'idx_knowledge_documents_text', format(
        'CREATE INDEX idx_knowledge_documents_text ON public.knowledge_documents USING gin (authz.searchable(%s)) WHERE (deleted_at IS NULL)',
        string_agg(case a.atttypid when 'text'::regtype then a.attname::text else format('(%s)::text', a.attname) end, ', '
            order by a.attname desc))
    from pg_catalog.pg_attribute a
    where a.attrelid = to_regclass('public.knowledge_documents') and a.attname in ('title', 'content')
) as w
where w.signature in (select f.signature from tenancy.api_function f)
on conflict (index_name) do update set definition = excluded.definition;

-- Foreign keys of the legacy tables that no index leads with: deleting what they refer to would read the whole table.
insert into tenancy.planned_index (index_name, definition)
select i.name, format('CREATE INDEX %I ON %s USING btree (%I)', i.name, f.relation, f.column_name)
from (
    select distinct c.conrelid::regclass as relation, t.table_name, a.attname as column_name
    from pg_catalog.pg_constraint c
    join tenancy.classified_table t on to_regclass('public.' || t.table_name) = c.conrelid
    join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
    where c.contype = 'f'
      and cardinality(c.conkey) = 1
      and a.attname <> 'owner_organization_id'
      and not exists (
          select from pg_catalog.pg_index x where x.indrelid = c.conrelid and x.indkey[0] = c.conkey[1] and x.indpred is null
      )
) as f
cross join lateral (select format('idx_%s_%s', f.table_name, f.column_name) as name) as i
on conflict (index_name) do nothing;

insert into tenancy.planned_constraint (table_name, constraint_name, definition)
select c.table_name, format(w.constraint_name, c.table_name), w.definition
from tenancy.classified_table c
join (values
    ('organizations', 'org_hierarchy_valid',
        'check ((organization_type = ''platform'') = (parent_organization_id is null))'),
    ('organizations', 'organizations_parent_type_derived',
        'check (parent_organization_type is not distinct from
            (case organization_type when ''organization'' then ''tenant'' when ''tenant'' then ''platform'' end)::public.organization_type)'),
    ('organizations', 'organizations_tenant_derived',
        'check (tenant_organization_id is not distinct from
            case organization_type when ''organization'' then parent_organization_id when ''tenant'' then id end)'),
    -- Exactly three levels, no cycle, and nobody changes the type of an organization that has some below it: no row
    -- need be locked and no trigger run for that, not even when two transactions try at once.
    ('organizations', 'fk_parent_organization',
        'foreign key (parent_organization_id, parent_organization_type)
            references public.organizations (id, organization_type) on delete restrict'),
    ('organizations', 'organizations_id_is_no_shared_key',
        'check (substr(id::text, 15, 1) <> ''f'')'),
    ('organizations', 'organizations_slug_not_empty', 'check (slug <> '''')'),
    ('user_organizations', 'user_organizations_role_valid',
        'check (role in (''admin'', ''member'', ''viewer''))'),
    ('resource', 'fk_%s_owner',
        'foreign key (owner_organization_id) references public.organizations (id) on delete restrict'),
    -- Moves with the owner, in the same statement: a trigger alone would miss rows that are being written meanwhile.
    ('resource', 'fk_%s_owner_tenant',
        'foreign key (owner_organization_id, owner_tenant_id)
            references public.organizations (id, tenant_organization_id) on update cascade on delete restrict'),
    ('resource', '%s_owner_tenant_known',
        'check ((owner_tenant_id is null) = (owner_organization_id = ''00000000-0000-0000-0000-000000000001''))'),
    ('resource', '%s_audience_key_derived',
        'check (audience_key is not distinct from authz.audience_key(sharing_scope, owner_organization_id, owner_tenant_id))'),
    ('conversations', 'fk_conversations_owner',
        'foreign key (owner_organization_id) references public.organizations (id) on delete restrict')
) as w (place, constraint_name, definition) on w.place in (c.table_name, c.class)
where to_regclass('public.' || c.table_name) is not null
on conflict (table_name, constraint_name) do update set definition = excluded.definition;

do $$
declare
    culprit record;
begin
    -- A name that is taken by something of another shape, and that this phase has not made.
    for culprit in
        select p.index_name, pg_get_indexdef(c.oid) as found
        from tenancy.planned_index p
        join pg_catalog.pg_class c on c.relname = p.index_name and c.relnamespace = 'public'::regnamespace
        left join pg_catalog.pg_index i on i.indexrelid = c.oid
        where pg_get_indexdef(c.oid) is distinct from p.definition
          and not exists (
              select from tenancy.undo u
              where u.phase = 3 and u.statement = format('drop index if exists public.%I', p.index_name)
          )
    loop
        raise exception 'there is another % already: %', culprit.index_name, coalesce(culprit.found, 'not an index')
            using hint = 'Rename it, and run phase 3 again.';
    end loop;
    for culprit in
        select c.conrelid::regclass as relation, c.conname, pg_get_constraintdef(c.oid) as found
        from tenancy.planned_constraint p
        join pg_catalog.pg_constraint c
            on c.conrelid = to_regclass('public.' || p.table_name) and c.conname = p.constraint_name
        where not exists (
            select from tenancy.undo u
            where u.phase = 3
              and u.statement = format('alter table public.%I drop constraint %I', p.table_name, p.constraint_name)
        )
    loop
        raise exception 'there is another constraint % of % already: %', culprit.conname, culprit.relation, culprit.found
            using hint = 'Rename it, and run phase 3 again.';
    end loop;

    -- Said before it is done: an index that a killed run left half-built is known to be ours.
    insert into tenancy.undo (phase, statement)
    select 3, format('drop index if exists public.%I', p.index_name)
    from tenancy.planned_index p
    where to_regclass('public.' || quote_ident(p.index_name)) is null
      and not exists (
          select from tenancy.undo u
          where u.phase = 3 and u.statement = format('drop index if exists public.%I', p.index_name)
      )
    order by p.index_name;
end
$$;

commit;

-- Indexes ---------------------------------------------------------------------------------------------------------

-- Half-built, or from an earlier text of this phase.
select format('drop index concurrently public.%I', p.index_name)
from tenancy.planned_index p
join pg_catalog.pg_index i on i.indexrelid = to_regclass('public.' || quote_ident(p.index_name))
where not i.indisvalid or pg_get_indexdef(i.indexrelid) <> p.definition
order by p.index_name
\gexec

select regexp_replace(p.definition, ' INDEX ', ' INDEX CONCURRENTLY ')
from tenancy.planned_index p
where to_regclass('public.' || quote_ident(p.index_name)) is null
order by p.index_name
\gexec

-- Constraints -----------------------------------------------------------------------------------------------------
-- Added without a look at the rows, which takes an instant; then the rows are read under a lock that lets others write.

-- It would say of each check that is not there yet that it is not there yet.
set client_min_messages = warning;

do $$
declare
    step record;
begin
    -- Keys that the legacy tables have: deleting an organization must not delete what it owns. One that stands on the
    -- owner goes, because the phase brings its own. One that is not valid is left by a run that was killed here, or by a
    -- rollback that was, and is to be validated still.
    for step in
        select c.conrelid::regclass as relation, c.conname, a.attname,
            regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', '') as definition,
            c.confdeltype <> 'r' or a.attname = 'owner_organization_id' as goes
        from pg_catalog.pg_constraint c
        join tenancy.classified_table t on to_regclass('public.' || t.table_name) = c.conrelid
        join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
        where c.contype = 'f'
          and c.confrelid = 'public.organizations'::regclass
          and cardinality(c.conkey) = 1
          and t.class in ('resource', 'private')
          and c.conname not in (select p.constraint_name from tenancy.planned_constraint p)
          and (c.confdeltype <> 'r' or a.attname = 'owner_organization_id' or not c.convalidated)
    loop
        if step.goes then
            call tenancy.patiently(format(
                'insert into tenancy.undo (phase, statement)
                 select 3, w.statement
                 from unnest(array[%1$L, %2$L]) as w (statement)
                 where not exists (select from tenancy.undo u where u.phase = 3 and u.statement = w.statement);
                 alter table %3$s drop constraint %4$I%5$s',
                format('alter table %s validate constraint %I', step.relation, step.conname),
                format('alter table %s drop constraint if exists %I, add constraint %2$I %s not valid',
                    step.relation, step.conname, step.definition),
                step.relation, step.conname,
                case when step.attname <> 'owner_organization_id' then format(
                    ', add constraint %I foreign key (%I) references public.organizations (id) on delete restrict not valid',
                    step.conname, step.attname) end));
        end if;
        if step.attname <> 'owner_organization_id' then
            call tenancy.patiently(format('alter table %s validate constraint %I', step.relation, step.conname));
        end if;
    end loop;

    for step in
        select p.*, c.oid is not null as is_there
        from tenancy.planned_constraint p
        left join pg_catalog.pg_constraint c
            on c.conrelid = to_regclass('public.' || p.table_name) and c.conname = p.constraint_name
        where c.oid is null or not c.convalidated
        order by p.table_name, p.constraint_name
    loop
        if not step.is_there then
            call tenancy.patiently(format(
                'insert into tenancy.undo (phase, statement) values (3, %L); alter table public.%I add constraint %I %s not valid',
                format('alter table public.%I drop constraint %I', step.table_name, step.constraint_name),
                step.table_name, step.constraint_name, step.definition));
        end if;
        call tenancy.patiently(format('alter table public.%I validate constraint %I', step.table_name, step.constraint_name));
    end loop;

    -- A valid check lets SET NOT NULL pass without reading the table, unless one statement does that and drops the check:
    -- it drops first.
    for step in
        select c.table_name, w.column_name, format('%s_%s_filled', c.table_name, w.column_name) as check_name
        from tenancy.classified_table c
        join (values
            ('organizations', 'organization_type'),
            ('organizations', 'slug'),
            ('resource', 'owner_organization_id'),
            ('resource', 'sharing_scope'),
            ('resource', 'audience_key'),
            ('conversations', 'owner_organization_id')
        ) as w (place, column_name) on w.place in (c.table_name, c.class)
        join pg_catalog.pg_attribute a
            on a.attrelid = to_regclass('public.' || c.table_name) and a.attname = w.column_name
        where not a.attnotnull
        order by c.table_name, w.column_name
    loop
        call tenancy.patiently(format(
            'alter table public.%1$I drop constraint if exists %2$I, add constraint %2$I check (%3$I is not null) not valid',
            step.table_name, step.check_name, step.column_name));
        call tenancy.patiently(format('alter table public.%I validate constraint %I', step.table_name, step.check_name));
        call tenancy.patiently(format(
            'insert into tenancy.undo (phase, statement) values (3, %1$L);
             alter table public.%2$I alter column %3$I set not null;
             alter table public.%2$I drop constraint %4$I',
            format('alter table public.%I alter column %I drop not null', step.table_name, step.column_name),
            step.table_name, step.column_name, step.check_name));
    end loop;
end
$$;

reset client_min_messages;

-- Planner statistics for the new columns; and the counts, which an earlier run may have taken too soon.
select format('analyze public.%I', c.table_name)
from tenancy.classified_table c
where to_regclass('public.' || c.table_name) is not null
order by c.table_name
\gexec

do $$
begin
    perform public.refresh_organization_stats();
    insert into tenancy.completed_phase (phase) values (3) on conflict do nothing;
    perform pg_advisory_unlock(hashtextextended('tenancy.migration', 0));
end
$$;

reset statement_timeout;
reset search_path;
