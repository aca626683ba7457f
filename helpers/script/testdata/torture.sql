-- What a splitter gets wrong: every statement here ends where psql ends it. Run it in an empty database.
/* a comment with a ; and /* a nested one; */ and a 'quote */
create schema torture;
create table torture.log (n int generated always as identity, what text);

insert into torture.log (what) values (current_query()); insert into torture.log (what) values ('second on the line; ' || current_query());
insert into torture.log (what) values ('it''s; -- not a comment'), (E'it\'s; \\'), (U&'d\0061t\+000061; "'), (current_query());
insert into torture.log (what) values ('one; '
    -- a comment between two parts of a string;
    'two; '''), (current_query());
insert into torture.log (what) values ('C:\'), ('backslash before the quote;');
insert into torture.log (what) values ($$dollar; 'quoted'$$), ($a$tag; $$ $b$ ; $a$), ($é1$unicode; $é1$);
insert into torture.log (what) select x$y from (select 'a name with a dollar;' as x$y) as t;
insert into torture.log (what) select a$$b from (select 'two dollars in a name;' as a$$b) as t;
create table torture."odd; "" --name /*" (e int, "E" int, u int);
insert into torture."odd; "" --name /*" (e, "E") values (1, 2)/* glued; */;insert into torture.log (what) values ('glued');
insert into torture.log (what) values (1/**/+/* ; */2);
insert into torture.log (what) select (array[1, 2, 3, 4])[2:3]::text;
insert into torture.log (what) select (5 operator(pg_catalog.-)-3)::text; -- five minus minus three;
;;
prepare torture_p (int, text) as insert into torture.log (what) values ($1::text || $2);
execute torture_p (1, $$;$$);
create table torture.t (id int primary key, v int default 0);
create rule torture_r as on insert to torture.t do also (
    insert into torture.log (what) values ('rule one;');
    insert into torture.log (what) values ('rule two;');
);
insert into torture.t (id) values (1), (2), (3);

create function torture.atomic(begin_value int) returns text
language sql
begin atomic
    select 'a;' where begin_value < 0;
    select case when begin_value > 0 then 'positive; end' else case when begin_value = 0 then 'zero' else 'negative' end end;
end;
insert into torture.log (what) values (torture.atomic(1)), (torture.atomic(0)), (torture.atomic(-1));
CREATE
    OR REPLACE /* ; */ PROCEDURE torture.atomic_p()
BEGIN ATOMIC
    insert into torture.log (what) values ('from an atomic procedure; end');
END;
call torture.atomic_p();
create function torture.end_text() returns text language sql as 'select ''begin; end;''';
create or replace function torture.body() returns text
language plpgsql as $body$
declare
    q text := $q$select ';'$q$;
    r text;
begin
    -- don't stop; here
    execute q into r; /* nor here; ' */
    return r || E'\';';
end
$body$;
insert into torture.log (what) values (torture.end_text() || torture.body());

create procedure torture.batches()
language plpgsql as $$
begin
    for i in 1 .. 3 loop
        update torture.t set v = v + i;
        commit;
        insert into torture.log (what) values ('batch ' || i);
    end loop;
end
$$;
call torture.batches();
create index concurrently torture_i on torture.t (v);
vacuum torture.t;

select format('insert into torture.log (what) values (%L)', 'made; ' || i), null,
    case when i = 2 then 'insert into torture.log (what) values (''twice''); insert into torture.log (what) values (''in one cell'')' end
from generate_series(1, 3) as i
order by i
\gexec
select 'never run' where false
   \gexec  
begin;
insert into torture.log (what) values ('kept');
savepoint s;
insert into torture.log (what) values ('lost');
rollback to s;
select 'insert into torture.log (what) values (''inside the transaction'')'
\gexec
commit;
begin; insert into torture.log (what) values ('all lost'); rollback;
set standard_conforming_strings = on;
do 'begin insert into torture.log (what) values (''do; quoted''); end';
DO LANGUAGE plpgsql $do$ BEGIN PERFORM 1; IF true THEN INSERT INTO torture.log (what) VALUES ('if;'); END IF; END $do$;
create type torture.begin as (begin int, "case" text);
insert into torture.log (what)
values ('crlf;'); -- windows;
select 1 as begin; select 2 as end;
create view torture.v as select case when v > 1 then 'x;' else 'y' end as c from torture.t;
copy (select 1) to stdout;
insert into torture.log (what) values (current_query()) -- the last one has no semicolon
