select 'create table never (id int)';
\gexec
