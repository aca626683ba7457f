create table kept (id int);
create function fails(n int) returns int language plpgsql as $$
begin
    return 1 / n;
end
$$;
select
    fails(0);
