-- What:  the schedule of crontab, by pg_cron: the same commands at the same times, as the role that runs this.
-- Needs: the extension pg_cron in this database (cron.database_name), and the owner of the tables, who may use schema cron.
--        Undo: select cron.unschedule(jobname) from cron.job where jobname like 'tenancy %'.
-- Locks: none. Runs again without harm: a job of one name is replaced.

\set ON_ERROR_STOP on

do $$
begin
    if to_regnamespace('cron') is null then
        raise exception 'there is no pg_cron in this database'
            using hint = 'create extension pg_cron, as a superuser, where cron.database_name says; or use ops/schedule/crontab.';
    end if;
end
$$;

select cron.schedule('tenancy statistics', '*/15 * * * *', 'select public.refresh_organization_stats()');
select cron.schedule('tenancy audit months', '20 3 * * *', 'select audit.make_partitions(3)');
select cron.schedule('tenancy audit retention', '40 3 1 * *', 'call audit.detach_partitions()');
