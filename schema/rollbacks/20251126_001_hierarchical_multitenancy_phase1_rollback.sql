-- What:  takes phase 1 back: exactly what it added goes, and nothing that was there before.
-- Needs: phase 1 as the latest phase, run by the owner of the tables. Undo: run phase 1 again.
-- Locks: ACCESS EXCLUSIVE on all tables for an instant, once nobody uses them (tenancy.lock_tables in phase 1). What the
--        new application wrote into the added columns is lost; tenant_id has it too.

\set ON_ERROR_STOP on

begin;
set local statement_timeout = 0;
set local lock_timeout = '2s';
set local search_path = '';

do $$
declare
    later integer;
    step record;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('tenancy.migration', 0)) then
        raise exception 'another migration of this database is running'
            using hint = 'Wait until it has ended, then run this again.';
    end if;
    if to_regclass('tenancy.completed_phase') is null then
        raise notice 'phase 1 is not there: nothing to take back';
        return;
    end if;
    select max(phase) into later from tenancy.completed_phase where phase > 1;
    if later is not null then
        raise exception 'phase % is complete: roll it back before phase 1', later;
    end if;
    if to_regclass('tenancy.journal') is not null then
        raise exception 'phase 2 has begun: roll it back before phase 1';
    end if;

    -- An autovacuum of what is dropped at the end gives way after a second, and then there is a tenth of one only. So it is
    -- waited for here, where nobody waits behind; from now on none begins.
    lock table tenancy.completed_phase, tenancy.undo, tenancy.organization_mapping, tenancy.legacy_tenant, tenancy.trusted_object,
        tenancy.classified_table in share update exclusive mode;
    call tenancy.lock_tables();

    -- Triggers first: they mention the columns.
    for step in
        select t.tgname, t.tgrelid::regclass as relation
        from pg_catalog.pg_trigger t
        join pg_catalog.pg_proc f on f.oid = t.tgfoid
        where f.pronamespace = 'tenancy'::regnamespace and not t.tgisinternal
    loop
        execute format('drop trigger %I on %s', step.tgname, step.relation);
    end loop;

    for step in
        select f.oid::regprocedure as signature
        from pg_catalog.pg_proc f
        where f.pronamespace in ('tenancy'::regnamespace, 'authz'::regnamespace)
        -- audience_key() calls shared_key().
        order by f.proname
    loop
        execute format('drop routine %s', step.signature);
    end loop;

    for step in select statement from tenancy.undo where phase = 1 order by id desc loop
        execute step.statement;
    end loop;

    drop table tenancy.completed_phase, tenancy.undo, tenancy.organization_mapping, tenancy.legacy_tenant, tenancy.trusted_object,
        tenancy.classified_table;
    drop schema tenancy;
    drop schema authz;
end
$$;

commit;
