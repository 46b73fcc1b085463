//! What sweeps found without an owner, and since when.

use sqlx::PgConnection;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::HostId;

/// A thing on a host that nobody owns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// `domain`, `volume`, `network` or `console`.
    pub kind: &'static str,
    pub name: String,
    /// It bears our stamp: it may be removed. Otherwise it is drift, which is reported and never touched.
    pub ours: bool,
}

/// A row of the account.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Orphan {
    pub kind: String,
    pub name: String,
    pub ours: bool,
    pub first_seen_at: Time,
    pub last_seen_at: Time,
    pub sightings: i64,
}

/// Lets one sweep of the host run at a time among all processes, until the transaction ends; `false`: another one does.
pub async fn try_lock(conn: &mut PgConnection, host: HostId) -> Result<bool> {
    let held = sqlx::query_scalar(
        "select pg_try_advisory_xact_lock(hashtextextended('sweep ' || $1::text, 0))",
    )
    .bind(host)
    .fetch_one(conn)
    .await?;
    Ok(held)
}

/// Notes this sweep's findings and forgets what it no longer found. Writes nothing where there is nothing.
pub async fn note(conn: &mut PgConnection, host: HostId, found: &[Found], now: Time) -> Result<()> {
    if !found.is_empty() {
        sqlx::query(
            "insert into orphans (host_id, kind, name, ours, first_seen_at, last_seen_at)
             select $1, kind, name, ours, $5, $5 from unnest($2::text[], $3::text[], $4::bool[]) as f (kind, name, ours)
             on conflict (host_id, kind, name) do update
             set last_seen_at = excluded.last_seen_at, sightings = orphans.sightings + 1, ours = excluded.ours",
        )
        .bind(host)
        .bind(found.iter().map(|f| f.kind.to_owned()).collect::<Vec<_>>())
        .bind(found.iter().map(|f| f.name.clone()).collect::<Vec<_>>())
        .bind(found.iter().map(|f| f.ours).collect::<Vec<_>>())
        .bind(now)
        .execute(&mut *conn)
        .await?;
    }
    sqlx::query("delete from orphans where host_id = $1 and last_seen_at < $2")
        .bind(host)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn on_host(conn: &mut PgConnection, host: HostId) -> Result<Vec<Orphan>> {
    let rows = sqlx::query_as(
        "select kind, name, ours, first_seen_at, last_seen_at, sightings from orphans where host_id = $1 order by kind, first_seen_at, name",
    )
    .bind(host)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}
