//! Flavors: made and removed by admins, read by everyone.

use serde_json::json;
use uuid::Uuid;

use super::authorize::authorize;
use super::{App, Begin};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::flavor::{Flavor, NewFlavor};
use crate::domain::id::FlavorId;
use crate::domain::page::Page;
use crate::store;

pub async fn create(app: &App, caller: &Caller, new: &NewFlavor) -> Result<Flavor> {
    authorize(caller, "create_flavor")?;
    let name = new.check()?;
    let mut write = match app.begin(caller, "create_flavor", new).await? {
        Begin::Replay(flavor) => return Ok(flavor),
        Begin::Fresh(write) => write,
    };
    let now = write.now;
    let flavor =
        store::flavors::insert(write.conn(), FlavorId(Uuid::now_v7()), &name, new, now).await?;
    write.done("flavor.create", subject(&flavor), json!({})).await?;
    write.commit(&flavor).await?;
    Ok(flavor)
}

pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    name: Option<&str>,
) -> Result<(Vec<Flavor>, Option<String>)> {
    authorize(caller, "list_flavors")?;
    let rows = store::flavors::list(&mut *app.conn().await?, page, name).await?;
    Ok(page.cut(rows, |flavor| flavor.id.0))
}

pub async fn get(app: &App, caller: &Caller, id: FlavorId) -> Result<Flavor> {
    authorize(caller, "get_flavor")?;
    let flavor = store::flavors::get(&mut *app.conn().await?, id).await?;
    flavor.ok_or_else(|| Error::not_found("flavor", id))
}

pub async fn delete(app: &App, caller: &Caller, id: FlavorId, if_match: Option<i64>) -> Result<()> {
    authorize(caller, "delete_flavor")?;
    let mut write = match app.begin(caller, "delete_flavor", &id).await? {
        Begin::Replay(()) => return Ok(()),
        Begin::Fresh(write) => write,
    };
    let flavor = store::flavors::get(write.conn(), id).await?;
    let flavor = flavor.ok_or_else(|| Error::not_found("flavor", id))?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, flavor.revision))?;
    store::flavors::delete(write.conn(), id).await?;
    write.done("flavor.delete", subject(&flavor), json!({})).await?;
    write.commit(&()).await
}

/// `If-Match`: the change is meant for the revision that the caller saw.
pub fn same_revision(wanted: i64, current: i64) -> Result<()> {
    if wanted == current { Ok(()) } else { Err(Error::PreconditionFailed { current }) }
}

fn subject(flavor: &Flavor) -> Subject {
    Subject { kind: "flavor", id: flavor.id.0, name: flavor.name.to_string(), tenant: None }
}
