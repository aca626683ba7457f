-- Stops the server it runs in when nobody has used it for as many seconds as tenancy.linger says. Each test
-- process holds a shared lock for as long as it lives, and the server gives the lock back however it ended.
--
-- A server that is at work on a statement does not look whether its client is still there: this one outlives
-- the client that sent it. A second one leaves at once, so that whoever comes may start one.
do $$
declare
    watchdog constant bigint := hashtextextended('tenancy pgtest watchdog', 0);
    users constant bigint := hashtextextended('tenancy pgtest users', 0);
    linger constant numeric := current_setting('tenancy.linger');
    idle integer := 0;
begin
    if not pg_try_advisory_lock(watchdog) then
        return;
    end if;
    loop
        perform pg_sleep(1);
        commit; -- a transaction that stayed open would keep vacuum from its work
        if not pg_try_advisory_lock(users) then
            idle := 0;
            continue;
        end if;
        idle := idle + 1;
        -- The database of a failed test is there to be looked at.
        if exists (
            select from pg_database d
            where starts_with(d.datname, 'tenancy_c_')
              and substring(shobj_description(d.oid, 'pg_database') from '^kept until (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)$')::timestamptz > now()
        ) then
            idle := 0;
        end if;
        if idle >= linger then
            -- Under the lock: whoever comes now waits for it, loses the connection, and starts another server.
            execute format('copy (select where false) to program %L', 'kill -INT ' || split_part(pg_read_file('postmaster.pid'), e'\n', 1));
            perform pg_sleep(60);
        end if;
        perform pg_advisory_unlock(users);
    end loop;
end $$
