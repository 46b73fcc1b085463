-- Instances: the wish, what was last seen, and their incarnations, which hold the claims.

create table instances (
    id uuid not null,
    tenant_id uuid not null,
    name text not null,
    labels jsonb not null default '{}',
    image_id uuid not null,
    -- the flavor as it was at creation: a flavor's change or removal does not reach into instances
    flavor_id uuid not null,
    flavor_name text not null,
    vcpus integer not null,
    memory_mib bigint not null,
    disk_gib bigint not null,
    traits text[] not null default '{}',
    user_data text,
    -- public keys as they were at creation
    ssh_keys text[] not null default '{}',
    created_by uuid,
    request_id text,
    created_at timestamptz not null,

    -- the wish
    wanted text not null,
    wanted_at timestamptz not null,
    -- which power-on is wished for: a reboot or a start asks for a higher one
    boot bigint not null default 1,
    -- how a running guest is brought down for a stop or a new boot: at once, or by ACPI and then off after the grace
    hard boolean not null default false,
    stop_grace_s bigint not null default 30,
    revision bigint not null default 1,

    -- observed
    observed_power text not null default 'none',
    observed_boot bigint,
    observed_at timestamptz,
    observed_revision bigint not null default 0,
    agent boolean not null default false,
    -- the addresses that the guest was seen to hold
    seen_addresses inet[] not null default '{}',
    started_at timestamptz,
    -- starts since the guest last stayed up: they slow the next one down
    quick_exits bigint not null default 0,

    constraint instances_pkey primary key (id),
    constraint instances_tenant_fkey foreign key (tenant_id) references tenants (id),
    constraint instances_image_fkey foreign key (image_id) references images (id),
    constraint instances_wanted_check check (wanted in ('running', 'stopped', 'paused', 'deleted')),
    constraint instances_observed_power_check
        check (observed_power in ('none', 'off', 'running', 'paused'))
);
create index instances_tenant_idx on instances (tenant_id, id);
create index instances_image_idx on instances (image_id);

alter table ports add constraint ports_instance_fkey foreign key (instance_id) references instances (id);

-- One life of an instance on one host. The row is the claim: it goes in one transaction with the host's `used`.
-- It outlives its instance where the host could not be asked: it then kills the domain when the host returns.
create table incarnations (
    id uuid not null,
    instance_id uuid not null,
    tenant_id uuid not null,
    host_id uuid not null,
    vcpus bigint not null,
    memory_mib bigint not null,
    disk_gib bigint not null,
    -- made whole: a volume without these was left half-made by a crash and is made anew
    disk_made boolean not null default false,
    seed_made boolean not null default false,
    created_at timestamptz not null,
    -- set when the instance left without it
    fenced_at timestamptz,
    constraint incarnations_pkey primary key (id),
    constraint incarnations_host_fkey foreign key (host_id) references hosts (id)
);
create unique index incarnations_instance_key on incarnations (instance_id) where fenced_at is null;
create index incarnations_host_idx on incarnations (host_id);
