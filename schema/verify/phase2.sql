-- What:  is phase 2 complete, and is what it made of the data right? The checklist's queries of "Phase 2: Backfill Data",
--        each with what it must return. The first three may be asked before phase 2, too.
-- Needs: phase 1, and a role that may enter schema tenancy and is not held by row level security, as the owner of the
--        tables; reads only, so it may run on production.
-- Locks: none. The format is that of helpers/verify: a name, the boxes it answers, what to expect. Which resource tables
--        there are differs between databases: query_to_xml() counts in those that exist.

-- Before phase 2 --------------------------------------------------------------------------------------------------

-- name: organizations_without_a_name
-- box: phase-2/verify-data-quality
-- expect: info
-- Such an organization gets a slug from its id: give it a name before phase 2 if there is one.
select id, tenant_type, tenant_key, created_at
from public.organizations
where coalesce(trim(name), '') = ''
order by created_at, id;

-- name: rows_without_an_organization
-- box: phase-2/verify-data-quality
-- expect: info
-- The checklist asks for owner_organization_id, which before phase 2 is NULL in every row; what matters is that neither
-- column names an organization that exists. Phase 2 goes by who made such a row, or puts it into quarantine. After phase
-- 2 there is none (dangling_owners). A table is read once: there is one anti-join for each of the columns that it has.
select
    c.table_name,
    ((xpath('//n/text()', query_to_xml(format(
        'select count(*) as n from public.%I r where true%s',
        c.table_name,
        (
            select string_agg(format(' and not exists (select from public.organizations o where o.id = r.%I)', a.attname), '')
            from pg_catalog.pg_attribute a
            where a.attrelid = to_regclass('public.' || c.table_name)
              and a.attname in ('owner_organization_id', 'tenant_id')
              and not a.attisdropped
        )), true, true, '')))[1]::text)::bigint as rows
from tenancy.classified_table c
where (c.class = 'resource' or c.table_name = 'conversations') and to_regclass('public.' || c.table_name) is not null
order by c.table_name;

-- name: tenant_types
-- box: phase-2/review-current-tenant-type-distribution
-- expect: info
-- Two types name a tenant (tenancy.legacy_tenant), and companies carry them, too: keys tells them apart.
select tenant_type, count(*) as organizations, array_agg(distinct tenant_key) as keys
from public.organizations
group by tenant_type
order by tenant_type;

-- After it --------------------------------------------------------------------------------------------------------

-- name: hierarchy
-- box: phase-2/verify-phase-2-completion
-- box: production-deployment/verify-phase-2-in-production/hierarchy-looks-correct
-- expect: info
select o.id, o.name, o.slug, o.organization_type, p.name as parent_name
from public.organizations o
left join public.organizations p on o.parent_organization_id = p.id
order by
    case o.organization_type when 'platform' then 1 when 'tenant' then 2 when 'organization' then 3 end,
    o.name,
    o.id;

-- name: scopes
-- box: phase-2/verify-phase-2-completion
-- expect: info
select
    c.table_name,
    s.scope as sharing_scope,
    ((xpath('//n/text()', query_to_xml(format(
        'select count(*) as n from public.%I where sharing_scope is not distinct from %L',
        c.table_name, s.scope), true, true, '')))[1]::text)::bigint as rows
from tenancy.classified_table c,
    unnest(array['platform', 'tenant', 'organization', null]) with ordinality as s (scope, position)
where c.class = 'resource' and to_regclass('public.' || c.table_name) is not null
order by c.table_name, s.position;

-- name: nulls_in_rows
-- box: phase-2/verify-phase-2-completion
-- box: production-deployment/verify-phase-2-in-production/no-null-values-remain
-- box: success-criteria/data-quality/no-null-values-in-critical-columns
-- expect: zero
select
    c.table_name,
    ((xpath('//n/text()', query_to_xml(format(
        'select count(*) as n from public.%I where owner_organization_id is null%s',
        c.table_name,
        case c.class when 'resource' then ' or sharing_scope is null or audience_key is null' end),
        true, true, '')))[1]::text)::bigint as rows
from tenancy.classified_table c
where (c.class = 'resource' or c.table_name = 'conversations') and to_regclass('public.' || c.table_name) is not null
order by c.table_name;

-- name: nulls_in_organizations
-- box: phase-2/verify-phase-2-completion
-- box: production-deployment/verify-phase-2-in-production/no-null-values-remain
-- box: success-criteria/data-quality/no-null-values-in-critical-columns
-- expect: none
select id, name, organization_type, slug, parent_organization_id
from public.organizations
where organization_type is null
   or coalesce(slug, '') = ''
   or parent_organization_id is null and organization_type <> 'platform'
order by id;

-- name: agents_by_organization
-- box: phase-2/run-verification-queries
-- box: production-deployment/verify-phase-2-in-production/verify-data-backfill
-- expect: info
select o.name as organization, o.organization_type, a.sharing_scope, count(*) as agent_count
from public.agents a
join public.organizations o on a.owner_organization_id = o.id
group by o.id, o.name, o.organization_type, a.sharing_scope
order by o.organization_type, o.name, o.id, a.sharing_scope;

-- name: duplicate_slugs
-- box: phase-2/run-verification-queries
-- expect: none
-- A deleted organization does not keep others from its slug.
select slug, count(*) as organizations, array_agg(id order by id) as ids
from public.organizations
where deleted_at is null
group by slug
having count(*) > 1
order by slug;

-- name: platform_organization
-- box: phase-2/verify-platform-organization
-- expect: true
-- One row, and no second platform under another id.
select count(*) = 1 and bool_and(id = '00000000-0000-0000-0000-000000000001' and parent_organization_id is null)
from public.organizations
where organization_type = 'platform';

-- name: tenant_organizations
-- box: phase-2/verify-tenant-organizations
-- expect: some
select id, name, slug, organization_type, parent_organization_id, is_active
from public.organizations
where organization_type = 'tenant' and id <> '00000000-0000-0000-0000-000000000002'
order by name, id;

-- name: tenants_not_below_the_platform
-- box: phase-2/verify-tenant-organizations
-- box: success-criteria/data-quality/hierarchy-correctly-structured
-- expect: none
select id, name, slug, parent_organization_id
from public.organizations
where organization_type = 'tenant' and parent_organization_id is distinct from '00000000-0000-0000-0000-000000000001'
order by name, id;

-- name: child_organizations
-- box: phase-2/verify-child-organizations
-- expect: info
select o.id, o.name, o.slug, o.organization_type, p.name as parent_name, p.organization_type as parent_type
from public.organizations o
join public.organizations p on o.parent_organization_id = p.id
where o.organization_type = 'organization'
order by p.name, o.name, o.id;

-- name: children_whose_parent_is_no_tenant
-- box: phase-2/verify-child-organizations
-- box: success-criteria/data-quality/hierarchy-correctly-structured
-- expect: none
-- The checklist's inner join would not show a child whose parent is missing.
select o.id, o.name, o.parent_organization_id, p.name as parent_name, p.organization_type as parent_type
from public.organizations o
left join public.organizations p on o.parent_organization_id = p.id
where o.organization_type = 'organization' and p.organization_type is distinct from 'tenant'
order by o.name, o.id;

-- name: dangling_owners
-- box: success-criteria/data-quality/all-resources-owned-by-valid-organizations
-- expect: zero
select
    c.table_name,
    ((xpath('//n/text()', query_to_xml(format(
        'select count(*) as n from public.%I r
         where r.owner_organization_id is not null
           and not exists (select from public.organizations o where o.id = r.owner_organization_id)',
        c.table_name), true, true, '')))[1]::text)::bigint as rows
from tenancy.classified_table c
where (c.class = 'resource' or c.table_name = 'conversations') and to_regclass('public.' || c.table_name) is not null
order by c.table_name;

-- name: derived_columns
-- box: success-criteria/data-quality/sharing-scopes-correctly-assigned
-- expect: zero
-- owner_tenant_id and audience_key are who may read a row; computed here from its owner and scope once more, by hand.
select
    c.table_name,
    ((xpath('//n/text()', query_to_xml(format(
        'select count(*) as n from public.%I r
         join public.organizations o on o.id = r.owner_organization_id
         where r.owner_tenant_id is distinct from
                 case o.organization_type when ''organization'' then o.parent_organization_id when ''tenant'' then o.id end
            or r.audience_key is distinct from
                 case r.sharing_scope
                     when ''organization'' then o.id
                     when ''tenant'' then overlay(r.owner_tenant_id::text placing ''f'' from 15 for 1)::uuid
                     when ''platform'' then ''00000000-0000-f000-0000-000000000001''
                 end',
        c.table_name), true, true, '')))[1]::text)::bigint as rows
from tenancy.classified_table c
where c.class = 'resource' and to_regclass('public.' || c.table_name) is not null
order by c.table_name;

-- name: ids_of_what_is_shared
-- box: phase-2/run-verification-queries
-- expect: none
-- What an organization shares is found by its id with an f in the place of the UUID's version. Nobody's id may be that; and
-- of ids that differ in the version alone, each would read what the other shares. Such an id was chosen: give one of them
-- another, call tenancy.move_organization('its id', 'a new one'), as the owner, and run phase 2 again for its rows.
select shared_key, array_agg(id order by id) as ids, array_agg(name order by id) as names
from (
    select id, name, overlay(id::text placing 'f' from 15 for 1)::uuid as shared_key from public.organizations
) as o
group by shared_key
having count(*) > 1 or bool_or(id = shared_key)
order by shared_key;

-- What somebody should look at ------------------------------------------------------------------------------------

-- name: organizations_in_quarantine
-- box: phase-2/if-data-looks-incorrect-document-issues
-- expect: info
-- Nothing says which tenant these belong to. Say it in tenancy.organization_mapping, and run phase 2 again.
select id, name, slug, tenant_type, tenant_key, settings
from public.organizations
where parent_organization_id = '00000000-0000-0000-0000-000000000002' and id <> '00000000-0000-0000-0000-000000000003'
order by name, id;

-- name: rows_in_quarantine
-- box: phase-2/if-data-looks-incorrect-document-issues
-- expect: info
-- Nothing says whose these are: only service_role sees them. Set owner_organization_id, and they are at home.
select
    c.table_name,
    ((xpath('//n/text()', query_to_xml(format(
        'select count(*) as n from public.%I where owner_organization_id = ''00000000-0000-0000-0000-000000000003''',
        c.table_name), true, true, '')))[1]::text)::bigint as rows
from tenancy.classified_table c
where (c.class = 'resource' or c.table_name = 'conversations') and to_regclass('public.' || c.table_name) is not null
order by c.table_name;

-- name: private_rows_of_the_platform
-- box: phase-2/if-data-looks-incorrect-document-issues
-- expect: info
-- Not shown to everybody before, and so to the platform's own members only. Share them if they are meant for all.
select
    c.table_name,
    ((xpath('//n/text()', query_to_xml(format(
        'select count(*) as n from public.%I
         where owner_organization_id = ''00000000-0000-0000-0000-000000000001'' and sharing_scope = ''organization''',
        c.table_name), true, true, '')))[1]::text)::bigint as rows
from tenancy.classified_table c
where c.class = 'resource' and to_regclass('public.' || c.table_name) is not null
order by c.table_name;
