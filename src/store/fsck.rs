//! What the audit from inside reads: differences within the database, and what it says of each host.

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::host_networks::Entry;
use crate::domain::error::Result;
use crate::domain::id::{HostId, IncarnationId, InstanceId, NetworkId};
use crate::domain::instance::Power;

/// A difference within the database.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Difference {
    pub check: String,
    pub host_id: Option<HostId>,
    pub thing: String,
    pub detail: String,
}

/// Name and query of each check. A query gives the host, the thing and what is wrong.
const CHECKS: &[(&str, &str)] = &[
    (
        "claim",
        "select h.id as host_id, h.id::text as thing,
                format('%s of %s vCPUs, %s of %s MiB, %s of %s GiB are taken, by its row and by its incarnations and slots',
                       h.used_vcpus, c.vcpus, h.used_memory_mib, c.memory, h.used_disk_gib, c.disk) as detail
         from hosts h, lateral (select coalesce(sum(vcpus), 0)::bigint as vcpus, coalesce(sum(memory_mib), 0)::bigint as memory,
                                       coalesce(sum(disk_gib), 0)::bigint as disk
                                from (select vcpus, memory_mib, disk_gib from incarnations c where host_id = h.id
                                      and not exists (select from reservation_slots where incarnation_id = c.id)
                                      union all
                                      select vcpus, memory_mib, disk_gib from reservation_slots where host_id = h.id) held) c
         where (h.used_vcpus, h.used_memory_mib, h.used_disk_gib) is distinct from (c.vcpus, c.memory, c.disk)",
    ),
    (
        "use",
        "select null::uuid as host_id, t.id::text as thing,
                format('%s instances, %s vCPUs, %s MiB, %s GiB are counted of its quota, and its instances are %s with %s, %s and %s',
                       u.instances, u.vcpus, u.memory, u.disk, i.instances, i.vcpus, i.memory, i.disk) as detail
         from tenants t,
              lateral (select coalesce(sum(instances), 0) as instances, coalesce(sum(vcpus), 0) as vcpus,
                              coalesce(sum(memory_mib), 0) as memory, coalesce(sum(disk_gib), 0) as disk
                       from instance_use where tenant_id = t.id) u,
              lateral (select count(*) as instances, coalesce(sum(vcpus), 0) as vcpus,
                              coalesce(sum(memory_mib), 0) as memory, coalesce(sum(disk_gib), 0) as disk
                       from instances where tenant_id = t.id and wanted <> 'deleted') i
         where (u.instances, u.vcpus, u.memory, u.disk) is distinct from (i.instances, i.vcpus, i.memory, i.disk)",
    ),
    (
        "port",
        "select null::uuid as host_id, p.id::text as thing,
                format('it holds %s addresses, and should hold one of its network', count(a.address)) as detail
         from ports p left join addresses a on a.port_id = p.id and a.network_id = p.network_id
         group by p.id having count(a.address) <> 1",
    ),
    (
        "address",
        "select null::uuid as host_id, host(a.address) as thing, format('it is not of its network %s', n.cidr) as detail
         from addresses a join networks n on n.id = a.network_id where not a.address <<= n.cidr::inet",
    ),
    (
        "incarnation",
        "select c.host_id, c.id::text as thing, 'it belongs to no instance, and is no fence' as detail
         from incarnations c where c.fenced_at is null and not exists (select from instances i where i.id = c.instance_id)",
    ),
    (
        "work",
        "select null::uuid as host_id, item::text as thing, format('the %s is to be looked at, and is not there', kind) as detail
         from work w where not case kind
             when 'instance' then exists (select from instances where id = item)
             when 'host' then exists (select from hosts where id = item)
             when 'host_image' then exists (select from host_images where id = item)
             when 'network' then exists (select from networks where id = item)
             when 'fence' then exists (select from incarnations where id = item)
             else true end and due_at = 'infinity'",
    ),
    (
        "forgotten",
        "select null::uuid as host_id, f.id::text as thing, format('the %s is not as wished, and nothing will look at it', f.kind) as detail
         from (select 'instance' as kind, id from instances where observed_revision < revision or wanted = 'deleted'
               union all select 'network', id from networks where deleted_at is not null
               union all select 'fence', id from incarnations where fenced_at is not null
               union all select 'host', id from hosts where removed_at is not null) f
         where not exists (select from work w where w.kind = f.kind and w.item = f.id and w.due_at < 'infinity')",
    ),
];

/// Every difference within the database, all seen at one moment.
pub async fn differences(pool: &PgPool) -> Result<Vec<Difference>> {
    let mut tx = super::begin(pool).await?;
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(&mut *tx)
        .await?;
    let mut found = Vec::new();
    for (check, sql) in CHECKS {
        type Row = (Option<HostId>, String, String);
        let rows: Vec<Row> = sqlx::query_as(*sql).fetch_all(&mut *tx).await?;
        found.extend(rows.into_iter().map(|(host_id, thing, detail)| Difference {
            check: (*check).to_owned(),
            host_id,
            thing,
            detail,
        }));
    }
    Ok(found)
}

/// An incarnation as its host should show it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Expected {
    pub id: IncarnationId,
    pub instance_id: InstanceId,
    pub disk_made: bool,
    pub seed_made: bool,
    /// `None`: a fence, of which nothing is expected.
    pub power: Option<Power>,
    /// Nobody works on it.
    pub rests: bool,
}

/// What the database says of a host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostRecord {
    pub incarnations: Vec<Expected>,
    /// Volumes of base images, and whether they are there for sure.
    pub bases: Vec<(String, bool)>,
    pub networks: Vec<NetworkId>,
    /// Whom they serve.
    pub served: Vec<(NetworkId, Entry)>,
}

pub async fn host(conn: &mut PgConnection, host: HostId) -> Result<HostRecord> {
    let incarnations = sqlx::query_as(
        "select c.id, c.instance_id, c.disk_made, c.seed_made, i.observed_power as power,
                coalesce((w.due_at = 'infinity' or w.attempts = 0 and i.observed_revision = i.revision)
                         and w.lease_until is null, true) as rests
         from incarnations c
         left join instances i on i.id = c.instance_id and c.fenced_at is null
         left join work w on w.kind = 'instance' and w.item = c.instance_id
         where c.host_id = $1 order by c.id",
    )
    .bind(host)
    .fetch_all(&mut *conn)
    .await?;
    let images = super::host_images::on_host(conn, host).await?;
    let mut networks = super::host_networks::on_host(conn, host).await?;
    networks.sort();
    let served = super::host_networks::served(conn, host).await?;
    let bases = images.iter().map(|image| (image.volume(), image.present)).collect();
    Ok(HostRecord { incarnations, bases, networks, served })
}

/// Every incarnation and instance there is, wherever it lives: what none of them owns is nobody's.
pub async fn known(conn: &mut PgConnection) -> Result<Vec<(IncarnationId, InstanceId)>> {
    let rows = sqlx::query_as("select id, instance_id from incarnations").fetch_all(conn).await?;
    Ok(rows)
}

/// Checksum and size of everything that the image store should hold.
pub async fn blobs(conn: &mut PgConnection) -> Result<Vec<(String, i64, bool)>> {
    let rows = sqlx::query_as(
        "select b.sha256, b.size_bytes, exists (select from images i where i.sha256 = b.sha256) as used
         from blobs b order by b.sha256",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Hosts by id, name and health, and how many deleted instances have left something on each.
pub async fn hosts(conn: &mut PgConnection) -> Result<Vec<(Uuid, String, String, String, i64)>> {
    let rows = sqlx::query_as(
        "select h.id, h.name, h.health, h.health_reason,
                (select count(*) from incarnations c where c.host_id = h.id and c.fenced_at is not null) as left_behind
         from hosts h order by h.id",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}
