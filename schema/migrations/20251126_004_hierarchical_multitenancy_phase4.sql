-- What:  phase 4, row level security. From here on the database decides who sees and changes what, and records it.
-- Needs: phase 3, run by the owner of the tables and of the database. Undo: the phase 4 rollback.
-- Locks: ACCESS EXCLUSIVE on all tables for an instant, once nobody uses them (tenancy.lock_tables in phase 1); no row is
--        read or written. All or nothing, in one transaction: there is no moment with half of the policies.

\set ON_ERROR_STOP on

begin;
set local statement_timeout = 0;
set local search_path = '';

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
        complete := exists (select from tenancy.completed_phase where phase = 3);
    end if;
    if not complete then
        raise exception 'phase 4 needs phase 3, which is not complete here'
            using hint = 'Run the phase 3 migration first.';
    end if;

    select string_agg(c.oid::regclass::text, ', ' order by c.relname) into culprits
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not pg_has_role(c.relowner, 'USAGE');
    if culprits is not null then
        raise exception 'phase 4 must run as the owner of the tables, and % does not own %', current_user, culprits
            using hint = 'Connect as the role that owns them.';
    end if;

    -- A value that nobody else may have tells whether somebody has it. The unique codes go below.
    select string_agg(i.indexrelid::regclass::text, ', ' order by i.indexrelid::regclass::text) into culprits
    from tenancy.classified_table t
    join pg_catalog.pg_index i on i.indrelid = to_regclass('public.' || t.table_name)
    where t.class = 'resource'
      and (i.indisunique or i.indisexclusion)
      and not i.indisprimary
      and not exists (
          select from pg_catalog.pg_attribute a
          where a.attrelid = i.indrelid and a.attnum = any (i.indkey) and a.attname in ('id', 'owner_organization_id', 'tenant_id')
      )
      and not exists (
          select
          from pg_catalog.pg_constraint c
          join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and array[a.attnum] = c.conkey
          where c.conindid = i.indexrelid and c.contype = 'u' and a.attname = 'code'
            and c.conrelid in (to_regclass('public.use_cases'), to_regclass('public.capabilities'))
      );
    if culprits is not null then
        raise exception 'by these unique indexes anybody finds out what others have: %', culprits
            using hint = 'Make each unique within the owner: put owner_organization_id first.';
    end if;

    -- What this role may not alter, it cannot close.
    select string_agg(o.identity, ', ' order by o.identity) into culprits
    from (
        select c.oid::regclass::text as identity, c.oid, 'pg_class'::regclass as catalog
        from pg_catalog.pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('v', 'm', 'f', 'S') and not pg_has_role(c.relowner, 'USAGE')
        union all
        select p.oid::regprocedure::text, p.oid, 'pg_proc'::regclass
        from pg_catalog.pg_proc p
        where p.pronamespace = 'public'::regnamespace and not pg_has_role(p.proowner, 'USAGE')
    ) as o
    where not exists (
        select from pg_catalog.pg_depend d where d.classid = o.catalog and d.objid = o.oid and d.deptype = 'e'
    );
    if culprits is not null then
        raise exception 'somebody else owns what phase 4 must close in schema public: %', culprits
            using hint = format('Give them to %s (ALTER … OWNER TO), or move them to a schema that no API role may use.', current_user);
    end if;

    -- Beside public, a view or a function of the owner reads the tables past row level security, too.
    with recursive reader (oid) as (
        select c.oid
        from tenancy.classified_table t
        join pg_catalog.pg_class c on c.oid = to_regclass('public.' || t.table_name)
            or c.oid in (select i.inhrelid from pg_catalog.pg_inherits i where i.inhparent = to_regclass('public.' || t.table_name))
        union
        select w.ev_class
        from reader r
        join pg_catalog.pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = r.oid and d.classid = 'pg_rewrite'::regclass
        join pg_catalog.pg_rewrite w on w.oid = d.objid
    )
    select string_agg(distinct o.identity, ', ' order by o.identity) into culprits
    from (
        select c.oid::regclass::text as identity
        from reader
        join pg_catalog.pg_class c on c.oid = reader.oid
        cross join (values ('anon'), ('authenticated')) as api (role)
        where c.relkind in ('v', 'm')
          and c.relnamespace <> 'public'::regnamespace
          and (c.relkind = 'm' or not coalesce(c.reloptions @> '{security_invoker=true}', false))
          and has_schema_privilege(api.role, c.relnamespace, 'USAGE')
          and (has_any_column_privilege(api.role, c.oid, 'SELECT, INSERT, UPDATE') or has_table_privilege(api.role, c.oid, 'DELETE'))
        union
        select p.oid::regprocedure::text
        from pg_catalog.pg_proc p
        join pg_catalog.pg_roles r on r.oid = p.proowner
        cross join (values ('anon'), ('authenticated')) as api (role)
        where p.prosecdef
          -- A superuser's are those of the server and of extensions.
          and not r.rolsuper
          and (r.rolbypassrls
               or pg_has_role(p.proowner, (select c.relowner from pg_catalog.pg_class c where c.oid = 'public.organizations'::regclass), 'USAGE'))
          and p.pronamespace::regnamespace::text not in ('public', 'authz', 'audit', 'tenancy')
          and has_schema_privilege(api.role, p.pronamespace, 'USAGE')
          and has_function_privilege(api.role, p.oid, 'EXECUTE')
    ) as o
    where o.identity not in (select t.identity from tenancy.trusted_object t);
    if culprits is not null then
        raise exception 'these show API roles what row level security hides: %', culprits
            using hint = 'Revoke them from anon and authenticated, make views security_invoker and functions SECURITY INVOKER, '
                'or, after a look at each, insert it into tenancy.trusted_object.';
    end if;

    -- Whoever writes runs a table's triggers, the owner too: what they do is the owner's to say, or a superuser's. Every API role
    -- might make one until now, of a function that goes when its session ends, or of one that stays.
    select string_agg(format('%s on %s runs %s', t.tgname, c.oid::regclass, p.oid::regprocedure), ', ' order by c.relname, t.tgname) into culprits
    from pg_catalog.pg_trigger t
    join pg_catalog.pg_class c on c.oid = t.tgrelid
    join pg_catalog.pg_proc p on p.oid = t.tgfoid
    join pg_catalog.pg_roles r on r.oid = p.proowner
    where c.relnamespace = 'public'::regnamespace
      and not t.tgisinternal
      and not r.rolsuper
      and not pg_has_role(p.proowner, c.relowner, 'USAGE')
      and p.oid::regprocedure::text not in (select o.identity from tenancy.trusted_object o);
    if culprits is not null then
        raise exception 'these triggers run what is not the owner''s: %', culprits
            using hint = 'Drop each, or end the session that made it, or give its function to the owner of the table, or, after a look at it, '
                'insert the function into tenancy.trusted_object.';
    end if;

    -- What an API role has by another role, nobody takes from it below.
    select string_agg(format('%s of %s', m.member::regrole, m.roleid::regrole), ', ' order by m.member::regrole::text, m.roleid::regrole::text)
    into culprits
    from pg_catalog.pg_auth_members m
    where m.member in ('anon'::regrole, 'authenticated'::regrole);
    if culprits is not null then
        raise exception 'an API role has what this phase gives it, and no more; these are members of other roles: %', culprits
            using hint = 'REVOKE the membership.';
    end if;

    select string_agg(c.relname, ', ' order by c.relname) into culprits
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace
      and c.relkind in ('r', 'p', 'f')
      and c.relname not in (select t.table_name from tenancy.classified_table t);
    if culprits is not null then
        raise exception 'nobody has said who may read these tables of schema public: %', culprits
            using hint = 'Insert each into tenancy.classified_table as resource, private, directory or evidence '
                '(and run phases 1 to 3 again for a resource), or move it to a schema that the API does not expose.';
    end if;

    select string_agg(t.table_name, ', ' order by t.table_name) into culprits
    from tenancy.classified_table t
    join pg_catalog.pg_class c on c.oid = to_regclass('public.' || t.table_name)
    where t.class = 'resource' and to_regclass('public.idx_' || t.table_name || '_audience') is null
       or t.class <> 'resource' and t.table_name not in
           ('conversations', 'messages', 'organizations', 'users', 'user_organizations', 'audit_logs');
    if culprits is not null then
        raise exception 'there are no rules for these classified tables: %', culprits
            using hint = 'A resource becomes one in phases 1 to 3: run them again. For another class write the policies here.';
    end if;
end
$$;

-- Keep what was there ---------------------------------------------------------------------------------------------
-- The first run writes down how to restore the access of phase 3: policies, privileges, options of views. A second run
-- finds its own doing, which is nothing to restore.

do $$
begin
    if exists (select from tenancy.undo where phase = 4) then
        return;
    end if;

    insert into tenancy.undo (phase, statement)
    -- Row level security, and the policies.
    select 4, format('alter table %s disable row level security', c.oid::regclass)
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relrowsecurity
    union all
    select 4, format('create policy %I on %s as %s for %s to %s%s%s',
        p.polname, p.polrelid::regclass,
        case when p.polpermissive then 'permissive' else 'restrictive' end,
        case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
        (
            select string_agg(case r.role when 0 then 'public' else r.role::regrole::text end, ', ')
            from unnest(p.polroles) as r (role)
        ),
        ' using (' || pg_get_expr(p.polqual, p.polrelid) || ')',
        ' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
    from pg_catalog.pg_policy p
    join pg_catalog.pg_class c on c.oid = p.polrelid
    where c.relnamespace = 'public'::regnamespace

    -- Privileges: on tables, views and sequences; on their columns; on functions; by default; on the database.
    union all
    select 4, format('grant %s on %s %s to %s%s', a.privilege_type,
        case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass,
        case a.grantee when 0 then 'public' else a.grantee::regrole::text end,
        case when a.is_grantable then ' with grant option' end)
    from pg_catalog.pg_class c
    cross join aclexplode(c.relacl) as a
    where c.relnamespace = 'public'::regnamespace and pg_has_role(c.relowner, 'USAGE') and a.grantee <> c.relowner
    union all
    select 4, format('grant %s (%I) on table %s to %s%s', a.privilege_type, t.attname, c.oid::regclass,
        case a.grantee when 0 then 'public' else a.grantee::regrole::text end,
        case when a.is_grantable then ' with grant option' end)
    from pg_catalog.pg_class c
    join pg_catalog.pg_attribute t on t.attrelid = c.oid
    cross join aclexplode(t.attacl) as a
    where c.relnamespace = 'public'::regnamespace and pg_has_role(c.relowner, 'USAGE') and a.grantee <> c.relowner
    union all
    select 4, format('grant execute on routine %s to %s%s', p.oid::regprocedure,
        case a.grantee when 0 then 'public' else a.grantee::regrole::text end,
        case when a.is_grantable then ' with grant option' end)
    from pg_catalog.pg_proc p
    cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
    where p.pronamespace = 'public'::regnamespace and pg_has_role(p.proowner, 'USAGE') and a.grantee <> p.proowner
    union all
    select 4, format('alter default privileges%s grant %s on %s to %s%s',
        ' in schema ' || nullif(d.defaclnamespace, 0)::regnamespace::text, a.privilege_type,
        case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' else 'functions' end,
        case a.grantee when 0 then 'public' else a.grantee::regrole::text end,
        case when a.is_grantable then ' with grant option' end)
    from pg_catalog.pg_default_acl d
    cross join aclexplode(d.defaclacl) as a
    where d.defaclrole = current_user::regrole
      and d.defaclnamespace in (0, 'public'::regnamespace)
      and d.defaclobjtype in ('r', 'S', 'f')
      and a.grantee <> d.defaclrole
    union all
    select 4, 'alter default privileges grant execute on functions to public'
    where not exists (
        select from pg_catalog.pg_default_acl d
        where d.defaclrole = current_user::regrole and d.defaclnamespace = 0 and d.defaclobjtype = 'f'
    )
    union all
    select 4, format(o.statement, case a.grantee when 0 then 'public' else a.grantee::regrole::text end)
    from (
        -- Without its name: a copy of the database has another.
        select coalesce(datacl, acldefault('d', datdba)) as acl, 'TEMPORARY' as privilege,
            'do $do$ begin execute format(''grant temporary on database %%I to %s'', current_database()); end $do$' as statement
        from pg_catalog.pg_database where datname = current_database()
        union all
        select coalesce(nspacl, acldefault('n', nspowner)), 'CREATE', 'grant create on schema public to %s'
        from pg_catalog.pg_namespace where nspname = 'public'
    ) as o
    cross join aclexplode(o.acl) as a
    where a.privilege_type = o.privilege
      and (a.grantee = 0 or a.grantee::regrole::text in ('anon', 'authenticated', 'service_role', 'authenticator'))

    -- Views that read as their owner, whom row level security does not hold.
    union all
    select 4, format('alter view %s %s', c.oid::regclass, case
        when o.option is null then 'reset (security_invoker)'
        else format('set (%s)', o.option) end)
    from pg_catalog.pg_class c
    left join lateral (
        select option from unnest(c.reloptions) as option where starts_with(option, 'security_invoker=')
    ) as o on true
    where c.relnamespace = 'public'::regnamespace and c.relkind = 'v' and c.relname <> 'organization_stats'

    -- Triggers that serve the old application only.
    union all
    select 4, pg_get_triggerdef(t.oid)
    from pg_catalog.pg_trigger t
    where t.tgfoid in ('tenancy.keep_scope_in_step()'::regprocedure, 'tenancy.resolve_owner()'::regprocedure,
        'tenancy.place_organization()'::regprocedure)

    -- Codes that nobody else may have, whoever he is: trying one tells whether somebody has it.
    union all
    select 4, format('alter table %s add constraint %I %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and array[a.attnum] = c.conkey
    where c.contype = 'u'
      and a.attname = 'code'
      and c.conrelid in (to_regclass('public.use_cases'), to_regclass('public.capabilities'));
end
$$;

call tenancy.lock_tables();

-- Take back what everybody had ------------------------------------------------------------------------------------
-- Row level security does not hold for TRUNCATE, a view that reads as its owner, or a temporary table that hides a real
-- one; and a policy that is left over under any name opens the table for all that the others close.

do $$
declare
    target record;
begin
    for target in
        select p.polname, p.polrelid::regclass as relation
        from pg_catalog.pg_policy p
        join pg_catalog.pg_class c on c.oid = p.polrelid
        where c.relnamespace = 'public'::regnamespace
    loop
        execute format('drop policy %I on %s', target.polname, target.relation);
    end loop;

    for target in
        select c.oid::regclass as relation, c.relkind, c.relname
        from pg_catalog.pg_class c
        where c.relnamespace = 'public'::regnamespace
          and c.relkind in ('r', 'p', 'v', 'm', 'S')
          and pg_has_role(c.relowner, 'USAGE')
    loop
        execute format('revoke all on %s %s from public, anon, authenticated, service_role',
            case target.relkind when 'S' then 'sequence' else 'table' end, target.relation);
        if target.relkind in ('r', 'p') then
            execute format('alter table %s enable row level security', target.relation);
            execute format('grant select, insert, update, delete on table %s to service_role', target.relation);
        elsif target.relkind = 'S' then
            execute format('grant usage, select on sequence %s to service_role', target.relation);
        else
            execute format('grant select on table %s to service_role', target.relation);
        end if;
        if target.relkind = 'v' and target.relname <> 'organization_stats' then
            execute format('alter view %s set (security_invoker = true)', target.relation);
        end if;
    end loop;
    revoke insert, update, delete on public.audit_logs from service_role;
    revoke all on sequence public.audit_logs_id_seq from service_role;

    for target in
        select p.oid::regprocedure as routine
        from pg_catalog.pg_proc p
        where p.pronamespace = 'public'::regnamespace and pg_has_role(p.proowner, 'USAGE')
    loop
        execute format('revoke all on routine %s from public, anon, authenticated', target.routine);
        execute format('grant execute on routine %s to service_role', target.routine);
    end loop;

    -- Nobody but the owner empties a table, refers to it or puts a trigger on it, whatever his role is.
    for target in
        select c.oid::regclass as relation, a.privilege_type as privilege,
            case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
        from pg_catalog.pg_class c
        cross join lateral (
            select grantee, privilege_type from aclexplode(c.relacl)
            union
            select x.grantee, x.privilege_type
            from pg_catalog.pg_attribute t
            cross join aclexplode(t.attacl) as x
            where t.attrelid = c.oid
        ) as a
        where c.relnamespace = 'public'::regnamespace
          and c.relkind in ('r', 'p', 'v', 'm')
          and a.grantee <> c.relowner
          and a.privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER')
    loop
        execute format('revoke %s on %s from %s', target.privilege, target.relation, target.grantee);
    end loop;

    for target in
        select case r.role when 'public' then 'public' else quote_ident(r.role) end as role
        from unnest(array['public', 'anon', 'authenticated', 'service_role', 'authenticator']) as r (role)
        where r.role = 'public' or exists (select from pg_catalog.pg_roles p where p.rolname = r.role)
    loop
        execute format('revoke temporary on database %I from %s', current_database(), target.role);
        execute format('revoke create on schema public from %s', target.role);
        execute format('alter default privileges revoke all on tables from %s', target.role);
        execute format('alter default privileges revoke all on sequences from %s', target.role);
        execute format('alter default privileges revoke all on functions from %s', target.role);
    end loop;
end
$$;

-- What is made in public later starts closed: to PUBLIC it takes the global form, the one in a schema cannot.
alter default privileges in schema public revoke all on tables from anon, authenticated, service_role;
alter default privileges in schema public revoke all on sequences from anon, authenticated, service_role;
alter default privileges in schema public revoke all on functions from anon, authenticated, service_role;
alter default privileges in schema public grant select, insert, update, delete on tables to service_role;
alter default privileges in schema public grant usage, select on sequences to service_role;
alter default privileges in schema public grant execute on functions to service_role;

-- The old application's last traces: a flag in metadata, which users may write, must not share a row any more.
do $$
declare
    target record;
begin
    for target in
        select t.tgname, t.tgrelid::regclass as relation
        from pg_catalog.pg_trigger t
        where t.tgfoid in ('tenancy.keep_scope_in_step()'::regprocedure, 'tenancy.resolve_owner()'::regprocedure,
            'tenancy.place_organization()'::regprocedure)
    loop
        execute format('drop trigger %I on %s', target.tgname, target.relation);
    end loop;
    for target in
        select c.conname, c.conrelid::regclass as relation
        from pg_catalog.pg_constraint c
        join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and array[a.attnum] = c.conkey
        where c.contype = 'u'
          and a.attname = 'code'
          and c.conrelid in (to_regclass('public.use_cases'), to_regclass('public.capabilities'))
    loop
        execute format('alter table %s drop constraint %I', target.relation, target.conname);
    end loop;
end
$$;

-- The caller, for the policies ------------------------------------------------------------------------------------
-- In a policy each stands in (select …), so that it is evaluated once for a statement and not for each row.

-- Not for parallel workers: the planner, who does not know how few rows a caller sees, would start some, and they take
-- longer to come than most callers' rows take to be read.
create or replace function authz.audiences() returns uuid[]
language plpgsql stable parallel unsafe security definer set search_path = pg_catalog, pg_temp
as $$ begin return authz.audiences_of(auth.uid()); end $$;

create or replace function authz.writer_organizations() returns uuid[]
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$ begin return authz.organizations_of(auth.uid(), '{admin,member}'); end $$;

create or replace function authz.admin_organizations() returns uuid[]
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$ begin return authz.organizations_of(auth.uid(), '{admin}'); end $$;

create or replace function authz.visible_organizations() returns uuid[]
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$ begin return authz.visible_organizations_of(auth.uid()); end $$;

-- The caller, and the active members of the organizations that the caller is a member of.
create or replace function authz.colleagues() returns uuid[]
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select auth.uid()
        union
        select uo.user_id
        from public.user_organizations uo
        where uo.is_active and uo.organization_id = any ((select authz.member_organizations())::uuid[])
    );
end
$$;

-- Whether the caller may give a row of this owner this scope: a writer within the owner, an admin of the owner to its
-- tenant, an admin of the platform to everybody. The platform has no tenant.
create or replace function authz.may_share(p_scope public.sharing_scope_type, p_owner uuid) returns boolean
language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(
        case p_scope
            when 'organization' then p_owner = any (authz.writer_organizations())
            when 'tenant' then p_owner = any (authz.admin_organizations())
                and p_owner <> '00000000-0000-0000-0000-000000000001'
            when 'platform' then '00000000-0000-0000-0000-000000000001' = any (authz.admin_organizations())
        end,
        false);
end
$$;

-- What stays as it was made, and who may share more widely: that takes the old row, which a policy does not see. Whether
-- the caller may share stands in the trigger's condition, which holds the function itself, as a policy does: in here it
-- would be looked up by its name, in a schema that the caller may not enter.
create or replace function authz.guard() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    -- The backend, the owner and soft_delete().
    if not row_security_active(tg_relid) then
        return new;
    end if;
    if tg_argv[0] = 'sharing' then
        raise exception 'not allowed to share this with scope %', new.sharing_scope
            using errcode = 'insufficient_privilege';
    end if;
    if (new.id, new.owner_organization_id, new.created_by, new.created_at, new.deleted_at)
        is distinct from (old.id, old.owner_organization_id, old.created_by, old.created_at, old.deleted_at) then
        raise exception 'id, owner_organization_id, created_by, created_at and deleted_at cannot be changed'
            using errcode = 'insufficient_privilege';
    end if;
    return new;
end
$$;

-- Hiding a row takes a function: an UPDATE of deleted_at cannot pass the policy that hides deleted rows. Who may not
-- do it hears the same as who names a row that does not exist.
create or replace function public.soft_delete(p_resource_type text, p_resource_id uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    privileged constant boolean := authz.is_privileged();
    changed bigint := 0;
begin
    if p_resource_type = 'conversations' then
        update public.conversations c
        set deleted_at = now()
        where c.id = p_resource_id
          and c.deleted_at is null
          and (privileged or c.user_id = auth.uid() and c.owner_organization_id = any ((select authz.member_organizations())::uuid[]));
        get diagnostics changed = row_count;
    elsif exists (
        select from tenancy.classified_table t
        where t.table_name = p_resource_type and t.class = 'resource' and to_regclass('public.' || t.table_name) is not null
    ) then
        execute format(
            'update public.%I r set deleted_at = now()
             where r.id = $1
               and r.deleted_at is null
               and ($2 or r.created_by = auth.uid() and r.owner_organization_id = any ((select authz.writer_organizations())::uuid[])
                    or r.owner_organization_id = any ((select authz.admin_organizations())::uuid[]))',
            p_resource_type) using p_resource_id, privileged;
        get diagnostics changed = row_count;
    else
        raise exception 'there is no resource type %', quote_nullable(left(p_resource_type, 63)) using errcode = 'invalid_parameter_value';
    end if;
    if changed = 0 then
        raise exception 'no such row of %, or not yours to delete: %', p_resource_type, p_resource_id
            using errcode = 'no_data_found';
    end if;
end
$$;

-- Policies: resources ---------------------------------------------------------------------------------------------
-- The checklist's names, on every resource table.

do $$
declare
    target record;
    -- As authz.may_share() says, which would be asked for each row.
    may_create constant text :=
        $policy$deleted_at is null
        and created_by = (select auth.uid())
        and owner_organization_id = any ((select authz.writer_organizations())::uuid[])
        and (sharing_scope = 'organization'
             or sharing_scope = 'tenant'
                and owner_organization_id = any ((select authz.admin_organizations())::uuid[])
                and owner_organization_id <> '00000000-0000-0000-0000-000000000001'
             or sharing_scope = 'platform'
                and '00000000-0000-0000-0000-000000000001' = any ((select authz.admin_organizations())::uuid[]))$policy$;
    -- First what most rows are changed by, so that nobody else need be looked up.
    may_change constant text :=
        'deleted_at is null
         and (created_by = (select auth.uid())
                 and owner_organization_id = any ((select authz.writer_organizations())::uuid[])
              or owner_organization_id = any ((select authz.admin_organizations())::uuid[]))';
begin
    for target in
        select t.table_name,
            string_agg(quote_ident(a.attname), ', ' order by a.attnum)
                filter (where a.attname not in ('id', 'created_at', 'deleted_at', 'tenant_id', 'owner_tenant_id', 'audience_key'))
                as insertable,
            string_agg(quote_ident(a.attname), ', ' order by a.attnum)
                filter (where a.attname not in ('id', 'created_at', 'deleted_at', 'tenant_id', 'owner_tenant_id', 'audience_key',
                    'owner_organization_id', 'created_by'))
                as updatable
        from tenancy.classified_table t
        join pg_catalog.pg_attribute a on a.attrelid = to_regclass('public.' || t.table_name)
        where t.class = 'resource' and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
        group by t.table_name
    loop
        -- Without id: whose insert meets a hidden row's id would learn that it exists.
        execute format('grant select, insert (%2$s), update (%3$s) on public.%1$I to authenticated',
            target.table_name, target.insertable, target.updatable);

        execute format(
            'create policy %I on public.%I for select to authenticated using (
                 deleted_at is null
                 and audience_key = any ((select authz.audiences())::uuid[])
                 and owner_organization_id <> all ((select authz.suspended_organizations())::uuid[]))',
            'users_view_accessible_' || target.table_name, target.table_name);
        execute format('create policy %I on public.%I for insert to authenticated with check (%s)',
            'users_create_' || target.table_name, target.table_name, may_create);
        execute format('create policy %I on public.%I for update to authenticated using (%s) with check (%3$s)',
            'users_update_' || target.table_name, target.table_name, may_change);

        execute format(
            'create or replace trigger guard before update on public.%1$I for each row execute function authz.guard();
             create or replace trigger guard_sharing before update on public.%1$I for each row
                 when (new.sharing_scope is distinct from old.sharing_scope
                       and not authz.may_share(new.sharing_scope, new.owner_organization_id))
                 execute function authz.guard(''sharing'')',
            target.table_name);
    end loop;
end
$$;

-- Policies: conversations and their messages ----------------------------------------------------------------------
-- Their user's alone, and only while a member of the organization that they belong to.

do $$
declare
    own constant text :=
        'deleted_at is null
         and user_id = (select auth.uid())
         and owner_organization_id = any ((select authz.member_organizations())::uuid[])';
    readable text;
    columns record;
begin
    -- A foreign key is checked without policies: naming somebody's hidden agent would tell that it exists.
    select coalesce(string_agg(format(' and (%1$I is null or exists (select from %2$s r where r.id = %1$I))',
        a.attname, c.confrelid::regclass), '' order by a.attname), '') into readable
    from pg_catalog.pg_constraint c
    join tenancy.classified_table t on to_regclass('public.' || t.table_name) = c.confrelid
    join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and array[a.attnum] = c.conkey
    where c.contype = 'f' and c.conrelid = 'public.conversations'::regclass and t.class = 'resource';

    select
        string_agg(quote_ident(a.attname), ', ' order by a.attnum)
            filter (where a.attname not in ('id', 'created_at', 'deleted_at', 'tenant_id')) as insertable,
        string_agg(quote_ident(a.attname), ', ' order by a.attnum)
            filter (where a.attname in ('title', 'status')) as updatable
    into columns
    from pg_catalog.pg_attribute a
    where a.attrelid = 'public.conversations'::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = '';

    execute format('grant select, insert (%s), update (%s) on public.conversations to authenticated',
        columns.insertable, columns.updatable);
    execute format('create policy users_view_own_conversations on public.conversations for select to authenticated using (%s)', own);
    execute format('create policy users_create_own_conversations on public.conversations for insert to authenticated with check (%s%s)',
        own, readable);
    execute format('create policy users_update_own_conversations on public.conversations for update to authenticated using (%s) with check (%1$s)', own);

    -- A message is read through its conversation. Asking for each message would cost what everybody's messages cost;
    -- asking once which conversations are the caller's costs what the caller has.
    execute format(
        'create or replace function authz.own_conversations() returns uuid[]
         language plpgsql stable parallel safe security definer set search_path = pg_catalog, pg_temp
         as $f$ begin return array(select c.id from public.conversations c where %s); end $f$', own);
end
$$;

create policy users_view_own_messages on public.messages for select to authenticated
    using (conversation_id = any ((select authz.own_conversations())::uuid[]));

create policy users_create_own_messages on public.messages for insert to authenticated
    with check (role = 'user' and conversation_id = any ((select authz.own_conversations())::uuid[]));

grant select, insert (conversation_id, role, content) on public.messages to authenticated;

-- Policies: the directory and the evidence ------------------------------------------------------------------------

-- Not the settings, which hold whatever the backend needs.
grant select (id, name, slug, organization_type, parent_organization_id, tenant_organization_id, is_active,
    created_at, updated_at, deleted_at), update (name) on public.organizations to authenticated;

create policy users_view_organizations on public.organizations for select to authenticated
    using (deleted_at is null and id = any ((select authz.visible_organizations())::uuid[]));

create policy admins_rename_organizations on public.organizations for update to authenticated
    using (deleted_at is null and id = any ((select authz.admin_organizations())::uuid[]))
    with check (deleted_at is null and id = any ((select authz.admin_organizations())::uuid[]));

grant select (id, email, full_name, created_at) on public.users to authenticated;

create policy users_view_colleagues on public.users for select to authenticated
    using (id = any ((select authz.colleagues())::uuid[]));

grant select, insert (user_id, organization_id, role, is_active), update (role, is_active), delete
    on public.user_organizations to authenticated;

create policy users_view_memberships on public.user_organizations for select to authenticated
    using (
        user_id = (select auth.uid())
        or organization_id = any ((select authz.member_organizations())::uuid[])
    );

-- Never one's own: an admin who leaves says so to another admin. Nor a stranger's, whose id stands on what he has shared: by
-- the membership the admin would read his address. Who is new to an admin is let in by the backend, which has asked him.
create policy admins_add_memberships on public.user_organizations for insert to authenticated
    with check (
        organization_id = any ((select authz.admin_organizations())::uuid[])
        and user_id <> (select auth.uid())
        and user_id = any ((select authz.colleagues())::uuid[])
    );

create policy admins_change_memberships on public.user_organizations for update to authenticated
    using (organization_id = any ((select authz.admin_organizations())::uuid[]) and user_id <> (select auth.uid()))
    with check (organization_id = any ((select authz.admin_organizations())::uuid[]) and user_id <> (select auth.uid()));

create policy admins_remove_memberships on public.user_organizations for delete to authenticated
    using (organization_id = any ((select authz.admin_organizations())::uuid[]) and user_id <> (select auth.uid()));

grant select on public.audit_logs to authenticated;

create policy admins_view_audit_logs on public.audit_logs for select to authenticated
    using (organization_id = any ((select authz.admin_organizations())::uuid[]));

-- Audit -----------------------------------------------------------------------------------------------------------

-- An organization's admins read its audit log, and must not read there what its people write to an assistant, nor what
-- they may not read in the table itself: the settings of an organization hold whatever the backend needs. NULL is all
-- columns.
create or replace function audit.shown_columns(p_table regclass, p_class text) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return case p_class
        when 'private' then '{id,user_id,owner_organization_id,tenant_id,agent_id,conversation_id,role,status,mode,created_at,updated_at,deleted_at}'::text[]
        when 'directory' then array(
            select a.attname
            from pg_catalog.pg_attribute a
            where a.attrelid = p_table and a.attnum > 0 and has_column_privilege('authenticated', p_table, a.attnum, 'SELECT')
        )
    end;
end
$$;

create or replace function audit.shown(p_key text, p_value jsonb, p_columns text[]) returns jsonb
language sql immutable parallel safe
return case when p_columns is null or p_key = any (p_columns) or coalesce(p_value, 'null') = 'null' then p_value else '"(private)"' end;

-- Of the request's claims those that tell which sign-in it was. The others, an address, a phone number, what the provider knows,
-- are about a person whom the admins who read this may not know.
create or replace function audit.claims() returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    said constant jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
begin
    if jsonb_typeof(said) <> 'object' then
        return null;
    end if;
    return (
        select jsonb_object_agg(c.key, c.value)
        from jsonb_each(said) as c
        where c.key in ('role', 'iss', 'aud', 'session_id', 'aal')
    );
end
$$;

-- A conversation takes its messages with it, and is gone when they are recorded. It has been recorded before them, in the same
-- transaction: the triggers of a cascade come after those of what began it.
create or replace function audit.owner_of_deleted(p_conversation_id text) returns uuid
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return (
        select l.organization_id
        from public.audit_logs l
        where l.resource_type = 'conversations'
          and l.action = 'DELETE'
          and l.resource_id = p_conversation_id
          and l.created_at >= now()
        order by l.id desc
        limit 1
    );
end
$$;

-- One row for each row that a statement changed, of an update the changed columns only. The aliases are such as no
-- column has: to_jsonb(alias) would mean the column. OFFSET 0 makes the planner convert a row once, and not wherever it is
-- named. A row of which everything is shown is not taken apart for it.
create or replace function audit.record() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    columns constant text[] := audit.shown_columns(tg_relid, tg_argv[0]);
    caller constant uuid := auth.uid();
    acting constant text := coalesce(nullif(current_setting('role'), 'none'), session_user);
    claims constant jsonb := audit.claims();
    -- Where the row says whose it is. A message does not: its conversation does.
    owner_column constant text := case tg_table_name
        when 'organizations' then 'id'
        when 'user_organizations' then 'organization_id'
        else 'owner_organization_id'
    end;
begin
    if tg_op = 'INSERT' then
        insert into public.audit_logs (organization_id, user_id, actor_role, claims, action, resource_type, resource_id, new_values)
        select
            coalesce((c.after ->> owner_column)::uuid,
                (select o.owner_organization_id from public.conversations o where o.id = (c.after ->> 'conversation_id')::uuid)),
            caller, acting, claims, tg_op, tg_table_name, c.after ->> 'id',
            case when columns is null then c.after else (
                select jsonb_object_agg(v.key, audit.shown(v.key, v.value, columns)) from jsonb_each(c.after) as v) end
        from (select to_jsonb(new__) as after from new_rows new__ offset 0) as c;
    elsif tg_op = 'DELETE' then
        insert into public.audit_logs (organization_id, user_id, actor_role, claims, action, resource_type, resource_id, old_values)
        select
            coalesce((c.before ->> owner_column)::uuid,
                (select o.owner_organization_id from public.conversations o where o.id = (c.before ->> 'conversation_id')::uuid),
                audit.owner_of_deleted(c.before ->> 'conversation_id')),
            caller, acting, claims, tg_op, tg_table_name, c.before ->> 'id',
            case when columns is null then c.before else (
                select jsonb_object_agg(v.key, audit.shown(v.key, v.value, columns)) from jsonb_each(c.before) as v) end
        from (select to_jsonb(old__) as before from old_rows old__ offset 0) as c;
    else
        insert into public.audit_logs
            (organization_id, user_id, actor_role, claims, action, resource_type, resource_id, old_values, new_values)
        select
            coalesce((changed.row ->> owner_column)::uuid,
                (select o.owner_organization_id from public.conversations o where o.id = (changed.row ->> 'conversation_id')::uuid)),
            caller, acting, claims,
            case when c.after ->> 'deleted_at' is not null and c.before -> 'deleted_at' = 'null' then 'SOFT_DELETE' else tg_op end,
            tg_table_name, changed.row ->> 'id', changed.old_values, changed.new_values
        from (
            -- Another owner, or another id, makes two rows of one: each owner reads what its own was, or is.
            select b.before, a.after
            from (select old__.id, to_jsonb(old__) as before from old_rows old__ offset 0) as b
            full join (select new__.id, to_jsonb(new__) as after from new_rows new__ offset 0) as a
                on a.id = b.id
                and coalesce(a.after ->> owner_column, a.after ->> 'conversation_id', '')
                  = coalesce(b.before ->> owner_column, b.before ->> 'conversation_id', '')
        ) as c
        cross join lateral (
            select
                coalesce(c.after, c.before) as row,
                jsonb_object_agg(v.key, audit.shown(v.key, c.before -> v.key, columns)) filter (where c.before is not null) as old_values,
                jsonb_object_agg(v.key, audit.shown(v.key, c.after -> v.key, columns)) filter (where c.after is not null) as new_values
            from jsonb_each(coalesce(c.after, c.before)) as v
            where v.value is distinct from case when c.after is not null then c.before end -> v.key
        ) as changed
        where coalesce(changed.new_values, changed.old_values) is not null;
    end if;
    return null;
end
$$;

do $$
declare
    target record;
begin
    for target in
        select t.table_name, t.class
        from tenancy.classified_table t
        where t.class <> 'evidence' and to_regclass('public.' || t.table_name) is not null
    loop
        execute format(
            'create or replace trigger audit_insert after insert on public.%1$I referencing new table as new_rows
                 for each statement execute function audit.record(%2$L);
             create or replace trigger audit_update after update on public.%1$I referencing old table as old_rows new table as new_rows
                 for each statement execute function audit.record(%2$L);
             create or replace trigger audit_delete after delete on public.%1$I referencing old table as old_rows
                 for each statement execute function audit.record(%2$L)',
            target.table_name, target.class);
    end loop;
end
$$;

-- Descriptions -------------------------------------------------------------------------------------------------------
-- For docs/functions.md.

do $$
declare
    described record;
begin
    for described in
        select *
        from (values
            ('function', 'public.soft_delete(text, uuid)',
                'Hides a row of this table from everybody: an admin of its owner, or a writer there who made it, may; of a conversation its user. Errors: no_data_found (P0002) where there is no such row or the caller may not, invalid_parameter_value (22023) for another table.'),
            ('function', 'authz.audiences()',
                'The audience keys of the caller: what the policies for reading compare.'),
            ('function', 'authz.writer_organizations()',
                'The live organizations in which the caller is an admin or a member.'),
            ('function', 'authz.admin_organizations()',
                'The live organizations in which the caller is an admin.'),
            ('function', 'authz.visible_organizations()',
                'The organizations that the caller sees: its own, their tenants and the platform.'),
            ('function', 'authz.colleagues()',
                'The caller, and the active members of its organizations.'),
            ('function', 'authz.own_conversations()',
                'The conversations that the caller reads.'),
            ('function', 'authz.may_share(public.sharing_scope_type, uuid)',
                'Whether the caller may give a row of this owner this scope: a writer within the owner, an admin of the owner to its tenant, an admin of the platform to everybody.'),
            ('function', 'authz.guard()',
                'Trigger: what users cannot change: id, owner, creator, when it was made and deleted; and a scope that they may not give. Error: insufficient_privilege (42501).'),
            ('function', 'audit.claims()',
                'Of the request''s claims those that tell which sign-in it was, and nothing about the person.'),
            ('function', 'audit.owner_of_deleted(text)',
                'The owner of a conversation that this transaction has deleted, from the audit log.'),
            ('function', 'audit.record()',
                'Trigger: writes a row of the audit log for each row that a statement changed.'),
            ('function', 'audit.shown(text, jsonb, text[])',
                'A value as the audit log shows it: (private) for a column that is not shown.'),
            ('function', 'audit.shown_columns(regclass, text)',
                'The columns of a table that the audit log shows; null for all.')
        ) as d (kind, identity, text)
    loop
        execute format('comment on %s %s is %L', described.kind, described.identity, described.text);
    end loop;
end
$$;

-- What the API may call -------------------------------------------------------------------------------------------
-- authz stays closed as a schema: a policy needs the right to execute its functions, and nobody needs to name them.

revoke all on all routines in schema authz, audit from public, anon, authenticated, service_role;
grant execute on function
    authz.audiences(),
    authz.suspended_organizations(),
    authz.writer_organizations(),
    authz.admin_organizations(),
    authz.visible_organizations(),
    authz.colleagues(),
    authz.own_conversations(),
    authz.may_share(public.sharing_scope_type, uuid)
to authenticated;
grant execute on function
    authz.audience_key(public.sharing_scope_type, uuid, uuid),
    authz.shared_key(uuid),
    authz.member_organizations(),
    authz.is_privileged(),
    authz.may_share(public.sharing_scope_type, uuid),
    authz.searchable(text, text)
to authenticated, service_role;

revoke all on function public.soft_delete(text, uuid) from public, anon, authenticated, service_role;
grant execute on function public.soft_delete(text, uuid) to authenticated, service_role;
do $$
declare
    target record;
begin
    for target in select f.signature from tenancy.api_function f loop
        execute format('grant execute on function %s to authenticated, service_role', target.signature);
    end loop;
end
$$;
grant select on public.organization_stats to authenticated;

-- Is it so? -------------------------------------------------------------------------------------------------------

do $$
declare
    found text;
begin
    select string_agg(problem.text, e'\n  ' order by problem.text) into found
    from (
        select format('row level security is off on %s', c.oid::regclass) as text
        from pg_catalog.pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relrowsecurity
        union all
        select format('%s has no policy', c.oid::regclass)
        from pg_catalog.pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
          and not exists (select from pg_catalog.pg_policy p where p.polrelid = c.oid)
        union all
        select format('%s may %s %s', case a.grantee when 0 then 'public' else a.grantee::regrole::text end,
            lower(a.privilege_type), c.oid::regclass)
        from pg_catalog.pg_class c
        cross join aclexplode(c.relacl) as a
        where c.relnamespace = 'public'::regnamespace
          and (a.grantee in (0, 'anon'::regrole)
               or a.grantee <> c.relowner and a.privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER'))
        union all
        select format('%s may execute %s', case a.grantee when 0 then 'public' else a.grantee::regrole::text end, p.oid::regprocedure)
        from pg_catalog.pg_proc p
        cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
        where p.pronamespace in ('public'::regnamespace, 'authz'::regnamespace, 'audit'::regnamespace, 'tenancy'::regnamespace)
          and p.prosecdef
          and a.grantee in (0, 'anon'::regrole)
        union all
        select format('public may create temporary tables, and %s does not own the database', current_user)
        from pg_catalog.pg_database d
        cross join aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) as a
        where d.datname = current_database() and a.grantee = 0 and a.privilege_type = 'TEMPORARY'
        union all
        select format('%s may create objects in schema public', api.role)
        from (values ('anon'), ('authenticated'), ('service_role')) as api (role)
        where has_schema_privilege(api.role, 'public', 'CREATE')
        union all
        select format('%s may create temporary tables', api.role)
        from (values ('anon'), ('authenticated'), ('service_role')) as api (role)
        where has_database_privilege(api.role, current_database(), 'TEMPORARY')
    ) as problem;
    if found is not null then
        raise exception e'phase 4 did not close the database:\n  %', found
            using hint = 'Somebody else''s objects or grants are in the way: take them back as their owner, then run phase 4 again.';
    end if;
end
$$;

insert into tenancy.completed_phase (phase) values (4) on conflict do nothing;

commit;
