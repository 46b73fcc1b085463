//! Instances by the host that they are on.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::error::Result;
use crate::domain::id::{HostId, IncarnationId, InstanceId};
use crate::domain::instance::{Power, Wanted};

/// What a scan of a host compares with the domains that it found there.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Resting {
    pub id: InstanceId,
    pub incarnation_id: IncarnationId,
    pub wanted: Wanted,
    pub boot: i64,
    pub observed_power: Power,
    /// It is as it was wished to be, and whoever looks at it next is a signal, a scan, or somebody who waits for its guest.
    pub rests: bool,
}

pub async fn on_host(conn: &mut PgConnection, host: HostId) -> Result<Vec<Resting>> {
    let resting = sqlx::query_as(
        "select i.id, c.id as incarnation_id, i.wanted, i.boot, i.observed_power,
                coalesce(w.due_at = 'infinity' or w.attempts = 0 and w.lease_until is null and i.observed_revision = i.revision,
                         true) as rests
         from incarnations c
         join instances i on i.id = c.instance_id
         left join work w on w.kind = 'instance' and w.item = i.id
         where c.host_id = $1 and c.fenced_at is null",
    )
    .bind(host)
    .fetch_all(conn)
    .await?;
    Ok(resting)
}

pub async fn is_on_host(conn: &mut PgConnection, id: InstanceId, host: HostId) -> Result<bool> {
    let found = sqlx::query_scalar(
        "select exists (select from incarnations where instance_id = $1 and host_id = $2 and fenced_at is null)",
    )
    .bind(id)
    .bind(host)
    .fetch_one(conn)
    .await?;
    Ok(found)
}

/// Instances that wait for a base image on a host: to be looked at when it is there.
pub async fn waiting_for_image(
    conn: &mut PgConnection,
    host: HostId,
    sha256: &str,
) -> Result<Vec<Uuid>> {
    let ids = sqlx::query_scalar(
        "select i.id from incarnations c
         join instances i on i.id = c.instance_id
         join images m on m.id = i.image_id and m.sha256 = $2
         where c.host_id = $1 and c.fenced_at is null and i.observed_power = 'none' and i.wanted in ('running', 'paused')",
    )
    .bind(host)
    .bind(sha256)
    .fetch_all(conn)
    .await?;
    Ok(ids)
}
