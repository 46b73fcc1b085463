//! Instances whose time comes.

use sqlx::PgConnection;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::InstanceId;

/// Instances whose time has come and that are not being deleted yet.
pub async fn expired(conn: &mut PgConnection, now: Time, limit: i64) -> Result<Vec<InstanceId>> {
    let ids = sqlx::query_scalar(
        "select id from instances where expires_at <= $1 and wanted <> 'deleted' order by expires_at limit $2",
    )
    .bind(now)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(ids)
}

/// When the next instance's or reservation's time comes.
pub async fn next_end(conn: &mut PgConnection, now: Time) -> Result<Option<Time>> {
    let next = sqlx::query_scalar(
        "select least((select min(expires_at) from instances where expires_at > $1), (select min(expires_at) from reservations))",
    )
    .bind(now)
    .fetch_one(conn)
    .await?;
    Ok(next)
}
