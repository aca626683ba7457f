-- What:  phase 1, expand. Adds the columns and enums of the hierarchy; everything the old application does goes on working.
-- Needs: the legacy tables, run by their owner. Undo: rollbacks/20251126_001_hierarchical_multitenancy_phase1_rollback.sql.
-- Locks: ACCESS EXCLUSIVE on each table for a catalog change, given up after 2 s of waiting; no row is read or written.

begin;
set local lock_timeout = '2s';
set local search_path = '';

-- Refuse what cannot work -----------------------------------------------------------------------------------------

do $$
declare
    missing text;
begin
    if current_setting('server_version_num')::integer < 150000 then
        raise exception 'phase 1 needs PostgreSQL 15 or later, this is %', current_setting('server_version');
    end if;

    select string_agg(t.name, ', ') into missing
    from unnest(array['organizations', 'users', 'user_organizations', 'agents', 'conversations', 'messages']) as t (name)
    where to_regclass('public.' || t.name) is null;
    if missing is not null then
        raise exception 'phase 1 needs the legacy tables, and these are missing in schema public: %', missing
            using hint = 'Is this the right database?';
    end if;

    if not exists (
        select from pg_catalog.pg_class c
        where c.oid = 'public.organizations'::regclass and c.relowner = current_user::regrole
    ) then
        raise exception 'phase 1 must run as the owner of the tables, and % does not own public.organizations', current_user
            using hint = 'Connect as the role that \d+ public.organizations names as the owner.';
    end if;
end
$$;

-- Two operators at once: the second waits for the first, then finds everything done.
do $$ begin perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('tenancy.migration')); end $$;

-- Bookkeeping -----------------------------------------------------------------------------------------------------
-- A schema that no API role may enter.

create schema if not exists tenancy;

-- Every table of public has one class, and its class decides which rules hold for it.
create table if not exists tenancy.classified_table (
    table_name text primary key,
    class text not null check (class in ('resource', 'private', 'directory', 'evidence'))
);

insert into tenancy.classified_table (table_name, class)
values
    ('agents', 'resource'),
    ('knowledge_documents', 'resource'),
    ('prompts', 'resource'),
    ('workflows', 'resource'),
    ('use_cases', 'resource'),
    ('capabilities', 'resource'),
    ('conversations', 'private'),
    ('messages', 'private'),
    ('organizations', 'directory'),
    ('users', 'directory'),
    ('user_organizations', 'directory'),
    ('audit_logs', 'evidence')
on conflict do nothing;

-- Who belongs to which tenant, where the data does not say: filled in by the operator before phase 2, and final.
create table if not exists tenancy.organization_mapping (
    organization_id uuid primary key references public.organizations (id) on delete cascade,
    tenant_id uuid not null references public.organizations (id) on delete cascade,
    constraint organization_mapping_not_itself check (organization_id <> tenant_id)
);

-- What a phase added to something that may have been there before, so that its rollback removes that and no more.
create table if not exists tenancy.added_column (
    table_name text not null,
    column_name text not null,
    primary key (table_name, column_name)
);

create table if not exists tenancy.added_type (
    type_name text primary key
);

-- Which phases are complete.
create table if not exists tenancy.completed_phase (
    phase integer primary key check (phase between 1 and 4),
    completed_at timestamptz not null default now()
);

-- Types -----------------------------------------------------------------------------------------------------------

do $$
declare
    wanted record;
    found text[];
begin
    for wanted in
        select *
        from (values
            ('organization_type', array['platform', 'tenant', 'organization']),
            ('sharing_scope_type', array['platform', 'tenant', 'organization'])
        ) as e (name, labels)
    loop
        select array_agg(l.enumlabel::text order by l.enumsortorder) into found
        from pg_catalog.pg_enum l
        where l.enumtypid = to_regtype('public.' || wanted.name);
        if found is null then
            execute format('create type public.%I as enum (%s)', wanted.name,
                (select string_agg(quote_literal(label), ', ') from unnest(wanted.labels) as label));
            insert into tenancy.added_type values (wanted.name);
        elsif found <> wanted.labels then
            raise exception 'type public.% exists with the labels %, wanted are %', wanted.name, found, wanted.labels
                using hint = 'Rename the other type before phase 1.';
        end if;
    end loop;
end
$$;

-- Columns ---------------------------------------------------------------------------------------------------------
-- All nullable and without a default at first: rows that exist stay NULL, which is what phase 2 looks for, and no
-- table is rewritten. A column that is there already is kept, if it has the type.

do $$
declare
    wanted record;
    found text;
begin
    for wanted in
        select c.table_name, w.column_name, w.type, w.default_value
        from tenancy.classified_table c
        join (values
            ('organizations', 'parent_organization_id', 'uuid', null),
            ('organizations', 'organization_type', 'public.organization_type', null),
            ('organizations', 'slug', 'text', null),
            ('organizations', 'deleted_at', 'timestamp with time zone', null),
            ('organizations', 'updated_at', 'timestamp with time zone', 'now()'),
            ('resource', 'owner_organization_id', 'uuid', null),
            ('resource', 'sharing_scope', 'public.sharing_scope_type', quote_literal('organization')),
            ('resource', 'deleted_at', 'timestamp with time zone', null),
            ('resource', 'updated_at', 'timestamp with time zone', 'now()'),
            ('conversations', 'owner_organization_id', 'uuid', null),
            ('conversations', 'deleted_at', 'timestamp with time zone', null),
            ('conversations', 'updated_at', 'timestamp with time zone', 'now()')
        ) as w (place, column_name, type, default_value) on w.place in (c.table_name, c.class)
        where to_regclass('public.' || c.table_name) is not null
        order by c.class, c.table_name, w.column_name
    loop
        select format_type(a.atttypid, a.atttypmod) into found
        from pg_catalog.pg_attribute a
        where a.attrelid = to_regclass('public.' || wanted.table_name)
          and a.attname = wanted.column_name
          and not a.attisdropped;
        if found is null then
            execute format('alter table public.%I add column %I %s', wanted.table_name, wanted.column_name, wanted.type);
            if wanted.default_value is not null then
                execute format('alter table public.%I alter column %I set default %s',
                    wanted.table_name, wanted.column_name, wanted.default_value);
            end if;
            insert into tenancy.added_column values (wanted.table_name, wanted.column_name);
        elsif found <> wanted.type and not (wanted.type = 'text' and found like 'character varying%') then
            raise exception 'public.%.% exists with type %, wanted is %',
                wanted.table_name, wanted.column_name, found, wanted.type
                using hint = 'Change its type, or rename it, before phase 1.';
        end if;
    end loop;
end
$$;

-- Two generations of the application at once ----------------------------------------------------------------------
-- The old one writes tenant_id, the new one owner_organization_id; each finds what the other wrote. Where both are
-- given, the owner is meant: only the new application knows it.

create or replace function tenancy.keep_owner_in_step() returns trigger
language plpgsql
set search_path = ''
as $$
begin
    if tg_op = 'INSERT' then
        new.owner_organization_id := coalesce(new.owner_organization_id, new.tenant_id);
        new.tenant_id := coalesce(new.owner_organization_id, new.tenant_id);
    elsif new.owner_organization_id is distinct from old.owner_organization_id then
        new.tenant_id := new.owner_organization_id;
    elsif new.tenant_id is distinct from old.tenant_id then
        new.owner_organization_id := new.tenant_id;
    end if;
    return new;
end
$$;

comment on function tenancy.keep_owner_in_step() is
    'Keeps tenant_id (old application) and owner_organization_id (new application) equal while both are running.';

do $$
declare
    target record;
begin
    for target in
        select c.table_name
        from tenancy.classified_table c
        join pg_catalog.pg_attribute a
            on a.attrelid = to_regclass('public.' || c.table_name) and a.attname = 'tenant_id' and not a.attisdropped
        where c.class = 'resource' or c.table_name = 'conversations'
        order by c.table_name
    loop
        execute format(
            'create or replace trigger keep_owner_in_step
             before insert or update of tenant_id, owner_organization_id on public.%I
             for each row execute function tenancy.keep_owner_in_step()',
            target.table_name);
    end loop;
end
$$;

-- PUBLIC may execute a new function unless it is said otherwise. Triggers fire without that right.
revoke all on schema tenancy from public;
revoke all on all functions in schema tenancy from public;

insert into tenancy.completed_phase (phase) values (1) on conflict do nothing;

commit;
