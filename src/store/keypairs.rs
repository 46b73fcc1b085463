//! Keypairs in the database.

use sqlx::PgConnection;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{KeypairId, TenantId, UserId};
use crate::domain::keypair::{Keypair, PublicKey};
use crate::domain::page::Page;
use crate::domain::text::Name;

pub async fn insert(
    conn: &mut PgConnection,
    id: KeypairId,
    tenant: TenantId,
    name: &Name,
    key: &PublicKey,
    created_by: UserId,
    now: Time,
) -> Result<Keypair> {
    let keypair = sqlx::query_as(
        "insert into keypairs (id, tenant_id, name, public_key, fingerprint, created_by, created_at)
         values ($1, $2, $3, $4, $5, $6, $7)
         returning *",
    )
    .bind(id)
    .bind(tenant)
    .bind(name)
    .bind(&key.line)
    .bind(&key.fingerprint)
    .bind(created_by)
    .bind(now)
    .fetch_one(conn)
    .await?;
    Ok(keypair)
}

pub async fn get(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    id: KeypairId,
) -> Result<Option<Keypair>> {
    let keypair = sqlx::query_as(
        "select * from keypairs where id = $1 and ($2::uuid is null or tenant_id = $2)",
    )
    .bind(id)
    .bind(scope)
    .fetch_optional(conn)
    .await?;
    Ok(keypair)
}

/// The tenant's keypair of each id or name, in the order asked for; `None` where there is none.
pub async fn find(
    conn: &mut PgConnection,
    tenant: TenantId,
    names_or_ids: &[String],
) -> Result<Vec<Option<Keypair>>> {
    if names_or_ids.is_empty() {
        return Ok(Vec::new());
    }
    let found: Vec<Keypair> = sqlx::query_as(
        "select * from keypairs where tenant_id = $1 and (name = any($2) or id::text = any($2))",
    )
    .bind(tenant)
    .bind(names_or_ids)
    .fetch_all(conn)
    .await?;
    let by_id = |text: &str| found.iter().find(|keypair| keypair.id.to_string() == text);
    let by_name = |text: &str| found.iter().find(|keypair| keypair.name.as_str() == text);
    let one = |text: &String| by_id(text).or_else(|| by_name(text)).cloned();
    Ok(names_or_ids.iter().map(one).collect())
}

pub async fn list(
    conn: &mut PgConnection,
    tenant: Option<TenantId>,
    page: &Page,
    name: Option<&str>,
) -> Result<Vec<Keypair>> {
    let keypairs = sqlx::query_as(
        "select * from keypairs
         where id > $1 and ($2::uuid is null or tenant_id = $2) and ($3::text is null or name = $3)
         order by id limit $4",
    )
    .bind(page.after)
    .bind(tenant)
    .bind(name)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(keypairs)
}

/// Gives what was deleted. Instances keep their own copy of the key.
pub async fn delete(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    id: KeypairId,
) -> Result<Option<Keypair>> {
    let keypair = sqlx::query_as(
        "delete from keypairs where id = $1 and ($2::uuid is null or tenant_id = $2) returning *",
    )
    .bind(id)
    .bind(scope)
    .fetch_optional(conn)
    .await?;
    Ok(keypair)
}
