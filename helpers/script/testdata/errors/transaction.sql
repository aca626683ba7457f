create table kept (id int primary key);
begin;
create table never (id int);
insert into kept values (1);
insert into never values (1);
insert into kept
values (1);
commit;
