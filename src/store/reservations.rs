//! Reservations in the database, and their slots, which count in the `used` of their hosts whether an instance has them or not.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::flavor::Flavor;
use crate::domain::id::{HostId, ReservationId, TenantId, UserId};
use crate::domain::page::Page;
use crate::domain::reservation::{NewReservation, OpenSlot, Reservation};
use crate::domain::text::Name;

macro_rules! reservations {
    ($rest:literal) => {
        concat!(
            "select r.id, r.tenant_id, r.name, r.flavor_id, r.flavor_name, r.vcpus, r.memory_mib, r.disk_gib, r.zone, r.slots,
                    r.expires_at, r.created_by, r.created_at, r.revision,
                    (select count(*) from reservation_slots s where s.reservation_id = r.id and s.incarnation_id is null) as free
             from reservations r where ",
            $rest
        )
    };
}

/// Who reserves what.
#[derive(Debug, Clone)]
pub struct Insert<'a> {
    pub id: ReservationId,
    pub tenant: TenantId,
    pub name: &'a Name,
    pub flavor: &'a Flavor,
    pub new: &'a NewReservation,
    pub created_by: UserId,
}

pub async fn insert(conn: &mut PgConnection, row: &Insert<'_>, now: Time) -> Result<()> {
    sqlx::query(
        "insert into reservations (id, tenant_id, name, flavor_id, flavor_name, vcpus, memory_mib, disk_gib, traits, zone, slots,
                                   expires_at, created_by, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(row.id)
    .bind(row.tenant)
    .bind(row.name)
    .bind(row.flavor.id)
    .bind(row.flavor.name.as_str())
    .bind(row.flavor.vcpus)
    .bind(row.flavor.memory_mib)
    .bind(row.flavor.disk_gib)
    .bind(&row.flavor.traits)
    .bind(&row.new.zone)
    .bind(row.new.slots)
    .bind(row.new.expires_at)
    .bind(row.created_by)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes the capacity of a slot on each of these hosts, one that is named twice twice; gives how many slots were made. A host
/// without room, not open or in another zone than is asked for gives none of its slots: as for claims, the guard is in the update.
pub async fn take_slots(
    conn: &mut PgConnection,
    id: ReservationId,
    flavor: &Flavor,
    zone: Option<&str>,
    hosts: &[HostId],
) -> Result<u64> {
    let done = sqlx::query(
        "with asked as (select unnest($2::uuid[]) as host_id),
         total as (select host_id, count(*) as slots from asked group by host_id),
         held as materialized (
             select h.id from hosts h where h.id in (select host_id from total) order by h.id for no key update),
         room as (
             update hosts h set used_vcpus = used_vcpus + slots * $3, used_memory_mib = used_memory_mib + slots * $4,
                                used_disk_gib = used_disk_gib + slots * $5
             from total t, held
             where h.id = t.host_id and held.id = h.id and enabled and removed_at is null and health = 'up'
               and ($6::text is null or h.zone = $6)
               and used_vcpus + slots * $3 <= limit_vcpus and used_memory_mib + slots * $4 <= limit_memory_mib
               and used_disk_gib + slots * $5 <= limit_disk_gib
             returning h.id)
         insert into reservation_slots (id, reservation_id, host_id, vcpus, memory_mib, disk_gib)
         select gen_random_uuid(), $1, room.id, $3, $4, $5 from asked join room on room.id = asked.host_id",
    )
    .bind(id)
    .bind(hosts.iter().map(|host| host.0).collect::<Vec<_>>())
    .bind(i64::from(flavor.vcpus))
    .bind(flavor.memory_mib)
    .bind(flavor.disk_gib)
    .bind(zone)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

pub async fn get(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    id: ReservationId,
) -> Result<Option<Reservation>> {
    let row = sqlx::query_as(reservations!("r.id = $1 and ($2::uuid is null or r.tenant_id = $2)"))
        .bind(id)
        .bind(scope)
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// The same, held against other changes until the transaction ends.
pub async fn get_locked(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    id: ReservationId,
) -> Result<Option<Reservation>> {
    sqlx::query("select from reservations where id = $1 for update")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    get(conn, scope, id).await
}

/// The tenant's reservation of this id or name.
pub async fn find(
    conn: &mut PgConnection,
    tenant: TenantId,
    id_or_name: &str,
) -> Result<Option<Reservation>> {
    let row = sqlx::query_as(reservations!(
        "r.tenant_id = $1 and (r.id::text = $2 or r.name = $2) order by r.id::text = $2 desc limit 1"
    ))
    .bind(tenant)
    .bind(id_or_name)
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

pub async fn list(
    conn: &mut PgConnection,
    tenant: Option<TenantId>,
    page: &Page,
    name: Option<&str>,
) -> Result<Vec<Reservation>> {
    let rows = sqlx::query_as(reservations!(
        "r.id > $1 and ($2::uuid is null or r.tenant_id = $2) and ($3::text is null or r.name = $3)
         order by r.id limit $4"
    ))
    .bind(page.after)
    .bind(tenant)
    .bind(name)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

pub async fn set_end(conn: &mut PgConnection, id: ReservationId, end: Time) -> Result<()> {
    sqlx::query("update reservations set expires_at = $2, revision = revision + 1 where id = $1")
        .bind(id)
        .bind(end)
        .execute(conn)
        .await?;
    Ok(())
}

/// Ends it: what is free of it goes back to its hosts, and what instances have stays theirs. Waits for whoever is taking a slot.
pub async fn end(conn: &mut PgConnection, id: ReservationId) -> Result<()> {
    // Slots, instances, hosts: the order in which the placer locks them.
    sqlx::query("select from reservation_slots where reservation_id = $1 order by id for update")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "with mine as materialized (select id from instances where reservation_id = $1 order by id for update)
         update instances set reservation_id = null where id in (select id from mine)",
    )
    .bind(id)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "with gone as (
             delete from reservation_slots where reservation_id = $1 returning host_id, vcpus, memory_mib, disk_gib, incarnation_id),
         free as (
             select s.host_id, sum(s.vcpus - coalesce(c.vcpus, 0))::bigint as vcpus,
                    sum(s.memory_mib - coalesce(c.memory_mib, 0))::bigint as memory_mib,
                    sum(s.disk_gib - coalesce(c.disk_gib, 0))::bigint as disk_gib
             from gone s left join incarnations c on c.id = s.incarnation_id group by s.host_id),
         held as materialized (
             select h.id from hosts h where h.id in (select host_id from free) order by h.id for no key update)
         update hosts h set used_vcpus = used_vcpus - free.vcpus, used_memory_mib = used_memory_mib - free.memory_mib,
                            used_disk_gib = used_disk_gib - free.disk_gib
         from free, held where h.id = free.host_id and held.id = h.id",
    )
    .bind(id)
    .execute(&mut *conn)
    .await?;
    sqlx::query("delete from reservations where id = $1").bind(id).execute(conn).await?;
    Ok(())
}

/// How many slots a host has.
pub async fn on_host(conn: &mut PgConnection, host: HostId) -> Result<i64> {
    let count = sqlx::query_scalar("select count(*) from reservation_slots where host_id = $1")
        .bind(host)
        .fetch_one(conn)
        .await?;
    Ok(count)
}

/// Some that have come to their end, and that nobody else is ending.
pub async fn over(conn: &mut PgConnection, now: Time, limit: i64) -> Result<Vec<Reservation>> {
    let rows = sqlx::query_as(reservations!(
        "r.expires_at <= $1 order by r.expires_at limit $2 for update of r skip locked"
    ))
    .bind(now)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

macro_rules! free_slots {
    ($rest:literal) => {
        concat!(
            "select id, reservation_id, host_id from reservation_slots
             where reservation_id = $1 and incarnation_id is null order by id ",
            $rest
        )
    };
}

/// A free slot.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Slot {
    pub id: Uuid,
    pub reservation_id: ReservationId,
    pub host_id: HostId,
}

/// Locks up to `limit` free slots of each of these reservations until the transaction ends; those that somebody else is
/// taking are left out.
pub async fn hold_free(
    conn: &mut PgConnection,
    ids: &[ReservationId],
    limit: i64,
) -> Result<BTreeMap<ReservationId, Vec<Slot>>> {
    let mut free: BTreeMap<_, Vec<Slot>> = BTreeMap::new();
    for id in ids {
        let slots = sqlx::query_as(free_slots!("limit $2 for update skip locked"))
            .bind(id)
            .bind(limit)
            .fetch_all(&mut *conn)
            .await?;
        free.insert(*id, slots);
    }
    Ok(free)
}

/// Locks all free slots, after whoever has some of them: a placer locks more than it takes.
pub async fn wait_for_free(conn: &mut PgConnection, id: ReservationId) -> Result<Vec<Slot>> {
    let slots = sqlx::query_as(free_slots!("for update")).bind(id).fetch_all(conn).await?;
    Ok(slots)
}

/// The free slots, as they are at this moment.
pub async fn free(conn: &mut PgConnection, id: ReservationId) -> Result<Vec<Slot>> {
    let slots = sqlx::query_as(free_slots!("")).bind(id).fetch_all(conn).await?;
    Ok(slots)
}

/// Free slots of these tenants, one of each host in each reservation; at most 1,000.
pub async fn open(conn: &mut PgConnection, tenants: &[TenantId]) -> Result<Vec<OpenSlot>> {
    let slots = sqlx::query_as(
        "select distinct r.tenant_id, r.name as reservation, s.host_id, s.vcpus, s.memory_mib, s.disk_gib
         from reservations r join reservation_slots s on s.reservation_id = r.id
         where r.tenant_id = any($1) and s.incarnation_id is null
         order by r.tenant_id, r.name, s.host_id limit 1000",
    )
    .bind(tenants.iter().map(|tenant| tenant.0).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(slots)
}
