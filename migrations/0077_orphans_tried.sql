-- What became of attempts to remove an orphan: one that cannot be removed stands behind the others, and says why.
alter table orphans
    add column attempts bigint not null default 0,
    add column tried_at timestamptz,
    add column last_error text;
