create table kept (id int);
select format(E'-- made once\ncreate table %I (id int)', name)
from (values ('made'), ('made')) as t (name)
\gexec
create table never (id int);
