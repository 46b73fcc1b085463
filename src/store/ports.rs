//! Ports in the database: made with an instance or on their own, given to instances, released.

mod addresses;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;

use chrono::TimeDelta;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::domain::id::{InstanceId, NetworkId, PortId, TenantId};
use crate::domain::network::{Network, NetworkStatus};
use crate::domain::page::Page;
use crate::domain::port::{self, Plan, Port};
use crate::domain::text::Name;
use crate::store::networks;

/// A port as its instance shows it and as hosts need it.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct PortView {
    pub id: PortId,
    pub instance_id: InstanceId,
    pub network_id: NetworkId,
    pub network_name: Name,
    pub mac: String,
    pub address: IpAddr,
    /// 0 becomes `eth0`.
    pub position: i32,
    /// The network's.
    pub port_security: bool,
    /// The network's.
    pub dns: Vec<IpAddr>,
}

/// Everything of a `Port`; the filters follow.
macro_rules! ports {
    ($filter:literal) => {
        concat!(
            "select p.id, p.tenant_id, p.network_id, p.instance_id, p.position, p.name, p.mac, a.address, p.owned,
                    p.created_at, p.revision
             from ports p
             join addresses a on a.port_id = p.id
             where ",
            $filter
        )
    };
}

/// Makes the port of an instance at `position`, with a MAC address and an IP address of the network (`wanted`, or one that is
/// chosen); it goes with its instance. The instance's row must be there. An address released less than `quarantine` before
/// `now` still rests.
///
/// Locks the network: whoever does this for several networks calls `networks::lock` with all of them first.
/// Errors: no such network in the tenant; `network-deleting`; `wanted` is not of the range (as `/address`);
/// `address-taken`; `addresses-exhausted`.
#[expect(clippy::too_many_arguments, reason = "each is one column")]
pub async fn create_owned(
    conn: &mut PgConnection,
    tenant: TenantId,
    network: NetworkId,
    instance: InstanceId,
    position: i32,
    wanted: Option<IpAddr>,
    now: Time,
    quarantine: TimeDelta,
) -> Result<Port> {
    let network = usable(conn, Some(tenant), network).await?;
    let id = PortId(Uuid::now_v7());
    let row = Row { id, network: &network, owner: Some((instance, position)), name: "", mac: None };
    insert(conn, row, wanted, now, quarantine).await
}

/// Makes a free-standing port, in the tenant of its network. Errors as for `create_owned`, and `mac-taken`.
pub async fn create_free(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    network: NetworkId,
    plan: &Plan,
    now: Time,
    quarantine: TimeDelta,
) -> Result<Port> {
    let network = usable(conn, scope, network).await?;
    let row = Row {
        id: PortId(Uuid::now_v7()),
        network: &network,
        owner: None,
        name: plan.name.as_ref().map_or("", Name::as_str),
        mac: plan.mac.as_deref(),
    };
    insert(conn, row, plan.address, now, quarantine).await
}

/// The network, locked: one port at a time is made on it, so that two never choose the same address.
async fn usable(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    id: NetworkId,
) -> Result<Network> {
    let network = networks::lock(conn, scope, &[id]).await?.pop();
    let network = network.ok_or_else(|| Error::not_found("network", id))?;
    match network.status {
        NetworkStatus::Active => Ok(network),
        NetworkStatus::Deleting => Err(Error::conflict(
            "network-deleting",
            format!("network {} is being deleted and takes no ports: use another", network.name),
        )),
    }
}

struct Row<'a> {
    id: PortId,
    network: &'a Network,
    owner: Option<(InstanceId, i32)>,
    name: &'a str,
    mac: Option<&'a str>,
}

async fn insert(
    conn: &mut PgConnection,
    row: Row<'_>,
    wanted: Option<IpAddr>,
    now: Time,
    quarantine: TimeDelta,
) -> Result<Port> {
    let address = match wanted {
        Some(address) => {
            addresses::check(conn, row.network, address, now, quarantine).await?;
            address
        }
        None => addresses::choose(conn, row.network, now, quarantine).await?,
    };
    if !insert_row(conn, &row, address, now).await? {
        return Err(Error::conflict(
            "mac-taken",
            "this MAC address is in use on the network: choose another, or leave it out and get a free one",
        ));
    }
    addresses::hold(conn, row.network.id, address, row.id).await?;
    let port = get(conn, None, row.id).await?;
    port.ok_or_else(|| Error::not_found("port", row.id))
}

/// `false`: the MAC address is that of another port on the network.
async fn insert_row(
    conn: &mut PgConnection,
    row: &Row<'_>,
    address: IpAddr,
    now: Time,
) -> Result<bool> {
    let mac = match (row.mac, address) {
        (Some(mac), _) => mac.to_owned(),
        (None, IpAddr::V4(address)) => port::mac(address),
        (None, IpAddr::V6(_)) => {
            return Err(Error::Internal(anyhow::anyhow!("{address} is no IPv4 address")));
        }
    };
    let done = sqlx::query(
        "insert into ports (id, tenant_id, network_id, instance_id, position, name, mac, owned, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict do nothing",
    )
    .bind(row.id)
    .bind(row.network.tenant_id)
    .bind(row.network.id)
    .bind(row.owner.map(|(instance, _)| instance))
    .bind(row.owner.map_or(0, |(_, position)| position))
    .bind(row.name)
    .bind(mac)
    .bind(row.owner.is_some())
    .bind(now)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives a free-standing port of the tenant to an instance. Errors: no such port; `port-attached`.
pub async fn attach(
    conn: &mut PgConnection,
    tenant: TenantId,
    id: PortId,
    instance: InstanceId,
    position: i32,
) -> Result<Port> {
    let done = sqlx::query(
        "update ports set instance_id = $3, position = $4, revision = revision + 1
         where id = $1 and tenant_id = $2 and instance_id is null",
    )
    .bind(id)
    .bind(tenant)
    .bind(instance)
    .bind(position)
    .execute(&mut *conn)
    .await?;
    let port = get(conn, Some(tenant), id).await?.ok_or_else(|| Error::not_found("port", id))?;
    match (done.rows_affected(), port.instance_id) {
        (1, _) => Ok(port),
        (_, Some(other)) => Err(attached(id, other)),
        // Let go of in this moment.
        (_, None) => {
            Err(Error::conflict("port-attached", format!("port {id} is changing hands: try again")))
        }
    }
}

fn attached(id: PortId, instance: InstanceId) -> Error {
    let detail = format!("port {id} belongs to instance {instance}: delete that first");
    Error::conflict("port-attached", detail)
}

/// The instance's ports in the order of its interfaces.
pub async fn of_instance(conn: &mut PgConnection, instance: InstanceId) -> Result<Vec<PortView>> {
    Ok(sqlx::query_as(OF_INSTANCE).bind(instance).fetch_all(conn).await?)
}

/// Everything of a `PortView`; the filters follow.
macro_rules! views {
    ($filter:literal) => {
        concat!(
            "select p.id, p.instance_id, p.network_id, n.name as network_name, p.mac, a.address, p.position,
                    n.port_security, n.dns
             from ports p
             join networks n on n.id = p.network_id
             join addresses a on a.port_id = p.id
             where ",
            $filter,
            " order by p.instance_id, p.position, p.id"
        )
    };
}

/// The statement of `of_instance`, which the benchmarks run by themselves, too. Not that of many: what PostgreSQL thinks of an
/// array of one makes it plan anew at every execution, which takes longer than the rest.
pub const OF_INSTANCE: &str = views!("p.instance_id = $1");

/// The statement of `of_instances`.
pub const OF_INSTANCES: &str = views!("p.instance_id = any($1)");

/// The same for many; instances without ports are left out.
pub async fn of_instances(
    conn: &mut PgConnection,
    instances: &[InstanceId],
) -> Result<HashMap<InstanceId, Vec<PortView>>> {
    let rows: Vec<PortView> = sqlx::query_as(OF_INSTANCES).bind(instances).fetch_all(conn).await?;
    let mut all: HashMap<InstanceId, Vec<PortView>> = HashMap::new();
    for row in rows {
        all.entry(row.instance_id).or_default().push(row);
    }
    Ok(all)
}

/// The instance is gone: its own ports go and their addresses rest; free-standing ports that it had are free again.
pub async fn release_of_instance(
    conn: &mut PgConnection,
    instance: InstanceId,
    now: Time,
) -> Result<()> {
    sqlx::query(
        "update addresses set port_id = null, released_at = $2
         where port_id in (select id from ports where instance_id = $1 and owned)",
    )
    .bind(instance)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    sqlx::query("delete from ports where instance_id = $1 and owned")
        .bind(instance)
        .execute(&mut *conn)
        .await?;
    sqlx::query("update ports set instance_id = null, position = 0, revision = revision + 1 where instance_id = $1")
        .bind(instance)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn get(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    id: PortId,
) -> Result<Option<Port>> {
    let port = sqlx::query_as(ports!("p.id = $1 and ($2::uuid is null or p.tenant_id = $2)"))
        .bind(id)
        .bind(scope)
        .fetch_optional(conn)
        .await?;
    Ok(port)
}

/// Which ports are listed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub tenant: Option<TenantId>,
    pub network: Option<NetworkId>,
    pub instance: Option<InstanceId>,
    pub name: Option<String>,
}

pub async fn list(conn: &mut PgConnection, page: &Page, filter: &Filter) -> Result<Vec<Port>> {
    let ports = sqlx::query_as(ports!(
        "p.id > $1 and ($2::uuid is null or p.tenant_id = $2) and ($3::uuid is null or p.network_id = $3)
         and ($4::uuid is null or p.instance_id = $4) and ($5::text is null or p.name = $5)
         order by p.id limit $6"
    ))
    .bind(page.after)
    .bind(filter.tenant)
    .bind(filter.network)
    .bind(filter.instance)
    .bind(&filter.name)
    .bind(page.fetch())
    .fetch_all(conn)
    .await?;
    Ok(ports)
}

/// How many ports of instances, and how many free-standing ones, the network has.
pub async fn count(conn: &mut PgConnection, network: NetworkId) -> Result<(i64, i64)> {
    let counts = sqlx::query_as(
        "select count(instance_id), count(*) - count(instance_id) from ports where network_id = $1",
    )
    .bind(network)
    .fetch_one(conn)
    .await?;
    Ok(counts)
}

/// The port, which nobody else changes until the transaction ends.
pub async fn lock(
    conn: &mut PgConnection,
    scope: Option<TenantId>,
    id: PortId,
) -> Result<Option<Port>> {
    let port = sqlx::query_as(ports!(
        "p.id = $1 and ($2::uuid is null or p.tenant_id = $2) for update of p"
    ))
    .bind(id)
    .bind(scope)
    .fetch_optional(conn)
    .await?;
    Ok(port)
}

/// Deletes a free-standing port that was locked; its address rests. `port-attached` while an instance has it.
pub async fn delete_free(conn: &mut PgConnection, port: &Port, now: Time) -> Result<()> {
    if let Some(instance) = port.instance_id {
        return Err(attached(port.id, instance));
    }
    sqlx::query("update addresses set port_id = null, released_at = $2 where port_id = $1")
        .bind(port.id)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    sqlx::query("delete from ports where id = $1").bind(port.id).execute(conn).await?;
    Ok(())
}
