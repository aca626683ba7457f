-- What:  takes maintenance mode away, and with it the history of its switching, which it tells.
-- Needs: the owner of the tables; the mode must be off. Undo: ops/maintenance.sql. Runs again without harm.
-- Locks: ACCESS EXCLUSIVE on each table for an instant, never waited for longer than 100 ms: behind a long transaction it
--        fails, has changed nothing, and is run again.

\set ON_ERROR_STOP on

begin;
set local statement_timeout = 0;
set local lock_timeout = '100ms';
set local search_path = '';

do $$
declare
    target record;
begin
    if to_regclass('maintenance.state') is null then
        raise notice 'maintenance mode is not there: nothing to take away';
        return;
    end if;
    if exists (select from maintenance.state where since is not null) then
        raise exception 'maintenance mode is on' using hint = 'call maintenance.finish() first.';
    end if;
    for target in select * from maintenance.history order by at loop
        raise notice 'maintenance mode was switched % at % by %: %', target.switched, target.at, target.role, target.reason;
    end loop;
    for target in
        select t.tgname, t.tgrelid::regclass as relation
        from pg_catalog.pg_trigger t
        where t.tgfoid = 'maintenance.refuse()'::regprocedure and t.tgparentid = 0
    loop
        execute format('drop trigger %I on %s', target.tgname, target.relation);
    end loop;
    drop table maintenance.state, maintenance.history cascade;
    drop schema maintenance cascade;
end
$$;

commit;
