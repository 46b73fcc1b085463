-- What an instance asks of its host beyond room, when it is to go, and its place in the queue for room.

alter table flavors
    -- how its instances are placed; null: as the cloud's settings have it
    add column policy text,
    add constraint flavors_policy_check
        check (policy in ('best_fit', 'best_fit_sum', 'spread', 'lifetime_fit', 'round_robin'));

alter table instances
    -- the wish; `traits` are the flavor's and the request's
    add column policy text,
    add column zone text,
    add column forbidden_traits text[] not null default '{}',
    -- deleted then, whatever it does
    add column expires_at timestamptz,

    -- observed: since when no host has had room, whose turn it is (the smallest first), and placement's account
    add column queued_at timestamptz,
    add column queue_tag double precision,
    add column queue_account jsonb,

    add constraint instances_policy_check
        check (policy in ('best_fit', 'best_fit_sum', 'spread', 'lifetime_fit', 'round_robin')),
    add constraint instances_queue_check check ((queued_at is null) = (queue_tag is null));
create index instances_queue_idx on instances (queue_tag, id) where queue_tag is not null;
create index instances_expires_idx on instances (expires_at) where expires_at is not null;

-- By which transaction a host last changed in a way that placement must know: who remembers the oldest transaction that was
-- under way at their last look reads every host that bears it or a later one, and has missed nothing.
alter table hosts add column changed_by xid8 not null default '0';

create function hosts_note_change() returns trigger language plpgsql as $$
begin
    new.changed_by := pg_current_xact_id();
    return new;
end $$;

create trigger hosts_made before insert on hosts for each row execute function hosts_note_change();
create trigger hosts_changed before update on hosts for each row
    when ((old.name, old.zone, old.traits, old.enabled, old.removed_at, old.health,
           old.limit_vcpus, old.limit_memory_mib, old.limit_disk_gib,
           old.used_vcpus, old.used_memory_mib, old.used_disk_gib)
          is distinct from
          (new.name, new.zone, new.traits, new.enabled, new.removed_at, new.health,
           new.limit_vcpus, new.limit_memory_mib, new.limit_disk_gib,
           new.used_vcpus, new.used_memory_mib, new.used_disk_gib))
    execute function hosts_note_change();
