-- What is to be looked at, when, by whom, and how it went: the reconciler's list.

create table work (
    -- instance, host, host_image, network, image, fence
    kind text not null,
    item uuid not null,
    -- 'infinity': at rest
    due_at timestamptz not null,
    -- counts touches: one that came during a reconcile makes the item due again at its end
    touched bigint not null default 0,
    -- grows with each lease; every write of a worker checks it
    epoch bigint not null default 0,
    lease_owner uuid,
    lease_until timestamptz,
    attempts bigint not null default 0,
    failing_since timestamptz,
    stalled_at timestamptz,
    -- what it waits for or what went wrong, for people
    reason text,
    last_error text,
    last_error_kind text,
    last_error_at timestamptz,
    constraint work_pkey primary key (kind, item)
);
create index work_due_idx on work (due_at) where due_at < 'infinity';
create index work_stalled_idx on work (kind, item) where stalled_at is not null;
