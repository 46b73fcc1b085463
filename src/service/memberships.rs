//! Who is what in a tenant: decided by its owners, and by the cloud's admins.

use serde_json::json;

use super::authorize::authorize;
use super::{App, Begin};
use crate::domain::caller::{Caller, Role};
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::id::{TenantId, UserId};
use crate::domain::page::Page;
use crate::domain::tenant::Membership;
use crate::store;

/// Gives the user this role, whatever it was before.
pub async fn put(
    app: &App,
    caller: &Caller,
    tenant: TenantId,
    user: UserId,
    role: Role,
) -> Result<Membership> {
    authorize(caller, "put_member")?;
    within(caller, tenant)?;
    let mut write = match app.begin(caller, "put_member", &(tenant, user, role)).await? {
        Begin::Replay(membership) => return Ok(membership),
        Begin::Fresh(write) => write,
    };
    // Locked, so that neither is deleted meanwhile.
    let held = store::tenants::lock(write.conn(), tenant).await?;
    held.ok_or_else(|| Error::not_found("tenant", tenant))?;
    let held = store::users::lock(write.conn(), user).await?;
    held.ok_or_else(|| Error::not_found("user", user))?;
    let now = write.now;
    let membership = store::memberships::put(write.conn(), tenant, user, role, now).await?;
    write.done("member.put", subject(&membership), json!({ "role": role })).await?;
    write.commit(&membership).await?;
    app.auth().forget_user(user);
    Ok(membership)
}

pub async fn list(
    app: &App,
    caller: &Caller,
    tenant: TenantId,
    page: &Page,
) -> Result<(Vec<Membership>, Option<String>)> {
    authorize(caller, "list_members")?;
    within(caller, tenant)?;
    let mut conn = app.conn().await?;
    store::auth::tenant_name(&mut conn, tenant)
        .await?
        .ok_or_else(|| Error::not_found("tenant", tenant))?;
    let rows = store::memberships::list(&mut conn, tenant, page).await?;
    Ok(page.cut(rows, |membership| membership.user_id.0))
}

/// Also the last owner: an admin can name another.
pub async fn delete(app: &App, caller: &Caller, tenant: TenantId, user: UserId) -> Result<()> {
    authorize(caller, "delete_member")?;
    within(caller, tenant)?;
    let mut write = match app.begin(caller, "delete_member", &(tenant, user)).await? {
        Begin::Replay(()) => return Ok(()),
        Begin::Fresh(write) => write,
    };
    let membership = store::memberships::delete(write.conn(), tenant, user).await?;
    let membership = membership.ok_or_else(|| Error::not_found("member", user))?;
    write.done("member.delete", subject(&membership), json!({})).await?;
    write.commit(&()).await?;
    app.auth().forget_user(user);
    Ok(())
}

/// Another tenant's members are not there.
fn within(caller: &Caller, tenant: TenantId) -> Result<()> {
    match caller.scope() {
        Some(own) if own != tenant => Err(Error::not_found("tenant", tenant)),
        Some(_) | None => Ok(()),
    }
}

fn subject(membership: &Membership) -> Subject {
    Subject {
        kind: "member",
        id: membership.user_id.0,
        name: membership.user_name.clone(),
        tenant: Some(membership.tenant_id),
    }
}
