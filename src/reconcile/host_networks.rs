//! A network on a host: there while an instance on the host has a port on it, with exactly their DHCP entries.

use super::{Context, Trouble, fault, hold};
use crate::domain::id::{HostId, NetworkId};
use crate::domain::instance::hostname;
use crate::hypervisor::{DhcpHost, NetworkSpec};
use crate::store;

/// Makes the network on the host as it has to be now, or takes it away. Serialised for this host and network among all
/// processes, so that an older list never overwrites a newer one. Of many who ask at once, one does it for all.
pub async fn settle(ctx: &Context, host: HostId, network: NetworkId) -> Result<(), Trouble> {
    // Others whom this database does not know may use it: their entries stay, and so does the network.
    let keep = hold::why(ctx, host).await?.is_some();
    // Among our own first, then among all processes.
    let Some(turn) = ctx.settling.take((host, network)).await else { return Ok(()) };
    let mut tx = store::begin(&ctx.db).await?;
    store::host_networks::lock(&mut tx, host, network).await?;
    let plan = store::host_networks::plan(&mut tx, network).await?;
    let entries = store::host_networks::entries(&mut tx, host, network).await?;
    match plan {
        Some(plan) if !entries.is_empty() => {
            let hosts = entries.into_iter().map(|entry| DhcpHost {
                hostname: hostname(&entry.name, entry.instance),
                mac: entry.mac,
                address: entry.address,
            });
            let spec = NetworkSpec {
                id: network,
                cidr: plan.cidr,
                gateway: plan.gateway,
                dns: plan.dns,
                hosts: hosts.collect(),
                keep_others: keep,
            };
            // A crash before the commit leaves a network without this note; whoever wanted it comes again and notes it.
            store::host_networks::note(&mut tx, host, network).await?;
            fault::point("network_noted");
            ctx.host(host, "make the network", move |host| host.ensure_network(&spec)).await?;
        }
        Some(_) | None => {
            if !keep {
                ctx.host(host, "delete the network", move |host| host.delete_network(network))
                    .await?;
            }
            store::host_networks::unnote(&mut tx, host, network).await?;
        }
    }
    tx.commit().await?;
    turn.done();
    Ok(())
}
