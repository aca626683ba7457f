create table never (id int);
do $a$ begin null; end $b$;
