//! Credentials in the database: what a login, a JWT and an API token are checked against.

use chrono::TimeDelta;
use sqlx::PgConnection;

use crate::domain::auth::TenantName;
use crate::domain::caller::{Caller, Role};
use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{TenantId, TokenId, UserId};

/// What a password is checked against.
#[derive(Clone, sqlx::FromRow)]
pub struct Credentials {
    pub id: UserId,
    pub name: String,
    pub password_hash: String,
    pub admin: bool,
    pub enabled: bool,
    pub tokens_valid_from: Time,
}

pub async fn credentials(conn: &mut PgConnection, user: &str) -> Result<Option<Credentials>> {
    let found = sqlx::query_as(
        "select id, name, password_hash, admin, enabled, tokens_valid_from from users where name = $1",
    )
    .bind(user)
    .fetch_optional(conn)
    .await?;
    Ok(found)
}

/// A tenant that a user may act in; `role` is none where an admin has no membership.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Choice {
    #[sqlx(flatten)]
    pub tenant: TenantName,
    pub role: Option<Role>,
}

/// The tenant that the user has been a member of for longest.
pub async fn home(conn: &mut PgConnection, user: UserId) -> Result<Option<Choice>> {
    let choice = sqlx::query_as(
        "select t.id, t.name, m.role from memberships m join tenants t on t.id = m.tenant_id
         where m.user_id = $1 order by m.created_at, t.id limit 1",
    )
    .bind(user)
    .fetch_optional(conn)
    .await?;
    Ok(choice)
}

/// The tenant of this id or name, where the user is a member of it or an admin.
pub async fn choose(
    conn: &mut PgConnection,
    user: UserId,
    admin: bool,
    id_or_name: &str,
) -> Result<Option<Choice>> {
    let choice = sqlx::query_as(
        "select t.id, t.name, m.role
         from tenants t left join memberships m on m.tenant_id = t.id and m.user_id = $1
         where (t.id::text = $3 or t.name = $3) and ($2 or m.user_id is not null)
         order by t.id::text = $3 desc limit 1",
    )
    .bind(user)
    .bind(admin)
    .bind(id_or_name)
    .fetch_optional(conn)
    .await?;
    Ok(choice)
}

pub async fn tenant_name(conn: &mut PgConnection, id: TenantId) -> Result<Option<TenantName>> {
    let name = sqlx::query_as("select id, name from tenants where id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    Ok(name)
}

/// How a user stands now, whatever was true when the token was issued.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Standing {
    pub user_name: String,
    pub admin: bool,
    pub tokens_valid_from: Time,
    pub tenant_exists: bool,
    pub role: Option<Role>,
}

/// `None` if there is no such user, or a disabled one.
pub async fn standing(
    conn: &mut PgConnection,
    user: UserId,
    tenant: Option<TenantId>,
) -> Result<Option<Standing>> {
    let standing = sqlx::query_as(
        "select u.name as user_name, u.admin, u.tokens_valid_from, t.id is not null as tenant_exists, m.role
         from users u
         left join tenants t on t.id = $2
         left join memberships m on m.user_id = u.id and m.tenant_id = t.id
         where u.id = $1 and u.enabled",
    )
    .bind(user)
    .bind(tenant)
    .fetch_optional(conn)
    .await?;
    Ok(standing)
}

#[derive(sqlx::FromRow)]
struct Row {
    user_id: UserId,
    user_name: String,
    admin: bool,
    token_id: TokenId,
    tenant_id: Option<TenantId>,
    role: Option<Role>,
    token_role: Option<Role>,
    expires_at: Option<Time>,
    last_used_at: Option<Time>,
}

/// The caller behind the API token of this SHA-256, and when the token ends; `None` if it is unknown, expired, its user is
/// disabled or no longer a member of its tenant. Notes the use, once a minute at most.
pub async fn caller_of_token(
    conn: &mut PgConnection,
    hash: &[u8],
    now: Time,
) -> Result<Option<(Caller, Option<Time>)>> {
    let row: Option<Row> = sqlx::query_as(
        "select u.id as user_id, u.name as user_name, u.admin, t.id as token_id, t.tenant_id, m.role,
                t.role as token_role, t.expires_at, t.last_used_at
         from api_tokens t
         join users u on u.id = t.user_id and u.enabled
         left join memberships m on m.user_id = u.id and m.tenant_id = t.tenant_id
         where t.hash = $1 and (t.expires_at is null or t.expires_at > $2)
           and (t.tenant_id is null or m.user_id is not null or u.admin)",
    )
    .bind(hash)
    .bind(now)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let noted_before = now - TimeDelta::minutes(1);
    if row.last_used_at.is_none_or(|at| at < noted_before) {
        sqlx::query(
            "update api_tokens set last_used_at = $2
             where id = $1 and (last_used_at is null or last_used_at < $3)",
        )
        .bind(row.token_id)
        .bind(now)
        .bind(noted_before)
        .execute(conn)
        .await?;
    }
    let caller = Caller {
        user: row.user_id,
        user_name: row.user_name,
        tenant: row.tenant_id,
        // A token with a role of its own is meant to be weaker than its user, an admin included.
        role: match row.token_role {
            Some(most) if row.admin => row.tenant_id.map(|_| most),
            Some(most) => row.role.map(|role| role.min(most)),
            None => row.role,
        },
        admin: row.admin && row.token_role.is_none(),
        token: Some(row.token_id),
        request_id: String::new(),
        idempotency_key: None,
    };
    Ok(Some((caller, row.expires_at)))
}
