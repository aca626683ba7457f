create table kept (id int);
do $$
begin
    insert into kept values (1);
    execute $inner$
        do $block$ begin perform 1; perform 1 / 0; end $block$
    $inner$;
end
$$;
