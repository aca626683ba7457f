-- What:  the roles that the tests log in as. Their names are ours alone, and a server that has them keeps them as they are.
-- Needs: a superuser, and the roles of schema/cluster/roles.sql. Undo: drop role, once no test database is left.
-- Locks: rows of pg_authid; run under the same lock as schema/cluster/roles.sql.

do $$
declare
    wanted record;
begin
    for wanted in
        select *
        from (values
            ('tenancy_owner',    'inherit',   '{}'::text[]),    -- the owner of a database owns its schema public by membership
            ('tenancy_api',      'noinherit', '{anon,authenticated}'),
            ('tenancy_service',  'noinherit', '{service_role}'),
            ('tenancy_operator', 'inherit',   '{tenancy_owner,anon,authenticated}')
        ) as r (name, inheritance, member_of)
        where not exists (select from pg_catalog.pg_roles where rolname = r.name)
    loop
        execute format('create role %I login %s nosuperuser nobypassrls nocreaterole nocreatedb password %L',
            wanted.name, wanted.inheritance, 'tenancy');
        execute (select coalesce(string_agg(format('grant %I to %I', granted, wanted.name), '; '), 'select')
                 from unnest(wanted.member_of) as granted);
    end loop;
end
$$;
