-- What a host offers beyond the traits that its admin gave it: `arch:x86_64`, `virt:kvm` or `virt:qemu` (as its guests are run), and
-- on x86-64 the levels of the psABI that its guests' CPU has, from `cpu:x86-64-v1` on. Under QEMU without KVM that is v2: see the
-- domain's XML.
create function host_traits(traits text[], virt_type text, facts jsonb) returns text[] language sql immutable parallel safe as $$
    select traits || array(
        select 'arch:' || (facts ->> 'arch') where facts ->> 'arch' <> ''
        union all
        select 'virt:' || run.by where facts is not null
        union all
        select 'cpu:x86-64-v' || level
        from generate_series(1, case when run.by = 'kvm' then coalesce((facts ->> 'cpu_level')::int, 1) else 2 end) level
        where facts ->> 'arch' = 'x86_64')
    from (select coalesce(nullif(virt_type, 'auto'), facts ->> 'virt_type', 'qemu')) run (by)
$$;

drop trigger hosts_changed on hosts;
create trigger hosts_changed before update on hosts for each row
    when ((old.name, old.zone, host_traits(old.traits, old.virt_type, old.facts), old.enabled, old.removed_at, old.health,
           old.limit_vcpus, old.limit_memory_mib, old.limit_disk_gib,
           old.used_vcpus, old.used_memory_mib, old.used_disk_gib)
          is distinct from
          (new.name, new.zone, host_traits(new.traits, new.virt_type, new.facts), new.enabled, new.removed_at, new.health,
           new.limit_vcpus, new.limit_memory_mib, new.limit_disk_gib,
           new.used_vcpus, new.used_memory_mib, new.used_disk_gib))
    execute function hosts_note_change();
