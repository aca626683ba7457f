-- What:  is phase 1 complete? The checklist's queries ("Verify Phase 1 Completion"), each with what it must return.
-- Needs: any role that may read the catalog; reads only, so it may run on production.
-- Locks: none. The format is that of helpers/verify: a name, the boxes it answers, what to expect.

-- name: missing_columns
-- box: phase-1/verify-phase-1-completion
-- expect: none
-- The checklist lists the columns it finds; this lists those it does not find, in the resource tables that exist.
with wanted (table_name, column_name, data_type) as (
    values
        ('organizations', 'parent_organization_id', 'uuid'),
        ('organizations', 'organization_type', 'organization_type'),
        ('organizations', 'slug', 'text'),
        ('organizations', 'deleted_at', 'timestamp with time zone'),
        ('conversations', 'owner_organization_id', 'uuid'),
        ('conversations', 'deleted_at', 'timestamp with time zone')
    union all
    select resource, added.column_name, added.data_type
    from unnest(array['agents', 'knowledge_documents', 'prompts', 'workflows', 'use_cases', 'capabilities']) as resource,
        (values
            ('owner_organization_id', 'uuid'),
            ('sharing_scope', 'sharing_scope_type'),
            ('deleted_at', 'timestamp with time zone')
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
-- A table whose trigger is missing or disabled loses the owner of what the old application writes.
select c.oid::regclass as table_without_trigger
from pg_catalog.pg_class c
join pg_catalog.pg_attribute tenant on tenant.attrelid = c.oid and tenant.attname = 'tenant_id'
join pg_catalog.pg_attribute owner on owner.attrelid = c.oid and owner.attname = 'owner_organization_id'
where c.relnamespace = 'public'::regnamespace
  and c.relkind = 'r'
  and not exists (
      select
      from pg_catalog.pg_trigger t
      where t.tgrelid = c.oid and t.tgname = 'keep_owner_in_step' and t.tgenabled in ('O', 'A')
  );
