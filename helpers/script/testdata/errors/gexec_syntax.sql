create table kept (id int);
select E'select 1\nfrom nowhere'
\gexec
create table never (id int);
