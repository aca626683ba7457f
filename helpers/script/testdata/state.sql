-- Everything torture.sql leaves behind, one fact per row.
select fact
from (
    select format('log %s: %s', lpad(n::text, 2, '0'), what) from torture.log
    union all
    select format('t %s: %s', id, v) from torture.t
    union all
    select format('odd: %s', o) from torture."odd; "" --name /*" as o
    union all
    select format('relation %s %s', relkind, relname) from pg_class where relnamespace = 'torture'::regnamespace
    union all
    select format('index valid %s', indisvalid) from pg_index where indexrelid = 'torture.torture_i'::regclass
    union all
    select format('function %s %s', proname, prosrc) from pg_proc where pronamespace = 'torture'::regnamespace
    union all
    select format('type %s', typname) from pg_type where typnamespace = 'torture'::regnamespace and typtype = 'c'
) as facts (fact)
order by fact collate "C"
