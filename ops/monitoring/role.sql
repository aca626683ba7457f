-- What:  the role that the metrics are read as, and pg_stat_statements. Roles belong to the whole cluster.
-- Needs: who may create roles, grant pg_monitor and create the extension: a superuser, or the postgres of a hosted database.
--        Give the role a password afterwards: \password tenancy_monitor. Undo: drop schema monitoring cascade; drop role.
-- Locks: none that matter. Runs again without harm, in each database that is measured; a role that is there is left as it is.

\set ON_ERROR_STOP on

do $$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'tenancy_monitor') then
        create role tenancy_monitor login nosuperuser nobypassrls nocreatedb nocreaterole;
        alter role tenancy_monitor set default_transaction_read_only = on;
        alter role tenancy_monitor set statement_timeout = '30s';
    end if;
    -- It sees what the server counts of everybody's sessions and statements, and no row of any table.
    if not pg_has_role('tenancy_monitor', 'pg_monitor', 'MEMBER') then
        grant pg_monitor to tenancy_monitor;
    end if;

    -- Where it is preloaded, it may still lack its view. Not in public, of which row level security asks everything.
    if current_setting('shared_preload_libraries') ~ '\mpg_stat_statements\M'
        and not exists (select from pg_catalog.pg_extension where extname = 'pg_stat_statements') then
        create schema if not exists extensions;
        create extension pg_stat_statements schema extensions;
    end if;
    if exists (select from pg_catalog.pg_extension where extname = 'pg_stat_statements') then
        execute format('grant usage on schema %s to tenancy_monitor',
            (select e.extnamespace::regnamespace from pg_catalog.pg_extension e where e.extname = 'pg_stat_statements'));
    end if;
end
$$;
