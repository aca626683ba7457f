create table never (id int);
/* one /* two */
create table never2 (id int);
