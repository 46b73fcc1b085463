-- A slot counts in its host's `used` in full for as long as there is one, also while a smaller instance has it: its room would else be
-- taken by others, and not be there for the slot's next instance.
update hosts h set used_vcpus = h.used_vcpus + slack.vcpus, used_memory_mib = h.used_memory_mib + slack.memory_mib,
                   used_disk_gib = h.used_disk_gib + slack.disk_gib
from (select s.host_id, sum(s.vcpus - c.vcpus)::bigint as vcpus, sum(s.memory_mib - c.memory_mib)::bigint as memory_mib,
             sum(s.disk_gib - c.disk_gib)::bigint as disk_gib
      from reservation_slots s join incarnations c on c.id = s.incarnation_id group by s.host_id) slack
where h.id = slack.host_id;
