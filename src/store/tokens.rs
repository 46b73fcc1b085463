//! API tokens in the database: prefix and hash, never the secret.

use sqlx::PgConnection;

use crate::domain::caller::Role;
use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{TenantId, TokenId, UserId};
use crate::domain::page::Page;
use crate::domain::text::Name;
use crate::domain::token::ApiToken;

/// A token to be kept.
pub struct Row<'a> {
    pub id: TokenId,
    pub user: UserId,
    pub tenant: Option<TenantId>,
    pub name: &'a Name,
    pub prefix: &'a str,
    /// SHA-256 of the secret.
    pub hash: &'a [u8],
    pub role: Option<Role>,
    pub expires_at: Option<Time>,
}

pub async fn insert(conn: &mut PgConnection, row: &Row<'_>, now: Time) -> Result<ApiToken> {
    let token = sqlx::query_as(
        "insert into api_tokens (id, user_id, tenant_id, name, prefix, hash, role, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         returning *",
    )
    .bind(row.id)
    .bind(row.user)
    .bind(row.tenant)
    .bind(row.name)
    .bind(row.prefix)
    .bind(row.hash)
    .bind(row.role)
    .bind(now)
    .bind(row.expires_at)
    .fetch_one(conn)
    .await?;
    Ok(token)
}

/// Locks the user, so that two tokens are not counted at once, and gives how many they have.
pub async fn lock_and_count(conn: &mut PgConnection, user: UserId) -> Result<i64> {
    sqlx::query("select id from users where id = $1 for no key update")
        .bind(user)
        .execute(&mut *conn)
        .await?;
    let count = sqlx::query_scalar("select count(*) from api_tokens where user_id = $1")
        .bind(user)
        .fetch_one(conn)
        .await?;
    Ok(count)
}

/// Whose tokens: the user's own. A token with a role of its own was made weak on purpose, and sees itself alone.
#[derive(Debug, Clone, Copy)]
pub struct Viewer {
    pub user: UserId,
    pub token: Option<TokenId>,
}

pub async fn get(conn: &mut PgConnection, viewer: Viewer, id: TokenId) -> Result<Option<ApiToken>> {
    let token = sqlx::query_as(
        "select * from api_tokens
         where user_id = $1
           and ($2::uuid is null or id = $2 or exists (select from api_tokens where id = $2 and role is null))
           and id = $3",
    )
    .bind(viewer.user)
    .bind(viewer.token)
    .bind(id)
    .fetch_optional(conn)
    .await?;
    Ok(token)
}

pub async fn list(conn: &mut PgConnection, viewer: Viewer, page: &Page) -> Result<Vec<ApiToken>> {
    let tokens = sqlx::query_as(
        "select * from api_tokens
         where user_id = $1
           and ($2::uuid is null or id = $2 or exists (select from api_tokens where id = $2 and role is null))
           and id > $3
         order by id limit $4",
    )
    .bind(viewer.user)
    .bind(viewer.token)
    .bind(page.after)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(tokens)
}

pub async fn delete(conn: &mut PgConnection, id: TokenId) -> Result<bool> {
    let done = sqlx::query("delete from api_tokens where id = $1").bind(id).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}

/// Removes up to 1,000 tokens that ended before `before`; gives how many.
pub async fn forget(conn: &mut PgConnection, before: Time) -> Result<u64> {
    let done = sqlx::query(
        "delete from api_tokens where id in (select id from api_tokens where expires_at < $1 limit 1000)",
    )
    .bind(before)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
