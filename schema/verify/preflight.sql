-- What:  may the phases run here? What the checklist wants prepared, and what it does not ask and a phase stumbles over.
-- Needs: the owner of the tables, as the phases; who is in pg_read_all_stats sees the sessions of others, too. It reads, and
--        cannot write. `psql -XAtf` prints a line for each check, `make preflight` a table, with staging beside production.
-- Locks: none but those of reading, never waited for. Safe on production: a statement has 30 seconds, organizations is
--        read as a whole, and of each other table the pages of 80 MB at most, taken at random. The format is that of
--        helpers/verify: each row is a check, its verdict (pass, warn, fail), what was found, and what to do.

-- name: limits
-- expect: info
-- Of this session: nothing is written from here on, and nobody waits.
select set_config('statement_timeout', '30s', false), set_config('lock_timeout', '100ms', false),
    set_config('default_transaction_read_only', 'on', false), set_config('search_path', '', false);

-- The server ------------------------------------------------------------------------------------------------------

-- name: server_version
-- box: pre-implementation/staging-environment-ready
-- expect: pass
-- Faults of PostgreSQL itself by which somebody met rows that policies hide, and the first minor version of each major
-- without them. What a fault is: https://www.postgresql.org/support/security/ and its name.
with this (major, minor) as (
    select v.number / 10000, v.number % 10000 from (select current_setting('server_version_num')::integer) as v (number)
), fault (name, major, mended) as (
    values
        ('CVE-2023-2455', 15, 3),   -- a plan for one role is kept for another, where a function was inlined
        ('CVE-2023-39418', 15, 4),  -- MERGE is not held by the policies for UPDATE and SELECT
        ('CVE-2024-10976', 15, 9),  -- as 2023-2455, where the table is below WITH, a subquery or a view
        ('CVE-2024-10976', 16, 5),
        ('CVE-2024-10976', 17, 1),
        ('CVE-2025-8713', 15, 14),  -- the planner shows hidden values of partitions to an operator
        ('CVE-2025-8713', 16, 10),
        ('CVE-2025-8713', 17, 6),
        ('CVE-2026-14666', 15, 19), -- a plan is kept after a role has lost what it was made with
        ('CVE-2026-14666', 16, 15),
        ('CVE-2026-14666', 17, 11),
        ('CVE-2026-14666', 18, 6)
)
select 'server_version' as check,
    case when this.major < 15 or count(f.name) > 0 then 'fail' else 'pass' end as verdict,
    format('PostgreSQL %s.%s', this.major, this.minor)
        || coalesce(' shows rows that policies hide: ' || string_agg(format('%s, fixed in %s.%s', f.name, f.major, f.mended), '; ' order by f.name), '') as found,
    case
        when this.major < 15 then 'move to PostgreSQL 15 or later'
        else format('update the server to %s.%s or later', this.major, max(f.mended))
    end as what_to_do
from this
left join fault f on f.major = this.major and f.mended > this.minor
group by this.major, this.minor;

-- name: role_of_server
-- expect: pass
select 'role_of_server' as check,
    case when pg_is_in_recovery() or s.reset_val = 'on' then 'fail' else 'pass' end as verdict,
    case when pg_is_in_recovery() then 'a standby' else 'the primary' end || ', default_transaction_read_only = ' || s.reset_val as found,
    case
        when pg_is_in_recovery() then 'connect to the primary: a standby takes no migration'
        else 'take default_transaction_read_only from the server, the database, or the role that runs the phases'
    end as what_to_do
from pg_catalog.pg_settings s
where s.name = 'default_transaction_read_only';

-- name: settings
-- expect: pass
-- As a session of this role gets them. Each is a check by its own name.
select s.name as check,
    case when w.is_fine then 'pass' else w.otherwise end as verdict,
    format('%s = %s', s.name, s.reset_val || coalesce(s.unit, '')) as found,
    w.what_to_do
from pg_catalog.pg_settings s
cross join lateral (values
    ('random_page_cost', s.reset_val::text in ('1', '1.1', '1.2', '1.25', '1.5'), 'warn',
        'on disks that do not turn set it to 1.1: at 4, a count over a table of narrow rows reads all of it, and takes three times as long'),
    ('jit', s.reset_val = 'off', 'warn',
        'set it off for the API''s roles: a plan that is believed to be dear is compiled first, which takes longer than most of what a caller may read'),
    ('track_activities', s.reset_val = 'on', 'warn', 'set it on: nobody sees who keeps a phase from its lock'),
    ('track_counts', s.reset_val = 'on', 'fail', 'set it on: without it nothing is vacuumed, nor analyzed'),
    ('autovacuum', s.reset_val = 'on', 'fail', 'set it on: phase 2 writes every row once more, and somebody must clear up behind it'),
    ('row_security', s.reset_val = 'on', 'fail', 'set it on: reading as a caller would be an error'),
    ('transaction_timeout', s.reset_val = '0', 'fail', 'set it to 0 for the role that runs the phases: it ends what a phase validates or builds'),
    ('fsync', s.reset_val = 'on', 'fail', 'set it on: a crash loses the database'),
    ('full_page_writes', s.reset_val = 'on', 'fail', 'set it on: a crash loses pages'),
    ('wal_level', s.reset_val in ('replica', 'logical'), 'warn', 'set it to replica: at minimal there is nothing to archive, and no way back but to the last dump'),
    ('archive_mode', s.reset_val in ('on', 'always'), 'warn',
        'archive the log, or know it: whoever restores the last backup loses all that was written after it'),
    ('idle_in_transaction_session_timeout', s.reset_val <> '0', 'warn',
        'set it, for the pool''s roles at least: who forgets to commit keeps a phase waiting, and its rows from being cleared away')
) as w (name, is_fine, otherwise, what_to_do)
where w.name = s.name
order by s.name;

-- name: archiver
-- expect: pass
select 'archiver' as check,
    case when a.last_failed_time > coalesce(a.last_archived_time, '-infinity') then 'fail' else 'pass' end as verdict,
    case when a.last_failed_time > coalesce(a.last_archived_time, '-infinity')
        then format('archiving fails since %s, at %s', a.last_failed_time, a.last_failed_wal)
        else format('%s files archived', a.archived_count) end as found,
    'mend archive_command before the phases: they write more log than a quiet day, and the disk fills with it' as what_to_do
from pg_catalog.pg_stat_archiver a;

-- name: connections
-- box: pre-implementation/staging-environment-ready/connection-pool-configuration-matches-production
-- expect: pass
select 'connections' as check,
    case when c.used + 5 > c.allowed then 'fail' when c.used > 0.9 * c.allowed then 'warn' else 'pass' end as verdict,
    format('%s of %s connections are taken, %s more are reserved for superusers', c.used, c.allowed, c.reserved) as found,
    'lower the pool''s size, or raise max_connections: a phase needs two, and somebody who looks after it some more' as what_to_do
from (
    select (select sum(d.numbackends) from pg_catalog.pg_stat_database d) as used,
        current_setting('superuser_reserved_connections')::integer as reserved,
        current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer as allowed
) as c;

-- name: replication_slots
-- expect: pass
with slot as (
    select s.* from pg_catalog.pg_replication_slots s
)
select 'replication_slots' as check,
    case when bool_or(not s.active) then 'fail' else 'pass' end as verdict,
    coalesce(string_agg(format('%s %s (%s)', s.slot_type, s.slot_name, case when s.active then 'in use' else 'nobody reads it' end), ', ' order by s.slot_name), 'none') as found,
    'drop what nobody reads (pg_drop_replication_slot): all log since it was last read is kept, and the phases write much' as what_to_do
from slot s;

-- name: publications
-- expect: pass
select 'publications' as check,
    case when count(*) > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(distinct t.pubname, ', '), 'none') || ' with our tables' as found,
    'add the columns of phase 1 to the subscriber first: definitions are not replicated, and without them replication stops' as what_to_do
from pg_catalog.pg_publication_tables t
where t.schemaname = 'public'
  and t.tablename in ('organizations', 'agents', 'knowledge_documents', 'prompts', 'workflows', 'use_cases', 'capabilities', 'conversations');

-- name: extensions
-- box: pre-implementation/staging-environment-ready/staging-has-same-extensions-enabled
-- expect: pass
select 'extensions' as check,
    case when bool_or(e.extversion <> a.default_version) then 'warn' else 'pass' end as verdict,
    string_agg(format('%s %s', e.extname, e.extversion)
        || case when e.extversion <> a.default_version then format(' (the server has %s)', a.default_version) else '' end, ', ' order by e.extname) as found,
    'alter extension … update, in staging and then in production, before the phases' as what_to_do
from pg_catalog.pg_extension e
left join pg_catalog.pg_available_extensions a on a.name = e.extname;

-- Encoding and collation ------------------------------------------------------------------------------------------

-- name: encoding
-- expect: pass
select 'encoding' as check,
    case when d.encoding = pg_char_to_encoding('UTF8') then 'pass' else 'fail' end as verdict,
    format('%s, collation %s', pg_encoding_to_char(d.encoding), d.datcollate) as found,
    'move the database to UTF8: phase 2 makes slugs of names by their Unicode letters' as what_to_do
from pg_catalog.pg_database d
where d.datname = current_database();

-- name: collation_version
-- expect: pass
select 'collation_version' as check,
    case when c.recorded <> c.actual then 'warn' else 'pass' end as verdict,
    case when c.recorded is null then 'its collation has no versions' else format('made with %s, the machine has %s', c.recorded, c.actual) end as found,
    'reindex what is text, then alter database … refresh collation version: an index may be in another order than its table' as what_to_do
from (
    select d.datcollversion as recorded, coalesce(pg_database_collation_actual_version(d.oid), 'none') as actual
    from pg_catalog.pg_database d
    where d.datname = current_database()
) as c;

-- Roles and privileges --------------------------------------------------------------------------------------------
-- Which role each phase must run as, the phase itself says: make preflight asks the next one, by its own refusals.

-- name: api_roles
-- box: pre-implementation/access-permissions/service-role-access-confirmed
-- expect: pass
select 'api_roles' as check,
    case when count(p.problem) > 0 then 'fail' else 'pass' end as verdict,
    coalesce(string_agg(p.problem, '; ' order by p.problem), 'anon, authenticated and service_role are what they should be') as found,
    'make what is missing by schema/cluster/roles.sql; take from anon and authenticated what goes around row level security' as what_to_do
from (
    select w.name || ' is missing' as problem
    from unnest(array['anon', 'authenticated', 'service_role']) as w (name)
    where not exists (select from pg_catalog.pg_roles r where r.rolname = w.name)
    union all
    select 'service_role has no BYPASSRLS: the backend would see nothing after phase 4'
    from pg_catalog.pg_roles r
    where r.rolname = 'service_role' and not r.rolbypassrls
    union all
    select format('%s is, or may become, %s, whom row level security does not hold', api.rolname, r.rolname)
    from pg_catalog.pg_roles api
    join pg_catalog.pg_roles r on pg_has_role(api.oid, r.oid, 'MEMBER')
    where api.rolname in ('anon', 'authenticated')
      and (r.rolsuper or r.rolbypassrls
           or r.oid = (select c.relowner from pg_catalog.pg_class c where c.oid = to_regclass('public.organizations')))
    union all
    select format('%s is a member of %s, and has what that has: phase 4 refuses', m.member::regrole, m.roleid::regrole)
    from pg_catalog.pg_auth_members m
    join pg_catalog.pg_roles r on r.oid = m.member
    where r.rolname in ('anon', 'authenticated')
) as p;

-- name: owner
-- box: pre-implementation/access-permissions/database-admin-credentials-available
-- box: pre-implementation/access-permissions/rls-policies-can-be-modified
-- box: pre-implementation/access-permissions/ability-to-create-functions-and-triggers
-- expect: pass
select 'owner' as check,
    case when count(p.problem) > 0 then 'fail' else 'pass' end as verdict,
    coalesce(string_agg(p.problem, '; ' order by p.problem), current_user || ' owns the tables and the database') as found,
    'connect as the owner of the tables and of the database, or let a superuser make it that: alter table … owner to …, alter database … owner to …' as what_to_do
from (
    select format('public.%s is %s''s', c.relname, c.relowner::regrole) as problem
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not pg_has_role(c.relowner, 'USAGE')
    union all
    select format('the database is %s''s', d.datdba::regrole)
    from pg_catalog.pg_database d
    where d.datname = current_database() and not pg_has_role(d.datdba, 'USAGE')
    union all
    select format('%s may not create schemas in the database', current_user)
    where not has_database_privilege(current_database(), 'CREATE')
    union all
    select format('%s may not create anything in schema public', current_user)
    where not has_schema_privilege('public', 'CREATE')
) as p;

-- name: sees_others
-- expect: pass
select 'sees_others' as check,
    case when pg_has_role('pg_read_all_stats', 'USAGE') then 'pass' else 'warn' end as verdict,
    format('%s %s what sessions of others do', current_user, case when pg_has_role('pg_read_all_stats', 'USAGE') then 'sees' else 'does not see' end) as found,
    format('grant pg_read_all_stats to %I: else nobody is told who keeps a phase waiting, and long_transactions below finds its own only', current_user) as what_to_do;

-- name: role_settings
-- box: pre-implementation/staging-environment-ready/connection-pool-configuration-matches-production
-- expect: pass
-- Of who logs in and becomes an API role: a pool's sessions.
select 'role_settings' as check,
    case when count(*) filter (where l.statement_timeout ~ '^0') > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(format('%s: statement_timeout %s, lock_timeout %s', l.rolname, l.statement_timeout, l.lock_timeout), '; ' order by l.rolname),
        'nobody logs in to become an API role') as found,
    'alter role … set statement_timeout: a statement of the application that never ends holds up the phases, and everybody behind them' as what_to_do
from (
    select r.rolname,
        max(coalesce(s.value, w.server_wide)) filter (where w.name = 'statement_timeout') as statement_timeout,
        max(coalesce(s.value, w.server_wide)) filter (where w.name = 'lock_timeout') as lock_timeout
    from pg_catalog.pg_roles r
    -- What nobody has set for a role is as it is for this session's, when it began.
    cross join (
        select p.name, p.reset_val as server_wide from pg_catalog.pg_settings p where p.name in ('statement_timeout', 'lock_timeout')
    ) as w
    left join lateral (
        select split_part(o.option, '=', 2) as value
        from pg_catalog.pg_db_role_setting g
        left join pg_catalog.pg_database d on d.oid = g.setdatabase
        cross join unnest(g.setconfig) as o (option)
        where g.setrole = r.oid and (g.setdatabase = 0 or d.datname = current_database()) and split_part(o.option, '=', 1) = w.name
        order by g.setdatabase desc
        limit 1
    ) as s on true
    where r.rolcanlogin and not r.rolsuper and not r.rolbypassrls and r.rolname <> current_user
      and exists (
          select from pg_catalog.pg_roles api
          where api.rolname in ('anon', 'authenticated') and pg_has_role(r.oid, api.oid, 'MEMBER')
      )
    group by r.rolname
) as l;

-- What is going on ------------------------------------------------------------------------------------------------

-- name: long_transactions
-- expect: pass
select 'long_transactions' as check,
    case when count(*) > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(format('pid %s of %s, for %s', a.pid, a.usename, date_trunc('second', now() - a.xact_start)), ', ' order by a.xact_start), 'none') as found,
    'let it end, or end it (pg_terminate_backend): a phase that needs its table gives up after five minutes' as what_to_do
from pg_catalog.pg_stat_activity a
where a.datname = current_database()
  and a.pid <> pg_backend_pid()
  and a.xact_start < now() - interval '1 minute';

-- name: prepared_transactions
-- expect: pass
with prepared as (
    select * from pg_catalog.pg_prepared_xacts
)
select 'prepared_transactions' as check,
    case when count(*) > 0 then 'fail' else 'pass' end as verdict,
    coalesce(string_agg(format('%s of %s since %s', p.gid, p.owner, p.prepared), ', ' order by p.prepared), 'none') as found,
    'commit prepared, or rollback prepared: nobody else ends it, and its locks stay' as what_to_do
from prepared p
where p.database = current_database();

-- name: tables_in_use
-- expect: pass
-- By the modes that the phases step aside for.
select 'tables_in_use' as check,
    case when count(*) > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(distinct format('%s by pid %s (%s)', c.relname, l.pid, l.mode), ', '), 'none') as found,
    'wait until the vacuum, the index build or the other migration has ended' as what_to_do
from pg_catalog.pg_locks l
join pg_catalog.pg_class c on c.oid = l.relation and c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
where l.database = (select oid from pg_catalog.pg_database where datname = current_database())
  and l.granted
  and l.pid <> pg_backend_pid()
  and l.mode in ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock');

-- name: bloat
-- expect: pass
select 'bloat' as check,
    case when count(*) > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(format('%s has %s dead rows beside %s', s.relname, s.n_dead_tup, s.n_live_tup), ', ' order by s.relname), 'no table has many dead rows') as found,
    'vacuum analyze these tables before phase 2, which writes every row once more' as what_to_do
from pg_catalog.pg_stat_user_tables s
where s.schemaname = 'public' and s.n_dead_tup > 1000 + 0.2 * s.n_live_tup;

-- name: vacuum_settings
-- expect: pass
select 'vacuum_settings' as check,
    case when count(*) > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(c.relname, ', ' order by c.relname) || ': autovacuum is off for it', 'autovacuum looks after all tables') as found,
    'alter table … reset (autovacuum_enabled): phase 2 leaves a dead row for each that it fills' as what_to_do
from pg_catalog.pg_class c
where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.reloptions && array['autovacuum_enabled=false', 'autovacuum_enabled=off'];

-- name: wraparound
-- expect: pass
select 'wraparound' as check,
    case when count(*) > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(format('%s is %s transactions old', c.relname, age(c.relfrozenxid)), ', ' order by c.relname), 'no table is due') as found,
    'vacuum freeze these tables first: a vacuum against wraparound steps aside for nobody, and the phases would for it' as what_to_do
from pg_catalog.pg_class c
where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'
  and age(c.relfrozenxid) > 0.8 * current_setting('autovacuum_freeze_max_age')::bigint;

-- name: disk_space
-- expect: pass
-- Measured with 100,000 agents and documents: phase 2 leaves up to as much again of the tables that it fills, and a
-- journal of 150 bytes for each row; phase 3 builds indexes of 300 bytes for each row, and 50 for each message; phases 1
-- and 4 write next to nothing. The log has as much. A rollback gives nothing back but the indexes.
select 'disk_space' as check, 'pass' as verdict,
    format('%s now; up to %s more by phase 2, %s by phase 3, and %s of log by both: SQL cannot see whether the disk has it',
        pg_size_pretty(pg_database_size(current_database())), pg_size_pretty(g.phase2), pg_size_pretty(g.phase3), pg_size_pretty(g.phase2 + 2 * g.phase3)) as found,
    null as what_to_do
from (
    select
        coalesce(sum(c.bytes + 150 * c.rows) filter (where c.relname <> 'messages' and to_regclass('tenancy.journal') is null), 0)::bigint as phase2,
        coalesce(sum(case c.relname when 'messages' then 50 else 300 end * c.rows) filter (where to_regclass('tenancy.planned_index') is null), 0)::bigint as phase3
    from (
        -- A table that was never analyzed: as if its rows had 200 bytes.
        select r.relname, pg_relation_size(r.oid) as bytes, case when r.reltuples < 0 then pg_relation_size(r.oid) / 200 else r.reltuples end as rows
        from pg_catalog.pg_class r
        where r.relnamespace = 'public'::regnamespace
          and r.relname in ('agents', 'knowledge_documents', 'prompts', 'workflows', 'use_cases', 'capabilities', 'conversations', 'messages')
    ) as c
) as g;

-- The phases ------------------------------------------------------------------------------------------------------

-- name: phases
-- expect: pass
-- A phase leaves its bookkeeping as it begins, and its number when it ends.
select 'phases' as check,
    case when f.begun > f.complete then 'warn' else 'pass' end as verdict,
    case
        when f.begun > f.complete then format('phase %s has begun, and is not complete', f.begun)
        when f.complete = 0 then 'none has run'
        else format('phase %s is complete', f.complete)
    end as found,
    'run it again: it does the rest; or run its rollback' as what_to_do
from (
    select
        case when to_regclass('tenancy.completed_phase') is null then 0
            else coalesce(((xpath('//n/text()', query_to_xml('select max(phase) as n from tenancy.completed_phase', true, true, '')))[1]::text)::integer, 0)
        end as complete,
        case
            when to_regclass('tenancy.planned_index') is not null then 3
            when to_regclass('tenancy.journal') is not null then 2
            when to_regclass('tenancy.undo') is not null then 1
            else 0
        end as begun
) as f;

-- name: missing_tables
-- expect: pass
select 'missing_tables' as check,
    case when count(*) filter (where w.is_needed) > 0 then 'fail' when count(*) > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(w.name, ', ' order by w.name), 'all are there') as found,
    'is this the right database? Without prompts, workflows, use_cases, capabilities or knowledge_documents the phases do as well' as what_to_do
from (values
    ('organizations', true), ('users', true), ('user_organizations', true), ('agents', true), ('conversations', true), ('messages', true),
    ('knowledge_documents', false), ('prompts', false), ('workflows', false), ('use_cases', false), ('capabilities', false)
) as w (name, is_needed)
where to_regclass('public.' || w.name) is null;

-- name: caller
-- expect: pass
select 'caller' as check,
    case when to_regprocedure('auth.uid()') is null then 'fail' else 'pass' end as verdict,
    case when to_regprocedure('auth.uid()') is null then 'there is no auth.uid()' else 'auth.uid() says who is calling' end as found,
    'make auth.uid(), which returns the caller''s id from the request''s claims, as the platform has it' as what_to_do;

-- name: names_taken
-- expect: pass
-- Names that the phases give, and that something has that is not theirs. Most are refused by the phase that comes to
-- them; a trigger would be replaced.
with has (phase) as (
    select case
        when to_regclass('tenancy.planned_index') is not null then case when to_regprocedure('public.soft_delete(text, uuid)') is null then 3 else 4 end
        when to_regclass('tenancy.journal') is not null then 2
        when to_regclass('tenancy.undo') is not null then 1
        else 0
    end
), resource (name) as (
    values ('agents'), ('knowledge_documents'), ('prompts'), ('workflows'), ('use_cases'), ('capabilities')
), ours (table_name, is_resource) as (
    select name, true from resource
    union all
    values ('conversations', false), ('messages', false), ('organizations', false), ('users', false), ('user_organizations', false)
), taken (phase, identity) as (
    select w.phase, 'schema ' || w.name
    from (values (1, 'tenancy'), (1, 'authz'), (3, 'audit')) as w (phase, name)
    where to_regnamespace(w.name) is not null
    union all
    select 1, format('type public.%s with the labels %s', t.typname, string_agg(e.enumlabel, ', ' order by e.enumsortorder))
    from pg_catalog.pg_type t
    left join pg_catalog.pg_enum e on e.enumtypid = t.oid
    where t.typnamespace = 'public'::regnamespace and t.typname in ('organization_type', 'sharing_scope_type')
    group by t.typname
    having string_agg(e.enumlabel, ', ' order by e.enumsortorder) is distinct from 'platform, tenant, organization'
    union all
    select 1, format('column public.%s.%s of type %s', o.table_name, a.attname, format_type(a.atttypid, a.atttypmod))
    from ours o
    join pg_catalog.pg_attribute a on a.attrelid = to_regclass('public.' || o.table_name) and not a.attisdropped
    join (values
        ('uuid', array['parent_organization_id', 'tenant_organization_id', 'owner_organization_id', 'owner_tenant_id', 'audience_key']),
        ('organization_type', array['organization_type', 'parent_organization_type']),
        ('sharing_scope_type', array['sharing_scope']),
        ('text character varying', array['slug']),
        ('timestamp with time zone', array['deleted_at', 'updated_at'])
    ) as w (types, columns) on a.attname = any (w.columns)
    where (o.is_resource or o.table_name in ('organizations', 'conversations'))
      and position(replace(format_type(a.atttypid, null), 'public.', '') in w.types) = 0
    union all
    select w.phase, format('trigger %s of public.%s', t.tgname, o.table_name)
    from ours o
    join pg_catalog.pg_trigger t on t.tgrelid = to_regclass('public.' || o.table_name) and not t.tgisinternal
    join (values
        (1, 'organizations', 'set_tenant'), (1, '*', 'keep_owner_in_step'), (1, '*', 'keep_scope_in_step'), (1, '*', 'set_audience'),
        (1, 'conversations', 'keep_owner_in_step'), (2, '*', 'keep_owner_resolved'), (2, 'conversations', 'keep_owner_resolved'),
        (2, 'organizations', 'place_organization'), (4, '*', 'guard'), (4, '*', 'guard_sharing'),
        (4, '**', 'audit_insert'), (4, '**', 'audit_update'), (4, '**', 'audit_delete')
    ) as w (phase, place, name) on t.tgname = w.name and (w.place in (o.table_name, '**') or w.place = '*' and o.is_resource)
    union all
    select w.phase, 'function ' || p.oid::regprocedure
    from pg_catalog.pg_proc p
    join (
        values (3, 'get_organization_hierarchy'), (3, 'get_organization_tenant'), (3, 'get_user_accessible_organizations'),
            (3, 'can_user_access_resource'), (3, 'refresh_organization_stats'), (3, 'search_agents'), (3, 'search_knowledge_documents'),
            (4, 'soft_delete')
        union all
        select 3, 'get_accessible_' || r.name from resource r
    ) as w (phase, name) on w.name = p.proname
    where p.pronamespace = 'public'::regnamespace
    union all
    select 3, 'constraint ' || c.conname || ' of ' || c.conrelid::regclass
    from pg_catalog.pg_constraint c
    join ours o on to_regclass('public.' || o.table_name) = c.conrelid
    where c.conname in ('org_hierarchy_valid', 'organizations_parent_type_derived', 'organizations_tenant_derived', 'fk_parent_organization',
            'organizations_id_is_no_shared_key', 'organizations_slug_not_empty', 'user_organizations_role_valid')
       or c.conname in (format('fk_%s_owner', o.table_name), format('fk_%s_owner_tenant', o.table_name),
            format('%s_audience_key_derived', o.table_name), format('%s_owner_tenant_known', o.table_name))
    union all
    select 3, 'relation ' || c.oid::regclass
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace
      and (c.relname in ('organization_stats', 'audit_logs', 'audit_logs_id_seq', 'audit_logs_pkey', 'idx_audit_logs_organization',
              'idx_audit_logs_deleted_conversations',
              'idx_organizations_slug', 'idx_organizations_one_platform', 'idx_organizations_shared_key', 'idx_organizations_id_type', 'idx_organizations_id_tenant',
              'idx_organizations_parent', 'idx_organizations_suspended', 'idx_agents_accessible', 'idx_agents_org_list',
              'idx_agents_knowledge_domains', 'idx_knowledge_documents_text', 'idx_conversations_user', 'idx_conversations_owner',
              'idx_messages_conversation', 'idx_use_cases_owner_code', 'idx_capabilities_owner_code')
           or c.relname in (select format(i.name, r.name) from resource r, (values ('idx_%s_owner'), ('idx_%s_audience')) as i (name)))
)
select 'names_taken' as check,
    case when count(*) > 0 then 'fail' else 'pass' end as verdict,
    coalesce(string_agg(distinct t.identity, ', ' order by t.identity), 'none') as found,
    'rename it, or change the column''s type, before phase ' || min(t.phase) as what_to_do
from taken t
cross join has
where t.phase > has.phase;

-- name: unclassified_tables
-- expect: pass
-- tenancy.classified_table says it, as soon as phase 1 has made that.
select 'unclassified_tables' as check,
    case when count(*) > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(c.relname, ', ' order by c.relname), 'none') as found,
    'say after phase 1 who may read them: insert each into tenancy.classified_table as resource, private, directory or evidence; '
        'or move it to a schema that the API does not expose. Phase 4 refuses else' as what_to_do
from pg_catalog.pg_class c
where c.relnamespace = 'public'::regnamespace
  and c.relkind in ('r', 'p', 'f')
  and case when to_regclass('tenancy.classified_table') is null
      then c.relname not in ('organizations', 'users', 'user_organizations', 'agents', 'knowledge_documents', 'prompts', 'workflows',
          'use_cases', 'capabilities', 'conversations', 'messages', 'audit_logs')
      else query_to_xml(format('select from tenancy.classified_table where table_name = %L', c.relname), true, true, '')::text = ''
  end;

-- name: unique_indexes
-- expect: pass
select 'unique_indexes' as check,
    case when count(*) > 0 then 'fail' else 'pass' end as verdict,
    coalesce(string_agg(i.indexrelid::regclass::text, ', ' order by i.indexrelid::regclass::text), 'none tells what others have') as found,
    'make each unique within the owner (put tenant_id first): by a value that nobody else may have anybody finds out that somebody has it' as what_to_do
from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indrelid and c.relnamespace = 'public'::regnamespace
where c.relname in ('agents', 'knowledge_documents', 'prompts', 'workflows', 'use_cases', 'capabilities')
  and (i.indisunique or i.indisexclusion)
  and not i.indisprimary
  and not exists (
      select from pg_catalog.pg_attribute a
      where a.attrelid = i.indrelid and a.attnum = any (i.indkey)
        and (a.attname in ('id', 'owner_organization_id', 'tenant_id') or a.attname = 'code' and i.indnkeyatts = 1 and c.relname in ('use_cases', 'capabilities'))
  );

-- name: invalid_indexes
-- expect: pass
select 'invalid_indexes' as check,
    case when count(*) > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(i.indexrelid::regclass::text, ', ' order by i.indexrelid::regclass::text), 'none') as found,
    'drop it, or reindex index concurrently: every write pays for it, and no query uses it' as what_to_do
from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indrelid and c.relnamespace = 'public'::regnamespace
where not i.indisvalid;

-- name: foreign_objects
-- expect: pass
select 'foreign_objects' as check,
    case when count(*) > 0 then 'fail' else 'pass' end as verdict,
    coalesce(string_agg(format('%s is %s''s', o.identity, o.owner), ', ' order by o.identity), 'none') as found,
    'alter … owner to the tables'' owner, or move it to a schema that no API role may use: what the owner may not alter, phase 4 cannot close' as what_to_do
from (
    select c.oid::regclass::text as identity, c.relowner::regrole as owner, c.oid, 'pg_class'::regclass as catalog
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('v', 'm', 'f', 'S') and not pg_has_role(c.relowner, 'USAGE')
    union all
    select p.oid::regprocedure::text, p.proowner::regrole, p.oid, 'pg_proc'::regclass
    from pg_catalog.pg_proc p
    where p.pronamespace = 'public'::regnamespace and not pg_has_role(p.proowner, 'USAGE')
) as o
where not exists (
    select from pg_catalog.pg_depend d where d.classid = o.catalog and d.objid = o.oid and d.deptype = 'e'
);

-- name: ways_around
-- expect: pass
-- Beside public, a view or a function of the owner reads the tables past row level security.
with recursive reader (oid) as (
    select c.oid
    from pg_catalog.pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
    union
    select w.ev_class
    from reader r
    join pg_catalog.pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = r.oid and d.classid = 'pg_rewrite'::regclass
    join pg_catalog.pg_rewrite w on w.oid = d.objid
), way (identity) as (
    select c.oid::regclass::text
    from reader
    join pg_catalog.pg_class c on c.oid = reader.oid
    cross join (values ('anon'), ('authenticated')) as api (role)
    join pg_catalog.pg_roles r on r.rolname = api.role
    where c.relkind in ('v', 'm')
      and c.relnamespace <> 'public'::regnamespace
      and (c.relkind = 'm' or not coalesce(c.reloptions @> '{security_invoker=true}', false))
      and has_schema_privilege(r.oid, c.relnamespace, 'USAGE')
      and (has_any_column_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE') or has_table_privilege(r.oid, c.oid, 'DELETE'))
    union
    select p.oid::regprocedure::text
    from pg_catalog.pg_proc p
    join pg_catalog.pg_roles o on o.oid = p.proowner and not o.rolsuper
    cross join (values ('anon'), ('authenticated')) as api (role)
    join pg_catalog.pg_roles r on r.rolname = api.role
    where p.prosecdef
      and (o.rolbypassrls
           or pg_has_role(p.proowner, (select c.relowner from pg_catalog.pg_class c where c.oid = to_regclass('public.organizations')), 'USAGE'))
      and p.pronamespace::regnamespace::text not in ('public', 'authz', 'audit', 'tenancy')
      and has_schema_privilege(r.oid, p.pronamespace, 'USAGE')
      and has_function_privilege(r.oid, p.oid, 'EXECUTE')
)
select 'ways_around' as check,
    case when count(*) > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(w.identity, ', ' order by w.identity), 'none') as found,
    'revoke it from anon and authenticated, make it security_invoker, or, after a look at each, insert it into tenancy.trusted_object '
        'when phase 1 has made that. Phase 4 refuses else' as what_to_do
from way w
where to_regclass('tenancy.trusted_object') is null
   or query_to_xml(format('select from tenancy.trusted_object where identity = %L', w.identity), true, true, '')::text = '';

-- name: foreign_triggers
-- expect: pass
-- Whoever writes runs them, the owner too.
select 'foreign_triggers' as check,
    case when count(*) > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(format('%s on %s runs %s of %s', t.tgname, c.oid::regclass, p.oid::regprocedure, r.rolname), ', ' order by c.relname, t.tgname), 'none') as found,
    'drop it, or give its function to the tables'' owner, or, after a look at it, insert the function into tenancy.trusted_object when '
        'phase 1 has made that. Phase 4 refuses else' as what_to_do
from pg_catalog.pg_trigger t
join pg_catalog.pg_class c on c.oid = t.tgrelid
join pg_catalog.pg_proc p on p.oid = t.tgfoid
join pg_catalog.pg_roles r on r.oid = p.proowner
where c.relnamespace = 'public'::regnamespace
  and not t.tgisinternal
  and not r.rolsuper
  and not pg_has_role(p.proowner, c.relowner, 'USAGE')
  and (to_regclass('tenancy.trusted_object') is null
       or query_to_xml(format('select from tenancy.trusted_object where identity = %L', p.oid::regprocedure), true, true, '')::text = '');

-- name: policies
-- box: phase-4/review-current-rls-policies
-- expect: pass
-- Phase 4 drops them all, and makes its own for authenticated alone.
select 'policies' as check,
    case when count(*) filter (where not p.roles <@ array['public', 'anon', 'authenticated', 'service_role']::name[]) > 0 then 'warn' else 'pass' end as verdict,
    coalesce(string_agg(format('%s of %s to %s', p.policyname, p.tablename, array_to_string(p.roles, ', ')), '; ' order by p.tablename, p.policyname), 'none') as found,
    'who reads by a role of his own sees nothing after phase 4: let him log in through the API, or give his role BYPASSRLS' as what_to_do
from pg_catalog.pg_policies p
where p.schemaname = 'public'
  and to_regclass('tenancy.planned_index') is null;

-- The data --------------------------------------------------------------------------------------------------------

-- name: tenant_types
-- box: phase-2/review-current-tenant-type-distribution
-- expect: pass
-- Companies carry the type of a tenant, too: its key tells a tenant from them.
select 'tenant_types' as check, 'pass' as verdict,
    coalesce(string_agg(format('%s: %s', coalesce(t.tenant_type, 'none'), t.organizations), ', ' order by t.tenant_type), 'no organizations') as found,
    null as what_to_do
from (
    select tenant_type, count(*) as organizations from public.organizations group by tenant_type
) as t;

-- name: organizations
-- expect: pass
-- What phase 2 refuses; before it: afterwards its verification tells.
select 'organizations' as check,
    case when count(*) > 0 then 'fail' else 'pass' end as verdict,
    coalesce(string_agg(p.problem, '; ' order by p.problem), 'nothing contradicts itself') as found,
    'correct the rows before phase 2, which refuses them' as what_to_do
from (
    select 'two rows or more claim to be the platform: ' || string_agg(o.id::text, ', ' order by o.id) as problem
    from public.organizations o
    where o.tenant_type = 'system'
    having count(*) > 1
    union all
    select format('two rows or more claim to be the tenant %L: %s', o.tenant_key, string_agg(o.id::text, ', ' order by o.id))
    from public.organizations o
    where (o.tenant_type, o.tenant_key) in (('pharmaceuticals', 'pharma'), ('digital_health', 'digital-health'))
    group by o.tenant_key
    having count(*) > 1
    union all
    select format('%s is an id that the phases keep for themselves: %L', o.id, o.name)
    from public.organizations o
    where substr(o.id::text, 15, 1) = 'f' or o.id in ('00000000-0000-0000-0000-000000000002', '00000000-0000-0000-0000-000000000003')
    union all
    select format('%s differ in the version of the UUID alone: one would read what the other shares', string_agg(o.id::text, ', ' order by o.id))
    from (
        select id from public.organizations where tenant_type is distinct from 'system'
        union
        values ('00000000-0000-0000-0000-000000000001'::uuid), ('00000000-0000-0000-0000-000000000002'), ('00000000-0000-0000-0000-000000000003')
    ) as o
    group by overlay(o.id::text placing 'f' from 15 for 1)
    having count(*) > 1
) as p
where to_regclass('tenancy.organization_journal') is null;

-- name: organizations_without_a_tenant
-- expect: pass
select 'organizations_without_a_tenant' as check,
    case when count(*) > 0 then 'warn' else 'pass' end as verdict,
    format('%s', count(*)) || coalesce(', among them ' || (array_agg(format('%s %L', o.id, o.name) order by o.id))[1], '') as found,
    'after phase 1 say in tenancy.organization_mapping to which tenant each belongs; else phase 2 puts it into quarantine, where nobody shares anything' as what_to_do
from public.organizations o
where to_regclass('tenancy.organization_journal') is null
  and o.tenant_type is distinct from 'system'
  and not exists (
      select
      from public.organizations t
      where (t.tenant_type, t.tenant_key) in (('pharmaceuticals', 'pharma'), ('digital_health', 'digital-health'))
        and coalesce(t.settings ->> 'tenant_key', t.tenant_key) = coalesce(o.settings ->> 'tenant_key', o.tenant_key)
  );

-- name: organizations_without_a_name
-- box: phase-2/verify-data-quality
-- expect: pass
select 'organizations_without_a_name' as check,
    case when count(*) > 0 then 'warn' else 'pass' end as verdict,
    format('%s', count(*)) || coalesce(', among them ' || (array_agg(o.id order by o.id))[1], '') as found,
    'give each a name before phase 2, which makes its slug of its id else' as what_to_do
from public.organizations o
where coalesce(trim(o.name), '') = '';

-- name: rows_without_an_organization
-- box: phase-2/verify-data-quality
-- expect: pass
-- Of each table the pages of 80 MB at most are read, taken at random.
select 'rows_without_an_organization' as check,
    case when bool_or(t.answer !~ '^0 ') then 'warn' else 'pass' end as verdict,
    string_agg(format('%s: %s', t.table_name, t.answer), ', ' order by t.table_name) as found,
    'name their owner before phase 2, which goes by who made a row, and puts what that does not tell into quarantine' as what_to_do
from (
    select w.table_name, (xpath('//n/text()', query_to_xml(format(
        'select format(''%%s of %%s'', count(*) filter (where true%s), count(*)) as n
         from public.%I r tablesample system (%s) repeatable (1)%s',
        string_agg(format(' and o%s.id is null', a.attnum), ''), w.table_name,
        least(100, 80e6 * 100 / greatest(1, pg_relation_size(c.oid))),
        string_agg(format(' left join public.organizations o%s on o%1$s.id = r.%I', a.attnum, a.attname), '')), true, true, '')))[1]::text as answer
    from unnest(array['agents', 'knowledge_documents', 'prompts', 'workflows', 'use_cases', 'capabilities', 'conversations']) as w (table_name)
    join pg_catalog.pg_class c on c.oid = to_regclass('public.' || w.table_name)
    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname in ('owner_organization_id', 'tenant_id') and not a.attisdropped
    group by w.table_name, c.oid
) as t;

-- Staging beside production ---------------------------------------------------------------------------------------

-- name: facts
-- box: pre-implementation/staging-environment-ready/staging-database-is-clone-of-production
-- box: pre-implementation/staging-environment-ready/staging-has-same-postgresql-version-as-production
-- expect: info
-- What should be alike, and how bad it is where it is not. make preflight compares them, and the definitions.
select 'server version' as fact, current_setting('server_version') as value, 'fail' as otherwise
union all
select 'extension ' || extname, extversion, 'fail' from pg_catalog.pg_extension
union all
select f.fact, f.value, 'fail'
from pg_catalog.pg_database d
cross join lateral (values
    ('encoding', pg_encoding_to_char(d.encoding)), ('collation', d.datcollate), ('character types', d.datctype),
    ('locale provider', d.datlocprovider::text), ('collation version', d.datcollversion)
) as f (fact, value)
where d.datname = current_database()
union all
select 'setting ' || s.name, s.reset_val || coalesce(s.unit, ''), 'warn'
from pg_catalog.pg_settings s
where s.name in ('max_connections', 'superuser_reserved_connections', 'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
    'transaction_timeout', 'shared_buffers', 'work_mem', 'maintenance_work_mem', 'effective_cache_size', 'random_page_cost', 'jit',
    'max_parallel_workers_per_gather', 'max_locks_per_transaction', 'max_prepared_transactions', 'plan_cache_mode', 'row_security',
    'default_transaction_isolation', 'TimeZone', 'wal_level', 'autovacuum', 'shared_preload_libraries', 'default_toast_compression')
union all
select format('role %s', r.rolname), concat_ws(', ',
    case when r.rolsuper then 'superuser' end, case when r.rolbypassrls then 'bypasses row level security' end,
    case when r.rolinherit then 'inherits' end, case when r.rolcanlogin then 'logs in' end, 'limit ' || r.rolconnlimit,
    (
        select string_agg(o.option, ', ' order by o.option)
        from pg_catalog.pg_db_role_setting g
        left join pg_catalog.pg_database d on d.oid = g.setdatabase
        cross join unnest(g.setconfig) as o (option)
        where g.setrole = r.oid and (g.setdatabase = 0 or d.datname = current_database())
    )), 'warn'
from pg_catalog.pg_roles r
where r.rolname in ('anon', 'authenticated', 'service_role', 'authenticator')
union all
select format('organizations of type %s', coalesce(tenant_type, 'none')), count(*)::text, 'warn'
from public.organizations
group by tenant_type
order by 1;
