//! Tenants, their quota and its use, in the database.

use sqlx::PgConnection;

use crate::domain::clock::Time;
use crate::domain::error::Result;
use crate::domain::id::{TenantId, UserId};
use crate::domain::page::Page;
use crate::domain::tenant::{Quota, Tenant, Usage};
use crate::domain::text::Name;

pub async fn insert(
    conn: &mut PgConnection,
    id: TenantId,
    name: &Name,
    description: &str,
    quota: &Quota,
    now: Time,
) -> Result<Tenant> {
    let tenant = sqlx::query_as(
        "insert into tenants (id, name, description, quota_instances, quota_vcpus, quota_memory_mib, quota_disk_gib,
                              quota_networks, quota_images, quota_image_mib, quota_keypairs, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         returning *",
    )
    .bind(id)
    .bind(name)
    .bind(description)
    .bind(quota.instances)
    .bind(quota.vcpus)
    .bind(quota.memory_mib)
    .bind(quota.disk_gib)
    .bind(quota.networks)
    .bind(quota.images)
    .bind(quota.image_mib)
    .bind(quota.keypairs)
    .bind(now)
    .fetch_one(conn)
    .await?;
    Ok(tenant)
}

/// Who looks at tenants: an admin sees all, others those that they are members of (with an API token, only the token's).
#[derive(Debug, Clone, Copy)]
pub struct Viewer {
    pub admin: bool,
    pub user: UserId,
    pub only: Option<TenantId>,
}

pub async fn get(conn: &mut PgConnection, viewer: Viewer, id: TenantId) -> Result<Option<Tenant>> {
    let tenant = sqlx::query_as(
        "select t.* from tenants t
         where t.id = $4
           and ($1 or exists (select from memberships m where m.tenant_id = t.id and m.user_id = $2))
           and ($3::uuid is null or t.id = $3)",
    )
    .bind(viewer.admin)
    .bind(viewer.user)
    .bind(viewer.only)
    .bind(id)
    .fetch_optional(conn)
    .await?;
    Ok(tenant)
}

pub async fn list(
    conn: &mut PgConnection,
    viewer: Viewer,
    page: &Page,
    name: Option<&str>,
) -> Result<Vec<Tenant>> {
    let tenants = sqlx::query_as(
        "select t.* from tenants t
         where t.id > $4
           and ($1 or exists (select from memberships m where m.tenant_id = t.id and m.user_id = $2))
           and ($3::uuid is null or t.id = $3)
           and ($5::text is null or t.name = $5)
         order by t.id limit $6",
    )
    .bind(viewer.admin)
    .bind(viewer.user)
    .bind(viewer.only)
    .bind(page.after)
    .bind(name)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(tenants)
}

pub async fn find_by_name(conn: &mut PgConnection, name: &str) -> Result<Option<Tenant>> {
    let tenant = sqlx::query_as("select * from tenants where name = $1")
        .bind(name)
        .fetch_optional(conn)
        .await?;
    Ok(tenant)
}

/// The tenant, locked until the transaction ends: others who would add to its use, or change or delete it, wait.
pub async fn lock(conn: &mut PgConnection, id: TenantId) -> Result<Option<Tenant>> {
    let tenant = sqlx::query_as("select * from tenants where id = $1 for no key update")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    Ok(tenant)
}

/// A tenant that is locked: what it may have, and what it has.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Held {
    pub name: Name,
    #[sqlx(flatten)]
    pub quota: Quota,
    #[sqlx(flatten)]
    pub usage: Usage,
}

/// Locks the tenant for what many do at once, after they inserted their rows: they queue for it one behind the other, where at
/// the row they would all wake whenever one of them is done. Whoever has inserted nothing yet uses `lock`: it would wait for a
/// delete of the tenant, which waits for those who have, who would wait for their turn.
pub async fn hold_in_turn(conn: &mut PgConnection, id: TenantId) -> Result<Option<Held>> {
    let held = sqlx::query_as("select * from tenant_use_in_turn($1)").bind(id);
    Ok(held.fetch_optional(conn).await?)
}

/// The same to delete it: also whoever adds to it without having counted yet is waited for, before anything is held.
pub async fn lock_to_delete(conn: &mut PgConnection, id: TenantId) -> Result<Option<Tenant>> {
    let tenant = sqlx::query_as("select * from tenants where id = $1 for update")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    Ok(tenant)
}

/// Sets description and quota, and counts the change.
pub async fn update(
    conn: &mut PgConnection,
    id: TenantId,
    description: &str,
    quota: &Quota,
) -> Result<Tenant> {
    let tenant = sqlx::query_as(
        "update tenants
         set description = $2, quota_instances = $3, quota_vcpus = $4, quota_memory_mib = $5, quota_disk_gib = $6,
             quota_networks = $7, quota_images = $8, quota_image_mib = $9, quota_keypairs = $10, revision = revision + 1
         where id = $1
         returning *",
    )
    .bind(id)
    .bind(description)
    .bind(quota.instances)
    .bind(quota.vcpus)
    .bind(quota.memory_mib)
    .bind(quota.disk_gib)
    .bind(quota.networks)
    .bind(quota.images)
    .bind(quota.image_mib)
    .bind(quota.keypairs)
    .fetch_one(conn)
    .await?;
    Ok(tenant)
}

/// Removes an empty tenant and its memberships; what it still owns is a `Conflict` by its foreign keys.
pub async fn delete(conn: &mut PgConnection, id: TenantId) -> Result<bool> {
    for also in [
        "delete from memberships where tenant_id = $1",
        "delete from instance_use where tenant_id = $1",
    ] {
        sqlx::query(also).bind(id).execute(&mut *conn).await?;
    }
    let done = sqlx::query("delete from tenants where id = $1").bind(id).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}

pub async fn quota(conn: &mut PgConnection, id: TenantId) -> Result<Option<Quota>> {
    let quota = sqlx::query_as("select * from tenants where id = $1").bind(id).fetch_optional(conn);
    Ok(quota.await?)
}

/// What the tenant uses of its quota; a reservation's slots without an instance are used, too. To decide by it, `lock` the
/// tenant first.
pub async fn usage(conn: &mut PgConnection, tenant: TenantId) -> Result<Usage> {
    let usage = sqlx::query_as("select * from tenant_use($1)").bind(tenant).fetch_one(conn).await?;
    Ok(usage)
}
