//! Groups: a tenant's rules of which instances share a place.

use serde_json::json;
use uuid::Uuid;

use super::authorize::authorize;
use super::flavors::same_revision;
use super::{App, Begin};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::group::{Group, NewGroup};
use crate::domain::id::GroupId;
use crate::domain::page::Page;
use crate::store;

/// Most groups of a tenant.
const GROUPS_MAX: usize = 1000;

pub async fn create(app: &App, caller: &Caller, new: &NewGroup) -> Result<Group> {
    authorize(caller, "create_group")?;
    let name = new.check()?;
    let tenant = caller.tenant()?;
    let mut write = match app.begin(caller, "create_group", new).await? {
        Begin::Replay(group) => return Ok(group),
        Begin::Fresh(write) => write,
    };
    // Of two that make the last one, one waits and is then refused.
    store::tenants::lock(write.conn(), tenant).await?;
    let most = Page { limit: 1000, after: Uuid::nil() };
    if store::groups::list(write.conn(), Some(tenant), &most, None).await?.len() >= GROUPS_MAX {
        return Err(Error::QuotaExceeded(format!(
            "a tenant may have {GROUPS_MAX} groups: delete some"
        )));
    }
    let (id, now) = (GroupId(Uuid::now_v7()), write.now);
    store::groups::insert(write.conn(), id, tenant, &name, new, caller.user, now).await?;
    let group = store::groups::get(write.conn(), None, id).await?;
    let group = group.ok_or_else(|| Error::not_found("group", id))?;
    write.done("group.create", subject(&group), json!(new)).await?;
    write.commit(&group).await?;
    Ok(group)
}

pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    name: Option<&str>,
    all_tenants: bool,
) -> Result<(Vec<Group>, Option<String>)> {
    authorize(caller, "list_groups")?;
    let scope = caller.listed(all_tenants)?;
    let rows = store::groups::list(&mut *app.conn().await?, scope, page, name).await?;
    Ok(page.cut(rows, |group| group.id.0))
}

pub async fn get(app: &App, caller: &Caller, id: GroupId) -> Result<Group> {
    authorize(caller, "get_group")?;
    let group = store::groups::get(&mut *app.conn().await?, caller.scope(), id).await?;
    group.ok_or_else(|| Error::not_found("group", id))
}

/// Refused while it has instances.
pub async fn delete(app: &App, caller: &Caller, id: GroupId, if_match: Option<i64>) -> Result<()> {
    authorize(caller, "delete_group")?;
    let mut write = match app.begin(caller, "delete_group", &id).await? {
        Begin::Replay(()) => return Ok(()),
        Begin::Fresh(write) => write,
    };
    let group = store::groups::get(write.conn(), caller.scope(), id).await?;
    let group = group.ok_or_else(|| Error::not_found("group", id))?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, group.revision))?;
    store::groups::delete(write.conn(), id).await?;
    write.done("group.delete", subject(&group), json!({})).await?;
    write.commit(&()).await
}

fn subject(group: &Group) -> Subject {
    Subject {
        kind: "group",
        id: group.id.0,
        name: group.name.to_string(),
        tenant: Some(group.tenant_id),
    }
}
