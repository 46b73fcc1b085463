-- What instances are made of: flavors, keypairs, images.

create table flavors (
    id uuid not null,
    name text not null,
    vcpus integer not null,
    memory_mib bigint not null,
    disk_gib bigint not null,
    traits text[] not null default '{}',
    created_at timestamptz not null,
    revision bigint not null default 1,
    constraint flavors_pkey primary key (id),
    constraint flavors_name_key unique (name),
    constraint flavors_size_check check (vcpus > 0 and memory_mib > 0 and disk_gib > 0)
);

create table keypairs (
    id uuid not null,
    tenant_id uuid not null,
    name text not null,
    public_key text not null,
    -- `SHA256:` and unpadded base64, as ssh-keygen -l prints it
    fingerprint text not null,
    created_by uuid,
    created_at timestamptz not null,
    revision bigint not null default 1,
    constraint keypairs_pkey primary key (id),
    constraint keypairs_tenant_name_key unique (tenant_id, name),
    constraint keypairs_tenant_fkey foreign key (tenant_id) references tenants (id)
);

-- The bytes of images, each kept once however many images name them.
create table blobs (
    -- lower-case hex
    sha256 text not null,
    format text not null,
    size_bytes bigint not null,
    virtual_bytes bigint not null,
    created_at timestamptz not null,
    constraint blobs_pkey primary key (sha256),
    constraint blobs_format_check check (format in ('raw', 'qcow2'))
);

create table images (
    id uuid not null,
    tenant_id uuid not null,
    name text not null,
    description text not null default '',
    labels jsonb not null default '{}',
    visibility text not null,
    format text not null,
    -- what the creator said the bytes' checksum would be
    expected_sha256 text,
    -- null until the data has come and passed the gate
    sha256 text,
    -- deleted while instances use it: hidden, and freed with the last of them
    hidden_at timestamptz,
    revision bigint not null default 1,
    created_by uuid,
    created_at timestamptz not null,
    constraint images_pkey primary key (id),
    constraint images_tenant_fkey foreign key (tenant_id) references tenants (id),
    constraint images_blob_fkey foreign key (sha256) references blobs (sha256),
    constraint images_visibility_check check (visibility in ('private', 'public')),
    constraint images_format_check check (format in ('raw', 'qcow2'))
);
create index images_tenant_idx on images (tenant_id, id);
create index images_sha256_idx on images (sha256);
