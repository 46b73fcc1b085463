//! Who is what in which tenant, in the database.

use sqlx::PgConnection;

use crate::domain::caller::Role;
use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{TenantId, UserId};
use crate::domain::page::Page;
use crate::domain::tenant::Membership;

/// Gives the user this role in the tenant, whatever it was before.
pub async fn put(
    conn: &mut PgConnection,
    tenant: TenantId,
    user: UserId,
    role: Role,
    now: Time,
) -> Result<Membership> {
    let membership = sqlx::query_as(
        "with put as (
             insert into memberships (tenant_id, user_id, role, created_at) values ($1, $2, $3, $4)
             on conflict (tenant_id, user_id) do update set role = excluded.role
             returning *)
         select put.*, u.name as user_name from put join users u on u.id = put.user_id",
    )
    .bind(tenant)
    .bind(user)
    .bind(role)
    .bind(now)
    .fetch_one(conn)
    .await?;
    Ok(membership)
}

/// The tenant's members in the order of their users' ids.
pub async fn list(
    conn: &mut PgConnection,
    tenant: TenantId,
    page: &Page,
) -> Result<Vec<Membership>> {
    let memberships = sqlx::query_as(
        "select m.*, u.name as user_name from memberships m join users u on u.id = m.user_id
         where m.tenant_id = $1 and m.user_id > $2 order by m.user_id limit $3",
    )
    .bind(tenant)
    .bind(page.after)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(memberships)
}

/// Gives what it was; `None` if the user was no member.
pub async fn delete(
    conn: &mut PgConnection,
    tenant: TenantId,
    user: UserId,
) -> Result<Option<Membership>> {
    let membership = sqlx::query_as(
        "with gone as (delete from memberships where tenant_id = $1 and user_id = $2 returning *)
         select gone.*, u.name as user_name from gone join users u on u.id = gone.user_id",
    )
    .bind(tenant)
    .bind(user)
    .fetch_optional(conn)
    .await?;
    Ok(membership)
}
