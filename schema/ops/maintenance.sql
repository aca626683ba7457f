-- What:  maintenance mode, inside the database: writes of the API's roles are refused with SQLSTATE PT503, of which PostgREST
--        makes HTTP 503; reads go on. This file makes the switch, which is off; the phases neither need it nor mind it.
-- Needs: the owner of the tables, before any phase or after. Undo: ops/maintenance_removal.sql. Runs again without harm.
-- Locks: each table against writing for the moment that making a trigger takes, never waited for longer than 100 ms:
--        behind a long transaction it fails, and is run again. Switching takes no lock at all.
--
--     call maintenance.begin('the rollout');               -- service_role writes on: call maintenance.begin('…', false) for not
--     select maintenance.jobs_paused();                    -- for background jobs to ask before they begin
--     call maintenance.finish();

\set ON_ERROR_STOP on

begin;
set local statement_timeout = 0;
set local lock_timeout = '100ms';
set local search_path = '';

do $$
begin
    if not exists (
        select from pg_catalog.pg_class c where c.oid = to_regclass('public.organizations') and pg_has_role(c.relowner, 'USAGE')
    ) then
        raise exception 'maintenance mode is made by the owner of the tables, and % is not that of public.organizations', current_user
            using hint = 'Is this the right database, and the right role?';
    end if;
    if to_regnamespace('maintenance') is not null and to_regclass('maintenance.state') is null then
        raise exception 'there is a schema maintenance already, and it is not this one'
            using hint = 'Rename it first.';
    end if;
end
$$;

create schema if not exists maintenance;

create table if not exists maintenance.state (
    only_row boolean primary key default true check (only_row),
    since timestamptz,                       -- null: it is off
    reason text,
    service_role_writes boolean not null default true
);
insert into maintenance.state default values on conflict do nothing;

-- Who switched it when, and why: nothing is ever taken from it.
create table if not exists maintenance.history (
    at timestamptz not null default clock_timestamp(),
    role text not null default session_user,
    switched text not null check (switched in ('on', 'off')),
    reason text,
    service_role_writes boolean
);

-- As the role that the API took on, also inside a function that runs as its owner; who that is, and what he may read, is no
-- reason to refuse him while the mode is off.
create or replace function maintenance.refuse() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    caller constant text := coalesce(nullif(current_setting('role'), 'none'), session_user);
    s maintenance.state;
begin
    if caller in ('anon', 'authenticated', 'service_role') then
        select * into s from maintenance.state;
        if s.since is not null and not (caller = 'service_role' and s.service_role_writes) then
            raise sqlstate 'PT503' using message = 'maintenance: nothing can be written at the moment', detail = s.reason,
                hint = 'Try again later.';
        end if;
    end if;
    return null;
end
$$;

create or replace function maintenance.jobs_paused() returns boolean
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select since is not null from maintenance.state;
end;

-- Returns when nobody writes any more who did before: whoever began to write earlier may come to his end, for a minute.
create or replace procedure maintenance.begin(p_reason text, p_service_role_writes boolean default true)
language plpgsql
as $$
declare
    writing text[];
begin
    update maintenance.state s
    set since = coalesce(s.since, pg_catalog.clock_timestamp()), reason = p_reason, service_role_writes = p_service_role_writes
    where (s.since is null, s.reason, s.service_role_writes) is distinct from (false, p_reason, p_service_role_writes);
    if found then
        insert into maintenance.history (switched, reason, service_role_writes) values ('on', p_reason, p_service_role_writes);
    end if;
    commit;
    writing := array(
        select distinct l.virtualtransaction
        from pg_catalog.pg_locks l
        join pg_catalog.pg_class c on c.oid = l.relation and c.relnamespace = 'public'::pg_catalog.regnamespace
        where l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
          and l.mode = 'RowExclusiveLock' and l.granted and l.pid <> pg_catalog.pg_backend_pid()
    );
    for tenth in 1..600 loop
        exit when not exists (select from pg_catalog.pg_locks l where l.virtualtransaction = any (writing));
        perform pg_catalog.pg_sleep(0.1);
        rollback;
    end loop;
    if exists (select from pg_catalog.pg_locks l where l.virtualtransaction = any (writing)) then
        raise exception 'maintenance mode is on, and somebody who began to write before it has not come to an end in a minute'
            using hint = 'End that session (pg_terminate_backend), or call maintenance.begin() once more.';
    end if;
end
$$;

create or replace procedure maintenance.finish()
language plpgsql
as $$
begin
    update maintenance.state s set since = null, reason = null, service_role_writes = true where s.since is not null;
    if found then
        insert into maintenance.history (switched) values ('off');
    end if;
    commit;
end
$$;

do $$
declare
    target record;
begin
    for target in
        select c.oid::regclass as relation
        from pg_catalog.pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and pg_has_role(c.relowner, 'USAGE')
        order by c.relname
    loop
        execute format('create or replace trigger aa_maintenance before insert or update or delete on %s
            for each statement execute function maintenance.refuse()', target.relation);
        execute format('create or replace trigger aa_maintenance_truncate before truncate on %s
            for each statement execute function maintenance.refuse()', target.relation);
    end loop;
end
$$;

-- Default privileges may have given the API roles everything on what is new.
revoke all on all tables in schema maintenance from public, anon, authenticated, service_role;
revoke all on all routines in schema maintenance from public, anon, authenticated, service_role;
grant usage on schema maintenance to anon, authenticated, service_role;
grant select on maintenance.state to anon, authenticated, service_role;
grant execute on function maintenance.jobs_paused() to anon, authenticated, service_role;

commit;
