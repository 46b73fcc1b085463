//! What the database holds, read in plain SQL of the judge's own.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use pileus::domain::id::{HostId, IncarnationId, InstanceId};
use sqlx::PgConnection;
use uuid::Uuid;

#[derive(sqlx::FromRow)]
pub struct InstanceRow {
    pub id: InstanceId,
    pub wanted: String,
    pub boot: i64,
    pub revision: i64,
    pub observed_power: String,
    pub observed_boot: Option<i64>,
    pub observed_revision: i64,
}

#[derive(sqlx::FromRow)]
pub struct IncarnationRow {
    pub id: IncarnationId,
    pub instance_id: InstanceId,
    pub host_id: HostId,
    pub fenced: bool,
    pub vcpus: i64,
    pub memory_mib: i64,
    pub disk_gib: i64,
}

#[derive(sqlx::FromRow)]
pub struct HostRow {
    pub id: HostId,
    pub used: Vec<i64>,
    pub limits: Vec<i64>,
}

#[derive(sqlx::FromRow)]
pub struct PortRow {
    pub instance_id: Option<InstanceId>,
    pub network_id: Uuid,
    pub mac: String,
    pub address: IpNet,
}

#[derive(sqlx::FromRow)]
pub struct BaseRow {
    pub host_id: HostId,
    pub volume: String,
    pub present: bool,
}

pub struct Rows {
    pub instances: BTreeMap<InstanceId, InstanceRow>,
    pub incarnations: Vec<IncarnationRow>,
    pub hosts: BTreeMap<HostId, HostRow>,
    pub ports: Vec<PortRow>,
    pub bases: Vec<BaseRow>,
    pub networks: BTreeSet<(HostId, Uuid)>,
    pub stalled: Vec<(String, Uuid, Option<String>)>,
    pub held: i64,
    pub violations: Vec<String>,
}

impl Rows {
    pub async fn read(conn: &mut PgConnection) -> sqlx::Result<Self> {
        let instances: Vec<InstanceRow> =
            sqlx::query_as("select * from instances").fetch_all(&mut *conn).await?;
        let incarnations =
            sqlx::query_as("select *, fenced_at is not null as fenced from incarnations")
                .fetch_all(&mut *conn)
                .await?;
        let hosts: Vec<HostRow> = sqlx::query_as(
            "select id, array[used_vcpus, used_memory_mib, used_disk_gib] as used,
                    array[limit_vcpus, limit_memory_mib, limit_disk_gib] as limits from hosts",
        )
        .fetch_all(&mut *conn)
        .await?;
        let ports = sqlx::query_as(
            "select p.*, a.address from ports p left join addresses a on a.port_id = p.id",
        )
        .fetch_all(&mut *conn)
        .await?;
        let bases = sqlx::query_as(
            "select p.host_id, 'base-' || p.sha256 || '.' || b.format as volume, p.present
             from host_images p join blobs b using (sha256)",
        )
        .fetch_all(&mut *conn)
        .await?;
        let networks: Vec<(HostId, Uuid)> =
            sqlx::query_as("select host_id, network_id from host_networks")
                .fetch_all(&mut *conn)
                .await?;
        let stalled = sqlx::query_as(
            "select kind, item, last_error from work where stalled_at is not null or failing_since is not null",
        )
        .fetch_all(&mut *conn)
        .await?;
        let held = sqlx::query_scalar("select count(*) from addresses where port_id is not null")
            .fetch_one(&mut *conn)
            .await?;
        let violations = sqlx::query_scalar("select what from violations").fetch_all(conn).await?;
        Ok(Self {
            instances: instances.into_iter().map(|row| (row.id, row)).collect(),
            incarnations,
            hosts: hosts.into_iter().map(|row| (row.id, row)).collect(),
            ports,
            bases,
            networks: networks.into_iter().collect(),
            stalled,
            held,
            violations,
        })
    }
}
