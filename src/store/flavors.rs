//! Flavors in the database.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::flavor::{Flavor, NewFlavor};
use crate::domain::id::FlavorId;
use crate::domain::page::{LIMIT_MAX, Page};
use crate::domain::text::Name;

pub async fn insert(
    conn: &mut PgConnection,
    id: FlavorId,
    name: &Name,
    new: &NewFlavor,
    now: Time,
) -> Result<Flavor> {
    let flavor = sqlx::query_as(
        "insert into flavors (id, name, vcpus, memory_mib, disk_gib, traits, created_at, policy)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         returning *",
    )
    .bind(id)
    .bind(name)
    .bind(new.vcpus)
    .bind(new.memory_mib)
    .bind(new.disk_gib)
    .bind(&new.traits)
    .bind(now)
    .bind(new.policy)
    .fetch_one(conn)
    .await?;
    Ok(flavor)
}

pub async fn get(conn: &mut PgConnection, id: FlavorId) -> Result<Option<Flavor>> {
    let flavor =
        sqlx::query_as("select * from flavors where id = $1").bind(id).fetch_optional(conn).await?;
    Ok(flavor)
}

/// As many as a page has at most.
pub async fn first(conn: &mut PgConnection) -> Result<Vec<Flavor>> {
    list(conn, &Page { limit: LIMIT_MAX, after: Uuid::nil() }, None).await
}

/// Flavors are named in scripts: by id or by name.
pub async fn find(conn: &mut PgConnection, id_or_name: &str) -> Result<Option<Flavor>> {
    let flavor = sqlx::query_as("select * from flavors where id::text = $1 or name = $1 order by id::text = $1 desc limit 1")
        .bind(id_or_name)
        .fetch_optional(conn)
        .await?;
    Ok(flavor)
}

pub async fn list(conn: &mut PgConnection, page: &Page, name: Option<&str>) -> Result<Vec<Flavor>> {
    let flavors = sqlx::query_as(
        "select * from flavors where id > $1 and ($2::text is null or name = $2) order by id limit $3",
    )
    .bind(page.after)
    .bind(name)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(flavors)
}

/// Instances keep their own copy of the flavor, so that none of them changes.
pub async fn delete(conn: &mut PgConnection, id: FlavorId) -> Result<bool> {
    let done = sqlx::query("delete from flavors where id = $1").bind(id).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}
