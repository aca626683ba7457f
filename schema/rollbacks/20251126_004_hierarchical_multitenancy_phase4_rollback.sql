-- What:  takes phase 4 back: the policies, privileges and triggers of phase 3 return as they were. The audit history stays.
-- Needs: phase 4, run by the owner of the tables and of the database. Undo: run phase 4 again.
-- Locks: ACCESS EXCLUSIVE on all tables for an instant, once nobody uses them (tenancy.lock_tables in phase 1), and for
--        as long as the unique indexes on the codes of use_cases and capabilities take. All or nothing, in one transaction.
--        From then on the database is as open as it was: to the old policies a row that was softly deleted is a row like
--        any other, and who reads it is what its flags say, not its scope.

\set ON_ERROR_STOP on

begin;
set local statement_timeout = 0;
set local search_path = '';

do $$
declare
    complete boolean := false;
    step record;
    detail text;
    hidden bigint;
    unshared bigint;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('tenancy.migration', 0)) then
        raise exception 'another migration of this database is running'
            using hint = 'Wait until it has ended, then run this again.';
    end if;
    if to_regclass('tenancy.completed_phase') is not null then
        complete := exists (select from tenancy.completed_phase where phase = 4);
    end if;
    if not complete then
        raise notice 'phase 4 is not there: nothing to take back';
        return;
    end if;

    for step in
        select t.table_name
        from tenancy.classified_table t
        where t.class = 'resource' and to_regclass('public.' || t.table_name) is not null
        order by t.table_name
    loop
        execute format('select count(*) from public.%I where deleted_at is not null', step.table_name) into hidden;
        if hidden > 0 then
            raise notice 'softly deleted, and rows like any other from now on: % rows of %', hidden, step.table_name;
        end if;
        begin
            execute format('select count(*) from public.%I r where tenancy.legacy_scope(r) < r.sharing_scope', step.table_name)
                into unshared;
            if unshared > 0 then
                raise notice 'shared more widely by their flags than by their scope, and by their flags from now on: % rows of %',
                    unshared, step.table_name;
            end if;
        exception when undefined_column then
            raise warning 'the flags of % are gone: %. Run phase 1 again after this, which sees what is left of them: '
                'until then nobody can write to it', step.table_name, sqlerrm;
        end;
    end loop;

    call tenancy.lock_tables();

    -- What phase 4 made.
    for step in
        select format('drop policy %I on %s', p.polname, p.polrelid::regclass) as statement
        from pg_catalog.pg_policy p
        join pg_catalog.pg_class c on c.oid = p.polrelid
        where c.relnamespace = 'public'::regnamespace
        union all
        select format('drop trigger %I on %s', t.tgname, t.tgrelid::regclass)
        from pg_catalog.pg_trigger t
        where t.tgfoid in ('authz.guard()'::regprocedure, 'audit.record()'::regprocedure)
    loop
        execute step.statement;
    end loop;
    drop function public.soft_delete(text, uuid), authz.guard(), authz.may_share(public.sharing_scope_type, uuid),
        authz.visible_organizations(), authz.admin_organizations(), authz.writer_organizations(),
        authz.audiences(), authz.colleagues(), authz.own_conversations(),
        audit.record(), audit.owner_of_deleted(text), audit.claims(), audit.shown(text, jsonb, text[]), audit.shown_columns(regclass, text);

    -- Every privilege that somebody else than the owner has, then those that were there before.
    for step in
        select distinct format('revoke all on %s %s from %s',
            case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass,
            case a.grantee when 0 then 'public' else a.grantee::regrole::text end) as statement
        from pg_catalog.pg_class c
        cross join lateral (
            select grantee from aclexplode(c.relacl)
            union
            select x.grantee from pg_catalog.pg_attribute t cross join aclexplode(t.attacl) as x where t.attrelid = c.oid
        ) as a
        where c.relnamespace = 'public'::regnamespace and pg_has_role(c.relowner, 'USAGE') and a.grantee <> c.relowner
        union all
        select distinct format('revoke all on routine %s from %s', p.oid::regprocedure,
            case a.grantee when 0 then 'public' else a.grantee::regrole::text end)
        from pg_catalog.pg_proc p
        cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
        where p.pronamespace = 'public'::regnamespace and pg_has_role(p.proowner, 'USAGE') and a.grantee <> p.proowner
        union all
        select format('alter default privileges in schema public revoke all on %s from %s', kind, role)
        from unnest(array['tables', 'sequences', 'functions']) as kind,
            unnest(array['anon', 'authenticated', 'service_role']) as role
    loop
        execute step.statement;
    end loop;
    revoke all on function authz.suspended_organizations() from authenticated;
    grant execute on function authz.audience_key(public.sharing_scope_type, uuid, uuid), authz.shared_key(uuid),
        authz.searchable(text, text) to anon;

    for step in select statement from tenancy.undo where phase = 4 order by id desc loop
        begin
            execute step.statement;
        -- That must not shut the way back.
        exception
            when unique_violation then
                -- Two organizations use one code by now, which phase 4 allows.
                get stacked diagnostics detail = pg_exception_detail;
                raise warning 'not restored, because of rows that phase 4 allows: %. Correct them, then run: %', detail, step.statement;
            when undefined_table or undefined_column or undefined_function or undefined_object or invalid_schema_name then
                -- Dropped since. Without most of it nobody sees more than he did in phase 3; but a restrictive policy takes
                -- from people what the others give them, and a trigger keeps scopes in step, unless its table is gone.
                if step.statement ~ '^create policy .* as restrictive for '
                    or starts_with(step.statement, 'CREATE TRIGGER ') and sqlstate <> '42P01' then
                    raise exception 'not taken back, because what keeps rows from somebody cannot be restored: %', sqlerrm
                        using detail = step.statement,
                            hint = 'Make again what it needs, or, if nobody needs it any more, delete the statement from tenancy.undo. '
                                'Then run this again.';
                end if;
                raise warning 'not restored, because of what was dropped since: %. If it is wanted, make that again, then run: %',
                    sqlerrm, step.statement;
        end;
    end loop;
    delete from tenancy.undo where phase = 4;
    delete from tenancy.completed_phase where phase = 4;
end
$$;

commit;
