-- Where the log has lived. Transaction numbers order it within one cluster only: restored into another, it begins a new
-- generation there (`steadfast migrate --restored`). All of an older generation comes first, whatever its numbers, and
-- is readable at once: none of its transactions can still be open.
create table log_generations (
    generation integer primary key,
    -- The cluster that writes it, as pg_control_system() names it. Null where the server does not say.
    system_identifier bigint,
    began_at timestamptz not null default now()
);

-- The one that is being written.
insert into log_generations (generation)
select pg_get_expr(d.adbin, d.adrelid)::integer
from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
where d.adrelid = 'events'::regclass and a.attname = 'generation';
