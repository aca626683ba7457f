create table kept (id int);
do $$
begin
    insert into kept values (1);
    perform 1 / (select count(*) from kept where id > 1);
end
$$;
create table never (id int);
