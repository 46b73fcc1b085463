//! Ports: one interface's MAC address and IP address on a network.

use std::net::{IpAddr, Ipv4Addr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Error, Result};
use super::id::{InstanceId, NetworkId, PortId, TenantId};
use super::text::Name;

/// One interface on a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow, ToSchema)]
pub struct Port {
    pub id: PortId,
    pub tenant_id: TenantId,
    pub network_id: NetworkId,
    /// The instance that has it; null: it is free to be given to one.
    pub instance_id: Option<InstanceId>,
    /// Its place among the instance's interfaces: 0 becomes `eth0`.
    #[schema(minimum = 0, maximum = 100, example = 0)]
    pub position: i32,
    /// Empty if it was given none.
    #[schema(max_length = 63, example = "db-vip")]
    pub name: String,
    #[schema(min_length = 17, max_length = 17, example = "52:54:0a:40:07:05")]
    pub mac: String,
    #[schema(value_type = String, max_length = 15, example = "10.64.7.2")]
    pub address: IpAddr,
    /// Whether it was made with its instance, and goes with it.
    pub owned: bool,
    pub created_at: DateTime<Utc>,
    /// Counts changes; also the ETag.
    #[schema(minimum = 1, example = 1)]
    pub revision: i64,
}

/// What a new free-standing port is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPort {
    pub network_id: NetworkId,
    /// 1 to 63 letters, digits, '.', '_', '-' or spaces.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 63, example = "db-vip")]
    pub name: Option<String>,
    /// A locally administered unicast address that no other port of the network has; one is chosen if it is not given.
    #[serde(default)]
    #[schema(min_length = 17, max_length = 17, example = "52:54:00:6b:3c:58")]
    pub mac: Option<String>,
    /// An address of the network's range that no other port has; one is chosen if it is not given.
    #[serde(default)]
    #[schema(max_length = 15, example = "10.64.7.2")]
    pub address: Option<String>,
}

/// A new port, checked as far as it can be without its network.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub name: Option<Name>,
    pub mac: Option<String>,
    pub address: Option<IpAddr>,
}

impl NewPort {
    pub fn check(&self) -> Result<Plan> {
        let name = self.name.as_ref().map(|name| Name::parse("/name", name)).transpose();
        let mac = self.mac.as_ref().map(|mac| parse_mac("/mac", mac)).transpose();
        let address = self.address.as_ref().map(|text| {
            text.parse::<IpAddr>().map_err(|_not_an_address: std::net::AddrParseError| {
                Error::field("/address", "must be an IPv4 address such as 10.1.2.3")
            })
        });
        let address = address.transpose();
        let mut faults = Vec::new();
        for error in [name.as_ref().err(), mac.as_ref().err(), address.as_ref().err()] {
            if let Some(Error::Invalid(more)) = error {
                faults.extend(more.iter().cloned());
            }
        }
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
        Ok(Plan { name: name?, mac: mac?, address: address? })
    }
}

/// A MAC address that a guest may have, in lower case.
pub fn parse_mac(pointer: &str, text: &str) -> Result<String> {
    let octets: Option<Vec<u8>> = text
        .split(':')
        .map(|octet| {
            let hex = octet.len() == 2 && octet.chars().all(|c| c.is_ascii_hexdigit());
            u8::from_str_radix(octet, 16).ok().filter(|_| hex)
        })
        .collect();
    let Some([first, _, _, _, _, _]) = octets.as_deref() else {
        return Err(Error::field(pointer, "must be six octets such as 52:54:00:6b:3c:58"));
    };
    // libvirt keeps fe:… for the host's end of the cable.
    if first & 0b11 != 0b10 || *first == 0xfe {
        let detail = "must be locally administered and unicast, and not begin with fe: take 52:54:00 and three octets of your own";
        return Err(Error::field(pointer, detail));
    }
    if matches!(octets.as_deref(), Some([0x52, 0x54, third, ..]) if *third != 0) {
        let detail = "must not begin with 52:54:01 to 52:54:ff, which are made of IP addresses: take 52:54:00 and three octets of your own, or leave it out";
        return Err(Error::field(pointer, detail));
    }
    Ok(text.to_ascii_lowercase())
}

/// The MAC address of a port that asks for none: 52:54 (locally administered, unicast) and the octets of its IPv4 address,
/// which no other port of the cloud has, as its networks do not overlap. A DHCP server can so know all pairs of a network
/// before there are guests, and one that remembers an old lease of an address remembers it for the same MAC address.
pub fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_local_and_unicast_and_written_one_way() {
        assert_eq!(parse_mac("", "52:54:00:AB:cd:0e").expect("mac"), "52:54:00:ab:cd:0e");
        assert_eq!(parse_mac("", "52:54:00:01:02:03").expect("mac"), "52:54:00:01:02:03");
        assert_eq!(mac(Ipv4Addr::new(10, 64, 7, 255)), "52:54:0a:40:07:ff");
        let bad = [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0e:0f",
            "52-54-00-ab-cd-0e",
            "52:54:00:ab:cd:+e",
            "52:54:00:ab:cd:00e",
            "00:16:3e:00:00:01",
            "53:54:00:00:00:01",
            "fe:54:00:00:00:01",
            "ff:ff:ff:ff:ff:ff",
        ];
        for text in bad {
            let error = parse_mac("/mac", text).expect_err(text).to_string();
            assert!(error.starts_with("/mac: must "), "{text}: {error}");
        }
    }
}
