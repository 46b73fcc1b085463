-- What a host offers is kept in its row, and worked out where what it follows from is changed: PostgreSQL plans a function in SQL
-- anew at each call, which each claim made twice.
alter table hosts add column offered text[] generated always as (host_traits(traits, virt_type, facts)) stored;

drop trigger hosts_changed on hosts;
create trigger hosts_changed before update on hosts for each row
    when ((old.name, old.zone, old.traits, old.virt_type, old.facts ->> 'arch', old.facts ->> 'virt_type', old.facts ->> 'cpu_level',
           old.enabled, old.removed_at, old.health, old.limit_vcpus, old.limit_memory_mib, old.limit_disk_gib,
           old.used_vcpus, old.used_memory_mib, old.used_disk_gib)
          is distinct from
          (new.name, new.zone, new.traits, new.virt_type, new.facts ->> 'arch', new.facts ->> 'virt_type', new.facts ->> 'cpu_level',
           new.enabled, new.removed_at, new.health, new.limit_vcpus, new.limit_memory_mib, new.limit_disk_gib,
           new.used_vcpus, new.used_memory_mib, new.used_disk_gib))
    execute function hosts_note_change();
