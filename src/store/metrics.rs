//! What a scrape counts: each function is one statement that an index or a small table answers.

use sqlx::PgConnection;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::HostId;

/// Events without a number are counted up to this.
const UNPUBLISHED_MAX: i64 = 10_000;

/// The work of one kind. The kind is text: a newer binary may know more of them.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Backlog {
    pub kind: String,
    pub due: i64,
    pub oldest_due_at: Option<Time>,
    pub leased: i64,
    pub scheduled: i64,
    pub failing: i64,
}

/// What is not at rest, by kind; kinds with nothing of it are left out.
pub async fn backlog(conn: &mut PgConnection, now: Time) -> Result<Vec<Backlog>> {
    let rows = sqlx::query_as(
        "select kind,
                count(*) filter (where due_at <= $1 and not leased) as due,
                min(due_at) filter (where due_at <= $1 and not leased) as oldest_due_at,
                count(*) filter (where leased) as leased,
                count(*) filter (where due_at > $1 and not leased) as scheduled,
                count(*) filter (where failing_since is not null) as failing
         from (select kind, due_at, failing_since, coalesce(lease_until > $1, false) as leased
               from work where due_at < 'infinity') w
         group by kind",
    )
    .bind(now)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// How many items are stalled, by kind.
pub async fn stalled(conn: &mut PgConnection) -> Result<Vec<(String, i64)>> {
    let rows = sqlx::query_as(
        "select kind, count(*) from work where stalled_at is not null group by kind",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// A host's health, and its capacity against what is claimed of it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct HostLoad {
    pub id: HostId,
    pub name: String,
    pub up: bool,
    pub enabled: bool,
    pub limit_vcpus: i64,
    pub used_vcpus: i64,
    pub limit_memory_mib: i64,
    pub used_memory_mib: i64,
    pub limit_disk_gib: i64,
    pub used_disk_gib: i64,
    /// As the host tells; null until it was seen.
    pub disk_gib: Option<i64>,
    pub disk_free_gib: Option<i64>,
    pub claims: i64,
    pub fences: i64,
}

pub async fn hosts(conn: &mut PgConnection) -> Result<Vec<HostLoad>> {
    let rows = sqlx::query_as(
        "select h.id, h.name, h.health = 'up' as up, h.enabled,
                h.limit_vcpus, h.used_vcpus, h.limit_memory_mib, h.used_memory_mib,
                h.limit_disk_gib, h.used_disk_gib,
                (h.facts ->> 'disk_gib')::bigint as disk_gib, (h.facts ->> 'disk_free_gib')::bigint as disk_free_gib,
                coalesce(i.claims, 0) as claims, coalesce(i.fences, 0) as fences
         from hosts h
         left join (select host_id, count(*) as claims, count(fenced_at) as fences
                    from incarnations group by host_id) i on i.host_id = h.id",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Instances by wish and by what was seen last.
pub async fn instances(conn: &mut PgConnection) -> Result<Vec<(String, String, i64)>> {
    let rows = sqlx::query_as(
        "select wanted, observed_power, count(*) from instances group by wanted, observed_power",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Whether the cloud is held, how many instances wait for room, and since when the first of them does.
pub async fn waiting(conn: &mut PgConnection) -> Result<(bool, i64, Option<Time>)> {
    let row = sqlx::query_as(
        "select exists (select from cloud where held_since is not null), count(*), min(queued_at)
         from instances where queue_tag is not null",
    )
    .fetch_one(conn)
    .await?;
    Ok(row)
}

/// What sweeps found without an owner: kind, whether it bears our stamp, how much.
pub async fn orphans(conn: &mut PgConnection) -> Result<Vec<(String, bool, i64)>> {
    let rows = sqlx::query_as("select kind, ours, count(*) from orphans group by kind, ours")
        .fetch_all(conn)
        .await?;
    Ok(rows)
}

/// How far the feed reaches, and how many events wait for their number.
pub async fn feed(conn: &mut PgConnection) -> Result<(i64, i64)> {
    let row = sqlx::query_as(
        "select last_seq, (select count(*) from (select from events where seq is null limit $1) w)
         from event_feed",
    )
    .bind(UNPUBLISHED_MAX)
    .fetch_one(conn)
    .await?;
    Ok(row)
}
