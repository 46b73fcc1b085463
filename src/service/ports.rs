//! Free-standing ports: an address that outlives the instance that it is given to.

use serde_json::json;

use super::authorize::authorize;
use super::flavors::same_revision;
use super::{App, Begin};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::id::{InstanceId, NetworkId, PortId};
use crate::domain::page::Page;
use crate::domain::port::{NewPort, Port};
use crate::store;
use crate::store::ports::Filter;

pub async fn create(app: &App, caller: &Caller, new: &NewPort) -> Result<Port> {
    authorize(caller, "create_port")?;
    let plan = new.check()?;
    let mut write = match app.begin(caller, "create_port", new).await? {
        Begin::Replay(port) => return Ok(port),
        Begin::Fresh(write) => write,
    };
    let (now, rest) = (write.now, app.quarantine());
    let port =
        store::ports::create_free(write.conn(), caller.scope(), new.network_id, &plan, now, rest);
    let port = port.await.map_err(|error| match error {
        Error::NotFound { kind: "network", id } => Error::field(
            "/network_id",
            format!("there is no network {id} in this tenant: see GET /v1/networks"),
        ),
        other => other,
    })?;
    let detail = json!({ "network": port.network_id, "address": port.address });
    write.done("port.create", subject(&port), detail).await?;
    write.commit(&port).await?;
    Ok(port)
}

/// Which ports a list shows.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub network: Option<NetworkId>,
    pub instance: Option<InstanceId>,
    pub name: Option<String>,
    pub all_tenants: bool,
}

pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    wanted: Wanted,
) -> Result<(Vec<Port>, Option<String>)> {
    authorize(caller, "list_ports")?;
    let filter = Filter {
        tenant: caller.listed(wanted.all_tenants)?,
        network: wanted.network,
        instance: wanted.instance,
        name: wanted.name,
    };
    let rows = store::ports::list(&mut *app.conn().await?, page, &filter).await?;
    Ok(page.cut(rows, |port| port.id.0))
}

pub async fn get(app: &App, caller: &Caller, id: PortId) -> Result<Port> {
    authorize(caller, "get_port")?;
    let port = store::ports::get(&mut *app.conn().await?, caller.scope(), id).await?;
    port.ok_or_else(|| Error::not_found("port", id))
}

pub async fn delete(app: &App, caller: &Caller, id: PortId, if_match: Option<i64>) -> Result<()> {
    authorize(caller, "delete_port")?;
    let mut write = match app.begin(caller, "delete_port", &id).await? {
        Begin::Replay(()) => return Ok(()),
        Begin::Fresh(write) => write,
    };
    let port = store::ports::lock(write.conn(), caller.scope(), id).await?;
    let port = port.ok_or_else(|| Error::not_found("port", id))?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, port.revision))?;
    let now = write.now;
    store::ports::delete_free(write.conn(), &port, now).await?;
    write.done("port.delete", subject(&port), json!({ "address": port.address })).await?;
    write.commit(&()).await
}

fn subject(port: &Port) -> Subject {
    // Most ports have no name: their MAC address is what people will look for.
    let name = if port.name.is_empty() { &port.mac } else { &port.name };
    Subject { kind: "port", id: port.id.0, name: name.clone(), tenant: Some(port.tenant_id) }
}
