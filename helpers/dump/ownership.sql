-- What:  gives the tests' owner what a restored dump has in schema public, or, where tenancy.everything says so, in all schemas.
-- Needs: a superuser, in a database that was just restored. Members of extensions stay whose they are.
-- Locks: ACCESS EXCLUSIVE on each object; nobody else is in this database.

do $$
declare
    target record;
begin
    for target in
        with given (oid) as (
            select n.oid
            from pg_catalog.pg_namespace n
            where n.nspname = 'public'
               or current_setting('tenancy.everything')::boolean and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
        ),
        member (catalog, oid) as (
            select d.classid, d.objid from pg_catalog.pg_depend d where d.deptype = 'e'
        )
        select format('schema %I', n.nspname) as object
        from given
        join pg_catalog.pg_namespace n using (oid)
        where n.nspname <> 'public' and ('pg_namespace'::regclass, n.oid) not in (select * from member)
        union all
        select format('%s %s',
            case c.relkind when 'S' then 'sequence' when 'v' then 'view' when 'm' then 'materialized view'
                when 'f' then 'foreign table' when 'c' then 'type' else 'table' end,
            c.oid::regclass)
        from pg_catalog.pg_class c
        where c.relnamespace in (select oid from given)
          and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c')
          and ('pg_class'::regclass, c.oid) not in (select * from member)
          -- The sequence of a column goes with its table.
          and not exists (
              select from pg_catalog.pg_depend d
              where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass
                and d.deptype in ('a', 'i')
          )
        union all
        select format('routine %s', p.oid::regprocedure)
        from pg_catalog.pg_proc p
        where p.pronamespace in (select oid from given)
          and p.prokind <> 'a'
          and ('pg_proc'::regclass, p.oid) not in (select * from member)
        union all
        select format('aggregate %s', p.oid::regprocedure)
        from pg_catalog.pg_proc p
        where p.pronamespace in (select oid from given)
          and p.prokind = 'a'
          and ('pg_proc'::regclass, p.oid) not in (select * from member)
        union all
        select format('type %s', t.oid::regtype)
        from pg_catalog.pg_type t
        where t.typnamespace in (select oid from given)
          and t.typtype in ('e', 'd', 'r')
          and ('pg_type'::regclass, t.oid) not in (select * from member)
    loop
        execute format('alter %s owner to %I', target.object, current_setting('tenancy.owner'));
    end loop;
end
$$;
