-- What:  takes phase 2 back, by its journal: what still is as the backfill left it becomes what it was before. What the
--        application or people wrote since stays.
-- Needs: phase 2 as the latest phase, complete or not, run by the owner of the tables, outside a transaction (psql -f).
--        Undo: run phase 2 again.
-- Locks: each table against writing, for a moment, at the beginning and at the end; between them rows, 5,000 at a time,
--        each batch in a transaction of its own. Killed at any point and run again, it does the rest.

\set ON_ERROR_STOP on

set statement_timeout = 0;
set search_path = '';

-- The local value is gone unless a transaction is open.
set tenancy.migrating = '';
do $$ begin perform set_config('tenancy.migrating', 'in a transaction', true); end $$;

do $$
declare
    culprits text;
    target record;
    done uuid;
    upto uuid;
    moved record;
begin
    if current_setting('tenancy.migrating') <> '' then
        raise exception 'the rollback of phase 2 commits as it goes, and cannot run inside a transaction'
            using hint = 'Run it by psql -f, without -1 and without a BEGIN before it.';
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended('tenancy.migration', 0)) then
        raise exception 'another migration of this database is running'
            using hint = 'Wait until it has ended, then run this again.';
    end if;
    if to_regclass('tenancy.completed_phase') is null or to_regclass('tenancy.journal') is null then
        raise notice 'phase 2 is not there: nothing to take back';
        return;
    end if;
    if exists (select from tenancy.completed_phase where phase > 2) then
        raise exception 'phase % is complete: roll it back before phase 2', (select max(phase) from tenancy.completed_phase);
    end if;
    if exists (select from tenancy.undo where phase > 2) then
        raise exception 'phase % has begun: roll it back before phase 2', (select max(phase) from tenancy.undo);
    end if;
    -- To a role that does not see the rows, none of them would look as phase 2 left it, and the journal would be gone.
    select string_agg(c.oid::regclass::text, ', ' order by c.relname) into culprits
    from tenancy.classified_table t
    join pg_catalog.pg_class c on c.oid = to_regclass('public.' || t.table_name)
    where not pg_has_role(c.relowner, 'USAGE') or row_security_active(c.oid);
    if culprits is not null then
        raise exception 'the rollback must run as the owner of the tables, whom row level security does not hold; % is not that for %',
            current_user, culprits
            using hint = 'Connect as the role that owns them.';
    end if;
    -- Beyond this transaction, now that nothing is refused: a refusal must not leave the lock to its session.
    perform pg_advisory_lock(hashtextextended('tenancy.migration', 0));
    delete from tenancy.completed_phase where phase = 2;
    commit;

    -- From now on nobody gets an owner or a place that he does not bring. But both ids of the platform go on being
    -- understood: they mean the old one as soon as it is there again, so that nobody refers to a row that is about to go.
    create or replace function tenancy.resolve_owner() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
    as $f$
    declare
        moved constant uuid := (
            select o.id
            from tenancy.moved_organization m
            join public.organizations o on o.id in (m.old_id, m.new_id)
            where new.owner_organization_id in (m.old_id, m.new_id)
            order by o.id = m.old_id desc
            limit 1
        );
    begin
        if moved <> new.owner_organization_id then
            new.owner_organization_id := moved;
            -- A foreign key may stand on tenant_id, too, where the table has one.
            new := jsonb_populate_record(new, jsonb_build_object('tenant_id', moved));
        end if;
        return new;
    end
    $f$;
    commit;
    for target in
        select t.tgname, t.tgrelid::regclass as relation, t.tgfoid = 'tenancy.resolve_owner()'::regprocedure as stays
        from pg_catalog.pg_trigger t
        where t.tgfoid in ('tenancy.resolve_owner()'::regprocedure, to_regprocedure('tenancy.place_organization()'))
    loop
        -- Whoever still writes by what the function was before is waited for.
        call tenancy.patiently(case
            when target.stays then format('lock table %s in share row exclusive mode', target.relation)
            else format('drop trigger %I on %s', target.tgname, target.relation) end);
    end loop;

    -- The rows.
    for target in
        select c.table_name, c.class
        from tenancy.classified_table c
        where (c.class = 'resource' or c.table_name = 'conversations') and to_regclass('public.' || c.table_name) is not null
        order by c.table_name
    loop
        upto := '00000000-0000-0000-0000-000000000000';
        loop
            done := upto;
            select b.row_id into upto
            from (
                select j.row_id
                from tenancy.journal j
                where j.table_name = target.table_name and j.row_id >= done
                order by j.row_id
                limit 5000
            ) as b
            order by b.row_id desc
            limit 1;
            exit when upto is null;
            -- Nobody knows how many rows that is: the server would take them for a third of the journal, and read the
            -- whole table for them.
            call tenancy.patiently(format(
                'set local enable_hashjoin = off;
                 set local enable_mergejoin = off;
                 with batch as (
                     delete from tenancy.journal where table_name = %1$L and row_id between %5$L and %2$L returning *
                 )
                 update public.%1$I r
                 set owner_organization_id = b.owner_before%3$s
                 from batch b
                 where r.id = b.row_id and r.owner_organization_id is not distinct from b.owner_after%4$s',
                target.table_name, upto,
                case when target.class = 'resource' then
                    ', sharing_scope = b.scope_before, owner_tenant_id = null,
                     audience_key = authz.audience_key(b.scope_before, b.owner_before, null)' end,
                -- What the backfill read from the flags, while they still say so: where somebody has changed them, a scope
                -- that is what it was is his own word, and the next backfill must not ask the flags.
                case when target.class = 'resource' then
                    ' and r.sharing_scope is not distinct from b.scope_after
                      and (b.scope_before is not null or b.scope_after = tenancy.legacy_scope(r)
                           or b.scope_after = ''organization'' and tenancy.legacy_scope(r) = ''tenant''
                               and b.owner_after = tenancy.platform_id())'
                end,
                done));
        end loop;

        -- Rows that came later and had no owner either.
        call tenancy.patiently(format(
            'update public.%I set owner_organization_id = null%s where owner_organization_id = %L',
            target.table_name,
            case when target.class = 'resource' then ', owner_tenant_id = null, audience_key = null' end,
            tenancy.quarantine_organization_id()));
    end loop;

    -- The organizations: first those that phase 2 placed, each value that is still as it was left; then those that it
    -- made, the lowest first, unless something refers to them by now.
    call tenancy.patiently(
        $f$
        with placed as (
            delete from tenancy.organization_journal where before is not null returning *
        )
        update public.organizations o
        set organization_type = case when tenancy.placement(o) -> 'organization_type' = j.after -> 'organization_type'
                then (j.before ->> 'organization_type')::public.organization_type else o.organization_type end,
            parent_organization_id = case when tenancy.placement(o) -> 'parent_organization_id' = j.after -> 'parent_organization_id'
                then (j.before ->> 'parent_organization_id')::uuid else o.parent_organization_id end,
            slug = case when tenancy.placement(o) -> 'slug' = j.after -> 'slug' then j.before ->> 'slug' else o.slug end
        from placed j
        where j.organization_id = o.id
        $f$);
    for target in
        select o.id, o.name
        from public.organizations o
        join tenancy.organization_journal j on j.organization_id = o.id
        order by o.organization_type desc
    loop
        -- Nobody begins to refer to it between the question and the deletion, which would cascade to him.
        call tenancy.patiently(format(
            $f$
            do $do$
            declare
                reference record;
                used boolean := false;
            begin
                perform from public.organizations where id = %1$L for update;
                for reference in select * from tenancy.organization_references() loop
                    execute format('select %%L or exists (select from %%s where %%I = %%L)',
                        used, reference.relation, reference.column_name, %1$L) into used;
                end loop;
                if used then
                    raise notice 'organization %% (%%) was made by phase 2 and is in use by now: it stays', %1$L, %2$L;
                else
                    delete from public.organizations where id = %1$L;
                end if;
                delete from tenancy.organization_journal where organization_id = %1$L;
            end
            $do$
            $f$, target.id, target.name));
    end loop;

    for moved in select old_id, new_id from tenancy.moved_organization loop
        call tenancy.move_organization(moved.new_id, moved.old_id);
        delete from tenancy.moved_organization where old_id = moved.old_id;
        commit;
    end loop;
    for target in
        select t.tgname, t.tgrelid::regclass as relation
        from pg_catalog.pg_trigger t
        where t.tgfoid = to_regprocedure('tenancy.resolve_owner()')
    loop
        call tenancy.patiently(format('drop trigger %I on %s', target.tgname, target.relation));
    end loop;

    drop procedure tenancy.backfill(text, integer), tenancy.place_organizations(), tenancy.check_organizations(),
        tenancy.move_organization(uuid, uuid), tenancy.copy_organization(uuid, uuid);
    drop function tenancy.organization_references(), tenancy.resolve_owner(), tenancy.place_organization(),
        tenancy.make_organizations(), tenancy.placement(public.organizations), tenancy.free_slug(text, uuid),
        tenancy.take_slug(text, uuid), tenancy.slugify(text), tenancy.find_owner(uuid, uuid, uuid), tenancy.moved_to(uuid),
        tenancy.tenant_for(public.organizations), tenancy.level_of(public.organizations), tenancy.platform_id(),
        tenancy.quarantine_tenant_id(), tenancy.quarantine_organization_id();
    drop table tenancy.taken_slug, tenancy.journal, tenancy.organization_journal, tenancy.moved_organization, tenancy.backfill_progress;
    perform pg_advisory_unlock(hashtextextended('tenancy.migration', 0));
end
$$;

reset tenancy.migrating;
reset statement_timeout;
reset search_path;
