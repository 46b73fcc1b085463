//! Guests' interfaces and the networks that they hang on. A network that was destroyed while guests ran is made on another bridge,
//! and they are moved there: libvirt moves no guest to a new bridge of the same name.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

use super::domains::{present, waits};
use super::fault::{during, fault, is_absent};
use super::networks::lookup;
use crate::domain::id::NetworkId;
use crate::hypervisor::{Fault, FaultKind, names, xml};

/// Networks of ours that have a guest on another bridge than theirs.
pub fn cut_off(conn: &Connect, cloud: Uuid) -> Result<Vec<NetworkId>, Fault> {
    let networks = conn.list_all_networks(sys::VIR_CONNECT_LIST_NETWORKS_ACTIVE);
    let mut bridges = HashMap::new();
    for network in networks.map_err(during("list the host's networks"))? {
        let Some(text) = present("read a network", network.xml_desc(0))? else { continue };
        let xml::network::Seen { uuid, name, bridge, .. } = xml::network::read(&text)?;
        if let Some(id) = names::network_id(cloud, &name).filter(|id| id.0 == uuid) {
            bridges.insert(name, (id, bridge));
        }
    }
    let mut cut_off = BTreeSet::new();
    for (_, text) in running(conn)? {
        for interface in xml::domain::interfaces(&text)? {
            let network = bridges.get(&interface.network);
            cut_off.extend(network.filter(|(_, has)| *has != interface.bridge).map(|(id, _)| *id));
        }
    }
    Ok(cut_off.into_iter().collect())
}

/// Puts guests of the network that hang on another bridge on its own.
pub fn rejoin(conn: &Connect, id: NetworkId) -> Result<(), Fault> {
    let Some(network) = lookup(conn, id)? else { return Ok(()) };
    let Some(text) = present("read a network", network.xml_desc(0))? else { return Ok(()) };
    let xml::network::Seen { name, bridge, .. } = xml::network::read(&text)?;
    let mut guests = Guest::all(conn, &name)?;
    guests.retain(|guest| guest.bridge != bridge);
    put_back(&guests)
}

/// Those whose hypervisor owes libvirt an answer are left out: their XML would be waited for as long.
fn running(conn: &Connect) -> Result<Vec<(Domain, String)>, Fault> {
    let active = conn.list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE);
    let mut domains = Vec::new();
    for domain in active.map_err(during("list the host's domains"))? {
        if waits(&domain)?.is_some() {
            continue;
        }
        if let Some(text) = present("read a domain", domain.xml_desc(0))? {
            domains.push((domain, text));
        }
    }
    Ok(domains)
}

/// An interface of a running guest.
pub struct Guest {
    domain: Domain,
    /// Its XML, as it is.
    interface: String,
    /// What it hangs on.
    pub bridge: String,
}

impl Guest {
    /// All that are on the libvirt network of this name, wherever that is by now.
    pub fn all(conn: &Connect, network: &str) -> Result<Vec<Self>, Fault> {
        let mut guests = Vec::new();
        for (domain, text) in running(conn)? {
            let interfaces = xml::domain::interfaces(&text)?.into_iter();
            guests.extend(interfaces.filter(|interface| interface.network == network).map(
                |interface| Self {
                    domain: domain.clone(),
                    interface: interface.xml,
                    bridge: interface.bridge,
                },
            ));
        }
        Ok(guests)
    }
}

/// On their networks, on whatever bridge these are by now. One that cannot be put there keeps no other from it.
pub fn put_back(guests: &[Guest]) -> Result<(), Fault> {
    let mut outcome = Ok(());
    for Guest { domain, interface, bridge } in guests {
        match domain.update_device_flags(interface, sys::VIR_DOMAIN_AFFECT_LIVE) {
            Ok(()) => tracing::warn!(bridge, "a guest was put on its network again"),
            Err(error) if is_absent(&error) => {}
            Err(error) => {
                let name = domain.name().unwrap_or_default();
                let what = format!(
                    "put {name}, whose network was made anew, on it again (a reboot with \"hard\": true does it)"
                );
                let FaultKind::Unreachable = fault(&what, &error).kind else {
                    outcome = Err(Fault::transient(fault(&what, &error).message));
                    continue;
                };
                return Err(fault(&what, &error));
            }
        }
    }
    outcome
}
