create table kept (id int);

do language plpgsql $check$ begin
    if exists (select from kept) then
        null;
    else
        raise exception 'agents without an organization: %', 3
            using errcode = 'check_violation', detail = 'ids: 1, 2, 3', hint = 'assign them first';
    end if;
end $check$;
