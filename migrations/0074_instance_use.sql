-- What a tenant's instances use of its quota, as a sum: a create that counted them all would hold its tenant's lock the longer the
-- more there are. The sum is kept in parts, a connection to each, so that whoever makes or deletes an instance seldom waits for
-- another; a transaction touches one part alone, and so nobody waits in a circle. The parts' columns are in no index, and each
-- page has room, so that changes leave nothing behind that would have to be read again.
create table instance_use (
    tenant_id uuid not null,
    part integer not null,
    instances bigint not null,
    vcpus bigint not null,
    memory_mib bigint not null,
    disk_gib bigint not null,
    constraint instance_use_pkey primary key (tenant_id, part)
) with (fillfactor = 50);

-- Not in SQL, which PostgreSQL would plan anew at each call.
create function note_use(tenant uuid, more_instances bigint, more_vcpus bigint, more_memory_mib bigint, more_disk_gib bigint)
    returns void language plpgsql as $$
begin
    insert into instance_use as u
        values (tenant, pg_backend_pid() % 32, more_instances, more_vcpus, more_memory_mib, more_disk_gib)
    on conflict on constraint instance_use_pkey do update
    set instances = u.instances + excluded.instances, vcpus = u.vcpus + excluded.vcpus,
        memory_mib = u.memory_mib + excluded.memory_mib, disk_gib = u.disk_gib + excluded.disk_gib;
end
$$;
create function instances_note_use() returns trigger language plpgsql as $$
declare
    sign integer := case tg_op when 'INSERT' then 1 else -1 end;
begin
    perform note_use(tenant_id, sign * count(*), sign * sum(vcpus), (sign * sum(memory_mib))::bigint, (sign * sum(disk_gib))::bigint)
        from changed where wanted <> 'deleted' group by tenant_id;
    return null;
end
$$;
create function instance_note_use() returns trigger language plpgsql as $$
declare
    sign integer := case new.wanted when 'deleted' then -1 else 1 end;
begin
    perform note_use(new.tenant_id, sign, sign * new.vcpus, sign * new.memory_mib, sign * new.disk_gib);
    return null;
end
$$;
create trigger instances_used after insert on instances referencing new table as changed
    for each statement execute function instances_note_use();
create trigger instances_unused after delete on instances referencing old table as changed
    for each statement execute function instances_note_use();
-- Each by itself: what else changes of an instance, which is much, is none of its business.
create trigger instances_use_changed after update of wanted on instances
    for each row when ((old.wanted = 'deleted') <> (new.wanted = 'deleted')) execute function instance_note_use();

insert into instance_use
    select tenant_id, 0, count(*), sum(vcpus), sum(memory_mib), sum(disk_gib) from instances where wanted <> 'deleted' group by tenant_id;

-- What a tenant uses of its quota; a reservation's slots without an instance are used, too.
create function tenant_use(tenant uuid)
    returns table (instances bigint, vcpus bigint, memory_mib bigint, disk_gib bigint, networks bigint, images bigint, keypairs bigint)
    language sql stable as $$
    select i.instances, (i.vcpus + r.vcpus)::bigint, (i.memory_mib + r.memory_mib)::bigint, (i.disk_gib + r.disk_gib)::bigint,
           (select count(*) from networks where tenant_id = $1 and deleted_at is null),
           (select count(*) from images where tenant_id = $1 and hidden_at is null),
           (select count(*) from keypairs where tenant_id = $1)
    from (select coalesce(sum(instances), 0)::bigint as instances,
                 coalesce(sum(vcpus), 0)::bigint as vcpus,
                 coalesce(sum(memory_mib), 0)::bigint as memory_mib,
                 coalesce(sum(disk_gib), 0)::bigint as disk_gib
          from instance_use where tenant_id = $1) i,
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
                   quota_networks bigint, quota_images bigint, quota_keypairs bigint,
                   instances bigint, vcpus bigint, memory_mib bigint, disk_gib bigint, networks bigint, images bigint, keypairs bigint)
    language plpgsql as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('tenant' || tenant::text, 0));
    perform from tenants t where t.id = tenant for no key update;
    return query select t.name, t.quota_instances, t.quota_vcpus, t.quota_memory_mib, t.quota_disk_gib, t.quota_networks,
                        t.quota_images, t.quota_keypairs, u.*
                 from tenants t, tenant_use(t.id) u where t.id = tenant;
end
$$;
