//! What sweeps found without an owner, and since when.

use sqlx::PgConnection;

use crate::domain::clock::Time;
use crate::domain::cloud::Drift;
use crate::domain::error::Result;
use crate::domain::id::{HostId, IncarnationId, InstanceId, NetworkId};
use crate::domain::page::Page;

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
    /// When somebody last tried in vain to remove it.
    pub tried_at: Option<Time>,
    pub last_error: Option<String>,
}

/// What an orphan is, by what could own it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thing {
    Domain(InstanceId),
    /// A disk, a seed, a console.
    OfIncarnation(IncarnationId),
    /// A base image, by its SHA-256.
    Base(String),
    Network(NetworkId),
}

/// Keeps owners of the thing from coming until the transaction ends; `false`: one is coming at this moment.
///
/// Incarnations need no lock: their ids are committed before anything is made, and never used again.
pub async fn lock_out(conn: &mut PgConnection, host: HostId, thing: &Thing) -> Result<bool> {
    match thing {
        Thing::OfIncarnation(_) => Ok(true),
        // The placer locks the row of whom it places.
        Thing::Domain(id) => {
            sqlx::query("select from instances where id = $1 for update")
                .bind(id)
                .execute(conn)
                .await?;
            Ok(true)
        }
        Thing::Base(sha256) => super::host_images::lock_out(conn, host, sha256).await,
        Thing::Network(id) => super::host_networks::try_lock(conn, host, *id).await,
    }
}

/// Whether the thing has an owner on the host by now. A host that is not up may be this one under another name.
pub async fn is_owned(conn: &mut PgConnection, host: HostId, thing: &Thing) -> Result<bool> {
    let (sql, id, sha256) = match thing {
        Thing::Domain(id) => (
            "select exists (select from incarnations c join hosts h on h.id = c.host_id
                            where c.instance_id = $2 and (h.id = $1 or h.health <> 'up') and $3 = '')",
            id.0,
            "",
        ),
        Thing::OfIncarnation(id) => (
            "select exists (select from incarnations where id = $2 and $1 is not null and $3 = '')",
            id.0,
            "",
        ),
        Thing::Base(sha256) => (
            "select exists (select from host_images i join hosts h on h.id = i.host_id
                            where i.sha256 = $3 and (h.id = $1 or h.health <> 'up') and $2 is not null)",
            host.0,
            sha256.as_str(),
        ),
        Thing::Network(id) => (
            "select exists (select from host_networks n join hosts h on h.id = n.host_id
                            where n.network_id = $2 and (h.id = $1 or h.health <> 'up') and $3 = '')",
            id.0,
            "",
        ),
    };
    let owned = sqlx::query_scalar(sql).bind(host).bind(id).bind(sha256).fetch_one(conn).await?;
    Ok(owned)
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

/// By kind; those that were never tried first, then whose turn is longest ago.
pub async fn on_host(conn: &mut PgConnection, host: HostId) -> Result<Vec<Orphan>> {
    let rows = sqlx::query_as(
        "select kind, name, ours, first_seen_at, last_seen_at, sightings, tried_at, last_error from orphans
         where host_id = $1 order by kind, tried_at nulls first, first_seen_at, name",
    )
    .bind(host)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Notes that it could not be removed.
pub async fn note_failure(
    conn: &mut PgConnection,
    host: HostId,
    orphan: &Orphan,
    error: &str,
    now: Time,
) -> Result<()> {
    sqlx::query(
        "update orphans set attempts = attempts + 1, tried_at = $4, last_error = $5
         where host_id = $1 and kind = $2 and name = $3",
    )
    .bind(host)
    .bind(&orphan.kind)
    .bind(&orphan.name)
    .bind(now)
    .bind(error)
    .execute(conn)
    .await?;
    Ok(())
}

/// All of the account, by an id that is made of host, kind and name.
pub async fn list(
    conn: &mut PgConnection,
    page: &Page,
    host: Option<HostId>,
) -> Result<Vec<Drift>> {
    let rows = sqlx::query_as(
        "select * from (
             select md5(o.host_id::text || ' ' || o.kind || ' ' || o.name)::uuid as id, o.host_id, h.name as host_name, o.kind, o.name,
                    case when not o.ours then 'foreign' when exists (select from cloud where held_since is not null) then 'held'
                         else 'swept' end as fate,
                    o.first_seen_at, o.last_seen_at, o.sightings, o.attempts, o.tried_at, o.last_error
             from orphans o join hosts h on h.id = o.host_id) drift
         where id > $1 and ($2::uuid is null or host_id = $2)
         order by id limit $3",
    )
    .bind(page.after)
    .bind(host)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(rows)
}
