-- Who may do what: the cloud, its tenants, users, memberships, API tokens and signing keys.

create table cloud (
    id uuid not null,
    singleton boolean not null default true,
    created_at timestamptz not null,
    constraint cloud_pkey primary key (singleton),
    constraint cloud_one_row check (singleton)
);

create table tenants (
    id uuid not null,
    name text not null,
    description text not null default '',
    quota_instances bigint not null,
    quota_vcpus bigint not null,
    quota_memory_mib bigint not null,
    quota_disk_gib bigint not null,
    quota_networks bigint not null,
    quota_images bigint not null,
    quota_keypairs bigint not null,
    revision bigint not null default 1,
    created_at timestamptz not null,
    constraint tenants_pkey primary key (id),
    constraint tenants_name_key unique (name)
);

create table users (
    id uuid not null,
    name text not null,
    -- argon2id in PHC string format
    password_hash text not null,
    admin boolean not null default false,
    enabled boolean not null default true,
    -- tokens issued before are refused: moved by a change of password or of rights
    tokens_valid_from timestamptz not null,
    revision bigint not null default 1,
    created_at timestamptz not null,
    constraint users_pkey primary key (id),
    constraint users_name_key unique (name)
);

create table memberships (
    tenant_id uuid not null,
    user_id uuid not null,
    role text not null,
    created_at timestamptz not null,
    constraint memberships_pkey primary key (tenant_id, user_id),
    constraint memberships_tenant_fkey foreign key (tenant_id) references tenants (id),
    constraint memberships_user_fkey foreign key (user_id) references users (id) on delete cascade,
    constraint memberships_role_check check (role in ('owner', 'member', 'reader'))
);
create index memberships_user_idx on memberships (user_id);

create table api_tokens (
    id uuid not null,
    user_id uuid not null,
    tenant_id uuid,
    name text not null,
    -- the first characters, to recognise it by; the secret itself is not kept
    prefix text not null,
    -- SHA-256 of the whole token, which has 256 random bits, so that a slow hash would add nothing
    hash bytea not null,
    -- at most this role, however high the user's own is
    role text,
    created_at timestamptz not null,
    expires_at timestamptz,
    last_used_at timestamptz,
    constraint api_tokens_pkey primary key (id),
    constraint api_tokens_hash_key unique (hash),
    constraint api_tokens_user_fkey foreign key (user_id) references users (id) on delete cascade,
    constraint api_tokens_tenant_fkey foreign key (tenant_id) references tenants (id) on delete cascade,
    constraint api_tokens_role_check check (role in ('owner', 'member', 'reader'))
);
create index api_tokens_user_idx on api_tokens (user_id);

create table signing_keys (
    kid text not null,
    -- PKCS #8 DER of an Ed25519 key
    private_key bytea not null,
    public_key bytea not null,
    created_at timestamptz not null,
    -- signs until then, and verifies for a token's life longer
    retires_at timestamptz not null,
    constraint signing_keys_pkey primary key (kid)
);
