//! What is not where it was wished to be, for admins: all of it in one list, and a way to have it tried now.

use serde_json::json;
use uuid::Uuid;

use super::authorize::authorize;
use super::{App, Begin};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::page::Page;
use crate::domain::stalled::{Stalled, StalledFilter, StalledKind};
use crate::store;

pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    filter: &StalledFilter,
) -> Result<(Vec<Stalled>, Option<String>)> {
    authorize(caller, "list_stalled")?;
    let rows = store::stalled::list(&mut *app.conn().await?, page, filter, app.clock.now()).await?;
    Ok(page.cut(rows, |item| item.id))
}

/// Looks at the thing now, its failures forgotten: for when what stood in the way was mended. A base image is uploaded anew.
pub async fn retry(app: &App, caller: &Caller, kind: &str, id: Uuid) -> Result<Stalled> {
    authorize(caller, "retry_stalled")?;
    let kind: StalledKind = kind.parse()?;
    let mut write = match app.begin(caller, "retry_stalled", &(kind, id)).await? {
        Begin::Replay(item) => return Ok(item),
        Begin::Fresh(write) => write,
    };
    if !store::stalled::is_there(write.conn(), kind, id).await? {
        return Err(Error::not_found(kind.as_str(), id));
    }
    write.touch(kind.into(), id).await?;
    if kind == StalledKind::HostImage {
        // Whatever is there: it may be damaged.
        store::host_images::set_present(write.conn(), id, false).await?;
    }
    let now = write.now;
    let item = store::stalled::get(write.conn(), kind, id, now).await?;
    let item = item.ok_or_else(|| Error::not_found(kind.as_str(), id))?;
    let subject = Subject {
        kind: kind.as_str(),
        id,
        name: item.name.clone().unwrap_or_default(),
        tenant: item.tenant_id,
    };
    write.accepted(event_of(kind), subject, json!({})).await?;
    write.commit(&item).await?;
    Ok(item)
}

fn event_of(kind: StalledKind) -> &'static str {
    match kind {
        StalledKind::Instance => "instance.retry",
        StalledKind::Host => "host.retry",
        StalledKind::HostImage => "host_image.retry",
        StalledKind::Network => "network.retry",
        StalledKind::Image => "image.retry",
        StalledKind::Fence => "fence.retry",
    }
}
