-- Reservations: capacity that is held for a tenant for a while, in slots of one size on hosts.

create table reservations (
    id uuid not null,
    tenant_id uuid not null,
    name text not null,
    -- the flavor as it was
    flavor_id uuid not null,
    flavor_name text not null,
    vcpus integer not null,
    memory_mib bigint not null,
    disk_gib bigint not null,
    traits text[] not null default '{}',
    zone text,
    slots bigint not null,
    expires_at timestamptz not null,
    created_by uuid,
    created_at timestamptz not null,
    revision bigint not null default 1,
    constraint reservations_pkey primary key (id),
    constraint reservations_tenant_name_key unique (tenant_id, name),
    constraint reservations_tenant_fkey foreign key (tenant_id) references tenants (id)
);
create index reservations_expires_idx on reservations (expires_at);

-- While it is free, a slot counts in its host's `used`; while an incarnation has it, that one counts instead.
create table reservation_slots (
    id uuid not null,
    reservation_id uuid not null,
    host_id uuid not null,
    vcpus bigint not null,
    memory_mib bigint not null,
    disk_gib bigint not null,
    incarnation_id uuid,
    constraint reservation_slots_pkey primary key (id),
    constraint reservation_slots_incarnation_key unique (incarnation_id),
    constraint reservation_slots_reservation_fkey foreign key (reservation_id) references reservations (id),
    constraint reservation_slots_host_fkey foreign key (host_id) references hosts (id)
);
create index reservation_slots_reservation_idx on reservation_slots (reservation_id);
create index reservation_slots_host_idx on reservation_slots (host_id);

alter table instances
    add column reservation_id uuid,
    add constraint instances_reservation_fkey foreign key (reservation_id) references reservations (id) on delete set null;
create index instances_reservation_idx on instances (reservation_id) where reservation_id is not null;
