-- What:  is phase 1 complete? The checklist's queries ("Verify Phase 1 Completion"), each with what it must return.
-- Needs: any role that may read the catalog; reads only, so it may run on production.
-- Locks: none. The format is that of helpers/verify: a name, the boxes it answers, what to expect.

-- name: missing_columns
-- box: phase-1/verify-phase-1-completion
-- expect: none
-- The checklist lists the columns it finds; this lists those it does not find, in the resource tables that exist, and
-- the derived ones that the checklist does not know.
with wanted (table_name, column_name, data_type) as (
    values
        ('organizations', 'parent_organization_id', 'uuid'),
        ('organizations', 'organization_type', 'organization_type'),
        ('organizations', 'slug', 'text'),
        ('organizations', 'deleted_at', 'timestamp with time zone'),
        ('organizations', 'parent_organization_type', 'organization_type'),
        ('organizations', 'tenant_organization_id', 'uuid'),
        ('conversations', 'owner_organization_id', 'uuid'),
        ('conversations', 'deleted_at', 'timestamp with time zone')
    union all
    select resource, added.column_name, added.data_type
    from unnest(array['agents', 'knowledge_documents', 'prompts', 'workflows', 'use_cases', 'capabilities']) as resource,
        (values
            ('owner_organization_id', 'uuid'),
            ('sharing_scope', 'sharing_scope_type'),
            ('deleted_at', 'timestamp with time zone'),
            ('owner_tenant_id', 'uuid'),
            ('audience_key', 'uuid')
        ) as added (column_name, data_type)
    where to_regclass('public.' || resource) is not null
)
select w.table_name, w.column_name, w.data_type as wanted, c.data_type as found
from wanted w
left join information_schema.columns c
    on c.table_schema = 'public' and c.table_name = w.table_name and c.column_name = w.column_name
where w.data_type is distinct from case
    when c.data_type = 'USER-DEFINED' then c.udt_name::text
    when c.data_type = 'character varying' then 'text'
    else c.data_type::text
end
order by w.table_name, w.column_name;

-- name: enums
-- box: phase-1/verify-phase-1-completion
-- expect: true
select count(*) = 2
from pg_catalog.pg_type
where typnamespace = 'public'::regnamespace
  and typname in ('organization_type', 'sharing_scope_type')
  and typtype = 'e';

-- name: tables_out_of_step
-- box: production-deployment/verify-phase-1-in-production/run-verification-queries
-- expect: none
-- A table without its triggers loses the owner, the scope or the readers of what the old application writes.
with wanted (table_name, trigger_name) as (
    values
        ('organizations', 'set_tenant'),
        ('conversations', 'keep_owner_in_step')
    union all
    select resource, trigger_name
    from unnest(array['agents', 'knowledge_documents', 'prompts', 'workflows', 'use_cases', 'capabilities']) as resource,
        unnest(array['keep_owner_in_step', 'keep_scope_in_step', 'set_audience']) as trigger_name
)
select w.table_name, w.trigger_name as trigger_that_does_not_fire
from wanted w
join pg_catalog.pg_class c on c.oid = to_regclass('public.' || w.table_name)
where (w.trigger_name <> 'keep_owner_in_step' or exists (
        select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
    ))
  -- From phase 4 on a flag shares nothing, and the guard is there instead.
  and (w.trigger_name <> 'keep_scope_in_step' or not exists (
        select from pg_catalog.pg_trigger t where t.tgrelid = c.oid and t.tgname = 'guard'
    ))
  and not exists (
      select
      from pg_catalog.pg_trigger t
      join pg_catalog.pg_proc f on f.oid = t.tgfoid
      join pg_catalog.pg_namespace n on n.oid = f.pronamespace
      where t.tgrelid = c.oid
        and t.tgname = w.trigger_name
        and (n.nspname, f.proname) = ('tenancy', w.trigger_name)
        and t.tgtype = 1 + 2 + 4 + 16 -- for each row, before, insert or update
        and t.tgenabled in ('O', 'A')
  )
order by w.table_name, w.trigger_name;
