create table kept (id int);
-- The transaction that is never committed:
begin;
create table never (id int);
insert into never values (1);
