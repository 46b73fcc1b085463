//! Networks: wished by a tenant's members, made on hosts by the first instance that needs them, deleted everywhere.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::authorize::authorize;
use super::flavors::same_revision;
use super::quota::{self, Adding};
use super::{App, Begin};
use crate::domain::caller::Caller;
use crate::domain::error::{Error, Result};
use crate::domain::event::Subject;
use crate::domain::id::NetworkId;
use crate::domain::network::{Network, NetworkPatch, NetworkStatus, NewNetwork};
use crate::domain::page::Page;
use crate::domain::subnet::Subnet;
use crate::domain::text::{Labels, without_places};
use crate::store;
use crate::store::networks::{Insert, Pool};
use crate::store::work::Kind;

pub async fn create(app: &App, caller: &Caller, new: &NewNetwork) -> Result<Network> {
    authorize(caller, "create_network")?;
    let plan = new.check(caller.admin)?;
    let tenant = caller.tenant()?;
    if let Some(subnet) = plan.subnet.as_ref().filter(|_| !caller.admin) {
        fair(app, subnet)?;
    }
    let mut write = match app.begin(caller, "create_network", new).await? {
        Begin::Replay(network) => return Ok(network),
        Begin::Fresh(write) => write,
    };
    quota::check(&mut write, tenant, Adding { networks: 1, ..Adding::default() }).await?;
    let (id, now) = (NetworkId(Uuid::now_v7()), write.now);
    let insert = Insert {
        id,
        tenant,
        name: &plan.name,
        labels: &new.labels,
        dns: &plan.dns,
        port_security: new.port_security,
        created_by: caller.user,
    };
    match &plan.subnet {
        Some(subnet) => store::networks::insert(write.conn(), &insert, subnet, now).await?,
        None => store::networks::insert_anywhere(write.conn(), &insert, &pool(app), now).await?,
    }
    let network = own(write.conn(), caller, id).await?;
    write.done("network.create", subject(&network), json!({ "cidr": network.cidr })).await?;
    write.commit(&network).await?;
    Ok(network)
}

/// The pool that networks get their CIDR from is everybody's: who chooses one there may have sixteen times what is given out.
fn fair(app: &App, subnet: &Subnet) -> Result<()> {
    let (pool, least) = (app.config.network_pool, app.config.network_prefix.saturating_sub(4));
    if subnet.cidr.prefix_len() >= least || !pool.contains(&subnet.cidr) {
        return Ok(());
    }
    let detail = format!(
        "{} is too much of {pool}, which all tenants share: give a prefix of /{least} or longer, a CIDR outside of it, or ask an admin",
        subnet.cidr
    );
    Err(Error::field("/cidr", detail))
}

/// Where CIDRs come from. The search begins at the random end of the cloud's id: of two clouds on one machine, which see each
/// other's networks only once these are real, hardly both take the same.
fn pool(app: &App) -> Pool {
    let (_, spread) = app.cloud.as_u64_pair();
    Pool { cidr: app.config.network_pool, prefix: app.config.network_prefix, spread }
}

pub async fn list(
    app: &App,
    caller: &Caller,
    page: &Page,
    name: Option<&str>,
    labels: &Labels,
    all_tenants: bool,
) -> Result<(Vec<Network>, Option<String>)> {
    authorize(caller, "list_networks")?;
    let scope = caller.listed(all_tenants)?;
    let rows = store::networks::list(&mut *app.conn().await?, scope, page, name, labels).await?;
    let rows = rows.into_iter().map(|network| told(network, caller)).collect();
    Ok(page.cut(rows, |network| network.id.0))
}

pub async fn get(app: &App, caller: &Caller, id: NetworkId) -> Result<Network> {
    authorize(caller, "get_network")?;
    own(&mut *app.conn().await?, caller, id).await
}

pub async fn update(
    app: &App,
    caller: &Caller,
    id: NetworkId,
    if_match: Option<i64>,
    patch: &NetworkPatch,
) -> Result<Network> {
    authorize(caller, "update_network")?;
    let change = patch.check()?;
    let mut write = match app.begin(caller, "update_network", &(id, patch)).await? {
        Begin::Replay(network) => return Ok(network),
        Begin::Fresh(write) => write,
    };
    let network = locked(write.conn(), caller, id).await?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, network.revision))?;
    if network.status == NetworkStatus::Deleting {
        return Err(Error::conflict(
            "network-deleting",
            "the network is being deleted and does not change any more",
        ));
    }
    store::networks::change(write.conn(), id, &change).await?;
    let network = own(write.conn(), caller, id).await?;
    write.done("network.update", subject(&network), json!(patch)).await?;
    write.commit(&network).await?;
    Ok(network)
}

/// Accepted once no port is on it; it then goes from every host and is gone.
pub async fn delete(
    app: &App,
    caller: &Caller,
    id: NetworkId,
    if_match: Option<i64>,
) -> Result<Network> {
    authorize(caller, "delete_network")?;
    let mut write = match app.begin(caller, "delete_network", &id).await? {
        Begin::Replay(network) => return Ok(network),
        Begin::Fresh(write) => write,
    };
    // Making a port takes the same lock: none comes in between.
    let network = locked(write.conn(), caller, id).await?;
    if_match.map_or(Ok(()), |wanted| same_revision(wanted, network.revision))?;
    if network.status == NetworkStatus::Deleting {
        write.commit(&network).await?;
        return Ok(network);
    }
    let (attached, free) = store::ports::count(write.conn(), id).await?;
    if attached + free > 0 {
        let detail = format!(
            "the network has {attached} ports of instances and {free} free-standing ports: delete them first"
        );
        return Err(Error::conflict("in-use", detail));
    }
    let now = write.now;
    store::networks::mark_deleted(write.conn(), id, now).await?;
    write.touch(Kind::Network, id.0).await?;
    let network = own(write.conn(), caller, id).await?;
    write.accepted("network.delete", subject(&network), json!({})).await?;
    write.commit(&network).await?;
    Ok(network)
}

async fn own(conn: &mut PgConnection, caller: &Caller, id: NetworkId) -> Result<Network> {
    let network = store::networks::get(conn, caller.scope(), id).await?;
    let network = network.ok_or_else(|| Error::not_found("network", id))?;
    Ok(told(network, caller))
}

/// As this caller sees it: where its hosts keep things is for admins.
fn told(network: Network, caller: &Caller) -> Network {
    if caller.admin {
        return network;
    }
    let tell = |said: Option<String>| said.as_deref().map(without_places);
    Network {
        status_reason: tell(network.status_reason),
        last_error: tell(network.last_error),
        ..network
    }
}

async fn locked(conn: &mut PgConnection, caller: &Caller, id: NetworkId) -> Result<Network> {
    let network = store::networks::lock(conn, caller.scope(), &[id]).await?.pop();
    network.ok_or_else(|| Error::not_found("network", id))
}

fn subject(network: &Network) -> Subject {
    Subject {
        kind: "network",
        id: network.id.0,
        name: network.name.to_string(),
        tenant: Some(network.tenant_id),
    }
}
