//! How an item becomes due: by a change, by somebody's word, or for the sake of another.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Asked, Kind, Lease};
use crate::domain::clock::Time;
use crate::domain::error::Result;

/// Makes the item due at `due`, or leaves it due earlier. In the transaction of the change that made it so.
pub async fn touch(conn: &mut PgConnection, kind: Kind, item: Uuid, due: Time) -> Result<()> {
    touch_if(conn, kind, item, due, true).await
}

/// `touch` by what was only seen: an item whose attempts fail keeps its pause, or what an attempt stirs up would bring on the next.
pub async fn hint(conn: &mut PgConnection, kind: Kind, item: Uuid, due: Time) -> Result<()> {
    touch_if(conn, kind, item, due, false).await
}

/// `failing`: also an item whose attempts fail.
async fn touch_if(
    conn: &mut PgConnection,
    kind: Kind,
    item: Uuid,
    due: Time,
    failing: bool,
) -> Result<()> {
    sqlx::query(
        "insert into work (kind, item, due_at, touched) values ($1, $2, $3, 1)
         on conflict (kind, item) do update
         set due_at = least(work.due_at, excluded.due_at), touched = work.touched + 1
         where $4 or work.attempts = 0",
    )
    .bind(kind)
    .bind(item)
    .bind(due)
    .bind(failing)
    .execute(conn)
    .await?;
    Ok(())
}

/// `touch` of many, all due now.
pub async fn touch_all(
    conn: &mut PgConnection,
    kind: Kind,
    items: &[Uuid],
    now: Time,
) -> Result<()> {
    // In one order, so that two who touch the same ones never wait for each other in a circle.
    sqlx::query(
        "insert into work (kind, item, due_at, touched) select $1, item, $3, 1 from unnest($2::uuid[]) as item order by item
         on conflict (kind, item) do update
         set due_at = least(work.due_at, excluded.due_at), touched = work.touched + 1",
    )
    .bind(kind)
    .bind(items)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Locks the item's row, where it has one, until the transaction ends. A worker's writes take the item first and its noun
/// second; whoever will touch an item whose noun they lock does the same, or the two wait for each other.
pub async fn lock(conn: &mut PgConnection, kind: Kind, item: Uuid) -> Result<()> {
    sqlx::query("select from work where kind = $1 and item = $2 for update")
        .bind(kind)
        .bind(item)
        .execute(conn)
        .await?;
    Ok(())
}

/// `touch`, and forgets past failures: somebody changed the wish, or asked to try now, by the request `asked`.
pub async fn touch_afresh(
    conn: &mut PgConnection,
    kind: Kind,
    item: Uuid,
    due: Time,
    asked: &Asked,
) -> Result<()> {
    sqlx::query(
        "insert into work (kind, item, due_at, touched, request_id, traceparent) values ($1, $2, $3, 1, $4, $5)
         on conflict (kind, item) do update
         set due_at = least(work.due_at, excluded.due_at), touched = work.touched + 1,
             attempts = 0, failing_since = null, stalled_at = null, reason = null, request_id = excluded.request_id,
             traceparent = excluded.traceparent",
    )
    .bind(kind)
    .bind(item)
    .bind(due)
    .bind(&asked.request_id)
    .bind(&asked.traceparent)
    .execute(conn)
    .await?;
    Ok(())
}

/// `item` is worked on for the sake of what `lease` holds: it is done by the same request.
pub async fn on_behalf(
    conn: &mut PgConnection,
    lease: &Lease,
    kind: Kind,
    item: Uuid,
) -> Result<()> {
    sqlx::query(
        "update work w set request_id = asker.request_id, traceparent = asker.traceparent
         from work asker
         where w.kind = $1 and w.item = $2 and asker.kind = $3 and asker.item = $4",
    )
    .bind(kind)
    .bind(item)
    .bind(lease.kind)
    .bind(lease.item)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whatever waits for a time is due now.
pub async fn hasten(conn: &mut PgConnection, now: Time) -> Result<()> {
    sqlx::query("update work set due_at = $1 where due_at < 'infinity' and due_at > $1")
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}
