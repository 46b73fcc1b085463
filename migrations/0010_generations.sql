-- How a database that was restored from an older dump is told from the world that it is of.

-- Counts the claims on a host, in the transaction of the claim. An incarnation's id ends in its number, and so do the names of
-- what it has on the host: what bears a higher number than the row was made by a later state of this database.
alter table hosts add column generation bigint not null default 0;
-- The highest number that was seen there, where that is higher.
alter table hosts add column seen_generation bigint not null default 0;

alter table cloud
    -- what the counts of hosts that left have come to: a host that is registered again begins there
    add column generation_floor bigint not null default 0,
    -- which database this was when it was last served: a dump that was restored elsewhere shows by it
    add column database text,
    -- set while nothing may be removed from the world, with the reason, for people
    add column held_since timestamptz,
    add column held_reason text,
    add constraint cloud_hold_check check ((held_since is null) = (held_reason is null));
