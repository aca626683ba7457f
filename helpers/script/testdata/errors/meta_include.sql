create table never (id int); \i other.sql
