//! Which address a port gets. Whoever asks has locked the network.
//!
//! Addresses that no port ever had come first, in order; then the one that has rested longest. A released address rests,
//! because the DHCP servers of the hosts remember their last lease of it, and one that is leased to a MAC address is refused
//! to every other, whatever the server's configuration says, until that lease runs out.

use std::net::IpAddr;

use chrono::TimeDelta;
use sqlx::PgConnection;

use crate::domain::clock::Time;
use crate::domain::error::{Error, Result};
use crate::domain::id::{NetworkId, PortId};
use crate::domain::network::Network;

/// An address that may be held; `addresses-exhausted` says how many are in use and when one will be free.
pub async fn choose(
    conn: &mut PgConnection,
    network: &Network,
    now: Time,
    quarantine: TimeDelta,
) -> Result<IpAddr> {
    if let Some(address) = next_unused(conn, network.id).await? {
        return Ok(address);
    }
    let rested: Option<IpAddr> = sqlx::query_scalar(
        "select address from addresses
         where network_id = $1 and port_id is null and released_at <= $2
         order by released_at, address limit 1",
    )
    .bind(network.id)
    .bind(now - quarantine)
    .fetch_optional(&mut *conn)
    .await?;
    match rested {
        Some(address) => Ok(address),
        None => Err(exhausted(conn, network, quarantine).await?),
    }
}

/// Moves the network's mark to behind the next address that no port ever had. Between the mark and that address lie only the
/// gateway and addresses that somebody asked for by name.
async fn next_unused(conn: &mut PgConnection, network: NetworkId) -> Result<Option<IpAddr>> {
    let address = sqlx::query_scalar(
        "with recursive walk (address, gateway, range_end) as (
             select next_address, gateway, range_end from networks where id = $1
             union all
             select w.address + 1, w.gateway, w.range_end from walk w
             where w.address <= w.range_end
               and (w.address = w.gateway
                    or exists (select from addresses a where a.network_id = $1 and a.address = w.address))
         ), found as (
             select address, address <= range_end as inside from walk order by address desc limit 1
         ), moved as (
             update networks n set next_address = f.address + f.inside::int from found f
             where n.id = $1 and n.next_address <> f.address + f.inside::int
         )
         select address from found where inside",
    )
    .bind(network)
    .fetch_optional(conn)
    .await?;
    Ok(address)
}

async fn exhausted(
    conn: &mut PgConnection,
    network: &Network,
    quarantine: TimeDelta,
) -> Result<Error> {
    let (used, resting, first): (i64, i64, Option<Time>) = sqlx::query_as(
        "select count(port_id), count(released_at), min(released_at) from addresses where network_id = $1",
    )
    .bind(network.id)
    .fetch_one(conn)
    .await?;
    let capacity = network.subnet().map_or(0, |subnet| subnet.capacity());
    let when = first.map_or_else(String::new, |first| {
        format!(", the first until {}", (first + quarantine).format("%FT%TZ"))
    });
    let detail = format!(
        "network {} has no free address: {used} of {capacity} are in use and {resting} rest{when}: try again then, delete instances or ports on it, or use another network",
        network.name
    );
    Ok(Error::conflict("addresses-exhausted", detail))
}

/// Whether a port may have this very address.
pub async fn check(
    conn: &mut PgConnection,
    network: &Network,
    wanted: IpAddr,
    now: Time,
    quarantine: TimeDelta,
) -> Result<()> {
    if let Some(subnet) = network.subnet() {
        subnet.check_address("/address", wanted)?;
    }
    let known: Option<Option<Time>> = sqlx::query_scalar(
        "select released_at from addresses where network_id = $1 and address = $2",
    )
    .bind(network.id)
    .bind(wanted)
    .fetch_optional(conn)
    .await?;
    let taken = |why: String| {
        let detail = format!("{wanted} {why}: choose another, or leave it out and get a free one");
        Err(Error::conflict("address-taken", detail))
    };
    match known {
        Some(None) => taken("is in use".into()),
        Some(Some(released)) if released + quarantine > now => {
            let until = (released + quarantine).format("%FT%TZ");
            taken(format!("was in use a moment ago and rests until {until}"))
        }
        None | Some(Some(_)) => Ok(()),
    }
}

/// The port holds the address from now on.
pub async fn hold(
    conn: &mut PgConnection,
    network: NetworkId,
    address: IpAddr,
    port: PortId,
) -> Result<()> {
    let done = sqlx::query(
        "insert into addresses (network_id, address, port_id) values ($1, $2, $3)
         on conflict (network_id, address) do update set port_id = excluded.port_id, released_at = null
         where addresses.port_id is null",
    )
    .bind(network)
    .bind(address)
    .bind(port)
    .execute(conn)
    .await?;
    if done.rows_affected() == 1 {
        return Ok(());
    }
    // Only where somebody took it without locking the network.
    Err(Error::conflict("address-taken", format!("{address} is in use: choose another")))
}
