//! Keypairs: a tenant's public SSH keys.

use serde_json::json;
use uuid::Uuid;

use super::authorize::authorize;
use super::flavors::same_revision;
use super::quota::{self, Adding};
use super::{App, Begin};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::id::KeypairId;
use crate::domain::keypair::{Keypair, NewKeypair};
use crate::domain::page::Page;
use crate::store;

pub async fn create(app: &App, caller: &Caller, new: &NewKeypair) -> Result<Keypair> {
    authorize(caller, "create_keypair")?;
    let (name, key) = new.check()?;
    let tenant = caller.tenant()?;
    let mut write = match app.begin(caller, "create_keypair", new).await? {
        Begin::Replay(keypair) => return Ok(keypair),
        Begin::Fresh(write) => write,
    };
    quota::check(&mut write, tenant, Adding { keypairs: 1, ..Adding::default() }).await?;
    let (id, now) = (KeypairId(Uuid::now_v7()), write.now);
    let keypair =
        store::keypairs::insert(write.conn(), id, tenant, &name, &key, caller.user, now).await?;
    let detail = json!({ "fingerprint": keypair.fingerprint });
    write.done("keypair.create", subject(&keypair), detail).await?;
    write.commit(&keypair).await?;
    Ok(keypair)
}

pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    name: Option<&str>,
    all_tenants: bool,
) -> Result<(Vec<Keypair>, Option<String>)> {
    authorize(caller, "list_keypairs")?;
    let scope = caller.listed(all_tenants)?;
    let rows = store::keypairs::list(&mut *app.conn().await?, scope, page, name).await?;
    Ok(page.cut(rows, |keypair| keypair.id.0))
}

pub async fn get(app: &App, caller: &Caller, id: KeypairId) -> Result<Keypair> {
    authorize(caller, "get_keypair")?;
    let keypair = store::keypairs::get(&mut *app.conn().await?, caller.scope(), id).await?;
    keypair.ok_or_else(|| Error::not_found("keypair", id))
}

pub async fn delete(
    app: &App,
    caller: &Caller,
    id: KeypairId,
    if_match: Option<i64>,
) -> Result<()> {
    authorize(caller, "delete_keypair")?;
    let mut write = match app.begin(caller, "delete_keypair", &id).await? {
        Begin::Replay(()) => return Ok(()),
        Begin::Fresh(write) => write,
    };
    let keypair = store::keypairs::delete(write.conn(), caller.scope(), id).await?;
    let keypair = keypair.ok_or_else(|| Error::not_found("keypair", id))?;
    // Nothing is committed if it is another revision.
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, keypair.revision))?;
    let detail = json!({ "fingerprint": keypair.fingerprint });
    write.done("keypair.delete", subject(&keypair), detail).await?;
    write.commit(&()).await
}

fn subject(keypair: &Keypair) -> Subject {
    Subject {
        kind: "keypair",
        id: keypair.id.0,
        name: keypair.name.to_string(),
        tenant: Some(keypair.tenant_id),
    }
}
