-- The feed and audit log, and the answers kept for Idempotency-Key.

create table events (
    id uuid not null,
    -- the feed's total order; null until the one publisher has numbered it
    seq bigint,
    at timestamptz not null,
    tenant_id uuid,
    -- e.g. instance.create.accepted
    kind text not null,
    resource_kind text not null,
    resource_id uuid,
    resource_name text,
    actor_id uuid,
    actor text not null,
    request_id text,
    -- accepted, done, failed, seen
    outcome text not null,
    detail jsonb not null default '{}',
    constraint events_pkey primary key (id),
    constraint events_outcome_check check (outcome in ('accepted', 'done', 'failed', 'seen'))
);
create unique index events_seq_key on events (seq) where seq is not null;
create index events_unpublished_idx on events (id) where seq is null;
create index events_tenant_seq_idx on events (tenant_id, seq);
create index events_resource_idx on events (resource_id, seq);

create table event_feed (
    singleton boolean not null default true,
    last_seq bigint not null default 0,
    -- retention has removed events up to this one: a reader who stopped before it has missed some
    forgotten_seq bigint not null default 0,
    constraint event_feed_pkey primary key (singleton),
    constraint event_feed_one_row check (singleton)
);
insert into event_feed default values;

create table idempotency_keys (
    user_id uuid not null,
    key text not null,
    operation text not null,
    -- SHA-256 of operation, path and body
    fingerprint bytea not null,
    response jsonb,
    created_at timestamptz not null,
    constraint idempotency_keys_pkey primary key (user_id, key)
);
create index idempotency_keys_created_idx on idempotency_keys (created_at);
