-- What:  the API roles of a Supabase-style server. Roles belong to the whole cluster, so this is the only file that touches them.
-- Needs: a superuser (only a superuser may create a BYPASSRLS role). Undo: none, the roles are shared by every database of the server.
-- Locks: rows of pg_authid. Two sessions running it at once fail with "tuple concurrently updated": run it under a lock.

-- Only what is missing is created. A role that is there already, as on Supabase, is left exactly as it is.
do $$
declare
    wanted record;
begin
    for wanted in
        select *
        from (values
            ('anon',          'nologin noinherit'),
            ('authenticated', 'nologin noinherit'),
            ('service_role',  'nologin noinherit bypassrls'),
            ('authenticator', 'login noinherit')
        ) as r (name, attributes)
    loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted.name) then
            execute format('create role %I %s', wanted.name, wanted.attributes);
        end if;
    end loop;

    -- PostgREST logs in as authenticator and becomes one of the three for each request.
    for wanted in
        select rolname as name
        from pg_catalog.pg_roles
        where rolname in ('anon', 'authenticated', 'service_role')
          and not pg_catalog.pg_has_role('authenticator', oid, 'member')
    loop
        execute format('grant %I to authenticator', wanted.name);
    end loop;
end
$$;
