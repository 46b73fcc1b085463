//! The event feed: written in the transaction of the change, numbered afterwards by one publisher.

#[cfg(test)]
mod tests;

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::event::{Event, NewEvent};
use crate::domain::id::TenantId;
use crate::domain::page::{Order, SeqPage};

/// Writes an event; it shows in the feed once it is numbered.
pub async fn insert(conn: &mut PgConnection, event: &NewEvent, now: Time) -> Result<()> {
    sqlx::query(
        "insert into events (id, at, tenant_id, kind, resource_kind, resource_id, resource_name,
                             actor_id, actor, request_id, outcome, detail)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9,
                 -- what we did about a wish belongs to the request that asked for it
                 coalesce($10, case when $11 in ('done', 'failed') then
                     (select request_id from work where kind = $5 and item = $6) end),
                 $11, $12)",
    )
    .bind(Uuid::now_v7())
    .bind(now)
    .bind(event.subject.tenant)
    .bind(event.kind)
    .bind(event.subject.kind)
    .bind(event.subject.id)
    .bind(&event.subject.name)
    .bind(event.actor.user)
    .bind(&event.actor.name)
    .bind(&event.actor.request_id)
    .bind(event.outcome)
    .bind(&event.detail)
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes many at once.
pub async fn insert_all(conn: &mut PgConnection, events: &[NewEvent], now: Time) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let texts =
        |one: &dyn Fn(&NewEvent) -> String| -> Vec<String> { events.iter().map(one).collect() };
    sqlx::query(
        "insert into events (id, at, tenant_id, kind, resource_kind, resource_id, resource_name, actor, actor_id, request_id,
                             outcome, detail)
         select e.id, $1, e.tenant_id, e.kind, e.resource_kind, e.resource_id, e.resource_name, e.actor, e.actor_id,
                (select request_id from work w where w.kind = e.resource_kind and w.item = e.resource_id), e.outcome, e.detail
         from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::uuid[], $7::text[], $8::text[], $9::text[], $10::jsonb[],
                     $11::uuid[]) as e(id, tenant_id, kind, resource_kind, resource_id, resource_name, actor, outcome, detail, actor_id)",
    )
    .bind(now)
    .bind(events.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.subject.tenant.map(|id| id.0)).collect::<Vec<_>>())
    .bind(texts(&|event| event.kind.into()))
    .bind(texts(&|event| event.subject.kind.into()))
    .bind(events.iter().map(|event| event.subject.id).collect::<Vec<_>>())
    .bind(texts(&|event| event.subject.name.clone()))
    .bind(texts(&|event| event.actor.name.clone()))
    .bind(texts(&|event| event.outcome.as_str().into()))
    .bind(events.iter().map(|event| Json(&event.detail)).collect::<Vec<_>>())
    .bind(events.iter().map(|event| event.actor.user.map(|user| user.0)).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Numbers committed events until none is left, 1,000 at a time; gives how far the feed reaches. Safe in several processes at
/// once: the row of `event_feed` is the lock, so that numbers become visible in their order. (A bare sequence would let a
/// reader skip a late commit.)
pub async fn publish(conn: &mut PgConnection) -> Result<i64> {
    loop {
        // Looking takes no lock and writes nothing, so that an idle publisher costs nothing.
        let (last, fresh): (i64, bool) = sqlx::query_as(
            "select last_seq, exists (select from events where seq is null) from event_feed",
        )
        .fetch_one(&mut *conn)
        .await?;
        if !fresh {
            return Ok(last);
        }
        sqlx::query("select number_events(1000)").execute(&mut *conn).await?;
    }
}

/// What a reader of the feed asks for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// `None`: all tenants and the cloud's own events.
    pub tenant: Option<TenantId>,
    pub resource: Option<Uuid>,
    pub kind: Option<String>,
}

/// The events of a page, in its order; one more than its limit, if there are as many.
pub async fn list(conn: &mut PgConnection, filter: &Filter, page: &SeqPage) -> Result<Vec<Event>> {
    let sql = match page.order {
        Order::Asc => {
            "select * from events
             where seq > $1 and seq < $2
               and ($3::uuid is null or tenant_id = $3)
               and ($4::uuid is null or resource_id = $4)
               and ($5::text is null or kind = $5)
             order by seq limit $6"
        }
        Order::Desc => {
            "select * from events
             where seq > $1 and seq < $2
               and ($3::uuid is null or tenant_id = $3)
               and ($4::uuid is null or resource_id = $4)
               and ($5::text is null or kind = $5)
             order by seq desc limit $6"
        }
    };
    let events = sqlx::query_as(sql)
        .bind(page.after)
        .bind(page.before)
        .bind(filter.tenant)
        .bind(filter.resource)
        .bind(&filter.kind)
        .bind(page.fetch())
        .fetch_all(conn)
        .await?;
    Ok(events)
}

/// How far the feed reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Reach {
    /// The number of the newest event; 0 if there was none yet.
    pub last_seq: i64,
    /// Retention has removed events up to this one.
    pub forgotten_seq: i64,
}

pub async fn reach(conn: &mut PgConnection) -> Result<Reach> {
    let reach =
        sqlx::query_as("select last_seq, forgotten_seq from event_feed").fetch_one(conn).await?;
    Ok(reach)
}

/// Forgets up to 1,000 events of before `before`; gives how many.
pub async fn forget(conn: &mut PgConnection, before: Time) -> Result<u64> {
    let done = sqlx::query_scalar::<_, i64>(
        "with gone as (
             delete from events where id in
                 (select id from events where at < $1 and seq is not null order by seq limit 1000)
             returning seq
         ), noted as (
             update event_feed set forgotten_seq = greatest(forgotten_seq, (select max(seq) from gone))
             where exists (select from gone)
         )
         select count(*) from gone",
    )
    .bind(before)
    .fetch_one(conn)
    .await?;
    Ok(done.unsigned_abs())
}
