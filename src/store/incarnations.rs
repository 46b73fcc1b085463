//! Incarnations and the claims that they are: PostgreSQL arbitrates capacity, in one statement a host.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{HostId, IncarnationId, InstanceId, TenantId};
use crate::domain::instance::Unplaced;

/// Locks those of `ids` that still want a host; others are left out, and so are those that another placer has.
pub async fn lock_unplaced(conn: &mut PgConnection, ids: &[InstanceId]) -> Result<Vec<InstanceId>> {
    let rows = sqlx::query_scalar(
        "select i.id from instances i
         where i.id = any($1) and i.wanted in ('running', 'paused')
           and not exists (select from incarnations c where c.instance_id = i.id and c.fenced_at is null)
         order by i.id
         for update of i skip locked",
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// A claim to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    pub instance: InstanceId,
    pub tenant: TenantId,
    pub host: HostId,
    pub vcpus: i32,
    pub memory_mib: i64,
    pub disk_gib: i64,
    /// The reservation's slot that it takes, whose room it has.
    pub slot: Option<Uuid>,
    /// The zone that the host was in when it was chosen, where that counts: for the instance or its group.
    pub zone: Option<String>,
}

impl Claim {
    /// `zone`: the host's, as it is known.
    pub fn of(who: &Unplaced, host: HostId, slot: Option<Uuid>, zone: Option<&str>) -> Self {
        let counts = who.zone.is_some() || who.group_id.is_some();
        Self {
            zone: zone.filter(|_| counts).map(str::to_owned),
            instance: who.id,
            tenant: who.tenant_id,
            host,
            vcpus: who.vcpus,
            memory_mib: who.memory_mib,
            disk_gib: who.disk_gib,
            slot,
        }
    }
}

/// Takes the capacity and inserts the incarnations, host by host all or none; gives those that were made. A host that is not open,
/// has not the room (any more) or is in another zone than it was chosen for gives none. The guard is in the update: however many placers race, `used` never passes
/// `limit`, but by what was taken before the limit was lowered. Hosts are locked in the order of their ids, so that two who
/// claim on the same ones wait for each other and never in a circle.
///
/// The claim's number, which the host's row counts, becomes the end of the id; `fresh` of each is the rest. A slot must be
/// locked, and free, by then; its room is taken already.
pub async fn claim(
    conn: &mut PgConnection,
    claims: &[(Uuid, Claim)],
    now: Time,
) -> Result<Vec<(InstanceId, IncarnationId)>> {
    let column = |one: &dyn Fn(&Claim) -> i64| -> Vec<i64> {
        claims.iter().map(|(_, claim)| one(claim)).collect()
    };
    let made = sqlx::query_as(
        "with asked as (
             select *, row_number() over (partition by host_id) as place
             from unnest($1::text[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[], $8::uuid[],
                         $10::text[])
                  as a(front, instance_id, tenant_id, host_id, vcpus, memory_mib, disk_gib, slot_id, zone)),
         total as (
             select a.host_id, count(*) as claims, min(a.zone) as zone, max(a.zone) as other_zone,
                    coalesce(sum(a.vcpus) filter (where a.slot_id is null), 0)::bigint as vcpus,
                    coalesce(sum(a.memory_mib) filter (where a.slot_id is null), 0)::bigint as memory_mib,
                    coalesce(sum(a.disk_gib) filter (where a.slot_id is null), 0)::bigint as disk_gib
             from asked a group by a.host_id),
         held as materialized (
             select h.id from hosts h where h.id in (select host_id from total) order by h.id for no key update),
         room as (
             update hosts h set used_vcpus = h.used_vcpus + t.vcpus, used_memory_mib = h.used_memory_mib + t.memory_mib,
                                used_disk_gib = h.used_disk_gib + t.disk_gib, generation = h.generation + t.claims
             from total t, held
             where h.id = t.host_id and held.id = h.id and h.enabled and h.removed_at is null and h.health = 'up'
               and (t.zone is null or (t.zone = h.zone and t.other_zone = h.zone))
               and (t.vcpus = 0 or h.used_vcpus + t.vcpus <= h.limit_vcpus)
               and (t.memory_mib = 0 or h.used_memory_mib + t.memory_mib <= h.limit_memory_mib)
               and (t.disk_gib = 0 or h.used_disk_gib + t.disk_gib <= h.limit_disk_gib)
             returning h.id, h.generation - t.claims as before),
         made as (
             insert into incarnations (id, instance_id, tenant_id, host_id, vcpus, memory_mib, disk_gib, created_at)
             select (a.front || lpad(to_hex(room.before + a.place), 12, '0'))::uuid, a.instance_id, a.tenant_id, a.host_id,
                    a.vcpus, a.memory_mib, a.disk_gib, $9
             from asked a join room on room.id = a.host_id
             returning id, instance_id),
         slots as (
             update reservation_slots s set incarnation_id = made.id
             from made join asked a using (instance_id) where s.id = a.slot_id)
         select instance_id, id from made",
    )
    .bind(claims.iter().map(|(fresh, _)| IncarnationId::front(*fresh)).collect::<Vec<_>>())
    .bind(claims.iter().map(|(_, claim)| claim.instance.0).collect::<Vec<_>>())
    .bind(claims.iter().map(|(_, claim)| claim.tenant.0).collect::<Vec<_>>())
    .bind(claims.iter().map(|(_, claim)| claim.host.0).collect::<Vec<_>>())
    .bind(column(&|claim| claim.vcpus.into()))
    .bind(column(&|claim| claim.memory_mib))
    .bind(column(&|claim| claim.disk_gib))
    .bind(claims.iter().map(|(_, claim)| claim.slot).collect::<Vec<_>>())
    .bind(now)
    .bind(claims.iter().map(|(_, claim)| claim.zone.as_deref()).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(made)
}

/// Whether the claim is still there: not given back, nor taken back by a crash of the database.
pub async fn is_there(conn: &mut PgConnection, id: IncarnationId) -> Result<bool> {
    let there = sqlx::query_scalar("select exists (select from incarnations where id = $1)")
        .bind(id)
        .fetch_one(conn)
        .await?;
    Ok(there)
}

/// The disk, or the seed, was made whole.
pub async fn set_made(
    conn: &mut PgConnection,
    id: IncarnationId,
    disk: bool,
    seed: bool,
) -> Result<()> {
    sqlx::query("update incarnations set disk_made = $2, seed_made = $3 where id = $1")
        .bind(id)
        .bind(disk)
        .bind(seed)
        .execute(conn)
        .await?;
    Ok(())
}

/// Gives the claim back with the row, once: a second call finds nothing. A reservation's slot keeps its room, and is free again.
pub async fn release(conn: &mut PgConnection, id: IncarnationId) -> Result<bool> {
    let done = sqlx::query(
        "with gone as (delete from incarnations where id = $1 returning host_id, vcpus, memory_mib, disk_gib),
         slot as (update reservation_slots set incarnation_id = null where incarnation_id = $1 returning true),
         room as (
             update hosts h set used_vcpus = h.used_vcpus - gone.vcpus, used_memory_mib = h.used_memory_mib - gone.memory_mib,
                                used_disk_gib = h.used_disk_gib - gone.disk_gib
             from gone where h.id = gone.host_id and not exists (select from slot))
         select from gone",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The instance leaves without it: the claim stays until the host has been cleaned.
pub async fn fence(conn: &mut PgConnection, id: IncarnationId, now: Time) -> Result<()> {
    sqlx::query("update incarnations set fenced_at = $2 where id = $1 and fenced_at is null")
        .bind(id)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

/// An incarnation that was left behind.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Fenced {
    pub id: IncarnationId,
    pub instance_id: InstanceId,
    pub tenant_id: TenantId,
    pub host_id: HostId,
}

pub async fn fenced(conn: &mut PgConnection, id: IncarnationId) -> Result<Option<Fenced>> {
    let row = sqlx::query_as(
        "select id, instance_id, tenant_id, host_id from incarnations where id = $1 and fenced_at is not null",
    )
    .bind(id)
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// Every incarnation of a host, fenced ones too: what the sweeper must leave alone.
pub async fn on_host(
    conn: &mut PgConnection,
    host: HostId,
) -> Result<Vec<(IncarnationId, InstanceId)>> {
    let rows = sqlx::query_as("select id, instance_id from incarnations where host_id = $1")
        .bind(host)
        .fetch_all(conn)
        .await?;
    Ok(rows)
}

/// Those of `ids` that there are, and whether they may live on this host: a host that is not up may be this one under another name
/// or identity.
pub async fn among(
    conn: &mut PgConnection,
    host: HostId,
    ids: &[IncarnationId],
) -> Result<Vec<(IncarnationId, InstanceId, bool)>> {
    let rows = sqlx::query_as(
        "select c.id, c.instance_id, h.id = $2 or h.health <> 'up' from incarnations c join hosts h on h.id = c.host_id
         where c.id = any($1)",
    )
    .bind(ids)
    .bind(host)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Those left behind on a host: due when it is back.
pub async fn fenced_on_host(conn: &mut PgConnection, host: HostId) -> Result<Vec<IncarnationId>> {
    let ids = sqlx::query_scalar(
        "select id from incarnations where host_id = $1 and fenced_at is not null",
    )
    .bind(host)
    .fetch_all(conn)
    .await?;
    Ok(ids)
}
