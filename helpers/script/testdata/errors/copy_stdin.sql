create table never (id int);
copy never (id) from stdin with (format csv);
1
\.
