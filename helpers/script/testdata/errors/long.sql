create table kept (id int);
select 1 from (values
    (1),
    (2),
    (3),
    (4),
    (5),
    (6),
    (7),
    (8),
    (9),
    (10),
    (11),
    (12)
) as t (n)
where missing
    or n = 1
    or n = 2
    or n = 3
    or n = 4
    or n = 5;
