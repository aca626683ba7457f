-- What:  takes phase 1 back: exactly what it added goes, and nothing that was there before.
-- Needs: phase 1 as the latest phase, run by the owner of the tables. Undo: run phase 1 again.
-- Locks: ACCESS EXCLUSIVE on each table for a catalog change, given up after 2 s of waiting. What the new application
--        wrote into the added columns is lost; tenant_id has it too.

begin;
set local lock_timeout = '2s';
set local search_path = '';

do $$ begin perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('tenancy.migration')); end $$;

do $$
declare
    later integer;
    target record;
begin
    if to_regclass('tenancy.completed_phase') is null then
        raise notice 'phase 1 is not there: nothing to take back';
        return;
    end if;

    select max(phase) into later from tenancy.completed_phase where phase > 1;
    if later is not null then
        raise exception 'phase % is complete: roll it back before phase 1', later;
    end if;

    -- Triggers first: they mention the columns.
    for target in
        select t.tgname, t.tgrelid::regclass as relation
        from pg_catalog.pg_trigger t
        where t.tgfoid = 'tenancy.keep_owner_in_step()'::regprocedure
    loop
        execute format('drop trigger %I on %s', target.tgname, target.relation);
    end loop;

    for target in
        select table_name, string_agg(format('drop column %I', column_name), ', ') as drops
        from tenancy.added_column
        group by table_name
        order by table_name
    loop
        execute format('alter table public.%I %s', target.table_name, target.drops);
    end loop;

    for target in select type_name from tenancy.added_type loop
        execute format('drop type public.%I', target.type_name);
    end loop;

    drop table tenancy.completed_phase, tenancy.added_type, tenancy.added_column, tenancy.organization_mapping, tenancy.classified_table;
    drop function tenancy.keep_owner_in_step();
    drop schema tenancy;
end
$$;

commit;
