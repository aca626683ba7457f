create table never (id int);
select '\d is text here';
\d never
