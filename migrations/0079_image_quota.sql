-- Bytes of images count, too: their number alone bounds nothing of what they take.
alter table tenants add column quota_image_mib bigint not null default 102400;

drop function tenant_use_in_turn(uuid);
drop function tenant_use(uuid);

-- What a tenant uses of its quota; a reservation's slots without an instance are used, too.
create function tenant_use(tenant uuid)
    returns table (instances bigint, vcpus bigint, memory_mib bigint, disk_gib bigint, networks bigint, images bigint, image_mib bigint,
                   keypairs bigint)
    language sql stable as $$
    select i.instances, (i.vcpus + r.vcpus)::bigint, (i.memory_mib + r.memory_mib)::bigint, (i.disk_gib + r.disk_gib)::bigint,
           (select count(*) from networks where tenant_id = $1 and deleted_at is null),
           m.images, m.mib,
           (select count(*) from keypairs where tenant_id = $1)
    from (select coalesce(sum(instances), 0)::bigint as instances,
                 coalesce(sum(vcpus), 0)::bigint as vcpus,
                 coalesce(sum(memory_mib), 0)::bigint as memory_mib,
                 coalesce(sum(disk_gib), 0)::bigint as disk_gib
          from instance_use where tenant_id = $1) i,
         (select count(*) as images, coalesce(ceil(sum(b.size_bytes) / 1048576), 0)::bigint as mib
          from images left join blobs b using (sha256) where tenant_id = $1 and hidden_at is null) m,
         (select coalesce(sum(greatest(0, r.slots * r.vcpus - i.vcpus)), 0) as vcpus,
                 coalesce(sum(greatest(0, r.slots * r.memory_mib - i.memory_mib)), 0) as memory_mib,
                 coalesce(sum(greatest(0, r.slots * r.disk_gib - i.disk_gib)), 0) as disk_gib
          from reservations r, lateral (select coalesce(sum(vcpus), 0)::bigint as vcpus,
                                               coalesce(sum(memory_mib), 0)::bigint as memory_mib,
                                               coalesce(sum(disk_gib), 0)::bigint as disk_gib
                                        from instances where reservation_id = r.id and wanted <> 'deleted') i
          where r.tenant_id = $1) r
$$;

-- The same with the tenant locked, and counted when it is; of many who ask one comes after the other. Its own snapshot for each
-- statement is what a function is needed for.
create function tenant_use_in_turn(tenant uuid)
    returns table (name text, quota_instances bigint, quota_vcpus bigint, quota_memory_mib bigint, quota_disk_gib bigint,
                   quota_networks bigint, quota_images bigint, quota_image_mib bigint, quota_keypairs bigint,
                   instances bigint, vcpus bigint, memory_mib bigint, disk_gib bigint, networks bigint, images bigint, image_mib bigint,
                   keypairs bigint)
    language plpgsql as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('tenant' || tenant::text, 0));
    perform from tenants t where t.id = tenant for no key update;
    return query select t.name, t.quota_instances, t.quota_vcpus, t.quota_memory_mib, t.quota_disk_gib, t.quota_networks,
                        t.quota_images, t.quota_image_mib, t.quota_keypairs, u.*
                 from tenants t, tenant_use(t.id) u where t.id = tenant;
end
$$;
