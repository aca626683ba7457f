-- What the checklist's policies need, and what it calls without spelling it: as one would write it from the text.
-- The policies themselves, on every resource table, come after this.

begin;
create schema literal;

-- Of a tenant itself, of an organization its parent, of the platform none.
create function literal.get_organization_tenant(p_organization_id uuid) returns uuid language sql stable as $$
    select case o.organization_type when 'tenant' then o.id when 'organization' then o.parent_organization_id end
    from public.organizations o where o.id = p_organization_id
$$;

create function literal.get_accessible_agents(p_user_id uuid)
returns table (
    agent_id uuid,
    agent_name text,
    agent_display_name text,
    tier public.agent_tier,
    sharing_scope public.sharing_scope_type,
    owner_organization_id uuid,
    access_reason text
)
language sql stable security definer as $$
    select a.id, a.name::text, a.display_name::text, a.tier, a.sharing_scope, a.owner_organization_id,
        case a.sharing_scope
            when 'platform' then 'platform-wide'
            when 'tenant' then 'tenant-wide'
            else 'organization-private'
        end
    from public.agents a
    where a.deleted_at is null
      and a.status = 'active'
      and (
        a.sharing_scope = 'platform'
        or (
          a.sharing_scope = 'tenant'
          and literal.get_organization_tenant(a.owner_organization_id) in (
            select literal.get_organization_tenant(uo.organization_id)
            from public.user_organizations uo
            where uo.user_id = p_user_id and uo.is_active = true
          )
        )
        or (
          a.sharing_scope = 'organization'
          and a.owner_organization_id in (
            select uo.organization_id
            from public.user_organizations uo
            where uo.user_id = p_user_id and uo.is_active = true
          )
        )
      )
    order by a.priority desc, a.tier, a.name
$$;

create function literal.can_user_access_resource(
    p_user_id uuid,
    p_resource_owner_org_id uuid,
    p_resource_sharing_scope public.sharing_scope_type
) returns boolean
language plpgsql stable security definer as $$
begin
    if p_resource_sharing_scope = 'platform' then
        return true;
    elsif p_resource_sharing_scope = 'tenant' then
        return literal.get_organization_tenant(p_resource_owner_org_id) in (
            select literal.get_organization_tenant(uo.organization_id)
            from public.user_organizations uo
            where uo.user_id = p_user_id and uo.is_active = true);
    end if;
    return exists (
        select
        from public.user_organizations uo
        where uo.user_id = p_user_id and uo.organization_id = p_resource_owner_org_id and uo.is_active = true);
end
$$;

grant usage on schema literal to authenticated;
drop policy users_view_public_agents on public.agents;
drop policy users_view_tenant_agents on public.agents;
drop policy tmp_team_access on public.agents;
commit;
