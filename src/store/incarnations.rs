//! Incarnations and the claims that they are: PostgreSQL arbitrates capacity, in one statement a host.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{HostId, IncarnationId, InstanceId, TenantId};

/// What an instance needs a host for.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Unplaced {
    pub id: InstanceId,
    pub tenant_id: TenantId,
    pub vcpus: i32,
    pub memory_mib: i64,
    pub disk_gib: i64,
    pub traits: Vec<String>,
}

/// Those of `ids` that still want a host, locked against another placer. While the cloud is held, one that is older than the
/// hold may have been placed by a later state of the database, and is not placed a second time. The transaction's commit does
/// not wait for the disk: what is to run on a claim is started only after a later one that does.
pub async fn lock_unplaced(conn: &mut PgConnection, ids: &[InstanceId]) -> Result<Vec<Unplaced>> {
    let rows = sqlx::query_as(
        "select i.id, i.tenant_id, i.vcpus, i.memory_mib, i.disk_gib, i.traits,
                set_config('synchronous_commit', 'off', true)
         from instances i
         where i.id = any($1) and i.wanted in ('running', 'paused')
           and not exists (select from incarnations c where c.instance_id = i.id and c.fenced_at is null)
           and not exists (select from cloud where held_since > i.created_at)
         order by i.id
         for update of i skip locked",
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Takes the capacity and inserts the incarnation, both or none; `None` where the host has no room (any more) or is not open.
/// The guard is in the update: however many placers race, `used` never passes `limit`. The claim's number, which the host's row
/// counts, becomes the end of the id; `fresh` is the rest.
pub async fn claim(
    conn: &mut PgConnection,
    fresh: Uuid,
    who: &Unplaced,
    host: HostId,
    now: Time,
) -> Result<Option<IncarnationId>> {
    let id = sqlx::query_scalar(
        "with room as (
             update hosts set used_vcpus = used_vcpus + $3, used_memory_mib = used_memory_mib + $4, used_disk_gib = used_disk_gib + $5,
                              generation = generation + 1
             where id = $2 and enabled and removed_at is null and health = 'up'
               and used_vcpus + $3 <= limit_vcpus
               and used_memory_mib + $4 <= limit_memory_mib
               and used_disk_gib + $5 <= limit_disk_gib
             returning id, generation)
         insert into incarnations (id, instance_id, tenant_id, host_id, vcpus, memory_mib, disk_gib, created_at)
         select ($1 || lpad(to_hex(room.generation), 12, '0'))::uuid, $6, $7, room.id, $3, $4, $5, $8 from room
         returning id",
    )
    .bind(IncarnationId::front(fresh))
    .bind(host)
    .bind(i64::from(who.vcpus))
    .bind(who.memory_mib)
    .bind(who.disk_gib)
    .bind(who.id)
    .bind(who.tenant_id)
    .bind(now)
    .fetch_optional(conn)
    .await?;
    Ok(id)
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

/// Gives the claim back with the row, once: a second call finds nothing.
pub async fn release(conn: &mut PgConnection, id: IncarnationId) -> Result<bool> {
    let done = sqlx::query(
        "with gone as (delete from incarnations where id = $1 returning host_id, vcpus, memory_mib, disk_gib)
         update hosts h set used_vcpus = h.used_vcpus - gone.vcpus,
                            used_memory_mib = h.used_memory_mib - gone.memory_mib,
                            used_disk_gib = h.used_disk_gib - gone.disk_gib
         from gone where h.id = gone.host_id",
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

/// Those of `ids` that there are, wherever their rows say they live: a host may be registered a second time under another
/// identity, and what is alive in the first one's eyes is no orphan in the second's.
pub async fn among(
    conn: &mut PgConnection,
    ids: &[IncarnationId],
) -> Result<Vec<(IncarnationId, InstanceId)>> {
    let rows = sqlx::query_as("select id, instance_id from incarnations where id = any($1)")
        .bind(ids)
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
