-- What:  the production database as it was before phase 1: a stand-in with its tables, its grants and its holes.
-- Needs: an empty database owned by the current, non-superuser role; the roles of cluster/roles.sql. Never runs in production.
-- Locks: none that matter, the database is new.

begin;

do $$
begin
    if to_regclass('public.organizations') is not null then
        raise exception 'this database already holds an organizations table'
            using hint = 'The baseline is for an empty database; an existing one starts with phase 1.';
    end if;
end
$$;

-- Extensions ------------------------------------------------------------------------------------------------------
-- Both are trusted: the owner of the database may create them. Supabase keeps extensions in a schema of their own.

create schema extensions;
create extension "uuid-ossp" with schema extensions;
create extension pgcrypto with schema extensions;
grant usage on schema extensions to anon, authenticated, service_role;

-- Who is calling --------------------------------------------------------------------------------------------------
-- The claims of the request's JWT, in both of PostgREST's conventions. The JSON form wins: a stale setting of the
-- old convention must not beat it. A setting whose SET LOCAL has ended is '' and not NULL, hence nullif.

create schema auth;
grant usage on schema auth to anon, authenticated, service_role;

create function auth.jwt() returns jsonb language sql stable as $$
    select nullif(current_setting('request.jwt.claims', true), '')::jsonb
$$;

create function auth.uid() returns uuid language sql stable as $$
    select nullif(coalesce(
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub',
        current_setting('request.jwt.claim.sub', true)), '')::uuid
$$;

create function auth.role() returns text language sql stable as $$
    select nullif(coalesce(
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role',
        current_setting('request.jwt.claim.role', true)), '')
$$;

-- Blanket default privileges, as Supabase has them ----------------------------------------------------------------

grant usage on schema public to anon, authenticated, service_role;
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;

-- Directory -------------------------------------------------------------------------------------------------------

create type public.agent_tier as enum ('tier_1', 'tier_2', 'tier_3');
create type public.agent_status as enum ('active', 'inactive', 'archived', 'draft');

-- tenant_key is the key of the tenant that an organization belongs to (for a tenant its own); newer rows keep it in
-- settings instead. tenant_type is a description that companies carry too, not a pointer.
create table public.organizations (
    id uuid primary key default gen_random_uuid(),
    name text,
    tenant_type text,
    tenant_key text,
    domain text,
    settings jsonb not null default '{}',
    is_active boolean not null default true,
    created_at timestamptz not null default now()
);

create table public.users (
    id uuid primary key default gen_random_uuid(),
    email text not null unique,
    full_name text,
    created_at timestamptz not null default now()
);

create table public.user_organizations (
    id uuid primary key default gen_random_uuid(),
    user_id uuid not null references public.users (id) on delete cascade,
    organization_id uuid not null references public.organizations (id) on delete cascade,
    role text not null default 'member',
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    unique (user_id, organization_id)
);

-- Resources -------------------------------------------------------------------------------------------------------
-- Sharing lives in metadata (is_public, is_tenant_shared: booleans, or the strings "true" and "True") or in a column.

create table public.agents (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid references public.organizations (id) on delete cascade,
    name varchar(100) not null,
    display_name varchar(255),
    description text,
    system_prompt text,
    tier public.agent_tier not null default 'tier_3',
    status public.agent_status not null default 'active',
    knowledge_domains text[] not null default '{}',
    capabilities text[] not null default '{}',
    avatar_url text,
    priority integer not null default 0,
    metadata jsonb not null default '{}',
    created_by uuid,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table public.knowledge_documents (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid,
    title text not null,
    content text,
    summary text,
    is_public boolean,
    metadata jsonb not null default '{}',
    created_by uuid,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table public.prompts (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid,
    name text not null,
    content text,
    metadata jsonb not null default '{}',
    created_by uuid,
    created_at timestamptz not null default now()
);

create table public.workflows (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid,
    name text not null,
    definition jsonb not null default '{}',
    is_public boolean,
    is_template boolean,
    created_by uuid,
    created_at timestamptz not null default now()
);

create table public.use_cases (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid,
    code text unique,
    title text not null,
    created_by uuid,
    created_at timestamptz not null default now()
);

create table public.capabilities (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid,
    code text unique,
    name text not null,
    created_by uuid,
    created_at timestamptz not null default now()
);

-- Conversations ---------------------------------------------------------------------------------------------------

create table public.conversations (
    id uuid primary key default gen_random_uuid(),
    tenant_id uuid,
    user_id uuid not null references public.users (id),
    agent_id uuid references public.agents (id) on delete set null,
    title text,
    mode text,
    status text not null default 'active',
    metadata jsonb not null default '{}',
    created_at timestamptz not null default now()
);

create table public.messages (
    id uuid primary key default gen_random_uuid(),
    conversation_id uuid not null references public.conversations (id) on delete cascade,
    role text not null,
    content text,
    created_at timestamptz not null default now()
);

create index agents_tenant_id_idx on public.agents (tenant_id);
create index conversations_user_id_idx on public.conversations (user_id);
create index messages_conversation_id_idx on public.messages (conversation_id);

-- What the old application relies on ------------------------------------------------------------------------------

create function public.count_tenant_agents(p_tenant_id uuid) returns bigint language sql stable as $$
    select count(*) from public.agents where tenant_id = p_tenant_id
$$;

-- Row level security stands on agents only, in three permissive policies; the last is in nobody's document.
alter table public.agents enable row level security;

create policy users_view_public_agents on public.agents for select to authenticated
    using (lower(metadata ->> 'is_public') = 'true');

-- Shared with everybody whose organization carries the same tenant key, wherever the row keeps it.
create policy users_view_tenant_agents on public.agents for select to authenticated
    using (
        lower(metadata ->> 'is_tenant_shared') = 'true'
        and exists (
            select
            from public.user_organizations uo
            join public.organizations mine on mine.id = uo.organization_id
            join public.organizations theirs on theirs.id = agents.tenant_id
            where uo.user_id = auth.uid()
              and uo.is_active
              and coalesce(mine.settings ->> 'tenant_key', mine.tenant_key)
                = coalesce(theirs.settings ->> 'tenant_key', theirs.tenant_key)
        )
    );

-- Its holes are real ones: former members still read, and viewers write.
create policy tmp_team_access on public.agents to authenticated
    using (tenant_id in (select organization_id from public.user_organizations where user_id = auth.uid()));

commit;
