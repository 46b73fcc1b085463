-- Networks, their subnet, ports and addresses.

create table networks (
    id uuid not null,
    tenant_id uuid not null,
    name text not null,
    labels jsonb not null default '{}',
    cidr cidr not null,
    gateway inet not null,
    dns inet[] not null default '{}',
    range_start inet not null,
    range_end inet not null,
    -- every address of the range before this one was given to a port once
    next_address inet not null,
    port_security boolean not null default false,
    -- set when the network is to go
    deleted_at timestamptz,
    revision bigint not null default 1,
    created_by uuid,
    created_at timestamptz not null,
    constraint networks_pkey primary key (id),
    constraint networks_tenant_fkey foreign key (tenant_id) references tenants (id),
    -- Any host may carry any network, and a host routes each address one way.
    constraint networks_cidr_excl exclude using gist (cidr inet_ops with &&)
);
-- A network that is being deleted does not hold its name; its CIDR it holds until it is gone from every host.
create unique index networks_tenant_name_key on networks (tenant_id, name) where deleted_at is null;
create index networks_tenant_idx on networks (tenant_id, id);

-- Where a network was made, or was about to be: written before the host is asked.
create table host_networks (
    host_id uuid not null,
    network_id uuid not null,
    constraint host_networks_pkey primary key (host_id, network_id),
    constraint host_networks_host_fkey foreign key (host_id) references hosts (id),
    constraint host_networks_network_fkey foreign key (network_id) references networks (id)
);

create table ports (
    id uuid not null,
    tenant_id uuid not null,
    network_id uuid not null,
    -- null: made on its own, free to be given to an instance
    instance_id uuid,
    -- the instance's interfaces in order
    position integer not null default 0,
    name text not null default '',
    mac text not null,
    -- made with its instance, and goes with it
    owned boolean not null default false,
    revision bigint not null default 1,
    created_at timestamptz not null,
    constraint ports_pkey primary key (id),
    constraint ports_mac_key unique (mac),
    constraint ports_tenant_fkey foreign key (tenant_id) references tenants (id),
    constraint ports_network_fkey foreign key (network_id) references networks (id)
);
create index ports_network_idx on ports (network_id);
create index ports_tenant_idx on ports (tenant_id, id);
create index ports_instance_idx on ports (instance_id, position);

-- Addresses in use, and those resting until no DHCP server can remember their last holder.
create table addresses (
    network_id uuid not null,
    address inet not null,
    port_id uuid,
    released_at timestamptz,
    constraint addresses_pkey primary key (network_id, address),
    constraint addresses_network_fkey foreign key (network_id) references networks (id) on delete cascade,
    constraint addresses_port_fkey foreign key (port_id) references ports (id),
    constraint addresses_held_or_resting check ((port_id is null) = (released_at is not null))
);
create index addresses_port_idx on addresses (port_id);
create index addresses_resting_idx on addresses (network_id, released_at, address) where port_id is null;
