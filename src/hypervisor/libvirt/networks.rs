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
    let xml::network::Seen { uuid, name, subnets, hosts: _ } = xml::network::read(&text)?;
    let ours = names::network_id(cloud, &name).filter(|id| id.0 == uuid);
    Ok(Some(NetworkSeen { uuid, name, active, subnets, ours }))
}

fn lookup(conn: &Connect, id: NetworkId) -> Result<Option<Network>, Fault> {
    present(&format!("find network {id}"), conn.lookup_network_by_uuid(id.0))
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
        let xml = xml::network::network(self.target.cloud, spec)?;
        let Err(error) = conn.create_network_xml(&xml) else { return Ok(()) };
        let failed = fault(&format!("make network {name}"), &error);
        if failed.kind == FaultKind::Unreachable {
            return Err(failed);
        }
        // Two makers of the same network may have met.
        if let Some(network) = lookup(conn, spec.id)? {
            return self.adjust(&network, spec);
        }
        match present("find a network", conn.lookup_network_by_name(&name))? {
            Some(_) => Err(Fault::conflict(format!(
                "{}: a network of that name but another UUID is in the way",
                failed.message
            ))),
            None => Err(failed),
        }
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
        let [wanted, there] = [&spec.hosts, &seen.hosts].map(|h| h.iter().collect::<HashSet<_>>());
        // First all removals: libvirt refuses a host that shares its MAC or address with another.
        for host in there.difference(&wanted).filter(|_| !spec.keep_others) {
            update(sys::VIR_NETWORK_UPDATE_COMMAND_DELETE, host)?;
        }
        for host in wanted.difference(&there) {
            update(sys::VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, host)?;
        }
        Ok(())
    }

    pub(super) fn remove_network(&self, conn: &Connect, id: NetworkId) -> Result<(), Fault> {
        let what = format!("delete network {id}");
        let Some(network) = lookup(conn, id)? else { return Ok(()) };
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
}
