-- What a tenant's instances use of its quota, as a sum: a create that counted them all would hold its tenant's lock the longer the
-- more there are. Each change is a row of its own, so that whoever makes, deletes or forgets an instance waits for nobody; who
-- decides by the sum, with the tenant locked, makes one row of many.
create table instance_use (
    tenant_id uuid not null,
    instances bigint not null,
    vcpus bigint not null,
    memory_mib bigint not null,
    disk_gib bigint not null
) with (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0);
create index instance_use_tenant_idx on instance_use (tenant_id);

create function instances_note_use() returns trigger language plpgsql as $$
begin
    if tg_op <> 'INSERT' and old.wanted <> 'deleted' then
        insert into instance_use values (old.tenant_id, -1, -old.vcpus, -old.memory_mib, -old.disk_gib);
    end if;
    if tg_op <> 'DELETE' and new.wanted <> 'deleted' then
        insert into instance_use values (new.tenant_id, 1, new.vcpus, new.memory_mib, new.disk_gib);
    end if;
    return null;
end
$$;
create trigger instances_used after insert on instances for each row
    when (new.wanted <> 'deleted') execute function instances_note_use();
create trigger instances_use_changed after update of wanted on instances for each row
    when ((old.wanted = 'deleted') <> (new.wanted = 'deleted')) execute function instances_note_use();
create trigger instances_unused after delete on instances for each row
    when (old.wanted <> 'deleted') execute function instances_note_use();

insert into instance_use
    select tenant_id, count(*), sum(vcpus), sum(memory_mib), sum(disk_gib) from instances where wanted <> 'deleted' group by tenant_id;
