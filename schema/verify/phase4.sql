-- What:  is phase 4 complete, and does the database keep organizations apart? The checklist's queries of "Phase 4: Update
--        RLS Policies" and of "Verify Data Isolation", each with what it must return.
-- Needs: phase 4, and a role that may enter the schemas tenancy and authz and is not held by row level security, as the
--        owner of the tables; reads only, so it may run on production.
-- Locks: none. The format is that of helpers/verify: a name, the boxes it answers, what to expect.

-- Policies --------------------------------------------------------------------------------------------------------

-- name: policies
-- box: phase-4/review-current-rls-policies
-- box: pre-implementation/documentation-complete/rls-policies-documented
-- expect: info
-- The checklist looks at three tables, and not at what a policy lets in (with_check).
select schemaname, tablename, policyname, permissive, roles, cmd, qual, with_check
from pg_catalog.pg_policies
where schemaname = 'public'
order by tablename, policyname;

-- name: tables_that_are_open
-- box: phase-4/test-rls-policies
-- box: success-criteria/security/rls-policies-enforce-data-isolation
-- expect: none
select c.oid::regclass as table_name, c.relrowsecurity as row_level_security, t.class
from pg_catalog.pg_class c
left join tenancy.classified_table t on t.table_name = c.relname
where c.relnamespace = 'public'::regnamespace
  and c.relkind in ('r', 'p', 'f')
  and (not c.relrowsecurity or t.class is null)
order by c.relname;

-- name: policies_missing_or_beyond_the_list
-- box: phase-4/update-rls-policies-for-agents
-- box: phase-4/update-rls-for-knowledge-documents
-- box: phase-4/update-rls-for-conversations
-- expect: none
-- Permissive policies open what any other closes: one under a name that nobody knows is a hole.
with wanted (table_name, policy_name, command) as (
    select t.table_name, format(p.name, t.table_name), p.command
    from tenancy.classified_table t,
        (values ('users_view_accessible_%s', 'SELECT'), ('users_create_%s', 'INSERT'), ('users_update_%s', 'UPDATE')) as p (name, command)
    where t.class = 'resource' and to_regclass('public.' || t.table_name) is not null
    union all
    values
        ('conversations', 'users_view_own_conversations', 'SELECT'),
        ('conversations', 'users_create_own_conversations', 'INSERT'),
        ('conversations', 'users_update_own_conversations', 'UPDATE'),
        ('messages', 'users_view_own_messages', 'SELECT'),
        ('messages', 'users_create_own_messages', 'INSERT'),
        ('organizations', 'users_view_organizations', 'SELECT'),
        ('organizations', 'admins_rename_organizations', 'UPDATE'),
        ('users', 'users_view_colleagues', 'SELECT'),
        ('user_organizations', 'users_view_memberships', 'SELECT'),
        ('user_organizations', 'admins_add_memberships', 'INSERT'),
        ('user_organizations', 'admins_change_memberships', 'UPDATE'),
        ('user_organizations', 'admins_remove_memberships', 'DELETE'),
        ('audit_logs', 'admins_view_audit_logs', 'SELECT')
)
select
    coalesce(w.table_name, p.tablename) as table_name,
    coalesce(w.policy_name, p.policyname) as policy_name,
    w.command as wanted,
    p.cmd as found,
    p.roles,
    p.qual,
    p.with_check
from wanted w
full join (
    select * from pg_catalog.pg_policies where schemaname = 'public'
) as p on p.tablename = w.table_name and p.policyname = w.policy_name
where w.command is distinct from p.cmd
   or p.roles <> '{authenticated}'
   or p.permissive <> 'PERMISSIVE'
   or 'true' in (p.qual, p.with_check)
order by 1, 2;

-- What goes around policies ---------------------------------------------------------------------------------------

-- name: privileges_that_go_around_policies
-- box: success-criteria/security/users-cannot-see-unauthorized-data
-- expect: none
-- Who has not signed in has none at all; TRUNCATE asks no policy, and a temporary table hides a real one. What another role
-- lends, or a trigger of somebody else does, is none of what phase 4 gave.
select case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee, a.privilege_type, o.object
from (
    select c.oid::regclass::text as object, c.relacl as acl, false as is_log
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relname <> 'audit_logs'
    union all
    select t.attrelid::regclass || '.' || t.attname, t.attacl, false
    from pg_catalog.pg_attribute t
    join pg_catalog.pg_class c on c.oid = t.attrelid
    where c.relnamespace = 'public'::regnamespace
    union all
    select c.oid::regclass::text, c.relacl, true
    from pg_catalog.pg_class c
    where c.oid = to_regclass('public.audit_logs')
    union all
    select 'the database', coalesce(d.datacl, acldefault('d', d.datdba)), false
    from pg_catalog.pg_database d
    where d.datname = current_database()
    union all
    select 'schema ' || n.nspname, n.nspacl, false
    from pg_catalog.pg_namespace n
    where n.nspname in ('public', 'tenancy', 'authz', 'audit')
) as o
cross join aclexplode(o.acl) as a
where a.grantee in (0, 'anon'::regrole, 'authenticated'::regrole, 'service_role'::regrole)
  and (
      a.grantee in (0, 'anon'::regrole) and a.privilege_type not in ('USAGE', 'CONNECT')
      or a.privilege_type in ('TRUNCATE', 'REFERENCES', 'TRIGGER', 'CREATE', 'TEMPORARY')
      or a.privilege_type <> 'SELECT' and o.is_log
      or a.privilege_type = 'USAGE' and o.object in ('schema tenancy', 'schema authz', 'schema audit')
  )
union all
select m.member::regrole::text, 'MEMBER', 'role ' || m.roleid::regrole
from pg_catalog.pg_auth_members m
where m.member in ('anon'::regrole, 'authenticated'::regrole)
union all
select p.proowner::regrole::text, 'TRIGGER', format('%s on %s, which runs %s', t.tgname, c.oid::regclass, p.oid::regprocedure)
from pg_catalog.pg_trigger t
join pg_catalog.pg_class c on c.oid = t.tgrelid
join pg_catalog.pg_proc p on p.oid = t.tgfoid
join pg_catalog.pg_roles r on r.oid = p.proowner
where c.relnamespace = 'public'::regnamespace
  and not t.tgisinternal
  and not r.rolsuper
  and not pg_has_role(p.proowner, c.relowner, 'USAGE')
  and p.oid::regprocedure::text not in (select o.identity from tenancy.trusted_object o)
order by 3, 1, 2;

-- name: functions_that_go_around_policies
-- box: success-criteria/security/no-sql-injection-vulnerabilities
-- expect: none
-- A function that runs as its owner must say where it looks for names, and is not for those who have not signed in.
select p.oid::regprocedure as function, p.proconfig as settings, has_function_privilege('anon', p.oid, 'EXECUTE') as anon_may_execute
from pg_catalog.pg_proc p
where p.pronamespace in ('public'::regnamespace, 'tenancy'::regnamespace, 'authz'::regnamespace, 'audit'::regnamespace)
  and p.prosecdef
  and (has_function_privilege('anon', p.oid, 'EXECUTE') or not coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false))
order by p.oid::regprocedure::text;

-- name: views_that_go_around_policies
-- box: success-criteria/security/users-cannot-see-unauthorized-data
-- expect: none
-- A view reads as its owner unless it says otherwise, a materialised one always; organization_stats filters by itself.
select c.oid::regclass as view
from pg_catalog.pg_class c
where c.relnamespace = 'public'::regnamespace
  and (c.relkind = 'm'
       or c.relkind = 'v' and c.relname <> 'organization_stats' and not coalesce(c.reloptions && '{security_invoker=true,security_invoker=on}', false))
order by c.relname;

-- Isolation -------------------------------------------------------------------------------------------------------
-- For one user of each of twenty organizations, Novartis and Pfizer first: what the policies go by, against the rule,
-- computed from memberships and parents by hand. The checklist's test_rls_access asks the same for one user.

-- name: who_reads_what_is_private_to_others
-- box: phase-4/test-new-rls-policy-logic
-- box: phase-4/test-data-isolation
-- box: production-deployment/update-rls-policies/verify-data-isolation
-- box: production-deployment/verify-data-isolation/spot-check-novartis-user-cannot-see-pfizer-data
-- expect: none
with looked_at as (
    select o.id, o.name, (select min(uo.user_id::text)::uuid from public.user_organizations uo where uo.organization_id = o.id and uo.is_active) as user_id
    from public.organizations o
    where o.deleted_at is null
    order by coalesce(o.slug in ('novartis', 'pfizer'), false) desc, o.id
    limit 20
)
select reader.user_id, reader.name as reads_as_member_of, owner.name as owner
from looked_at reader
cross join looked_at owner
where reader.user_id is not null
  and not exists (
      select from public.user_organizations uo
      where uo.user_id = reader.user_id and uo.organization_id = owner.id and uo.is_active
  )
  and public.can_user_access_resource(reader.user_id, owner.id, 'organization')
order by 2, 3;

-- name: who_misses_or_reads_wrongly_what_a_tenant_shares
-- box: phase-4/test-data-isolation
-- box: production-deployment/verify-data-isolation/spot-check-tenant-wide-resources-visible
-- expect: none
with looked_at as (
    select
        o.id,
        o.name,
        case o.organization_type when 'organization' then o.parent_organization_id when 'tenant' then o.id end as tenant_id,
        o.is_active and coalesce(t.is_active and t.deleted_at is null, true) as is_live,
        (select min(uo.user_id::text)::uuid from public.user_organizations uo where uo.organization_id = o.id and uo.is_active) as user_id
    from public.organizations o
    left join public.organizations t on o.organization_type = 'organization' and t.id = o.parent_organization_id
    where o.deleted_at is null
    order by coalesce(o.slug in ('novartis', 'pfizer'), false) desc, o.id
    limit 20
), rule as (
    select
        reader.user_id,
        owner.id as owner_id,
        owner.name as owner,
        owner.is_live and exists (
            select
            from public.user_organizations uo
            join public.organizations m on m.id = uo.organization_id
            left join public.organizations t on m.organization_type = 'organization' and t.id = m.parent_organization_id
            where uo.user_id = reader.user_id
              and uo.is_active
              and m.is_active
              and m.deleted_at is null
              and coalesce(t.is_active and t.deleted_at is null, true)
              and owner.tenant_id = case m.organization_type when 'organization' then m.parent_organization_id when 'tenant' then m.id end
        ) as may_read
    from looked_at reader
    cross join looked_at owner
    where reader.user_id is not null
)
select r.user_id, r.owner, r.may_read
from rule r
where r.may_read <> public.can_user_access_resource(r.user_id, r.owner_id, 'tenant')
order by 2, 1;

-- name: who_is_told_otherwise_than_the_policies_say
-- box: phase-4/test-data-isolation
-- expect: none
-- can_user_access_resource() looks memberships up by itself; the policies go by the audiences.
with looked_at as (
    select
        o.id,
        o.name,
        o.tenant_organization_id,
        (select min(uo.user_id::text)::uuid from public.user_organizations uo where uo.organization_id = o.id and uo.is_active) as user_id
    from public.organizations o
    where o.deleted_at is null
    order by coalesce(o.slug in ('novartis', 'pfizer'), false) desc, o.id
    limit 20
)
select reader.user_id, owner.name as owner, s.scope
from looked_at reader
cross join looked_at owner
cross join unnest(enum_range(null::public.sharing_scope_type)) as s (scope)
where reader.user_id is not null
  and public.can_user_access_resource(reader.user_id, owner.id, s.scope) <> coalesce(
      authz.audience_key(s.scope, owner.id, owner.tenant_organization_id) = any (authz.audiences_of(reader.user_id))
          and owner.id <> all (authz.suspended_organizations()),
      false)
order by 2, 1, 3;

-- name: who_misses_what_everybody_reads
-- box: phase-4/test-data-isolation
-- box: production-deployment/verify-data-isolation/spot-check-platform-wide-resources-visible-to-all
-- expect: none
with looked_at as (
    select o.id, o.name, (select min(uo.user_id::text)::uuid from public.user_organizations uo where uo.organization_id = o.id and uo.is_active) as user_id
    from public.organizations o
    where o.deleted_at is null
    order by coalesce(o.slug in ('novartis', 'pfizer'), false) desc, o.id
    limit 20
)
select reader.user_id, reader.name as member_of
from looked_at reader
where reader.user_id is not null
  and not public.can_user_access_resource(reader.user_id, '00000000-0000-0000-0000-000000000001', 'platform')
order by 2;

-- Audit -----------------------------------------------------------------------------------------------------------

-- name: tables_that_change_without_a_record
-- box: success-criteria/security/audit-logging-captures-all-changes
-- expect: none
select c.oid::regclass as table_name, w.event as not_recorded
from tenancy.classified_table t
join pg_catalog.pg_class c on c.oid = to_regclass('public.' || t.table_name)
cross join (values ('insert', 4), ('delete', 8), ('update', 16)) as w (event, bit)
where t.class <> 'evidence'
  and not exists (
      select
      from pg_catalog.pg_trigger g
      where g.tgrelid = c.oid and g.tgfoid = to_regproc('audit.record') and g.tgtype & w.bit <> 0 and g.tgenabled in ('O', 'A')
  )
order by c.relname, w.event;

-- name: recent_audit_events
-- box: production-deployment/check-audit-logs
-- expect: info
select resource_type, action, count(*) as event_count
from public.audit_logs
where created_at > now() - interval '1 hour'
group by resource_type, action
order by event_count desc, resource_type, action;
