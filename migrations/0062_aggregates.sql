-- Aggregates: hosts that are dedicated to tenants. A host in several takes the tenants of all of them.

create table aggregates (
    id uuid not null,
    name text not null,
    description text not null default '',
    created_at timestamptz not null,
    revision bigint not null default 1,
    constraint aggregates_pkey primary key (id),
    constraint aggregates_name_key unique (name)
);

create table aggregate_hosts (
    aggregate_id uuid not null,
    host_id uuid not null,
    constraint aggregate_hosts_pkey primary key (aggregate_id, host_id),
    constraint aggregate_hosts_aggregate_fkey foreign key (aggregate_id) references aggregates (id) on delete cascade,
    constraint aggregate_hosts_host_fkey foreign key (host_id) references hosts (id) on delete cascade
);
create index aggregate_hosts_host_idx on aggregate_hosts (host_id);

create table aggregate_tenants (
    aggregate_id uuid not null,
    tenant_id uuid not null,
    constraint aggregate_tenants_pkey primary key (aggregate_id, tenant_id),
    constraint aggregate_tenants_aggregate_fkey foreign key (aggregate_id) references aggregates (id) on delete cascade,
    constraint aggregate_tenants_tenant_fkey foreign key (tenant_id) references tenants (id)
);
create index aggregate_tenants_tenant_idx on aggregate_tenants (tenant_id);
