create table kept (id int);

create table broken (
    id int,
    née text, -- àéîõüàéîõüàéîõüàéîõüàéîõüàéîõü
    name txet, nome text nott null
);
create table never (id int);
