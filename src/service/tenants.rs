//! Tenants: made, changed and removed by admins; their members see them, with quota and use.

use serde_json::json;
use uuid::Uuid;

use super::authorize::authorize;
use super::flavors::same_revision;
use super::{App, Begin, quota};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::id::TenantId;
use crate::domain::page::Page;
use crate::domain::tenant::{NewTenant, Tenant, TenantPatch};
use crate::store;
use crate::store::tenants::Viewer;

pub async fn create(app: &App, caller: &Caller, new: &NewTenant) -> Result<Tenant> {
    authorize(caller, "create_tenant")?;
    let name = new.check()?;
    let mut write = match app.begin(caller, "create_tenant", new).await? {
        Begin::Replay(tenant) => return Ok(tenant),
        Begin::Fresh(write) => write,
    };
    let (id, now) = (TenantId(Uuid::now_v7()), write.now);
    let quota = new.quota.over(quota::defaults(app));
    let tenant =
        store::tenants::insert(write.conn(), id, &name, &new.description, &quota, now).await?;
    write.done("tenant.create", subject(&tenant), json!({ "quota": quota })).await?;
    write.commit(&tenant).await?;
    Ok(tenant)
}

/// The caller's tenants; all of them for an admin.
pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    name: Option<&str>,
) -> Result<(Vec<Tenant>, Option<String>)> {
    authorize(caller, "list_tenants")?;
    let rows = store::tenants::list(&mut *app.conn().await?, viewer(caller), page, name).await?;
    Ok(page.cut(rows, |tenant| tenant.id.0))
}

/// With its use.
pub async fn get(app: &App, caller: &Caller, id: TenantId) -> Result<Tenant> {
    authorize(caller, "get_tenant")?;
    let mut conn = app.conn().await?;
    let tenant = store::tenants::get(&mut conn, viewer(caller), id).await?;
    let mut tenant = tenant.ok_or_else(|| Error::not_found("tenant", id))?;
    tenant.usage = Some(store::tenants::usage(&mut conn, id).await?);
    Ok(tenant)
}

pub async fn update(
    app: &App,
    caller: &Caller,
    id: TenantId,
    patch: &TenantPatch,
    if_match: Option<i64>,
) -> Result<Tenant> {
    authorize(caller, "update_tenant")?;
    patch.check()?;
    let mut write = match app.begin(caller, "update_tenant", &(id, patch)).await? {
        Begin::Replay(tenant) => return Ok(tenant),
        Begin::Fresh(write) => write,
    };
    let before = as_seen(store::tenants::lock(write.conn(), id).await?, id, if_match)?;
    let description = patch.description.as_ref().unwrap_or(&before.description);
    let quota = patch.quota.over(before.quota);
    let tenant = store::tenants::update(write.conn(), id, description, &quota).await?;
    write.done("tenant.update", subject(&tenant), json!({ "quota": quota })).await?;
    write.commit(&tenant).await?;
    Ok(tenant)
}

/// Memberships and API tokens go with the tenant; what it owns must be gone before.
pub async fn delete(app: &App, caller: &Caller, id: TenantId, if_match: Option<i64>) -> Result<()> {
    authorize(caller, "delete_tenant")?;
    let mut write = match app.begin(caller, "delete_tenant", &id).await? {
        Begin::Replay(()) => return Ok(()),
        Begin::Fresh(write) => write,
    };
    let tenant = as_seen(store::tenants::lock_to_delete(write.conn(), id).await?, id, if_match)?;
    store::tenants::delete(write.conn(), id).await?;
    write.done("tenant.delete", subject(&tenant), json!({})).await?;
    write.commit(&()).await?;
    app.auth().forget_tenant(id);
    Ok(())
}

/// The tenant, if there is one and the caller knows how it is now.
fn as_seen(tenant: Option<Tenant>, id: TenantId, if_match: Option<i64>) -> Result<Tenant> {
    let tenant = tenant.ok_or_else(|| Error::not_found("tenant", id))?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, tenant.revision))?;
    Ok(tenant)
}

fn viewer(caller: &Caller) -> Viewer {
    Viewer {
        admin: caller.admin,
        user: caller.user,
        // A login may ask which tenants there are to log in to; an API token is for its tenant alone.
        only: caller.tenant.filter(|_| caller.token.is_some() && !caller.admin),
    }
}

fn subject(tenant: &Tenant) -> Subject {
    Subject {
        kind: "tenant",
        id: tenant.id.0,
        name: tenant.name.to_string(),
        tenant: Some(tenant.id),
    }
}
