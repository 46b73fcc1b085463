-- A table that PostgreSQL empties when it recovers from a crash, which may have taken back what was committed softly (with it
-- the numbers of transactions, which are given again): who remembers what they read must read it anew when its row is another one.
create unlogged table lives (
    one boolean primary key default true check (one),
    id uuid not null default gen_random_uuid()
);
