-- Groups: instances that are to share a host or a zone, or not to.

create table groups (
    id uuid not null,
    tenant_id uuid not null,
    name text not null,
    rule text not null,
    scope text not null,
    -- false: a preference
    hard boolean not null,
    created_by uuid,
    created_at timestamptz not null,
    revision bigint not null default 1,
    constraint groups_pkey primary key (id),
    constraint groups_tenant_name_key unique (tenant_id, name),
    constraint groups_tenant_fkey foreign key (tenant_id) references tenants (id),
    constraint groups_rule_check check (rule in ('affinity', 'anti_affinity')),
    constraint groups_scope_check check (scope in ('host', 'zone'))
);

alter table instances
    add column group_id uuid,
    add constraint instances_group_fkey foreign key (group_id) references groups (id);
create index instances_group_idx on instances (group_id) where group_id is not null;
