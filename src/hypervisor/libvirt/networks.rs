//! Networks. They are transient: libvirtd finds them again after its own crash by the status that it keeps under /run, and
//! nothing at all is left after the host's reboot, when they are made anew with the first domain that needs them.

use std::collections::HashSet;

use chrono::DateTime;
use uuid::Uuid;
use virt::connect::Connect;
use virt::error::ErrorNumber as Code;
use virt::network::Network;
use virt::sys;

use super::domains::present;
use super::fault::{during, fault, is, is_absent};
use super::interfaces::{Guest, put_back};
use super::{Libvirt, ffi};
use crate::domain::clock::Time;
use crate::domain::id::NetworkId;
use crate::hypervisor::{DhcpHost, Fault, FaultKind, Lease, NetworkSeen, NetworkSpec, names, xml};

pub fn all(conn: &Connect, cloud: Uuid) -> Result<Vec<NetworkSeen>, Fault> {
    let networks = conn.list_all_networks(0).map_err(during("list the host's networks"))?;
    networks.iter().filter_map(|network| see(network, cloud).transpose()).collect()
}

/// `None`: it went away while it was looked at.
fn see(network: &Network, cloud: Uuid) -> Result<Option<NetworkSeen>, Fault> {
    let Some(text) = present("read a network", network.xml_desc(0))? else { return Ok(None) };
    let Some(active) = present("read a network", network.is_active())? else { return Ok(None) };
    let xml::network::Seen { uuid, name, subnets, hosts, .. } = xml::network::read(&text)?;
    let ours = names::network_id(cloud, &name).filter(|id| id.0 == uuid);
    Ok(Some(NetworkSeen { uuid, name, active, subnets, hosts, ours }))
}

pub fn lookup(conn: &Connect, id: NetworkId) -> Result<Option<Network>, Fault> {
    present(&format!("find network {id}"), conn.lookup_network_by_uuid(id.0))
}

/// Which DHCP hosts have to go from and to come to a network that has `there`.
fn changes<'a>(
    spec: &'a NetworkSpec,
    there: &'a [DhcpHost],
) -> (Vec<&'a DhcpHost>, Vec<&'a DhcpHost>) {
    let [wanted, standing, has] = [spec.hosts.as_slice(), &spec.standing, there]
        .map(|hosts| hosts.iter().collect::<HashSet<_>>());
    let needed: HashSet<_> = spec.hosts.iter().map(|host| host.address).collect();
    let goes = |host: &&DhcpHost| {
        let stays = if spec.keep_others {
            !(host.stands() && needed.contains(&host.address))
        } else {
            standing.contains(host)
        };
        !wanted.contains(host) && !stays
    };
    let removed = there.iter().filter(goes).collect();
    // One that was made without those that stand gets them when it is made anew: each costs libvirt its firewall rules.
    let complete = !spec.keep_others && there.iter().any(|host| standing.contains(host));
    let stand = spec.standing.iter().filter(|_| complete);
    let added = spec.hosts.iter().chain(stand).filter(|host| !has.contains(host)).collect();
    (removed, added)
}

pub fn leases(conn: &Connect, id: NetworkId) -> Result<Vec<Lease>, Fault> {
    let Some(network) = lookup(conn, id)? else { return Ok(Vec::new()) };
    let leases = match ffi::leases(&network) {
        Ok(leases) => leases,
        // The mock driver has no DHCP, and a network may go while it is asked.
        Err(error) if is_absent(&error) || is(&error, Code::NoSupport) => return Ok(Vec::new()),
        Err(error) => return Err(fault(&format!("read the leases of network {id}"), &error)),
    };
    let lease = |raw: ffi::RawLease| {
        let expires_at = match raw.expires {
            0 => Time::MAX_UTC,
            seconds => DateTime::from_timestamp(seconds, 0)?,
        };
        Some(Lease { mac: raw.mac, address: raw.address, expires_at })
    };
    Ok(leases.into_iter().filter_map(lease).collect())
}

impl Libvirt {
    pub(super) fn make_network(&self, conn: &Connect, spec: &NetworkSpec) -> Result<(), Fault> {
        let name = names::network(self.target.cloud, spec.id);
        if !spec.gateway.is_ipv4() || !spec.cidr.addr().is_ipv4() {
            return Err(Fault::permanent(format!(
                "make network {name}: only IPv4 networks are supported"
            )));
        }
        if let Some(network) = lookup(conn, spec.id)? {
            return self.adjust(&network, spec);
        }
        let lost = if spec.known { Guest::all(conn, &name)? } else { Vec::new() };
        // libvirt moves a guest to another bridge, and not to a new one of the same name.
        let had =
            |other: &u8| lost.iter().any(|lost| lost.bridge == names::bridge(spec.id, *other));
        let mut other = (0..names::BRIDGES).find(|other| !had(other)).unwrap_or(0);
        let (failed, bridge) = loop {
            let bridge = names::bridge(spec.id, other);
            let xml = xml::network::network(self.target.cloud, spec, bridge.clone())?;
            let Err(error) = conn.create_network_xml(&xml) else {
                // Who cannot be put back is found by the next sweep.
                put_back(&lost).unwrap_or_else(|fault| tracing::warn!(%fault, "cut off"));
                return Ok(());
            };
            let failed = fault(&format!("make network {name}"), &error);
            if failed.kind == FaultKind::Unreachable {
                return Err(failed);
            }
            // Two makers of the same network may have met.
            if let Some(network) = lookup(conn, spec.id)? {
                return self.adjust(&network, spec);
            }
            if let Some(left) = left_over(error.message(), spec.id) {
                tracing::warn!(%name, %bridge, left, "left by a libvirtd that was killed");
                other += 1;
                if other < names::BRIDGES {
                    continue;
                }
            }
            break (failed, bridge);
        };
        if present("find a network", conn.lookup_network_by_name(&name))?.is_some() {
            return Err(Fault::conflict(format!(
                "{}: a network of that name but another UUID is in the way",
                failed.message
            )));
        }
        if other == names::BRIDGES {
            return Err(Fault::conflict(format!(
                "{}: a libvirtd that was killed left it; on the host, `ip link delete {bridge}` and `pkill -f {name}.conf` \
                 remove what it left, or a reboot",
                failed.message.trim_end()
            )));
        }
        Err(failed)
    }

    /// The DHCP hosts of a network that is there are made the wanted ones; a host that changed is removed and added.
    fn adjust(&self, network: &Network, spec: &NetworkSpec) -> Result<(), Fault> {
        let what = format!("update network {}", spec.id);
        let text = network.xml_desc(0).map_err(during(what.as_str()))?;
        let seen = xml::network::read(&text)?;
        if names::network_id(self.target.cloud, &seen.name) != Some(spec.id) {
            return Err(Fault::conflict(format!(
                "{what}: the network {} holds this UUID and is not ours",
                seen.name
            )));
        }
        if !seen.subnets.contains(&spec.cidr.trunc()) {
            return Err(Fault::conflict(format!(
                "{what}: it is there with the subnets {:?} and not with {}",
                seen.subnets, spec.cidr
            )));
        }
        if !network.is_active().map_err(during(what.as_str()))? {
            network.create().map_err(during(format!("start network {}", seen.name)))?;
        }
        let mut flags = sys::VIR_NETWORK_UPDATE_AFFECT_LIVE;
        if network.is_persistent().map_err(during(what.as_str()))? {
            flags |= sys::VIR_NETWORK_UPDATE_AFFECT_CONFIG;
        }
        let update = |command, host: &DhcpHost| {
            let section = sys::VIR_NETWORK_SECTION_IP_DHCP_HOST;
            // The parent: the first <ip>, the only one.
            network
                .update(command, section, 0, &xml::network::host(host)?, flags)
                .map_err(during(what.as_str()))
        };
        let (removed, added) = changes(spec, &seen.hosts);
        // First all removals: libvirt refuses a host that shares its MAC or address with another.
        for host in removed {
            update(sys::VIR_NETWORK_UPDATE_COMMAND_DELETE, host)?;
        }
        for host in added {
            update(sys::VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, host)?;
        }
        Ok(())
    }

    pub(super) fn remove_network(&self, conn: &Connect, id: NetworkId) -> Result<(), Fault> {
        let what = format!("delete network {id}");
        let Some(network) = lookup(conn, id)? else { return self.remove_bridges(conn, id) };
        let Some(seen) = see(&network, self.target.cloud)? else { return Ok(()) };
        if seen.ours != Some(id) {
            // Somebody else's network with our UUID: ours is gone.
            return Ok(());
        }
        let persistent = present(&what, network.is_persistent())?.unwrap_or(false);
        if seen.active {
            match network.destroy() {
                Err(error) if !is_absent(&error) && !is(&error, Code::OperationInvalid) => {
                    return Err(fault(&what, &error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        if persistent {
            present(&what, network.undefine())?;
        }
        Ok(())
    }

    /// A libvirtd that is killed while it makes or destroys a network leaves the bridge, and knows nothing of it when it is
    /// back. Making one of its name takes it away: with this one where there is none, and where there is one, libvirt deletes
    /// that bridge as what is left of its own failure (so does 11.3).
    fn remove_bridges(&self, conn: &Connect, id: NetworkId) -> Result<(), Fault> {
        for bridge in (0..names::BRIDGES).map(|other| names::bridge(id, other)) {
            let what = format!("delete bridge {bridge}");
            let xml = xml::network::bare(self.target.cloud, id, bridge)?;
            match conn.create_network_xml(&xml) {
                Ok(network) => match network.destroy() {
                    Err(error) if !is_absent(&error) && !is(&error, Code::OperationInvalid) => {
                        return Err(fault(&what, &error));
                    }
                    Ok(()) | Err(_) => {}
                },
                Err(error) => {
                    let failed = fault(&what, &error);
                    if failed.kind == FaultKind::Unreachable {
                        return Err(failed);
                    }
                    tracing::warn!(fault = %failed, "left by a libvirtd that was killed");
                }
            }
        }
        Ok(())
    }
}

/// What of network `id` a libvirtd that was killed at work left on the host, by the error of who would make it: they have no
/// codes of their own. A bridge is deleted by libvirt 11.3 when it fails so; what dnsmasq holds comes and goes with a bridge
/// of that name, and no call of libvirt's ends a dnsmasq that it does not know.
fn left_over(message: &str, id: NetworkId) -> Option<&'static str> {
    let ours = message.contains(&names::bridge(id, 0));
    if ours && (message.contains("File exists") || message.contains("in use by interface")) {
        Some("a bridge")
    } else if message.contains("dnsmasq") && message.contains("Address already in use") {
        Some("a dnsmasq")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::domain::port;

    #[test]
    fn what_a_killed_libvirtd_left_is_told_from_what_others_have() {
        let id = NetworkId(Uuid::from_u128(0xcece_daed_54dc_9c00));
        let bridge = names::bridge(id, 0);
        let left = |message: &str| left_over(&message.replace("BRIDGE", &bridge), id);
        let exists = "error creating bridge interface BRIDGE: File exists";
        assert_eq!(left(exists), Some("a bridge"));
        assert_eq!(left("Network is already in use by interface BRIDGE1"), Some("a bridge"));
        assert_eq!(left("Network is already in use by interface eth0"), None);
        let dnsmasq = "Child process (VIR_BRIDGE_NAME=BRIDGE /usr/sbin/dnsmasq) unexpected exit status 2: \ndnsmasq: failed \
                       to create listening socket for 10.99.146.1: Address already in use\n";
        assert_eq!(left(dnsmasq), Some("a dnsmasq"));
    }

    fn derived(last: u8) -> DhcpHost {
        let address = Ipv4Addr::new(10, 0, 0, last);
        DhcpHost { mac: port::mac(address), address: address.into() }
    }

    fn own(last: u8) -> DhcpHost {
        DhcpHost { mac: format!("52:54:00:00:00:{last:02x}"), ..derived(last) }
    }

    #[test]
    fn what_stands_never_meets_what_has_to_stay() {
        let spec = |hosts: &[DhcpHost], standing: &[DhcpHost], keep_others| NetworkSpec {
            id: NetworkId(Uuid::nil()),
            cidr: "10.0.0.0/24".parse().unwrap(),
            gateway: "10.0.0.1".parse().unwrap(),
            dns: Vec::new(),
            hosts: hosts.to_vec(),
            standing: standing.to_vec(),
            keep_others,
            known: false,
        };
        let (a, b) = (derived(2), derived(3));
        let none: [&DhcpHost; 0] = [];
        // A port with a MAC address of its own takes the place of what stands, and leaves it.
        let there = [a.clone(), b.clone()];
        for keep in [false, true] {
            let spec = spec(&[own(2)], std::slice::from_ref(&b), keep);
            assert_eq!(changes(&spec, &there), (vec![&a], vec![&own(2)]), "{keep}");
        }
        let there = [own(2), b.clone()];
        let gone = spec(&[], &[a.clone(), b.clone()], false);
        assert_eq!(changes(&gone, &there), (vec![&own(2)], vec![&a]));
        // While all has to stay, nothing is made in its way.
        let held = spec(&[], &[a.clone(), b.clone()], true);
        assert_eq!(changes(&held, &there), (none.to_vec(), none.to_vec()));
        // A network that was made without keeps to what is needed.
        let old = spec(&[own(4)], &[a.clone(), b.clone()], false);
        assert_eq!(changes(&old, &[own(5)]), (vec![&own(5)], vec![&own(4)]));
    }
}
