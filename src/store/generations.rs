//! How many claims each host has seen, which its incarnations' ids bear: what bears more is of a later state of the database.

use sqlx::PgConnection;

use crate::domain::error::Result;
use crate::domain::id::HostId;

/// The highest number that anything on the host may bear. A host that is not up may be this one under another name.
pub async fn horizon(conn: &mut PgConnection, host: HostId) -> Result<i64> {
    let horizon = sqlx::query_scalar(
        "select greatest((select max(generation) from hosts where id = $1 or health <> 'up'),
                         (select generation_floor from cloud), 0)",
    )
    .bind(host)
    .fetch_one(conn)
    .await?;
    Ok(horizon)
}

/// Notes a number that was seen on the host and is too high.
pub async fn saw(conn: &mut PgConnection, host: HostId, number: i64) -> Result<()> {
    sqlx::query("update hosts set seen_generation = $2 where id = $1 and seen_generation < $2")
        .bind(host)
        .bind(number)
        .execute(conn)
        .await?;
    Ok(())
}

/// What was seen is taken for this database's own past: the counts go on from there.
pub async fn accept(conn: &mut PgConnection) -> Result<()> {
    sqlx::query("update hosts set generation = seen_generation where seen_generation > generation")
        .execute(conn)
        .await?;
    Ok(())
}

/// The host leaves: whoever is registered in its place begins where it ended.
pub async fn keep(conn: &mut PgConnection, host: HostId) -> Result<()> {
    sqlx::query(
        "update cloud set generation_floor = greatest(generation_floor, h.generation, h.seen_generation)
         from hosts h where h.id = $1 and greatest(h.generation, h.seen_generation) > generation_floor",
    )
    .bind(host)
    .execute(conn)
    .await?;
    Ok(())
}
