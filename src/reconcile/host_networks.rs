//! A network on a host: there while an instance on the host has a port on it.
//!
//! Its DHCP entries are those of all addresses that IPAM may give, each for the MAC address that follows from it, so that they
//! seldom change: libvirt takes a network's firewall rules away and writes them anew whenever one does.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::{Context, Trouble, fault, hold, seats};
use crate::domain::id::{HostId, NetworkId};
use crate::domain::port;
use crate::hypervisor::{DhcpHost, NetworkSpec};
use crate::store;
use crate::store::host_networks::{Entry, Plan};

/// Makes the network on the host as it has to be now, or takes it away. Serialised for this host and network among all
/// processes, so that an older list never overwrites a newer one. Of many who ask at once, one does it for all.
pub async fn settle(ctx: &Context, host: HostId, network: NetworkId) -> Result<(), Trouble> {
    // Others whom this database does not know may use it: their entries stay, and so does the network.
    let keep = hold::why(ctx, host).await?.is_some();
    // Among our own first, then among all processes.
    let turns = async {
        let turn = ctx.settling.take((host, network)).await?;
        Some((turn, ctx.making.take(host).await))
    };
    let Some((turn, _one_on_the_host)) = seats::away(turns).await else { return Ok(()) };
    let mut tx = store::begin_patiently(&ctx.db).await?;
    store::host_networks::lock(&mut tx, host, network).await?;
    let plan = store::host_networks::plan(&mut tx, network).await?;
    let entries = store::host_networks::entries(&mut tx, host, network).await?;
    match plan {
        Some(plan) if !entries.is_empty() => {
            // A crash before the commit leaves a network without this note; whoever wanted it comes again and notes it.
            let known = store::host_networks::note(&mut tx, host, network).await?;
            let standing = standing(&plan, &entries);
            let hosts = entries.into_iter().map(|Entry { mac, address }| DhcpHost { mac, address });
            let spec = NetworkSpec {
                id: network,
                cidr: plan.cidr,
                gateway: plan.gateway,
                dns: plan.dns,
                hosts: hosts.collect(),
                standing,
                keep_others: keep,
                known,
            };
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

/// Ranges up to so many addresses have an entry for each of them from the start; in a larger one, only those in use.
const STANDING_MAX: u32 = 1024;

/// Whoever will have one of the other addresses of the range.
fn standing(plan: &Plan, entries: &[Entry]) -> Vec<DhcpHost> {
    let mut hosts: BTreeMap<IpAddr, String> = BTreeMap::new();
    if let [IpAddr::V4(first), IpAddr::V4(last)] = plan.range
        && last.to_bits().saturating_sub(first.to_bits()) < STANDING_MAX
    {
        let all = (first.to_bits()..=last.to_bits()).map(Ipv4Addr::from_bits);
        hosts.extend(all.map(|address| (address.into(), port::mac(address))));
        hosts.remove(&plan.gateway);
    }
    for entry in entries {
        hosts.remove(&entry.address);
    }
    hosts.into_iter().map(|(address, mac)| DhcpHost { mac, address }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(first: &str, last: &str) -> Plan {
        Plan {
            cidr: "10.0.0.0/16".parse().unwrap(),
            gateway: "10.0.0.2".parse().unwrap(),
            dns: Vec::new(),
            range: [first.parse().unwrap(), last.parse().unwrap()],
        }
    }

    #[test]
    fn a_small_network_serves_its_range_and_a_large_one_who_is_there() {
        let entry =
            Entry { mac: "52:54:00:00:00:07".to_owned(), address: "10.0.0.3".parse().unwrap() };
        let small = standing(&plan("10.0.0.1", "10.0.0.4"), std::slice::from_ref(&entry));
        assert!(small.iter().all(DhcpHost::stands), "{small:?}");
        let small: Vec<_> = small.into_iter().map(|host| (host.address, host.mac)).collect();
        let at = |last: u8| IpAddr::from([10, 0, 0, last]);
        let derived = |last: u8| format!("52:54:0a:00:00:0{last}");
        assert_eq!(small, [(at(1), derived(1)), (at(4), derived(4))]);
        assert_eq!(standing(&plan("10.0.0.1", "10.0.4.1"), &[entry]), []);
        assert_eq!(standing(&plan("10.0.0.1", "10.0.4.0"), &[]).len(), 1023);
    }
}
