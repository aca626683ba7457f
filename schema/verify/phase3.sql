-- What:  may phase 3 run, and is it complete? The checklist's queries of "Phase 3: Add Constraints & Indexes", each with
--        what it must return. The first three may be asked before phase 3, too.
-- Needs: phase 2, and the owner of the tables, who may ask the functions about anybody; reads only, so it may run on
--        production.
-- Locks: none. The format is that of helpers/verify: a name, the boxes it answers, what to expect. Which resource tables
--        there are differs between databases: query_to_xml() counts in those that exist. EXPLAIN is no query: the
--        benchmarks of this phase are in perf_test.

-- Before phase 3 --------------------------------------------------------------------------------------------------

-- name: nulls
-- box: phase-3/validate-all-null-values-fixed
-- box: success-criteria/data-quality/no-null-values-in-critical-columns
-- expect: zero
select c.table_name || '.' || w.column_name as column,
    ((xpath('//n/text()', query_to_xml(format(
        'select count(*) as n from public.%I where %s', c.table_name, format(w.is_missing, w.column_name)),
        true, true, '')))[1]::text)::bigint as null_count
from tenancy.classified_table c
join (values
    ('organizations', 'organization_type', '%I is null'),
    ('organizations', 'slug', 'coalesce(%I, '''') = '''''),
    ('resource', 'owner_organization_id', '%I is null'),
    ('resource', 'sharing_scope', '%I is null'),
    ('resource', 'audience_key', '%I is null'),
    ('conversations', 'owner_organization_id', '%I is null')
) as w (place, column_name, is_missing) on w.place in (c.table_name, c.class)
where to_regclass('public.' || c.table_name) is not null
order by 1;

-- name: hierarchy_violations
-- box: phase-3/validate-hierarchy-constraints
-- box: success-criteria/data-quality/hierarchy-correctly-structured
-- expect: none
-- Who stands in no place of the three levels, a second platform included.
select o.id, o.name, o.organization_type, o.parent_organization_id, p.organization_type as parent_type
from public.organizations o
left join public.organizations p on p.id = o.parent_organization_id
where case o.organization_type
    when 'platform' then o.parent_organization_id is null and o.id = '00000000-0000-0000-0000-000000000001'
    when 'tenant' then p.organization_type = 'platform'
    when 'organization' then p.organization_type = 'tenant'
end is not true
order by o.id;

-- name: orphans
-- box: phase-3/validate-foreign-keys
-- box: success-criteria/data-quality/all-resources-owned-by-valid-organizations
-- expect: zero
select w.table_name, w.column_name,
    ((xpath('//n/text()', query_to_xml(format(
        'select count(*) as n from public.%1$I r
         where r.%2$I is not null and not exists (select from public.organizations o where o.id = r.%2$I)',
        w.table_name, w.column_name), true, true, '')))[1]::text)::bigint as orphans
from (
    select table_name, 'owner_organization_id' as column_name
    from tenancy.classified_table
    where class = 'resource' or table_name = 'conversations'
    union all
    select 'organizations', 'parent_organization_id'
    union all
    select 'user_organizations', 'organization_id'
) as w
where to_regclass('public.' || w.table_name) is not null
order by w.table_name;

-- After it --------------------------------------------------------------------------------------------------------

-- name: hierarchy_constraints
-- box: phase-3/verify-phase-3-completion
-- expect: true
select count(*) = 2 and bool_and(convalidated)
from pg_catalog.pg_constraint
where conrelid = 'public.organizations'::regclass
  and conname in ('org_hierarchy_valid', 'fk_parent_organization');

-- name: missing_constraints
-- box: phase-3/verify-phase-3-completion
-- box: success-criteria/schema-updated/all-constraints-in-place
-- expect: none
-- A constraint that is not valid says nothing about the rows that were there before it.
select p.table_name, p.constraint_name, p.definition, coalesce(c.convalidated::text, 'missing') as valid
from tenancy.planned_constraint p
left join pg_catalog.pg_constraint c
    on c.conrelid = to_regclass('public.' || p.table_name) and c.conname = p.constraint_name
where c.convalidated is not true
order by p.table_name, p.constraint_name;

-- name: columns_that_may_be_null
-- box: success-criteria/schema-updated/all-constraints-in-place
-- expect: none
select a.attrelid::regclass as relation, a.attname as column_name
from tenancy.classified_table c
join pg_catalog.pg_attribute a on a.attrelid = to_regclass('public.' || c.table_name) and not a.attisdropped
where not a.attnotnull
  and (c.table_name = 'organizations' and a.attname in ('organization_type', 'slug')
       or c.class = 'resource' and a.attname in ('owner_organization_id', 'sharing_scope', 'audience_key')
       or c.table_name = 'conversations' and a.attname = 'owner_organization_id')
order by a.attrelid::regclass::text, a.attname;

-- name: keys_that_delete
-- box: success-criteria/schema-updated/all-constraints-in-place
-- expect: none
-- Deleting an organization must not delete what it owns. Its memberships end with it.
select conrelid::regclass as relation, conname, pg_get_constraintdef(oid) as definition
from pg_catalog.pg_constraint
where contype = 'f'
  and confrelid = 'public.organizations'::regclass
  and confdeltype <> 'r'
  and conrelid not in ('public.user_organizations'::regclass, 'tenancy.organization_mapping'::regclass)
order by conrelid::regclass::text, conname;

-- name: indexes
-- box: phase-3/verify-phase-3-completion
-- expect: info
select tablename, indexname, indexdef
from pg_catalog.pg_indexes
where schemaname = 'public' and indexname like 'idx\_%'
order by tablename, indexname;

-- name: missing_indexes
-- box: phase-3/verify-phase-3-completion
-- box: production-deployment/verify-phase-3-in-production/verify-indexes-created
-- box: success-criteria/schema-updated/all-indexes-created
-- expect: none
-- One of another shape does not serve, nor does one that a killed run left half-built. How PostgreSQL prints the name of
-- a type depends on the session's search_path.
select p.index_name, p.definition as wanted, pg_get_indexdef(i.indexrelid) as found, i.indisvalid
from tenancy.planned_index p
left join pg_catalog.pg_index i on i.indexrelid = to_regclass('public.' || quote_ident(p.index_name))
where i.indisvalid is not true
   or replace(pg_get_indexdef(i.indexrelid), 'public.', '') <> replace(p.definition, 'public.', '')
order by p.index_name;

-- name: unindexed_foreign_keys
-- box: success-criteria/schema-updated/all-indexes-created
-- expect: none
-- Deleting what such a key refers to reads the whole table.
select c.conrelid::regclass as relation, c.conname, pg_get_constraintdef(c.oid) as definition
from pg_catalog.pg_constraint c
join pg_catalog.pg_class r on r.oid = c.conrelid
where r.relnamespace = 'public'::regnamespace
  and c.contype = 'f'
  and not exists (
      select
      from pg_catalog.pg_index i
      where i.indrelid = c.conrelid
        and i.indisvalid
        and i.indpred is null
        and (i.indkey::int2[])[0:cardinality(c.conkey) - 1] = c.conkey
  )
order by c.conrelid::regclass::text, c.conname;

-- Functions -------------------------------------------------------------------------------------------------------

-- name: broken_hierarchies
-- box: phase-3/test-helper-functions
-- box: production-deployment/verify-phase-3-in-production/test-helper-functions
-- expect: none
-- get_organization_hierarchy() for each organization: from the platform down to itself, no level left out.
select o.id, o.name, h.levels
from public.organizations o
cross join lateral (
    select array_agg(level order by level) as levels, (array_agg(organization_id order by level desc))[1] as last
    from public.get_organization_hierarchy(o.id)
) as h
where o.deleted_at is null
  and (h.last = o.id and h.levels = (array[1, 2, 3])[1:array_position(
      array['platform', 'tenant', 'organization'], o.organization_type::text)]) is not true
order by o.id;

-- name: wrong_tenants
-- box: phase-3/test-helper-functions
-- box: production-deployment/verify-phase-3-in-production/test-helper-functions
-- expect: none
-- get_organization_tenant() for each organization that is live, and whose tenant is.
select o.id, o.name, o.organization_type, o.parent_organization_id, public.get_organization_tenant(o.id) as tenant_id
from public.organizations o
left join public.organizations p on p.id = o.parent_organization_id
where o.deleted_at is null
  and o.is_active
  and (o.organization_type <> 'organization' or p.deleted_at is null and p.is_active)
  and public.get_organization_tenant(o.id) is distinct from
      case o.organization_type when 'organization' then o.parent_organization_id when 'tenant' then o.id end
order by o.id;

-- name: organizations_of_a_user
-- box: phase-3/test-helper-functions
-- box: production-deployment/verify-phase-3-in-production/test-helper-functions
-- expect: some
-- Everybody sees the platform at least.
select *
from public.get_user_accessible_organizations((select id from public.users order by created_at, id limit 1));

-- name: agents_of_a_user
-- box: phase-3/test-helper-functions
-- box: production-deployment/verify-phase-3-in-production/test-helper-functions
-- expect: info
select agent_name, sharing_scope, access_reason
from public.get_accessible_agents((select id from public.users order by created_at, id limit 1), 10);

-- name: agents_shown_to_others
-- box: phase-3/test-helper-functions
-- box: production-deployment/verify-phase-3-in-production/test-helper-functions
-- box: success-criteria/schema-updated/all-functions-working
-- expect: none
-- What is private to an organization, or shared with a tenant, and offered to who does not belong there: of the first
-- thousand agents of each of the hundred users who came first.
select u.id as user_id, a.agent_id, a.agent_name, a.sharing_scope, a.owner_organization_id
from (select id from public.users order by created_at, id limit 100) as u
cross join lateral public.get_accessible_agents(u.id, 1000) as a
join public.organizations owner on owner.id = a.owner_organization_id
where a.sharing_scope <> 'platform'
  and not exists (
      select
      from public.user_organizations uo
      join public.organizations o on o.id = uo.organization_id
      where uo.user_id = u.id
        and uo.is_active
        and case a.sharing_scope
            when 'organization' then o.id = owner.id
            else case o.organization_type when 'tenant' then o.id else o.parent_organization_id end
                = case owner.organization_type when 'tenant' then owner.id else owner.parent_organization_id end
        end
  )
order by u.id, a.agent_id;

-- name: unguarded_functions
-- box: phase-3/test-helper-functions
-- expect: none
-- What reads memberships runs as its owner, and so must not look up names where the caller can put some; and who is not
-- signed in may not call it.
select p.oid::regprocedure as function, p.prosecdef, p.proconfig, has_function_privilege('anon', p.oid, 'execute') as anonymous
from (
    select signature from tenancy.api_function
    union all
    select 'public.refresh_organization_stats()'
) as w
left join pg_catalog.pg_proc p on p.oid = to_regprocedure(w.signature)
where p.prosecdef is not true
   or not coalesce(p.proconfig @> array['search_path=pg_catalog, pg_temp'], false)
   or has_function_privilege('anon', p.oid, 'execute')
order by w.signature;

-- Statistics ------------------------------------------------------------------------------------------------------
-- select public.refresh_organization_stats() makes them anew; it writes, and so is not among these queries.

-- name: statistics
-- box: phase-3/verify-materialized-view
-- expect: some
select *
from public.organization_stats
order by organization_type, organization_name;

-- name: statistics_can_be_made_anew
-- box: phase-3/verify-materialized-view
-- expect: true
-- While others read, which needs a unique index.
select c.relispopulated and exists (
    select
    from pg_catalog.pg_index i
    where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
)
from pg_catalog.pg_class c
where c.oid = 'tenancy.organization_stats'::regclass;

-- name: statistics_within_reach
-- box: phase-3/verify-materialized-view
-- expect: none
-- Row level security does not hold for a materialised view: whoever reads it reads everybody's.
select r.rolname
from pg_catalog.pg_roles r
where r.rolname in ('anon', 'authenticated', 'service_role')
  and (has_table_privilege(r.oid, 'tenancy.organization_stats', 'select')
       or has_schema_privilege(r.oid, 'tenancy', 'usage'))
order by r.rolname;

-- Use -------------------------------------------------------------------------------------------------------------

-- name: index_usage
-- box: phase-3/check-index-usage
-- expect: info
-- Of tables with a few rows PostgreSQL rightly uses none.
select schemaname, relname as tablename, indexrelname as indexname, idx_scan, idx_tup_read, idx_tup_fetch
from pg_catalog.pg_stat_user_indexes
where schemaname = 'public' and relname in ('organizations', 'agents', 'user_organizations')
order by idx_scan desc, relname, indexrelname;
