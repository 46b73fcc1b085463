-- Hypervisor hosts: the wish, what was last seen, and what is claimed.

create table hosts (
    id uuid not null,
    name text not null,
    uri text not null,
    pool_path text not null,
    zone text not null default 'default',
    traits text[] not null default '{}',
    enabled boolean not null default true,
    virt_type text not null,
    cpu_ratio double precision not null,
    memory_ratio double precision not null,
    disk_ratio double precision not null,
    reserved_vcpus bigint not null default 0,
    reserved_memory_mib bigint not null default 0,
    reserved_disk_gib bigint not null default 0,
    -- set when the host is to leave the cloud
    removed_at timestamptz,
    revision bigint not null default 1,
    created_at timestamptz not null,

    -- observed
    health text not null default 'unknown',
    health_reason text not null default 'not contacted yet',
    health_since timestamptz not null,
    last_seen_at timestamptz,
    host_uuid uuid,
    facts jsonb,

    -- limit = (total - reserved) * ratio, rounded down; 0 until the host was seen
    limit_vcpus bigint not null default 0,
    limit_memory_mib bigint not null default 0,
    limit_disk_gib bigint not null default 0,
    used_vcpus bigint not null default 0,
    used_memory_mib bigint not null default 0,
    used_disk_gib bigint not null default 0,

    constraint hosts_pkey primary key (id),
    constraint hosts_name_key unique (name),
    constraint hosts_host_uuid_key unique (host_uuid),
    constraint hosts_virt_type_check check (virt_type in ('auto', 'kvm', 'qemu')),
    constraint hosts_health_check check (health in ('unknown', 'up', 'down')),
    constraint hosts_used_check check (used_vcpus >= 0 and used_memory_mib >= 0 and used_disk_gib >= 0)
);

-- What may be taken of a host: what it has less what it keeps, times the ratio, rounded down; 0 while it is not known.
-- In numeric, where 100 * 1.15 is 115.
create function host_limit(total bigint, reserved bigint, ratio double precision) returns bigint
    language sql immutable
    return greatest(0, floor((total - reserved)::numeric * ratio::numeric))::bigint;

-- Base images on hosts: one upload for all instances of an image on a host.
create table host_images (
    id uuid not null,
    host_id uuid not null,
    sha256 text not null,
    -- observed: the upload was seen to its end
    present boolean not null default false,
    sent_bytes bigint not null default 0,
    used_at timestamptz not null,
    created_at timestamptz not null,
    constraint host_images_pkey primary key (id),
    constraint host_images_host_sha256_key unique (host_id, sha256),
    constraint host_images_host_fkey foreign key (host_id) references hosts (id),
    constraint host_images_blob_fkey foreign key (sha256) references blobs (sha256)
);

-- What a sweep found without an owner: removed only when seen again after the grace period.
create table orphans (
    host_id uuid not null,
    kind text not null,
    name text not null,
    -- false: not ours; reported as drift and never touched
    ours boolean not null,
    detail text not null default '',
    first_seen_at timestamptz not null,
    last_seen_at timestamptz not null,
    sightings bigint not null default 1,
    constraint orphans_pkey primary key (host_id, kind, name),
    constraint orphans_host_fkey foreign key (host_id) references hosts (id) on delete cascade,
    constraint orphans_kind_check check (kind in ('domain', 'volume', 'network', 'console'))
);
