create table never (id int);
select 'it's';
select 2;
