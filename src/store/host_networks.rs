//! Networks on hosts: where they were made, and whose DHCP entries they carry there.

use std::net::IpAddr;

use ipnet::IpNet;
use sqlx::PgConnection;

use crate::domain::error::Result;
use crate::domain::id::{HostId, NetworkId};

/// What a host needs to know of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub cidr: IpNet,
    pub gateway: IpAddr,
    pub dns: Vec<IpAddr>,
    /// The addresses that a port may have, from the first to the last; the gateway may lie among them.
    pub range: [IpAddr; 2],
}

/// A port that needs the network on the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    pub mac: String,
    pub address: IpAddr,
}

/// Serialises what is done to this network on this host, until the transaction ends; its commit does not wait for the disk,
/// since whoever needs the network comes again after a crash.
pub async fn lock(conn: &mut PgConnection, host: HostId, network: NetworkId) -> Result<()> {
    sqlx::query(
        "select pg_advisory_xact_lock(hashtextextended($1::text || $2::text, 0)),
                set_config('synchronous_commit', 'off', true)",
    )
    .bind(host)
    .bind(network)
    .execute(conn)
    .await?;
    Ok(())
}

/// The same, unless somebody does something to it at this moment.
pub async fn try_lock(conn: &mut PgConnection, host: HostId, network: NetworkId) -> Result<bool> {
    let held = sqlx::query_scalar(
        "select pg_try_advisory_xact_lock(hashtextextended($1::text || $2::text, 0))",
    )
    .bind(host)
    .bind(network)
    .fetch_one(conn)
    .await?;
    Ok(held)
}

pub async fn plan(conn: &mut PgConnection, network: NetworkId) -> Result<Option<Plan>> {
    let row: Option<(IpNet, IpNet, Vec<IpNet>, IpNet, IpNet)> = sqlx::query_as(
        "select cidr, gateway, dns, range_start, range_end from networks where id = $1 and deleted_at is null",
    )
    .bind(network)
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|(cidr, gateway, dns, first, last)| Plan {
        cidr,
        gateway: gateway.addr(),
        dns: dns.iter().map(IpNet::addr).collect(),
        range: [first.addr(), last.addr()],
    }))
}

/// Ports on the network whose instance is on the host and is to stay.
pub async fn entries(
    conn: &mut PgConnection,
    host: HostId,
    network: NetworkId,
) -> Result<Vec<Entry>> {
    let rows: Vec<(String, IpNet)> = sqlx::query_as(
        "select p.mac, a.address
         from ports p
         join addresses a on a.port_id = p.id
         join instances i on i.id = p.instance_id and i.wanted <> 'deleted'
         join incarnations c on c.instance_id = i.id and c.fenced_at is null and c.host_id = $1
         where p.network_id = $2
         order by p.mac",
    )
    .bind(host)
    .bind(network)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|(mac, address)| Entry { mac, address: address.addr() }).collect())
}

/// Whom each network on the host serves for sure: guests that were seen to run there and are to stay, in order.
pub async fn served(conn: &mut PgConnection, host: HostId) -> Result<Vec<(NetworkId, Entry)>> {
    let rows: Vec<(NetworkId, String, IpNet)> = sqlx::query_as(
        "select p.network_id, p.mac, a.address
         from incarnations c
         join instances i on i.id = c.instance_id and i.wanted <> 'deleted' and i.observed_power in ('running', 'paused')
         join ports p on p.instance_id = i.id
         join addresses a on a.port_id = p.id
         where c.host_id = $1 and c.fenced_at is null
         order by p.network_id, p.mac",
    )
    .bind(host)
    .fetch_all(conn)
    .await?;
    let served =
        |(network, mac, address): (_, _, IpNet)| (network, Entry { mac, address: address.addr() });
    Ok(rows.into_iter().map(served).collect())
}

/// Notes that the network is, or is about to be, on the host. Gives whether that was noted before.
pub async fn note(conn: &mut PgConnection, host: HostId, network: NetworkId) -> Result<bool> {
    let done = sqlx::query(
        "insert into host_networks (host_id, network_id) values ($1, $2) on conflict do nothing",
    )
    .bind(host)
    .bind(network)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 0)
}

pub async fn unnote(conn: &mut PgConnection, host: HostId, network: NetworkId) -> Result<()> {
    sqlx::query("delete from host_networks where host_id = $1 and network_id = $2")
        .bind(host)
        .bind(network)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn on_host(conn: &mut PgConnection, host: HostId) -> Result<Vec<NetworkId>> {
    let ids = sqlx::query_scalar(
        "select network_id from host_networks where host_id = $1 order by network_id",
    )
    .bind(host)
    .fetch_all(conn)
    .await?;
    Ok(ids)
}

pub async fn hosts_of(conn: &mut PgConnection, network: NetworkId) -> Result<Vec<HostId>> {
    let ids = sqlx::query_scalar(
        "select host_id from host_networks where network_id = $1 order by host_id",
    )
    .bind(network)
    .fetch_all(conn)
    .await?;
    Ok(ids)
}
