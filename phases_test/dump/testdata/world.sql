-- What:  a production database as years of use leave it, for make.sh: on the legacy baseline, with what a hosted platform adds.
-- Needs: the baseline, owned by vital; a superuser; the variables organizations and agents. Never runs in production.

\set ON_ERROR_STOP on
set client_min_messages = warning;

-- What the platform adds ------------------------------------------------------------------------------------------

create schema storage authorization supabase_storage_admin;
create schema graphql;
create extension pg_graphql with schema graphql;
comment on extension pg_graphql is 'of a server that this one is not';

create table auth.users (id uuid primary key, email text, encrypted_password text);
alter schema auth owner to supabase_auth_admin;
alter table auth.users owner to supabase_auth_admin;
alter function auth.uid() owner to supabase_auth_admin;
alter function auth.role() owner to supabase_auth_admin;
alter function auth.jwt() owner to supabase_auth_admin;
grant usage on schema auth to vital, dashboard_user;
grant references, select on auth.users to vital;
grant all on auth.users to dashboard_user;

create table storage.objects (id uuid primary key default gen_random_uuid(), owner uuid, path text);
alter table storage.objects owner to supabase_storage_admin;
alter table storage.objects enable row level security;
create policy own_objects on storage.objects to authenticated using (owner = auth.uid());

create function graphql.resolve(text) returns jsonb language sql as $$ select '{}'::jsonb $$;
create function public.made_by_the_platform() returns text language sql as $$ select 'COPY public.agents FROM stdin;'::text $$;
alter default privileges for role supabase_admin in schema public grant all on tables to anon;

create function storage.note_ddl() returns event_trigger language plpgsql as $$
begin
    -- Looks like what pg_dump writes, and is a line of a function:
--
-- Name: agents; Type: TABLE; Schema: public; Owner: postgres
--
    perform 1;
end
$$;
create event trigger note_ddl on ddl_command_end execute function storage.note_ddl();
create publication changes for table public.messages;
select lo_from_bytea(4711, 'a large object');

-- What the application has beside its tables ----------------------------------------------------------------------

set role vital;
create schema private;
create table private.jobs (id bigint primary key generated always as identity, payload json);
insert into private.jobs (payload) values ('{"kind": "mail"}'), ('{"kind": "index"}');
create function private.organizations_of(uuid) returns setof uuid language sql stable security definer
    begin atomic select organization_id from public.user_organizations where user_id = $1 and is_active; end;
create sequence public.ticket_numbers start 4711;
select nextval('public.ticket_numbers');
create view public.active_agents as select id, name from public.agents where status = 'active';
create table private."a ""Name: x; Type: TABLE""" (id integer);
create policy own on public.conversations to authenticated using (user_id = auth.uid());
create policy watched on public.conversations for select to dashboard_user using (true);
alter table public.conversations enable row level security;
grant select on public.agents to dashboard_user, reporting;
alter table public.knowledge_documents add embedding_model text default E'a\\b\ttab';
reset role;

-- Organizations ---------------------------------------------------------------------------------------------------

select setseed(0.5);
insert into public.organizations (id, name, tenant_type, tenant_key, settings, is_active) values
    ('7d000000-1111-4000-8000-000000000001', 'VITAL Expert Platform', 'system', 'system', '{}', true),
    ('7d000000-1111-4000-8000-000000000002', 'Pharmaceuticals', 'pharmaceuticals', 'pharma', '{}', true),
    ('7d000000-1111-4000-8000-000000000003', 'Digital Health', 'digital_health', 'digital-health', '{}', true);
insert into public.organizations (id, name, tenant_type, tenant_key, settings, is_active)
select
    ('7e000000-1111-4000-8000-' || lpad(n::text, 12, '0'))::uuid,
    case n % 11 when 1 then null when 2 then '  ' when 3 then 'Über-Größe' when 4 then '製薬' when 5 then 'Novartis'
        else E'Org\t' || n || ' "quoted" \N' end,
    case n % 4 when 0 then 'pharmaceuticals' when 1 then 'standard' when 2 then null else 'digital_health' end,
    -- Every seventh points nowhere.
    case when n % 7 = 0 then 'nowhere' when n % 5 = 0 then null when n % 4 = 2 then 'pharma' else 'company-' || n end,
    case when n % 7 = 0 then '{}' when n % 5 = 0 then '{"tenant_key": "digital-health"}' when n % 4 = 2 then '{}' else '{"tenant_key": "pharma"}' end::jsonb,
    n % 13 <> 0
from generate_series(1, :organizations) as n;

-- People ----------------------------------------------------------------------------------------------------------
-- Of ten, one is nobody's, one was somebody's, one belongs to two.

insert into auth.users (id, email)
select ('3a000000-1111-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'person-' || n || '@example.com'
from generate_series(1, 3 * :organizations) as n;
insert into public.users (id, email, full_name)
select id, email, E'Name \\ of\n' || email from auth.users;
alter table public.users add constraint users_id_fkey foreign key (id) references auth.users (id) on delete cascade;
insert into public.user_organizations (user_id, organization_id, role, is_active)
select u.id, o.id, (array['admin', 'member', 'viewer'])[1 + u.n % 3], u.n % 10 <> 4
from (select id, right(id::text, 12)::int as n from public.users) as u
join public.organizations o on o.id = ('7e000000-1111-4000-8000-' || lpad((1 + u.n % :organizations)::text, 12, '0'))::uuid
    or u.n % 10 = 5 and o.id = ('7e000000-1111-4000-8000-' || lpad((1 + (u.n + 1) % :organizations)::text, 12, '0'))::uuid
where u.n % 10 <> 3 and u.n > 3;
insert into public.user_organizations (user_id, organization_id, role)
select ('3a000000-1111-4000-8000-' || lpad(n::text, 12, '0'))::uuid, ('7d000000-1111-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'admin'
from generate_series(1, 3) as n;

-- What they have made ---------------------------------------------------------------------------------------------

insert into public.agents (id, tenant_id, name, priority, metadata, created_by, system_prompt)
select
    ('4a000000-1111-4000-8000-' || lpad(n::text, 12, '0'))::uuid,
    case when n % 17 = 0 then null when n % 29 = 0 then '7d000000-1111-4000-8000-000000000001'
        when n % 31 = 0 then ('7d000000-1111-4000-8000-' || lpad((2 + n % 2)::text, 12, '0'))::uuid
        else ('7e000000-1111-4000-8000-' || lpad((1 + n % :organizations)::text, 12, '0'))::uuid end,
    'Agent ' || n, n % 100,
    case n % 9
        when 0 then '{"is_public": true}' when 1 then '{"is_public": "True"}' when 2 then '{"is_tenant_shared": "true"}'
        when 3 then '{"is_tenant_shared": true, "is_public": false}' when 4 then '{"is_public": "yes"}' when 5 then '{"is_public": null}'
        else '{}' end::jsonb,
    ('3a000000-1111-4000-8000-' || lpad((1 + n % (3 * :organizations))::text, 12, '0'))::uuid,
    repeat('You are an expert. ', 10)
from generate_series(1, :agents) as n;

-- There is no key on these, and some point to what is gone.
insert into public.knowledge_documents (tenant_id, title, is_public, metadata, created_by, content)
select case n % 6 when 0 then '7f000000-1111-4000-8000-000000000009' when 1 then null
    else ('7e000000-1111-4000-8000-' || lpad((1 + n % :organizations)::text, 12, '0'))::uuid end,
    'Document ' || n, case n % 3 when 0 then true when 1 then null else false end,
    case n % 4 when 0 then '{"is_public": "false"}' when 1 then '{"is_public": true}' when 2 then '{"is_tenant_shared": "TRUE"}' else '{}' end::jsonb,
    case when n % 5 > 0 then ('3a000000-1111-4000-8000-' || lpad((1 + n % (3 * :organizations))::text, 12, '0'))::uuid end,
    E'two\nlines; -- and\n\\.\n$$'
from generate_series(1, :agents / 2) as n;
insert into public.workflows (tenant_id, name, is_public, created_by)
select tenant_id, title, is_public, created_by from public.knowledge_documents;
insert into public.use_cases (tenant_id, code, title) select tenant_id, 'UC-' || row_number() over (order by title), title from public.knowledge_documents;
insert into public.prompts (tenant_id, name, metadata) select tenant_id, name, metadata from public.agents;
drop table public.capabilities;

insert into public.conversations (id, tenant_id, user_id, agent_id, title)
select ('5a000000-1111-4000-8000-' || lpad(n::text, 12, '0'))::uuid,
    case when n % 3 > 0 then (select organization_id from public.user_organizations uo where uo.user_id = u.id order by id limit 1) end,
    u.id, ('4a000000-1111-4000-8000-' || lpad((1 + n % :agents)::text, 12, '0'))::uuid, 'Conversation ' || n
from (select id, right(id::text, 12)::int as n from public.users) as u;
insert into public.messages (conversation_id, role, content)
select c.id, 'user', 'Message ' || n from public.conversations c, generate_series(1, 3) as n;
