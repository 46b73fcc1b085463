//! The cloud itself, for admins: how it stands, what drifts on its hosts, the end of a hold, new signing keys.

use serde_json::json;

use super::authorize::authorize;
use super::{App, Begin, auth};
use crate::domain::caller::Caller;
use crate::domain::cloud::{Cloud, Drift, RotateKeys};
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::id::HostId;
use crate::domain::page::Page;
use crate::store;

pub async fn get(app: &App, caller: &Caller) -> Result<Cloud> {
    authorize(caller, "get_cloud")?;
    read(app, &mut *app.conn().await?).await
}

async fn read(app: &App, conn: &mut sqlx::PgConnection) -> Result<Cloud> {
    let cloud = store::cloud::get(conn).await?;
    cloud.ok_or_else(|| Error::not_found("cloud", app.cloud))
}

pub async fn drift(
    app: &App,
    caller: &Caller,
    page: &Page,
    host: Option<HostId>,
) -> Result<(Vec<Drift>, Option<String>)> {
    authorize(caller, "list_drift")?;
    let rows = store::orphans::list(&mut *app.conn().await?, page, host).await?;
    Ok(page.cut(rows, |drift| drift.id))
}

/// An admin has looked, and this database is the cloud's record from now on: what it does not know is swept.
pub async fn resume(app: &App, caller: &Caller) -> Result<Cloud> {
    authorize(caller, "resume_cloud")?;
    let mut write = match app.begin(caller, "resume_cloud", &()).await? {
        Begin::Replay(cloud) => return Ok(cloud),
        Begin::Fresh(write) => write,
    };
    let now = write.now;
    let held = store::cloud::held(write.conn()).await?;
    let held = held.ok_or_else(|| Error::conflict("not-held", "the cloud is not held"))?;
    store::cloud::resume(write.conn()).await?;
    store::generations::accept(write.conn()).await?;
    store::work::hasten(write.conn(), now).await?;
    let detail = json!({ "held_since": held.since, "reason": held.reason });
    write.done("cloud.resume", subject(app), detail).await?;
    let cloud = read(app, write.conn()).await?;
    write.commit(&cloud).await?;
    app.changes.wake();
    Ok(cloud)
}

/// The next key begins in two minutes, when every process knows it; with `revoke`, at once, and what the old ones signed is
/// refused by every process within a minute.
pub async fn rotate_keys(app: &App, caller: &Caller, how: RotateKeys) -> Result<Cloud> {
    authorize(caller, "rotate_keys")?;
    let mut write = match app.begin(caller, "rotate_keys", &how).await? {
        Begin::Replay(cloud) => return Ok(cloud),
        Begin::Fresh(write) => write,
    };
    auth::replace_keys(app, write.conn(), how.revoke).await?;
    write.done("cloud.rotate_keys", subject(app), json!({ "revoke": how.revoke })).await?;
    let cloud = read(app, write.conn()).await?;
    write.commit(&cloud).await?;
    auth::forget_keys(app);
    Ok(cloud)
}

fn subject(app: &App) -> Subject {
    Subject { kind: "cloud", id: app.cloud, name: String::new(), tenant: None }
}
