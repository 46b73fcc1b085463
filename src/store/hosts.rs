//! Hosts in the database: what the reconciler and the placer need of them.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::host::{Host, HostFilter, HostPatch, NewHost, VirtType};
use crate::domain::id::HostId;
use crate::domain::page::Page;
use crate::domain::text::Name;

/// A host as the reconciler reaches it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Reached {
    pub id: HostId,
    pub name: String,
    pub uri: String,
    pub pool_path: String,
    pub virt_type: VirtType,
    pub removed_at: Option<Time>,
    pub health: String,
    pub health_reason: String,
    pub health_since: Time,
    /// The identity that it must prove; none before the first contact.
    pub host_uuid: Option<Uuid>,
    pub facts: Option<Value>,
    /// How many claims it has seen: see `generations`.
    pub generation: i64,
}

impl Reached {
    /// How a domain on it is virtualised: the setting, or what the host's CPU can.
    pub fn resolved_virt_type(&self) -> VirtType {
        let told =
            self.facts.as_ref().and_then(|facts| facts.get("virt_type")).and_then(Value::as_str);
        match (self.virt_type, told) {
            (VirtType::Auto, Some("kvm")) => VirtType::Kvm,
            (VirtType::Auto, Some(_) | None) => VirtType::Qemu,
            (fixed @ (VirtType::Kvm | VirtType::Qemu), _) => fixed,
        }
    }
}

macro_rules! reached {
    ($rest:literal) => {
        concat!(
            "select id, name, uri, pool_path, virt_type, removed_at, health, health_reason, health_since, host_uuid, facts, generation
             from hosts ",
            $rest
        )
    };
}

pub async fn reached(conn: &mut PgConnection, id: HostId) -> Result<Option<Reached>> {
    let row = sqlx::query_as(reached!("where id = $1")).bind(id).fetch_optional(conn).await?;
    Ok(row)
}

/// How many claims a host that is up has counted; `None` for one that is not.
pub async fn generation_if_up(conn: &mut PgConnection, id: HostId) -> Result<Option<i64>> {
    let generation =
        sqlx::query_scalar("select generation from hosts where id = $1 and health = 'up'")
            .bind(id)
            .fetch_optional(conn)
            .await?;
    Ok(generation)
}

/// Where a host is, and nothing of what it told of itself.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Address {
    pub id: HostId,
    pub uri: String,
    pub pool_path: String,
    pub host_uuid: Option<Uuid>,
    /// How many claims it has counted; `None` for one that is not up.
    pub counted: Option<i64>,
    /// Which table this was read of, by PostgreSQL's number for it.
    pub of_table: i64,
}

pub async fn addresses(conn: &mut PgConnection) -> Result<Vec<Address>> {
    let rows = sqlx::query_as(
        "select id, uri, pool_path, host_uuid, case when health = 'up' then generation end as counted, tableoid::bigint as of_table
         from hosts",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

pub async fn all_reached(conn: &mut PgConnection) -> Result<Vec<Reached>> {
    let rows = sqlx::query_as(reached!("order by id")).fetch_all(conn).await?;
    Ok(rows)
}

/// What a host has, before reservation and overcommit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    pub vcpus: i64,
    pub memory_mib: i64,
    pub disk_gib: i64,
}

/// The host answered: it is up, and this is what it has. The first answer fixes its identity.
pub async fn observe(
    conn: &mut PgConnection,
    id: HostId,
    host_uuid: Uuid,
    facts: &Value,
    totals: Totals,
    now: Time,
) -> Result<()> {
    sqlx::query(
        "update hosts set
             host_uuid = coalesce(host_uuid, $2),
             facts = $3,
             limit_vcpus = host_limit($4, reserved_vcpus, cpu_ratio),
             limit_memory_mib = host_limit($5, reserved_memory_mib, memory_ratio),
             limit_disk_gib = host_limit($6, reserved_disk_gib, disk_ratio),
             health_since = case when health = 'up' then health_since else $7 end,
             health = 'up', health_reason = '', last_seen_at = $7
         where id = $1",
    )
    .bind(id)
    .bind(host_uuid)
    .bind(facts)
    .bind(totals.vcpus)
    .bind(totals.memory_mib)
    .bind(totals.disk_gib)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// The host did not answer, or another one did in its place.
pub async fn set_down(conn: &mut PgConnection, id: HostId, reason: &str, now: Time) -> Result<()> {
    sqlx::query(
        "update hosts set health_since = case when health = 'down' then health_since else $3 end,
                          health = 'down', health_reason = $2
         where id = $1",
    )
    .bind(id)
    .bind(reason)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// The local host of `up`, registered where it is missing and brought in line with the settings where it is there.
#[derive(Debug, Clone)]
pub struct Local {
    pub uri: String,
    pub pool_path: String,
    pub virt_type: VirtType,
    pub cpu_ratio: f64,
    pub memory_ratio: f64,
    pub disk_ratio: f64,
    pub reserved_memory_mib: i64,
    pub reserved_disk_gib: i64,
}

/// Gives the id. What an admin changed of the host stays; its URI, path and type are the command line's.
pub async fn ensure_local(conn: &mut PgConnection, local: &Local, now: Time) -> Result<HostId> {
    let id = sqlx::query_scalar(
        "insert into hosts (id, name, uri, pool_path, virt_type, cpu_ratio, memory_ratio, disk_ratio, created_at, health_since,
                            reserved_memory_mib, reserved_disk_gib, generation)
         values ($1, 'local', $2, $3, $4, $5, $6, $7, $8, $8, $9, $10, coalesce((select generation_floor from cloud), 0))
         on conflict (name) do update set uri = excluded.uri, pool_path = excluded.pool_path, virt_type = excluded.virt_type
         returning id",
    )
    .bind(HostId(Uuid::now_v7()))
    .bind(&local.uri)
    .bind(&local.pool_path)
    .bind(local.virt_type)
    .bind(local.cpu_ratio)
    .bind(local.memory_ratio)
    .bind(local.disk_ratio)
    .bind(now)
    .bind(local.reserved_memory_mib)
    .bind(local.reserved_disk_gib)
    .fetch_one(conn)
    .await?;
    Ok(id)
}

/// What was still to be cleaned on a host that will not come back is given up. Claims of instances that are not deleted stay.
pub async fn give_up(conn: &mut PgConnection, id: HostId) -> Result<()> {
    sqlx::query("delete from work w using incarnations c where w.kind = 'fence' and w.item = c.id and c.host_id = $1 and c.fenced_at is not null")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    sqlx::query("delete from incarnations where host_id = $1 and fenced_at is not null")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    sqlx::query("delete from work w using host_images i where w.kind = 'host_image' and w.item = i.id and i.host_id = $1")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    sqlx::query("delete from host_images where host_id = $1").bind(id).execute(&mut *conn).await?;
    sqlx::query("delete from host_networks where host_id = $1")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    Ok(())
}

/// The last trace of a host that left, once nothing of ours is on it.
pub async fn forget(conn: &mut PgConnection, id: HostId) -> Result<bool> {
    super::generations::keep(conn, id).await?;
    let done = sqlx::query(
        "delete from hosts h where id = $1 and removed_at is not null
             and not exists (select from incarnations c where c.host_id = h.id)
             and not exists (select from reservation_slots s where s.host_id = h.id)",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

macro_rules! hosts {
    ($rest:literal) => {
        concat!(
            "select id, name, uri, pool_path, zone, traits, enabled, virt_type, cpu_ratio, memory_ratio, disk_ratio,
                    reserved_vcpus, reserved_memory_mib, reserved_disk_gib, removed_at is not null as leaving,
                    case when removed_at is not null and w.attempts = 0 then w.reason end as leaving_reason,
                    health, health_reason, health_since, last_seen_at, host_uuid, facts,
                    jsonb_build_object('vcpus', limit_vcpus, 'memory_mib', limit_memory_mib, 'disk_gib', limit_disk_gib) as \"limit\",
                    jsonb_build_object('vcpus', used_vcpus, 'memory_mib', used_memory_mib, 'disk_gib', used_disk_gib) as used,
                    (select count(*) from incarnations c where c.host_id = hosts.id and c.fenced_at is null) as incarnations,
                    coalesce(w.attempts, 0) as attempts, case when w.attempts > 0 then w.last_error end as last_error,
                    nullif(w.due_at, 'infinity') as next_attempt_at, w.stalled_at as stalled_since,
                    created_at, revision
             from hosts left join work w on w.kind = 'host' and w.item = hosts.id ",
            $rest
        )
    };
}

pub async fn get(conn: &mut PgConnection, id: HostId) -> Result<Option<Host>> {
    let host = sqlx::query_as(hosts!("where id = $1")).bind(id).fetch_optional(conn).await?;
    Ok(host)
}

/// The same, held against claims and other changes until the transaction ends.
pub async fn get_locked(conn: &mut PgConnection, id: HostId) -> Result<Option<Host>> {
    // A statement of its own: what it counts is then what is there once the lock is held.
    sqlx::query("select from hosts where id = $1 for update").bind(id).execute(&mut *conn).await?;
    get(conn, id).await
}

pub async fn list(conn: &mut PgConnection, page: &Page, filter: &HostFilter) -> Result<Vec<Host>> {
    let hosts = sqlx::query_as(hosts!(
        "where id > $1 and ($2::text is null or name = $2) and ($3::text is null or zone = $3)
           and ($4::text is null or health = $4) and ($5::boolean is null or enabled = $5)
         order by id limit $6"
    ))
    .bind(page.after)
    .bind(&filter.name)
    .bind(&filter.zone)
    .bind(filter.health)
    .bind(filter.enabled)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(hosts)
}

/// Registers a host; `new` has its path and ratios.
pub async fn insert(
    conn: &mut PgConnection,
    id: HostId,
    name: &Name,
    new: &NewHost,
    now: Time,
) -> Result<()> {
    sqlx::query(
        "insert into hosts (id, name, uri, pool_path, zone, traits, enabled, virt_type, cpu_ratio, memory_ratio, disk_ratio,
                            reserved_vcpus, reserved_memory_mib, reserved_disk_gib, created_at, health_since, generation)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15, coalesce((select generation_floor from cloud), 0))",
    )
    .bind(id)
    .bind(name)
    .bind(&new.uri)
    .bind(&new.pool_path)
    .bind(&new.zone)
    .bind(&new.traits)
    .bind(new.enabled)
    .bind(new.virt_type)
    .bind(new.cpu_ratio)
    .bind(new.memory_ratio)
    .bind(new.disk_ratio)
    .bind(new.reserved_vcpus)
    .bind(new.reserved_memory_mib)
    .bind(new.reserved_disk_gib)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Changes what is given, and with it the limits.
pub async fn update(conn: &mut PgConnection, id: HostId, patch: &HostPatch) -> Result<()> {
    sqlx::query(
        "update hosts set
             name = coalesce($2, name), uri = coalesce($3, uri), pool_path = coalesce($4, pool_path),
             zone = coalesce($5, zone), traits = coalesce($6, traits), enabled = coalesce($7, enabled),
             virt_type = coalesce($8, virt_type), cpu_ratio = coalesce($9, cpu_ratio),
             memory_ratio = coalesce($10, memory_ratio), disk_ratio = coalesce($11, disk_ratio),
             reserved_vcpus = coalesce($12, reserved_vcpus), reserved_memory_mib = coalesce($13, reserved_memory_mib),
             reserved_disk_gib = coalesce($14, reserved_disk_gib),
             limit_vcpus = host_limit((facts ->> 'vcpus')::bigint, coalesce($12, reserved_vcpus), coalesce($9, cpu_ratio)),
             limit_memory_mib = host_limit((facts ->> 'memory_mib')::bigint, coalesce($13, reserved_memory_mib), coalesce($10, memory_ratio)),
             limit_disk_gib = host_limit((facts ->> 'disk_gib')::bigint, coalesce($14, reserved_disk_gib), coalesce($11, disk_ratio)),
             revision = revision + 1
         where id = $1",
    )
    .bind(id)
    .bind(&patch.name)
    .bind(&patch.uri)
    .bind(&patch.pool_path)
    .bind(&patch.zone)
    .bind(&patch.traits)
    .bind(patch.enabled)
    .bind(patch.virt_type)
    .bind(patch.cpu_ratio)
    .bind(patch.memory_ratio)
    .bind(patch.disk_ratio)
    .bind(patch.reserved_vcpus)
    .bind(patch.reserved_memory_mib)
    .bind(patch.reserved_disk_gib)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether anything of ours is, or may be, on the host.
pub async fn holds_anything(conn: &mut PgConnection, id: HostId) -> Result<bool> {
    let holds = sqlx::query_scalar(
        "select exists (select from incarnations where host_id = $1) or exists (select from host_images where host_id = $1)
             or exists (select from host_networks where host_id = $1)",
    )
    .bind(id)
    .fetch_one(conn)
    .await?;
    Ok(holds)
}

/// How many instances, and how many slots of reservations, are on the host for the sake of its zone: they or their hard group
/// named it.
pub async fn bound_by_zone(conn: &mut PgConnection, id: HostId) -> Result<(i64, i64)> {
    let bound = sqlx::query_as(
        "select (select count(*) from incarnations c join instances i on i.id = c.instance_id
                 left join groups g on g.id = i.group_id
                 where c.host_id = $1 and (i.zone is not null or (g.hard and g.scope = 'zone'))),
                (select count(*) from reservation_slots s join reservations r on r.id = s.reservation_id
                 where s.host_id = $1 and r.zone is not null)",
    )
    .bind(id)
    .fetch_one(conn)
    .await?;
    Ok(bound)
}

/// The host is to leave: it takes nothing more, and goes once what we made on it is gone.
pub async fn retire(conn: &mut PgConnection, id: HostId, now: Time) -> Result<()> {
    sqlx::query(
        "update hosts set removed_at = $2, revision = revision + 1 where id = $1 and removed_at is null",
    )
    .bind(id)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}
