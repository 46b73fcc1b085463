//! Network XML: a NAT network whose DHCP serves exactly the hosts that it lists.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use uuid::Uuid;

use super::{child, child_text, parse, write};
use crate::domain::id::NetworkId;
use crate::hypervisor::{DhcpHost, Fault, NetworkSpec, names};

/// Seconds that a lease lasts: the least that dnsmasq takes.
pub const LEASE_SECONDS: i64 = 120;
const DNSMASQ: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

/// The whole network, on the bridge of this name.
pub fn network(cloud: Uuid, spec: &NetworkSpec, bridge: String) -> Result<String, Fault> {
    let hosts: Vec<_> = spec.hosts.iter().chain(&spec.standing).map(Host::from).collect();
    let dns: Vec<_> = spec.dns.iter().map(IpAddr::to_string).collect();
    write(
        "network",
        &Network {
            dnsmasq: DNSMASQ,
            name: names::network(cloud, spec.id),
            uuid: spec.id.0,
            forward: Forward { mode: "nat" },
            bridge: Bridge { name: bridge, stp: "off", delay: 0 },
            ip: Some(Ip {
                address: spec.gateway,
                prefix: spec.cidr.prefix_len(),
                // Hosts without a range: dnsmasq serves these and nobody else.
                dhcp: (!hosts.is_empty()).then_some(Dhcp { host: hosts }),
            }),
            options: (!dns.is_empty()).then(|| Options {
                option: OptionValue {
                    value: format!("dhcp-option=option:dns-server,{}", dns.join(",")),
                },
            }),
        },
    )
}

/// Nothing but the bridge: no address, no DHCP, no firewall rules.
pub fn bare(cloud: Uuid, id: NetworkId, bridge: String) -> Result<String, Fault> {
    write(
        "network",
        &Network {
            dnsmasq: DNSMASQ,
            name: names::network(cloud, id),
            uuid: id.0,
            forward: Forward { mode: "open" },
            bridge: Bridge { name: bridge, stp: "off", delay: 0 },
            ip: None,
            options: None,
        },
    )
}

/// One DHCP host, for an update of a running network.
pub fn host(host: &DhcpHost) -> Result<String, Fault> {
    write("host", &Host::from(host))
}

/// What a network's XML tells.
#[derive(Debug)]
pub struct Seen {
    pub uuid: Uuid,
    pub name: String,
    /// Empty where it has none.
    pub bridge: String,
    pub subnets: Vec<IpNet>,
    pub hosts: Vec<DhcpHost>,
}

pub fn read(text: &str) -> Result<Seen, Fault> {
    let document = parse(text)?;
    let root = document.root_element();
    let uuid = child_text(root, "uuid")
        .and_then(|u| u.parse().ok())
        .ok_or_else(|| Fault::permanent("read libvirt's network: it has no UUID"))?;
    let ips = || root.children().filter(|n| n.has_tag_name("ip"));
    let subnets = ips().filter_map(subnet).collect();
    let hosts = ips()
        .filter_map(|ip| child(ip, "dhcp"))
        .flat_map(|dhcp| dhcp.children().filter(|n| n.has_tag_name("host")))
        .filter_map(|host| {
            Some(DhcpHost {
                mac: host.attribute("mac")?.to_ascii_lowercase(),
                address: host.attribute("ip")?.parse().ok()?,
            })
        })
        .collect();
    let name = child_text(root, "name").unwrap_or_default().to_owned();
    let bridge = child(root, "bridge").and_then(|bridge| bridge.attribute("name"));
    Ok(Seen { uuid, name, bridge: bridge.unwrap_or_default().to_owned(), subnets, hosts })
}

/// libvirt gives the length as `prefix` or as `netmask`, whichever was defined.
fn subnet(ip: roxmltree::Node<'_, '_>) -> Option<IpNet> {
    let address: IpAddr = ip.attribute("address")?.parse().ok()?;
    let net = match (ip.attribute("prefix"), ip.attribute("netmask")) {
        (Some(prefix), _) => IpNet::new(address, prefix.parse().ok()?).ok()?,
        (None, Some(mask)) => IpNet::with_netmask(address, mask.parse().ok()?).ok()?,
        (None, None) => IpNet::from(address),
    };
    Some(net.trunc())
}

#[derive(Serialize)]
struct Network {
    #[serde(rename = "@xmlns:dnsmasq")]
    dnsmasq: &'static str,
    name: String,
    uuid: Uuid,
    forward: Forward,
    bridge: Bridge,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<Ip>,
    #[serde(rename = "dnsmasq:options", skip_serializing_if = "Option::is_none")]
    options: Option<Options>,
}

#[derive(Serialize)]
struct Forward {
    #[serde(rename = "@mode")]
    mode: &'static str,
}

#[derive(Serialize)]
struct Bridge {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "@stp")]
    stp: &'static str,
    #[serde(rename = "@delay")]
    delay: u32,
}

#[derive(Serialize)]
struct Ip {
    #[serde(rename = "@address")]
    address: IpAddr,
    #[serde(rename = "@prefix")]
    prefix: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    dhcp: Option<Dhcp>,
}

#[derive(Serialize)]
struct Dhcp {
    host: Vec<Host>,
}

#[derive(Serialize)]
struct Host {
    #[serde(rename = "@mac")]
    mac: String,
    #[serde(rename = "@ip")]
    ip: IpAddr,
    lease: Lease,
}

impl From<&DhcpHost> for Host {
    fn from(host: &DhcpHost) -> Self {
        Self {
            mac: host.mac.clone(),
            ip: host.address,
            lease: Lease { expiry: LEASE_SECONDS, unit: "seconds" },
        }
    }
}

#[derive(Serialize)]
struct Lease {
    #[serde(rename = "@expiry")]
    expiry: i64,
    #[serde(rename = "@unit")]
    unit: &'static str,
}

#[derive(Serialize)]
struct Options {
    #[serde(rename = "dnsmasq:option")]
    option: OptionValue,
}

#[derive(Serialize)]
struct OptionValue {
    #[serde(rename = "@value")]
    value: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> DhcpHost {
        DhcpHost {
            mac: format!("52:54:00:00:00:{last:02x}"),
            address: IpAddr::from([10, 0, 0, last]),
        }
    }

    #[test]
    fn a_network_is_read_as_it_was_written() {
        let spec = NetworkSpec {
            id: NetworkId(Uuid::now_v7()),
            cidr: "10.0.0.0/24".parse().unwrap(),
            gateway: "10.0.0.1".parse().unwrap(),
            dns: vec!["9.9.9.9".parse().unwrap()],
            keep_others: false,
            known: false,
            hosts: vec![at(3), at(2)],
            standing: vec![at(4)],
        };
        let seen = read(&network(Uuid::nil(), &spec, "pl0".to_owned()).unwrap()).unwrap();
        assert_eq!(seen.uuid, spec.id.0);
        assert_eq!(seen.bridge, "pl0");
        assert_eq!(seen.subnets, vec![spec.cidr]);
        assert_eq!(seen.hosts, [at(3), at(2), at(4)]);
    }

    #[test]
    fn a_netmask_is_as_good_as_a_prefix() {
        let uuid = Uuid::now_v7();
        let text = format!(
            "<network><uuid>{uuid}</uuid><ip address='192.168.122.1' netmask='255.255.255.0'/></network>"
        );
        assert_eq!(read(&text).unwrap().subnets, vec!["192.168.122.0/24".parse().unwrap()]);
    }
}
