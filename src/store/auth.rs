//! Credentials in the database.

use sqlx::PgConnection;

use crate::domain::caller::{Caller, Role};
use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{TenantId, TokenId, UserId};

#[derive(sqlx::FromRow)]
struct Row {
    user_id: UserId,
    user_name: String,
    admin: bool,
    token_id: TokenId,
    tenant_id: Option<TenantId>,
    role: Option<Role>,
    token_role: Option<Role>,
}

/// The caller behind the API token of this SHA-256; `None` if it is unknown, expired, or its user is disabled.
pub async fn caller_of_token(
    conn: &mut PgConnection,
    hash: &[u8],
    now: Time,
) -> Result<Option<Caller>> {
    let row: Option<Row> = sqlx::query_as(
        "select u.id as user_id, u.name as user_name, u.admin, t.id as token_id, t.tenant_id, m.role, t.role as token_role
         from api_tokens t
         join users u on u.id = t.user_id and u.enabled
         left join memberships m on m.user_id = u.id and m.tenant_id = t.tenant_id
         where t.hash = $1 and (t.expires_at is null or t.expires_at > $2)",
    )
    .bind(hash)
    .bind(now)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Caller {
        user: row.user_id,
        user_name: row.user_name,
        tenant: row.tenant_id,
        // A token with a role of its own is meant to be weaker than its user, an admin included.
        role: match row.token_role {
            Some(most) => row.role.map(|role| role.min(most)),
            None => row.role,
        },
        admin: row.admin && row.token_role.is_none(),
        token: Some(row.token_id),
        request_id: String::new(),
        idempotency_key: None,
    }))
}
