-- What:  takes phase 3 back: its constraints, indexes, functions and statistics go, the legacy keys return.
-- Needs: phase 3 as the latest phase, complete or not, run by the owner of the tables, outside a transaction (psql -f).
--        The audit history that phase 4 has written goes too: export it, then say so with
--        PGOPTIONS='-c tenancy.discard_audit_logs=yes'. Undo: run phase 3 again.
-- Locks: ACCESS EXCLUSIVE on a table for an instant at a time, never waited for longer than 100 ms at a time. Killed at
--        any point and run again, it does the rest.

\set ON_ERROR_STOP on

set statement_timeout = 0;
set search_path = '';

do $$
declare
    step record;
    history boolean := false;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('tenancy.migration', 0)) then
        raise exception 'another migration of this database is running'
            using hint = 'Wait until it has ended, then run this again.';
    end if;
    if to_regclass('tenancy.planned_index') is null then
        raise notice 'phase 3 is not there: nothing to take back';
        return;
    end if;
    if exists (select from tenancy.completed_phase where phase > 3) then
        raise exception 'phase 4 is complete: roll it back before phase 3';
    end if;
    if to_regclass('public.audit_logs') is not null then
        execute 'select exists (select from public.audit_logs)' into history;
    end if;
    -- Or of its partitions one that audit.detach_partitions() has detached, and nobody exported and dropped.
    history := history or exists (
        select from pg_catalog.pg_class c
        where c.relnamespace = to_regnamespace('audit') and c.relkind = 'r' and not c.relispartition
    );
    if history and coalesce(current_setting('tenancy.discard_audit_logs', true), '') <> 'yes' then
        raise exception 'public.audit_logs has a history, and this rollback drops it'
            using hint = 'Export it, and the months in schema audit that are detached, then run this with '
                'PGOPTIONS=''-c tenancy.discard_audit_logs=yes''.';
    end if;
    -- Beyond this transaction, now that nothing is refused: a refusal must not leave the lock to its session.
    perform pg_advisory_lock(hashtextextended('tenancy.migration', 0));
    delete from tenancy.completed_phase where phase = 3;
    commit;

    for step in select id, statement from tenancy.undo where phase = 3 order by id desc loop
        call tenancy.patiently(format('%s; delete from tenancy.undo where id = %s', step.statement, step.id));
    end loop;

    -- Left by a run that was killed between two statements.
    for step in
        select c.conrelid::regclass as relation, c.conname
        from pg_catalog.pg_constraint c
        join tenancy.classified_table t on to_regclass('public.' || t.table_name) = c.conrelid
        where c.conname ~ format('^%s_\w+_filled$', t.table_name)
    loop
        call tenancy.patiently(format('alter table %s drop constraint %I', step.relation, step.conname));
    end loop;

    for step in select f.signature from tenancy.api_function f loop
        call tenancy.patiently(format('drop function if exists %s', step.signature));
    end loop;

    for step in
        select c.oid::regclass as relation
        from pg_catalog.pg_class c
        where c.relnamespace = to_regnamespace('audit') and c.relkind = 'r' and not c.relispartition
    loop
        call tenancy.patiently(format('drop table %s', step.relation));
    end loop;

    -- Nobody but these functions and views uses each other.
    call tenancy.patiently($statements$
        drop view if exists public.organization_stats;
        drop materialized view if exists tenancy.organization_stats;
        drop table if exists public.audit_logs;
        drop function if exists
            audit.make_partitions(integer),
            public.refresh_organization_stats(),
            authz.searchable(text, text),
            authz.visible_organizations_of(uuid),
            authz.suspended_organizations(),
            authz.audiences_of(uuid),
            authz.member_organizations(),
            authz.organizations_of(uuid, text[]),
            authz.require_self(uuid),
            authz.is_privileged();
        drop procedure if exists audit.detach_partitions(interval);
        drop view if exists authz.live_organization;
        drop schema if exists audit;
    $statements$);
    revoke all on function authz.audience_key(public.sharing_scope_type, uuid, uuid), authz.shared_key(uuid)
        from anon, authenticated, service_role;
    drop table tenancy.planned_index, tenancy.planned_constraint, tenancy.api_function, tenancy.refreshed_statistics;
    perform pg_advisory_unlock(hashtextextended('tenancy.migration', 0));
end
$$;

reset statement_timeout;
reset search_path;
