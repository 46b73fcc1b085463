//! The reconciler's list: what is due, who holds it, and how it went. Every write of a worker checks its epoch.

mod touch;

pub use touch::*;

use chrono::TimeDelta;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};

/// What kind of thing an item is; `as_str` is the column.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    sqlx::Type,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Kind {
    Instance,
    Host,
    /// An upload of a base image to a host.
    HostImage,
    Network,
    /// A deleted image, to be freed with its last user.
    Image,
    /// An incarnation whose instance is gone: its domain dies when the host is back.
    Fence,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Instance, Self::Host, Self::HostImage, Self::Network, Self::Image, Self::Fence];

    /// As the column has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Host => "host",
            Self::HostImage => "host_image",
            Self::Network => "network",
            Self::Image => "image",
            Self::Fence => "fence",
        }
    }
}

/// A worker's hold on an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Lease {
    pub kind: Kind,
    pub item: Uuid,
    pub epoch: i64,
    /// What `touched` was when the lease began: a later touch makes the item due again.
    pub touched: i64,
    pub attempts: i64,
    pub failing_since: Option<Time>,
    pub stalled_at: Option<Time>,
    pub lease_until: Time,
}

/// By which request the item's wish came.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Asked {
    pub request_id: Option<String>,
    /// The trace that the request was a part of.
    pub traceparent: Option<String>,
}

/// An item under lease, and who asked for it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Claimed {
    #[sqlx(flatten)]
    pub lease: Lease,
    #[sqlx(flatten)]
    pub asked: Asked,
}

/// Leases up to `limit` due items to `owner` until `now + length`. Items under a live lease are passed over. No pause but that of
/// an unused base image is longer than `longest`: what is due later than that was put there by a clock that has been set back,
/// and is due now; so is what is leased for more than twice the `length`.
///
/// Its commit does not wait for the disk: a lease that a crash of the database takes back is as one that ran out. The sequence
/// of epochs may be taken back too; the clock's microseconds, which are added, see to it that none is given a second time.
pub async fn claim(
    conn: &mut PgConnection,
    owner: Uuid,
    limit: i64,
    length: TimeDelta,
    longest: TimeDelta,
    now: Time,
) -> Result<Vec<Claimed>> {
    let claimed = sqlx::query_as(
        "update work w set lease_owner = $1, lease_until = $2, epoch = nextval('work_epoch') + $5
         from (select kind, item, set_config('synchronous_commit', 'off', true) from work
               where due_at < 'infinity' and (due_at <= $3 or due_at > $6 and kind <> 'host_image') and (lease_until is null or lease_until <= $3 or lease_until > $7)
               order by due_at limit $4 for update skip locked) due
         where w.kind = due.kind and w.item = due.item
         returning w.kind, w.item, w.epoch, w.touched, w.attempts, w.failing_since, w.stalled_at, w.lease_until,
                   w.request_id, w.traceparent",
    )
    .bind(owner)
    .bind(now + length)
    .bind(now)
    .bind(limit)
    .bind(now.timestamp_micros())
    .bind(now + longest)
    .bind(now + length * 2)
    .fetch_all(conn)
    .await?;
    Ok(claimed)
}

/// Locks the item for this transaction and fails if the lease was lost: the first statement of every write of a worker. Gives
/// until when it holds.
pub async fn guard(conn: &mut PgConnection, lease: &Lease) -> Result<Option<Time>> {
    let held: Option<Option<Time>> = sqlx::query_scalar(
        "select lease_until from work where kind = $1 and item = $2 and epoch = $3 for update",
    )
    .bind(lease.kind)
    .bind(lease.item)
    .bind(lease.epoch)
    .fetch_optional(conn)
    .await?;
    held.ok_or_else(lost)
}

/// `guard` of a transaction whose commit does not wait for the disk: of what was seen, and of what the next look finds again
/// where a crash of the database takes it back. What is committed later never survives without it.
pub async fn guard_softly(conn: &mut PgConnection, lease: &Lease) -> Result<()> {
    let held: Option<i64> = sqlx::query_scalar(
        "select epoch, set_config('synchronous_commit', 'off', true) from work
         where kind = $1 and item = $2 and epoch = $3 for update",
    )
    .bind(lease.kind)
    .bind(lease.item)
    .bind(lease.epoch)
    .fetch_optional(conn)
    .await?;
    held.map(|_| ()).ok_or_else(lost)
}

fn lost() -> Error {
    Error::conflict("lease-lost", "another worker has taken this item over")
}

/// Whose an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Still the lease's.
    Kept,
    /// Another worker's by now.
    Lost,
    /// Nobody's: it is finished with.
    Gone,
}

/// Keeps the lease until `until`.
pub async fn extend(conn: &mut PgConnection, lease: &Lease, until: Time) -> Result<Hold> {
    let kept: Option<bool> = sqlx::query_scalar(
        "with kept as (
             update work set lease_until = greatest(lease_until, $4) where kind = $1 and item = $2 and epoch = $3 returning epoch)
         select exists (select from kept) from work where kind = $1 and item = $2",
    )
    .bind(lease.kind)
    .bind(lease.item)
    .bind(lease.epoch)
    .bind(until)
    .fetch_optional(conn)
    .await?;
    Ok(match kept {
        Some(true) => Hold::Kept,
        Some(false) => Hold::Lost,
        None => Hold::Gone,
    })
}

/// How a reconcile ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// When to look again; `None`: only when touched.
    pub next: Option<Time>,
    /// What it waits for, for people.
    pub reason: Option<String>,
    pub failure: Option<Failure>,
}

/// A failed attempt, with the account after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub error: String,
    pub kind: String,
    pub at: Time,
    pub attempts: i64,
    pub failing_since: Time,
    pub stalled_at: Option<Time>,
}

/// Gives the lease back with the outcome. An item that was touched meanwhile is due at once. Its commit does not wait for the
/// disk: where a crash of the database takes it back, the lease runs out and the next holder looks anew.
pub async fn settle(
    conn: &mut PgConnection,
    lease: &Lease,
    settled: &Settled,
    now: Time,
) -> Result<bool> {
    let failure = settled.failure.as_ref();
    let done = sqlx::query(
        "with soft as materialized (select set_config('synchronous_commit', 'off', true) as set)
         update work set
             lease_owner = null, lease_until = null,
             due_at = case when touched > $4 then $5 else coalesce($6, 'infinity') end,
             reason = $7,
             attempts = coalesce($8, 0),
             failing_since = $9,
             stalled_at = $10,
             last_error = coalesce($11, last_error),
             last_error_kind = coalesce($12, last_error_kind),
             last_error_at = coalesce($13, last_error_at)
         from soft
         where soft.set = 'off' and kind = $1 and item = $2 and epoch = $3",
    )
    .bind(lease.kind)
    .bind(lease.item)
    .bind(lease.epoch)
    .bind(lease.touched)
    .bind(now)
    .bind(settled.next)
    .bind(&settled.reason)
    .bind(failure.map(|f| f.attempts))
    .bind(failure.map(|f| f.failing_since))
    .bind(failure.and_then(|f| f.stalled_at))
    .bind(failure.map(|f| f.error.as_str()))
    .bind(failure.map(|f| f.kind.as_str()))
    .bind(failure.map(|f| f.at))
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends every lease of `owner`, who ends: its items are due now, at an epoch at which it can write nothing. Gives how many.
pub async fn give_back(conn: &mut PgConnection, owner: Uuid, now: Time) -> Result<u64> {
    let done = sqlx::query(
        "update work set lease_owner = null, lease_until = null, epoch = nextval('work_epoch'),
                         due_at = least(due_at, $2)
         where lease_owner = $1",
    )
    .bind(owner)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// The item is finished with; its row goes.
pub async fn remove(conn: &mut PgConnection, kind: Kind, item: Uuid) -> Result<()> {
    sqlx::query("delete from work where kind = $1 and item = $2")
        .bind(kind)
        .bind(item)
        .execute(conn)
        .await?;
    Ok(())
}

/// The account of an item, as its resource shows it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Account {
    pub due_at: Option<Time>,
    pub attempts: i64,
    pub failing_since: Option<Time>,
    pub stalled_at: Option<Time>,
    pub reason: Option<String>,
    pub last_error: Option<String>,
    pub last_error_at: Option<Time>,
}

pub async fn account(conn: &mut PgConnection, kind: Kind, item: Uuid) -> Result<Option<Account>> {
    let account = sqlx::query_as(
        "select nullif(due_at, 'infinity') as due_at, attempts, failing_since, stalled_at, reason, last_error, last_error_at
         from work where kind = $1 and item = $2",
    )
    .bind(kind)
    .bind(item)
    .fetch_optional(conn)
    .await?;
    Ok(account)
}

/// When the next item is due; `None` if none is.
pub async fn next_due(conn: &mut PgConnection, now: Time) -> Result<Option<Time>> {
    let due = sqlx::query_scalar(
        "select min(greatest(due_at, coalesce(lease_until, $1))) from work where due_at < 'infinity'",
    )
    .bind(now)
    .fetch_one(conn)
    .await?;
    Ok(due)
}

/// The tenant that an item's events are for; `None` for what is the cloud's own.
pub async fn tenant_of(
    conn: &mut PgConnection,
    kind: Kind,
    item: Uuid,
) -> Result<Option<crate::domain::id::TenantId>> {
    let tenant = match kind {
        Kind::Instance => sqlx::query_scalar("select tenant_id from instances where id = $1"),
        Kind::Network => sqlx::query_scalar("select tenant_id from networks where id = $1"),
        Kind::Image => sqlx::query_scalar("select tenant_id from images where id = $1"),
        Kind::Fence => sqlx::query_scalar("select tenant_id from incarnations where id = $1"),
        Kind::Host | Kind::HostImage => return Ok(None),
    };
    Ok(tenant.bind(item).fetch_optional(conn).await?)
}

#[cfg(test)]
mod tests;
