-- What:  phase 1, expand. Adds the columns and enums of the hierarchy; everything the old application does goes on working.
-- Needs: the legacy tables, run by their owner. Undo: rollbacks/20251126_001_hierarchical_multitenancy_phase1_rollback.sql.
-- Locks: ACCESS EXCLUSIVE on all tables for an instant, once nobody uses them; no row is read or written. See lock_tables.

\set ON_ERROR_STOP on

begin;
set local statement_timeout = 0;
set local search_path = '';

-- Refuse what cannot work -----------------------------------------------------------------------------------------

do $$
declare
    missing text;
begin
    if current_setting('server_version_num')::integer < 150000 then
        raise exception 'phase 1 needs PostgreSQL 15 or later, this is %', current_setting('server_version');
    end if;

    if not pg_try_advisory_xact_lock(hashtextextended('tenancy.migration', 0)) then
        raise exception 'another migration of this database is running'
            using hint = 'Wait until it has ended, then run this again.';
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

    if to_regclass('tenancy.undo') is null and coalesce(to_regnamespace('tenancy'), to_regnamespace('authz')) is not null then
        raise exception 'phase 1 makes the schemas tenancy and authz, and there is one of that name already'
            using hint = 'Rename it before phase 1.';
    end if;

    -- Its triggers let the old application's flags share a row, and from phase 4 on users write those.
    if to_regclass('tenancy.completed_phase') is not null then
        if exists (select from tenancy.completed_phase where phase > 3) then
            raise exception 'phase 4 is complete, and phase 1 would bring back the triggers for the old application'
                using hint = 'Roll phase 4 back before you run phase 1 again.';
        end if;
    end if;
end
$$;

-- Bookkeeping -----------------------------------------------------------------------------------------------------
-- tenancy is what the migrations know; no API role may enter it. authz is who may do what, for the policies of phase 4.

create schema if not exists tenancy;
create schema if not exists authz;

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

-- Whether somebody has a table for longer than a moment: a vacuum, an index build, another migration. To queue behind it
-- would make everybody wait who comes after, again and again.
create or replace function tenancy.tables_in_use() returns boolean
language sql
begin atomic
    select exists (
        select
        from tenancy.classified_table t
        join pg_catalog.pg_locks l on l.relation = to_regclass('public.' || t.table_name)
        join pg_catalog.pg_database d on d.oid = l.database
        where d.datname = current_database()
          and l.granted
          and l.pid <> pg_backend_pid()
          and l.mode in ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    );
end;

-- Takes every table at once, for a transaction that changes several: who took them one after another would keep callers of
-- the first waiting for those of the last, and die with them in a deadlock. Whoever queues behind it waits for a tenth of
-- a second at most; then it lets go of everything, steps aside and tries again, for about five minutes, or longer behind a
-- vacuum. The tables that others refer to come last, as they do in the application's own transactions.
create or replace procedure tenancy.lock_tables()
language plpgsql
as $$
declare
    attempt integer := 0;
    deadline timestamptz;
    target record;
begin
    loop
        attempt := attempt + 1;
        for tenth in 1..100 loop
            exit when not tenancy.tables_in_use();
            perform pg_catalog.pg_sleep(0.1);
        end loop;
        deadline := clock_timestamp() + interval '100 ms';
        begin
            for target in
                select t.table_name
                from tenancy.classified_table t
                where to_regclass('public.' || t.table_name) is not null
                order by array_position('{private,resource,directory,evidence}', t.class), t.table_name desc
            loop
                perform pg_catalog.set_config('lock_timeout',
                    greatest(1, extract(milliseconds from deadline - clock_timestamp()))::integer || 'ms', true);
                execute format('lock table public.%I in access exclusive mode', target.table_name);
            end loop;
            exit;
        -- What was locked in this block is free again.
        exception when lock_not_available or deadlock_detected then
            if attempt >= 300 then
                raise;
            end if;
        end;
        perform pg_catalog.pg_sleep(least(0.05 * attempt, 1));
    end loop;
    -- Of all else, nothing is in use for long.
    perform pg_catalog.set_config('lock_timeout', '100ms', true);
end
$$;

call tenancy.lock_tables();

-- Views and functions of other schemas that read the tables for API roles, past row level security, and functions of others
-- that triggers run, that somebody has looked at: phase 4 refuses any other.
create table if not exists tenancy.trusted_object (
    identity text primary key,  -- as regclass or regprocedure prints it with an empty search_path
    reason text not null
);

-- The tenants that the legacy data knows. A legacy row is one of them if it has both the type and the key; companies
-- carry the type too. Another tenant is added here before phase 2,
-- or declared by its row, with organization_type 'tenant'.
create table if not exists tenancy.legacy_tenant (
    tenant_type text primary key,
    tenant_key text not null unique
);

insert into tenancy.legacy_tenant (tenant_type, tenant_key)
values ('pharmaceuticals', 'pharma'), ('digital_health', 'digital-health')
on conflict do nothing;

-- Who belongs to which tenant, where the data does not say: filled in by the operator before phase 2, and final.
create table if not exists tenancy.organization_mapping (
    organization_id uuid primary key references public.organizations (id) on delete cascade,
    tenant_id uuid not null references public.organizations (id) on delete cascade,
    constraint organization_mapping_not_itself check (organization_id <> tenant_id)
);

-- How to take back what a phase did to things that may have been there before. A rollback runs the statements of its
-- phase, the latest first: it removes and restores that and no more.
create table if not exists tenancy.undo (
    id bigint primary key generated always as identity,
    phase integer not null check (phase between 1 and 4),
    statement text not null
);

-- Which phases are complete.
create table if not exists tenancy.completed_phase (
    phase integer primary key check (phase between 1 and 4),
    completed_at timestamptz not null default now()
);

-- Runs statements of a later phase in a transaction of their own. Whoever queues behind them waits as long as they do:
-- so they wait for a lock a moment only (and less than the server takes to look for a deadlock, which is therefore
-- always resolved at the migration's cost), then step aside and try again, for about five minutes, or longer behind a vacuum.
create or replace procedure tenancy.patiently(p_statements text)
language plpgsql
as $$
declare
    attempt integer := 0;
begin
    loop
        attempt := attempt + 1;
        begin
            perform pg_catalog.set_config('lock_timeout', '100ms', true);
            perform pg_catalog.set_config('tenancy.backfill', 'on', true);
            execute p_statements;
            exit;
        exception when lock_not_available or deadlock_detected then
            if attempt >= 300 then
                raise;
            end if;
        end;
        rollback;
        perform pg_catalog.pg_sleep(least(0.05 * attempt, 1));
        for tenth in 1..100 loop
            rollback;
            exit when not tenancy.tables_in_use();
            perform pg_catalog.pg_sleep(0.1);
        end loop;
    end loop;
    commit;
end
$$;

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
            insert into tenancy.undo (phase, statement) values (1, format('drop type public.%I', wanted.name));
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
--
-- Two columns of organizations and two of each resource are derived: by trigger, and proven by constraints from phase 3
-- on. They are plain columns because adding a generated one rewrites the table under an exclusive lock.

do $$
declare
    wanted record;
    found text;
begin
    for wanted in
        select c.table_name, w.column_name, w.type, w.default_value, w.meaning
        from tenancy.classified_table c
        join (values
            ('organizations', 'parent_organization_id', 'uuid', null, 'the tenant of an organization, the platform for a tenant'),
            ('organizations', 'organization_type', 'public.organization_type', null, 'its level'),
            ('organizations', 'slug', 'text', null, 'its name in addresses, unique among those that are not deleted'),
            ('organizations', 'deleted_at', 'timestamp with time zone', null, 'when it was softly deleted'),
            ('organizations', 'updated_at', 'timestamp with time zone', 'now()', null),
            ('organizations', 'parent_organization_type', 'public.organization_type', null, 'derived: the level above its own, for the foreign key'),
            ('organizations', 'tenant_organization_id', 'uuid', null, 'derived: the tenant, for a tenant itself, null for the platform'),
            ('resource', 'owner_organization_id', 'uuid', null, 'whose it is'),
            ('resource', 'sharing_scope', 'public.sharing_scope_type', quote_literal('organization'), 'who reads it: the owner''s members, those of the owner''s tenant, or everybody'),
            ('resource', 'deleted_at', 'timestamp with time zone', null, 'when it was softly deleted'),
            ('resource', 'updated_at', 'timestamp with time zone', 'now()', null),
            ('resource', 'owner_tenant_id', 'uuid', null, 'derived: the owner''s tenant, null for the platform''s'),
            ('resource', 'audience_key', 'uuid', null, 'derived: who reads it, as the one value that policies compare'),
            ('conversations', 'owner_organization_id', 'uuid', null, 'in which of its organizations the user has it'),
            ('conversations', 'deleted_at', 'timestamp with time zone', null, 'when it was softly deleted'),
            ('conversations', 'updated_at', 'timestamp with time zone', 'now()', null)
        ) as w (place, column_name, type, default_value, meaning) on w.place in (c.table_name, c.class)
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
            execute format('comment on column public.%I.%I is %L', wanted.table_name, wanted.column_name, wanted.meaning);
            insert into tenancy.undo (phase, statement)
            values (1, format('alter table public.%I drop column %I', wanted.table_name, wanted.column_name));
        elsif found <> wanted.type and not (wanted.type = 'text' and found like 'character varying%') then
            raise exception 'public.%.% exists with type %, wanted is %',
                wanted.table_name, wanted.column_name, found, wanted.type
                using hint = 'Change its type, or rename it, before phase 1.';
        end if;
    end loop;
end
$$;

-- Derived columns -------------------------------------------------------------------------------------------------
-- The audience key is the one value that says who may read a row, so that a policy can be one indexable equality. A row
-- that is private to its owner has the owner's id. One that is shared has the id of the tenant or the platform with the
-- nibble f in the place of the UUID's version, which no organization's id has: under the bare id of the tenant, every
-- organization below it would read what is private to the tenant's own people. No two ids differ in the version alone:
-- phase 3 sees to both.

create or replace function authz.shared_key(p_organization_id uuid) returns uuid
language sql immutable parallel safe
return overlay(p_organization_id::text placing 'f' from 15 for 1)::uuid;

create or replace function authz.audience_key(p_scope public.sharing_scope_type, p_owner uuid, p_owner_tenant uuid)
returns uuid
language sql immutable parallel safe
return case
    when p_owner is null then null
    when p_scope = 'organization' then p_owner
    when p_scope = 'tenant' then authz.shared_key(p_owner_tenant)
    when p_scope = 'platform' then authz.shared_key('00000000-0000-0000-0000-000000000001')
end;

create or replace function tenancy.set_tenant() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    new.parent_organization_type := case new.organization_type
        when 'organization' then 'tenant'::public.organization_type
        when 'tenant' then 'platform'
    end;
    new.tenant_organization_id := case new.organization_type
        when 'organization' then new.parent_organization_id
        when 'tenant' then new.id
    end;
    return new;
end
$$;

create or replace function tenancy.set_audience() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if (new.owner_organization_id, new.sharing_scope, new.owner_tenant_id, new.audience_key)
        is not distinct from (old.owner_organization_id, old.sharing_scope, old.owner_tenant_id, old.audience_key) then
        return new;
    end if;
    new.owner_tenant_id := (
        select o.tenant_organization_id from public.organizations o where o.id = new.owner_organization_id
    );
    new.audience_key := authz.audience_key(new.sharing_scope, new.owner_organization_id, new.owner_tenant_id);
    return new;
end
$$;

-- Two generations of the application at once ----------------------------------------------------------------------
-- The old one writes tenant_id and the flags is_public and is_tenant_shared, the new one owner_organization_id and
-- sharing_scope; each finds what the other wrote. Only a scope does not become a flag: until phase 4 the old policies
-- rule, and the flags are what they go by. On INSERT, old is a row of NULLs: one without an owner and without flags.

-- Where both an owner and a tenant_id are given, the owner is meant: only the new application knows it.
create or replace function tenancy.keep_owner_in_step() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    if new.owner_organization_id is distinct from old.owner_organization_id then
        new.tenant_id := new.owner_organization_id;
    elsif new.tenant_id is distinct from old.tenant_id then
        new.owner_organization_id := new.tenant_id;
    end if;
    return new;
end
$$;

-- tenancy.legacy_scope(row) is the scope that a row's flags stand for: a function for each table, because each keeps
-- its flags elsewhere. 'true', in any letter case, is the only yes, as it is for the old policies; a flag that is kept
-- both in a column and in metadata must say so in both.
do $$
declare
    target record;
begin
    for target in
        select
            c.table_name,
            string_agg(format('when %s then %L', flag.is_set, flag.scope), ' ' order by flag.scope)
                filter (where flag.scope is not null) as conditions
        from tenancy.classified_table c
        left join lateral (
            select
                w.scope,
                case count(*)
                    when 1 then format($f$%s = 'true'$f$, min(place.value))
                    else format($f$coalesce(%1$s, %2$s) = 'true' and coalesce(%2$s, %1$s) = 'true'$f$,
                        min(place.value), max(place.value))
                end as is_set
            from (values ('is_public', 'platform'), ('is_tenant_shared', 'tenant')) as w (flag, scope)
            join lateral (
                select case a.attname
                    when 'metadata' then format('lower((p_row).metadata ->> %L)', w.flag)
                    else format('lower((p_row).%I::text)', a.attname)
                end as value
                from pg_catalog.pg_attribute a
                where a.attrelid = to_regclass('public.' || c.table_name)
                  and (a.attname = w.flag
                       or a.attname = 'metadata' and a.atttypid in ('json'::regtype, 'jsonb'::regtype))
                  and not a.attisdropped
            ) as place on true
            group by w.scope
        ) as flag on true
        where c.class = 'resource' and to_regclass('public.' || c.table_name) is not null
        group by c.table_name
    loop
        execute format(
            'create or replace function tenancy.legacy_scope(p_row public.%I) returns public.sharing_scope_type
             language sql stable
             as $f$ select (case %s else ''organization'' end)::public.sharing_scope_type $f$',
            target.table_name, coalesce(target.conditions, 'when false then null'));
    end loop;
end
$$;

-- A scope that is given stands, unless the flags share the row: 'organization' may be the column's default.
create or replace function tenancy.keep_scope_in_step() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    flagged public.sharing_scope_type := tenancy.legacy_scope(new);
begin
    if flagged <> tenancy.legacy_scope(old) then
        new.sharing_scope := flagged;
    elsif tg_op = 'INSERT' or new.owner_organization_id is not distinct from old.owner_organization_id then
        return new;
    end if;
    -- The platform has no tenant to share with; a row may come to it that was shared with one before.
    if new.sharing_scope = 'tenant' and exists (
        select from public.organizations o
        where o.id = new.owner_organization_id and o.organization_type = 'platform'
    ) then
        new.sharing_scope := 'organization';
    end if;
    return new;
end
$$;

-- Triggers of one event fire in the order of their names: the audience comes after what it depends on. The backfill of
-- phase 2 writes all these columns itself, and leaves alone what the old application sees.
do $$
declare
    target record;
begin
    create or replace trigger set_tenant
        before insert or update on public.organizations
        for each row execute function tenancy.set_tenant();

    for target in
        select c.table_name, w.trigger_name
        from tenancy.classified_table c
        join (values
            ('resource', 'keep_owner_in_step'),
            ('resource', 'keep_scope_in_step'),
            ('resource', 'set_audience'),
            ('conversations', 'keep_owner_in_step')
        ) as w (place, trigger_name) on w.place in (c.table_name, c.class)
        where to_regclass('public.' || c.table_name) is not null
          and (w.trigger_name <> 'keep_owner_in_step' or exists (
              select from pg_catalog.pg_attribute a
              where a.attrelid = to_regclass('public.' || c.table_name)
                and a.attname = 'tenant_id'
                and not a.attisdropped
          ))
        order by c.table_name, w.trigger_name
    loop
        execute format(
            $f$
            create or replace trigger %1$I
            before insert or update on public.%2$I
            for each row when (current_setting('tenancy.backfill', true) is distinct from 'on')
            execute function tenancy.%1$I()
            $f$,
            target.trigger_name, target.table_name);
    end loop;
end
$$;

-- Descriptions -------------------------------------------------------------------------------------------------------
-- For docs/functions.md and docs/schema.md, and for who looks at them with \df+ and \d+.

do $$
declare
    described record;
begin
    for described in
        select *
        from (values
            ('table', 'tenancy.classified_table',
                'The class of each table of public, which decides who may do what with its rows.'),
            ('table', 'tenancy.trusted_object',
                'Views and functions in other schemas that read the tables for API roles, and others'' functions that triggers run, that somebody has looked at: phase 4 refuses any other.'),
            ('table', 'tenancy.legacy_tenant',
                'By which type and key a legacy row is one of the tenants.'),
            ('table', 'tenancy.organization_mapping',
                'The tenant of an organization, where the operator says it: filled in before phase 2, and final.'),
            ('table', 'tenancy.undo',
                'The statements by which a rollback takes a phase back, the latest first.'),
            ('table', 'tenancy.completed_phase',
                'Which phases are complete, and since when.'),
            ('function', 'tenancy.tables_in_use()',
                'Whether somebody has one of the tables for longer than a moment: a vacuum, an index build, another migration.'),
            ('procedure', 'tenancy.lock_tables()',
                'Locks every table at once, for a transaction that changes several, without making anybody wait longer than a tenth of a second. Error: lock_not_available (55P03) after five minutes.'),
            ('procedure', 'tenancy.patiently(text)',
                'Runs statements in a transaction of their own, and again when they could not get a lock within a tenth of a second. Error: lock_not_available (55P03) after five minutes.'),
            ('function', 'authz.shared_key(uuid)',
                'The audience key of what an organization shares with all below it: its id with an f in the place of the version.'),
            ('function', 'authz.audience_key(public.sharing_scope_type, uuid, uuid)',
                'Who may read a row, as one value: from its scope, its owner and its owner''s tenant. Null where there is no owner.'),
            ('function', 'tenancy.set_tenant()',
                'Trigger: derives parent_organization_type and tenant_organization_id of an organization.'),
            ('function', 'tenancy.set_audience()',
                'Trigger: derives owner_tenant_id and audience_key of a resource.'),
            ('function', 'tenancy.keep_owner_in_step()',
                'Trigger: keeps tenant_id, which the old application writes, and owner_organization_id equal.'),
            ('function', 'tenancy.keep_scope_in_step()',
                'Trigger: gives a row the scope that its flags stand for, which the old application writes.')
        ) as d (kind, identity, text)
    loop
        execute format('comment on %s %s is %L', described.kind, described.identity, described.text);
    end loop;

    for described in
        select to_regclass('public.' || t.table_name) as relation
        from tenancy.classified_table t
        where t.class = 'resource' and to_regclass('public.' || t.table_name) is not null
    loop
        execute format('comment on function tenancy.legacy_scope(%s) is %L', described.relation,
            'The scope that the flags of the old application stand for.');
    end loop;
end
$$;

-- PUBLIC may execute a new function unless it is said otherwise. Triggers fire without that right.
revoke all on schema tenancy, authz from public;
revoke all on all routines in schema tenancy from public;
revoke all on all routines in schema authz from public;

insert into tenancy.completed_phase (phase) values (1) on conflict do nothing;

commit;
