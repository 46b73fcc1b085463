//! The queue for capacity: who waits for a host, in which order, and what placement said of it last.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{InstanceId, TenantId};
use crate::domain::instance::Unplaced;
use crate::domain::queue::{Backlog, QueuePlace};
use crate::store::work::{self, Kind};

/// Those of `ids` that still want a host, and the first `limit` of the queue. While the cloud is held, one that is older than
/// the hold may have been placed by a later state of the database, and is not placed a second time.
///
/// The transaction's commit does not wait for the disk: what is to run on a claim is started only after a later one that does.
pub async fn waiting(
    conn: &mut PgConnection,
    ids: &[InstanceId],
    limit: i64,
) -> Result<Vec<Unplaced>> {
    let rows = sqlx::query_as(
        "with asked as materialized (
             select unnest($1::uuid[]) as id
             union select id from (select id from instances where queue_tag is not null order by queue_tag, id limit $2) q)
         select i.id, i.tenant_id, i.flavor_name, i.vcpus, i.memory_mib, i.disk_gib, i.traits, i.forbidden_traits, i.zone,
                i.policy, i.group_id, i.reservation_id, i.labels::text as labels, i.expires_at, i.queued_at, i.queue_tag,
                set_config('synchronous_commit', 'off', true)
         from asked, lateral (
             select * from instances i
             where i.id = asked.id and i.wanted in ('running', 'paused')
               and not exists (select from incarnations c where c.instance_id = i.id and c.fenced_at is null)
               -- each by its key: PostgreSQL cannot know how few are asked for, and would rather read all instances
             offset 0) i
         where not exists (select from cloud where held_since > i.created_at)
         order by i.queue_tag nulls last, i.id",
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Whether it is this transaction's turn to place; it is until it ends. Nothing depends on it but how often placers take room
/// from each other: they choose by one rule, and would choose the same hosts.
pub async fn is_our_turn(conn: &mut PgConnection) -> Result<bool> {
    // "place", as a number.
    let ours = sqlx::query_scalar("select pg_try_advisory_xact_lock(482654806885)")
        .fetch_one(conn)
        .await?;
    Ok(ours)
}

/// How far the lines of the tenants that wait have come.
pub async fn backlog(conn: &mut PgConnection) -> Result<Backlog> {
    // `domain::queue::size` in SQL.
    let rows: Vec<(TenantId, f64, f64)> = sqlx::query_as(
        "select tenant_id, min(queue_tag), max(queue_tag + greatest(vcpus, memory_mib / 4096.0)::double precision)
         from instances where queue_tag is not null group by tenant_id",
    )
    .fetch_all(conn)
    .await?;
    let serving = rows.iter().map(|(_, least, _)| *least).reduce(f64::min).unwrap_or_default();
    let ends: HashMap<_, _> = rows.into_iter().map(|(tenant, _, end)| (tenant, end)).collect();
    Ok(Backlog { serving, ends })
}

/// An instance for which no host had room.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    pub id: InstanceId,
    pub tag: f64,
    /// `summary` and `would_fit_if` of placement's account.
    pub account: Value,
}

/// They wait, from now on if they did not wait before; those that are placed or want no host any more do not. One that somebody else
/// has locked is left out until it is looked at again: who holds groups must not wait for those who may wait for them.
pub async fn enter(conn: &mut PgConnection, refused: &[Refused], now: Time) -> Result<()> {
    sqlx::query(
        "with free as materialized (select id from instances where id = any($1) order by id for no key update skip locked)
         update instances i set queued_at = coalesce(i.queued_at, $4), queue_tag = coalesce(i.queue_tag, r.tag), queue_account = r.account
         from unnest($1::uuid[], $2::double precision[], $3::jsonb[]) as r(id, tag, account), free
         where i.id = r.id and i.id = free.id and i.wanted in ('running', 'paused')
           and not exists (select from incarnations c where c.instance_id = i.id and c.fenced_at is null)",
    )
    .bind(refused.iter().map(|one| one.id.0).collect::<Vec<_>>())
    .bind(refused.iter().map(|one| one.tag).collect::<Vec<_>>())
    .bind(refused.iter().map(|one| Json(&one.account)).collect::<Vec<_>>())
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// They wait no more.
pub async fn leave(conn: &mut PgConnection, ids: &[InstanceId]) -> Result<()> {
    sqlx::query(
        "update instances set queued_at = null, queue_tag = null, queue_account = null where id = any($1) and queue_tag is not null",
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Where these stand; those that do not wait are left out.
pub async fn places(
    conn: &mut PgConnection,
    ids: &[InstanceId],
) -> Result<HashMap<InstanceId, QueuePlace>> {
    type Row = (InstanceId, i64, Time, Option<Json<Vec<Value>>>);
    let rows: Vec<Row> = sqlx::query_as(
        "select q.id, q.position, i.queued_at, i.queue_account -> 'would_fit_if'
         from (select id, row_number() over (order by queue_tag, id) as position from instances where queue_tag is not null) q
         join instances i using (id) where q.id = any($1)",
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    let place = |(id, position, since, account): Row| {
        let would_fit_if = account.map(|account| account.0).unwrap_or_default();
        (id, QueuePlace { position, since, would_fit_if })
    };
    Ok(rows.into_iter().map(place).collect())
}

/// How many wait.
pub async fn length(conn: &mut PgConnection) -> Result<i64> {
    let count = sqlx::query_scalar("select count(*) from instances where queue_tag is not null")
        .fetch_one(conn)
        .await?;
    Ok(count)
}

/// Room may have come free: the first of the queue is looked at, and whoever looks at it looks at all that wait. With no lock
/// held, since their workers hold them; lost in a crash, they look again by themselves.
pub async fn wake(conn: &mut PgConnection, now: Time) -> Result<()> {
    let first: Option<Uuid> = sqlx::query_scalar(
        "select id from instances where queue_tag is not null order by queue_tag, id limit 1",
    )
    .fetch_optional(&mut *conn)
    .await?;
    match first {
        Some(first) => work::touch(conn, Kind::Instance, first, now).await,
        None => Ok(()),
    }
}
