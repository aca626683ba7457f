-- (class, object, operator, statement, definition) of every mistake that one statement makes in the catalog. definition
-- tells whether the object is as it was a phase before. Runs with an empty search_path.
with
relation as (
    select c.oid, c.relname, c.relkind, c.relacl, c.relowner, c.relrowsecurity, c.reloptions, c.oid::regclass::text as name
    from pg_catalog.pg_class c
    where c.relnamespace::regnamespace::text in ('public', 'tenancy', 'authz', 'audit') and c.relkind in ('r', 'p', 'v', 'm')
      and not c.relispartition
),
routine as (
    select p.oid, p.proacl, p.proowner, p.prosecdef, p.proconfig, p.prokind, p.oid::regprocedure::text as name,
        p.provolatile, p.proparallel, pg_get_functiondef(p.oid) as definition,
        case p.prokind when 'p' then 'procedure' else 'function' end as kind
    from pg_catalog.pg_proc p
    where p.pronamespace::regnamespace::text in ('public', 'tenancy', 'authz', 'audit') and p.prokind in ('f', 'p')
      and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
),
policy as (
    select format('%I on %s', p.polname, p.polrelid::regclass) as name, p.*, p.polrelid::regclass::text as relation,
        pg_get_expr(p.polqual, p.polrelid) as visible, pg_get_expr(p.polwithcheck, p.polrelid) as checking
    from pg_catalog.pg_policy p
),
api (role) as (values ('anon'), ('authenticated'), ('service_role')),
mistake (class, object, operator, statement, definition) as (
    select 'row level security', r.name, 'disable', format('alter table %s disable row level security', r.name), ''
    from relation r where r.relrowsecurity

    -- Policies.
    union all
    select 'policy', name, 'drop', format('drop policy %I on %s', polname, relation), visible || checking from policy
    union all
    select 'policy', name, 'USING true', format('alter policy %I on %s using (true)', polname, relation), visible
    from policy where visible is not null
    union all
    select 'policy', name, 'WITH CHECK true', format('alter policy %I on %s with check (true)', polname, relation), checking
    from policy where checking is not null
    union all
    select 'policy', name, 'to everybody', format('alter policy %I on %s to public', polname, relation), '' from policy
    union all
    select 'policy', name, 'to nobody', format('alter policy %I on %s to service_role', polname, relation), '' from policy
    union all
    select 'policy', name, 'restrictive', format('drop policy %1$I on %2$s; create policy %1$I on %2$s as restrictive for %3$s to authenticated%4$s%5$s',
        polname, relation, case polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
        ' using (' || visible || ')', ' with check (' || checking || ')'), '' from policy
    union all
    select 'policy', name, 'for all commands', format('drop policy %1$I on %2$s; create policy %1$I on %2$s for all to authenticated using (%3$s)%4$s',
        polname, relation, coalesce(visible, checking), ' with check (' || checking || ')'), '' from policy where polcmd <> '*'

    -- Functions.
    union all
    select 'function', name, 'security invoker', format('alter %s %s security invoker', kind, name), definition from routine where prosecdef
    union all
    select 'function', name, 'security definer', format('alter %s %s security definer', kind, name), definition from routine where not prosecdef
    union all
    select 'function', name, 'reset ' || split_part(setting, '=', 1),
        format('alter %s %s reset %s', kind, name, split_part(setting, '=', 1)), definition
    from routine, unnest(proconfig) as setting
    union all
    select 'function', name, 'volatile', format('alter function %s volatile', name), definition
    from routine where provolatile <> 'v' and kind = 'function'
    union all
    select 'function', name, 'parallel ' || other, format('alter function %s parallel %s', name, other), definition
    from routine, (values ('s', 'unsafe'), ('u', 'safe')) as t (now, other) where t.now = proparallel and kind = 'function'

    -- Triggers.
    union all
    select 'trigger', format('%I on %s', t.tgname, t.tgrelid::regclass), o.operator,
        format(o.statement, t.tgname, t.tgrelid::regclass), pg_get_triggerdef(t.oid)
    from pg_catalog.pg_trigger t
    cross join (values ('drop', 'drop trigger %I on %s'), ('disable', 'alter table %2$s disable trigger %1$I')) as o (operator, statement)
    where not t.tgisinternal and t.tgparentid = 0

    -- Constraints and indexes.
    union all
    select 'constraint', format('%I on %s', c.conname, c.conrelid::regclass), 'drop',
        format('alter table %s drop constraint %I cascade', c.conrelid::regclass, c.conname), pg_get_constraintdef(c.oid)
    from pg_catalog.pg_constraint c join relation r on r.oid = c.conrelid
    where c.conparentid = 0 and c.contype in ('c', 'f', 'u', 'x', 'p')
    union all
    select 'constraint', format('%I on %s', c.conname, c.conrelid::regclass), o.operator,
        format('alter table %1$s drop constraint %2$I, add constraint %2$I %3$s %4$s', c.conrelid::regclass, c.conname,
            regexp_replace(pg_get_constraintdef(c.oid), ' ON DELETE (RESTRICT|CASCADE|SET NULL|NO ACTION)| NOT VALID', '', 'g'), o.action),
        pg_get_constraintdef(c.oid)
    from pg_catalog.pg_constraint c join relation r on r.oid = c.conrelid
    cross join (values ('cascade deletions', 'on delete cascade', 'c'), ('set null on deletion', 'on delete set null', 'n'), ('no action on deletion', 'on delete no action', 'a')) as o (operator, action, type)
    where c.contype = 'f' and c.confdeltype::text <> o.type and c.conparentid = 0
    union all
    select 'constraint', format('%I on %s', c.conname, c.conrelid::regclass), 'not valid',
        format('alter table %1$s drop constraint %2$I, add constraint %2$I %3$s not valid', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid)),
        pg_get_constraintdef(c.oid)
    from pg_catalog.pg_constraint c join relation r on r.oid = c.conrelid
    where c.contype in ('c', 'f') and c.conparentid = 0 and c.convalidated
    union all
    select 'index', i.indexrelid::regclass::text, 'drop', format('drop index %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid)
    from pg_catalog.pg_index i join relation r on r.oid = i.indrelid
    where not exists (select from pg_catalog.pg_constraint c where c.conindid = i.indexrelid)
    union all
    select 'index', i.indexrelid::regclass::text, 'not unique',
        format('drop index %s; %s', i.indexrelid::regclass, replace(pg_get_indexdef(i.indexrelid), 'CREATE UNIQUE', 'CREATE')), pg_get_indexdef(i.indexrelid)
    from pg_catalog.pg_index i join relation r on r.oid = i.indrelid
    where i.indisunique and not exists (select from pg_catalog.pg_constraint c where c.conindid = i.indexrelid)
    union all
    select 'index', i.indexrelid::regclass::text, 'of all rows',
        format('drop index %s; %s', i.indexrelid::regclass, regexp_replace(pg_get_indexdef(i.indexrelid), ' WHERE .*$', '')), pg_get_indexdef(i.indexrelid)
    from pg_catalog.pg_index i join relation r on r.oid = i.indrelid
    where i.indpred is not null

    -- Columns.
    union all
    select 'column', format('%I of %s', a.attname, r.name), 'drop not null', format('alter table %s alter column %I drop not null', r.name, a.attname), ''
    from relation r join pg_catalog.pg_attribute a on a.attrelid = r.oid
    where a.attnotnull and a.attnum > 0 and not a.attisdropped and a.attidentity = '' and r.relkind in ('r', 'p')
      and not exists (select from pg_catalog.pg_index i where i.indrelid = r.oid and i.indisprimary and a.attnum = any (i.indkey))
    union all
    select 'column', format('%I of %s', a.attname, r.name), 'drop default', format('alter table %s alter column %I drop default', r.name, a.attname),
        pg_get_expr(d.adbin, d.adrelid)
    from relation r join pg_catalog.pg_attribute a on a.attrelid = r.oid
    join pg_catalog.pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
    where a.attgenerated = '' and r.relkind in ('r', 'p')
    union all
    select 'column', format('%I of %s', a.attname, r.name), 'drop expression', format('alter table %s alter column %I drop expression', r.name, a.attname),
        pg_get_expr(d.adbin, d.adrelid)
    from relation r join pg_catalog.pg_attribute a on a.attrelid = r.oid
    join pg_catalog.pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
    where a.attgenerated <> ''

    -- Privileges.
    union all
    select 'privilege', format('%s on %s', x.grantee::regrole, r.name), 'revoke ' || x.privilege_type,
        format('revoke %s on %s from %s', x.privilege_type, r.name, x.grantee::regrole), ''
    from relation r cross join aclexplode(r.relacl) as x join api on api.role = x.grantee::regrole::text
    where x.grantee <> r.relowner
    union all
    select 'privilege', format('%s on %s of %s', x.grantee::regrole, a.attname, r.name), 'revoke ' || x.privilege_type,
        format('revoke %s (%I) on %s from %s', x.privilege_type, a.attname, r.name, x.grantee::regrole), ''
    from relation r join pg_catalog.pg_attribute a on a.attrelid = r.oid
    cross join aclexplode(a.attacl) as x join api on api.role = x.grantee::regrole::text
    union all
    select 'privilege', format('%s on %s', api.role, r.name), 'grant ' || g.privilege, format('grant %s on %s to %s', g.privilege, r.name, api.role), ''
    from relation r cross join api
    cross join (values ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE')) as g (privilege)
    where not has_table_privilege(api.role, r.oid, g.privilege) and (r.relkind in ('r', 'p') or g.privilege = 'SELECT')
      and starts_with(r.name, 'public.') -- the others are in schemas where nobody gets
    union all
    select 'privilege', format('%s on %s', api.role, p.name), 'revoke EXECUTE', format('revoke execute on %s %s from %s', p.kind, p.name, api.role), ''
    from routine p cross join aclexplode(p.proacl) as x join api on api.role = x.grantee::regrole::text
    union all
    select 'privilege', format('%s on %s', api.role, p.name), 'grant EXECUTE', format('grant execute on %s %s to %s', p.kind, p.name, api.role), ''
    from routine p cross join api
    where not has_function_privilege(api.role, p.oid, 'EXECUTE') and starts_with(p.name, 'public.')
    union all
    select 'privilege', format('%s on schema %s', api.role, n.nspname), 'grant ' || g.privilege, format('grant %s on schema %I to %s', g.privilege, n.nspname, api.role), ''
    from pg_catalog.pg_namespace n cross join api cross join (values ('USAGE'), ('CREATE')) as g (privilege)
    where n.nspname in ('public', 'tenancy', 'authz', 'audit') and not has_schema_privilege(api.role, n.oid, g.privilege)

    -- Views and partitions.
    union all
    select 'view', r.name, 'reset ' || split_part(o.option, '=', 1), format('alter view %s reset (%s)', r.name, split_part(o.option, '=', 1)), ''
    from relation r cross join unnest(r.reloptions) as o (option) where r.relkind = 'v'
    union all
    select 'partition', c.oid::regclass::text, 'detach', format('alter table %s detach partition %s', i.inhparent::regclass, c.oid::regclass), ''
    from pg_catalog.pg_inherits i join pg_catalog.pg_class c on c.oid = i.inhrelid
    where c.relkind = 'r'
)
select class, object, operator, statement, coalesce(definition, '') as definition from mistake order by 1, 2, 3
