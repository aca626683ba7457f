-- (identity, definition) of every object of the database; see the doc comment of Catalog.
-- Runs with an empty search_path, so that the server qualifies every name but its own.
with
-- Objects that belong to an extension: its version says what they are.
member as (
    select classid, objid from pg_catalog.pg_depend where deptype = 'e'
),
namespace as (
    select oid, nspname, nspowner, nspacl
    from pg_catalog.pg_namespace
    where nspname not in ('pg_catalog', 'information_schema') and nspname !~ '^pg_(toast|temp)'
),
relation as (
    select
        c.*,
        format('%I.%I', n.nspname, c.relname) as name,
        case c.relkind
            when 'r' then 'table' when 'p' then 'table' when 'f' then 'foreign table' when 'v' then 'view'
            when 'm' then 'matview' when 'S' then 'sequence' when 'c' then 'type' else 'index'
        end as kind
    from pg_catalog.pg_class as c
    join namespace as n on n.oid = c.relnamespace
    where (('pg_catalog.pg_class'::regclass)::oid, c.oid) not in (select classid, objid from member)
),
routine as (
    select
        p.*,
        format('%I.%I(%s)', n.nspname, p.proname, (
            select string_agg(pg_catalog.format_type(argument, null), ', ' order by position)
            from unnest(p.proargtypes) with ordinality as a (argument, position)
        )) as name,
        case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end as kind
    from pg_catalog.pg_proc as p
    join namespace as n on n.oid = p.pronamespace
    where (('pg_catalog.pg_proc'::regclass)::oid, p.oid) not in (select classid, objid from member)
),
-- Types with a definition of their own: not arrays, multiranges, or the row types of relations.
type as (
    select t.*, format('%I.%I', n.nspname, t.typname) as name
    from pg_catalog.pg_type as t
    join namespace as n on n.oid = t.typnamespace
    left join pg_catalog.pg_class as c on c.oid = t.typrelid
    where (('pg_catalog.pg_type'::regclass)::oid, t.oid) not in (select classid, objid from member)
        and (t.typtype in ('e', 'd', 'r') or t.typtype = 'c' and c.relkind = 'c' or t.typtype = 'b' and t.typcategory <> 'A')
),
-- Every access control list: what it protects, its owner, and what a null one stands for.
acl as (
    select kind || ' ' || name as object, relowner as owner,
        coalesce(relacl, pg_catalog.acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner)) as acl
    from relation
    where relkind in ('r', 'p', 'f', 'v', 'm', 'S')
    union all
    select format('column %s.%I', r.name, a.attname), r.relowner, a.attacl
    from relation as r
    join pg_catalog.pg_attribute as a on a.attrelid = r.oid
    where a.attacl is not null and not a.attisdropped
    union all
    select kind || ' ' || name, proowner, coalesce(proacl, pg_catalog.acldefault('f', proowner))
    from routine
    union all
    select format('schema %I', nspname), nspowner, coalesce(nspacl, pg_catalog.acldefault('n', nspowner))
    from namespace
    where (('pg_catalog.pg_namespace'::regclass)::oid, oid) not in (select classid, objid from member)
    union all
    select 'type ' || name, typowner, coalesce(typacl, pg_catalog.acldefault('T', typowner))
    from type
    union all
    select 'database', datdba, coalesce(datacl, pg_catalog.acldefault('d', datdba))
    from pg_catalog.pg_database
    where datname = current_database()
),
fact (identity, definition) as (
    select
        'database',
        format('owner %s, encoding %s, collate %s, ctype %s, connection limit %s, connections %s',
            pg_catalog.pg_get_userbyid(datdba), pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype, datconnlimit,
            case when datallowconn then 'allowed' else 'refused' end)
    from pg_catalog.pg_database
    where datname = current_database()

    union all
    select
        format('database setting %s%s', split_part(setting, '=', 1),
            case when s.setrole <> 0 then ' of ' || quote_ident(pg_catalog.pg_get_userbyid(s.setrole)) end),
        substr(setting, strpos(setting, '=') + 1)
    from pg_catalog.pg_db_role_setting as s, unnest(s.setconfig) as setting
    where s.setdatabase = (select oid from pg_catalog.pg_database where datname = current_database())

    union all
    select format('schema %I', nspname), 'owner ' || pg_catalog.pg_get_userbyid(nspowner)
    from namespace
    where (('pg_catalog.pg_namespace'::regclass)::oid, oid) not in (select classid, objid from member)

    union all
    select
        format('extension %I', e.extname),
        format('version %s in schema %I, owner %s', e.extversion, n.nspname, pg_catalog.pg_get_userbyid(e.extowner))
    from pg_catalog.pg_extension as e
    join pg_catalog.pg_namespace as n on n.oid = e.extnamespace

    union all
    select
        r.kind || ' ' || r.name,
        concat_ws(', ',
            'owner ' || pg_catalog.pg_get_userbyid(r.relowner),
            case r.relpersistence when 'u' then 'unlogged' end,
            (select 'access method ' || am.amname from pg_catalog.pg_am as am where am.oid = r.relam),
            'partitioned by ' || case r.relkind when 'p' then pg_catalog.pg_get_partkeydef(r.oid) end,
            (
                select case when r.relispartition then 'partition of ' else 'inherits ' end
                    || string_agg(i.inhparent::regclass::text, ', ' order by i.inhseqno)
                from pg_catalog.pg_inherits as i
                where i.inhrelid = r.oid
            ),
            pg_catalog.pg_get_expr(r.relpartbound, r.oid),
            'of ' || nullif(r.reloftype, 0)::regtype::text,
            case when r.relkind in ('r', 'p') then case r.relreplident when 'n' then 'replica identity nothing' when 'f' then 'replica identity full' end end,
            'options ' || (select string_agg(o, ' ' order by o) from unnest(r.reloptions) as o),
            'toast options ' || (
                select string_agg(o, ' ' order by o)
                from pg_catalog.pg_class as toast, unnest(toast.reloptions) as o
                where toast.oid = r.reltoastrelid
            ),
            'tablespace ' || (select quote_ident(s.spcname) from pg_catalog.pg_tablespace as s where s.oid = r.reltablespace),
            case when r.relkind = 'm' and not r.relispopulated then 'not populated' end
        )
        || case when r.relkind in ('v', 'm') then E'\n' || pg_catalog.pg_get_viewdef(r.oid) else '' end
    from relation as r
    where r.relkind in ('r', 'p', 'f', 'v', 'm')

    union all
    select
        'rls ' || name,
        case when relrowsecurity then 'enabled' else 'disabled' end || case when relforcerowsecurity then ', forced' else '' end
    from relation
    where relkind in ('r', 'p')

    union all
    -- The order of live columns; a dropped one's gap does not show.
    select 'columns ' || r.name, string_agg(quote_ident(a.attname), ', ' order by a.attnum)
    from relation as r
    join pg_catalog.pg_attribute as a on a.attrelid = r.oid
    where r.relkind in ('r', 'p', 'f', 'v', 'm', 'c') and a.attnum > 0 and not a.attisdropped
    group by r.name

    union all
    select
        format('column %s.%I', r.name, a.attname),
        concat_ws(' ',
            pg_catalog.format_type(a.atttypid, a.atttypmod),
            (
                select format('collate %I.%I', n.nspname, l.collname)
                from pg_catalog.pg_collation as l
                join pg_catalog.pg_namespace as n on n.oid = l.collnamespace
                where l.oid = a.attcollation and a.attcollation <> t.typcollation
            ),
            case when a.attnotnull then 'not null' end,
            case a.attidentity when 'a' then 'generated always as identity' when 'd' then 'generated by default as identity' end,
            case a.attgenerated when '' then 'default ' else 'generated always as ' end
                || pg_catalog.pg_get_expr(d.adbin, d.adrelid),
            case a.attgenerated when 's' then 'stored' when 'v' then 'virtual' end,
            case when a.attstorage <> t.typstorage then 'storage ' || a.attstorage::text end,
            'compression ' || nullif(a.attcompression::text, ''),
            'statistics ' || nullif(a.attstattarget, -1),
            'options ' || (select string_agg(o, ' ' order by o) from unnest(a.attoptions) as o
                where not starts_with(o, 'pg_attver=')) -- bookkeeping of the server's own, since 15.20
        )
    from relation as r
    join pg_catalog.pg_attribute as a on a.attrelid = r.oid
    join pg_catalog.pg_type as t on t.oid = a.atttypid
    left join pg_catalog.pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where r.relkind in ('r', 'p', 'f', 'v', 'm', 'c') and a.attnum > 0 and not a.attisdropped

    union all
    select format('constraint %s.%I', r.name, c.conname), pg_catalog.pg_get_constraintdef(c.oid)
    from pg_catalog.pg_constraint as c
    join relation as r on r.oid = c.conrelid

    union all
    select format('constraint %s.%I', t.name, c.conname), pg_catalog.pg_get_constraintdef(c.oid)
    from pg_catalog.pg_constraint as c
    join type as t on t.oid = c.contypid

    union all
    select
        'index ' || r.name,
        concat_ws(', ',
            pg_catalog.pg_get_indexdef(r.oid),
            'owner ' || pg_catalog.pg_get_userbyid(r.relowner),
            case when not i.indisvalid then 'invalid' end,
            case when not i.indisready then 'not ready' end,
            case when i.indisreplident then 'replica identity' end,
            case when i.indisclustered then 'clustered' end,
            'partition of ' || (select h.inhparent::regclass::text from pg_catalog.pg_inherits as h where h.inhrelid = r.oid),
            'tablespace ' || (select quote_ident(s.spcname) from pg_catalog.pg_tablespace as s where s.oid = r.reltablespace)
        )
    from relation as r
    join pg_catalog.pg_index as i on i.indexrelid = r.oid

    union all
    select
        'sequence ' || r.name,
        concat_ws(', ',
            'owner ' || pg_catalog.pg_get_userbyid(r.relowner),
            case r.relpersistence when 'u' then 'unlogged' end,
            format('%s start %s increment %s from %s to %s cache %s', s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache),
            case when s.seqcycle then 'cycle' end,
            (
                select format('owned by %s.%I', d.refobjid::regclass, a.attname)
                from pg_catalog.pg_depend as d
                join pg_catalog.pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
                where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = r.oid
                    and d.refclassid = 'pg_catalog.pg_class'::regclass and d.deptype in ('a', 'i')
            )
        )
    from relation as r
    join pg_catalog.pg_sequence as s on s.seqrelid = r.oid

    union all
    select
        r.kind || ' ' || r.name,
        'owner ' || pg_catalog.pg_get_userbyid(r.proowner) || E'\n' || case r.prokind
            when 'a' then (
                select format('%s aggregate of %s returns %s, transition %s on %s from %s, final %s, combine %s, moving %s',
                    a.aggkind, pg_catalog.pg_get_function_arguments(r.oid), pg_catalog.pg_get_function_result(r.oid),
                    a.aggtransfn::regprocedure, a.aggtranstype::regtype, a.agginitval, a.aggfinalfn::regproc, a.aggcombinefn::regproc, a.aggmtransfn::regproc)
                from pg_catalog.pg_aggregate as a
                where a.aggfnoid = r.oid
            )
            else rtrim(pg_catalog.pg_get_functiondef(r.oid), E'\n')
        end
    from routine as r

    union all
    select
        format('trigger %s.%I', r.name, t.tgname),
        pg_catalog.pg_get_triggerdef(t.oid)
            || case t.tgenabled when 'O' then '' when 'D' then ', disabled' when 'R' then ', enabled replica' else ', enabled always' end
    from pg_catalog.pg_trigger as t
    join relation as r on r.oid = t.tgrelid
    where not t.tgisinternal

    union all
    -- The server's own triggers behind foreign keys matter only when somebody has switched them off.
    select
        format('trigger %s.%I behind its foreign key', r.name, c.conname),
        string_agg(format('%s: %s', t.tgfoid::regproc, t.tgenabled), ', ' order by t.tgfoid::regproc::text)
    from pg_catalog.pg_trigger as t
    join relation as r on r.oid = t.tgrelid
    join pg_catalog.pg_constraint as c on c.oid = t.tgconstraint
    where t.tgisinternal and t.tgenabled <> 'O'
    group by r.name, c.conname

    union all
    select
        format('rule %s.%I', r.name, w.rulename),
        pg_catalog.pg_get_ruledef(w.oid)
            || case w.ev_enabled when 'O' then '' when 'D' then ' disabled' when 'R' then ' enabled replica' else ' enabled always' end
    from pg_catalog.pg_rewrite as w
    join relation as r on r.oid = w.ev_class
    where w.rulename <> '_RETURN'

    union all
    select
        format('policy %s.%I', r.name, p.polname),
        concat_ws(' ',
            case when p.polpermissive then 'permissive' else 'restrictive' end,
            'for ' || case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
            'to ' || (
                select string_agg(case grantee when 0 then 'PUBLIC' else quote_ident(pg_catalog.pg_get_userbyid(grantee)) end, ', '
                    order by pg_catalog.pg_get_userbyid(grantee))
                from unnest(p.polroles) as grantee
            ),
            'using (' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')',
            'with check (' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) || ')'
        )
    from pg_catalog.pg_policy as p
    join relation as r on r.oid = p.polrelid

    union all
    select
        'type ' || t.name,
        'owner ' || pg_catalog.pg_get_userbyid(t.typowner) || ', ' || case t.typtype
            when 'e' then 'enum ' || (
                select coalesce(string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder), '')
                from pg_catalog.pg_enum as e
                where e.enumtypid = t.oid
            )
            when 'd' then concat_ws(' ',
                'domain over', pg_catalog.format_type(t.typbasetype, t.typtypmod),
                case when t.typnotnull then 'not null' end,
                'default ' || t.typdefault)
            when 'r' then (
                select format('range over %s, canonical %s, difference %s', g.rngsubtype::regtype, g.rngcanonical, g.rngsubdiff)
                from pg_catalog.pg_range as g
                where g.rngtypid = t.oid
            )
            when 'c' then 'composite'
            else format('base type, input %s, output %s', t.typinput, t.typoutput)
        end
    from type as t

    union all
    select
        format('statistics %I.%I', n.nspname, s.stxname),
        concat_ws(', ',
            pg_catalog.pg_get_statisticsobjdef(s.oid),
            'owner ' || pg_catalog.pg_get_userbyid(s.stxowner),
            'target ' || nullif(s.stxstattarget, -1))
    from pg_catalog.pg_statistic_ext as s
    join namespace as n on n.oid = s.stxnamespace
    where (('pg_catalog.pg_statistic_ext'::regclass)::oid, s.oid) not in (select classid, objid from member)

    union all
    select
        format('event trigger %I', evtname),
        format('on %s %s execute %s, owner %s, %s', evtevent, array_to_string(evttags, ', '), evtfoid::regprocedure, pg_catalog.pg_get_userbyid(evtowner),
            case evtenabled when 'O' then 'enabled' when 'D' then 'disabled' when 'R' then 'enabled replica' else 'enabled always' end)
    from pg_catalog.pg_event_trigger
    where (('pg_catalog.pg_event_trigger'::regclass)::oid, oid) not in (select classid, objid from member)

    union all
    select
        format('acl %s to %s', a.object, g.name),
        string_agg(
            x.privilege_type
                || case when x.is_grantable then ' with grant option' else '' end
                || case when x.grantor <> a.owner then ' by ' || quote_ident(pg_catalog.pg_get_userbyid(x.grantor)) else '' end,
            ', ' order by x.privilege_type, pg_catalog.pg_get_userbyid(x.grantor))
    from acl as a
    cross join pg_catalog.aclexplode(a.acl) as x
    cross join lateral (
        select case x.grantee when 0 then 'PUBLIC' else quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) end
    ) as g (name)
    group by a.object, g.name

    union all
    -- One for each grantee; an entry that grants nobody anything takes the built-in defaults away.
    select
        concat_ws(' ',
            'default acl of', quote_ident(pg_catalog.pg_get_userbyid(d.defaclrole)),
            (select 'in schema ' || quote_ident(n.nspname) from pg_catalog.pg_namespace as n where n.oid = d.defaclnamespace),
            'on', case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions' when 'T' then 'types' when 'n' then 'schemas' else 'large objects' end,
            'to', case x.grantee when 0 then 'PUBLIC' else coalesce(quote_ident(pg_catalog.pg_get_userbyid(x.grantee)), 'nobody') end),
        coalesce(string_agg(x.privilege_type || case when x.is_grantable then ' with grant option' else '' end, ', ' order by x.privilege_type), 'nothing')
    from pg_catalog.pg_default_acl as d
    left join lateral pg_catalog.aclexplode(d.defaclacl) as x on true
    group by d.defaclrole, d.defaclnamespace, d.defaclobjtype, x.grantee

    union all
    select format('comment on %s %s', o.type, o.identity), d.description
    from pg_catalog.pg_description as d
    cross join pg_catalog.pg_identify_object(d.classoid, d.objoid, d.objsubid) as o
    -- Below are the server's own objects, but for the schema public.
    where (d.objoid >= 16384 or d.classoid = 'pg_catalog.pg_namespace'::regclass and d.objoid = 'public'::regnamespace)
        and (d.classoid, d.objoid) not in (select classid, objid from member)
        and coalesce(o.identity, '') !~ '^pg_(toast|temp)'

    union all
    select 'comment on database', description
    from pg_catalog.pg_shdescription
    where classoid = 'pg_catalog.pg_database'::regclass
        and objoid = (select oid from pg_catalog.pg_database where datname = current_database())

    union all
    select format('security label of %s on %s %s', l.provider, o.type, o.identity), l.label
    from pg_catalog.pg_seclabel as l
    cross join pg_catalog.pg_identify_object(l.classoid, l.objoid, l.objsubid) as o
    where (l.classoid, l.objoid) not in (select classid, objid from member)

    union all
    select o.type || ' ' || o.identity, coalesce('owner ' || pg_catalog.pg_get_userbyid(other.owner), 'exists')
    from (
        select 'pg_catalog.pg_cast'::regclass::oid, oid, null::oid from pg_catalog.pg_cast
        union all select 'pg_catalog.pg_collation'::regclass::oid, oid, collowner from pg_catalog.pg_collation
        union all select 'pg_catalog.pg_conversion'::regclass::oid, oid, conowner from pg_catalog.pg_conversion
        union all select 'pg_catalog.pg_operator'::regclass::oid, oid, oprowner from pg_catalog.pg_operator
        union all select 'pg_catalog.pg_opclass'::regclass::oid, oid, opcowner from pg_catalog.pg_opclass
        union all select 'pg_catalog.pg_opfamily'::regclass::oid, oid, opfowner from pg_catalog.pg_opfamily
        union all select 'pg_catalog.pg_language'::regclass::oid, oid, lanowner from pg_catalog.pg_language
        union all select 'pg_catalog.pg_am'::regclass::oid, oid, null from pg_catalog.pg_am
        union all select 'pg_catalog.pg_transform'::regclass::oid, oid, null from pg_catalog.pg_transform
        union all select 'pg_catalog.pg_ts_config'::regclass::oid, oid, cfgowner from pg_catalog.pg_ts_config
        union all select 'pg_catalog.pg_ts_dict'::regclass::oid, oid, dictowner from pg_catalog.pg_ts_dict
        union all select 'pg_catalog.pg_ts_parser'::regclass::oid, oid, null from pg_catalog.pg_ts_parser
        union all select 'pg_catalog.pg_ts_template'::regclass::oid, oid, null from pg_catalog.pg_ts_template
        union all select 'pg_catalog.pg_foreign_data_wrapper'::regclass::oid, oid, fdwowner from pg_catalog.pg_foreign_data_wrapper
        union all select 'pg_catalog.pg_foreign_server'::regclass::oid, oid, srvowner from pg_catalog.pg_foreign_server
        union all select 'pg_catalog.pg_publication'::regclass::oid, oid, pubowner from pg_catalog.pg_publication
        union all select 'pg_catalog.pg_publication_rel'::regclass::oid, oid, null from pg_catalog.pg_publication_rel
    ) as other (classid, objid, owner)
    cross join pg_catalog.pg_identify_object(other.classid, other.objid, 0) as o
    where other.objid >= 16384 and (other.classid, other.objid) not in (select classid, objid from member)
)
select identity, definition from fact
