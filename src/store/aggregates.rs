//! Aggregates in the database: hosts that are dedicated to tenants.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::aggregate::{Aggregate, AggregatePatch};
use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{AggregateId, HostId, TenantId};
use crate::domain::page::Page;
use crate::domain::text::Name;

macro_rules! aggregates {
    ($rest:literal) => {
        concat!(
            "select a.id, a.name, a.description, a.created_at, a.revision,
                    array(select host_id from aggregate_hosts h where h.aggregate_id = a.id order by 1) as hosts,
                    array(select tenant_id from aggregate_tenants t where t.aggregate_id = a.id order by 1) as tenants
             from aggregates a where ",
            $rest
        )
    };
}

pub async fn insert(
    conn: &mut PgConnection,
    id: AggregateId,
    name: &Name,
    now: Time,
) -> Result<()> {
    sqlx::query("insert into aggregates (id, name, created_at) values ($1, $2, $3)")
        .bind(id)
        .bind(name)
        .bind(now)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn get(conn: &mut PgConnection, id: AggregateId) -> Result<Option<Aggregate>> {
    let aggregate = sqlx::query_as(aggregates!("a.id = $1")).bind(id).fetch_optional(conn).await?;
    Ok(aggregate)
}

/// The same, held against other changes until the transaction ends.
pub async fn get_locked(conn: &mut PgConnection, id: AggregateId) -> Result<Option<Aggregate>> {
    sqlx::query("select from aggregates where id = $1 for update")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    get(conn, id).await
}

pub async fn list(
    conn: &mut PgConnection,
    page: &Page,
    name: Option<&str>,
) -> Result<Vec<Aggregate>> {
    let aggregates = sqlx::query_as(aggregates!(
        "a.id > $1 and ($2::text is null or a.name = $2) order by a.id limit $3"
    ))
    .bind(page.after)
    .bind(name)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(aggregates)
}

/// Changes what is given. The revision counts up where `counts`.
pub async fn update(
    conn: &mut PgConnection,
    id: AggregateId,
    patch: &AggregatePatch,
    counts: bool,
) -> Result<()> {
    sqlx::query(
        "update aggregates set description = coalesce($2, description), revision = revision + $3::int where id = $1",
    )
    .bind(id)
    .bind(&patch.description)
    .bind(counts)
    .execute(&mut *conn)
    .await?;
    note(conn, id).await?;
    if let Some(hosts) = &patch.hosts {
        sqlx::query("delete from aggregate_hosts where aggregate_id = $1")
            .bind(id)
            .execute(&mut *conn)
            .await?;
        sqlx::query("insert into aggregate_hosts select $1, unnest($2::uuid[])")
            .bind(id)
            .bind(hosts.iter().map(|host| host.0).collect::<Vec<_>>())
            .execute(&mut *conn)
            .await?;
    }
    if let Some(tenants) = &patch.tenants {
        sqlx::query("delete from aggregate_tenants where aggregate_id = $1")
            .bind(id)
            .execute(&mut *conn)
            .await?;
        sqlx::query("insert into aggregate_tenants select $1, unnest($2::uuid[])")
            .bind(id)
            .bind(tenants.iter().map(|tenant| tenant.0).collect::<Vec<_>>())
            .execute(&mut *conn)
            .await?;
    }
    note(conn, id).await
}

pub async fn delete(conn: &mut PgConnection, id: AggregateId) -> Result<()> {
    note(conn, id).await?;
    sqlx::query("delete from aggregates where id = $1").bind(id).execute(conn).await?;
    Ok(())
}

/// Placement is to look at its hosts again: see `fleet`.
async fn note(conn: &mut PgConnection, id: AggregateId) -> Result<()> {
    sqlx::query(
        "with mine as materialized (
             select h.id from hosts h where h.id in (select host_id from aggregate_hosts where aggregate_id = $1)
             order by h.id for no key update)
         update hosts set changed_by = pg_current_xact_id() where id in (select id from mine)",
    )
    .bind(id)
    .execute(conn)
    .await?;
    Ok(())
}

/// Those of `ids` that are no hosts.
pub async fn unknown_hosts(conn: &mut PgConnection, ids: &[HostId]) -> Result<Vec<Uuid>> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    let unknown = sqlx::query_scalar(
        "select id from unnest($1::uuid[]) as a(id) where not exists (select from hosts h where h.id = a.id)",
    )
    .bind(ids)
    .fetch_all(conn)
    .await?;
    Ok(unknown)
}

/// Those of `ids` that are no tenants.
pub async fn unknown_tenants(conn: &mut PgConnection, ids: &[TenantId]) -> Result<Vec<Uuid>> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    let unknown = sqlx::query_scalar(
        "select id from unnest($1::uuid[]) as a(id) where not exists (select from tenants t where t.id = a.id)",
    )
    .bind(ids)
    .fetch_all(conn)
    .await?;
    Ok(unknown)
}
