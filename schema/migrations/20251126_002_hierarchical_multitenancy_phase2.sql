-- What:  phase 2, backfill. Gives every organization its place in the hierarchy, and every row its owner and its scope.
-- Needs: phase 1, run by the owner of the tables, outside a transaction (psql -f). Undo: the phase 2 rollback.
-- Locks: each table against writing, for the moment that making a trigger takes; then the rows of all organizations at
--        once, for seconds where there are thousands; then rows, 5,000 at a time, each batch in a transaction of its own.
--        Killed at any point and run again, it does the rest; run again when complete, it changes nothing. What people
--        corrected by hand stays.

\set ON_ERROR_STOP on

set statement_timeout = 0;
set search_path = '';

-- Refuse what cannot work -----------------------------------------------------------------------------------------
-- All definitions are one transaction with the checks: what is refused has left nothing. The local value is gone unless a
-- transaction is open.

set tenancy.migrating = '';
do $$ begin perform set_config('tenancy.migrating', 'in a transaction', true); end $$;

begin;

do $$
declare
    complete boolean := false;
    culprits text;
begin
    if current_setting('tenancy.migrating') <> '' then
        raise exception 'phase 2 commits as it goes, and cannot run inside a transaction'
            using hint = 'Run it by psql -f, without -1 and without a BEGIN before it.';
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended('tenancy.migration', 0)) then
        raise exception 'another migration of this database is running'
            using hint = 'Wait until it has ended, then run this again.';
    end if;
    if to_regclass('tenancy.completed_phase') is not null then
        complete := exists (select from tenancy.completed_phase where phase = 1);
    end if;
    if not complete then
        raise exception 'phase 2 needs phase 1, which is not complete here'
            using hint = 'Run the phase 1 migration first.';
    end if;
    if exists (select from tenancy.completed_phase where phase > 3) then
        raise exception 'phase 4 is complete, and phase 2 would bring back the triggers for the old application'
            using hint = 'Roll phase 4 back before you run phase 2 again.';
    end if;

    -- A role that does not see the rows would "fill" none of them and call it done.
    select string_agg(c.oid::regclass::text, ', ' order by c.relname) into culprits
    from tenancy.classified_table t
    join pg_catalog.pg_class c on c.oid = to_regclass('public.' || t.table_name)
    where not pg_has_role(c.relowner, 'USAGE') or row_security_active(c.oid);
    if culprits is not null then
        raise exception 'phase 2 must run as the owner of the tables, whom row level security does not hold; % is not that for %',
            current_user, culprits
            using hint = 'Connect as the role that owns them.';
    end if;

    -- Beyond this transaction, now that nothing is refused: a refusal must not leave the lock to its session.
    perform pg_advisory_lock(hashtextextended('tenancy.migration', 0));
end
$$;

-- Bookkeeping -----------------------------------------------------------------------------------------------------

-- Every value that this phase changes, so that its rollback restores what still is as this phase left it.
create table if not exists tenancy.journal (
    table_name text not null,
    row_id uuid not null,
    owner_before uuid,
    owner_after uuid,
    scope_before public.sharing_scope_type,
    scope_after public.sharing_scope_type,
    primary key (row_id, table_name)    -- of a million rows, the one that differs first tells apart faster
);

-- before is null for a row that this phase made.
create table if not exists tenancy.organization_journal (
    organization_id uuid primary key,
    before jsonb,
    after jsonb not null
);

-- The platform's row moves to the id that everybody knows; who still says the old one means the new one.
create table if not exists tenancy.moved_organization (
    old_id uuid primary key,
    new_id uuid not null
);

create table if not exists tenancy.backfill_progress (
    table_name text primary key,
    rows_changed bigint not null default 0,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz
);

-- Who is what -----------------------------------------------------------------------------------------------------

create or replace function tenancy.platform_id() returns uuid
language sql immutable parallel safe
return '00000000-0000-0000-0000-000000000001'::uuid;

-- Quarantine is a tenant that is not active, with one organization for rows that have no owner. Nobody is a member, so
-- service_role alone sees what is there; and since the tenant is not live, two organizations in it share nothing.
create or replace function tenancy.quarantine_tenant_id() returns uuid
language sql immutable parallel safe
return '00000000-0000-0000-0000-000000000002'::uuid;

create or replace function tenancy.quarantine_organization_id() returns uuid
language sql immutable parallel safe
return '00000000-0000-0000-0000-000000000003'::uuid;

-- What a legacy row is; what is declared by hand stands.
create or replace function tenancy.level_of(p_organization public.organizations) returns public.organization_type
language sql stable
begin atomic
    select coalesce(
        p_organization.organization_type,
        case
            when p_organization.tenant_type = 'system' then 'platform'::public.organization_type
            when exists (
                select
                from tenancy.legacy_tenant t
                where t.tenant_type = p_organization.tenant_type
                  and t.tenant_key = p_organization.tenant_key
                  and not exists (
                      select from tenancy.organization_mapping m where m.organization_id = p_organization.id
                  )
            ) then 'tenant'
            else 'organization'
        end);
end;

-- The tenant of an organization: what the operator says; a parent that is set; the tenant whose key the row points to,
-- by the expression that the old policies share by, so that the hierarchy shows nobody more than they did. What none
-- of these decides is not guessed.
create or replace function tenancy.tenant_for(p_organization public.organizations) returns uuid
language sql stable
begin atomic
    select coalesce(
        (select m.tenant_id from tenancy.organization_mapping m where m.organization_id = p_organization.id),
        p_organization.parent_organization_id,
        (
            select t.id
            from public.organizations t
            where t.organization_type = 'tenant'
              and coalesce(t.settings ->> 'tenant_key', t.tenant_key)
                = coalesce(p_organization.settings ->> 'tenant_key', p_organization.tenant_key)
        ),
        tenancy.quarantine_tenant_id());
end;

-- The id that an organization has got instead of this one; null if it has kept it.
create or replace function tenancy.moved_to(p_id uuid) returns uuid
language sql stable
begin atomic
    select o.id
    from tenancy.moved_organization m
    join public.organizations o on o.id = m.new_id
    where m.old_id = p_id;
end;

-- The owner of a row: the one it names, in whichever column. If it names two, choosing one would show the row to
-- somebody new. If it names none that exists, only the person who made it can still decide, by being a member of one
-- organization and never having been one of another: what somebody made for a former employer is not the new one's. Never
-- the platform: that is where rows are shown to everybody.
create or replace function tenancy.find_owner(p_owner uuid, p_tenant uuid, p_person uuid) returns uuid
language plpgsql stable
as $$
declare
    named constant uuid[] := case when p_owner is null and p_tenant is null then '{}' else array(
        select distinct o.id
        from unnest(array[p_owner, p_tenant]) as name (id)
        join public.organizations o on o.id = coalesce(tenancy.moved_to(name.id), name.id)
    ) end;
begin
    return case cardinality(named)
        when 1 then named[1]
        when 0 then coalesce(
            (
                select (array_agg(o.id))[1]
                from public.user_organizations uo
                left join public.organizations o on o.id = uo.organization_id
                where uo.user_id = p_person
                having count(*) = 1 and bool_and(uo.is_active and o.id <> tenancy.platform_id())
            ),
            tenancy.quarantine_organization_id())
        else tenancy.quarantine_organization_id()
    end;
end
$$;

-- Slugs -----------------------------------------------------------------------------------------------------------

-- Latin letters lose their marks; what cannot be written in a-z and 0-9 goes. '' if nothing is left.
create or replace function tenancy.slugify(p_name text) returns text
language sql immutable parallel safe
return left(
    trim(both '-' from regexp_replace(
        lower(translate(
            replace(replace(replace(replace(replace(replace(
                regexp_replace(normalize(coalesce(p_name, ''), nfkd), '[\u0300-\u036f]', '', 'g'),
                'ß', 'ss'), 'ẞ', 'ss'), 'æ', 'ae'), 'Æ', 'ae'), 'œ', 'oe'), 'Œ', 'oe'),
            'øØłŁđĐðÐþÞı', 'oOlLdDdDtTi') collate "C"),
        '[^a-z0-9]+', '-', 'g')),
    60);

-- The slug of an organization, unlike that of every other live one.
create or replace function tenancy.free_slug(p_wanted text, p_id uuid) returns text
language plpgsql stable
as $$
declare
    base text := coalesce(nullif(trim(trailing '-' from p_wanted), ''), 'organization-' || left(p_id::text, 8));
    candidate text := base;
    suffix integer := 1;
begin
    while exists (
        select from public.organizations o where o.slug = candidate and o.deleted_at is null and o.id <> p_id
    ) loop
        suffix := suffix + 1;
        candidate := base || '-' || suffix;
    end loop;
    return candidate;
end
$$;

-- The slugs of live organizations, while they are placed all at once: looking for a free one among n equal names must not
-- read n rows n times.
create table if not exists tenancy.taken_slug (
    slug text primary key,
    last integer not null default 1     -- the highest suffix that was tried with it
);

-- free_slug() for an organization that is being placed, and the slug is taken from then on.
create or replace function tenancy.take_slug(p_wanted text, p_id uuid) returns text
language plpgsql
as $$
declare
    base text := coalesce(nullif(trim(trailing '-' from p_wanted), ''), 'organization-' || left(p_id::text, 8));
    candidate text := base;
begin
    loop
        insert into tenancy.taken_slug (slug) values (candidate) on conflict do nothing;
        exit when found;
        update tenancy.taken_slug set last = last + 1 where slug = base returning base || '-' || last into candidate;
    end loop;
    return candidate;
end
$$;

-- What a row says of its place, for the journal.
create or replace function tenancy.placement(p_organization public.organizations) returns jsonb
language sql stable
return jsonb_build_object(
    'organization_type', (p_organization).organization_type,
    'parent_organization_id', (p_organization).parent_organization_id,
    'slug', (p_organization).slug);

-- Rows that the old application goes on writing -------------------------------------------------------------------

create or replace function tenancy.place_organization() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    given constant public.organizations := new;
begin
    -- What is remembered of another that had this id, and is gone, is not this one's.
    delete from tenancy.organization_journal j
    where j.organization_id = new.id and not exists (select from public.organizations o where o.id = new.id);

    if new.organization_type is not null and new.slug <> '' then
        return new;
    end if;
    if new.organization_type is null then
        new.organization_type := 'organization';
        new.parent_organization_id := tenancy.tenant_for(new);
    end if;
    if coalesce(new.slug, '') = '' then
        -- Two at once must not take the same one.
        perform pg_advisory_xact_lock(hashtextextended('tenancy.slug', 0));
        new.slug := tenancy.free_slug(tenancy.slugify(new.name), new.id);
    end if;
    insert into tenancy.organization_journal (organization_id, before, after)
    values (new.id, tenancy.placement(given), tenancy.placement(new))
    on conflict (organization_id) do nothing;
    return new;
end
$$;

-- The trigger's argument is the column of the person who made the row.
create or replace function tenancy.resolve_owner() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    moved constant uuid := tenancy.moved_to(new.owner_organization_id);
    fields jsonb;
begin
    if moved is null and (
        tg_op = 'UPDATE' and new.owner_organization_id is not distinct from old.owner_organization_id
        or exists (select from public.organizations o where o.id = new.owner_organization_id)
    ) then
        return new;
    end if;
    fields := to_jsonb(new);
    new.owner_organization_id := tenancy.find_owner(
        new.owner_organization_id, (fields ->> 'tenant_id')::uuid, (fields ->> tg_argv[0])::uuid);
    -- A foreign key may stand on tenant_id, too, where the table has one.
    if moved is not null then
        new := jsonb_populate_record(new, jsonb_build_object('tenant_id', moved));
    end if;
    return new;
end
$$;

-- Moving the platform ---------------------------------------------------------------------------------------------

-- Every column that may hold an organization's id.
create or replace function tenancy.organization_references()
returns table (relation regclass, column_name name)
language sql stable
begin atomic
    select c.conrelid::regclass, a.attname
    from pg_catalog.pg_constraint c
    join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
    where c.contype = 'f' and c.confrelid = 'public.organizations'::regclass and cardinality(c.conkey) = 1
    union
    select a.attrelid::regclass, a.attname
    from tenancy.classified_table t
    join pg_catalog.pg_attribute a on a.attrelid = to_regclass('public.' || t.table_name)
    where a.attname in ('tenant_id', 'owner_organization_id', 'organization_id', 'parent_organization_id')
      and a.atttypid = 'uuid'::regtype
      and not a.attisdropped;
end;

-- Copies an organization to another id, unless it has been copied.
create or replace procedure tenancy.copy_organization(p_from uuid, p_to uuid)
language plpgsql
as $$
declare
    columns constant text := (
        select string_agg(quote_ident(a.attname), ', ' order by a.attnum)
        from pg_catalog.pg_attribute a
        where a.attrelid = 'public.organizations'::regclass
          and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attname <> 'id'
    );
begin
    execute format(
        'insert into public.organizations (id, %1$s) overriding system value
         select %2$L, %1$s from public.organizations where id = %3$L
         on conflict (id) do nothing', columns, p_to, p_from);
end
$$;

-- Gives an organization another id: a copy of the row, then everything that refers to it, then the old row goes.
create or replace procedure tenancy.move_organization(p_from uuid, p_to uuid)
language plpgsql
as $$
declare
    reference record;
    more boolean;
    -- One string for all: the row is locked, so that nobody begins to refer to it, and no deletion cascades.
    farewell text := format('select from public.organizations where id = %L for update;', p_from);
begin
    call tenancy.patiently(format('call tenancy.copy_organization(%L, %L)', p_from, p_to));

    for reference in
        select r.relation, r.column_name,
            -- The audience of a row that is private to its owner is the owner's id, too.
            case when a.attname is not null then
                format(', audience_key = case audience_key when %L then %L else audience_key end', p_from, p_to)
            end as audience
        from tenancy.organization_references() r
        left join pg_catalog.pg_attribute a
            on r.column_name = 'owner_organization_id' and a.attrelid = r.relation and a.attname = 'audience_key' and not a.attisdropped
    loop
        loop
            execute format('select exists (select from %s where %I = %L)',
                reference.relation, reference.column_name, p_from) into more;
            exit when not more;
            call tenancy.patiently(format(
                'update %1$s set %2$I = %3$L%5$s where ctid = any (array(select ctid from %1$s where %2$I = %4$L limit 5000))',
                reference.relation, reference.column_name, p_to, p_from, reference.audience));
        end loop;
        farewell := farewell || format('update %1$s set %2$I = %3$L%5$s where %2$I = %4$L;',
            reference.relation, reference.column_name, p_to, p_from, reference.audience);
    end loop;
    call tenancy.patiently(farewell || format('delete from public.organizations where id = %L', p_from));
end
$$;

-- Placing the organizations ---------------------------------------------------------------------------------------

-- Makes the organizations that there must be, and returns the ids of those that were not there. Of no day in
-- particular, so that a second run after a rollback makes the same rows.
create or replace function tenancy.make_organizations() returns setof uuid
language sql
begin atomic
    insert into public.organizations (
        id, name, organization_type, parent_organization_id, slug, is_active, created_at, updated_at)
    select w.id, w.name, w.level::public.organization_type, w.parent, tenancy.free_slug(w.slug, w.id), w.is_active,
        '2025-11-26 00:00:00+00', '2025-11-26 00:00:00+00'
    from (values
        (tenancy.platform_id(), 'VITAL Expert Platform', 'platform', null, 'vital-platform', true),
        (tenancy.quarantine_tenant_id(), 'Quarantine', 'tenant', tenancy.platform_id(), 'quarantine', false),
        (tenancy.quarantine_organization_id(), 'Unassigned', 'organization', tenancy.quarantine_tenant_id(), 'unassigned', true)
    ) as w (id, name, level, parent, slug, is_active)
    where not exists (
        select from public.organizations o
        where o.id = w.id or w.level = 'platform' and tenancy.level_of(o) = 'platform'
    )
    returning id;
end;

-- Says what is contradictory in the data, all of it, before anything is changed.
create or replace procedure tenancy.check_organizations()
language plpgsql
as $$
declare
    problem record;
    problems text := '';
    platform uuid;
begin
    for problem in
        select format('two rows or more claim to be the platform: %s', string_agg(o.id::text, ', ' order by o.id)) as text
        from public.organizations o
        where tenancy.level_of(o) = 'platform'
          and not exists (select from tenancy.moved_organization m where m.old_id = o.id)
        having count(*) > 1
        union all
        select format('%s has the platform''s id and is not the platform: %L', o.id, o.name)
        from public.organizations o
        where o.id = tenancy.platform_id() and tenancy.level_of(o) <> 'platform'
        union all
        -- Of all ids those that stand for what an organization shares belong to nobody.
        select format('%s is an id that stands for what an organization shares: %L', o.id, o.name)
        from public.organizations o
        where substr(o.id::text, 15, 1) = 'f'
        union all
        -- And no two stand for the same; the platform gets the id that phase 2 gives it, and the quarantine is to come.
        select format('%s differ in the version of the UUID alone: one would read what the other shares',
            string_agg(o.id::text, ', ' order by o.id))
        from (
            select o.id from public.organizations o where tenancy.level_of(o) <> 'platform'
            union
            values (tenancy.platform_id()), (tenancy.quarantine_tenant_id()), (tenancy.quarantine_organization_id())
        ) as o
        group by authz.shared_key(o.id)
        having count(*) > 1
        union all
        -- Rows that nobody owns must not go to whoever happens to have the id.
        select format('%s is the id of the quarantine, and of an organization that is there already: %L', o.id, o.name)
        from public.organizations o
        where o.id = tenancy.quarantine_tenant_id() and (o.organization_type is distinct from 'tenant' or o.is_active)
           or o.id = tenancy.quarantine_organization_id()
               and o.parent_organization_id is distinct from tenancy.quarantine_tenant_id()
        union all
        select format('two rows or more claim to be the tenant %L: %s', c.key, string_agg(c.id::text, ', ' order by c.id))
        from (
            select o.id, coalesce(o.settings ->> 'tenant_key', o.tenant_key) as key
            from public.organizations o
            where tenancy.level_of(o) = 'tenant'
        ) as c
        group by c.key
        having count(*) > 1 and c.key is not null
        union all
        select format('%s is mapped to %s, which is no tenant', m.organization_id, m.tenant_id)
        from tenancy.organization_mapping m
        join public.organizations o on o.id = m.tenant_id
        where tenancy.level_of(o) <> 'tenant'
        union all
        select format('%s is mapped to a tenant, and is itself a %s', m.organization_id, tenancy.level_of(o))
        from tenancy.organization_mapping m
        join public.organizations o on o.id = m.organization_id
        where tenancy.level_of(o) <> 'organization'
        union all
        select format('the parent of %s (%L) is %s, which is no %s', o.id, o.name, o.parent_organization_id, w.wanted)
        from public.organizations o
        join (values ('organization', 'tenant'), ('tenant', 'platform'), ('platform', 'parent of a platform')) as w (level, wanted)
            on w.level = tenancy.level_of(o)::text
        left join public.organizations p on p.id = o.parent_organization_id
        where o.parent_organization_id is not null
          and tenancy.level_of(p)::text is distinct from w.wanted
          and not exists (select from tenancy.organization_mapping m where m.organization_id = o.id)
        union all
        select format('the slug %L is that of %s', o.slug, string_agg(o.id::text, ', ' order by o.id))
        from public.organizations o
        where o.slug <> '' and o.deleted_at is null
          and not exists (select from tenancy.moved_organization m where m.old_id = o.id)
        group by o.slug
        having count(*) > 1
        union all
        -- With a number behind it, should it be taken.
        select format('a slug may take %s characters, and public.organizations.slug is %s',
            w.length, format_type(a.atttypid, a.atttypmod))
        from pg_catalog.pg_attribute a
        cross join (
            select 1 + length(count(*)::text) + greatest(length('organization-12345678'),
                max(length(tenancy.slugify(o.name))), max(length(tenancy.slugify(o.tenant_key)))) as length
            from public.organizations o
            where coalesce(o.slug, '') = ''
        ) as w
        where a.attrelid = 'public.organizations'::regclass and a.attname = 'slug' and not a.attisdropped
          and a.atttypmod > 0 and w.length > a.atttypmod - 4
    loop
        problems := problems || e'\n  ' || problem.text;
    end loop;

    -- Columns or constraints that only this database has may be in the way: tried, and taken back.
    begin
        for platform in select o.id from public.organizations o where tenancy.level_of(o) = 'platform'
        loop
            call tenancy.copy_organization(platform, tenancy.platform_id());
        end loop;
        perform tenancy.make_organizations();
        raise sqlstate 'TRIED';
    exception
        when sqlstate 'TRIED' then null;
        when integrity_constraint_violation or data_exception then
            problems := problems || e'\n  the organizations that phase 2 makes, among them a copy of the platform, cannot be made: ' || sqlerrm;
    end;
    if problems <> '' then
        raise exception e'the organizations contradict themselves, and nothing was changed:%', problems
            using hint = 'Correct the rows or columns, or say in tenancy.organization_mapping which tenant an organization belongs to.';
    end if;
end
$$;

create or replace procedure tenancy.place_organizations()
language plpgsql
as $$
declare
    organization public.organizations;
    placed public.organizations;
    made uuid;
begin
    -- Nor may an organization that is being inserted take the same slug.
    perform pg_advisory_xact_lock(hashtextextended('tenancy.slug', 0));

    for made in select tenancy.make_organizations()
    loop
        insert into tenancy.organization_journal (organization_id, after)
        select o.id, tenancy.placement(o) from public.organizations o where o.id = made
        on conflict (organization_id) do update set before = null;
    end loop;

    insert into tenancy.taken_slug (slug)
    select o.slug from public.organizations o where o.slug <> '' and o.deleted_at is null
    on conflict do nothing;

    -- Tenants before their organizations; among equals the elder has the first choice of a slug.
    for organization in
        select o.*
        from public.organizations o
        order by tenancy.level_of(o), o.created_at, o.id
        -- Rows that are being inserted refer to it, and need not be waited for.
        for no key update
    loop
        placed := organization;
        placed.organization_type := tenancy.level_of(organization);
        placed.parent_organization_id := case placed.organization_type
            when 'tenant' then tenancy.platform_id()
            when 'organization' then tenancy.tenant_for(organization)
        end;
        if coalesce(organization.slug, '') = '' then
            placed.slug := case placed.organization_type
                when 'platform' then 'vital-platform'
                when 'tenant' then coalesce(nullif(tenancy.slugify(organization.tenant_key), ''), tenancy.slugify(organization.name))
                else tenancy.slugify(organization.name)
            end;
            -- One that is deleted takes nothing from those that are live.
            placed.slug := case when organization.deleted_at is null then tenancy.take_slug(placed.slug, organization.id)
                else tenancy.free_slug(placed.slug, organization.id) end;
        end if;
        -- A place that somebody has corrected since stays; else a mapping that came later still counts.
        continue when tenancy.placement(placed) = tenancy.placement(organization)
            or organization.organization_type is not null and organization.slug <> '' and exists (
                select
                from tenancy.organization_journal j
                where j.organization_id = organization.id
                  and j.after - 'slug' <> tenancy.placement(organization) - 'slug'
            );

        update public.organizations o
        set organization_type = placed.organization_type,
            parent_organization_id = placed.parent_organization_id,
            slug = placed.slug
        where o.id = organization.id;
        -- A later run adds what it changed, and not what somebody else did.
        insert into tenancy.organization_journal as j (organization_id, before, after)
        values (organization.id, tenancy.placement(organization), tenancy.placement(placed))
        on conflict (organization_id) do update set after = j.after || (
            select jsonb_object_agg(field.key, field.value)
            from jsonb_each(excluded.after) as field
            where field.value <> excluded.before -> field.key
        );
    end loop;
    delete from tenancy.taken_slug;
end
$$;

-- Filling the rows ------------------------------------------------------------------------------------------------

-- One UPDATE gives a row all that it lacks. It computes from the row itself and not from a copy that a query read
-- before: what the application changes meanwhile counts.
--
-- The table is filled 2,048 pages after another, each stretch in stripes: every twelfth row of each page, or fewer. The
-- first stripe goes to new pages; when it is committed, its place is free for the second, which stays in its page, and
-- where it is in the indexes. So the table grows by a twelfth and what the columns take, where one UPDATE doubles it.
create or replace procedure tenancy.backfill(p_table text, p_batch integer default 5000)
language plpgsql
as $$
declare
    relation constant regclass := 'public.' || quote_ident(p_table);
    pages constant bigint := pg_relation_size(relation) / current_setting('block_size')::integer;
    pages_each constant bigint := 2048; -- of a stretch
    stretches constant bigint := ceil(pages::numeric / pages_each);
    has_scope constant boolean := exists (
        select from tenancy.classified_table c where c.table_name = p_table and c.class = 'resource'
    );
    has_tenant_id constant boolean := exists (
        select from pg_catalog.pg_attribute a
        where a.attrelid = relation and a.attname = 'tenant_id' and not a.attisdropped
    );
    scope constant text := case when has_scope then 'r.sharing_scope' else 'null::public.sharing_scope_type' end;
    -- What an organization o shares under a scope. A call with a constant costs nothing: the server puts in its place
    -- what the function says.
    audience constant text := (
        select 'case %1$s ' || string_agg(
            format('when %1$L then authz.audience_key(%1$L, o.id, o.tenant_organization_id)', s.scope), ' ') || ' end'
        from unnest(enum_range(null::public.sharing_scope_type)) as s (scope)
    );
    -- A row may name two owners and look complete, if the column was there before phase 1, whose trigger keeps the two in
    -- step. What is in quarantine has been looked at.
    contradictory constant text := case
        when has_tenant_id and not exists (
            select from tenancy.undo u
            where u.statement = format('alter table public.%I drop column owner_organization_id', p_table)
        ) then
            ' or r.tenant_id <> r.owner_organization_id and r.owner_organization_id <> tenancy.quarantine_organization_id()
                 and exists (select from public.organizations o where o.id = r.tenant_id)'
    end;
    incomplete constant text := format(
        '(not exists (select from public.organizations o where o.id = r.owner_organization_id%s)%s)',
        case when has_scope then
            ' and o.tenant_organization_id is not distinct from r.owner_tenant_id and r.audience_key = '
            || format(audience, 'r.sharing_scope') end,
        contradictory);
    -- The usual row has nothing yet, and names an organization that exists. The platform has no tenant to share with. That
    -- o has an id is no question: with it, the columns are looked at once rows are joined, and not in every row that is
    -- read to find a stripe.
    usual constant text := format(
        'o.id = r.tenant_id and (r.owner_organization_id is null%s or o.id is null)',
        case when has_scope then ' and r.sharing_scope is null and r.audience_key is null' end);
    usual_scope constant text :=
        '(case when o.organization_type = ''platform'' and tenancy.legacy_scope(r) = ''tenant''
            then ''organization'' else tenancy.legacy_scope(r) end)';
    change_usual constant text := concat(
        'owner_organization_id = o.id',
        case when has_scope then format(', sharing_scope = %s, owner_tenant_id = o.tenant_organization_id, audience_key = %s',
            usual_scope, format(audience, usual_scope)) end);
    owner constant text := format('tenancy.find_owner(r.owner_organization_id, %s, r.%I)',
        case when has_tenant_id then 'r.tenant_id' else 'null' end,
        case when has_scope then 'created_by' else 'user_id' end);
    change_other constant text := case
        when has_scope then format(
            '(owner_organization_id, sharing_scope, owner_tenant_id, audience_key) = (
                select f.owner, f.scope, f.tenant, authz.audience_key(f.scope, f.owner, f.tenant)
                from (
                    select o.id as owner, o.tenant_organization_id as tenant,
                        case when o.organization_type = ''platform'' and s.scope = ''tenant''
                            then ''organization'' else s.scope end as scope
                    from public.organizations o,
                        (select coalesce(r.sharing_scope, tenancy.legacy_scope(r)) as scope) as s
                    where o.id = %s
                ) as f)', owner)
        else 'owner_organization_id = ' || owner
    end;
    -- After an UPDATE: what it came to. To look in the journal for what is there already takes twice as long as to write:
    -- only a second run does.
    journaled constant text := format(
        'returning r.id, r.owner_organization_id, %2$s as sharing_scope
         ),
         journaled as (
             insert into tenancy.journal (table_name, row_id, owner_after, scope_after)
             select %1$L, id, owner_organization_id, sharing_scope from changed order by id
             %3$s
         )
         update tenancy.backfill_progress
         set rows_changed = rows_changed + (select count(*) from changed)
         where table_name = %1$L',
        p_table, scope, '%s');
    again constant text := 'on conflict (row_id, table_name)
        do update set owner_after = excluded.owner_after, scope_after = excluded.scope_after';
    first_time boolean;
    over boolean;
    place text;
    begun boolean;
    rows integer;
    stripes integer;
    others uuid[];
    filled bigint;
    said bigint := 0;
begin
    insert into tenancy.backfill_progress (table_name) values (p_table) on conflict do nothing;
    first_time := found;
    commit;

    for stretch in 0 .. stretches loop
        -- The last time everywhere: what the application has changed meanwhile may have come to lie behind.
        over := stretch = stretches;
        place := case when over then 'true'
            else format('r.ctid >= ''(%s,0)'' and r.ctid < ''(%s,0)''', stretch * pages_each, (stretch + 1) * pages_each) end;
        if has_tenant_id and not over then
            execute format('select exists (select from %s r, public.organizations o where %s and %s)', relation, usual, place)
                into begun;
            execute format('select count(*) from %s r where %s', relation, place) into rows;
            stripes := case when begun then greatest(least(12, pages), ceil(rows / p_batch::numeric)) else 0 end;
            for stripe in 0 .. stripes - 1 loop
                -- Nobody knows how many rows are where: the server would guess one, and look through the organizations
                -- for each of thousands.
                -- What a crash takes back of the last moment, the next run does again.
                call tenancy.patiently(format(
                    'set local enable_nestloop = off;
                     set local synchronous_commit = off;
                     with changed as (
                         update %s r set %s from public.organizations o
                         where %s and %s and get_byte(tidsend(r.ctid), 5) %% %s = %s ',
                    relation, change_usual, usual, place, stripes, stripe)
                    || format(journaled, case when not first_time then again end));
            end loop;
        end if;

        -- The others, which need a look at who made them.
        perform set_config('enable_nestloop', 'off', true);
        execute format('select array(select r.id from %s r where %s and %s order by r.id)', relation, place, incomplete)
            into others;
        commit;
        for i in 1 .. cardinality(others) by 1000 loop
            -- What was there before, where it was anything, or what somebody has made of it since a run before; then the
            -- change. Whether it is still needed is asked of each row as it is then.
            call tenancy.patiently(format(
                'insert into tenancy.journal as j (table_name, row_id, owner_before, scope_before)
                 select %1$L, r.id, r.owner_organization_id, %2$s
                 from %3$s r
                 where r.id = any (%4$L) and (%5$s) is true and (r.owner_organization_id is not null or %2$s is not null)
                 for update
                 on conflict (row_id, table_name)
                 do update set owner_before = excluded.owner_before, scope_before = excluded.scope_before
                 where (j.owner_after, j.scope_after) is distinct from (excluded.owner_before, excluded.scope_before);
                 with changed as (
                     update %3$s r set %6$s where r.id = any (%4$L) and (%5$s) is true ',
                p_table, scope, relation, others[i : i + 999], incomplete, change_other)
                || format(journaled, again));
        end loop;

        select p.rows_changed into filled from tenancy.backfill_progress p where p.table_name = p_table;
        if filled >= said + 100000 then
            raise notice '%: % rows', p_table, filled;
            said := filled;
        end if;
    end loop;

    update tenancy.backfill_progress set finished_at = clock_timestamp()
    where table_name = p_table and finished_at is null;
    commit;
end
$$;

-- Descriptions -------------------------------------------------------------------------------------------------------
-- For docs/functions.md and docs/schema.md.

do $$
declare
    described record;
begin
    for described in
        select *
        from (values
            ('table', 'tenancy.journal',
                'Every owner and scope that phase 2 changed, for its rollback.'),
            ('table', 'tenancy.organization_journal',
                'Every organization that phase 2 made or placed, for its rollback.'),
            ('table', 'tenancy.moved_organization',
                'The platform''s old id, and the one that everybody knows.'),
            ('table', 'tenancy.backfill_progress',
                'How many rows of each table phase 2 has changed.'),
            ('table', 'tenancy.taken_slug',
                'Slugs that this run has given away.'),
            ('function', 'tenancy.platform_id()',
                'The id of the platform.'),
            ('function', 'tenancy.quarantine_tenant_id()',
                'The tenant, not active, of organizations of which nothing says whose tenant they belong to.'),
            ('function', 'tenancy.quarantine_organization_id()',
                'The owner, without members, of rows of which nothing says whose they are.'),
            ('function', 'tenancy.level_of(public.organizations)',
                'What a legacy row is: platform, tenant or organization.'),
            ('function', 'tenancy.tenant_for(public.organizations)',
                'The tenant that an organization belongs to; the quarantine where nothing says it.'),
            ('function', 'tenancy.moved_to(uuid)',
                'The id that an organization''s id has become.'),
            ('function', 'tenancy.find_owner(uuid, uuid, uuid)',
                'Whose a row is: the owner it names, else its maker''s one organization, else the quarantine.'),
            ('function', 'tenancy.slugify(text)',
                'A slug for a name.'),
            ('function', 'tenancy.free_slug(text, uuid)',
                'The wanted slug, or that with a number, which no other organization has.'),
            ('function', 'tenancy.take_slug(text, uuid)',
                'As free_slug(), among those that this run has given away, too.'),
            ('function', 'tenancy.placement(public.organizations)',
                'The columns of an organization that phase 2 fills.'),
            ('function', 'tenancy.place_organization()',
                'Trigger: gives an organization that the old application makes its place, until phase 4.'),
            ('function', 'tenancy.resolve_owner()',
                'Trigger: finds the owner of a row that the old application makes without one, until phase 4.'),
            ('function', 'tenancy.organization_references()',
                'The columns that hold an organization''s id.'),
            ('procedure', 'tenancy.copy_organization(uuid, uuid)',
                'Copies an organization to another id.'),
            ('procedure', 'tenancy.move_organization(uuid, uuid)',
                'Gives an organization another id, in all that refer to it.'),
            ('function', 'tenancy.make_organizations()',
                'Makes the platform and the quarantine, where they are missing.'),
            ('procedure', 'tenancy.check_organizations()',
                'Refuses what phase 2 could not place, and says which rows it is.'),
            ('procedure', 'tenancy.place_organizations()',
                'Gives every organization its place and its slug.'),
            ('procedure', 'tenancy.backfill(text, integer)',
                'Gives the rows of a table their owners and scopes, so many at a time, each time in a transaction of its own.')
        ) as d (kind, identity, text)
    loop
        execute format('comment on %s %s is %L', described.kind, described.identity, described.text);
    end loop;
end
$$;

revoke all on all routines in schema tenancy from public;

call tenancy.check_organizations();

commit;

-- Run -------------------------------------------------------------------------------------------------------------

do $$
declare
    platform uuid;
    target record;
    rows bigint;
begin
    -- From now on no row is written without an owner, or with the id that the platform is about to lose. The name of the
    -- trigger is its turn: after tenant_id became the owner, before the owner decides about the scope.
    for target in
        select c.table_name, case c.class when 'resource' then 'created_by' else 'user_id' end as person
        from tenancy.classified_table c
        where (c.class = 'resource' or c.table_name = 'conversations') and to_regclass('public.' || c.table_name) is not null
    loop
        call tenancy.patiently(format(
            $f$
            create or replace trigger keep_owner_resolved
            before insert or update on public.%I
            for each row when (current_setting('tenancy.backfill', true) is distinct from 'on')
            execute function tenancy.resolve_owner(%L)
            $f$,
            target.table_name, target.person));
    end loop;

    -- That of a run that was killed while it moved is there still.
    select o.id into platform
    from public.organizations o
    where tenancy.level_of(o) = 'platform' and o.id <> tenancy.platform_id();
    if platform is not null then
        call tenancy.patiently(format('insert into tenancy.moved_organization values (%L, %L) on conflict do nothing',
            platform, tenancy.platform_id()));
        call tenancy.move_organization(platform, tenancy.platform_id());
    end if;

    -- A row that comes before the trigger is placed after it; one that comes after it finds its tenant there.
    call tenancy.patiently('call tenancy.place_organizations()');
    call tenancy.patiently(
        'create or replace trigger place_organization before insert on public.organizations
         for each row execute function tenancy.place_organization()');
    call tenancy.patiently('call tenancy.place_organizations()');

    for target in
        select c.table_name
        from tenancy.classified_table c
        where (c.class = 'resource' or c.table_name = 'conversations') and to_regclass('public.' || c.table_name) is not null
        order by c.table_name
    loop
        call tenancy.backfill(target.table_name);
    end loop;

    -- What somebody should look at.
    for target in
        select o.id, o.name
        from public.organizations o
        where o.parent_organization_id = tenancy.quarantine_tenant_id() and o.id <> tenancy.quarantine_organization_id()
        order by o.name, o.id
    loop
        raise notice 'in quarantine, because nothing says which tenant it belongs to: organization % (%)', target.id, target.name;
    end loop;
    for target in
        select c.table_name, c.class
        from tenancy.classified_table c
        where (c.class = 'resource' or c.table_name = 'conversations') and to_regclass('public.' || c.table_name) is not null
        order by c.table_name
    loop
        execute format('select count(*) from public.%I where owner_organization_id = %L',
            target.table_name, tenancy.quarantine_organization_id()) into rows;
        if rows > 0 then
            raise notice 'in quarantine, because nothing says whose they are: % rows of %', rows, target.table_name;
        end if;
        continue when target.class <> 'resource';
        execute format('select count(*) from public.%I where owner_organization_id = %L and sharing_scope = ''organization''',
            target.table_name, tenancy.platform_id()) into rows;
        if rows > 0 then
            raise notice 'private to the platform''s own members, because they were not shown to everybody before: % rows of %',
                rows, target.table_name;
        end if;
    end loop;

    insert into tenancy.completed_phase (phase) values (2) on conflict do nothing;
    perform pg_advisory_unlock(hashtextextended('tenancy.migration', 0));
end
$$;

reset tenancy.migrating;
reset statement_timeout;
reset search_path;
